"""Kills, restarts, disconnects and slow readers: who resumes sees every sequence exactly once."""

import contextlib
import random
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import pytest
import trio

from tests.service.conftest import Fork
from tests.service.doomed import CHATTERING
from tests.service.harness import (
    RESTING,
    SOON,
    Client,
    Hatched,
    database,
    eventually,
    select,
)
from tests.stream_client import Ended, Refused, StreamClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]  # some 30 s on two idle cores

EVENTS = 10_000
DEATHS = 6
CLIENTS = ("steady", "fickle", "slow")
"""Of each account."""
SETTINGS: dict[str, Any] = {
    "ORDERS_PER_SECOND": 0,
    "ORDERS_PER_MINUTE": 0,
    "ORDERS_PER_DAY": 0,
    "STREAM_HANDSHAKES_PER_SECOND": 0,
}
SMALL_BUFFER = 32 * 1024
"""Bytes that a slow client's kernel takes for it."""
FIRST_LIFE = 3000
"""Events before the first death, at least: it waits until a slow client has fallen behind."""
BEHIND = 600
"""Events of 1.2 KB by which a slow client falls behind: twice what buffers and its queue hold."""
SLOW_FROM = 20
"""Events after which a slow client reads no more for that long."""
PATIENCE = 60.0
"""Seconds that a client which has everything may have to wait for those that have not."""


@dataclass
class Reader:
    """A client that goes on where it was, whatever happens to it."""

    account: str
    kind: str
    port: int
    chance: random.Random
    heads: Mapping[str, int]
    """How far each account's table is."""
    seen: list[tuple[int, str]] = field(default_factory=list)
    """Sequence and id of every event that it was sent."""
    ends: Counter[int | None] = field(default_factory=Counter)

    @property
    def newest(self) -> int:
        """The last sequence that it has."""
        return self.seen[-1][0] if self.seen else 0

    async def run(self) -> None:
        """Connect again, without end."""
        stream = ""
        while True:
            try:
                with trio.fail_after(SOON):
                    tcp = await trio.open_tcp_stream("127.0.0.1", self.port)
            except OSError:
                await trio.sleep(0.02)
                continue
            async with tcp:
                if self.kind == "slow":
                    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
                stream = await self._listen(StreamClient(tcp, PATIENCE), stream)

    async def _dawdle(self) -> None:
        far = self.heads.get(self.account, 0) + BEHIND  # the table may be ahead of it already
        while self.heads.get(self.account, 0) < far:  # noqa: ASYNC110  # of a thread
            await trio.sleep(0.05)

    async def _listen(self, client: StreamClient, stream: str) -> str:
        query = f"?v=2&since={self.newest}" + (f"&stream={stream}" if stream else "")
        left = self.chance.randrange(20, 800) if self.kind == "fickle" else -1
        try:
            await client.handshake(f"/advanced/ws/orders/{self.account}{query}")
            welcome = await client.message()
            assert welcome["resume"]["status"] == "resumed", welcome
            stream = welcome["stream"]
            while left:
                message = await client.message()
                if message["type"] == "order_update":
                    self.seen.append((message["sequence"], message["event_id"]))
                    left -= 1
                    if self.kind == "slow" and len(self.seen) == SLOW_FROM:
                        await self._dawdle()
        except Ended as ended:
            self.ends[ended.code] += 1
        except (Refused, trio.BrokenResourceError):
            self.ends[None] += 1
        return stream


class Readers:
    """The clients, in a thread of their own."""

    def __init__(self, port: int, seed: int) -> None:
        self.heads: dict[str, int] = {}
        self.each = [
            Reader(account, kind, port, random.Random(f"{seed} {account} {kind}"), self.heads)
            for account in CHATTERING
            for kind in CLIENTS
        ]
        self._scope = trio.CancelScope()
        self._started = threading.Event()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._main)
        self._token: trio.lowlevel.TrioToken

    def _main(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as error:  # noqa: BLE001  # raised in the test
            self._failures.append(error)

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._started.set()
        with self._scope:
            async with trio.open_nursery() as nursery:
                for reader in self.each:
                    nursery.start_soon(reader.run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(SOON)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(SOON)
        self.check()

    def check(self) -> None:
        """Raise what has gone wrong in the thread."""
        for error in self._failures:
            raise error

    def newest(self, account: str) -> int:
        """The last sequence that any client of an account has."""
        return max(reader.newest for reader in self.each if reader.account == account)


def heads(service: Client) -> dict[str, int]:
    """The last sequence of each account's table."""
    sql = "SELECT account_id, MAX(sequence) FROM order_events GROUP BY account_id"
    return dict(select(database(service.folder), sql))


def logged(service: Client, account: str) -> list[Any]:
    """Sequence and event id of all that an account's table holds."""
    sql = "SELECT sequence, event_id FROM order_events WHERE account_id = ? ORDER BY sequence"
    return select(database(service.folder), sql, account)


def end(service: Hatched, how: str, readers: Readers) -> bool:
    """End a service; whether it died with events that it had committed and told nobody."""
    if how == "SIGTERM":
        service.signal(signal.SIGTERM)
    elif how == "kill -9":
        service.kill()
    else:
        (service.folder / "kill").touch()
    service.wait()
    (service.folder / "kill").unlink(missing_ok=True)
    readers.check()
    return any(head > readers.newest(account) for account, head in heads(service).items())


def closed(readers: Readers, told: Callable[[int], bool]) -> bool:
    """Whether a reader was closed because it was slow. They look at what `told` finds."""
    told(0)
    return any(reader.ends[4001] for reader in readers.each)


def test_who_resumes_sees_every_sequence_once(fork: Fork) -> None:
    """10 000 events of four accounts, twelve clients, six deaths: the table, as on the wire."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    service = fork("Chatters", **SETTINGS)
    for account in CHATTERING:
        body = {**RESTING, "account_id": account}
        assert service.http.post("/orders", params={"wait": 10}, json=body).status_code == 200
    hidden = 0
    with Readers(service.port, seed) as readers:

        def told(count: int) -> bool:
            readers.check()
            readers.heads.update(heads(service))
            return sum(readers.heads.values()) >= count

        for death in range(DEATHS):
            wanted = FIRST_LIFE + (EVENTS - FIRST_LIFE) * death // DEATHS
            eventually(f"{wanted} events", partial(told, wanted), PATIENCE)
            eventually("slow readers were closed", partial(closed, readers, told), PATIENCE)
            how = ("kill", "kill -9", "SIGTERM")[death % 3]
            unseen = end(service, how, readers)
            hidden += how == "kill" and unseen
            service = fork("Chatters", PORT=service.port, **SETTINGS)
        eventually(f"{EVENTS} events", partial(told, EVENTS), PATIENCE)
        (service.folder / "quiet").touch()

        def all_have_all() -> dict[str, list[Any]] | None:
            """The tables, once every client has just what stands there: quiet comes by and by."""
            readers.check()
            found = {account: logged(service, account) for account in CHATTERING}
            same = all(reader.seen == found[reader.account] for reader in readers.each)
            return found if same else None

        tables = eventually("every client has every event", all_have_all, PATIENCE, every=0.2)
        statistics = service.http.get("/advanced/ws/stats").json()
        assert statistics["gaps"] == 0
    for table in tables.values():
        assert [sequence for sequence, _ in table] == list(range(1, len(table) + 1))
    ends = sum((reader.ends for reader in readers.each), Counter[int | None]())
    assert hidden == DEATHS // 3  # each time the commit was there and nobody had been told
    assert ends[1012] > 0, ends  # those of a stopping service were told,
    assert ends[None] >= DEATHS, ends  # and the rest just cut
