"""Keys and origins: who is let in, and that no secret comes out again."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.service.conftest import Fork
from tests.service.harness import MARKET, SOON, Hatched, Nest, counts, eventually

KEY = "correct-horse-battery-staple"
WRONG_KEY = "correct-horse-battery-stable"
SECRET = "webhook-secret-that-nobody-sees"
PAGE = "https://desk.example.com"

PATHS = [
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/orders"),
    ("GET", "/tasks"),
    ("GET", "/tasks/stats"),
    ("GET", "/advanced/webhooks"),
    ("GET", "/advanced/ws/stats"),
    ("GET", "/no/such/path"),
    ("POST", "/orders"),
    ("POST", "/advanced/batch-orders"),
    ("POST", "/advanced/webhooks"),
    ("POST", "/advanced/ws/tickets"),
    ("GET", "/advanced/orders/primary/events"),
    ("POST", "/tasks/task_1/cancel"),
    ("PUT", "/orders/1"),
    ("DELETE", "/orders/1"),
    ("DELETE", "/advanced/webhooks/1"),
]


@pytest.fixture(scope="module")
def locked(nest: Nest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hatched]:
    """A service that asks for a key, and serves one page's origin."""
    folder = tmp_path_factory.mktemp("locked")
    service = nest.start(folder, API_KEY=KEY, ALLOWED_ORIGINS=f"{PAGE},", LOG_LEVEL="debug")
    yield service.wait_until_ready()
    service.close()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": WRONG_KEY},
        {"X-API-Key": ""},
        {"Authorization": f"Bearer {WRONG_KEY}"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
    ],
    ids=str,
)
def test_nothing_without_the_key(locked: Hatched, headers: dict[str, str]) -> None:
    """Without the key every path is 401 and says how to send one; nothing is stored."""
    before = counts(locked.folder)
    for method, path in PATHS:
        body = MARKET if method in {"POST", "PUT"} else None
        answer = locked.http.request(method, path, headers=headers, json=body)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert locked.http.get("/orders", params={"token": KEY}).status_code == 401
    assert counts(locked.folder) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer {KEY}"},
    ],
    ids=["header", "Bearer", "bearer"],
)
def test_the_key_opens(locked: Hatched, headers: dict[str, str]) -> None:
    """The key is taken as a bearer token or as `X-API-Key`, under any name of the host."""
    assert locked.http.get("/orders", headers=headers).status_code == 200
    by_name = {**headers, "Host": "trading.example.com"}
    assert locked.http.get("/orders", headers=by_name).status_code == 200
    with connect(locked.stream_url, additional_headers=headers) as stream:
        assert json.loads(stream.recv(SOON))["type"] == "connected"


def test_stream_with_token(locked: Hatched) -> None:
    """A WebSocket, to which a browser can give no header, may bring the key in its query."""
    with connect(f"{locked.stream_url}?token={KEY}") as stream:
        assert json.loads(stream.recv(SOON))["type"] == "connected"
    for query in ("", "?token=", f"?token={WRONG_KEY}"):
        with pytest.raises(InvalidStatus) as refused, connect(locked.stream_url + query):
            pass
        assert refused.value.response.status_code == 401


def test_health_without_key(locked: Hatched) -> None:
    """A load balancer without a key learns how the service is, and nothing else of it."""
    assert locked.http.get("/health").json() == {"status": "ok", "checks": {}}
    known = locked.http.get("/health", headers={"X-API-Key": KEY}).json()
    assert known["checks"]["account primary"]["status"] == "ok"


def test_secrets_stay_inside(locked: Hatched) -> None:
    """Neither the key nor a webhook's secret shows in an answer, a metric or the log."""
    headers = {"X-API-Key": KEY}
    secret_path = "a-path-that-is-a-secret"
    subscription = {
        "url": f"http://127.0.0.1:9/{secret_path}",
        "events": ["order_placed"],
        "secret": SECRET,
    }
    said = [locked.http.post("/advanced/webhooks", json=subscription, headers=headers).text]
    placed = locked.http.post("/orders?wait=10", json=MARKET, headers=headers)
    said.append(placed.text)
    with connect(f"{locked.stream_url}?token={KEY}"):
        eventually("a delivery has failed", lambda: "webhook delivery failed" in locked.text)
    paths = ("/advanced/webhooks", "/metrics", "/health", "/orders", "/tasks", "/")
    said += [locked.http.get(path, headers=headers).text for path in paths]
    for text in (*said, locked.text):
        assert KEY not in text
        assert SECRET not in text
    assert secret_path not in locked.text + said[3]


def test_page_of_an_allowed_origin(locked: Hatched) -> None:
    """A page in ALLOWED_ORIGINS is answered with CORS headers, its preflight without a key."""
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-api-key,idempotency-key",
    }
    preflight = locked.http.options("/orders", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"content-type", "x-api-key", "idempotency-key", "authorization"} <= set(allowed)
    methods = preflight.headers["Access-Control-Allow-Methods"].split(", ")
    assert {"GET", "POST", "PUT", "DELETE"} <= set(methods)
    headers = {"Origin": PAGE, "X-API-Key": KEY}
    for answer in (
        locked.http.post("/orders?wait=10", json=MARKET, headers=headers),
        locked.http.post("/orders", json={}, headers=headers),
        locked.http.get("/tasks/none", headers=headers),
        locked.http.get("/orders", headers={"Origin": PAGE}),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Origin" in answer.headers["Vary"]
    with connect(f"{locked.stream_url}?token={KEY}", additional_headers={"Origin": PAGE}) as stream:
        assert json.loads(stream.recv(SOON))["type"] == "connected"


@pytest.mark.parametrize("origin", ["https://evil.example", f"{PAGE}.evil.example", "null"])
def test_page_of_another_origin(locked: Hatched, origin: str) -> None:
    """Another page gets 403, with and without the key, and no CORS header to read it by."""
    headers = {"Origin": origin, "X-API-Key": KEY}
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for answer in (
        locked.http.post("/orders", json=MARKET, headers=headers),
        locked.http.get("/orders", headers=headers),
        locked.http.options("/orders", headers=preflight),
    ):
        assert answer.status_code == 403
        assert "Access-Control-Allow-Origin" not in answer.headers
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(f"{locked.stream_url}?token={KEY}", additional_headers={"Origin": origin}),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_banner_shows_no_key(fork: Fork, tmp_path: Path) -> None:
    """The banner's example asks the shell for the key; it does not print it."""
    text = fork(API_KEY=KEY).text
    assert re.search(r'-H "X-API-Key: \$API_KEY"', text)
    assert KEY not in text


def test_a_ticket_opens_a_stream_once(locked: Hatched) -> None:
    """A page gets it with its key, and connects without; no second time, and to nothing else."""
    headers = {"X-API-Key": KEY, "Origin": PAGE}
    answer = locked.http.post("/advanced/ws/tickets", headers=headers, json={})
    assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store")
    issued = answer.json()
    assert {"account_id": "primary", "expires_in": 60.0}.items() <= issued.items()
    url = f"{locked.stream_url}?ticket={issued['ticket']}"
    with connect(url, additional_headers={"Origin": PAGE}) as stream:
        assert json.loads(stream.recv(SOON))["type"] == "connected"
    for target, status in ((url, 401), (f"{url}&token={KEY}", 401), (locked.stream_url, 401)):
        with pytest.raises(InvalidStatus) as refused, connect(target):
            pass
        assert refused.value.response.status_code == status
    other = locked.http.post("/advanced/ws/tickets", headers=headers, json={}).json()["ticket"]
    elsewhere = locked.stream_url.replace("primary", "second") + f"?ticket={other}"
    with pytest.raises(InvalidStatus) as refused, connect(elsewhere):
        pass
    assert refused.value.response.status_code == 403
    for body, status in (({"account_id": "second"}, 422), ({"account": "primary"}, 422)):
        answer = locked.http.post("/advanced/ws/tickets", headers=headers, json=body)
        assert answer.status_code == status
    assert issued["ticket"] not in locked.text
