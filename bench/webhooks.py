"""Webhook deliveries a second, beside the FastAPI service.

One order is as many deliveries as there are subscriptions. Orders come faster than they can be
delivered, and what counts is how soon all the deliveries have come to their receivers. Ours are
rows of an outbox, each sent until it is taken; the peer's are sent once, from memory.
"""

import dataclasses
import statistics
from typing import NamedTuple

from bench import load
from bench.load import Job
from bench.machine import conditions, keep, sentence
from bench.order_runs import rotated
from bench.processes import free_port
from bench.services import TITLES, Name, brokers, serving
from tests.postgres import Server

RECEIVERS = (1, 4, 16)
"""Each with one subscription: we send four at a time to one, and eight to one address."""
DELIVERIES = 960
"""Of each measurement."""
RATE = 100.0
"""Orders a second."""
WARM_ORDERS = 10
ROUNDS = 3
SYSTEMS: tuple[Name, ...] = ("ours-postgresql", "ours-sqlite", "fastapi")
PATIENCE_SECONDS = 10.0
"""Without one more delivery."""


class Row(NamedTuple):
    """One measurement."""

    system: Name
    receivers: int
    round: int
    per_second: float
    came: int
    """Deliveries that arrived, of `DELIVERIES`."""


def measure(name: Name, receivers: int, number: int, server: Server) -> Row:
    """Place the orders, and see the deliveries arrive."""
    with (
        serving(name, server) as running,
        brokers([free_port() for _ in range(receivers)]) as urls,
    ):
        for url in urls:
            running.subscribe("order_placed", receiver=url)
        watch = dataclasses.replace(running, broker=urls[0])  # where all receivers' posts are seen
        warm = Job(url=running.url, path="/orders", rate=RATE, seconds=WARM_ORDERS / RATE, first=1)
        load.offer(warm)
        watch.wait_posts(WARM_ORDERS * receivers, PATIENCE_SECONDS)
        before = len(watch.seen().posts)
        orders = DELIVERIES // receivers
        job = Job(url=running.url, path="/orders", rate=RATE, seconds=orders / RATE, first=1_000)
        result = load.offer(job)
        watch.wait_posts(before + DELIVERIES, PATIENCE_SECONDS)
        posts = sorted(watch.seen().posts[before:])
        seconds = (posts[-1] - result.samples[0].due) / 1e9
        return Row(name, receivers, number, len(posts) / seconds, len(posts))


def main(*, quick: bool = False) -> None:
    """Measure, print and keep."""
    rounds, counts = (1, RECEIVERS[1:2]) if quick else (ROUNDS, RECEIVERS)
    server, rows = Server(), list[Row]()
    try:
        known = conditions(server)
        print(
            f"{sentence(known)}; {DELIVERIES} deliveries, orders at {RATE:g}/s; "
            f"medians of {rounds} rounds\n"
        )
        print(f"| receivers | {' | '.join(TITLES[name] for name in SYSTEMS)} |")
        print(f"|---|{'---|' * len(SYSTEMS)}")
        for receivers in counts:
            found = [
                measure(name, receivers, number, server)
                for number in range(rounds)
                for name in rotated(SYSTEMS, number)
            ]
            rows += found
            cells = []
            for name in SYSTEMS:
                of_it = [row for row in found if row.system == name]
                lost = sum(DELIVERIES - row.came for row in of_it)
                rate = statistics.median(row.per_second for row in of_it)
                cells.append(f"{rate:.0f}/s" + (f", {lost} did not come" if lost else ""))
            print(f"| {receivers} | {' | '.join(cells)} |", flush=True)
    finally:
        server.close()
    keep("webhooks", {"conditions": known, "rows": [row._asdict() for row in rows]})


if __name__ == "__main__":
    main()
