"""Clients that place orders without end, and the account that is settled with them afterwards."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.service.harness import MARKET, SOON, Client, decoded, eventually, new_client, select

Ask = Callable[[str], list[tuple[Any, ...]]]
"""Runs a query on the service's tables."""

PATIENT: Mapping[str, Any] = {**MARKET, "expires_in": 600}
"""An order that fills at once, and does not expire while a fault lasts."""
UNLIMITED: Mapping[str, Any] = {
    "ORDERS_PER_SECOND": 0,
    "ORDERS_PER_MINUTE": 0,
    "ORDERS_PER_DAY": 0,
}
PAUSE_SECONDS = 0.05
"""Before a client asks again: sooner than `Retry-After` says, so that faults are met in number."""
HUNG_SECONDS = 40.0
"""Longer than the service lets anybody wait."""


class Load:
    """Each client places one order after the other, each under its key until it is acknowledged.

    One more reads what there is.
    With several services it asks the next one when one does not answer.
    """

    def __init__(
        self,
        *services: Client,
        clients: int = 4,
        account: str = "primary",
        timeout: float = HUNG_SECONDS,
    ) -> None:
        self.services = list(services)
        self.account = account
        self.acknowledged: dict[str, str] = {}
        """Task id by key."""
        self.refusals: list[str] = []
        """What the 503s said."""
        self.broken = 0
        """Requests that had no answer."""
        self._timeout = timeout
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(clients + 1)
        self._clients: list[Future[None]] = []
        self._count = clients

    def __enter__(self) -> Self:
        self._clients = [self._pool.submit(self._run, number) for number in range(self._count)]
        self._clients.append(self._pool.submit(self._read))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._pool.shutdown()
        for client in self._clients:
            client.result()

    def more(self, count: int = 20, seconds: float = SOON) -> None:
        """Wait until so many more orders are acknowledged."""
        wanted = len(self.acknowledged) + count
        eventually(
            f"{count} more orders are taken",
            lambda: len(self.acknowledged) >= wanted or self._stuck(),
            seconds,
        )

    def refused(self) -> None:
        """Wait until a newcomer is told that nothing was stored; the others may be waiting yet."""
        with new_client("", timeout=self._timeout) as http:
            eventually("a newcomer is refused", partial(self._refused, http))

    def _refused(self, http: httpx.Client) -> bool:
        before = len(self.refusals)
        self._ask(http, self.services[0], f"{self.account}-newcomer-{before}")
        return any("nothing was stored" in text for text in self.refusals[before:])

    def _stuck(self) -> bool:
        """Never; raises what a client has found wrong."""
        for client in self._clients:
            if client.done():
                client.result()
        return False

    def _run(self, number: int) -> None:
        with new_client("", timeout=self._timeout) as http:
            for count in itertools.count():
                if self._ending.is_set():
                    return
                self._place(http, f"{self.account}-{number}-{count}")

    def _read(self) -> None:
        """What a page that shows the tasks does: it must be told, too, when they cannot be had."""
        with new_client("", timeout=self._timeout) as http:
            for turn in itertools.count():
                if self._ending.wait(PAUSE_SECONDS):
                    return
                service = self.services[turn % len(self.services)]
                try:
                    answer = http.get(f"{service.url}/tasks", params={"limit": 3})
                except httpx.TransportError:
                    continue
                assert answer.status_code in {200, 503}, answer.text

    def _place(self, http: httpx.Client, key: str) -> None:
        for turn in itertools.count():
            service = self.services[turn % len(self.services)]
            if self._ask(http, service, key) or self._ending.is_set():
                return
            time.sleep(PAUSE_SECONDS)

    def _ask(self, http: httpx.Client, service: Client, key: str) -> bool:
        """Whether the order of this key is acknowledged."""
        order, headers = {**PATIENT, "account_id": self.account}, {"Idempotency-Key": key}
        try:
            answer = http.post(f"{service.url}/orders", json=order, headers=headers)
        except httpx.TransportError:
            self.broken += 1
            return False
        if answer.status_code == 202:
            self.acknowledged[key] = decoded(answer)["task_id"]
            return True
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) > 0
        self.refusals.append(decoded(answer)["detail"])
        return False


def in_paper_book(file: Path) -> Counter[str]:
    """How many orders the paper exchange has of each intent."""
    rows = select(file, "SELECT substr(tag, 5, 12), COUNT(*) FROM orders GROUP BY 1")
    return Counter(dict(rows))


def assert_settled(
    load: Load, ask: Ask, book: Callable[[], Counter[str]], dead: Collection[str] = ()
) -> None:
    """What was acknowledged is in the table, and placed once; or dead for one of these reasons.

    At the broker is what the table says is there, no intent has two orders, and the event log has
    no gap.
    """
    account = f"account_id = '{load.account}'"
    unfinished = (
        f"SELECT COUNT(*) FROM order_tasks WHERE {account} AND phase NOT IN ('done', 'dead')"  # noqa: S608
    )
    eventually("every task has finished", lambda: ask(unfinished) == [(0,)], HUNG_SECONDS)
    rows = ask(
        "SELECT idempotency_key, task_id, status, intent, reason "  # noqa: S608
        f"FROM order_tasks WHERE {account}"
    )
    assert load.acknowledged
    assert load.acknowledged.items() <= {key: task_id for key, task_id, *_ in rows}.items()
    assert {reason for *_, reason in rows} <= {None, *dead}
    placed = book()
    assert set(placed.values()) == {1}
    assert set(placed) == {intent for *_, status, intent, _ in rows if status == "completed"}
    ((count, first, last, head),) = ask(
        "SELECT COUNT(*), MIN(sequence), MAX(sequence), "  # noqa: S608
        f"(SELECT head_sequence FROM accounts WHERE {account}) FROM order_events WHERE {account}"
    )
    assert (1, count, count) == (first, last, head)
