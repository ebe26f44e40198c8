"""What is wrong with a request is named, field by field; nothing is stored or sent for it."""

import json
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.service.harness import (
    MARKET,
    RESTING,
    SOON,
    Service,
    at_broker,
    counts,
    decoded,
    new_client,
)

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Bad:
    """One bad request and what must be said of it."""

    name: str
    content: bytes | Mapping[str, Any] | list[Any] | str | None = None
    fields: tuple[str, ...] = ()
    """Every field that the answer must name, and no other."""
    status: int = 422
    method: str = "POST"
    path: str = "/orders"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes | None:
        """The bytes sent."""
        if isinstance(self.content, bytes) or self.content is None:
            return self.content
        return json.dumps(self.content).encode()


def order(**changes: object) -> dict[str, Any]:
    """A good order but for these fields."""
    return {**MARKET, **changes}


def without(name: str) -> dict[str, Any]:
    """A good order but for a field that is not there."""
    return {field: value for field, value in MARKET.items() if field != name}


def raw(text: str) -> bytes:
    """A good order whose quantity is this JSON text."""
    return json.dumps(order(quantity="@")).replace('"@"', text).encode()


def batch(*orders: object, **more: object) -> dict[str, Any]:
    """The body of a batch."""
    return {"orders": list(orders), **more}


def webhook(**changes: object) -> dict[str, Any]:
    """A good subscription but for these fields."""
    return {"url": "http://127.0.0.1:9/hook", "events": ["order_placed"], **changes}


BATCHES = "/advanced/batch-orders"
WEBHOOKS = "/advanced/webhooks"
FIFTY = [dict(RESTING) for _ in range(50)]
BAD_48 = [*FIFTY[:48], {**RESTING, "quantity": 0}, FIFTY[49]]

CONTENT = [
    Bad("quantity as text", order(quantity="5"), ("quantity",)),
    Bad("quantity as truth", order(quantity=True), ("quantity",)),
    Bad("quantity in parts", order(quantity=1.5), ("quantity",)),
    Bad("quantity null", order(quantity=None), ("quantity",)),
    Bad("quantity 0", order(quantity=0), ("quantity",)),
    Bad("quantity below 0", order(quantity=-1), ("quantity",)),
    Bad("quantity above all bounds", order(quantity=10**9), ("quantity",)),
    Bad("quantity above what fits in 64 bits", order(quantity=10**30), ("quantity",)),
    Bad("quantity above the risk limit", order(quantity=1_000_001), ("quantity",)),
    Bad("price as text", {**RESTING, "price": "1.0"}, ("price",)),
    Bad("price 0", {**RESTING, "price": 0}, ("price",)),
    Bad("price without end", {**RESTING, "price": 1e300}, ("price",)),
    Bad("unknown field", order(qty=1, side="BUY"), ("qty", "side")),
    Bad("unknown exchange", order(exchange="NYSE"), ("exchange",)),
    Bad("LIMIT without price", order(order_type="LIMIT"), ("price",)),
    Bad("SL without trigger", order(order_type="SL", price=1.0), ("trigger_price",)),
    Bad("SL with nothing", order(order_type="SL"), ("price", "trigger_price")),
    Bad("MARKET with price", order(price=1.0), ("price",)),
    Bad("field missing", without("exchange"), ("exchange",)),
    Bad("nothing", {}, tuple(MARKET)),
    Bad(
        "several at once",
        order(quantity="5", order_type="LIMIT", exchange="X", extra=1),
        ("quantity", "price", "exchange", "extra"),
    ),
    Bad("NUL in the symbol", order(tradingsymbol="IN\0FY"), ("tradingsymbol",)),
    Bad("NUL in the tag", order(tag="a\0b"), ("tag",)),
    Bad("empty symbol", order(tradingsymbol=""), ("tradingsymbol",)),
    Bad("long symbol", order(tradingsymbol="X" * 65), ("tradingsymbol",)),
    Bad("expiry 0", order(expires_in=0), ("expires_in",)),
    Bad("unknown account", order(account_id="nobody"), ("account_id",)),
    Bad("account as number", order(account_id=1), ("account_id",)),
    Bad("JSON array", [MARKET], ("body",)),
    Bad("JSON text", "order", ("body",)),
    Bad("no orders", batch(), ("orders",), path=BATCHES),
    Bad("51 orders", batch(*FIFTY, RESTING), ("orders",), path=BATCHES),
    Bad("one bad leg", batch(*BAD_48), ("orders[48].quantity",), path=BATCHES),
    Bad(
        "one leg above the risk limit",
        batch(RESTING, order(quantity=1_000_001)),
        ("orders[1].quantity",),
        path=BATCHES,
    ),
    Bad(
        "several bad legs",
        batch(order(quantity="5"), RESTING, order(order_type="LIMIT"), "leg", account_id=1, x=1),
        ("orders[0].quantity", "orders[2].price", "orders[3]", "account_id", "x"),
        path=BATCHES,
    ),
    Bad("orders as object", {"orders": {}}, ("orders",), path=BATCHES),
    Bad(
        "rollback as text",
        batch(RESTING, rollback_on_failure="yes"),
        ("rollback_on_failure",),
        path=BATCHES,
    ),
    Bad(
        "batch of unknown account",
        batch(RESTING, account_id="nobody"),
        ("account_id",),
        path=BATCHES,
    ),
    Bad("webhook to ftp", webhook(url="ftp://example.com/"), ("url",), path=WEBHOOKS),
    Bad("webhook with user name", webhook(url="http://a:b@127.0.0.1/"), ("url",), path=WEBHOOKS),
    Bad("webhook to nowhere", webhook(url="http:///hook"), ("url",), path=WEBHOOKS),
    Bad("webhook to text", webhook(url="hook"), ("url",), path=WEBHOOKS),
    Bad("unknown event", webhook(events=["order_placed", "x"]), ("events[1]",), path=WEBHOOKS),
    Bad("no events", webhook(events=[]), ("events",), path=WEBHOOKS),
    Bad("secret with newline", webhook(secret="a\r\nX: y"), ("secret",), path=WEBHOOKS),
    Bad("webhook of unknown account", webhook(account_id="nobody"), ("account_id",), path=WEBHOOKS),
    Bad("wait above 30", MARKET, ("wait",), path="/orders?wait=31"),
    Bad("wait below 0", MARKET, ("wait",), path="/orders?wait=-1"),
    Bad("wait without end", MARKET, ("wait",), path="/orders?wait=inf"),
    Bad("wait that is no number", MARKET, ("wait",), path="/orders?wait=nan"),
    Bad("wait as word", MARKET, ("wait",), path="/orders?wait=long"),
    Bad("unknown parameter", MARKET, ("dry_run",), path="/orders?dry_run=1"),
    Bad("unknown parameter of a batch", batch(RESTING), ("dry_run",), path=f"{BATCHES}?dry_run=1"),
    Bad("unknown parameter of a webhook", webhook(), ("x",), path=f"{WEBHOOKS}?x=1"),
    Bad("unknown parameter of a list", None, ("page",), path="/tasks?page=2", method="GET"),
    Bad("unknown status", None, ("status",), path="/tasks?status=done", method="GET"),
    Bad("cancel with unknown parameter", None, ("x",), path="/orders/1?x=1", method="DELETE"),
    Bad("modify nothing", {}, ("body",), path="/orders/1", method="PUT"),
    Bad("modify with null", {"quantity": None}, ("body",), path="/orders/1", method="PUT"),
    Bad("modify with text", {"price": "1"}, ("price",), path="/orders/1", method="PUT"),
    Bad("key too long", MARKET, ("Idempotency-Key",), headers={"Idempotency-Key": "k" * 65}),
    Bad("key with ~", MARKET, ("Idempotency-Key",), headers={"Idempotency-Key": "~mine"}),
    Bad("empty key", MARKET, ("Idempotency-Key",), headers={"Idempotency-Key": ""}),
    Bad(
        "key of a batch with ~",
        batch(RESTING),
        ("Idempotency-Key",),
        path=BATCHES,
        headers={"Idempotency-Key": "~b"},
    ),
]

FORM = [
    Bad("NaN", raw("NaN"), status=400),
    Bad("Infinity", raw("Infinity"), status=400),
    Bad("minus Infinity", raw("-Infinity"), status=400),
    Bad("not JSON", b"quantity=5", status=400),
    Bad("cut JSON", b'{"exchange": "NSE"', status=400),
    Bad("empty body", b"", status=400, headers=JSON),
    Bad("no body", None, status=400),
    Bad("bad UTF-8", raw("1").replace(b"INFY", b"IN\xff\xfe"), status=400),
    Bad("deep nesting", b"[" * 100_000, status=400),
    Bad("deep nesting inside", raw("[" * 50_000 + "]" * 50_000), status=400),
    Bad("lone surrogate in the symbol", raw("1").replace(b"INFY", rb"IN\ud800"), status=400),
    Bad("lone surrogate in the tag", raw(r'1, "tag": "\udfff"'), status=400),
    Bad(
        "form",
        b"quantity=5",
        status=415,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    ),
    Bad("text", raw("1"), status=415, headers={"Content-Type": "text/plain"}),
    Bad("no content type", raw("1"), status=415, headers={"Content-Type": ""}),
    Bad("foreign Host", MARKET, status=403, headers={"Host": "evil.example"}),
    Bad(
        "foreign Host that looks like ours",
        MARKET,
        status=403,
        headers={"Host": "127.0.0.1.evil.example"},
    ),
    Bad("Host of brackets", MARKET, status=403, headers={"Host": "[::1"}),
    Bad("Host with a user", MARKET, status=403, headers={"Host": "evil.example@localhost"}),
    Bad("Host with a path", MARKET, status=403, headers={"Host": "localhost/evil.example"}),
    Bad("Origin of brackets", MARKET, status=403, headers={"Origin": "http://[bad]"}),
    Bad(
        "Origin of another scheme on a read",
        None,
        status=403,
        path="/orders",
        method="GET",
        headers={"Origin": "chrome-extension://localhost"},
    ),
    Bad("foreign Origin", MARKET, status=403, headers={"Origin": "https://evil.example"}),
    Bad("no one's Origin", MARKET, status=403, headers={"Origin": "null"}),
    Bad("loopback Origin", MARKET, status=403, headers={"Origin": "http://localhost:3000"}),
    Bad(
        "loopback Origin on a cancel",
        None,
        status=403,
        path="/orders/1",
        method="DELETE",
        headers={"Origin": "http://localhost:3000"},
    ),
    Bad(
        "foreign Origin on a read",
        None,
        status=403,
        path="/orders",
        method="GET",
        headers={"Origin": "https://evil.example"},
    ),
    Bad("unknown order", None, status=404, path="/orders/1", method="DELETE"),
    Bad("unknown task", None, status=404, path="/tasks/task_1/cancel"),
    Bad("unknown path", MARKET, status=404, path="/order"),
    Bad("wrong method", MARKET, status=405, path="/tasks"),
]


@pytest.fixture(autouse=True)
def unchanged(shared: Service) -> Iterator[None]:
    """No test of this module stores or sends anything, but for those that say what they store."""
    before = counts(shared.folder)
    yield
    now = counts(shared.folder)
    added = {name: now[name] - before[name] for name in now if now[name] != before[name]}
    assert added == getattr(shared, "expected_rows", {})
    shared.__dict__.pop("expected_rows", None)


def send(service: Service, bad: Bad) -> httpx.Response:
    """Send it as it is."""
    headers = dict(bad.headers)
    if bad.content is not None and "Content-Type" not in headers:
        headers |= JSON
    if headers.get("Content-Type") == "":
        del headers["Content-Type"]
    return service.http.request(bad.method, bad.path, content=bad.body, headers=headers)


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem in an answer, whose form is checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    found = decoded(answer)
    assert {"type", "title", "status", "detail"} <= found.keys()
    assert found["status"] == status
    return found


@pytest.mark.parametrize("bad", CONTENT, ids=lambda bad: bad.name)
def test_every_bad_field_is_named(shared: Service, bad: Bad) -> None:
    """A request with wrong content is answered with all of its wrong fields, each with a reason."""
    errors = problem(send(shared, bad), bad.status)["errors"]
    assert sorted(error["field"] for error in errors) == sorted(bad.fields)
    assert all(error["message"] for error in errors)


@pytest.mark.parametrize("bad", FORM, ids=lambda bad: bad.name)
def test_bad_form_is_a_problem(shared: Service, bad: Bad) -> None:
    """A request that is wrong as a whole is answered with a problem that says so."""
    found = problem(send(shared, bad), bad.status)
    assert found["detail"].endswith(".")
    assert "bug" not in found["detail"]


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
def test_too_big_a_body(shared: Service, *, chunked: bool) -> None:
    """A body of 10 MB is refused with 413, whether or not it says how long it is."""
    pieces = (b"[" + b"1," * 32_768 for _ in range(160))
    content = pieces if chunked else b"".join(pieces)
    with new_client(shared.url) as client:
        problem(client.post("/orders", content=content, headers=JSON), 413)


@pytest.mark.parametrize("late", [True, False], ids=["late", "never"])
def test_refused_before_its_body_came(shared: Service, *, late: bool) -> None:
    """A request refused by its head leaves its connection usable, or says that it ends."""
    head = b"POST /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shared.port), SOON) as connection:
        connection.sendall(head)
        if late:
            connection.sendall(b"true")
        answer = HTTPResponse(connection)
        answer.begin()
        answer.read()
        assert (answer.status, answer.will_close) == (415, not late)
        if late:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        else:
            assert connection.recv(1000) == b""
        answer.close()


def test_broken_http(shared: Service) -> None:
    """Bytes that are no HTTP end their own connection and nothing else."""
    for text in (b"\x16\x03\x01\x02\0", b"POST /orders HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", shared.port), SOON) as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1000)[:12] in {b"", b"HTTP/1.1 400"}
    assert shared.http.get("/health").json()["status"] == "ok"


def test_loopback_origin_may_read(shared: Service) -> None:
    """A page of this machine may read and listen, but not trade."""
    origin = "http://localhost:3000"
    assert shared.http.get("/orders", headers={"Origin": origin}).status_code == 200
    with connect(shared.stream_url, additional_headers={"Origin": origin}) as stream:
        assert json.loads(stream.recv(SOON))["type"] == "connected"


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Host": "evil.example"}],
    ids=["origin", "host"],
)
def test_foreign_page_may_not_listen(shared: Service, headers: dict[str, str]) -> None:
    """A page of another site gets no order stream."""
    handshake = (
        "GET /advanced/ws/orders/primary HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    for name, text in ({"Host": "127.0.0.1"} | headers).items():
        handshake += f"{name}: {text}\r\n"
    with socket.create_connection(("127.0.0.1", shared.port), SOON) as connection:
        connection.sendall(handshake.encode() + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 403")


def test_stream_of_unknown_account(shared: Service) -> None:
    """A stream of an account that is not there is refused with 404."""
    with pytest.raises(InvalidStatus) as refused, connect(f"{shared.stream_url}x"):
        pass
    assert refused.value.response.status_code == 404


def test_one_key_is_one_order(shared: Service) -> None:
    """50 posts at once with one key make one task and one broker order; another body is refused."""
    key = {"Idempotency-Key": "one key"}

    def post(_: int) -> dict[str, Any]:
        answer = client.post("/orders", params={"wait": 10}, json=MARKET, headers=key)
        assert answer.status_code == 200, answer.text
        return decoded(answer)

    with new_client(shared.url) as client, ThreadPoolExecutor(50) as pool:
        tasks = list(pool.map(post, range(50)))
    assert len({task["task_id"] for task in tasks}) == 1
    assert {task["status"] for task in tasks} == {"completed"}
    assert len(at_broker(shared.folder, tasks[0]["broker_tag"])) == 1
    reordered = dict(reversed(list(MARKET.items())))
    again = shared.http.post("/orders", json=reordered, headers=key).json()
    assert again["task_id"] == tasks[0]["task_id"]
    for path, other in (("/orders", order(quantity=2)), (BATCHES, batch(MARKET))):
        found = problem(shared.http.post(path, json=other, headers=key), 422)
        assert [error["field"] for error in found["errors"]] == ["Idempotency-Key"]
    vars(shared)["expected_rows"] = {
        "ticker.db:idempotency_keys": 1,
        "ticker.db:order_tasks": 1,
        "ticker.db:task_attempts": 1,
        "ticker.db:broker_orders": 1,
        "ticker.db:order_events": 3,
        "ticker.paper.db:orders": 1,
        "ticker.paper.db:positions": 1,
    }
