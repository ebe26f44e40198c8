"""What it costs to tell many clients one thing: ours beside what a user would take instead.

`python -m bench.stream` runs for about six minutes. Each server runs as a process of its own, with
as many clients as the case says, and the three take turns, in another order each round. Counted are
the processor time of the server's process and the texts that clients received. What follows is the
whole service: how soon 500 clients know of an update, and how soon it stops (`bench.stream_delay`).
"""

import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from bench import stream_delay
from bench.machine import conditions, keep, sentence
from bench.processes import Child
from bench.stream_clients import Client, Crowd
from bench.stream_servers import PATH

Name = Literal["ours", "websockets", "uvicorn"]
SERVERS: tuple[Name, ...] = ("ours", "websockets", "uvicorn")
ROUNDS, QUICK_ROUNDS = 7, 1
TEXTS_A_TURN = 30_000
"""That all clients together receive: some half of a second, enough to count."""
MOST_MESSAGES = 400
"""In a turn with few clients."""
ALONE_SECONDS = 0.005
"""Between two messages that come alone; a hundred clients take a third of it."""
AIMS: dict[Name, float] = {"websockets": 0.65, "uvicorn": 0.5}
"""Our processor time in parts of theirs, at 100 and 500 clients."""
AIMED_AT = (100, 500)
QUIET_SECONDS = 0.02
"""Before a turn: what was left of the last one is over."""


class Case(NamedTuple):
    """What the servers are asked to do."""

    clients: int
    deflate: bool = False
    """The clients offer compression, as browsers do."""
    alone: bool = False
    """Between two messages there is nothing to do, long enough to fall asleep; else they come one
    right after the other, as when a basket is filled."""

    @property
    def messages(self) -> int:
        """In a turn."""
        return min(MOST_MESSAGES, TEXTS_A_TURN // self.clients)

    @property
    def pause(self) -> float:
        """Seconds between two."""
        return ALONE_SECONDS * max(1.0, self.clients / 100) if self.alone else 0.0


CASES = (
    *(Case(clients) for clients in (1, 100, 500, 1000)),
    *(Case(clients, deflate=True) for clients in (1, 100, 500, 1000)),
    *(Case(clients, alone=True) for clients in (1, 100, 500)),
)
QUICK_CASES = (Case(1), Case(100), Case(500))


class Row(msgspec.Struct, frozen=True):
    """A case's result of one server."""

    server: Name
    clients: int
    deflate: bool
    alone: bool
    cpu_us: float
    """Microseconds of processor time for each text that a client received: the median."""
    rounds: list[float]
    """Of each round."""
    ours_in_its: float
    """Our processor time in parts of its: the median of the rounds' ratios."""
    received: float
    """The part of the texts that came, in the worst round."""
    kilobytes: float
    """Of memory that a connection took."""


class Server(Child):
    """One of the servers."""

    def __init__(self, name: Name) -> None:
        super().__init__("bench.stream_servers", name)

    def turn(self, case: Case, crowd: Crowd) -> tuple[float, float]:
        """Let it send a case's messages: µs a text that was received, and the part that was."""
        crowd.settle(QUIET_SECONDS)
        before = self.processor()
        self.tell(f"{case.messages} {case.pause}")
        wanted = case.messages * case.clients
        received = crowd.receive(wanted)
        return (self.processor() - before) / 1000 / received, received / wanted


def measured(case: Case, rounds: int) -> Iterator[Row]:
    """One case on all the servers."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(Server(name)) for name in SERVERS}
        alone = {name: server.memory() for name, server in servers.items()}
        crowds = {}
        for name, server in servers.items():
            client = partial(Client, server.port, PATH, deflate=case.deflate)
            crowds[name] = Crowd(case.clients, client)
            stack.callback(crowds[name].close)
            server.turn(case, crowds[name])  # not counted: caches fill, code is specialised
        crowded = {name: server.memory() for name, server in servers.items()}
        turns: dict[Name, list[tuple[float, float]]] = {name: [] for name in SERVERS}
        for number in range(rounds):
            for name in random.Random(number).sample(SERVERS, len(SERVERS)):
                turns[name].append(servers[name].turn(case, crowds[name]))
        for name in SERVERS:
            costs = [cost for cost, _ in turns[name]]
            ratios = [ours[0] / cost for ours, cost in zip(turns["ours"], costs, strict=True)]
            yield Row(
                server=name,
                clients=case.clients,
                deflate=case.deflate,
                alone=case.alone,
                cpu_us=statistics.median(costs),
                rounds=costs,
                ours_in_its=statistics.median(ratios),
                received=min(received for _, received in turns[name]),
                kilobytes=(crowded[name] - alone[name]) / case.clients / 1000,
            )


def line(case: Case, rows: list[Row]) -> str:
    """A case as a line of the table."""
    by_name = {row.server: row for row in rows}
    cells = [f"{case.clients:,}", "deflate" if case.deflate else "alone" if case.alone else ""]
    cells += [f"{by_name[name].cpu_us:.1f} µs" for name in SERVERS]
    cells += [verdict(case, by_name[name]) for name in AIMS]
    cells += [f"{by_name[name].kilobytes:.0f}" for name in SERVERS]
    return f"| {' | '.join(cells)} |"


def verdict(case: Case, row: Row) -> str:
    """A ratio, and whether an aim was missed."""
    missed = case.clients in AIMED_AT and row.ours_in_its > AIMS[row.server]
    lost = "" if row.received == 1 else f", {row.received:.0%} received"
    return f"{row.ours_in_its:.2f}{' (missed)' if missed else ''}{lost}"


def main(*, quick: bool = False) -> None:
    """Measure and print."""
    found, rows = conditions(None), list[Row]()
    rounds = QUICK_ROUNDS if quick else ROUNDS
    print(f"{sentence(found)}; medians of {rounds} rounds in alternation\n")
    print(
        "| clients | | ours | broadcast | uvicorn | ours : broadcast | ours : uvicorn "
        "| kB ours | broadcast | uvicorn |"
    )
    print(f"|{'---|' * 10}")
    for case in QUICK_CASES if quick else CASES:
        together = list(measured(case, rounds))
        rows += together
        print(line(case, together), flush=True)
    aims = ", ".join(f"{aim:.2f} of {name}" for name, aim in AIMS.items())
    print(f"\nThe aims at 100 and 500 clients: at most {aims}.\n")
    began = time.monotonic()
    delay = stream_delay.measure(quick=quick)
    print(stream_delay.text(delay))
    print(f"({time.monotonic() - began:.0f} s)")
    keep("stream", {"conditions": found, "rows": rows, "delay": delay})


if __name__ == "__main__":
    main(quick="--quick" in sys.argv[1:])
