"""The real service at a stand-in for Kite: no login, a login, a dead token, a login beside it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.service.conftest import Start
from tests.service.harness import (
    RESTING,
    SOON,
    Client,
    Process,
    Service,
    decoded,
    environment,
    eventually,
)
from tests.service.kite_stub import BOUGHT, KEY, REQUEST, SECRET, KiteStub, kite_stub

pytestmark = pytest.mark.slow

TOKEN = "stub-access-t0ken"
LOGIN = (sys.executable, "-m", "ticker_actors", "login")


@pytest.fixture
def kite() -> Iterator[KiteStub]:
    """Kite, with nobody logged in."""
    with kite_stub() as stub:
        yield stub
    assert not stub.strangers


def account(service: Client, account_id: str = "primary") -> dict[str, Any]:
    """How an account stands."""
    return decoded(service.http.get(f"/accounts/{account_id}"))


def session_is(service: Client, state: str) -> None:
    """Wait until the account's session is in this state."""
    eventually(f"its session is {state}", lambda: account(service)["session"] == state)


def log_in(service: Client, **token: str) -> tuple[int, dict[str, Any]]:
    """Give the running service a token."""
    answer = service.http.post("/accounts/primary/session", json=token)
    return answer.status_code, decoded(answer)


def start_at(start: Start, kite: KiteStub, **more: str) -> Service:
    """The service with its primary account at Kite."""
    settings: dict[str, Any] = {"BROKER": "kite", "LOG_LEVEL": "debug", **kite.settings, **more}
    return start(**settings)


def assert_no_secret(*texts: str) -> None:
    """Nothing that opens the account was said; the key is in the address of the login page."""
    for text in texts:
        for secret in (TOKEN, BOUGHT, SECRET, REQUEST):
            assert secret not in text


def test_a_day_at_kite(start: Start, kite: KiteStub, tmp_path: Path) -> None:
    """Orders wait for a login, over HTTP and by the command line, and go out once each after it."""
    service = start_at(start, kite)
    session_is(service, "login_required")
    health = decoded(service.http.get("/health"))
    assert health["status"] == "degraded"
    assert "ticker-actors login" in health["checks"]["account primary"]["message"]
    waiting = service.place(RESTING, wait=0)
    assert waiting["status"] in {"pending", "retrying"}

    status, answer = log_in(service, access_token="not-this-one")
    assert (status, kite.orders) == (409, [])
    assert "does not answer to this token" in answer["detail"]
    status, answer = log_in(service, request_token="nor-this-one")
    assert (status, kite.orders) == (409, [])

    kite.alive = {TOKEN}
    status, answer = log_in(service, access_token=TOKEN)
    assert (status, answer["session"]) == (200, "ok")
    done = service.finished(waiting["task_id"])
    assert (done["status"], done["attempts"]) == ("completed", 1)
    assert [order["tag"] for order in kite.orders] == [done["broker_tag"]]
    eventually("the feed is up", lambda: account(service)["feed"] == "up")
    assert decoded(service.http.get("/health"))["status"] == "ok"

    status, answer = log_in(service, access_token="not-this-one")
    assert (status, account(service)["session"]) == (409, "ok")

    with connect(service.stream_url) as stream:
        kite.alive = set()
        second = service.place(RESTING, wait=0)
        told = ""
        while '"login_required"' not in told:
            told = str(stream.recv(SOON))
        assert json.loads(told)["event"] == "account_status"
    session_is(service, "login_required")
    assert service.task(second["task_id"])["attempts"] == 0

    command = Process(LOGIN, tmp_path, environment(BROKER="kite", **kite.settings))
    command.wait_for_line("Then paste")
    command.write(f"http://127.0.0.1/?request_token={REQUEST}&action=login&status=success")
    assert command.wait() == 0, command.text
    after = service.finished(second["task_id"])
    assert (after["status"], after["attempts"]) == ("completed", 1)
    session_is(service, "ok")
    assert [order["tag"] for order in kite.orders] == [done["broker_tag"], after["broker_tag"]]
    command.close()

    service.kill()
    again = start_at(start, kite)
    eventually("it starts with the token that was kept", lambda: account(again)["gate"] == "open")
    assert account(again)["session"] == "ok"
    third = again.place(RESTING)
    assert (third["status"], len(kite.orders)) == ("completed", 3)
    assert_no_secret(service.text, again.text, command.text, repr(answer), told)
    assert KEY not in service.text
    assert "login_required" in service.text


def test_the_newest_login_wins_over_the_settings(start: Start, kite: KiteStub) -> None:
    """A token of the environment serves until there was a login; then the login's does."""
    kite.alive = {TOKEN}
    service = start_at(start, kite, KITE_ACCESS_TOKEN=TOKEN)
    eventually("the gate is open", lambda: account(service)["gate"] == "open")
    assert log_in(service, request_token=REQUEST)[0] == 200
    assert kite.alive == {BOUGHT}
    assert service.place(RESTING)["status"] == "completed"
    service.kill()
    again = start_at(start, kite, KITE_ACCESS_TOKEN=TOKEN)
    eventually("the gate is open", lambda: account(again)["gate"] == "open")
    assert again.place(RESTING)["status"] == "completed"
    assert_no_secret(service.text, again.text)


def test_a_postback_causes_a_read(start: Start, kite: KiteStub) -> None:
    """What the ticker did not tell is seen at once; a wrong checksum causes nothing."""
    kite.alive = {TOKEN}
    service = start_at(start, kite, KITE_ACCESS_TOKEN=TOKEN)
    order_id = service.place(RESTING)["order_id"]
    eventually("it is open", lambda: service.order(order_id)["status"] == "OPEN")
    order = kite.complete(order_id)
    path = "/advanced/postback/primary"
    forged = service.http.post(path, json=kite.postback(order, secret="another"))
    assert forged.status_code == 403
    genuine = service.http.post(
        path,
        content=json.dumps(kite.postback(order)),
        headers={"Host": "desk.example.com", "Origin": "https://kite.trade"},
    )
    assert genuine.status_code == 200
    eventually("it is complete", lambda: service.order(order_id)["status"] == "COMPLETE", 5.0)


def test_what_the_account_holds(start: Start, kite: KiteStub) -> None:
    """Straight from the broker, in its own words; 502 when it says nothing."""
    kite.alive = {TOKEN}
    service = start_at(start, kite, KITE_ACCESS_TOKEN=TOKEN)
    positions = decoded(service.http.get("/accounts/primary/positions"))
    assert positions["net"][0]["tradingsymbol"] == "LEADMINI17DECFUT"
    holdings = json.loads(service.http.get("/accounts/primary/holdings").content)
    assert holdings[0]["tradingsymbol"] == "GOLDBEES"
    margins = decoded(service.http.get("/accounts/primary/margins"))
    assert margins["equity"]["net"] == 99725.05
    kite.away = True
    for what in ("positions", "holdings", "margins"):
        answer = service.http.get(f"/accounts/primary/{what}")
        assert answer.status_code == 502
        assert "does not say" in decoded(answer)["detail"]
    status, _ = log_in(service, access_token="another")
    assert status == 409
    kite.away = False
    assert service.place(RESTING)["status"] == "completed"
