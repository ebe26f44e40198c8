"""Several accounts in one service: each with its lane and file, its state and its troubles."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.service.conftest import Fork, Start
from tests.service.harness import (
    MARKET,
    RESTING,
    SOON,
    Client,
    Hatched,
    Nest,
    database,
    decoded,
    eventually,
    select,
)
from tests.service.kite_stub import KEY, SECRET, kite_stub
from ticker_actors.web.accounts import POSTBACKS_A_SECOND

TWO_ON_PAPER = """
[primary]
broker = "paper"
max_order_quantity = 100

[family]
broker = "paper"
paper_funds = 5000
orders_per_second = 2
allowed_exchanges = ["NSE", "BSE"]
allowed_products = ["CNC"]
max_order_value = 4000
"""


def accounts_file(folder: Path, text: str) -> str:
    """The path of an accounts file with this text."""
    path = folder / "accounts.toml"
    path.write_text(text)
    return str(path)


@pytest.fixture(scope="module")
def two(nest: Nest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hatched]:
    """A service with two paper accounts, which tests leave ACTIVE."""
    folder = tmp_path_factory.mktemp("two")
    service = nest.start(folder, ACCOUNTS_FILE=accounts_file(folder, TWO_ON_PAPER))
    yield service.wait_until_ready()
    service.close()
    assert "Traceback" not in service.text


def place(service: Client, account_id: str | None, **changes: object) -> httpx.Response:
    """What an order of an account is answered."""
    order = {**MARKET, **changes}
    if account_id is not None:
        order["account_id"] = account_id
    return service.http.post("/orders", params={"wait": 10}, json=order)


def placed(service: Client, account_id: str | None, **changes: object) -> dict[str, Any]:
    """The completed task of an order."""
    answer = place(service, account_id, **changes)
    assert answer.status_code == 200, answer.text
    task = decoded(answer)
    assert task["status"] == "completed", task
    return task


def account(service: Client, account_id: str) -> dict[str, Any]:
    """How an account stands."""
    answer = service.http.get(f"/accounts/{account_id}")
    assert answer.status_code == 200, answer.text
    return decoded(answer)


def set_state(service: Client, account_id: str, state: str, **more: object) -> dict[str, Any]:
    """The account after its operator's word."""
    answer = service.http.post(f"/accounts/{account_id}/state", json={"state": state, **more})
    assert answer.status_code == 200, answer.text
    return decoded(answer)


def refused(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem that a request was refused with."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = decoded(answer)
    assert problem.get("code") == code
    return problem


# Two lanes


def test_accounts_are_listed_with_what_they_are_held_to(two: Hatched) -> None:
    """`GET /accounts` shows each: broker, state, session, feed, limits, what is left."""
    listed = json.loads(two.http.get("/accounts").content)
    assert [found["account_id"] for found in listed] == ["primary", "family"]
    family = account(two, "family")
    assert family.keys() == listed[0].keys()
    expected: dict[str, Any] = {
        "broker": "paper",
        "state": "ACTIVE",
        "reason": None,
        "session": "ok",
        "breaker": "closed",
        "limits": {"orders_per_second": 2, "orders_per_minute": 400, "orders_per_day": 5000},
        "missing_orders": [],
        "accepted_missing": [],
        "worries": [],
    }
    assert family.items() >= expected.items()
    assert account(two, "primary")["limits"]["orders_per_second"] == 8
    health = decoded(two.http.get("/health"))["checks"]
    assert {"account primary", "account family"} <= health.keys()


def test_each_account_has_its_own_orders(two: Hatched) -> None:
    """An order shows in its own account's list, stream, book and purse, and in no other's."""
    before = account(two, "primary")["orders_left_today"]
    with (
        connect(two.stream_url) as primary,
        connect(two.stream_url.replace("/primary", "/family")) as family,
    ):
        assert json.loads(primary.recv(SOON))["account_id"] == "primary"
        assert json.loads(family.recv(SOON))["account_id"] == "family"
        ours = placed(two, None)
        theirs = placed(two, "family", tradingsymbol="TCS")
        for stream, task, other in ((primary, ours, theirs), (family, theirs, ours)):
            heard = ""
            while task["task_id"] not in heard:
                heard = str(stream.recv(SOON))
                assert other["task_id"] not in heard
    assert (ours["account_id"], theirs["account_id"]) == ("primary", "family")
    assert account(two, "primary")["orders_left_today"] == before - 1
    for account_id, symbol, task in (("primary", "INFY", ours), ("family", "TCS", theirs)):
        query = {"account_id": account_id}
        orders = two.http.get("/orders", params=query).json()
        rows = orders if isinstance(orders, list) else orders["orders"]
        assert task["order_id"] in {row["order_id"] for row in rows}
        assert {row["tradingsymbol"] for row in rows} == {symbol}
        tasks = two.http.get("/tasks", params=query).json()["tasks"]
        assert {found["account_id"] for found in tasks} == {account_id}
        held = two.http.get(f"/accounts/{account_id}/positions").json()["net"]
        assert {row["tradingsymbol"] for row in held} == {symbol}
        book = two.folder / "data" / f"{'ticker' if task is ours else 'family'}.paper.db"
        sql = "SELECT COUNT(*) FROM orders WHERE order_id = ?"
        assert select(book, sql, task["order_id"]) == [(1,)]


def test_an_order_of_one_account_is_not_anothers_to_change(two: Hatched) -> None:
    """Another account does not know it, whatever is asked of it."""
    book = two.folder / "data" / "family.paper.db"
    count = "SELECT COUNT(*) FROM orders WHERE order_id = ?"
    order_id = placed(two, None, order_type="LIMIT", price=1.05)["order_id"]
    while select(book, count, order_id) == [(1,)]:  # paper books count alike
        order_id = placed(two, None, order_type="LIMIT", price=1.05)["order_id"]
    path, query = f"/orders/{order_id}", {"account_id": "family"}
    refused(two.http.get(path, params=query), 404)
    refused(two.http.delete(path, params=query), 404)
    refused(two.http.put(path, params=query, json={"price": 2.0}), 404)
    eventually("it rests", lambda: two.order(order_id)["status"] == "OPEN")
    cancelled = two.http.delete(path, params={"wait": 10})
    assert decoded(cancelled)["status"] == "completed"


def test_the_same_key_in_another_account_is_refused(two: Hatched) -> None:
    """A key is unique in the whole service, and another account's says nothing of it."""
    headers = {"Idempotency-Key": "one-key"}
    first = two.http.post("/orders", json=MARKET, headers=headers)
    other = two.http.post("/orders", json={**MARKET, "account_id": "family"}, headers=headers)
    assert first.status_code == 202
    assert decoded(first)["task_id"] not in refused(other, 422)["detail"]


@pytest.mark.parametrize(
    "account_id, changes, code, field",
    [
        ("primary", {"quantity": 101}, "max_quantity", "quantity"),
        ("family", {"exchange": "NFO"}, "exchange_not_allowed", "exchange"),
        ("family", {"product": "MIS"}, "product_not_allowed", "product"),
        ("family", {"quantity": 3}, "max_value", "quantity"),
        (
            "family",
            {"quantity": 3, "order_type": "LIMIT", "price": 2000.0},
            "max_value",
            "quantity",
        ),
    ],
    ids=["quantity", "exchange", "product", "value at market", "value at its price"],
)
def test_each_account_has_its_own_limits(
    two: Hatched, account_id: str, changes: dict[str, Any], code: str, field: str
) -> None:
    """A denial is 422 with a code, for a single order and a leg alike; nothing is stored."""
    before = stored(two)
    problem = refused(place(two, account_id, **changes), 422, code)
    assert [error["field"] for error in problem["errors"]] == [field]
    batch = {"account_id": account_id, "orders": [{**MARKET, **changes}]}
    problem = refused(two.http.post("/advanced/batch-orders", json=batch), 422, code)
    assert [error["field"] for error in problem["errors"]] == [f"orders[0].{field}"]
    assert stored(two) == before


def stored(service: Client) -> int:
    """How many tasks are stored."""
    (row,) = select(database(service.folder), "SELECT COUNT(*) FROM order_tasks")
    return int(row[0])


def test_what_paper_accounts_hold(two: Hatched) -> None:
    """Positions, holdings and margins of each; money spent by one is not spent by the other."""
    before = two.http.get("/accounts/primary/margins").json()["equity"]["net"]
    family = two.http.get("/accounts/family/margins").json()["equity"]["net"]
    placed(two, "primary", tradingsymbol="INFY", quantity=2)
    held = two.http.get("/accounts/primary/positions").json()["net"]
    assert held[0]["tradingsymbol"] == "INFY"
    assert held[0]["quantity"] >= 2
    assert two.http.get("/accounts/primary/holdings").json() == []
    assert two.http.get("/accounts/primary/margins").json()["equity"]["net"] < before
    assert two.http.get("/accounts/family/margins").json()["equity"]["net"] == family


# States


def test_states_over_http(two: Hatched) -> None:
    """HALTED refuses orders with a code and cancels on; REDUCING takes what shrinks a position."""
    resting = placed(two, "primary", order_type="LIMIT", price=1.05)
    placed(two, "primary", tradingsymbol="SBIN", quantity=3)
    try:
        halted = set_state(two, "primary", "HALTED", reason="lunch")
        assert (halted["state"], halted["reason"]) == ("HALTED", "lunch")
        assert halted["worries"] == ["the account is HALTED (lunch)"]
        health = decoded(two.http.get("/health"))
        assert health["status"] == "degraded"
        assert health["checks"]["account family"]["status"] == "ok"
        refused(place(two, None), 422, "account_halted")
        path = f"/orders/{resting['order_id']}"
        refused(two.http.put(path, json={"price": 1.1}), 422, "account_halted")
        assert decoded(two.http.delete(path, params={"wait": 10}))["status"] == "completed"
        placed(two, "family", tradingsymbol="TCS")

        set_state(two, "primary", "REDUCING")
        sell = {"tradingsymbol": "SBIN", "transaction_type": "SELL"}
        refused(place(two, None, tradingsymbol="SBIN"), 422, "account_reducing")
        refused(place(two, None, **sell, quantity=4), 422, "account_reducing")
        placed(two, None, **sell, quantity=3)
        refused(place(two, None, **sell, quantity=1), 422, "account_reducing")
    finally:
        active = set_state(two, "primary", "ACTIVE")
    assert (active["state"], active["reason"], active["worries"]) == ("ACTIVE", None, [])
    placed(two, None)


@pytest.mark.parametrize(
    "body, fields",
    [
        ({}, ["state"]),
        ({"state": "halted"}, ["state"]),
        ({"state": "OFF"}, ["state"]),
        ({"state": None}, ["state"]),
        ({"state": "HALTED", "why": "x"}, ["why"]),
        ({"state": "HALTED", "reason": ""}, ["reason"]),
        ({"state": "HALTED", "reason": "x" * 201}, ["reason"]),
        ({"state": "HALTED", "reason": "a\0b"}, ["reason"]),
        ({"state": "HALTED", "accept_missing": "1"}, ["accept_missing"]),
        ({"state": "HALTED", "accept_missing": [1]}, ["accept_missing[0]"]),
        ({"state": "HALTED", "accept_missing": ["not-missing"]}, ["accept_missing"]),
        ([], ["body"]),
    ],
    ids=str,
)
def test_wrong_states(two: Hatched, body: object, fields: list[str]) -> None:
    """Every bad field is named, and the account stays as it was."""
    answer = two.http.post("/accounts/primary/state", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == fields
    assert account(two, "primary")["state"] == "ACTIVE"


@pytest.mark.parametrize(
    "body, fields",
    [
        ({}, ["body"]),
        ({"access_token": "a", "request_token": "b"}, ["body"]),
        ({"access_token": ""}, ["access_token"]),
        ({"access_token": "two words"}, ["access_token"]),
        ({"access_token": "a\r\nX: y"}, ["access_token"]),
        ({"access_token": "ключ"}, ["access_token"]),
        ({"access_token": "x" * 257}, ["access_token"]),
        ({"request_token": 5}, ["request_token"]),
        ({"token": "a"}, ["token"]),
        ("token", ["body"]),
    ],
    ids=str,
)
def test_wrong_tokens(two: Hatched, body: object, fields: list[str]) -> None:
    """What no header can hold, two at once or none: the field is named, its value is not."""
    answer = two.http.post("/accounts/primary/session", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == fields
    assert "ключ" not in answer.text


def test_unknown_accounts_and_paths(two: Hatched) -> None:
    """404 for an account that is not there, 405 for a method, 422 for a parameter."""
    for method, path, body in (
        ("GET", "/accounts/nobody", None),
        ("GET", "/accounts/PRIMARY", None),
        ("GET", "/accounts/nobody/positions", None),
        ("GET", "/accounts/nobody/margins", None),
        ("POST", "/accounts/nobody/state", {"state": "HALTED"}),
        ("POST", "/accounts/nobody/session", {"access_token": "x"}),
        ("GET", "/accounts/primary/orders", None),
        ("GET", "/accounts/%00", None),
    ):
        refused(two.http.request(method, path, json=body), 404)
    for method, path in (("POST", "/accounts"), ("GET", "/accounts/primary/state")):
        refused(two.http.request(method, path, json={} if method == "POST" else None), 405)
    refused(two.http.get("/accounts?state=HALTED"), 422)
    refused(two.http.get("/accounts/primary/positions?day=1"), 422)
    problem = refused(place(two, "nobody"), 422)
    assert problem["errors"][0]["message"].endswith("primary, family")


def test_a_paper_account_needs_no_login(two: Hatched) -> None:
    """409 in one sentence; nothing changes."""
    for token in ({"access_token": "x"}, {"request_token": "x"}):
        answer = two.http.post("/accounts/primary/session", json=token)
        assert "needs no login" in refused(answer, 409)["detail"]
    assert account(two, "primary")["session"] == "ok"


def test_the_state_outlives_a_kill(fork: Fork, tmp_path: Path) -> None:
    """HALTED is durable when it is answered: a `kill -9` and a start do not end it."""
    accounts = accounts_file(tmp_path, TWO_ON_PAPER)
    service = fork(ACCOUNTS_FILE=accounts)
    set_state(service, "family", "HALTED", reason="margin call")
    service.kill()
    again = fork(ACCOUNTS_FILE=accounts)
    family = account(again, "family")
    assert (family["state"], family["reason"]) == ("HALTED", "margin call")
    refused(place(again, "family"), 422, "account_halted")
    placed(again, None)
    set_state(again, "family", "ACTIVE")
    again.kill()
    third = fork(ACCOUNTS_FILE=accounts)
    assert account(third, "family")["state"] == "ACTIVE"
    placed(third, "family", tradingsymbol="TCS")


def test_without_a_primary_account(fork: Fork, tmp_path: Path) -> None:
    """Accounts may have other names; then an order must say which it is for."""
    text = "[one]\nbroker = 'paper'\n[two]\nbroker = 'paper'\n"
    service = fork(ACCOUNTS_FILE=accounts_file(tmp_path, text))
    problem = refused(place(service, None), 422)
    assert problem["errors"][0]["field"] == "account_id"
    placed(service, "two")
    assert "/orders/one" in service.text
    assert "curl" not in service.text


def test_a_wrong_file_stops_the_start(start: Start, tmp_path: Path) -> None:
    """Exit code 2 and one sentence; nothing is made."""
    accounts = accounts_file(tmp_path, "[primary]\nbroker = 'x'\n")
    service = start(ready=False, ACCOUNTS_FILE=accounts)
    assert service.wait() == 2
    assert service.text.startswith("ticker-actors: ACCOUNTS_FILE ")
    assert "primary.broker must be one of paper, kite" in service.text
    assert not (tmp_path / "data").exists()


# Postbacks


def test_postbacks_need_nothing_but_a_checksum(fork: Fork) -> None:
    """No key, and any Host, Origin and content type: the checksum alone is judged, and wrong."""
    service = fork(API_KEY="correct-horse-battery-staple")
    path = "/advanced/postback"
    for account_id in ("primary", "nobody", "%2e%2e"):
        answer = service.http.post(
            f"{path}/{account_id}",
            content=b'{"order_id": "1", "order_timestamp": "", "checksum": "0"}',
            headers={"Host": "trading.example.com", "Origin": "https://evil.example"},
        )
        assert refused(answer, 403)["detail"] == "The checksum is wrong."
    assert service.http.get(f"{path}/primary").status_code == 405
    assert service.http.post(path).status_code in {401, 404}
    assert service.http.get("/accounts").status_code == 401


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 50_000, b"null"], ids=str)
def test_postbacks_of_garbage(two: Hatched, body: bytes) -> None:
    """403 like any other without a right checksum."""
    refused(two.http.post("/advanced/postback/primary", content=body), 403)


def test_postbacks_are_limited(fork: Fork) -> None:
    """A flood of them is turned away with 429, and orders go on."""
    service = fork()
    statuses = Counter[int]()
    began = time.monotonic()
    with httpx.Client(base_url=service.url, trust_env=False) as flood:
        while True:
            answer = flood.post("/advanced/postback/primary", content=b"{}")
            statuses[answer.status_code] += 1
            if answer.status_code == 429:
                break
            assert time.monotonic() < began + SOON
    assert answer.headers["Retry-After"] == "1"
    assert statuses.keys() == {403, 429}
    assert statuses[403] >= POSTBACKS_A_SECOND
    placed(service, None)


# One account's trouble

ONE_AT_KITE = """
[primary]
broker = "paper"

[away]
broker = "kite"
api_key_env = "AWAY_KEY"
api_secret_env = "AWAY_SECRET"
access_token_env = "AWAY_TOKEN"
"""


@pytest.mark.slow
def test_one_accounts_broker_is_away(start: Start, tmp_path: Path) -> None:
    """Its health says so and its orders wait; the other account trades as if nothing was."""
    secrets = {"AWAY_KEY": KEY, "AWAY_SECRET": SECRET, "AWAY_TOKEN": "away-t0ken"}
    accounts = accounts_file(tmp_path, ONE_AT_KITE)
    with kite_stub() as kite:
        kite.away = True
        settings: dict[str, Any] = {**kite.settings, **secrets, "ACCOUNTS_FILE": accounts}
        service = start(**settings)
        eventually(
            "the account's trouble shows",
            lambda: "cannot be read" in health_of(service, "away"),
        )
        order = {**RESTING, "account_id": "away"}
        waiting = decoded(service.http.post("/orders", json=order))
        for _ in range(3):
            placed(service, None)
        refused(service.http.get("/accounts/away/positions"), 502)
        assert service.http.get("/accounts/primary/positions").status_code == 200
        assert health_of(service, "primary") == ""
        away = account(service, "away")
        assert (away["gate"], away["feed"], away["unsent"]) == ("closed", "down", 1)

        kite.alive = {"away-t0ken"}
        kite.away = False
        done = service.finished(waiting["task_id"])
        assert done["status"] == "completed"
        assert [order["tag"] for order in kite.orders] == [done["broker_tag"]]
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
    for secret in secrets.values():
        assert secret not in service.text


def health_of(service: Client, account_id: str) -> str:
    """What `/health` says of an account's troubles."""
    check = decoded(service.http.get("/health"))["checks"][f"account {account_id}"]
    return str(check.get("message", ""))
