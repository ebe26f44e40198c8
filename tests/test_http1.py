"""What of an answer's bytes is an answer, and whether a connection can go on after it."""

from typing import Any, NamedTuple, cast

import h11
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from ticker_actors.http1 import MOST_AROUND_BYTES, Connection, Lost, Reply, request

MOST_BYTES = 1000
"""Of a body."""


class Got(NamedTuple):
    """A reply, and whether its connection goes on."""

    status: int
    headers: dict[str, str]
    body: bytes
    reusable: bool


def read(pieces: list[bytes]) -> Got | None:
    """What a client makes of an answer; None when it is lost."""

    async def call() -> Got | None:
        ours, theirs = trio.testing.memory_stream_pair()
        connection = Connection(ours, cast("Any", None))
        result: Reply | Lost | None = None

        async def exchange() -> None:
            nonlocal result
            deadline = trio.current_time() + 10
            result = await connection.exchange(b"?", deadline, most_bytes=MOST_BYTES)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange)
            for piece in pieces:
                await theirs.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            await theirs.send_eof()
        assert result is not None
        if isinstance(result, Lost):
            assert not connection.reusable()
            return None
        headers = dict(result.headers)
        return Got(result.status, headers, result.body, connection.reusable())

    return trio.run(call, clock=trio.testing.MockClock())


OK = b"HTTP/1.1 200 OK\r\n"
TWO = b"Content-Length: 2\r\n\r\nok"
SIZED = {"content-length": "2"}

ANSWERS: dict[str, tuple[bytes, Got | None]] = {
    "whole": (OK + TWO, Got(200, SIZED, b"ok", reusable=True)),
    "without words": (b"HTTP/1.1 200\r\n" + TWO, Got(200, SIZED, b"ok", reusable=True)),
    "a refusal": (b"HTTP/1.1 404 No\r\n" + TWO, Got(404, SIZED, b"ok", reusable=True)),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n" + TWO, Got(200, SIZED, b"ok", reusable=False)),
    "the last one": (
        OK + b"Connection: close\r\n" + TWO,
        Got(200, {"connection": "close", **SIZED}, b"ok", reusable=False),
    ),
    "no body": (b"HTTP/1.1 204 Done\r\n\r\n", Got(204, {}, b"", reusable=True)),
    "to the end": (OK + b"\r\nok", Got(200, {}, b"ok", reusable=False)),
    "chunks and trailers": (
        OK + b"Transfer-Encoding: Chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nT: x\r\n\r\n",
        Got(200, {"transfer-encoding": "Chunked"}, b"ok", reusable=True),
    ),
    "two headers of a name": (
        OK + b"A: 1\r\na: \xff\r\n" + TWO,
        Got(200, {"a": "ÿ", **SIZED}, b"ok", reusable=True),
    ),
    "bare line ends": (
        (OK + TWO).replace(b"\r\n", b"\n"),
        Got(200, SIZED, b"ok", reusable=True),
    ),
    "informational first": (
        b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n" + OK + TWO,
        Got(200, SIZED, b"ok", reusable=True),
    ),
    "more than its length": (OK + TWO + b"more", Got(200, SIZED, b"ok", reusable=False)),
    "two answers": (OK + TWO + OK + TWO, Got(200, SIZED, b"ok", reusable=False)),
    "more than is read": (
        OK + b"Content-Length: 3000\r\n\r\n" + b"x" * 1100,
        Got(200, {"content-length": "3000"}, b"x" * 1100, reusable=False),
    ),
    "nothing": (b"", None),
    "an informational body": (
        b"HTTP/1.1 105 Odd\r\nContent-Length: 5\r\n\r\nhello" + OK + TWO,
        None,
    ),
    "only informational": (b"HTTP/1.1 100 Continue\r\n\r\n", None),
    "half a head": (OK + b"A: ", None),
    "half a body": (OK + b"Content-Length: 3\r\n\r\nok", None),
    "no last chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", None),
    "two lengths": (OK + b"Content-Length: 3\r\n" + TWO, None),
    "length and chunks": (OK + b"Transfer-Encoding: chunked\r\n" + TWO, None),
    "another coding": (OK + b"Transfer-Encoding: gzip\r\n\r\nok", None),
    "a length that is none": (OK + b"Content-Length: +2\r\n\r\nok", None),
    "another protocol": (b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", None),
    "HTTP/2": (b"HTTP/2 200 OK\r\n" + TWO, None),
    "no status": (b"HTTP/1.1 000 OK\r\n" + TWO + OK + TWO, None),
    "a name that is none": (OK + b"A b: c\r\n" + TWO, None),
}


@pytest.mark.parametrize("bytes_, expected", ANSWERS.values(), ids=ANSWERS)
def test_what_is_an_answer(bytes_: bytes, expected: Got | None) -> None:
    """It is the same in one piece and byte by byte, but for what is read beyond its end."""
    assert read([bytes_]) == expected
    found = read([bytes_[at : at + 1] for at in range(len(bytes_))])
    if expected is not None and found is not None:
        assert found.body == expected.body[: MOST_BYTES + 1]
        found = found._replace(body=expected.body)
        if len(bytes_) > len(OK + TWO) and found.reusable:  # the rest shows when it is used again
            found = found._replace(reusable=expected.reusable)
    assert found == expected


@pytest.mark.parametrize(
    "start, rest",
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK, b"A: b\r\n"),
        (OK + b"A: ", b"b" * 100),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: ", b"b" * 100),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n1;", b"b" * 100),
    ],
)
def test_what_has_no_end_is_lost(start: bytes, rest: bytes) -> None:
    """Heads, trailers and chunks' extensions are not collected for ever."""
    piece = rest * (MOST_AROUND_BYTES // len(rest) // 2 + 1)
    assert read([start, piece, piece, piece, piece]) is None


def test_a_little_body_in_much_else_is_lost() -> None:
    """A byte now and then does not make an endless answer a good one."""
    chunk = b"1;" + b"x" * 50_000 + b"\r\ny\r\n"
    assert read([OK + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 10]) is None


async def test_nothing_is_sent_after_the_deadline() -> None:
    """The process may have stood still: what was to go then does not go now."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0] as listener:
        port = listener.socket.getsockname()[1]
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with await listener.accept() as server:
            connection = Connection(stream, stream.socket)
            deadline = trio.current_time() - 60
            result = await connection.exchange(b"an order", deadline, most_bytes=MOST_BYTES)
            connection.close()
            assert isinstance(result, Lost)
            assert await server.receive_some() == b""


GOOD = (
    b"HTTP/1.1 200 OK\r\nDate: Fri, 21 Nov 2025 06:30:00 GMT\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/json\r\n\r\n4\r\n{ok:\r\n3\r\n 1}\r\n0\r\n\r\n"
)


@settings(max_examples=500, deadline=None)
@given(
    good=st.sampled_from((GOOD, OK + TWO, OK + b"\r\nok")),
    at=st.integers(0, len(GOOD)),
    odd=st.sampled_from((b"", b"\r\n", b" ", b":", b"0", b"\n", b"\xff", b"chunked", b"2")),
    skip=st.integers(0, 3),
)
def test_it_reads_what_h11_reads(good: bytes, at: int, odd: bytes, skip: int) -> None:
    """Whatever is changed in an answer: where both take it, they take the same."""
    text = good[:at] + odd + good[at + skip :]
    found, other = read([text]), by_h11(text)
    if found is not None and other is not None:
        assert found[:3] == other


def by_h11(text: bytes) -> tuple[int, dict[str, str], bytes] | None:
    """What h11 makes of it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(text)
    client.receive_data(b"")
    head, body = None, b""
    try:
        while True:
            match client.next_event():
                case h11.Response() as response:
                    head = response
                case h11.Data(data=data):
                    body += bytes(data)
                case h11.EndOfMessage():
                    break
                case h11.InformationalResponse():
                    pass
                case _:
                    return None
    except h11.RemoteProtocolError:
        return None
    assert head is not None
    headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    return head.status_code, headers, body


@pytest.mark.parametrize("value", ["", "x", "a b", "a\tb", "\xe9", "a" * 10_000])
def test_what_a_header_can_hold(value: str) -> None:
    """It stands in the request as it is."""
    data = request("POST", "/a?b=c", [("Host", "h"), ("X", value)], b"body")
    text = f"POST /a?b=c HTTP/1.1\r\nHost: h\r\nX: {value}\r\n\r\nbody"
    assert data == text.encode("latin-1")


@pytest.mark.parametrize("value", [" ", "a ", "\ta", "a\r\nB: c", "a\nb", "a\0b", "a\x7f", "ключ"])
def test_what_no_header_can_hold(value: str) -> None:
    """It is refused, and not repeated."""
    with pytest.raises(ValueError, match=r"^A request cannot hold that\.$"):
        request("POST", "/", [("X", value)], b"")


@pytest.mark.parametrize("target", ["", "/a b", "/a\r\n", "/ä", "/\x7f"])
def test_what_no_target_can_hold(target: str) -> None:
    """It is refused."""
    with pytest.raises(ValueError, match="cannot hold"):
        request("POST", target, [], b"")
