"""The way of an order, in stages, beside a FastAPI service that does the same.

In each round every system is measured once at each rate, in another order each time, as a new
process with a new database and a new broker. Orders leave on schedule. All times are taken outside
of the service: where a client sends and hears, and where the broker and a webhook's receiver
listen. One stream and one webhook are always attached. What counts is the ratio within a round, and
of the rounds the median: no round is dropped.
"""

import math
import socket
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from bench import load
from bench.load import Job
from bench.machine import conditions, keep, sentence
from bench.percentiles import Summary, curve, summary
from bench.services import TITLES, Name, Running, broker, serving, targeting
from tests.postgres import Server

Mode = Literal["durable", "answered"]
PATHS: dict[Mode, str] = {"durable": "/orders", "answered": "/orders?wait=30"}
"""What a client asks for: an answer when its order is durable, or when it is done."""

GOAL_RATE = 50.0
"""Orders a second at which the goals are set."""
WARM_SECONDS = 1.0
"""At the start of each run, and not counted: connections open, code runs for the first time."""
FIRST_STEP, STEP = 100.0, 1.3
"""Orders a second with which the climb to saturation begins, and by how much it goes on."""
LAST_STEP = 5_000.0
"""Orders a second: the generator itself is late beyond it."""
SATURATED = 0.9
"""A service that hands on less of what is offered than this has had enough."""
LEGS = 5
BATCH_RATE = 2.0
"""Batches a second: few enough that none meets another at either service."""
SETTLE_SECONDS = 5.0
"""How long orders and webhooks that are still to come are waited for, from one to the next."""
CEILING_ORDERS = 5_000

PEER: Name = "fastapi"
OURS: tuple[Name, ...] = ("ours-postgresql", "ours-sqlite")


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    rates: tuple[float, ...] = (1.0, 10.0, 50.0, 100.0, 200.0)
    """Orders a second."""
    rounds: int = 5
    seconds: float = 4.0
    """Of each run, after it is warm."""
    step_seconds: float = 3.0
    """Of each step of the climb to saturation."""


QUICK = Plan(rates=(GOAL_RATE,), rounds=1, seconds=2.0, step_seconds=1.5)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one system."""

    system: Name
    round: int
    kind: Literal["orders", "climb", "batch"]
    mode: Mode
    rate: float
    """Offered a second: orders, or batches."""
    stages: dict[str, Summary]
    """Milliseconds from when a request was due: late (it left), durable, broker, answered, stream,
    webhook."""
    offered: int
    failed: int
    """Without a good answer, or never at the broker."""
    refused: str
    """The first answer that is no success."""
    delivered: float
    """Orders a second that came to the broker while they were offered."""
    cpu_ms: float
    """Milliseconds of processor time that the service used for each order."""
    changes_a_commit: float | None
    curves: dict[str, list[tuple[float, float]]] = {}


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
            f"| {spread} | {'met' if self.met else '**missed**'} |"
        )


class Session:
    """A service under measurement: numbers its orders, and sees what becomes of them."""

    def __init__(self, running: Running, number: int) -> None:
        self.running = running
        self._round = number
        self._first = 1
        self._tells = running.name != "floor"
        if self._tells:
            running.subscribe("order_placed")

    def orders(self, mode: Mode, rate: float, seconds: float) -> Row:
        """Offer orders at a rate, and follow each to the end."""
        stream = self.running.stream if self._tells else None
        warm = max(WARM_SECONDS, 1 / rate)
        job = self._job(PATHS[mode], rate, seconds + warm, stream=stream)
        return self._measure(job, "orders", mode, warm)

    def climb(self, rate: float, seconds: float) -> Row:
        """One step on the way to saturation, with the stream and the webhook attached."""
        stream = self.running.stream if self._tells else None
        return self._measure(self._job("/orders", rate, seconds, stream=stream), "climb", "durable")

    def batches(self, seconds: float) -> Row:
        """Offer batches."""
        warm = WARM_SECONDS
        job = self._job("/advanced/batch-orders", BATCH_RATE, seconds + warm, legs=LEGS)
        return self._measure(job, "batch", "answered", warm)

    def _job(
        self, path: str, rate: float, seconds: float, *, stream: str | None = None, legs: int = 0
    ) -> Job:
        job = Job(
            url=self.running.url,
            path=path,
            rate=rate,
            seconds=seconds,
            first=self._first,
            stream=stream,
            legs=legs,
        )
        self._first += (round(rate * seconds) + 1) * max(legs, 1)
        return job

    def _measure(self, job: Job, kind: str, mode: Mode, warm: float = 0.0) -> Row:
        running, orders = self.running, round(job.rate * job.seconds) * max(job.legs, 1)
        cpu, before = running.cpu(), running.metrics()
        result = load.offer(job)
        running.wait_seen(job.first, orders, SETTLE_SECONDS, webhooks=self._tells)
        used, after = running.cpu() - cpu, running.metrics()
        seen = running.seen()
        zero = result.samples[0].due
        counted = [sample for sample in result.samples if sample.due >= zero + warm * 1e9]
        arrivals = [
            seen.orders[n] for n in range(job.first, job.first + orders) if n in seen.orders
        ]
        in_time = sum(at <= zero + job.seconds * 1e9 for at in arrivals)
        waits = {
            "late": [sample.sent - sample.due for sample in counted if sample.sent],
            mode: [s.answered - s.due for s in counted if 200 <= s.status < 300],  # noqa: PLR2004  # the 2xx
            "broker": _waits(counted, seen.orders),
            "stream": _waits(counted, result.streamed),
            "webhook": _waits(counted, seen.webhooks),
        }
        millis = {name: [wait / 1e6 for wait in found] for name, found in waits.items()}
        commits = _difference(before, after, "ticker_commit_changes_count")
        good = sum(200 <= sample.status < 300 for sample in result.samples)  # noqa: PLR2004  # the 2xx
        return Row(
            system=running.name,
            round=self._round,
            kind=msgspec.convert(kind, Literal["orders", "climb", "batch"]),
            mode=mode,
            rate=job.rate,
            stages={name: found for name in millis if (found := summary(millis[name]))},
            offered=len(result.samples),
            failed=max(len(result.samples) - good, orders - len(arrivals)),
            refused=result.refused,
            delivered=in_time / job.seconds,
            cpu_ms=1000 * used / orders,
            changes_a_commit=_difference(before, after, "ticker_commit_changes_sum") / commits
            if commits
            else None,
            curves={name: curve(found) for name, found in millis.items() if found}
            if kind == "orders" and job.rate == GOAL_RATE
            else {},
        )


def _waits(samples: Iterable[load.Sample], times: dict[int, int]) -> list[int]:
    return [times[s.number] - s.due for s in samples if s.number in times]


def _difference(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)


def rotated(names: Sequence[Name], number: int) -> Iterator[Name]:
    """Another one begins in each round."""
    turn = number % len(names)
    yield from (*names[turn:], *names[:turn])


def measure(plan: Plan, open_service: Callable[[Name], object], names: Sequence[Name]) -> list[Row]:
    """All rounds."""
    rows: list[Row] = []

    @contextmanager
    def session(name: Name, number: int) -> Iterator[Session]:
        with open_service(name) as running:  # type: ignore[attr-defined]  # a context manager
            yield Session(running, number)

    def note(row: Row) -> None:
        rows.append(row)
        print(progress(row), flush=True)

    for number in range(plan.rounds):
        print(f"round {number + 1} of {plan.rounds}", flush=True)
        for rate in plan.rates:
            for name in rotated(names, number):
                if name == "floor" and rate != GOAL_RATE:
                    continue
                with session(name, number) as one:
                    for mode in PATHS:
                        note(one.orders(mode, rate, plan.seconds))
        for name in rotated([name for name in names if name != "floor"], number):
            with session(name, number) as one:
                note(one.batches(plan.seconds))
            with session(name, number) as one:
                for row in climb(one, plan.step_seconds):
                    note(row)
    return rows


def climb(session: Session, seconds: float) -> Iterator[Row]:
    """Offer more and more, until it is too much."""
    rate = FIRST_STEP
    while rate <= LAST_STEP:
        row = session.climb(round(rate), seconds)
        yield row
        if row.delivered < SATURATED * row.rate:
            return
        rate *= STEP


def ceiling() -> float:
    """Orders a second that the bare broker takes, one after the other on one connection."""
    with broker() as root:
        address = urlsplit(root)
        body = b"tradingsymbol=INFY&tag=ceiling&price=1500.0&quantity=%d"
        head = b"POST /orders/regular HTTP/1.1\r\nHost: broker\r\nContent-Length: %d\r\n\r\n%s"
        texts = [body % number for number in range(100_000, 100_000 + CEILING_ORDERS)]
        with socket.create_connection((address.hostname or "", address.port or 0)) as line:
            began = time.perf_counter()
            for text in texts:
                line.sendall(head % (len(text), text))
                line.recv(4096)
            return CEILING_ORDERS / (time.perf_counter() - began)


def progress(row: Row) -> str:
    """What is known of one run, while the others are still to come."""
    shown = ", ".join(
        f"{stage} {found.p50:.1f}/{found.p99:.1f}" for stage, found in row.stages.items()
    )
    trouble = f"; {row.failed} failed {row.refused}" if row.failed else ""
    return (
        f"  {TITLES[row.system]}: {row.kind} {row.rate:g}/s {row.mode}: {shown} ms (p50/p99); "
        f"{row.delivered:.0f}/s at the broker, {row.cpu_ms:.1f} ms CPU an order{trouble}"
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

    def goals(self) -> Iterator[Goal]:
        """All goals, for both stores."""
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
    yield f"| orders/s | system | {' | '.join(stages)} | CPU an order | changes a commit | failed |"
    yield f"|---|---|{'---|' * len(stages)}---|---|---|"
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
            str(sum(row.failed for row in rows)),
        ]
        yield f"| {rate:g} | {TITLES[system]} | {' | '.join(cells)} |"


def other_table(found: Found) -> Iterator[str]:
    """Saturation and batches, medians of all rounds."""
    yield f"| system | orders/s at saturation | a batch of {LEGS}, p50 / p99 |"
    yield "|---|---|---|"
    for system in dict.fromkeys(row.system for row in found.rows if row.kind == "climb"):
        most = statistics.median(found.saturation(system).values())
        p50, p99 = (
            statistics.median(found.batch(system, name).values()) for name in ("p50", "p99")
        )
        yield f"| {TITLES[system]} | {most:.0f} | {p50:.1f} / {p99:.1f} ms |"


def goal_table(goals: Iterable[Goal]) -> Iterator[str]:
    """Every goal, met or missed."""
    yield "| ratio to the FastAPI service | of | goal | median | of the rounds | |"
    yield "|---|---|---|---|---|---|"
    for goal in goals:
        yield goal.line()


def main(
    *,
    quick: bool = False,
    rounds: int | None = None,
    target: str | None = None,
    broker_port: int = 8091,
) -> None:
    """Measure, print and keep.

    `target` is the URL of a service that somebody started with `KITE_ROOT_URL` at `broker_port` of
    loopback: it is measured alone.
    """
    plan = QUICK if quick else Plan()
    if rounds is not None:
        plan = msgspec.structs.replace(plan, rounds=rounds)
    server = Server()
    try:
        known, most = conditions(server), ceiling()
        print(f"{sentence(known)}; the broker takes {most:,.0f} orders a second\n", flush=True)
        if target is not None:
            with targeting(target, broker_port) as running:
                rows = measure(plan, lambda _: nullcontext(running), ["target"])
        else:
            names: list[Name] = [*OURS, PEER, "floor"]
            rows = measure(plan, lambda name: serving(name, server), names)
    finally:
        server.close()
    found = Found(rows)
    goals = [] if target is not None else list(found.goals())
    print(
        f"\nMilliseconds from when an order was due, p50 / p99, medians of {plan.rounds} rounds\n"
    )
    print(*stage_table(found), "", *other_table(found), sep="\n")
    if goals:
        print("", *goal_table(goals), sep="\n")
    keep(
        "orders" if target is None else "target",
        {
            "conditions": {**known, "broker orders a second": round(most)},
            "plan": plan,
            "rows": rows,
            "goals": [{**goal._asdict(), "median": goal.ratio, "met": goal.met} for goal in goals],
        },
    )


if __name__ == "__main__":
    main()
