"""The order calls' HTTP client against servers that fail in every way, over real sockets."""

import gzip
import shutil
import socket
import ssl
import struct
import subprocess
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kite_texts import PLACED
from tests.receiver import Dribbler, Handler, Mute, Receiver, answer, listening, read_request
from ticker_actors import http1
from ticker_actors.brokers.kite import http
from ticker_actors.brokers.kite.classify import place_outcome
from ticker_actors.brokers.kite.http import HttpClient
from ticker_actors.brokers.kite.root import Root
from ticker_actors.http1 import HttpResult, Lost, Reply, Unsent
from ticker_actors.model.outcomes import Placed, Refused, Unknown

DEADLINE = 0.4
"""Seconds: short for the tests that wait for its end."""
BODY = b"quantity=1"
HEADERS = (("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "10"))


def client_of(port: int, host: str = "127.0.0.1", scheme: str = "http", **named: Any) -> HttpClient:  # noqa: ANN401
    """A client of a server on loopback."""
    root = Root.parse(f"{scheme}://{host}:{port}")
    return HttpClient(root, deadline=named.pop("deadline", DEADLINE), **named)


async def post(client: HttpClient, idle: float = 2.0) -> HttpResult:
    """One order call."""
    return await client.request("POST", "/orders/regular", HEADERS, BODY, idle=idle)


@asynccontextmanager
async def served(handler: Handler) -> AsyncGenerator[HttpClient]:
    """A client and the server it talks to."""
    async with listening(handler) as port:
        with closing(client_of(port)) as client:
            yield client


@dataclass
class OneBreath:
    """Reads a request, says so many bytes and hangs up."""

    text: bytes

    async def __call__(self, stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(self.text)


@dataclass
class Lasting:
    """Answers request after request on each connection."""

    text: bytes = answer(200, body=b"fine")
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    async def __call__(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        while True:
            self.requests.append((await read_request(stream)).body)
            await stream.send_all(self.text)


@dataclass
class HangsUpAtOnce:
    """Takes the connection and ends it."""

    async def __call__(self, stream: trio.abc.Stream) -> None:
        await stream.aclose()


@dataclass
class ResetsAfterRequest:
    """Reads the request and breaks the connection with a RST."""

    async def __call__(self, stream: trio.abc.Stream) -> None:
        await read_request(stream)
        assert isinstance(stream, trio.SocketStream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()


class TalksBeforeItIsAsked:
    """Sends a whole answer as soon as it is connected to, before it read anything."""

    async def __call__(self, stream: trio.abc.Stream) -> None:
        await stream.send_all(answer(200, body=b"unasked"))
        await read_request(stream)


class BabblesForEver:
    """Sends 1xx answers without end."""

    async def __call__(self, stream: trio.abc.Stream) -> None:
        await read_request(stream)
        while True:
            await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            await trio.sleep(0.01)


async def test_one_whole_exchange() -> None:
    """The request goes out as it is asked for, and the answer comes back as it was given."""
    receiver = Receiver([answer(201, "X-Thing: Yes", body=b"content")])
    async with served(receiver) as client:
        result = await post(client)
    assert result == Reply(201, {"content-length": "7", "x-thing": "Yes"}, b"content")
    (request,) = receiver.requests
    assert request.line == "POST /orders/regular HTTP/1.1"
    assert request.body == BODY
    assert request.headers["host"].startswith("127.0.0.1:")
    assert "connection" not in request.headers


async def test_a_refused_connection_is_unsent() -> None:
    """Nobody listens: nothing was sent."""
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        result = await post(client_of(unused.getsockname()[1]))
    assert isinstance(result, Unsent)
    assert "refused" in result.message


async def test_an_unknown_host_is_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve: nothing was sent."""

    def unknown(*_args: object, **_named: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    result = await post(client_of(80, "kite.invalid"))
    assert result == Unsent(
        "There is no connection to kite.invalid port 80: Name or service not known."
    )


async def test_a_silent_host_is_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that takes too long is given up before a byte is sent."""
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(trio, "open_tcp_stream", _never)
    result = await post(client_of(80))
    assert result == Unsent("There is no connection to 127.0.0.1 port 80: it took too long.")


async def _never(*_args: object, **_named: object) -> None:
    await trio.sleep_forever()


def resolving(monkeypatch: pytest.MonkeyPatch, **names: tuple[str, ...]) -> None:
    """Make `NAME.test` lead to these addresses; all else stays as it is."""
    real = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **named: Any) -> list[Any]:  # noqa: ANN401
        addresses = names.get(str(host).removesuffix(".test"), (host,))
        return [entry for address in addresses for entry in real(address, *args, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


async def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several addresses the first that answers is used."""
    resolving(monkeypatch, two=("127.0.0.2", "127.0.0.1"))
    async with listening(Lasting()) as port:
        with closing(client_of(port, "two.test")) as client:
            result = await post(client)
    assert isinstance(result, Reply)


@pytest.mark.parametrize(
    "server",
    [
        HangsUpAtOnce(),
        ResetsAfterRequest(),
        OneBreath(b""),
        OneBreath(b"HTTP/1.1 200 OK\r\nContent-Le"),
        OneBreath(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf of it"),
        OneBreath(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        OneBreath(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhello"),
        OneBreath(b"HTTP/1.1 100 Continue\r\n\r\n"),
        OneBreath(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
        OneBreath(b"SSH-2.0-OpenSSH_9.2\r\n"),
        OneBreath(b"\x15\x03\x01\x00\x02\x02\x46"),
        OneBreath(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * http1.MOST_AROUND_BYTES),
        OneBreath(answer(200, "Content-Encoding: gzip", body=b"not gzip")),
        OneBreath(
            answer(200, "Content-Encoding: gzip", body=gzip.compress(b"whole", mtime=0)[:-3])
        ),
    ],
    ids=lambda server: str(server)[:60],
)
async def test_whatever_breaks_after_the_request_is_lost(server: Handler) -> None:
    """A cut, broken or foreign answer is no answer, and never proof that nothing was sent."""
    async with served(server) as client:
        assert isinstance(await post(client), Lost)


@pytest.mark.parametrize(
    "server",
    [Mute(), Dribbler(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"), BabblesForEver()],
)
async def test_one_deadline_holds_for_all_of_a_call(server: Handler) -> None:
    """However steadily bytes come, the call ends at its deadline, as lost."""
    async with served(server) as client:
        assert await post(client) == Lost("No whole answer came within 0.4 s.")


async def test_a_giant_body_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer beyond the bound is not kept, plain or packed."""
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1000)
    async with served(OneBreath(answer(200, body=b"x" * 1001))) as client:
        assert isinstance(await post(client), Lost)
    bomb = gzip.compress(b"x" * 100_000)
    async with served(OneBreath(answer(200, "Content-Encoding: gzip", body=bomb))) as client:
        assert isinstance(await post(client), Lost)


@pytest.mark.parametrize(
    "text",
    [
        answer(200, body=b"fine"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n2\r\nne\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfine",
        b"HTTP/1.0 200 OK\r\n\r\nfine",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        answer(200, "Content-Encoding: gzip", body=gzip.compress(b"fine", mtime=0)),
        answer(200, "Content-Encoding: deflate", body=zlib.compress(b"fine")),
        answer(200, "Content-Encoding: identity", body=b"fine"),
    ],
)
async def test_every_way_to_frame_an_answer(text: bytes) -> None:
    """Lengths, chunks, an end of the connection, early hints and packing all give the content."""
    async with served(OneBreath(text)) as client:
        result = await post(client)
    assert isinstance(result, Reply)
    assert (result.status, result.body) == (200, b"fine")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """A redirect is an answer like any other, and nothing goes where it points."""
    server = Lasting(answer(status, "Location: /elsewhere"))
    async with served(server) as client:
        result = await post(client)
    assert isinstance(result, Reply)
    assert result.status == status
    assert len(server.requests) == 1


async def test_a_fresh_connection_is_used_again() -> None:
    """Calls that follow each other share a connection."""
    server = Lasting()
    async with served(server) as client:
        for _ in range(3):
            assert isinstance(await post(client), Reply)
        assert "1 idle" in repr(client)
    assert (server.connections, len(server.requests)) == (1, 3)


async def test_calls_at_the_same_time_have_connections_of_their_own() -> None:
    """No call waits for another one's answer."""
    server = Lasting()
    async with served(server) as client, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(post, client)
    assert server.connections == 3


async def test_an_order_call_takes_no_idle_connection() -> None:
    """What was idle for too long is left to reads, and to nobody when it is older still."""
    server = Lasting()
    async with served(server) as client:
        await post(client)
        await post(client, idle=0.0)
        assert server.connections == 2
        await post(client, idle=2.0)
    assert server.connections == 2


async def test_idle_connections_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many connections only the youngest are kept, and none that is too old for a read."""
    monkeypatch.setattr(http, "IDLE_CONNECTIONS", 2)
    async with served(Lasting()) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(post, client)
        assert "2 idle" in repr(client)
    monkeypatch.setattr(http, "READ_IDLE_SECONDS", 0.05)
    async with served(Lasting()) as client:
        for _ in range(2):
            await post(client, idle=-1.0)
            assert "1 idle" in repr(client)
            await trio.sleep(0.1)


async def test_the_source_address_can_be_chosen() -> None:
    """Orders are taken only from a registered address; a machine may have several."""
    seen: list[str] = []

    async def asks_who(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        seen.append(stream.socket.getpeername()[0])
        await read_request(stream)
        await stream.send_all(answer(200))

    async with listening(asks_who) as port:
        with closing(client_of(port, local_address="127.0.0.9")) as client:
            assert isinstance(await post(client), Reply)
        with closing(client_of(port, local_address="192.0.2.1")) as client:
            assert isinstance(await post(client), Unsent)
    assert seen == ["127.0.0.9"]


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    """A server that hung up meanwhile is seen before the next request, which then is not lost."""
    receiver = Receiver([answer(200, body=b"fine")])  # hangs up after each answer
    async with served(receiver) as client:
        assert isinstance(await post(client), Reply)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert isinstance(await post(client), Reply)
    assert len(receiver.requests) == 2


async def test_an_answer_nobody_asked_for_ends_the_connection() -> None:
    """More than one answer to one request: what follows could be taken for the next one's."""
    server = Lasting(answer(200, body=b"fine") + answer(200, body=b"more"))
    async with served(server) as client:
        for _ in range(2):
            result = await post(client)
            assert isinstance(result, Reply)
            assert result.body == b"fine"
    assert server.connections == 2


async def test_nothing_is_sent_twice() -> None:
    """A call that failed in the middle was one request, and the next one is another connection."""
    server = Lasting(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut")
    async with served(server) as client:
        assert isinstance(await post(client), Lost)
        assert isinstance(await post(client), Lost)
    assert (server.connections, len(server.requests)) == (2, 2)


async def test_a_cancelled_call_that_was_sent_still_gets_its_answer() -> None:
    """After the first byte the answer is worth more than a quick end."""
    arrived, go = trio.Event(), trio.Event()
    results: list[HttpResult] = []

    async def slow(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        arrived.set()
        await go.wait()
        await stream.send_all(answer(200, body=b"fine"))

    async def call(client: HttpClient) -> None:
        results.append(await post(client))

    async with served(slow) as client, trio.open_nursery() as nursery:
        nursery.start_soon(call, client)
        await arrived.wait()
        nursery.cancel_scope.cancel()
        go.set()
    (result,) = results
    assert isinstance(result, Reply)


async def test_a_call_that_is_already_cancelled_sends_nothing() -> None:
    """A process that is going down does not begin a request, not even on an open connection."""
    server = Lasting()
    async with served(server) as client:
        await post(client)
        with trio.CancelScope() as scope:
            scope.cancel()
            await post(client)
            pytest.fail("it went on")
    assert len(server.requests) == 1


class NoSocket:
    """Stands where only a real connection has its socket."""

    def is_readable(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing."""


GOOD = answer(200, "Transfer-Encoding: chunked", "Content-Encoding: gzip", body=PLACED) + b"5\r\n"


@settings(max_examples=200, deadline=None)
@given(
    text=st.binary(max_size=300)
    | st.builds(
        lambda at, odd, end: GOOD[:at] + odd + GOOD[at + len(odd) : end],
        st.integers(0, len(GOOD)),
        st.binary(max_size=10),
        st.integers(0, len(GOOD)),
    )
)
def test_no_bytes_break_the_client(text: bytes) -> None:
    """Whatever a server says, whole or in pieces, is a reply or lost, never an exception."""

    async def call() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        connection = http1.Connection(ours, cast("Any", NoSocket()))
        await theirs.send_all(text)
        await theirs.send_eof()
        deadline = trio.current_time() + 1
        result = await connection.exchange(b"a request", deadline, most_bytes=1000)
        assert isinstance(result, Reply | Lost)
        assert isinstance(place_outcome(result), Placed | Refused | Unknown)
        if connection.reusable():
            assert isinstance(result, Reply)

    trio.run(call)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of `kite.test`, in one file."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("there is no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "kite.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=kite"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=DNS:kite.test"),
            *("-keyout", str(path), "-out", str(path.with_suffix(".crt"))),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


@pytest.fixture
def tls_server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server needs; its names lead to loopback meanwhile."""
    resolving(monkeypatch, kite=("127.0.0.1",), other=("127.0.0.1",))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


async def test_tls_with_the_right_certificate(
    certificate: Path, tls_server: ssl.SSLContext
) -> None:
    """A trusted certificate of the host's name carries requests, several on one connection."""
    trust = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
    server = Lasting()
    async with listening(server, tls_server) as port:
        with closing(client_of(port, "kite.test", "https", ssl_context=trust)) as client:
            for _ in range(3):
                assert isinstance(await post(client), Reply)
    assert server.connections == 1


async def test_tls_with_a_wrong_name_is_unsent(
    certificate: Path, tls_server: ssl.SSLContext
) -> None:
    """A certificate of another host ends it before a byte of the request."""
    trust = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
    server = Lasting()
    async with listening(server, tls_server) as port:
        result = await post(client_of(port, "other.test", "https", ssl_context=trust))
    assert isinstance(result, Unsent)
    assert "Hostname mismatch" in result.message
    assert not server.requests


async def test_tls_with_an_unknown_authority_is_unsent(tls_server: ssl.SSLContext) -> None:
    """The default context trusts nobody's own certificate."""
    async with listening(Lasting(), tls_server) as port:
        result = await post(client_of(port, "kite.test", "https"))
    assert isinstance(result, Unsent)
    assert "self-signed certificate" in result.message


@pytest.mark.parametrize("server", [HangsUpAtOnce(), TalksBeforeItIsAsked(), Mute()])
async def test_a_failed_handshake_is_unsent(
    server: Handler, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no TLS, or never becomes TLS, gets no request."""
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.2)
    async with listening(server) as port:
        assert isinstance(await post(client_of(port, scheme="https")), Unsent)


async def test_the_environment_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a proxy nor a netrc of the environment changes a call."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(netrc))
    receiver = Receiver()
    async with served(receiver) as client:
        assert isinstance(await post(client), Reply)
    assert "authorization" not in receiver.requests[0].headers


@pytest.mark.parametrize(
    "url, target, authority",
    [
        ("https://api.kite.trade", "/orders?i=NSE%3AM%26M", "api.kite.trade"),
        ("https://api.kite.trade:443/", "/orders?i=NSE%3AM%26M", "api.kite.trade"),
        ("https://h/oms/?x=1", "/oms/orders?x=1&i=NSE%3AM%26M", "h"),
        ("http://[::1]:8090/a/b?x=1&y", "/a/b/orders?x=1&y&i=NSE%3AM%26M", "[::1]:8090"),
    ],
)
def test_a_root_keeps_its_path_and_query(url: str, target: str, authority: str) -> None:
    """Prefix and further parameters go with every request."""
    root = Root.parse(url)
    assert root.target("/orders", [("i", "NSE:M&M")]) == target
    assert root.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        *("", "api.kite.trade", "ftp://h", "https://", "https://user:secret@h", "https://h/#a"),
        *("https://h:99999", "https://h/ä", "https://h/a b", "https://[::1"),
    ],
)
def test_what_is_no_root_is_named(url: str) -> None:
    """A URL that cannot be a root is refused with a sentence that does not repeat it."""
    with pytest.raises(ValueError, match=r"^It [a-z ]+.*\.$") as caught:
        Root.parse(url)
    assert "secret" not in str(caught.value)
