"""`kill -9` at named points and random moments: the acknowledged is never lost or doubled."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.service.conftest import Fork
from tests.service.harness import (
    MARKET,
    RESTING,
    SOON,
    START_SECONDS,
    Hatched,
    Nest,
    assert_gapless,
    at_broker,
    database,
    decoded,
    events_of,
    eventually,
    new_client,
    paper,
    select,
    tasks_in_table,
)
from ticker_actors.model.calendar import iso

pytestmark = pytest.mark.slow

HORIZON = 0.3
"""Seconds: an order of the paper exchange shows at once."""
KILLS = 20
CLIENTS = 8
LIVED = (0.02, 0.5)
"""Seconds that a service lives under load before it is killed."""
NOT_PLACED = {"expired", "cancelled", "not_placed_proved"}
UNLIMITED: dict[str, Any] = {"ORDERS_PER_SECOND": 0, "ORDERS_PER_MINUTE": 0, "ORDERS_PER_DAY": 0}

DOOMED_MARKET = {**MARKET, "tradingsymbol": "DOOMED"}
DOOMED_RESTING = {**RESTING, "tradingsymbol": "DOOMED"}


def acknowledge(service: Hatched) -> None:
    """Tell the service that the client holds its 202."""
    (service.folder / "acknowledged").touch()


def test_killed_before_the_order_is_sent(fork: Fork) -> None:
    """An acknowledged order whose call was never made ends as proved not placed, never sent."""
    service = fork("DiesBeforePlacing")
    service.place(MARKET)
    task = service.place(DOOMED_MARKET, wait=0)
    acknowledge(service)
    service.wait()
    after = fork(ABSENCE_HORIZON_SECONDS=HORIZON).finished(task["task_id"])
    assert (after["status"], after["reason"]) == ("dead_letter", "not_placed_proved")
    assert after["may_be_at_broker"] is False
    assert at_broker(service.folder, after["broker_tag"]) == []
    sql = "SELECT COUNT(*) FROM order_events WHERE event = 'order_failed' AND data LIKE ?"
    assert select(database(service.folder), sql, f"%{task['task_id']}%") == [(1,)]
    assert_gapless(service.folder)


def test_killed_after_the_order_was_accepted(fork: Fork) -> None:
    """An order that the broker accepted before the kill is found, completed and told, once."""
    service = fork("DiesAfterPlacing")
    task = service.place(DOOMED_MARKET, wait=0)
    acknowledge(service)
    service.wait()
    again = fork(ABSENCE_HORIZON_SECONDS=HORIZON)
    after = again.finished(task["task_id"])
    assert after["status"] == "completed"
    assert after["result"]["found_by"] == "book"
    orders = again.http.get("/orders").json()
    assert [(order["order_id"], order["task_id"]) for order in orders] == [
        (after["order_id"], task["task_id"])
    ]
    assert at_broker(service.folder, after["broker_tag"]) == [(after["order_id"], "COMPLETE")]
    for event in ("order_placed", "order_completed"):
        assert events_of(service.folder, event, after["order_id"]) == 1
    assert_gapless(service.folder)


@pytest.mark.parametrize("fault", ["DiesBeforeCancelling", "DiesAfterCancelling"])
def test_killed_while_cancelling(fork: Fork, fault: str) -> None:
    """An acknowledged cancel is carried out by the next start, had it got through or not."""
    service = fork(fault)
    placed = service.place(RESTING)
    key = {"Idempotency-Key": "cancel"}
    with contextlib.suppress(httpx.TransportError):  # its answer may be lost: the key asks again
        service.http.delete(f"/orders/{placed['order_id']}", headers=key)
    service.wait()
    again = fork(ABSENCE_HORIZON_SECONDS=HORIZON)
    answer = again.http.delete(f"/orders/{placed['order_id']}", headers=key, params={"wait": 10})
    assert answer.status_code == 200
    cancel = again.finished(decoded(answer)["task_id"])
    assert (cancel["operation"], cancel["status"]) == ("cancel_order", "completed")
    assert at_broker(service.folder, placed["broker_tag"]) == [(placed["order_id"], "CANCELLED")]
    for event in ("order_placed", "order_cancelled"):
        assert events_of(service.folder, event, placed["order_id"]) == 1
    assert_gapless(service.folder)


@pytest.mark.parametrize("fault", ["DiesBeforePlacingLeg", "DiesAfterPlacingLeg"])
def test_killed_on_the_second_leg(fork: Fork, fault: str) -> None:
    """A batch cut in its second leg ends with true counts; nothing unnamed is left standing."""
    service = fork(fault)
    body = {"orders": [RESTING, DOOMED_RESTING, RESTING]}
    key = {"Idempotency-Key": "batch"}
    with pytest.raises(httpx.TransportError):
        service.http.post("/advanced/batch-orders", json=body, headers=key)
    service.wait()
    again = fork(ABSENCE_HORIZON_SECONDS=HORIZON)
    answer = again.http.post("/advanced/batch-orders", json=body, headers=key)
    assert answer.status_code == 200
    batch = decoded(answer)
    standing = {
        order_id
        for order_id, status in select(paper(service.folder), "SELECT order_id, status FROM orders")
        if status not in {"CANCELLED", "REJECTED"}
    }
    named = {leg["order_id"] for leg in batch["orders"] if leg["outcome"] in {"open", "filled"}}
    assert standing == named
    assert batch["succeeded"] == len(standing)
    assert batch["failed"] == 3 - len(standing)
    assert batch["unknown"] == 0
    assert (batch["state"], len(standing)) in {("succeeded", 3), ("rolled_back", 0)}
    if fault == "DiesBeforePlacingLeg":
        assert batch["state"] == "rolled_back"
        assert batch["error"].startswith("Order 1 failed: ")
        assert batch["error"].endswith(" Rolled back 1 order.")
    assert_gapless(service.folder)


def test_waiting_orders_survive_or_expire(fork: Fork) -> None:
    """Orders that waited for their turn are placed once by the next start, or never if expired."""
    service = fork(ORDERS_PER_MINUTE=1)
    service.place(RESTING)
    waiting = [service.place(RESTING, wait=0) for _ in range(5)]
    expiring = [service.place({**RESTING, "expires_in": 1}, wait=0) for _ in range(5)]
    service.kill()
    assert {row["phase"] for row in tasks_in_table(service.folder).values()} == {"done", "queued"}
    last = max(task["expires_at"] for task in expiring)
    eventually("they have expired", lambda: iso(datetime.now(UTC)) > last)
    again = fork(**UNLIMITED)
    for task in waiting:
        after = again.finished(task["task_id"])
        assert after["status"] == "completed"
        assert at_broker(service.folder, after["broker_tag"]) == [(after["order_id"], "OPEN")]
    for task in expiring:
        after = again.finished(task["task_id"])
        assert (after["status"], after["reason"]) == ("dead_letter", "expired")
    assert select(paper(service.folder), "SELECT COUNT(*) FROM orders") == [(6,)]
    assert_gapless(service.folder)


class Receiver(ThreadingHTTPServer):
    """A webhook receiver that keeps what it gets, and answers nothing until it is `open`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.got = got = list[tuple[str, dict[str, Any]]]()
        self.open = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805  # `self` is the server here
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                got.append((handler.headers["webhook-id"], json.loads(body)))
                if self.open.wait(SOON):
                    with contextlib.suppress(OSError):  # its client may have been killed
                        handler.send_response(204)
                        handler.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


def test_deliveries_survive(fork: Fork) -> None:
    """What was not delivered before a kill is delivered after it, under the id it had."""
    sql = "SELECT event_id, state FROM webhook_deliveries"
    with Receiver() as receiver:
        service = fork()
        url = f"http://127.0.0.1:{receiver.server_port}/"
        subscription = {"url": url, "events": ["order_placed"]}
        service.http.post("/advanced/webhooks", json=subscription)
        placed = service.place(RESTING)
        eventually("the receiver has it", lambda: receiver.got)
        service.kill()
        ((event_id, state),) = select(database(service.folder), sql)
        assert state == "pending"
        receiver.open.set()
        fork()
        eventually("it comes again", lambda: len(receiver.got) == 2)
        assert [name for name, _ in receiver.got] == [event_id, event_id]
        assert receiver.got[0] == receiver.got[1]
        assert receiver.got[0][1]["data"]["order_id"] == placed["order_id"]
        eventually(
            "its success is stored",
            lambda: select(database(service.folder), sql) == [(event_id, "succeeded")],
        )


# Random moments


@dataclass
class Load:
    """Clients that post under keys and ask again until they are answered, whatever happens."""

    url: str = ""
    """Of the service that lives; it changes with every start."""
    stopping: bool = False
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Task by key."""
    unwanted: set[str] = field(default_factory=set)
    """Tasks whose order must not be left resting."""
    faults: list[str] = field(default_factory=list)

    def client(self, number: int) -> None:
        """Place orders, and cancel every second one that rests, until the end."""
        chance = random.Random(number)
        with new_client("", timeout=5) as http:
            turn = 0
            while not self.stopping:
                turn += 1
                order = chance.choice((MARKET, RESTING, RESTING))
                task = self.ask(http, "POST", "/orders", f"{number}-{turn}", order)
                if order is RESTING and chance.random() < 0.5:
                    self.cancel(http, task["task_id"], f"{number}-{turn}-cancel")
                time.sleep(chance.random() * 0.02)  # else the machine has time for nothing else

    def ask(
        self,
        http: httpx.Client,
        method: str,
        path: str,
        key: str,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The acknowledged task. Asks a second time now and then although it was answered."""
        headers = {"Idempotency-Key": key}
        task = self.answered(http, method, path, headers, body)
        self.acknowledged[key] = task["task_id"]
        if hash(key) % 4 == 0:
            again = self.answered(http, method, path, headers, body)
            if again["task_id"] != task["task_id"]:
                self.faults.append(f"{key}: {task['task_id']}, then {again['task_id']}")
        return task

    def answered(
        self,
        http: httpx.Client,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The first proper answer."""
        deadline = time.monotonic() + START_SECONDS + SOON
        while time.monotonic() < deadline:
            try:
                answer = http.request(method, self.url + path, headers=headers, json=body)
            except httpx.TransportError:
                time.sleep(0.01)
                continue
            if answer.status_code in {200, 202}:
                return decoded(answer)
            if answer.status_code != 503:
                self.faults.append(f"{method} {path}: {answer.status_code} {answer.text}")
            time.sleep(0.01)
        raise AssertionError(f"no answer to {method} {path}")

    def cancel(self, http: httpx.Client, task_id: str, key: str) -> None:
        """Cancel the order if it is known, else the task: then whatever may come of it."""
        task = self.answered(http, "GET", f"/tasks/{task_id}")
        if task["order_id"] is not None:
            self.ask(http, "DELETE", f"/orders/{task['order_id']}", key)
        else:
            self.answered(http, "POST", f"/tasks/{task_id}/cancel")
        self.unwanted.add(task_id)


@pytest.mark.timeout(120)
def test_random_kills(nest: Nest, tmp_path: Path) -> None:
    """20 kills under load: nothing acknowledged is lost, doubled, or called what it is not."""
    chance = random.Random(20)
    settings: dict[str, Any] = {
        **UNLIMITED,
        "ABSENCE_HORIZON_SECONDS": HORIZON,
        "LOG_LEVEL": "warning",
    }
    load = Load()
    service = nest.start(tmp_path, **settings)
    load.url = service.wait_until_ready().url
    clients = [threading.Thread(target=load.client, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        for number in range(KILLS):
            if number % 5 != 4:  # each fifth dies while it starts
                load.url = service.wait_until_ready().url
            time.sleep(chance.uniform(*LIVED))
            service.kill()
            service = nest.start(tmp_path, **settings)
        load.url = service.wait_until_ready().url
    finally:
        load.stopping = True
        for client in clients:
            client.join()
    assert load.faults == []
    assert not any("Traceback" in hatched.text for hatched in nest.hatched)

    def settled() -> bool:
        rows = tasks_in_table(tmp_path).values()
        return all(row["phase"] in {"done", "dead"} for row in rows)

    eventually("every task has finished", settled, 20)
    time.sleep(0.2)  # the last fills of the paper exchange come in the same second
    tasks = tasks_in_table(tmp_path)
    by_key = {row["idempotency_key"]: row for row in tasks.values()}
    assert {key: by_key[key]["task_id"] for key in load.acknowledged} == load.acknowledged
    places = {row["intent"]: row for row in tasks.values() if row["operation"] == "place_order"}
    book = select(paper(tmp_path), "SELECT order_id, substr(tag, 5, 12), status FROM orders")
    statuses = {order_id: status for order_id, _, status in book}
    owners = [intent for _, intent, _ in book]
    assert len(owners) == len(set(owners)), "two broker orders of one task"
    assert {places[intent]["order_id"]: intent for intent in owners} == {
        order_id: intent for order_id, intent, _ in book
    }
    for intent, row in places.items():
        assert (row["status"] == "completed") == (intent in set(owners)), row
        assert row["status"] == "completed" or row["reason"] in NOT_PLACED, row
        if row["task_id"] in load.unwanted:
            assert statuses.get(row["order_id"], "CANCELLED") == "CANCELLED", row
    cancels = [row for row in tasks.values() if row["operation"] == "cancel_order"]
    for row in cancels:
        assert (row["status"], statuses[row["order_id"]]) == ("completed", "CANCELLED")
    assert_gapless(tmp_path)
    sql = "SELECT order_id, COUNT(*) FROM order_events WHERE event = ? GROUP BY order_id"
    placed = dict(select(database(tmp_path), sql, "order_placed"))
    assert placed == dict.fromkeys(statuses, 1)
    ended = dict(select(database(tmp_path), sql, "order_cancelled"))
    assert ended == {name: 1 for name, status in statuses.items() if status == "CANCELLED"}
    sql = (
        "SELECT data ->> 'task_id', COUNT(*) FROM order_events WHERE event = 'task_status' "
        "AND data ->> 'status' IN ('completed', 'dead_letter') GROUP BY 1"
    )
    assert dict(select(database(tmp_path), sql)) == dict.fromkeys(tasks, 1)
    proved = sum(row["reason"] == "not_placed_proved" for row in places.values())
    print(  # noqa: T201  # what the run was worth
        f"{KILLS} kills, {len(load.acknowledged)} acknowledgements, {len(places)} orders, "
        f"{len(book)} at the broker, {proved} proved not placed, {len(cancels)} cancels"
    )
