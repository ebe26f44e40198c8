"""What those who run the service see: `/health`, `/metrics`, the stream's limits."""

import re
from contextlib import ExitStack
from functools import partial

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.service.conftest import Fork
from tests.service.harness import (
    MARKET,
    RESTING,
    SOON,
    Client,
    counts,
    decoded,
    eventually,
    paper,
    select,
)


def health(service: Client, status: str) -> dict[str, dict[str, object]]:
    """The checks of `/health`, once it has this status."""

    def look() -> dict[str, dict[str, object]] | None:
        answer = service.http.get("/health")
        assert answer.status_code == 200, answer.text
        found = decoded(answer)
        checks: dict[str, dict[str, object]] = found["checks"]
        return checks if found["status"] == status else None

    return eventually(f"health is {status}", look)


def test_book_that_misses_orders(fork: Fork) -> None:
    """When the broker's book has lost known orders, nothing is sent, and `/health` says why."""
    service = fork()
    lost = service.place(RESTING)
    service.kill()
    for file in paper(service.folder).parent.glob("ticker.paper.db*"):
        file.unlink()
    again = fork()
    account = health(again, "degraded")["account primary"]
    assert account["status"] == "degraded"
    assert lost["order_id"] in str(account["message"])
    task = again.place({**MARKET, "expires_in": 1}, wait=0)
    after = again.finished(task["task_id"])
    assert (after["status"], after["reason"], after["sends"]) == ("dead_letter", "expired", [])
    assert select(paper(again.folder), "SELECT COUNT(*) FROM orders") == [(0,)]
    assert health(again, "degraded")["account primary"]["message"]


def metrics(service: Client) -> dict[str, float]:
    """Every sample of `/metrics`, by its name and labels."""
    answer = service.http.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_count_what_happened(fork: Fork) -> None:
    """`/metrics` counts tasks by result, commits, mailboxes, streams and deliveries."""
    service = fork()
    hook = {"url": "http://127.0.0.1:9/", "events": ["order_completed"]}
    assert service.http.post("/advanced/webhooks", json=hook).status_code == 201
    with connect(service.stream_url) as stream:
        stream.recv(SOON)
        service.place(MARKET)
        service.place({**RESTING, "price": 1.03})
        service.http.post("/orders", json={**MARKET, "quantity": 1_000_001})
        retried = 'ticker_webhook_attempts_total{event="order_completed",result="retried"}'
        eventually("the delivery has failed", lambda: metrics(service).get(retried))
        found = metrics(service)
    task = 'ticker_tasks_total{operation="place_order",reason="%s",status="%s"}'
    assert found[task % ("", "completed")] == 1
    assert found[task % ("refused", "dead_letter")] == 1
    assert found['ticker_orders_denied_total{account_id="primary"}'] == 1
    call = 'ticker_broker_calls_total{account_id="primary",call="place_order",outcome="%s"}'
    assert (found[call % "placed"], found[call % "refused"]) == (1, 1)
    assert found["ticker_commit_seconds_count"] >= 4
    assert found["ticker_commit_seconds_sum"] > 0
    assert found["ticker_commit_changes_count"] == found["ticker_commit_seconds_count"]
    assert found['ticker_stage_seconds_count{stage="commit"}'] >= 4
    assert found['ticker_events_total{event="order_completed"}'] == 1
    assert found['ticker_stream_connections{account_id="primary"}'] == 1
    assert found["ticker_stream_messages_total"] == 5
    assert found["ticker_webhook_attempt_seconds_count"] == 1
    boxes = {name for name in found if name.startswith("ticker_mailbox_messages")}
    for actor in ("StreamHub", "PersistenceActor", "ExecutorActor", "WebhookDispatcher"):
        assert f'ticker_mailbox_messages{{mailbox="{actor}"}}' in boxes


def test_http_requests_are_measured(fork: Fork) -> None:
    """`/metrics` has HTTP requests by route, never by a path that a client invents."""
    service = fork()
    service.place(MARKET)
    service.http.get("/tasks/task_1")
    service.http.get("/an/invented/path")
    text = service.http.get("/metrics").text
    routes = set(re.findall(r'ticker_http_request_seconds_count\{.*route="([^"]+)"', text))
    assert {"/orders", "/tasks/<task_id>"} <= routes
    assert "invented" not in text


def connections(service: Client) -> int:
    """How many streams there are."""
    return int(service.http.get("/advanced/ws/stats").json()["total_connections"])


def test_stream_limit(fork: Fork) -> None:
    """An account has no more streams than it may; the next is refused until one has gone."""
    service = fork(STREAM_CONNECTIONS_PER_ACCOUNT=2)
    with ExitStack() as streams:
        first = streams.enter_context(connect(service.stream_url))
        streams.enter_context(connect(service.stream_url))
        with pytest.raises(InvalidStatus) as refused, connect(service.stream_url):
            pass
        assert refused.value.response.status_code == 429
        assert "Retry-After" in refused.value.response.headers
        first.close()
        eventually("its place is free", lambda: connections(service) == 1)
        streams.enter_context(connect(service.stream_url))
        assert connections(service) == 2
    eventually("all are gone", lambda: connections(service) == 0)


def test_questions_without_a_body(fork: Fork) -> None:
    """HEAD and OPTIONS are answered, and their connection goes on."""
    service = fork()
    for method, path, status in (
        ("HEAD", "/health", 200),
        ("HEAD", "/no/such/path", 404),
        ("OPTIONS", "/orders", 200),
    ):
        answer = service.http.request(method, path)
        assert (answer.status_code, answer.content) == (status, b"")
    assert service.http.get("/health").status_code == 200


def shows(service: Client, order_id: str, status: str) -> bool:
    """Whether the view shows an order in this status."""
    return bool(service.order(order_id)["status"] == status)


def test_restart_changes_nothing(fork: Fork) -> None:
    """A restart with nothing new adds no row to any table, and the stream goes on counting."""
    service = fork()
    resting, bought = service.place(RESTING), service.place(MARKET)
    for task, status in ((resting, "OPEN"), (bought, "COMPLETE")):
        eventually(
            f"the view says {status}",
            partial(shows, service, task["order_id"], status),
        )
    service.signal(15)
    assert service.wait() == 0
    before = counts(service.folder)
    again = fork()
    health(again, "ok")
    again.kill()
    assert counts(service.folder) == before
