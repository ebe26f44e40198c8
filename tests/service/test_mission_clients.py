"""The mission document's clients, unchanged, each a process, against the real service."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.service import mission
from tests.service.conftest import Start
from tests.service.harness import (
    MARKET,
    RESTING,
    SOON,
    START_SECONDS,
    Process,
    Service,
    environment,
    eventually,
    select,
)
from tests.service.harness import database as tables_of

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

Run = Callable[[str], Process]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Run a client's text as a process of its own."""
    started: list[Process] = []

    def run(text: str) -> Process:
        (tmp_path / "client.py").write_text(text)
        process = Process((sys.executable, "client.py"), tmp_path, environment())
        started.append(process)
        return process

    yield run
    for number, process in enumerate(started):
        process.close()
        print(f"--- client {number} ---\n{process.text}")  # noqa: T201  # shown on failure


def updates(client: Process) -> list[dict[str, Any]]:
    """What the document's stream client has printed."""
    found = re.findall(r"^Order update: (\{.*\})$", client.text, re.MULTILINE)
    return [ast.literal_eval(text) for text in found]


def test_python_stream_client(service: Service, run: Run) -> None:
    """The document's Python client gets the welcome, every update in sequence, and a clean end."""
    client = run(mission.on_port(mission.PYTHON_STREAM_CLIENT, service.port))
    welcome = json.loads(client.wait_for_line(r"Connected: (.*)")[1])
    assert {"type": "connected", "account_id": "primary"}.items() <= welcome.items()
    assert TIMESTAMP.fullmatch(welcome["timestamp"])

    task = service.place(MARKET)
    client.wait_for_line(rf"'task_status', 'task_id': '{task['task_id']}'")
    client.wait_for_line("'COMPLETE'")
    seen = updates(client)
    for message in seen:
        assert message["type"] == "order_update"
        assert message["account_id"] == "primary"
        assert TIMESTAMP.fullmatch(message["timestamp"])
    orders = [message["data"] for message in seen if "filled_quantity" in message["data"]]
    assert orders[-1]["order_id"] == task["result"]["order_id"]
    assert orders[-1]["status"] == "COMPLETE"
    assert orders[-1]["filled_quantity"] == 1
    assert orders[-1]["average_price"] == pytest.approx(1500, rel=0.06)
    told = next(
        message["data"] for message in seen if message["data"].get("event") == "task_status"
    )
    assert told["status"] == "completed"
    assert told["result"]["order_id"] == task["result"]["order_id"]

    for _ in range(5):
        service.place(RESTING, wait=0)
    eventually("all are told", lambda: len(updates(client)) >= len(seen) + 10)
    sequences = [message["sequence"] for message in updates(client)]
    assert sequences == list(
        range(welcome["sequence"] + 1, len(sequences) + welcome["sequence"] + 1)
    )

    service.signal(15)
    client.wait_for_line("Connection closed")
    assert client.wait() == 0


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, str]]:
    """The document's FastAPI receiver, and its URL."""
    folder = tmp_path_factory.mktemp("receiver")
    (folder / "receiver.py").write_text(mission.FASTAPI_RECEIVER)
    command = (sys.executable, "-m", "uvicorn", "receiver:app", "--port", "0")
    process = Process(command, folder, environment())
    try:
        base = process.wait_for_line(r"running on (http://\S+)", START_SECONDS)[1]
        yield process, f"{base}/webhook"
    finally:
        process.close()


def test_fastapi_receiver(start: Start, receiver: tuple[Process, str]) -> None:
    """The document's FastAPI receiver gets all five events, each with its secret."""
    process, url = receiver
    service = start(PAPER_FUNDS=1_000_000)
    events = [
        "order_placed",
        "order_completed",
        "order_failed",
        "order_cancelled",
        "order_rejected",
    ]
    subscription = {"url": url, "events": events, "secret": "my-secret-123"}
    assert service.http.post("/advanced/webhooks", json=subscription).status_code == 201

    bought = service.place(MARKET)
    resting = service.place(RESTING)
    cancelled = service.http.delete(f"/orders/{resting['order_id']}", params={"wait": 10}).json()
    rejected = service.place({**MARKET, "quantity": 9_999})
    refused = service.place({**RESTING, "price": 1.03})
    assert (cancelled["operation"], cancelled["status"]) == ("cancel_order", "completed")
    assert rejected["status"] == "completed"  # the broker took it; its exchange did not
    assert (refused["status"], refused["reason"]) == ("dead_letter", "refused")

    expected = sorted([*events, "order_placed", "order_placed"])

    def received() -> list[str]:
        return sorted(re.findall(r"Webhook received: (\w+)", process.text))

    eventually("all seven are delivered", lambda: len(received()) >= len(expected))
    assert received() == expected
    completed = ast.literal_eval(process.wait_for_line(r"Order completed: (\{.*\})")[1])
    assert completed["order_id"] == bought["order_id"]
    assert completed["status"] == "COMPLETE"
    assert completed["filled_quantity"] == 1
    assert completed["average_price"] > 0
    assert completed["transaction_type"] == "BUY"
    assert completed["tradingsymbol"] == "INFY"
    failed = ast.literal_eval(process.wait_for_line(r"Order failed: (\{.*\})")[1])
    assert failed["task_id"] == refused["task_id"]
    assert "Tick size" in failed["error"]
    history = [event["event"] for event in service.order(rejected["order_id"])["history"]]
    assert history == ["order_placed", "task_status", "order_rejected"]


def test_wrong_secret_is_retried(shared: Service, receiver: tuple[Process, str]) -> None:
    """A delivery that the receiver answers with 401 is not taken as delivered."""
    process, url = receiver
    subscription = {"url": url, "events": ["order_placed"], "secret": "another-secret"}
    webhook_id = shared.http.post("/advanced/webhooks", json=subscription).json()["webhook_id"]
    shared.place(RESTING)
    process.wait_for_line("401 Unauthorized")

    def attempt() -> list[tuple[Any, ...]]:
        sql = "SELECT state, attempts FROM webhook_deliveries"
        return select(tables_of(shared.folder), f"{sql} WHERE attempts > 0")

    assert eventually("the attempt is written down", attempt) == [("pending", 1)]
    shared.http.delete(f"/advanced/webhooks/{webhook_id}")


def test_batch_client(shared: Service, run: Run) -> None:
    """The document's `requests` client prints its batch, answered in the document's keys."""
    # httpx answers to the name of `requests`: both have `post(url, json=…)` and `.json()`.
    text = mission.BATCH_CLIENT.replace("import requests", "import httpx as requests")
    client = run(mission.on_port(text, shared.port))
    batch_id = client.wait_for_line(r"Batch (\S+): 2/2 succeeded", START_SECONDS)[1]
    assert client.wait() == 0
    assert UUID.fullmatch(batch_id)
    batch = shared.http.get(f"/advanced/batch-orders/{batch_id}").json()
    assert list(batch)[:8] == [
        "batch_id",
        "success",
        "total_orders",
        "succeeded",
        "failed",
        "created_at",
        "completed_at",
        "error",
    ]
    assert (batch["success"], batch["failed"], batch["error"]) == (True, 0, None)


def test_rollback_reads_as_documented(shared: Service) -> None:
    """A batch whose third order is refused is rolled back, and its answer is the document's."""
    orders = [RESTING, RESTING, {**RESTING, "price": 1.03}]
    answer = shared.http.post("/advanced/batch-orders", json={"orders": orders})
    assert answer.status_code == 200
    batch = answer.json()
    counted = {name: batch[name] for name in ("success", "total_orders", "succeeded", "failed")}
    assert counted == {"success": False, "total_orders": 3, "succeeded": 0, "failed": 3}
    assert re.fullmatch(r"Order 2 failed: Tick size .* Rolled back 2 orders\.", batch["error"])
    assert TIMESTAMP.fullmatch(batch["created_at"])
    assert TIMESTAMP.fullmatch(batch["completed_at"])
    assert [leg["status"] for leg in batch["orders"]] == ["CANCELLED", "CANCELLED", None]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_examples(shared: Service) -> None:
    """Every curl example of the document is answered as the document shows."""

    def curl(name: str, webhook_id: str = "") -> str:
        example = mission.on_port(mission.CURL_EXAMPLES[name], shared.port)
        example = example.replace(mission.DOCUMENT_WEBHOOK_ID, webhook_id)
        command = example.replace("curl ", "curl -s ", 1)
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=SOON, check=True
        )
        return done.stdout

    webhook = json.loads(curl("create"))
    assert list(webhook) == ["webhook_id", "url", "account_id", "events", "active", "created_at"]
    assert UUID.fullmatch(webhook["webhook_id"])
    assert webhook["active"] is True
    assert webhook["events"] == ["order_completed", "order_failed"]
    assert datetime.fromisoformat(webhook["created_at"]).tzinfo is not None
    assert json.loads(curl("list")) == [webhook]
    assert json.loads(curl("list of an account")) == [webhook]
    deleted = json.loads(curl("delete", webhook["webhook_id"]))
    assert deleted == {"success": True, "webhook_id": webhook["webhook_id"]}
    assert json.loads(curl("list")) == []
    assert json.loads(curl("delete", webhook["webhook_id"]))["status"] == 404

    batch = json.loads(curl("batch"))
    assert (batch["success"], batch["succeeded"], batch["total_orders"]) == (True, 2, 2)
    assert "python_gc_objects_collected_total" in curl("metrics")
    assert json.loads(curl("health"))["status"] == "ok"
    assert json.loads(curl("stats"))["total_connections"] == 0
    with connect(shared.stream_url) as stream:
        stream.recv(SOON)
        assert json.loads(curl("stats"))["total_connections"] == 1


def test_ping_of_the_javascript_client(shared: Service) -> None:
    """The text `ping` of the document's JavaScript client is answered and harms nothing."""
    with connect(shared.stream_url) as stream:
        assert json.loads(stream.recv(SOON))["type"] == "connected"
        stream.send("ping")
        assert json.loads(stream.recv(SOON))["type"] == "pong"
        shared.place(RESTING)
        assert json.loads(stream.recv(SOON))["type"] == "order_update"


def test_monitoring_queries(shared: Service) -> None:
    """The document's monitoring queries work on the table as they stand."""
    shared.place(MARKET)
    refused = shared.place({**RESTING, "price": 1.03})
    file = tables_of(shared.folder)
    pending = """SELECT task_id, operation, status, attempts, created_at, last_error
        FROM order_tasks
        WHERE status IN ('pending', 'retrying')
        ORDER BY created_at;"""
    assert select(file, pending) == []
    failed = """SELECT task_id, operation, attempts, last_error, created_at
        FROM order_tasks
        WHERE status = 'dead_letter'
        ORDER BY updated_at DESC
        LIMIT 10;"""
    assert select(file, failed)[0][0] == refused["task_id"]
    stats = """SELECT
        status,
        COUNT(*) as count,
        AVG(attempts) as avg_attempts
        FROM order_tasks
        GROUP BY status;"""
    counted = {status: (count, average) for status, count, average in select(file, stats)}
    assert counted.keys() == {"completed", "dead_letter"}
    assert shared.http.get("/tasks/stats").json() == {
        status: {"count": count, "avg_attempts": round(average, 3)}
        for status, (count, average) in counted.items()
    }
