"""The service under a steady load for a long time: its memory, its loop, its errors.

`python -m bench soak --minutes 30`. Orders leave at a fixed rate, with streams and webhooks, for as
many accounts as Kite would want for so many orders in a day; each is kept to Kite's limits. Beside
it, memory is read every few seconds, and the loop's lag is asked for at `/health` every second: how
late the service's own last probe was.
"""

import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from bench import load
from bench.load import Job
from bench.machine import conditions, keep, sentence
from bench.percentiles import Summary, slope, summary
from bench.processes import memory
from bench.services import TITLES, Name, Running, ask, serving
from tests.postgres import Server

MINUTES = 30.0
RATE = 50.0
"""Orders a second."""
WEBHOOKS = 2
"""Of each account; and a stream."""
ORDERS_EACH = 4_500
"""Orders an account takes in the whole run: Kite allows 5 000 a day."""
LEAST_ACCOUNTS = 8
"""Kite allows 400 orders a minute."""
PIECE_SECONDS = 60.0
"""Of the run: between two of them the streams are opened anew."""
LOOK_SECONDS = 5.0
"""Between two looks at the memory."""
LAG_SECONDS = 1.0
"""Between two questions for the loop's lag."""
SETTLING_MINUTES = 5.0
"""At the start, and not counted in the slope; at most a third of the run."""
SETTLE_SECONDS = 10.0
"""How long the last orders and webhooks are waited for, from one to the next."""

MOST_SLOPE = 1.0
"""Megabytes in ten minutes."""
MOST_LAG = 50.0
"""Milliseconds, at p99."""


class Point(msgspec.Struct, frozen=True):
    """One look at the memory."""

    minutes: float
    megabytes: float
    orders: int
    """Offered by then."""


class Watch(threading.Thread):
    """Looks at a service from beside it, until it is told to stop."""

    def __init__(self, running: Running) -> None:
        super().__init__()
        self.points: list[Point] = []
        self.lags: list[float] = []
        """Milliseconds."""
        self.answers: list[float] = []
        """Milliseconds until `/health` answered."""
        self.trouble: list[str] = []
        self.offered = 0
        self.stop = threading.Event()
        self._running = running
        self._began = time.monotonic()

    def run(self) -> None:
        """Called by the thread."""
        next_look = self._began
        while not self.stop.wait(LAG_SECONDS):
            now = time.monotonic()
            if now >= next_look:
                self._look((now - self._began) / 60)
                next_look += LOOK_SECONDS
            try:
                status, text = ask(self._running.url, "GET", "/health")
            except OSError as error:
                self.trouble.append(f"/health: {error}")
                continue
            self.answers.append(1000 * (time.monotonic() - now))
            health = msgspec.json.decode(text)
            if status == 200:  # noqa: PLR2004  # OK
                self.lags.append(1000 * health["checks"]["event_loop"]["lag_seconds"])
            if health["status"] != "ok":
                self.trouble.append(f"/health: {text.decode()[:300]}")

    def _look(self, minutes: float) -> None:
        self.points.append(Point(minutes, memory(self._running.pid or 0), self.offered))


def rise(points: list[Point], minutes: float) -> float:
    """Megabytes in ten minutes, once the service has settled."""
    settled = min(SETTLING_MINUTES, minutes / 3)
    counted = [point for point in points if point.minutes >= settled]
    if len(counted) < 2:  # noqa: PLR2004  # points of a line
        return math.nan
    times = [point.minutes for point in counted]
    return 10 * slope(times, [point.megabytes for point in counted])


def soak(running: Running, minutes: float, accounts: Sequence[str]) -> dict[str, Any]:
    """Load it, watch it, and judge."""
    for account_id in accounts:
        for _ in range(WEBHOOKS):
            running.subscribe("order_placed", account_id=account_id)
    watch, first, failed, unheard, answers = Watch(running), 1, 0, 0, list[float]()
    said: list[str] = []
    watch.start()
    ends = time.monotonic() + 60 * minutes
    while (left := ends - time.monotonic()) > 1:
        job = Job(
            url=running.url,
            path="/orders",
            rate=RATE,
            seconds=min(PIECE_SECONDS, left),
            first=first,
            accounts=tuple(accounts),
            streams=tuple(running.stream(account_id) for account_id in accounts),
        )
        result = load.offer(job)
        offered = len(result.samples)
        good = [sample for sample in result.samples if sample.good]
        answers += [(sample.answered - sample.due) / 1e6 for sample in good]
        failed += offered - len(good)
        unheard += offered - len(result.streamed)
        said += [result.refused] if result.refused else []
        first += offered
        watch.offered = first - 1
        point = watch.points[-1]
        print(
            f"  {point.minutes:5.1f} min, {watch.offered} orders, {point.megabytes:.0f} MB, "
            f"{failed} failed, {unheard} not on the stream, {len(watch.trouble)} troubles",
            flush=True,
        )
    running.wait_seen(1, first - 1, SETTLE_SECONDS, webhooks=True)
    running.wait_posts((first - 1) * WEBHOOKS, SETTLE_SECONDS)
    watch.stop.set()
    watch.join()
    seen = running.seen()
    errors = {
        "orders not acknowledged": failed,
        "orders not at the broker": first - 1 - len(seen.orders),
        "orders not on the stream": unheard,
        "webhooks that did not come": max(0, (first - 1) * WEBHOOKS - len(seen.posts)),
        "times /health was not ok": len(watch.trouble),
    }
    lag, slope_found = summary(watch.lags), rise(watch.points, minutes)
    return {
        "system": running.name,
        "minutes": minutes,
        "accounts": len(accounts),
        "orders": first - 1,
        "megabytes in ten minutes": slope_found,
        "bytes an order": slope_found * 1e6 / (600 * RATE),
        "loop lag, ms": lag,
        "acknowledged, ms": summary(answers),
        "/health answered, ms": summary(watch.answers),
        "errors": errors,
        "said": (said + watch.trouble)[:20],
        "log": running.log.read_text()[-2_000:] if running.log else "",
        "points": watch.points,
        "verdict": verdict(slope_found, lag, errors),
    }


def verdict(rises: float, lag: Summary | None, errors: dict[str, int]) -> dict[str, bool]:
    """Which goals are met."""
    return {
        f"memory rises by less than {MOST_SLOPE:g} MB in ten minutes": rises < MOST_SLOPE,
        f"loop lag below {MOST_LAG:g} ms at p99": lag is not None and lag.p99 < MOST_LAG,
        "no error": not any(errors.values()),
    }


def main(*, minutes: float = MINUTES, sqlite: bool = False) -> None:
    """Run, print the verdict and keep it all."""
    name: Name = "ours-sqlite" if sqlite else "ours-postgresql"
    number = max(LEAST_ACCOUNTS, math.ceil(60 * minutes * RATE / ORDERS_EACH))
    accounts = [f"account-{place}" for place in range(1, number + 1)]
    server = Server()
    try:
        known = conditions(server)
        print(
            f"{sentence(known)}\n{TITLES[name]}: {RATE:g} orders/s for {minutes:g} minutes, "
            f"{number} accounts, each with a stream and {WEBHOOKS} webhooks",
            flush=True,
        )
        with serving(name, server, accounts) as running:
            found = soak(running, minutes, accounts)
    finally:
        server.close()
    lag = found["loop lag, ms"]
    print(
        f"\nmemory: {found['megabytes in ten minutes']:+.1f} MB in ten minutes "
        f"({found['bytes an order']:.0f} bytes an order)\n"
        f"loop lag: {'' if lag is None else f'p50 {lag.p50}, p99 {lag.p99}, max {lag.max} ms'}\n"
        f"errors: {found['errors']}"
    )
    for goal, met in found["verdict"].items():
        print(f"{'met   ' if met else 'MISSED'}  {goal}")
    keep("soak", {"conditions": known, **found})


if __name__ == "__main__":
    main()
