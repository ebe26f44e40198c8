"""One webhook request over real sockets: what is sent, where it may go, and when it is cut."""

import gzip
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.receiver import OK, Dribbler, Mute, Receiver, answer, listening, read_request, soon
from tests.turns import counted_turns
from ticker_actors.actors import webhook_client
from ticker_actors.actors.webhook_client import LONGEST_BODY, WebhookClient
from ticker_actors.http1 import READ_BYTES
from ticker_actors.model.webhook_rules import Answer

DEADLINE = 0.4
"""Seconds: short for the tests that wait for its end."""


NO_TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made at once; the real one reads all of the world's authorities."""


@pytest.fixture
async def client() -> AsyncGenerator[WebhookClient]:
    """A client that may go to loopback."""
    async with WebhookClient(allow_private=True, deadline=DEADLINE, ssl_context=NO_TRUST) as client:
        yield client


@pytest.fixture
def public_client() -> WebhookClient:
    """A client that may not."""
    return WebhookClient(allow_private=False, deadline=DEADLINE, ssl_context=NO_TRUST)


@contextmanager
def cut_at(seconds: float) -> Iterator[None]:
    """What is inside ends by a deadline of so many seconds, neither before nor much later."""
    began = time.monotonic()
    yield
    assert seconds <= time.monotonic() - began < seconds + 1


class Resolver:
    """A name server of the test's own: each look-up of a name takes the next of its answers."""

    def __init__(self, names: dict[str, list[list[str]]]) -> None:
        self.names = names
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:  # noqa: ANN401
        if host not in self.names:
            return self._real(host, port, *args, **kwargs)
        self.asked.append(host)
        answers = self.names[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            entry
            for address in addresses
            for entry in self._real(address, port, type=socket.SOCK_STREAM)
        ]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Resolver]:
    """Makes the system resolve some names as the test says."""

    def install(**names: list[list[str]]) -> Resolver:
        resolver = Resolver({f"{name}.test": answers for name, answers in names.items()})
        monkeypatch.setattr(socket, "getaddrinfo", resolver)
        return resolver

    return install


async def test_the_request_is_what_was_asked(client: WebhookClient) -> None:
    """Headers and bytes arrive as given, and nothing that identifies a library is added."""
    async with listening(receiver := Receiver()) as port:
        headers = {"Content-Type": "application/json", "User-Agent": "us", "X-Webhook-Secret": "s"}
        sent = await client.post(f"http://127.0.0.1:{port}/a%20b?c=d", headers, b'{"a": 1}')
    assert sent == Answer(status=200)
    (request,) = receiver.requests
    assert request.line == "POST /a%20b?c=d HTTP/1.1"
    assert request.body == b'{"a": 1}'
    assert request.headers == {
        "host": f"127.0.0.1:{port}",
        "content-type": "application/json",
        "content-length": "8",
        "user-agent": "us",
        "x-webhook-secret": "s",
        "accept": "*/*",
        "accept-encoding": "identity",
    }


@pytest.mark.parametrize("status", [200, 204, 404, 410, 500])
async def test_the_status_is_the_answer(client: WebhookClient, status: int) -> None:
    """Any complete answer is given back as its status."""
    async with listening(Receiver([answer(status)])) as port:
        assert await client.post(f"http://127.0.0.1:{port}", {}, b"") == Answer(status=status)


async def test_retry_after_is_handed_on(client: WebhookClient) -> None:
    """What the receiver asks for is kept in its own words."""
    async with listening(Receiver([answer(503, "Retry-After: 120")])) as port:
        sent = await client.post(f"http://127.0.0.1:{port}", {}, b"")
    assert sent == Answer(status=503, retry_after="120")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_never_followed(client: WebhookClient, status: int) -> None:
    """A redirect is an answer like another: the request stays one request."""
    async with listening(receiver := Receiver()) as port:
        url = f"http://127.0.0.1:{port}/"
        receiver.answers = [answer(status, f"Location: {url}again")]
        assert await client.post(url, {}, b"") == Answer(status=status)
    assert len(receiver.requests) == 1


async def test_proxies_of_the_environment_are_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`HTTP_PROXY` and its kin would lead around the guard, so they count for nothing."""
    async with listening(proxy := Receiver()) as proxy_port, listening(Receiver()) as port:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy_port}")
        async with WebhookClient(allow_private=True) as client:
            assert await client.post(f"http://127.0.0.1:{port}/", {}, b"") == Answer(status=200)
    assert not proxy.requests


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n",
    ],
    ids=["headers", "body", "chunk"],
)
async def test_a_dribbling_receiver_is_cut(client: WebhookClient, text: bytes) -> None:
    """The deadline is for the whole exchange: bytes that keep coming do not extend it."""
    async with listening(dribbler := Dribbler(text)) as port:
        with cut_at(DEADLINE):
            sent = await client.post(f"http://127.0.0.1:{port}/", {}, b"")
        await soon(dribbler.ended)
    assert sent == Answer(error="There was no complete answer within 0.4 s.")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_mute_receiver_is_cut(client: WebhookClient, scheme: str) -> None:
    """Silence ends at the deadline, in a TLS handshake too, and the connection is closed."""
    async with listening(mute := Mute()) as port:
        with cut_at(DEADLINE):
            sent = await client.post(f"{scheme}://127.0.0.1:{port}/", {}, b"")
        await soon(mute.ended)
    assert sent == Answer(error="There was no complete answer within 0.4 s.")


async def test_an_endless_body_is_left_unread(client: WebhookClient) -> None:
    """After 64 KiB the answer counts as it stands, and the receiver is left."""
    left = trio.Event()

    async def endless(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        try:
            while True:
                await stream.send_all(b"x" * 10_000)
        except trio.BrokenResourceError:
            left.set()

    async with listening(endless) as port:
        assert await client.post(f"http://127.0.0.1:{port}/", {}, b"") == Answer(status=200)
        await soon(left)


async def test_nothing_is_unpacked(client: WebhookClient) -> None:
    """A compressed body, asked for by nobody, is counted as it comes: it cannot swell."""
    bomb = gzip.compress(bytes(10_000_000))
    assert len(bomb) < 64 * 1024
    for body in (bomb, b"not gzip at all"):
        async with listening(Receiver([answer(200, "Content-Encoding: gzip", body=body)])) as port:
            assert await client.post(f"http://127.0.0.1:{port}/", {}, b"") == Answer(status=200)


@pytest.mark.parametrize(
    "reply",
    [b"", b"\x00" * 100, b"SMTP hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx"],
    ids=["nothing", "zeros", "other protocol", "cut short"],
)
async def test_what_is_not_http_is_an_error(client: WebhookClient, reply: bytes) -> None:
    """Nonsense is a failed attempt, whatever it is."""
    async with listening(Receiver([reply])) as port:
        sent = await client.post(f"http://127.0.0.1:{port}/", {}, b"")
    message = "The connection ended before the whole answer came, or it is not HTTP."
    assert sent == Answer(error=message)


async def test_a_refused_connection_says_so(client: WebhookClient) -> None:
    """The system's words for the failure are kept."""
    async with listening(Receiver()) as port:
        pass
    sent = await client.post(f"http://127.0.0.1:{port}/", {}, b"")
    assert sent.error is not None
    assert "Connection refused" in sent.error


@pytest.mark.parametrize("url", ["http://[::1/", "ftp://localhost/", f"http://{'a' * 70}.test/"])
async def test_an_impossible_url_is_an_error(client: WebhookClient, url: str) -> None:
    """A URL that cannot be used fails the attempt, not the service."""
    assert await client.post(url, {}, b"") == Answer(error="The request cannot be sent as it is.")


@pytest.mark.parametrize("secret", ["tail ", "two\r\nlines", "ключ"])
async def test_no_error_tells_the_secret(client: WebhookClient, secret: str) -> None:
    """A secret that no header can carry is not quoted in the error."""
    async with listening(Receiver()) as port:
        sent = await client.post(f"http://127.0.0.1:{port}/", {"X-Webhook-Secret": secret}, b"")
    assert sent == Answer(error="The request cannot be sent as it is.")


async def test_private_addresses_are_not_even_called(public_client: WebhookClient) -> None:
    """Without leave no connection to loopback is made, by any of its names."""
    async with listening(mute := Mute()) as port:
        for host in ("127.0.0.1", "localhost", "0x7f.1", "127.1", "2130706433", "[::ffff:7f00:1]"):
            sent = await public_client.post(f"http://{host}:{port}/", {}, b"")
            assert sent.error is not None
            assert "WEBHOOK_ALLOW_PRIVATE" in sent.error
    assert mute.connections == 0


@dataclass
class Lasting:
    """Answers request after request; a connection ends after so many, or with an odd last word."""

    requests_each: int = 100
    last_word: bytes = b""
    connections: int = 0
    requests: int = 0
    ended: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        for _ in range(self.requests_each):
            try:
                await read_request(stream)
            except trio.BrokenResourceError:
                self.ended.set()
                return
            self.requests += 1
            await stream.send_all(OK)
        with suppress(trio.BrokenResourceError):
            await read_request(stream)
            self.requests += 1
            await stream.send_all(self.last_word)


async def test_a_connection_is_used_again(client: WebhookClient) -> None:
    """Deliveries one after the other go over one connection; at the same time, over their own."""
    async with listening(server := Lasting()) as port:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(3):
            assert await client.post(url, {}, b"") == Answer(status=200)
        assert server.connections == 1
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.post, url, {}, b"")
    assert (server.connections, server.requests) == (3, 6)


async def test_a_connection_that_died_idle_costs_nothing(client: WebhookClient) -> None:
    """A receiver that hangs up on the next request, unread or read, gets it again on a new one."""
    async with listening(server := Lasting(requests_each=1)) as port:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(3):
            assert await client.post(url, {}, b"") == Answer(status=200)
    assert (server.connections, server.requests) == (3, 5)


async def test_an_answer_cut_short_is_not_asked_for_again(client: WebhookClient) -> None:
    """Once a byte of the answer has come, the receiver has had the delivery: the attempt failed."""
    async with listening(server := Lasting(requests_each=1, last_word=b"HTTP/1.1 2")) as port:
        url = f"http://127.0.0.1:{port}/"
        assert await client.post(url, {}, b"") == Answer(status=200)
        assert (await client.post(url, {}, b"")).error is not None
    assert (server.connections, server.requests) == (1, 2)


async def test_an_idle_connection_is_let_go(
    client: WebhookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has not been used lately is closed, and of a host no longer used nothing is kept."""
    monkeypatch.setattr(webhook_client, "IDLE_SECONDS", 0.05)
    async with listening(server := Lasting()) as port:
        assert await client.post(f"http://127.0.0.1:{port}/", {}, b"") == Answer(status=200)
        client.tidy()
        assert server.connections == 1
        assert not server.ended.is_set()
        await trio.sleep(0.1)
        client.tidy()
        await soon(server.ended)


async def test_an_old_connection_is_not_used(
    client: WebhookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However busy, a connection ends some day: its host's name may lead elsewhere by now."""
    monkeypatch.setattr(webhook_client, "OLDEST_SECONDS", 0.0)
    async with listening(server := Lasting()) as port:
        for _ in range(2):
            assert await client.post(f"http://127.0.0.1:{port}/", {}, b"") == Answer(status=200)
    assert server.connections == 2


async def test_a_talkative_receiver_holds_up_nobody(client: WebhookClient) -> None:
    """However many pieces of an answer come at once, others have their turn in between."""
    pieces = b"1\r\nx\r\n" * LONGEST_BODY

    async def talk(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
        )

    async with listening(talk) as port, counted_turns() as turns:
        answer = await client.post(f"http://127.0.0.1:{port}/", {}, b"")
        assert answer == Answer(status=200)
        assert turns() > len(pieces) / READ_BYTES


async def test_few_hosts_are_kept(client: WebhookClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections wait for the hosts that were used last; each is a file of the process."""
    monkeypatch.setattr(webhook_client, "KEPT_ORIGINS", 1)
    async with listening(first := Lasting()) as one, listening(Lasting()) as other:
        for port in (one, other):
            assert await client.post(f"http://127.0.0.1:{port}/", {}, b"") == Answer(status=200)
        await soon(first.ended)


async def test_one_bad_address_spoils_the_name(
    client: WebhookClient, resolve: Callable[..., Resolver]
) -> None:
    """A name that leads to an allowed and a denied address is refused whole."""
    resolve(mixed=[["127.0.0.1", "169.254.169.254"]])
    async with listening(mute := Mute()) as port:
        sent = await client.post(f"http://mixed.test:{port}/", {}, b"")
    assert sent.error is not None
    assert "mixed.test leads to 169.254.169.254" in sent.error
    assert mute.connections == 0


async def test_a_rebinding_name_gains_nothing(
    client: WebhookClient, resolve: Callable[..., Resolver]
) -> None:
    """The vetted address is the one connected to: the name is looked up once an attempt."""
    resolver = resolve(rebinding=[["127.0.0.1"], ["169.254.169.254"]])
    async with listening(receiver := Receiver()) as port:
        url = f"http://rebinding.test:{port}/"
        assert await client.post(url, {}, b"") == Answer(status=200)
        assert resolver.asked == ["rebinding.test"]
        second = await client.post(url, {}, b"")
    assert second.error is not None
    assert "169.254.169.254" in second.error
    (request,) = receiver.requests
    assert request.headers["host"] == f"rebinding.test:{port}"


async def test_the_next_address_is_tried(
    client: WebhookClient, resolve: Callable[..., Resolver]
) -> None:
    """When a name's first address refuses, its second is called."""
    resolve(two=[["127.0.0.2", "127.0.0.1"]])
    async with listening(Receiver()) as port:
        assert await client.post(f"http://two.test:{port}/", {}, b"") == Answer(status=200)


async def test_a_name_that_does_not_resolve_is_an_error(
    client: WebhookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown name fails the attempt, and is accepted for a new webhook."""

    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    sent = await client.post("http://nowhere.test/", {}, b"")
    assert sent == Answer(error="The host cannot be resolved: Name or service not known.")
    assert await client.refusal("http://nowhere.test/") is None


async def test_a_dead_name_server_takes_no_thread_of_others(
    client: WebhookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up that hangs is cut at the deadline and holds none of the store's threads."""
    released = threading.Event()

    def hang(*args: object, **kwargs: object) -> None:
        released.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with cut_at(DEADLINE):
            sent = await client.post("http://hanging.test/", {}, b"")
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        with cut_at(DEADLINE):
            assert await client.refusal("http://hanging.test/") is None
    finally:
        released.set()
    assert sent == Answer(error="There was no complete answer within 0.4 s.")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://0x7f.1/", "http://[::1]:80/", "http://10.1.2.3:8080/x"]
)
async def test_creation_names_the_setting(
    client: WebhookClient, public_client: WebhookClient, url: str
) -> None:
    """A private address is refused in a sentence with the setting that allows it."""
    refusal = await public_client.refusal(url)
    assert refusal is not None
    assert refusal.endswith("only when WEBHOOK_ALLOW_PRIVATE is set.")
    assert await client.refusal(url) is None


async def test_creation_refuses_what_is_never_allowed(client: WebhookClient) -> None:
    """The setting does not open what is neither public nor a private network."""
    refusal = await client.refusal("http://169.254.169.254/latest/meta-data")
    assert refusal is not None
    assert "webhooks never go" in refusal
    assert await client.refusal(f"http://{'a' * 70}.test/") is not None
    assert await client.refusal("http://8.8.8.8/") is None


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of `receiver.test`, in one file."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("there is no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "receiver.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=receiver"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=DNS:receiver.test"),
            *("-keyout", str(path), "-out", str(path.with_suffix(".crt"))),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


async def test_tls_checks_the_name_of_the_url(
    certificate: Path, resolve: Callable[..., Resolver]
) -> None:
    """Though the address is connected to, the certificate must be the host's."""
    resolve(receiver=[["127.0.0.1"]], other=[["127.0.0.1"]])
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    trust = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))
    async with (
        listening(Receiver([OK]), server) as port,
        WebhookClient(allow_private=True, ssl_context=trust) as client,
    ):
        assert await client.post(f"https://receiver.test:{port}/", {}, b"") == Answer(status=200)
        sent = await client.post(f"https://other.test:{port}/", {}, b"")
        assert sent.error is not None
        assert "Hostname mismatch" in sent.error
        strict = WebhookClient(allow_private=True)  # keeps nothing: it never gets an answer
        sent = await strict.post(f"https://receiver.test:{port}/", {}, b"")
        assert sent.error is not None
        assert "self-signed certificate" in sent.error
