"""The order stream on real sockets: welcome, resume, snapshot, heartbeats, ends."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest
import trio
from msgspec.structs import replace
from quart import websocket
from quart_trio import QuartTrio

from tests.stores import order
from tests.stream_client import SOON, Refused, open_stream
from tests.test_stream_hub import ACCOUNT, NOW, STREAM, event, measured
from ticker_actors.actors import subscription
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.metrics import Metrics
from ticker_actors.model.events import Event
from ticker_actors.settings import Settings
from ticker_actors.web import stream as web_stream
from ticker_actors.web.app import answer_errors
from ticker_actors.web.doors import Doors
from ticker_actors.web.parts import Parts
from ticker_actors.web.server import open_listeners, serve_app
from ticker_actors.web.server_config import ServerConfig
from ticker_actors.web.tickets import Tickets

NO_LIMITS = Settings(
    stream_connections_per_account=0,
    stream_connections_per_address=0,
    stream_handshakes_per_second=0,
)
LARGE = 100_000
"""Bytes: a few such events are more than the kernel takes."""


@dataclass
class Log:
    """The table of events, and the way to the hub: first stored, then published."""

    hub: StreamHub
    stored: list[Event] = field(default_factory=list)
    reads: int = 0
    blocked: trio.Event | None = None

    def store(self, *events: Event) -> None:
        """Commit."""
        self.stored += events

    async def tell(self, *events: Event) -> None:
        """Commit and publish."""
        self.store(*events)
        await self.hub.publish(events)

    async def events(self, account_id: str, since: int, limit: int) -> list[Event]:
        self.reads += 1
        if self.blocked is not None:
            await self.blocked.wait()
        assert account_id == ACCOUNT
        return [event for event in self.stored if event.sequence > since][:limit]

    async def oldest_event(self, account_id: str) -> int | None:
        assert account_id == ACCOUNT
        return self.stored[0].sequence if self.stored else None


@dataclass
class Serving:
    """A service's stream, and nothing else of it."""

    port: int
    hub: StreamHub
    log: Log
    metrics: Metrics
    stopping: trio.Event
    tickets: Tickets
    chance: Random

    def ticket(self, account: str = ACCOUNT) -> str:
        """A new one."""
        ticket = self.tickets.issue(account, self.chance.getrandbits)
        assert ticket is not None
        return ticket

    async def until(self, **expected: int) -> None:
        """Wait for these statistics."""
        with trio.fail_after(SOON):
            while True:
                found = await self.hub.statistics()
                if all(getattr(found, name) == value for name, value in expected.items()):
                    return
                await trio.sleep(0.01)

    async def until_live(self, **clients: int) -> None:
        """Wait until so many clients are told what is published, by how they began."""
        with trio.fail_after(SOON):
            while any(  # noqa: ASYNC110  # a metric has no event
                measured(self.metrics, "starts_total", status=status) != count
                for status, count in clients.items()
            ):
                await trio.sleep(0.01)


@asynccontextmanager
async def serving(
    stored: Iterable[Event] = (), head: int | None = None, given: Settings = NO_LIMITS
) -> AsyncGenerator[Serving]:
    """Serve the streams of an account whose log holds this, up to `head`."""
    metrics = Metrics()
    hub = StreamHub(STREAM, metrics, given.stream_limits)
    log = Log(hub, list(stored))
    parts = SimpleNamespace(
        hub=hub,
        executor=SimpleNamespace(accounts={ACCOUNT: None}),
        clock=SimpleNamespace(now=lambda: NOW),
        chance=Random(1).getrandbits,
        tables=log,
        settings=given,
    )
    app, tickets = QuartTrio(__name__), Tickets()
    doors = Doors(given, tickets)

    @app.before_websocket
    async def enter() -> None:
        doors.check(websocket)

    app.register_blueprint(web_stream.blueprint(cast("Parts", parts), tickets))
    answer_errors(app)
    config = ServerConfig()
    config.send_timeout = 0.2
    listeners = await open_listeners("127.0.0.1", 0, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        await hub.start_from(ACCOUNT, len(log.stored) if head is None else head, (order(1),))
        stopping = trio.Event()
        await nursery.start(partial(serve_app, app, listeners, stopping=stopping, config=config))
        port = listeners[0].socket.getsockname()[1]
        yield Serving(port, hub, log, metrics, stopping, tickets, Random(2))
        nursery.cancel_scope.cancel()


def numbers(messages: Iterable[dict[str, object]]) -> list[object]:
    """Their sequences."""
    return [message["sequence"] for message in messages]


def some(first: int, last: int) -> list[Event]:
    """Events of these sequences."""
    return [event(number) for number in range(first, last + 1)]


async def test_welcome_of_a_plain_client() -> None:
    """The document's three keys first, then the cursor and all that a client must know."""
    async with serving(some(1, 7)) as served, open_stream(served.port) as client:
        welcome = await client.message()
        assert list(welcome)[:3] == ["type", "account_id", "timestamp"]
        assert welcome == {
            "type": "connected",
            "account_id": "primary",
            "timestamp": "2025-11-20T06:30:00.000Z",
            "sequence": 7,
            "stream": STREAM,
            "protocol": 1,
            "connection_id": welcome["connection_id"],
            "resume": {"status": "fresh", "from": None, "replayed": 0},
            "heartbeat_seconds": None,
            "limits": {
                "queue_bytes": 262_144,
                "queue_messages": 1000,
                "stall_seconds": 10.0,
                "replay_events": 10_000,
                "texts_per_second": 10.0,
                "text_bytes": 4096,
            },
        }
        await served.until_live(fresh=1)
        await served.log.tell(*some(8, 9))
        found = await client.messages(2)
        assert list(found[0])[:4] == ["type", "account_id", "data", "timestamp"]
        assert numbers(found) == [8, 9]
        assert not any("replayed" in each for each in found)
        assert served.log.reads == 0


async def test_resuming_replays_what_was_missed_and_goes_on() -> None:
    """In order, once, marked as replayed; a client of the document's protocol may do it too."""
    async with (
        serving(some(1, 1200)) as served,
        open_stream(served.port, f"?since=100&stream={STREAM}") as client,
    ):
        welcome = await client.message()
        assert welcome["resume"] == {"status": "resumed", "from": 100, "replayed": 1100}
        assert welcome["sequence"] == 1200
        found = await client.messages(1100)
        assert numbers(found) == list(range(101, 1201))
        assert all(message["replayed"] for message in found)
        await served.until_live(resumed=1)
        await served.log.tell(event(1201))
        live = await client.message()
        assert (live["sequence"], "replayed" in live) == (1201, False)
        statistics = await served.hub.statistics()
        assert (statistics.resumed, statistics.replayed) == (1, 1100)
        assert measured(served.metrics, "starts_total", status="resumed") == 1
        assert measured(served.metrics, "replayed_total") == 1100


async def test_nothing_missed_is_resumed_without_a_read() -> None:
    """A client that has all is live at once."""
    async with serving(some(1, 3)) as served, open_stream(served.port, "?since=3") as client:
        assert (await client.message())["resume"]["status"] == "resumed"
        await served.until_live(resumed=1)
        await served.log.tell(event(4))
        assert numbers([await client.message()]) == [4]
        assert served.log.reads == 0


async def test_events_that_arrive_during_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published, or only stored, while pages are read comes once, and in its place."""
    monkeypatch.setattr(web_stream, "PAGE", 3)
    async with serving(some(1, 10)) as served, trio.open_nursery() as nursery:
        served.log.store(event(11))  # committed, and published only later
        chance = Random(7)

        async def go_on() -> None:
            await served.hub.publish((event(11),))
            for number in range(12, 150):
                await served.log.tell(event(number))
                for _ in range(chance.randrange(4)):
                    await trio.lowlevel.checkpoint()

        async def resume(since: int) -> None:
            async with open_stream(served.port, f"?since={since}") as client:
                await client.message()
                assert numbers(await client.messages(149 - since)) == list(range(since + 1, 150))

        nursery.start_soon(go_on)
        for since in (0, 1, 5, 9, 10, 11):
            nursery.start_soon(resume, since)


@pytest.mark.parametrize(
    "query",
    ["since=3", "since=21", "since=9223372036854775807", "since=19&stream=str_2", "since=0"],
)
async def test_a_gap_is_said_and_filled_with_a_snapshot(query: str) -> None:
    """Older than the log, beyond its head, or of another stream: no part of it is replayed."""
    async with (
        serving(some(5, 20), head=20) as served,
        open_stream(served.port, f"?v=2&{query}") as client,
        open_stream(served.port, f"?{query}") as plain,
    ):
        welcome, snapshot = await client.messages(2)
        assert welcome["resume"]["status"] == "gap"
        assert (welcome["protocol"], welcome["heartbeat_seconds"]) == (2, 15.0)
        assert {
            "type": "snapshot",
            "sequence": 20,
            "page": 1,
            "pages": 1,
        }.items() <= snapshot.items()
        assert [each["order_id"] for each in snapshot["orders"]] == ["o1"]
        assert (await plain.message())["resume"]["status"] == "gap"
        await served.log.tell(event(21))
        assert numbers([await client.message(), await plain.message()]) == [21, 21]
        await served.until(gaps=2)


async def test_too_much_to_replay_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the orders as they are say more, sooner."""
    monkeypatch.setattr(web_stream, "MOST_REPLAYED", 5)
    async with (
        serving(some(1, 10)) as served,
        open_stream(served.port, "?since=4") as far,
        open_stream(served.port, "?since=5") as near,
    ):
        assert (await far.message())["resume"]["status"] == "gap"
        assert (await near.message())["resume"]["status"] == "resumed"


async def test_a_client_ahead_of_the_hub_has_no_gap() -> None:
    """The catch-up endpoint may have told what is stored and not yet published."""
    async with serving(some(1, 3)) as served:
        served.log.store(*some(4, 6))
        async with open_stream(served.port, "?since=5") as client:
            assert (await client.message())["resume"]["status"] == "resumed"
            await served.hub.publish(tuple(some(4, 6)))
            await served.log.tell(event(7))
            assert numbers(await client.messages(2)) == [6, 7]


async def test_a_snapshot_is_paged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, it follows the welcome, of the same sequence, and then come the events."""
    monkeypatch.setattr(web_stream, "ORDERS_A_PAGE", 2)
    async with serving() as served:
        await served.hub.start_from(ACCOUNT, 4, tuple(order(number) for number in range(5)))
        async with open_stream(served.port, "?v=2&snapshot=orders") as client:
            welcome, *pages = await client.messages(4)
            assert welcome["sequence"] == 4
            assert numbers(pages) == [4, 4, 4]
            assert [(page["page"], page["pages"], len(page["orders"])) for page in pages] == [
                (1, 3, 2),
                (2, 3, 2),
                (3, 3, 1),
            ]
            await served.log.tell(event(5))
            assert numbers([await client.message()]) == [5]


async def test_heartbeats_hold_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """For those that ask for them: all up to there has been sent before."""
    monkeypatch.setattr(web_stream, "HEARTBEAT_SECONDS", 0.05)
    async with (
        serving(some(1, 2)) as served,
        open_stream(served.port, "?v=2") as client,
        open_stream(served.port) as plain,
    ):
        _, beat = await client.messages(2)
        assert list(beat) == ["type", "account_id", "timestamp", "sequence", "stream"]
        assert (beat["type"], beat["sequence"], beat["stream"]) == ("heartbeat", 2, STREAM)
        await served.log.tell(event(3))
        seen = 2
        while True:
            message = await client.message()
            if message["type"] == "heartbeat" and message["sequence"] == 3:
                break
            seen = message["sequence"]
        assert seen == 3
        await plain.message()
        assert numbers([await plain.message()]) == [3]
        await plain.say("ping")
        assert (await plain.message())["type"] == "pong"


async def test_a_client_that_does_not_read_is_closed_and_resumes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """4001 with the sequence that it got to; when it comes again it has lost nothing."""
    monkeypatch.setattr(subscription, "MOST_BYTES", 5 * LARGE)
    async with serving() as served, open_stream(served.port) as other:
        async with open_stream(served.port) as slow:
            await served.until_live(fresh=2)
            await other.message()
            for number in range(1, 101):
                await served.log.tell(event(number, LARGE))
                assert numbers([await other.message()]) == [number]
            ended = await slow.ended()
            last = slow.last["sequence"]
            assert 0 < last < 100
            assert (ended.code, ended.reason) == (4001, f"Too slow: resume from {last}.")
        await served.until(total_connections=1, dropped=1)
        assert measured(served.metrics, "clients_dropped_total") == 1
        async with open_stream(served.port, f"?since={last}") as again:
            await again.message()
            assert numbers(await again.messages(100 - last)) == list(range(last + 1, 101))


async def test_a_client_that_never_reads_again_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its close code cannot reach it, so the connection ends without; it counts as dropped."""
    monkeypatch.setattr(subscription, "STALL_SECONDS", 0.2)
    async with serving() as served, open_stream(served.port) as dead:
        await served.log.tell(*(event(number, LARGE) for number in range(1, 101)))
        await served.until(total_connections=0, dropped=1)
        assert (await dead.ended()).code is None


async def test_a_slow_replay_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that resumes and then takes nothing holds one page of the log, and not for long."""
    monkeypatch.setattr(subscription, "STALL_SECONDS", 0.2)
    large = [event(number, LARGE) for number in range(1, 101)]
    async with serving(large) as served, open_stream(served.port, "?since=0"):
        await served.until(total_connections=0, dropped=1)
        assert served.log.reads == 1


async def test_a_log_that_shrinks_under_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What retention takes away in between is no silent gap: the client is told to come again."""
    monkeypatch.setattr(web_stream, "PAGE", 2)

    class Shrinking(Log):
        async def events(self, account_id: str, since: int, limit: int) -> list[Event]:
            found = await super().events(account_id, since, limit)
            self.stored = self.stored[6:]
            return found

    async with serving(some(1, 10)) as served:
        served.log.__class__ = Shrinking
        async with open_stream(served.port, "?since=0") as client:
            assert numbers((await client.messages(3))[1:]) == [1, 2]
            assert (await client.ended()).code == 4003


async def test_a_log_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 before the stream is open, 1013 after; a client that needs no read is served."""
    monkeypatch.setattr(web_stream, "READ_SECONDS", 0.1)
    async with serving(some(1, 10)) as served:
        served.log.blocked = trio.Event()
        with pytest.raises(Refused) as refused:
            async with open_stream(served.port, "?since=1"):
                raise AssertionError
        assert (refused.value.status, refused.value.retry_after) == (503, "2")
        async with open_stream(served.port) as client:
            await client.message()
        served.log.blocked = None
        monkeypatch.setattr(web_stream, "PAGE", 2)
        async with open_stream(served.port, "?since=1") as client:
            served.log.blocked = trio.Event()
            ended = await client.ended()
            assert (ended.code, ended.reason) == (1013, "Busy: resume from 3.")


async def test_what_a_client_may_say() -> None:
    """Text, a little of it; `ping` is answered, the rest has no meaning; bytes are a mistake."""
    async with serving() as served:
        async with open_stream(served.port) as client:
            await client.message()
            for _ in range(5):
                await client.say("what is this?")
            await client.say("ping")
            assert await client.message() == {
                "type": "pong",
                "timestamp": "2025-11-20T06:30:00.000Z",
            }
            for _ in range(20):
                await client.say("ping")
            assert (await client.ended()).code == 4504
        async with open_stream(served.port) as client:
            await client.say_bytes(b"ping")
            assert (await client.ended()).code == 4503
        async with open_stream(served.port) as client:
            await client.say("x" * 5000)
            assert (await client.ended()).code == 1009


@pytest.mark.parametrize(
    "query, status",
    [
        ("?v=3", 422),
        ("?since=-1", 422),
        ("?since=two", 422),
        ("?snapshot=orders", 422),
        ("?v=2&snapshot=all", 422),
        ("?conflate=all", 422),
        ("?sinse=1", 422),
    ],
)
async def test_wrong_wishes_are_refused(query: str, status: int) -> None:
    """A misspelt parameter is no fresh start."""
    async with serving() as served:
        with pytest.raises(Refused) as refused:
            async with open_stream(served.port, query):
                raise AssertionError
        assert refused.value.status == status
        assert (await served.hub.statistics()).total_connections == 0


@pytest.mark.parametrize(
    "limit, wait",
    [
        ("stream_connections_per_account", "30"),
        ("stream_connections_per_address", "30"),
        ("stream_handshakes_per_second", "1"),
    ],
)
async def test_too_many_streams_are_refused(limit: str, wait: str) -> None:
    """429 before the stream is open, with the time after which to come again."""
    async with (
        serving(given=replace(NO_LIMITS, **{limit: 1})) as served,
        AsyncExitStack() as streams,
    ):
        for _ in range(1 + (limit == "stream_handshakes_per_second")):
            await streams.enter_async_context(open_stream(served.port))
        with pytest.raises(Refused) as refused:
            await streams.enter_async_context(open_stream(served.port))
        assert (refused.value.status, refused.value.retry_after) == (429, wait)


async def test_clients_behind_a_trusted_proxy_are_told_apart() -> None:
    """The limit of an address is the client's; without trust it is the proxy's, as it was."""
    one_each = replace(NO_LIMITS, stream_connections_per_address=1)
    for trusted, entered in (("127.0.0.0/8", 3), ("10.0.0.0/8", 1)):
        async with (
            serving(given=replace(one_each, trusted_proxies=(trusted,))) as served,
            AsyncExitStack() as streams,
        ):
            for forwarded in (
                "X-Forwarded-For: 198.51.100.1\r\n",
                "X-Forwarded-For: made up\r\nX-Forwarded-For: 198.51.100.2:4711\r\n",
                "X-Forwarded-For: 198.51.100.3, 198.51.100.1\r\n",
                "X-Forwarded-For: \xff, no address\r\n",
            ):
                with suppress(Refused):
                    await streams.enter_async_context(open_stream(served.port, headers=forwarded))
            assert (await served.hub.statistics()).total_connections == entered


async def test_a_ticket_opens_one_stream() -> None:
    """In place of the key, that of its account, and not a second time."""
    async with serving(given=replace(NO_LIMITS, api_key="0123456789abcdef")) as served:
        ticket, other = served.ticket(), served.ticket("second")
        async with open_stream(served.port, f"?ticket={ticket}") as client:
            assert (await client.message())["type"] == "connected"
        for query, status in (("", 401), (f"?ticket={ticket}", 401), (f"?ticket={other}", 403)):
            with pytest.raises(Refused) as refused:
                async with open_stream(served.port, query):
                    raise AssertionError
            assert refused.value.status == status


async def test_a_refused_handshake_does_not_use_its_ticket_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client comes again, when there is room or with better wishes, and need not ask anew."""
    monkeypatch.setattr(web_stream, "READ_SECONDS", 0.1)
    given = replace(NO_LIMITS, api_key="0123456789abcdef", stream_connections_per_account=1)
    async with serving(some(1, 3), given=given) as served:
        ticket = served.ticket()
        nowhere = served.ticket("nowhere")

        async def refused(query: str = "", account: str = ACCOUNT, with_: str = ticket) -> int:
            with pytest.raises(Refused) as info:
                async with open_stream(served.port, f"?ticket={with_}{query}", account):
                    raise AssertionError
            return info.value.status

        assert await refused("&v=3") == 422
        assert [await refused(account="nowhere", with_=nowhere) for _ in range(2)] == [404, 404]
        served.log.blocked = trio.Event()
        assert await refused("&since=1") == 503
        async with open_stream(served.port, f"?ticket={served.ticket()}"):
            assert await refused() == 429
        await served.until(total_connections=0)
        async with open_stream(served.port, f"?ticket={ticket}") as client:
            await client.message()
        assert await refused() == 401


async def test_two_handshakes_with_one_ticket_open_one_stream() -> None:
    """Whichever is faster; the other is refused and gives its place back."""
    async with serving(some(1, 3)) as served:
        ticket, answers = served.ticket(), list[int]()
        served.log.blocked = trio.Event()

        async def try_it() -> None:
            try:
                async with open_stream(served.port, f"?since=1&ticket={ticket}") as client:
                    answers.append(101)
                    await client.message()
                    await served.until(total_connections=1)
            except Refused as refused:
                answers.append(refused.status)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(try_it)
            await served.until(total_connections=5)  # all are past the door
            served.log.blocked.set()
        assert sorted(answers) == [101, 401, 401, 401, 401]
        await served.until(total_connections=0)


async def test_a_client_that_leaves_is_not_counted() -> None:
    """Hanging up is no slowness, and gives the place back."""
    async with serving() as served:
        async with open_stream(served.port):
            assert (await served.hub.statistics()).total_connections == 1
        await served.until(total_connections=0, dropped=0)


async def test_the_stop_waits_for_no_dead_client() -> None:
    """Within 2 s and a little it is over; the living are told 1012."""
    async with serving() as served, open_stream(served.port), open_stream(served.port) as client:
        for number in range(1, 31):
            await served.log.tell(event(number, LARGE))
            await client.message()
        served.stopping.set()
        assert (await client.ended()).code == 1012
        await served.until(total_connections=0)


async def test_a_conflating_client_gets_the_newest() -> None:
    """It reads late and finds the last state of the order, in sequence, and no close."""
    async with serving() as served, open_stream(served.port, "?conflate=order") as client:
        await client.message()
        await served.until_live(fresh=1)
        for number in range(1, 201):
            await served.log.tell(event(number, LARGE))
        seen: list[int] = []
        while not seen or seen[-1] < 200:
            seen.append((await client.message())["sequence"])
        assert seen == sorted(set(seen))
        assert len(seen) < 200
