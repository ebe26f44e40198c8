"""What came of the runs: tables, and which goals are met."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from bench.order_runs import BATCH_RATE, GOAL_RATE, LEGS, Row
from bench.services import TITLES, Name

PEER: Name = "fastapi"
OURS: tuple[Name, ...] = ("ours-postgresql", "ours-sqlite")


class Goal(NamedTuple):
    """What a ratio to the peer should be."""

    text: str
    system: Name
    sign: Literal["≤", "≥"]
    bound: float
    ratios: list[float]
    """Of each round."""

    @property
    def ratio(self) -> float:
        """The median of all rounds."""
        return statistics.median(self.ratios) if self.ratios else math.nan

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.ratio <= self.bound if self.sign == "≤" else self.ratio >= self.bound

    def line(self) -> str:
        """A line of the table."""
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}" if self.ratios else "none"
        return (
            f"| {self.text} | {TITLES[self.system]} | {self.sign} {self.bound} | {self.ratio:.2f} "
            f"| {spread} | {len(self.ratios)} | {'met' if self.met else '**missed**'} |"
        )


class Found:
    """What came out, by system and round."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def value(self, system: Name, rate: float, stage: str, percentile: str) -> float | None:
        """The median of all rounds, in milliseconds."""
        found = self._by_round(system, "orders", rate, stage, percentile)
        return statistics.median(found.values()) if found else None

    def saturation(self, system: Name) -> dict[int, float]:
        """By round: the most orders a second that came to the broker."""
        most: dict[int, float] = {}
        for row in self.rows:
            if row.system == system and row.kind == "climb":
                most[row.round] = max(most.get(row.round, 0.0), row.delivered)
        return most

    def batch(self, system: Name, percentile: str = "p50") -> dict[int, float]:
        """By round: milliseconds of a batch."""
        return self._by_round(system, "batch", BATCH_RATE, "answered", percentile)

    def goals(self, *, saturation: bool = True) -> Iterator[Goal]:
        """All goals, for both stores. `saturation`: whether that was to be measured.

        What was to be measured and was not is a goal that is missed.
        """
        for system in OURS:
            for stage, percentile, bound in (
                ("broker", "p50", 0.75),
                ("broker", "p99", 0.85),
                ("answered", "p50", 0.95),
            ):
                ours, theirs = (
                    self._by_round(name, "orders", GOAL_RATE, stage, percentile)
                    for name in (system, PEER)
                )
                text = f"sent to {stage}, {percentile} at {GOAL_RATE:g}/s"
                yield Goal(text, system, "≤", bound, _ratios(ours, theirs))
            if saturation:
                ratios = _ratios(self.saturation(system), self.saturation(PEER))
                yield Goal("orders a second at saturation", system, "≥", 2.5, ratios)
            ratios = _ratios(self.batch(system), self.batch(PEER))
            yield Goal(f"a batch of {LEGS}, p50", system, "≤", 0.8, ratios)

    def _by_round(
        self, system: Name, kind: str, rate: float, stage: str, percentile: str
    ) -> dict[int, float]:
        """Where both modes have a stage, the one whose answer nobody waits for counts."""
        found: dict[int, float] = {}
        for row in self.rows:
            if (row.system, row.kind, row.rate) == (system, kind, rate) and stage in row.stages:
                found.setdefault(row.round, getattr(row.stages[stage], percentile))
        return found


def _ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    return [ours[number] / theirs[number] for number in ours if number in theirs]


def stage_table(found: Found) -> Iterator[str]:
    """Milliseconds of every stage, medians of all rounds."""
    stages = ("durable", "broker", "answered", "stream", "webhook")
    heads = (*stages, "CPU an order", "changes a commit", "machine", "failed")
    yield f"| orders/s | system | {' | '.join(heads)} |"
    yield f"|---|---|{'---|' * len(heads)}"
    runs = sorted({(row.rate, row.system) for row in found.rows if row.kind == "orders"})
    for rate, system in runs:
        rows = [r for r in found.rows if (r.kind, r.rate, r.system) == ("orders", rate, system)]
        cells = []
        for stage in stages:
            p50, p99 = (found.value(system, rate, stage, name) for name in ("p50", "p99"))
            cells.append("–" if p50 is None or p99 is None else f"{p50:.1f} / {p99:.1f}")
        changes = [row.changes_a_commit for row in rows if row.changes_a_commit is not None]
        cells += [
            f"{statistics.median(row.cpu_ms for row in rows):.1f} ms",
            f"{statistics.median(changes):.1f}" if changes else "–",
            f"{statistics.median(row.busy for row in rows):.0%} busy",
            str(sum(row.failed for row in rows)),
        ]
        yield f"| {rate:g} | {TITLES[system]} | {' | '.join(cells)} |"


def other_table(found: Found) -> Iterator[str]:
    """Saturation and batches, medians of all rounds."""
    yield f"| system | orders/s at saturation | a batch of {LEGS}, p50 / p99 |"
    yield "|---|---|---|"
    for system in dict.fromkeys(row.system for row in found.rows if row.kind == "batch"):
        most = found.saturation(system).values()
        shown = f"{statistics.median(most):.0f}" if most else "–"
        p50, p99 = (
            statistics.median(found.batch(system, name).values()) for name in ("p50", "p99")
        )
        yield f"| {TITLES[system]} | {shown} | {p50:.1f} / {p99:.1f} ms |"


def goal_table(goals: Iterable[Goal]) -> Iterator[str]:
    """Every goal, met or missed."""
    yield "| ratio to the FastAPI service | of | goal | median | lowest and highest | rounds | |"
    yield "|---|---|---|---|---|---|---|"
    for goal in goals:
        yield goal.line()
