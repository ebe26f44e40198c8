"""One order's way, measured: runs of a service at a rate, of batches, and up to saturation."""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from bench import load
from bench.load import Job
from bench.percentiles import Summary, curve, summary
from bench.processes import Busy
from bench.services import TITLES, Name, Running, broker

Mode = Literal["durable", "answered"]
PATHS: dict[Mode, str] = {"durable": "/orders", "answered": "/orders?wait=30"}
"""What a client asks for: an answer when its order is durable, or when it is done."""
BATCHES = "/advanced/batch-orders"

GOAL_RATE = 50.0
"""Orders a second at which the goals are set."""
WARM_RATE, WARM_ORDERS = 100.0, 100
"""Orders a second, and how many, that each new process is given first, singly or in batches:
Python 3.11 makes code quicker once it has run some dozen times, and a run of batches is few more
orders than that."""
WARM_SECONDS = 1.0
"""At the start of each run, and not counted: connections open."""
FIRST_STEP = 100.0
"""Orders a second with which the climb to saturation begins."""
LAST_STEP = 5_000.0
"""Orders a second: the generator itself is late beyond it."""
SATURATED = 0.9
"""A service that hands on less of what is offered than this has had enough."""
LEGS = 5
BATCH_RATE = 2.0
"""Batches a second: few enough that none meets another at either service."""
SETTLE_SECONDS = 10.0
"""How long orders and webhooks that are still to come are waited for, from one to the next."""
CEILING_ORDERS = 5_000


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    rates: tuple[float, ...] = (1.0, 10.0, 50.0, 100.0, 200.0)
    """Orders a second."""
    rounds: int = 3
    """Of everything."""
    goal_rounds: int = 9
    """Of what the goals compare at their own rate, those above among them. For as long as it lives,
    a process is up to a tenth quicker or slower than another of the same code."""
    seconds: float = 4.0
    """Of each run, after it is warm."""
    batch_seconds: float = 12.0
    """Of a run of batches: so few of them come in a second."""
    step_seconds: float = 3.0
    """Of each step of the climb to saturation."""
    step: float = 1.3
    """By how much the climb goes on."""
    random: bool = False
    """Whether single orders come at random, not evenly. Batches never do, so that none meets
    another, nor does the climb, whose end is to depend on its rate alone."""


QUICK = Plan(
    rates=(GOAL_RATE,),
    rounds=1,
    goal_rounds=1,
    seconds=1.5,
    batch_seconds=2.0,
    step_seconds=1.0,
    step=1.8,
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one system."""

    system: Name
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
    busy: float
    """Of the machine's processor time, the part in use meanwhile, by whomever."""
    changes_a_commit: float | None
    curves: dict[str, list[tuple[float, float]]] = {}
    """Percentiles and milliseconds of each stage, at the rate of the goals."""
    round: int = 0

    @property
    def saturated(self) -> bool:
        """Whether more was offered than it can hand on."""
        legs = LEGS if self.kind == "batch" else 1
        return self.delivered < SATURATED * self.rate * legs


class Session:
    """A service under measurement: numbers its orders, and sees what becomes of them."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self._first = 1
        self._tells = running.name != "floor"
        if self._tells:
            running.subscribe("order_placed")

    def warm_up(self, legs: int = 0) -> None:
        """Let code run that has not run before; measures nothing."""
        seconds = WARM_ORDERS / WARM_RATE
        if legs:
            job = self._job(BATCHES, WARM_RATE / legs, seconds, legs=legs)
        else:
            job = self._job(PATHS["answered"], WARM_RATE, seconds)
        if refused := load.offer(job).refused:
            raise AssertionError(refused)
        self.running.wait_seen(job.first, WARM_ORDERS, SETTLE_SECONDS, webhooks=self._tells)

    def orders(self, mode: Mode, rate: float, seconds: float, seed: int | None = None) -> Row:
        """Offer orders at a rate, and follow each to the end."""
        streams = (self.running.stream(),) if self._tells else ()
        warm = max(WARM_SECONDS, 1 / rate)
        job = self._job(PATHS[mode], rate, seconds + warm, streams=streams, seed=seed)
        return self._measure(job, "orders", mode, warm)

    def climb(self, rate: float, seconds: float) -> Row:
        """One step on the way to saturation, with the stream and the webhook attached."""
        streams = (self.running.stream(),) if self._tells else ()
        return self._measure(
            self._job("/orders", rate, seconds, streams=streams), "climb", "durable"
        )

    def batches(self, seconds: float) -> Row:
        """Offer batches."""
        warm = WARM_SECONDS
        job = self._job(BATCHES, BATCH_RATE, seconds + warm, legs=LEGS)
        return self._measure(job, "batch", "answered", warm)

    def _job(  # noqa: PLR0913  # what a job is made of
        self,
        path: str,
        rate: float,
        seconds: float,
        *,
        streams: tuple[str, ...] = (),
        seed: int | None = None,
        legs: int = 0,
    ) -> Job:
        job = Job(
            url=self.running.url,
            path=path,
            rate=rate,
            seconds=seconds,
            first=self._first,
            streams=streams,
            seed=seed,
            legs=legs,
        )
        self._first += (round(rate * seconds) + 1) * max(legs, 1)
        return job

    def _measure(self, job: Job, kind: str, mode: Mode, warm: float = 0.0) -> Row:
        running, orders = self.running, round(job.rate * job.seconds) * max(job.legs, 1)
        cpu, before = running.cpu(), running.metrics()
        machine = Busy()
        result = load.offer(job)
        busy = machine.part()
        running.wait_seen(job.first, orders, SETTLE_SECONDS, webhooks=self._tells)
        used, after = running.cpu() - cpu, running.metrics()
        seen = running.seen()
        zero = result.samples[0].due
        numbers = range(job.first, job.first + orders)
        arrivals = [seen.orders[number] for number in numbers if number in seen.orders]
        in_time = sum(at <= zero + job.seconds * 1e9 for at in arrivals)
        counted = [sample for sample in result.samples if sample.due >= zero + warm * 1e9]
        millis = {
            "late": _millis(counted, {sample.number: sample.sent for sample in counted}),
            mode: _millis(counted, {s.number: s.answered for s in result.samples if s.good}),
            "broker": _millis(counted, seen.orders),
            "stream": _millis(counted, result.streamed),
            "webhook": _millis(counted, seen.webhooks),
        }
        told = ("stream", "webhook") if self._tells and not job.legs else ()
        unheard = max((len(counted) - len(millis[stage]) for stage in told), default=0)
        commits = _difference(before, after, "ticker_commit_changes_count")
        changes = _difference(before, after, "ticker_commit_changes_sum")
        good = sum(sample.good for sample in result.samples)
        return Row(
            system=running.name,
            kind=msgspec.convert(kind, Literal["orders", "climb", "batch"]),
            mode=mode,
            rate=job.rate,
            stages={name: found for name in millis if (found := summary(millis[name]))},
            offered=len(result.samples),
            failed=max(len(result.samples) - good, orders - len(arrivals), unheard),
            refused=result.refused,
            delivered=in_time / job.seconds,
            cpu_ms=1000 * used / orders,
            busy=busy,
            changes_a_commit=changes / commits if commits else None,
            curves={name: curve(found) for name, found in millis.items() if found}
            if kind == "orders" and job.rate == GOAL_RATE
            else {},
        )


def _millis(samples: Iterable[load.Sample], times: dict[int, int]) -> list[float]:
    """How long after it was due a request came to it, of those that did."""
    return [(times[s.number] - s.due) / 1e6 for s in samples if times.get(s.number)]


def _difference(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)


def rotated(names: Sequence[Name], number: int) -> Iterator[Name]:
    """Another one begins in each round."""
    turn = number % len(names)
    yield from (*names[turn:], *names[:turn])


Open = Callable[[Name], AbstractContextManager[Session]]
"""Starts a system for one or two runs."""


def measure(plan: Plan, begin: Open, names: Sequence[Name]) -> list[Row]:
    """All rounds."""
    rows: list[Row] = []
    rounds = max(plan.rounds, plan.goal_rounds)
    for number in range(rounds):
        whole = number < plan.rounds
        print(f"round {number + 1} of {rounds}{'' if whole else ', of the goals'}", flush=True)
        for row in _round(plan, begin, names, number, whole=whole):
            rows.append(msgspec.structs.replace(row, round=number))
            print(progress(row), flush=True)
    return rows


def _round(
    plan: Plan, begin: Open, names: Sequence[Name], number: int, *, whole: bool
) -> Iterator[Row]:
    seed = number if plan.random else None  # the same for all systems
    for rate in plan.rates if whole else (GOAL_RATE,):
        for name in rotated(names, number):
            if name == "floor" and not (whole and rate == GOAL_RATE):
                continue
            with begin(name) as one:
                one.warm_up()
                for mode in PATHS:
                    row = one.orders(mode, rate, plan.seconds, seed)
                    yield row
                    if row.saturated and rate > GOAL_RATE:
                        break  # it has still to do with what it was offered
    for name in rotated([name for name in names if name != "floor"], number):
        with begin(name) as one:
            one.warm_up(LEGS)
            yield one.batches(plan.batch_seconds)
        if whole:
            with begin(name) as one:
                one.warm_up()
                yield from climb(one, plan.step_seconds, plan.step)


def climb(session: Session, seconds: float, step: float) -> Iterator[Row]:
    """Offer more and more, until it is too much."""
    rate = FIRST_STEP
    while rate <= LAST_STEP:
        row = session.climb(round(rate), seconds)
        yield row
        if row.saturated:
            return
        rate *= step


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
        f"{row.delivered:.0f}/s at the broker, {row.cpu_ms:.1f} ms CPU an order, "
        f"machine {row.busy:.0%} busy{trouble}"
    )
