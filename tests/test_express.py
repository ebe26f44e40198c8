"""The way of an order past Quart: it is answered as Quart would, whatever is asked."""

import random
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import h11
import msgspec
import pytest
import trio

from bench.sample import ORDER
from bench.web import BODY, TASK
from tests.asking import until
from ticker_actors.actors.requests import (
    Accepted,
    AcceptedBatch,
    ClientKey,
    Denied,
    KeyConflict,
    Overloaded,
    Unanswered,
    Unchecked,
)
from ticker_actors.mailbox import Busy, Stopped
from ticker_actors.metrics import Metrics
from ticker_actors.model.orders import PlaceOrder
from ticker_actors.settings import PRIMARY, Settings
from ticker_actors.web import connection, plain
from ticker_actors.web.app import MAX_BODY_BYTES, create_app
from ticker_actors.web.connection import MOST_PIECES
from ticker_actors.web.express import Express
from ticker_actors.web.parts import Parts
from ticker_actors.web.problems import bad_fields
from ticker_actors.web.server import open_listeners, serve_app
from ticker_actors.web.server_config import ServerConfig

BATCH = msgspec.json.encode({"orders": [ORDER, ORDER]})
BATCH_ANSWER = {"batch_id": "b", "completed_at": None}
KEY = "a-key-of-32-characters-or-so-1234"


class Service:
    """The web layer on its server, and an executor that answers as it is told."""

    def __init__(self, settings: Settings) -> None:
        self.says: Any = Accepted(TASK)
        """What `submit_order` and `submit_batch` give or raise."""
        self.asked: list[Any] = []
        self.pause = 0.0
        """Seconds that it takes."""
        self.way: Express
        self.stop = trio.Event()
        self.left = trio.Event()
        """Set when a submission was cancelled."""
        self.express = 0
        """Requests that went past Quart."""
        self.stored = 0
        """Orders and batches."""
        self.parts = SimpleNamespace(
            settings=settings,
            executor=SimpleNamespace(
                accounts={PRIMARY: None},
                submit_order=self.submit,
                submit_batch=self.submit,
                finished_batch=self.finished_batch,
                batch=self.finished_batch,
            ),
            hub=None,
            tables=SimpleNamespace(away_seconds=0.0, batch=self.finished_batch),
            metrics=Metrics(),
            stopping=trio.Event(),
            account=self.account,
            within=lambda _, wait: wait,
        )
        self.port = 0

    async def submit(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401  # the executor's
        self.asked.append((arguments, named))
        if self.says == "nothing":
            try:
                await trio.sleep_forever()
            finally:
                self.left.set()
        await trio.sleep(self.pause)
        if isinstance(self.says, Exception):
            raise self.says
        self.stored += 1
        return self.says

    async def finished_batch(self, _: str) -> None:
        await trio.lowlevel.checkpoint()

    def account(self, name: str) -> str:
        if name != PRIMARY:
            raise bad_fields([("account_id", "is not an account of this service: primary")])
        return name

    async def ask(self, *pieces: bytes, pause: float = 0.0) -> "Answer":
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            for piece in pieces:
                await stream.send_all(piece)
                await trio.sleep(pause)
            return await read(stream)


class Answer(NamedTuple):
    status: int
    headers: list[str]
    """Without the date; in order."""
    body: bytes


async def read(stream: trio.SocketStream) -> Answer:
    """One answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await received(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin1").split("\r\n")
    headers = sorted(line.lower() for line in lines if not line.lower().startswith("date:"))
    (size,) = [int(line.split(":")[1]) for line in headers if line.startswith("content-length")]
    while len(body) < size:
        body += await received(stream)
    return Answer(int(first.split()[1]), headers, body)


async def received(stream: trio.SocketStream) -> bytes:
    """Some bytes more."""
    data = bytes(await stream.receive_some())
    assert data, "hung up"
    return data


@asynccontextmanager
async def serving(config: ServerConfig | None = None, **settings: object) -> AsyncIterator[Service]:
    """The service's web layer on a port of its own."""
    service = Service(msgspec.structs.replace(Settings(), **settings))
    app = create_app(cast("Parts", service.parts))
    express: Express = app.extensions["express"]
    service.way, answer = express, express.answer

    async def counted(asked: plain.PlainRequest, body: bytes) -> plain.Answer:
        service.express += 1
        return await answer(asked, body)

    express.answer = counted  # type: ignore[method-assign]  # a spy
    listeners = await open_listeners("127.0.0.1", 0)
    service.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        serve = partial(serve_app, app, listeners, stopping=service.stop, config=config)
        nursery.start_soon(serve)
        yield service
        service.stop.set()


def head(target: str, headers: dict[str, str], size: int | None) -> bytes:
    """The head of a `POST`; without a size the body is chunked, which goes through Quart."""
    lines = {"Host": "127.0.0.1", "Content-Type": "application/json", **headers}
    lines |= {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {target} HTTP/1.1\r\n{text}\r\n".encode("latin1")


def express(target: str = "/orders", body: bytes = BODY, **headers: str) -> bytes:
    """A request that goes past Quart."""
    return head(target, headers, len(body)) + body


def by_quart(target: str = "/orders", body: bytes = BODY, **headers: str) -> bytes:
    """The same one, but in a chunk."""
    chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
    return head(target, headers, None) + chunk + b"0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    target: str = "/orders"
    body: bytes = BODY
    headers: Mapping[str, str] = field(default_factory=dict)
    says: object = Accepted(TASK)
    settings: Mapping[str, object] = field(default_factory=dict)
    stopping: bool = False
    away: float = 0.0
    express: bool = True
    """False: it is not plain enough."""


LOCKED = {"api_key": KEY}
CASES = {
    "an order": Case(),
    "a path in other letters": Case("/%6frders", express=False),
    "with a query": Case("/orders?wait=0"),
    "a wait that is none": Case("/orders?wait=soon"),
    "a wait too long": Case("/orders?wait=31"),
    "a query twice": Case("/orders?wait=0&wait=soon"),
    "a query without a value": Case("/orders?wait"),
    "an unknown query": Case("/orders?wiat=1&x=%ff&%E0%A4=2"),
    "a key": Case(headers={"Idempotency-Key": "k1"}),
    "a replayed key": Case(headers={"Idempotency-Key": "k1"}, says=Accepted(TASK, replayed=True)),
    "a key of ours": Case(headers={"Idempotency-Key": "~k1"}),
    "an empty key": Case(headers={"Idempotency-Key": ""}),
    "a long key": Case(headers={"Idempotency-Key": 65 * "k"}),
    "a key in Latin-1": Case(headers={"Idempotency-Key": "schlüssel"}, express=False),
    "two keys": Case(headers={"Idempotency-Key": "k1", "idempotency-key": "k2"}),
    "no body": Case(body=b""),
    "no JSON": Case(body=b"{"),
    "no UTF-8": Case(body=b'{"tag": "\xff"}'),
    "too deep": Case(body=b"[" * 100_000),
    "a list": Case(body=b"[]"),
    "no fields": Case(body=b"{}"),
    "wrong fields": Case(body=BODY.replace(b"1.0", b'"1"').replace(b"BUY", b"GET")),
    "an unknown field": Case(body=BODY.replace(b"price", b"prize")),
    "another account": Case(body=BODY.replace(b"{", b'{"account_id":"other",', 1)),
    "a body as big as it may be": Case(body=BODY + (MAX_BODY_BYTES - len(BODY)) * b" "),
    "a batch": Case("/advanced/batch-orders", BATCH, says=AcceptedBatch("b", BATCH_ANSWER)),
    "a replayed batch": Case(
        "/advanced/batch-orders", BATCH, says=AcceptedBatch("b", BATCH_ANSWER, replayed=True)
    ),
    "a batch of none": Case("/advanced/batch-orders", b'{"orders":[]}'),
    "a refused leg": Case("/advanced/batch-orders", BATCH, says=Denied("c", "price", "is", 1)),
    "a batch, overloaded": Case("/advanced/batch-orders", BATCH, says=Overloaded()),
    "form data": Case(headers={"Content-Type": "text/plain"}),
    "JSON in a character set": Case(headers={"Content-Type": "APPLICATION/json ; charset=utf-8"}),
    "no type": Case(headers={"Content-Type": ""}),
    "another name": Case(headers={"Host": "evil.example:8080"}),
    "an allowed name": Case(headers={"Host": "Mine:8080"}, settings={"allowed_hosts": ("mine",)}),
    "IPv6": Case(headers={"Host": "[::1]:8080"}),
    "no name at all": Case(headers={"Host": "..//"}),
    "a page of somebody else": Case(headers={"Origin": "https://evil.example"}),
    "a page of this machine": Case(headers={"Origin": "http://127.0.0.1:8080"}),
    "an allowed page": Case(
        headers={"Origin": "https://Mine"}, settings={"allowed_origins": ("https://mine",)}
    ),
    "an allowed page, and a mistake": Case(
        body=b"{}",
        headers={"Origin": "https://mine"},
        settings={"allowed_origins": ("https://mine",)},
    ),
    "without the API key": Case(settings=LOCKED),
    "with a wrong API key": Case(headers={"Authorization": "Bearer no"}, settings=LOCKED),
    "with the API key": Case(headers={"Authorization": f"bearer {KEY}"}, settings=LOCKED),
    "with the API key, the other way": Case(headers={"X-API-Key": KEY}, settings=LOCKED),
    "refused": Case(says=Denied("max_price", "price", "is too high")),
    "a key of another request": Case(says=KeyConflict()),
    "overloaded": Case(says=Overloaded()),
    "unchecked": Case(says=Unchecked()),
    "unanswered": Case(says=Unanswered(TASK.task_id)),
    "a full mailbox": Case(says=Busy()),
    "a closed mailbox": Case(says=Stopped()),
    "a bug": Case(says=RuntimeError("a bug")),
    "stopping": Case(stopping=True),
    "without the database": Case(away=1.0),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_the_way_past_quart_tells_the_same(case: Case) -> None:
    """Status, headers and body are what Quart's way gives, and the executor is asked the same."""
    async with serving(None, **case.settings) as service:
        service.says = case.says
        service.parts.tables.away_seconds = case.away
        if case.stopping:
            service.parts.stopping.set()
        quart = await service.ask(by_quart(case.target, case.body, **case.headers))
        asked, service.asked, passed = service.asked, [], service.express
        answer = await service.ask(express(case.target, case.body, **case.headers))
        assert (passed, service.express) == (0, case.express)
        assert answer == quart
        assert service.asked == asked


async def test_what_is_asked_comes_to_the_executor() -> None:
    """The order, its account and the key with the hash of what was asked."""
    async with serving() as service:
        answer = await service.ask(express("/orders", BODY, **{"Idempotency-Key": "k1"}))
        assert answer.status == 202
        assert msgspec.json.decode(answer.body)["task_id"] == TASK.task_id
        assert f"location: /tasks/{TASK.task_id}".lower() in answer.headers
        ((account, order, key), _) = service.asked[0]
        assert (account, order) == (PRIMARY, msgspec.convert(ORDER, PlaceOrder))
        assert isinstance(key, ClientKey)
        assert key.key == "k1"


async def test_a_body_after_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many clients send the head and the body separately: that is express too."""
    monkeypatch.setattr(connection, "BODY_SECONDS", 20.0)
    async with serving() as service:
        whole = express()
        cut = whole.index(b"\r\n\r\n") + 4
        assert (await service.ask(whole[:cut], whole[cut:], pause=0.02)).status == 202
        assert service.express == 1


async def test_a_late_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is late is waited for as with any other request, and nothing of it is lost."""
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.0)
    async with serving() as service:
        whole = express()
        for cut in (whole.index(b"\r\n\r\n") + 4, len(whole) - 10):
            assert (await service.ask(whole[:cut], whole[cut:], pause=0.1)).status == 202
        assert service.express == 0
        assert len(service.asked) == 2


async def test_a_body_in_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes the usual way: to wait for each of them is not for here."""
    monkeypatch.setattr(connection, "BODY_SECONDS", 20.0)
    async with serving() as service:
        whole = express()
        cut = len(whole) - MOST_PIECES - 5
        pieces = [whole[:cut], *(bytes([byte]) for byte in whole[cut:])]
        assert (await service.ask(*pieces, pause=0.005)).status == 202
        assert service.express == 0
        assert len(service.asked) == 1


async def test_a_late_body_is_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it looks like: who has been given the head waits for the body."""
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.0)
    async with serving() as service:
        inner = express()
        whole = express(body=inner)
        cut = len(whole) - len(inner)
        assert (await service.ask(whole[:cut], inner, pause=0.1)).status == 400
        assert service.express == 0
        assert service.asked == []


async def test_half_a_head_is_no_request() -> None:
    """What follows it is its other half, whatever it looks like."""
    async with serving() as service:
        whole = express()
        answer = await service.ask(b"POST /orders HTTP/1.1\r\nX: ", whole, pause=0.1)
        assert answer.status == 202  # one request, with an odd header
        assert service.express == 0
        assert len(service.asked) == 1


async def test_a_stop_lets_it_finish_and_hangs_up() -> None:
    """The answer comes, then the end; what was sent after it is not done."""
    async with serving() as service:
        service.pause = 0.1
        stream = await trio.open_tcp_stream("127.0.0.1", service.port)
        async with stream:
            await stream.send_all(express())
            await until(lambda: bool(service.asked))
            await stream.send_all(express())
            service.stop.set()
            assert (await read(stream)).status == 202
            assert await stream.receive_some() == b""
        assert len(service.asked) == 1


async def test_an_idle_connection_is_closed_after_it() -> None:
    """As after any other request; while it is answered nobody is idle."""
    config = ServerConfig()
    config.keep_alive_timeout = config.first_request_timeout = 0.1
    async with serving(config) as service:
        service.pause = 0.3
        stream = await trio.open_tcp_stream("127.0.0.1", service.port)
        async with stream:
            await stream.send_all(express())
            assert (await read(stream)).status == 202
            assert await stream.receive_some() == b""


async def test_a_body_too_big() -> None:
    """It is refused, and not read to its end."""
    async with serving() as service:
        answer = await service.ask(express(body=BODY + MAX_BODY_BYTES * b" "))
        assert answer.status == 413
        assert service.express == 0
        assert service.asked == []


async def test_other_methods_and_paths() -> None:
    """They go through Quart."""
    async with serving() as service:
        for text, status in {
            b"PUT /orders HTTP/1.1": 405,
            b"POST /orders/x/y HTTP/1.1": 404,
            b"POST /orders/ HTTP/1.1": 202,
        }.items():
            answer = await service.ask(express().replace(b"POST /orders HTTP/1.1", text))
            assert answer.status == status
        assert service.express == 0


@pytest.mark.parametrize(
    "target, body", [("/orders?wait=5", BODY), ("/advanced/batch-orders", BATCH)]
)
async def test_a_client_that_leaves(target: str, body: bytes) -> None:
    """What may wait for an order or a batch to be done ends with its client."""
    async with serving() as service:
        service.says = "nothing"
        stream = await trio.open_tcp_stream("127.0.0.1", service.port)
        await stream.send_all(express(target, body))
        await until(lambda: bool(service.asked))
        await stream.aclose()
        with trio.fail_after(5):
            await service.left.wait()


async def test_a_client_that_leaves_while_its_order_is_stored() -> None:
    """That is not cut short; and who has only closed its own side has the answer."""
    async with serving() as service:
        service.pause = 0.1
        stream = await trio.open_tcp_stream("127.0.0.1", service.port)
        await stream.send_all(express())
        await until(lambda: bool(service.asked))
        await stream.aclose()
        await until(lambda: service.stored == 1)
        stream = await trio.open_tcp_stream("127.0.0.1", service.port)
        async with stream:
            await stream.send_all(express())
            await stream.send_eof()
            assert (await read(stream)).status == 202
            assert await stream.receive_some() == b""


async def test_many_on_one_connection() -> None:
    """The connection lives on after an answer and after a refusal, pipelined or not."""
    async with serving() as service:
        stream = await trio.open_tcp_stream("127.0.0.1", service.port)
        async with stream:
            for body, status in ((BODY, 202), (b"{}", 422), (BODY, 202)):
                await stream.send_all(express(body=body))
                assert (await read(stream)).status == status
            await stream.send_all(express() + express())
            assert (await read(stream)).status == 202
            assert (await read(stream)).status == 202
        assert service.express == 3


async def test_one_that_comes_before_the_answer_to_the_last() -> None:
    """It waits for it; the answers come in the order of the requests."""
    async with serving() as service:
        service.pause = 0.1
        stream = await trio.open_tcp_stream("127.0.0.1", service.port)
        async with stream:
            await stream.send_all(express())
            await until(lambda: bool(service.asked))
            await stream.send_all(express(body=b"{}") + by_quart())
            assert [(await read(stream)).status for _ in range(3)] == [202, 422, 202]
        assert service.express == 1


async def test_the_answer_is_the_same_letter_for_letter() -> None:
    """Only the order of its headers may differ, and the date."""
    async with serving() as service:
        answers = []
        for request in (express(), by_quart()):
            stream = await trio.open_tcp_stream("127.0.0.1", service.port)
            async with stream:
                await stream.send_all(request)
                text = await received(stream)
                first, *lines = re.sub(rb"date: [!-~ ]+ GMT", b"date", text).split(b"\r\n")
                answers.append((first, sorted(lines)))
        assert answers[0] == answers[1]
        assert b"date" in answers[0][1]
        assert service.express == 1


PLAIN = express()
NOT_PLAIN = {
    "HTTP/1.0": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/2.0": PLAIN.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "a method in small letters": PLAIN.replace(b"POST", b"post"),
    "two blanks": PLAIN.replace(b"POST ", b"POST  "),
    "a whole URL": PLAIN.replace(b"POST /", b"POST http://127.0.0.1/"),
    "to be closed": express(Connection="close"),
    "an upgrade": express(Connection="Upgrade", Upgrade="websocket"),
    "an upgrade alone": express(Upgrade="h2c"),
    "a hundred first": express(Expect="100-continue"),
    "no host": PLAIN.replace(b"Host: 127.0.0.1\r\n", b""),
    "two hosts": PLAIN.replace(b"Host: 127.0.0.1\r\n", b"Host: 127.0.0.1\r\n" * 2),
    "two lengths": express("/orders", BODY, **{"content-length": str(len(BODY))}),
    "two other lengths": express("/orders", BODY, **{"content-length": "0"}),
    "a length in many digits": PLAIN.replace(b"Length: ", b"Length: " + 20 * b"0"),
    "a length in very many digits": PLAIN.replace(b"Length: ", b"Length: " + 5_000 * b"1"),
    "a list of lengths": PLAIN.replace(b"Length: ", b"Length: 1, "),
    "a signed length": PLAIN.replace(b"Length: ", b"Length: +"),
    "a length and chunks": express("/orders", BODY, **{"Transfer-Encoding": "chunked"}),
    "a length and chunks, in other letters": express(
        "/orders", BODY, **{"tRANSFER-eNCODING": "identity"}
    ),
    "a folded header": PLAIN.replace(b"Host: ", b"X: 1\r\n 2\r\nHost: "),
    "a folded length": PLAIN.replace(b"Length: ", b"Length:\r\n "),
    "a blank before the colon": PLAIN.replace(b"Host:", b"Host :"),
    "a blank before a name": PLAIN.replace(b"Host:", b" Host:"),
    "no name": PLAIN.replace(b"Host:", b": x\r\nHost:"),
    "no colon": PLAIN.replace(b"Host:", b"x\r\nHost:"),
    "bare line ends": PLAIN.replace(b"\r\n", b"\n"),
    "one bare line end": PLAIN.replace(b"\r\nHost", b"\nHost"),
    "a bare CR": PLAIN.replace(b"Host:", b"X: 1\r2\r\nHost:"),
    "a NUL": PLAIN.replace(b"Host:", b"X: \0\r\nHost:"),
    "an empty line first": b"\r\n" + PLAIN,
    "something after it": PLAIN + b"\r\n",
    "another after it": PLAIN + PLAIN,
    "a long head": express(X=16 * 1024 * "x"),
    "blanks without end": PLAIN.replace(b"Host:", b"X:" + 15_000 * b" " + b"\0\r\nHost:"),
    "headers without end": PLAIN.replace(b"Host:", 3_000 * b"X:a\r\n" + b"\0\r\nHost:"),
    "half a head": PLAIN[:20],
    "no head": b"POST /orders",
    "nothing": b"",
}


@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN)
async def test_what_is_not_plain_is_for_h11(data: bytes) -> None:
    """It has judged all such requests before, and goes on to do so."""
    async with serving() as service:
        assert service.way.read(data, None) is None


async def test_what_is_plain() -> None:
    """One request, whole or without the end of its body."""
    async with serving() as service:
        for data in (PLAIN, express(Connection="Keep-Alive"), express(X="", Y=" a  b\t")):
            for known in (data, data[:-7], data[: -len(BODY)]):
                taken = service.way.read(known, None)
                assert taken is not None
                assert data[taken.begin : taken.end] == BODY
                assert taken.end == len(data)


PIECES = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b",", b"+", b"-", b"?", b"#", b"/"),
    *(b"\0", b"\x0b", b"\x1f", b"\x7f", b"\x80", b"\xff", b"0", 25 * b"0", b"1", b"HTTP/1.0"),
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive, close\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: x\r\n",
    b"Host: b\r\n",
    b" folded\r\n",
]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A request with something put in, taken away, changed, or repeated."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, other = sorted(chance.choices(range(len(data) + 1), k=2))
        middle = chance.choice(
            (chance.choice(PIECES), b"", bytes([chance.randrange(256)]), 2 * data[at:other])
        )
        data = data[:at] + middle + data[chance.choice((at, at + 1, other)) :]
    return data


def by_h11(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes] | str:
    """The one request in these bytes: method, target, headers and body; or why there is none."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    body = b""
    try:
        head = connection.next_event()
        while isinstance(event := connection.next_event(), h11.Data):
            body += bytes(event.data)
    except h11.RemoteProtocolError as error:
        return str(error)
    if not isinstance(head, h11.Request) or not isinstance(event, h11.EndOfMessage):
        return "not whole"
    if connection.trailing_data[0] or connection.they_are_waiting_for_100_continue:
        return "not one"
    return head.method, head.target, list(head.headers), body


async def test_it_takes_what_h11_reads_alike() -> None:
    """Of thousands of broken requests: whatever is taken here is the same request for h11."""
    chance, taken = random.Random(20261123), 0
    bases = [
        express("/orders?wait=1", b"12345"),
        express("/advanced/batch-orders", b"", Connection="keep-alive", X=" 1 \t2 "),
        express(body=b"0123456789"),
    ]
    async with serving() as service:
        for _ in range(6_000):
            data = mutated(chance.choice(bases), chance)
            found = service.way.read(data, None)
            if found is not None and len(data) == found.end:
                taken += 1
                query = found.request._query
                target = found.request.path.encode() + (b"?" + query if query else b"")
                said = (b"POST", target, list(found.request.headers._all), data[found.begin :])
                heard = by_h11(data)
                assert not isinstance(heard, str), (data, heard)
                assert said == (heard[0], heard[1].removesuffix(b"?"), *heard[2:]), data
    assert taken > 300


async def test_the_metrics_count_it() -> None:
    """As a request to its route, by status."""
    async with serving() as service:
        await service.ask(express())
        await service.ask(express(body=b"{}"))
        text = service.parts.metrics.render().decode()
        for status in (202, 422):
            assert f'_count{{method="POST",route="/orders",status="{status}"}} 1.0' in text
