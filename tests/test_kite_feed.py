"""Kite's ticker as a feed: what it tells its reader, and when, whatever the ticker does."""

import logging
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.fakes import ACCOUNT, FakeBroker, Process, World, limit_order
from tests.receiver import listening
from tests.tickers import (
    API_KEY,
    NEW_TOKEN,
    TOKEN,
    DropsAfter,
    GarbageTicker,
    HealthyTicker,
    NotATicker,
    PingsOnly,
    RefusesAll,
    RefusesToken,
    Server,
    SilentTicker,
    SlowTicker,
    TalksTooMuch,
    in_memory,
    pushed,
)
from ticker_actors.brokers.kite import feed as feed_module
from ticker_actors.brokers.kite.dial import Dial, tls_dial
from ticker_actors.brokers.kite.feed import KiteFeed
from ticker_actors.brokers.kite.root import TickerUrl
from ticker_actors.brokers.kite.session import Session
from ticker_actors.brokers.pushed import TOO_FAST
from ticker_actors.exchange.packets import HEARTBEAT
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.outcomes import FeedBack, FeedItem, FeedLost

MIDDLE = 1 << 15
"""The chance that moves no back-off."""
NO_TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made at once; the real one reads all of the world's authorities."""

WRONG_ACCEPT = (
    b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: bm90IHRoZSBhbnN3ZXI=\r\n\r\n"
)


def read_order(data: object) -> BrokerOrder | str:
    """A reader of orders, as strict as can be."""
    try:
        return msgspec.convert(data, BrokerOrder)
    except msgspec.ValidationError as error:
        return str(error)


def order(number: int) -> BrokerOrder:
    """What `pushed` shows."""
    found = read_order(msgspec.json.decode(pushed(str(number)))["data"])
    assert isinstance(found, BrokerOrder)
    return found


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[list[Any]]:
    """What was logged; no token in it, nor in what libraries log when they log all they can."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        yield lines
    told = f"{lines}{caplog.text}"
    for secret in (TOKEN, NEW_TOKEN, "s3cret"):
        assert secret not in told


@asynccontextmanager
async def following(
    dial: Dial,
    session: Session | None = None,
    url: str = "ws://ticker.test",
    chance: int = MIDDLE,
) -> AsyncGenerator[KiteFeed]:
    """A feed that runs."""
    feed = KiteFeed(
        "primary",
        TickerUrl.parse(url),
        session or Session(API_KEY, TOKEN),
        read_order,
        lambda _bits: chance,
        dial,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        yield feed
        nursery.cancel_scope.cancel()


async def take(feed: KiteFeed, count: int) -> list[FeedItem]:
    """The next items of a feed."""
    return [await anext(feed) for _ in range(count)]


async def told_by(server: Server, count: int) -> list[FeedItem]:
    """The first items that a feed gives of a server."""
    async with in_memory(server) as dial, following(dial) as feed:
        return await take(feed, count)


# What it asks for


async def test_asks_as_the_official_client_does() -> None:
    """Key and token go into the query, whatever their characters; the version into a header."""
    ticker = HealthyTicker()
    assert await told_by(ticker, 1) == [FeedBack()]
    assert ticker.targets == ["/?api_key=kitekey&access_token=s3cret+token%2F%2B"]
    assert ticker.tokens == [TOKEN]
    assert ticker.headers[0][b"x-kite-version"] == b"3"


@pytest.mark.parametrize(
    "url,target",
    [
        ("ws://t.test/oms/ws", "/oms/ws?"),
        ("ws://t.test/oms/", "/oms/?"),
        ("ws://t.test?user_id=AB%201&x=", "/?user_id=AB%201&x=&"),
    ],
)
async def test_path_and_query_of_the_url_survive(url: str, target: str) -> None:
    """Zerodha's sandbox lives under a path and wants parameters of its own."""
    ticker = HealthyTicker()
    async with in_memory(ticker) as dial, following(dial, url=url) as feed:
        assert await take(feed, 1) == [FeedBack()]
    assert ticker.targets == [f"{target}api_key=kitekey&access_token=s3cret+token%2F%2B"]


@pytest.mark.parametrize(
    "url,sentence",
    [
        ("https://ws.kite.trade", "It must begin with wss://"),
        ("wss://", "It must begin with wss://"),
        ("wss://me:pass@ws.kite.trade", "It must have neither a user nor a fragment"),
        ("wss://ws.kite.trade/#here", "It must have neither a user nor a fragment"),
        ("wss://ws.kite.trade:port", "It is no URL"),
        ("wss://ws.kite.trade/ä", "It must be written in printable ASCII"),
        ("wss://ws.kite.trade/a b", "It must be written in printable ASCII"),
    ],
)
def test_url_that_is_no_ticker_is_refused(url: str, sentence: str) -> None:
    """The operator is told what is wrong with the setting."""
    with pytest.raises(ValueError, match=sentence):
        TickerUrl.parse(url)


@pytest.mark.parametrize(
    "url,authority",
    [
        ("wss://ws.kite.trade", "ws.kite.trade"),
        ("wss://ws.kite.trade:80", "ws.kite.trade:80"),
        ("ws://[::1]:8090", "[::1]:8090"),
    ],
)
def test_authority_is_the_host_header(url: str, authority: str) -> None:
    """The port is told where it is not the scheme's own, and IPv6 stands in brackets."""
    assert TickerUrl.parse(url).authority == authority


# What it tells


async def test_orders_are_told_after_the_channel_is_back() -> None:
    """The first message of any kind says that the feed is up, and an order among them is kept."""
    ticker = HealthyTicker(messages=[pushed("1"), HEARTBEAT, pushed("2")])
    assert await told_by(ticker, 3) == [FeedBack(), order(1), order(2)]


async def test_what_means_nothing_is_left_out(log: list[Any]) -> None:
    """Unknown types and ticks are ignored; words for people are logged, without the token."""
    ticker = HealthyTicker(
        messages=[
            '{"type":"instruments_meta","data":{"count":90517,"etag":"W/\\"68\\""}}',
            '{"type":"app_code","timestamp":"2023-05-30T13:31:46+05:30"}',
            b"\x00\x01\x00\x08\x00\x00\x01\x01\x00\x00\x00\x64",
            '{"type":"error","data":"Too many tokens\\nrequested."}',
            f'{{"type":"message","data":"{TOKEN} is not told"}}',
            '{"type":"message","data":{"text":"hello"}}',
            pushed("1"),
        ]
    )
    assert await told_by(ticker, 2) == [FeedBack(), order(1)]
    assert [(line["kind"], line["text"]) for line in log if line["event"] == "ticker says"] == [
        ("error", "Too many tokens\\nrequested."),
        ("message", "[token] is not told"),
        ("message", '{"type":"message","data":{"text":"hello"}}'),
    ]


@pytest.mark.parametrize(
    "text,problem",
    [
        ("", "It is not JSON."),
        (
            "not json \x00 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
            "not JSON",
        ),
        ("[" * 100_000, "It is not JSON."),
        ("9" * 5_000, "It is not JSON."),
        ('"order"', "It is not an object."),
        ('{"id":"1"}', "It has no type."),
        ('{"type":7}', "It has no type."),
        ('{"type":"order"}', "Expected `object`"),
        (pushed(status=7), "Expected `str`, got `int` - at `$.status`"),
    ],
)
async def test_garbled_message_makes_the_book_be_read(
    text: str, problem: str, log: list[Any]
) -> None:
    """What cannot be understood may have been an update: logged, told as a gap, no crash."""
    items = await told_by(HealthyTicker(messages=[text, pushed("1")]), 4)
    lost = items.pop(1)
    assert items == [FeedBack(), FeedBack(), order(1)]
    assert isinstance(lost, FeedLost)
    assert problem in lost.message
    (line,) = [line for line in log if line["event"] == "ticker message not understood"]
    assert line["log_level"] == "error"
    assert line["raw"].isascii()
    assert len(line["raw"]) <= 2_000


async def test_garbled_messages_do_not_flood(autojump_clock: MockClock, log: list[Any]) -> None:
    """A stream of nonsense is told every two seconds, not every time; the last one is not lost."""
    ticker = HealthyTicker(messages=["?"] * 500)
    async with in_memory(ticker) as dial, following(dial) as feed:
        items = await take(feed, 5)
        assert trio.current_time() == 2
        assert [type(item) for item in items] == [FeedBack, *[FeedLost, FeedBack] * 2]
        await trio.sleep(60)
    assert len([line for line in log if line["log_level"] == "error"]) == 2


# When the connection is not there


async def test_silence_is_a_lost_feed(autojump_clock: MockClock) -> None:
    """Five seconds without any message end a connection."""
    ticker = SilentTicker(messages=[HEARTBEAT])
    async with in_memory(ticker) as dial, following(dial) as feed:
        assert await take(feed, 2) == [FeedBack(), FeedLost("The ticker was silent for 5 s.")]
        assert trio.current_time() == 5
        await wait_all_tasks_blocked()
        assert ticker.ended == 1


async def test_connection_that_never_says_a_word_was_never_up(autojump_clock: MockClock) -> None:
    """An upgrade alone proves nothing: a proxy may give it."""
    async with in_memory(SilentTicker()) as dial, following(dial) as feed:
        assert await take(feed, 1) == [FeedLost("The ticker was silent for 5 s.")]


async def test_any_frame_is_a_sign_of_life(autojump_clock: MockClock) -> None:
    """Between two messages pings keep the connection, where silence would end it."""
    async with in_memory(PingsOnly(first=HEARTBEAT, then=14)) as dial, following(dial) as feed:
        assert await take(feed, 1) == [FeedBack()]
        await trio.sleep(60)
        assert repr(feed) == "<KiteFeed ticker.test, up>"


async def test_pings_alone_are_not_believed_for_long(autojump_clock: MockClock) -> None:
    """A server may answer whose source of orders has died: the book is read instead."""
    async with in_memory(PingsOnly(first=HEARTBEAT)) as dial, following(dial) as feed:
        told = [FeedBack(), FeedLost("The ticker told nothing for 15 s.")]
        assert await take(feed, 2) == told
        assert trio.current_time() == 15


async def test_pings_before_the_first_message_prove_nothing(autojump_clock: MockClock) -> None:
    """A connection that has told nothing is lost as soon as one that is silent."""
    async with in_memory(PingsOnly()) as dial, following(dial) as feed:
        assert await take(feed, 1) == [FeedLost("The ticker told nothing for 5 s.")]


async def test_part_of_a_message_is_a_sign_of_life(autojump_clock: MockClock) -> None:
    """A message that takes longer than the silence allowed is heard to its end."""
    async with in_memory(SlowTicker()) as dial, following(dial) as feed:
        assert await take(feed, 2) == [FeedBack(), order(1)]
        assert trio.current_time() == 3 * SlowTicker.PAUSE


async def test_heartbeats_keep_it_up(autojump_clock: MockClock) -> None:
    """A quiet account's connection stays."""
    ticker = HealthyTicker(pause=4.9)
    async with in_memory(ticker) as dial, following(dial) as feed:
        assert await take(feed, 1) == [FeedBack()]
        await trio.sleep(600)
        assert repr(feed) == "<KiteFeed ticker.test, up>"
    assert len(ticker.targets) == 1


async def test_backoff_grows_to_a_minute(autojump_clock: MockClock) -> None:
    """1, 2, 4 … 60 s between attempts, and the reader is told once."""
    ticker = RefusesAll(status=502)
    async with in_memory(ticker) as dial, following(dial) as feed:
        assert await take(feed, 1) == [FeedLost("The ticker refused the connection (502).")]
        await trio.sleep(250)
        assert ticker.times == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
        with trio.move_on_after(0) as nothing:
            await anext(feed)
        assert nothing.cancelled_caught


@pytest.mark.parametrize("chance,second", [(0, 0.8), ((1 << 16) - 1, 1.2)])
async def test_chance_moves_the_backoff(
    autojump_clock: MockClock, chance: int, second: float
) -> None:
    """By a fifth at the most, so that accounts do not come in step."""
    ticker = RefusesAll(status=502)
    async with in_memory(ticker) as dial, following(dial, chance=chance):
        await trio.sleep(2)
    assert ticker.times[1] == pytest.approx(second, abs=0.001)


async def test_connection_that_drops_at_once_is_not_steady(autojump_clock: MockClock) -> None:
    """Coming and going at once, again and again, is slowed down like any other failure."""
    ticker = DropsAfter(seconds=1)
    closed = FeedLost("The ticker's connection was closed (code 1006).")
    async with in_memory(ticker) as dial, following(dial) as feed:
        assert await take(feed, 6) == [FeedBack(), closed] * 3
        await trio.sleep(5)
    assert ticker.times == [0, 2, 5, 10]


async def test_steady_connection_begins_the_backoff_anew(autojump_clock: MockClock) -> None:
    """A drop after half a minute is followed by a new attempt after a second."""
    ticker = DropsAfter(seconds=40)
    async with in_memory(ticker) as dial, following(dial) as feed:
        await take(feed, 6)
    assert ticker.times == [0, 41, 82]


async def test_dial_that_takes_too_long_is_given_up(autojump_clock: MockClock) -> None:
    """Within 10 s of the start the reader knows that there is no feed."""

    async def dial(_url: TickerUrl) -> trio.abc.Stream:
        await trio.sleep_forever()

    async with following(dial) as feed:
        lost = FeedLost("There is no connection to ticker.test: it took too long.")
        assert await take(feed, 1) == [lost]
        assert trio.current_time() == 5


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 403",
        b"hello\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        WRONG_ACCEPT,
        b"HTTP/1.1 101 X\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: ws://elsewhere.test\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_what_is_no_ticker_is_no_crash(
    autojump_clock: MockClock, reply: bytes, *, ends: bool
) -> None:
    """Whatever answers the upgrade, it is tried again, and the reader knows within 10 s."""
    server = NotATicker(reply, ends=ends)
    async with in_memory(server) as dial, following(dial) as feed:
        assert [type(item) for item in await take(feed, 1)] == [FeedLost]
        assert trio.current_time() <= 5
        await trio.sleep(20)
    assert server.connections > 1


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 100,
        b"\x81\x02\xff\xff",  # a text that is not UTF-8
        b"\xc1\x01a",  # compressed, which was not agreed
        b"\x81\x81\x00\x00\x00\x00a",  # masked, as no server may
        b"\x88\x01\x00",  # half a close code
        b"\x88\x02\x03\xe8",
        b"\x82\x7f\x80" + bytes(7),  # longer than any frame can be
    ],
)
async def test_garbage_ends_the_connection(
    autojump_clock: MockClock, garbage: bytes, *, ends: bool
) -> None:
    """Bytes that are no WebSocket frames are a lost connection, and a new attempt."""
    ticker = GarbageTicker(garbage=garbage, ends=ends)
    async with in_memory(ticker) as dial, following(dial) as feed:
        assert [type(item) for item in await take(feed, 1)] == [FeedLost]
        await trio.sleep(20)
    assert len(ticker.times) > 1


@settings(max_examples=200)
@given(
    st.binary(max_size=60)
    | st.builds(
        lambda head, size, rest: bytes([head, size]) + rest,
        st.sampled_from([0x81, 0x82, 0x88, 0x89, 0x8A, 0x01, 0x02, 0x80, 0x00]),
        st.integers(0, 127),
        st.binary(max_size=140),
    ),
    st.booleans(),
    st.booleans(),
)
def test_no_bytes_stop_it(garbage: bytes, upgraded: bool, ends: bool) -> None:  # noqa: FBT001  # hypothesis
    """Any bytes at all, before or after the upgrade, leave a feed that goes on trying."""
    server = GarbageTicker(garbage=garbage, ends=ends) if upgraded else NotATicker(garbage, ends)

    async def follow() -> None:
        async with in_memory(server) as dial, following(dial):
            await trio.sleep(15)

    trio.run(follow, clock=MockClock(autojump_threshold=0))
    assert (len(server.times) if isinstance(server, GarbageTicker) else server.connections) > 1


async def test_message_beyond_all_bounds_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message that does not end is not kept in memory until it does."""
    monkeypatch.setattr(feed_module, "MAX_MESSAGE_BYTES", 100)
    ticker = HealthyTicker(messages=[b"x" * 100, b"x" * 101])
    lost = FeedLost("The ticker's connection was closed (code 1009).")
    assert await told_by(ticker, 2) == [FeedBack(), lost]


async def test_reader_that_falls_behind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates that nobody takes are dropped, and the gap is told in its place."""
    monkeypatch.setattr(feed_module, "PUSHED_SIZE", 3)
    ticker = TalksTooMuch(updates=500)
    async with in_memory(ticker) as dial, following(dial) as feed:
        await ticker.done.wait()
        await wait_all_tasks_blocked()
        items = await take(feed, 5)
        assert items == [FeedBack(), order(1), order(2), FeedLost(TOO_FAST), FeedBack()]
        await ticker.connections[0].send_message(pushed("501"))
        assert await take(feed, 1) == [order(501)]


async def test_gap_of_a_feed_that_is_down_has_no_end_yet(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who falls behind while the connection drops hears that it is back only when it is."""
    monkeypatch.setattr(feed_module, "PUSHED_SIZE", 2)
    ticker = DropsAfter(seconds=1, messages=[pushed("1"), pushed("2")])
    async with in_memory(ticker) as dial, following(dial) as feed:
        await trio.sleep(1.5)
        assert await take(feed, 3) == [FeedBack(), order(1), FeedLost(TOO_FAST)]
        with trio.move_on_after(0.4) as nothing:
            await anext(feed)
        assert nothing.cancelled_caught
        assert await take(feed, 2) == [FeedBack(), order(1)]
        assert trio.current_time() == 2


# Logins


async def test_refused_token_waits_for_a_new_one(autojump_clock: MockClock) -> None:
    """A 403 is asked once, not all day; a login is used at once."""
    ticker, session = RefusesToken(), Session(API_KEY, TOKEN)
    async with in_memory(ticker) as dial, following(dial, session) as feed:
        lost = FeedLost("Kite refused the access token (403): log in.")
        assert await take(feed, 1) == [lost]
        await trio.sleep(12 * 3600)
        assert ticker.tokens == [TOKEN]
        session.access_token = TOKEN
        await trio.sleep(60)
        assert ticker.tokens == [TOKEN]
        session.access_token = NEW_TOKEN
        assert await take(feed, 1) == [FeedBack()]
    assert ticker.tokens == [TOKEN, NEW_TOKEN]
    assert ticker.times[1] == 12 * 3600 + 60


async def test_without_a_login_nothing_is_asked(autojump_clock: MockClock) -> None:
    """The reader is told at once, and the first login begins the feed."""
    ticker, session = HealthyTicker(), Session(API_KEY)
    async with in_memory(ticker) as dial, following(dial, session) as feed:
        assert await take(feed, 1) == [FeedLost("There is no access token: log in.")]
        await trio.sleep(3600)
        assert ticker.targets == []
        session.access_token = NEW_TOKEN
        assert await take(feed, 1) == [FeedBack()]


async def test_new_login_replaces_the_connection(autojump_clock: MockClock) -> None:
    """A login ends the old token, so a connection that stands on it is made anew."""
    ticker, session = HealthyTicker(), Session(API_KEY, TOKEN)
    async with in_memory(ticker) as dial, following(dial, session) as feed:
        assert await take(feed, 1) == [FeedBack()]
        await trio.sleep(60)
        session.access_token = NEW_TOKEN
        lost = FeedLost("There is a new access token.")
        assert await take(feed, 2) == [lost, FeedBack()]
        assert trio.current_time() == 60
    assert ticker.tokens == [TOKEN, NEW_TOKEN]


async def test_login_ends_a_backoff(autojump_clock: MockClock) -> None:
    """Whoever logs in does not wait for a minute that counts from an old failure."""
    ticker, session = RefusesAll(status=502), Session(API_KEY, TOKEN)
    async with in_memory(ticker) as dial, following(dial, session):
        await trio.sleep(100)
        session.access_token = NEW_TOKEN
        await trio.sleep(0.5)
        assert ticker.times[-1] == 100
        await trio.sleep(1)
        assert ticker.times[-1] == 101


def test_session_shows_no_secret() -> None:
    """Neither key nor token is in the representation."""
    assert repr(Session(API_KEY, TOKEN)) == "<Session, logged in>"
    assert repr(Session(API_KEY)) == "<Session, no login>"


@pytest.mark.parametrize(
    "token,header",
    [(NEW_TOKEN, "token kitekey:tomorrows"), (None, None), ("", None), ("a b", None), ("ä", None)],
)
def test_session_signs_calls(token: str | None, header: str | None) -> None:
    """What no header can hold is no token."""
    assert Session(API_KEY, token).authorization() == header


async def test_token_that_is_no_text_is_kites_to_refuse() -> None:
    """Half a character in a token breaks nothing here."""
    ticker, session = RefusesToken(), Session(API_KEY, "\ud800")
    async with in_memory(ticker) as dial, following(dial, session) as feed:
        assert await take(feed, 1) == [FeedLost("Kite refused the access token (403): log in.")]


# The end


async def test_reader_that_closes_ends_it_all(autojump_clock: MockClock) -> None:
    """The connection is cut, `run` returns, and there is nothing more."""
    ticker = HealthyTicker()
    async with in_memory(ticker) as dial:
        feed = KiteFeed(
            "primary",
            TickerUrl.parse("ws://ticker.test"),
            Session(API_KEY, TOKEN),
            read_order,
            lambda _bits: MIDDLE,
            dial,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run)
            assert await anext(feed) == FeedBack()
            await feed.aclose()
        assert [item async for item in feed] == []
        assert trio.current_time() == 0
        await trio.sleep(1.5)
        assert ticker.ended == 1


async def test_lane_follows_and_closes_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane sees what is pushed, reads the book for what was missed, and ends the connection."""
    ticker = DropsAfter(seconds=20)  # before the book is read by itself
    world = World(broker=FakeBroker())
    process = Process(world)
    async with in_memory(ticker) as dial, following(dial) as feed:
        monkeypatch.setattr(process.line, "updates", lambda: feed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.run)
            await process.ready.wait()
            await trio.sleep(0.2)
            await process.executor.submit_order(ACCOUNT, limit_order(), None)
            await trio.sleep(19)
            (order_id,) = world.broker.book
            reads = len(world.broker.reads)
            tag = world.broker.book[order_id].tag
            await ticker.connections[0].send_message(pushed(order_id, filled_quantity=1, tag=tag))
            await trio.sleep(0.2)
            assert world.store.orders[ACCOUNT, order_id].order.status == "COMPLETE"
            await trio.sleep(3)
            assert len(ticker.connections) == 2
            assert len(world.broker.reads) == reads + 1
            assert process.lane.state().feed_up
            process.lane.stop()
            await trio.sleep(1.5)
            assert ticker.ended == 1
            assert [item async for item in feed] == []
            process.kill()
    told = [event.data for event in world.store.events if event.event == "account_status"]
    states = [msgspec.json.decode(data)["state"] for data in told]
    assert states == ["feed_lost", "feed_back"]


# Real sockets


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of `localhost`, signed by nobody but itself, in one file."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("there is no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "ticker.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=ticker"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(path), "-out", str(path.with_suffix(".crt"))),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


@pytest.fixture
def self_signed(certificate: Path) -> ssl.SSLContext:
    """The server's side."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


async def test_self_signed_server_never_sees_the_token(self_signed: ssl.SSLContext) -> None:
    """A certificate that nobody vouches for ends the attempt before a byte of the request."""
    ticker = HealthyTicker()
    async with (
        listening(ticker, self_signed) as port,
        following(tls_dial(), url=f"wss://localhost:{port}") as feed,
    ):
        (lost,) = await take(feed, 1)
        await wait_all_tasks_blocked(0.05)
    assert isinstance(lost, FeedLost)
    assert f"There is no connection to localhost:{port}: " in lost.message
    assert "self-signed certificate" in lost.message
    assert ticker.targets == []


@pytest.mark.parametrize("host,trusted", [("localhost", True), ("127.0.0.1", False)])
async def test_certificate_must_be_the_hosts(
    certificate: Path, self_signed: ssl.SSLContext, host: str, *, trusted: bool
) -> None:
    """A trusted certificate of another name is no better than none."""
    ticker = HealthyTicker(messages=[pushed("1")])
    context = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
    async with (
        listening(ticker, self_signed) as port,
        following(tls_dial(context), url=f"wss://{host}:{port}") as feed,
    ):
        items = await take(feed, 2 if trusted else 1)
    if trusted:
        assert items == [FeedBack(), order(1)]
    else:
        assert "certificate is not valid for '127.0.0.1'" in repr(items)
        assert ticker.targets == []


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, where the clock is the real one."""
    monkeypatch.setattr(feed_module, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(feed_module, "FIRST_BACKOFF", 0.01)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "ticker,items",
    [
        (HealthyTicker(pause=0.1), [FeedBack(), order(1)]),
        (SilentTicker(), [FeedBack(), order(1), FeedLost, FeedBack(), order(1)]),
        (DropsAfter(seconds=0.01), [FeedBack(), order(1), FeedLost, FeedBack(), order(1)]),
        (RefusesToken(), [FeedLost("Kite refused the access token (403): log in.")]),
        (TalksTooMuch(), [FeedBack(), order(1), order(2), order(3)]),
        (GarbageTicker(garbage=b"\xff" * 9), [FeedLost]),
        (NotATicker(b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n"), [FeedLost]),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_the_same_over_sockets(ticker: Server, items: list[FeedItem | type]) -> None:
    """Each fault is told over a real connection as it is in memory."""
    if isinstance(ticker, HealthyTicker) and not isinstance(ticker, TalksTooMuch):
        ticker.messages.append(pushed("1"))
    async with (
        listening(ticker) as port,
        following(tls_dial(NO_TRUST), url=f"ws://127.0.0.1:{port}") as feed,
    ):
        for expected in items:
            item = await anext(feed)
            assert item == expected or type(item) is expected


async def test_refused_connection_is_told() -> None:
    """With nobody at the port, the reader hears the system's own reason."""
    async with listening(NotATicker(b"")) as port:
        pass
    async with following(tls_dial(NO_TRUST), url=f"ws://127.0.0.1:{port}") as feed:
        (lost,) = await take(feed, 1)
    assert isinstance(lost, FeedLost)
    assert lost.message.startswith(f"There is no connection to 127.0.0.1:{port}: ")
    assert lost.message.endswith("Connection refused.")
