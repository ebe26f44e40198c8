"""Draws what the parts have left in `bench/results/`, for people: `python -m bench plots`."""

import math
import statistics
from collections import defaultdict
from typing import Any

import matplotlib as mpl
import msgspec
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench.machine import RESULTS
from bench.order_report import OURS
from bench.order_runs import GOAL_RATE, Row
from bench.services import TITLES, Name

COLOURS: dict[str, str] = {
    "ours-postgresql": "#1f5fbf",
    "ours-sqlite": "#4caf7a",
    "fastapi": "#d9702b",
    "floor": "#888888",
    "ours": "#1f5fbf",
    "websockets": "#b23a8e",
    "uvicorn": "#d9702b",
}
TICKS = {0.0: "0", 50.0: "50", 90.0: "90", 99.0: "99", 99.9: "99.9"}
"""Percentiles that are named on the axis."""


class Saved(msgspec.Struct):
    """A file of the orders part, as far as it is drawn."""

    conditions: dict[str, Any]
    rows: list[Row]


class Spread(msgspec.Struct):
    """One measurement of the fan-out."""

    server: str
    clients: int
    deflate: bool
    alone: bool
    cpu_us: float


class Stream(msgspec.Struct):
    """A file of the stream part, as far as it is drawn."""

    conditions: dict[str, Any]
    rows: list[Spread]


def main() -> None:
    """Draw what there is."""
    mpl.use("agg")
    if (file := RESULTS / "orders.json").exists():
        orders = msgspec.json.decode(file.read_bytes(), type=Saved)
        percentiles(orders)
        rates(orders)
        commits(orders)
    if (file := RESULTS / "stream.json").exists():
        fan_out(msgspec.json.decode(file.read_bytes(), type=Stream))


def percentiles(saved: Saved) -> None:
    """Latency by percentile at the goals' rate, of every stage."""
    stages = {
        "durable": "until it is durable (202)",
        "broker": "until it is at the broker",
        "answered": "until it is answered (?wait)",
        "stream": "until the stream tells of it",
        "webhook": "until the webhook is there",
    }
    figure, axes = plt.subplots(1, len(stages), figsize=(20, 4.6), sharey=True)
    for axis, (stage, title) in zip(axes, stages.items(), strict=True):
        for system in (*OURS, "fastapi", "floor"):
            points = _middle(saved.rows, system, stage)
            if points:
                axis.plot(*zip(*points, strict=True), color=COLOURS[system], label=TITLES[system])
        axis.set_title(title)
        axis.set_xlabel("percentile")
        axis.set_xticks([_beyond(percent) for percent in TICKS], TICKS.values())
        axis.set_yscale("log")
        axis.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend()
    _save(figure, saved, "latency-by-percentile", f"An order's way at {GOAL_RATE:g} orders/s")


def rates(saved: Saved) -> None:
    """Latency against the offered rate, up to saturation."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.8), sharey=True)
    for axis, name in zip(axes, ("p50", "p99"), strict=True):
        for system in (*OURS, "fastapi"):
            found = defaultdict[float, list[float]](list)
            for row in saved.rows:
                if row.system == system and row.mode == "durable" and "broker" in row.stages:
                    found[row.rate].append(getattr(row.stages["broker"], name))
            points = [(rate, statistics.median(found[rate])) for rate in sorted(found)]
            if points:
                style = {"color": COLOURS[system], "label": TITLES[system], "marker": "o"}
                axis.plot(*zip(*points, strict=True), **style)
        axis.set_title(f"until it is at the broker, {name}")
        axis.set_xlabel("offered orders a second")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend()
    _save(figure, saved, "latency-against-rate", "An order's way, up to saturation")


def commits(saved: Saved) -> None:
    """How many changes a commit takes along, against the load."""
    figure, axis = plt.subplots(figsize=(7, 4.8))
    for system in OURS:
        found = defaultdict[float, list[float]](list)
        for row in saved.rows:
            if row.system == system and row.kind != "batch" and row.changes_a_commit is not None:
                found[row.rate].append(row.changes_a_commit)
        points = [(rate, statistics.median(found[rate])) for rate in sorted(found)]
        if points:
            axis.plot(*zip(*points, strict=True), "o-", color=COLOURS[system], label=TITLES[system])
    axis.set_xlabel("offered orders a second")
    axis.set_ylabel("changes in one transaction, mean")
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.grid(visible=True, alpha=0.3)
    axis.legend()
    _save(figure, saved, "commit-size", "Group commit: who waits goes along")


def fan_out(saved: Stream) -> None:
    """Processor time of telling all subscribers, against their number."""
    figure, axis = plt.subplots(figsize=(7, 4.8))
    kinds = {(False, False): ("", "o-"), (True, False): (", deflate offered", "o--")}
    kinds[False, True] = (", messages that come alone", "o:")
    for server in dict.fromkeys(row.server for row in saved.rows):
        for (deflate, alone), (words, style) in kinds.items():
            points = sorted(
                (row.clients, row.cpu_us)
                for row in saved.rows
                if (row.server, row.deflate, row.alone) == (server, deflate, alone)
            )
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    style,
                    color=COLOURS.get(server),
                    label=f"{server}{words}",
                )
    axis.set_xlabel("subscribers")
    axis.set_ylabel("µs of processor time for each text received")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize=7)
    _save(figure, saved, "fan-out", "Telling every subscriber")


def _middle(rows: list[Row], system: Name | str, stage: str) -> list[tuple[float, float]]:
    """A stage's curve: at each percentile the median of all rounds."""
    found = defaultdict[float, list[float]](list)
    for row in rows:
        # "broker" and what follows is taken where nobody waits for the answer.
        if row.system == system and row.mode == ("answered" if stage == "answered" else "durable"):
            for percent, millis in row.curves.get(stage, ()):
                found[percent].append(millis)
    return [(_beyond(percent), statistics.median(found[percent])) for percent in sorted(found)]


def _beyond(percent: float) -> float:
    """0 at percentile 0, 1 at 90, 2 at 99 and so on: the axis of HDR plots."""
    return -math.log10(1 - percent / 100)


def _save(figure: Figure, saved: Saved | Stream, name: str, title: str) -> None:
    at = saved.conditions
    figure.suptitle(title)
    figure.text(0.01, 0.01, f"commit {at.get('commit')}, {at.get('time')}", size=7, color="#666666")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"drawn: bench/results/{path.name}")
