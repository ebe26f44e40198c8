"""The real service on a real PostgreSQL: killed, frozen out, refused at the door."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.postgres import Server, execute
from tests.service.conftest import Start
from tests.service.harness import (
    MARKET,
    RESTING,
    Service,
    at_broker,
    decoded,
    eventually,
    new_client,
)
from ticker_actors.store.postgres_commit import LEASE_SECONDS

pytestmark = pytest.mark.slow

UNLIMITED: dict[str, Any] = {"ORDERS_PER_SECOND": 0, "ORDERS_PER_MINUTE": 0, "ORDERS_PER_DAY": 0}


def paper(folder: Path) -> Path:
    """Where the paper exchange keeps its book beside a PostgreSQL database."""
    return folder / "data" / "paper.db"


def test_an_order_outlives_its_process(start: Start, postgres_url: str, tmp_path: Path) -> None:
    """Place, `kill -9`, start again at once: the tasks, the orders and the log go on."""
    service = start(DATABASE_URL=postgres_url, PAPER_FILE="data/ticker.paper.db")
    filled = service.place(MARKET)
    resting = service.place(RESTING)
    assert [filled["status"], resting["status"]] == ["completed", "completed"]
    service.kill()
    began = time.monotonic()
    again = start(DATABASE_URL=postgres_url, PAPER_FILE="data/ticker.paper.db")
    assert time.monotonic() - began < LEASE_SECONDS  # the dead are known to be dead
    assert again.task(filled["task_id"])["status"] == "completed"
    answer = again.http.delete(f"/orders/{resting['order_id']}", params={"wait": 10})
    assert decoded(answer)["status"] == "completed"
    assert again.order(resting["order_id"])["status"] == "CANCELLED"
    for task, status in ((filled, "COMPLETE"), (resting, "CANCELLED")):
        assert at_broker(tmp_path, task["broker_tag"]) == [(task["order_id"], status)]
    log = execute(postgres_url, "SELECT sequence FROM order_events ORDER BY sequence")
    assert [number for (number,) in log] == list(range(1, len(log) + 1))
    head = execute(postgres_url, "SELECT epoch, head_sequence FROM accounts")
    assert head == [(2, len(log))]
    assert "hunter2" not in service.text


def test_a_second_copy_is_refused(start: Start, postgres_url: str, tmp_path: Path) -> None:
    """In one sentence, and the first one does not notice."""
    service = start(DATABASE_URL=postgres_url)
    (tmp_path / "other").mkdir()
    second = start(DATABASE_URL=postgres_url, folder=tmp_path / "other", ready=False)
    assert second.wait(30) == 1
    assert "Account primary is in use by another running service" in second.text
    assert service.place(MARKET)["status"] == "completed"


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"database": "nowhere"}, "does not exist"),
        ({"host": "/nowhere"}, "cannot be used"),
        ({"host": "127.0.0.1", "port": "1"}, "cannot be used"),
    ],
    ids=["no database", "no server", "no port"],
)
def test_a_start_without_a_database_says_what_is_wrong(
    start: Start, postgres_url: str, wrong: dict[str, str], says: str
) -> None:
    """One sentence, exit code 1, no password."""
    host = wrong.get("host", postgres_url.rpartition("host=")[2])
    name = wrong.get("database", "postgres")
    url = f"postgresql://tester:hunter2@/{name}?host={host}&port={wrong.get('port', 5432)}"
    service = start(DATABASE_URL=url, ready=False)
    assert service.wait(30) == 1
    said = service.lines[-1]
    assert said.startswith("ticker-actors: The database postgresql://tester@")
    assert said.endswith(".")
    assert says in said
    assert "hunter2" not in service.text


def load(service: Service, acknowledged: list[str], stop: threading.Event) -> None:
    """Place orders until told to stop; keep what was acknowledged, come back when refused."""
    with new_client(service.url) as client:
        while not stop.is_set():
            try:
                answer = client.post("/orders", json=MARKET)
            except httpx.TransportError:
                return
            if answer.status_code == 202:
                acknowledged.append(decoded(answer)["task_id"])
            else:
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) > 0
                time.sleep(0.1)


@pytest.mark.parametrize("fault", ["stop", "freeze"])
def test_the_service_outlives_its_database(
    start: Start, postgres_server: Server, postgres_url: str, tmp_path: Path, fault: str
) -> None:
    """Degraded meanwhile, it refuses at once; then it goes on, and nothing is lost or double."""
    if os.environ.get("TEST_DATABASE_URL"):
        pytest.skip("a server of somebody else's is not stopped")
    service = start(DATABASE_URL=postgres_url, PAPER_FILE="data/ticker.paper.db", **UNLIMITED)
    acknowledged: list[str] = []
    stop = threading.Event()
    clients = [
        threading.Thread(target=load, args=(service, acknowledged, stop), daemon=True)
        for _ in range(4)
    ]
    for client in clients:
        client.start()
    eventually("orders are taken", lambda: len(acknowledged) > 20)
    if fault == "stop":
        postgres_server.stop()
    else:
        postgres_server.signal(signal.SIGSTOP)
    try:
        health = eventually(
            "health is degraded",
            lambda: (
                answer
                if (answer := decoded(service.http.get("/health")))["status"] == "degraded"
                else None
            ),
        )
        assert "a transaction has been waiting" in health["checks"]["store"]["message"]
        began = time.monotonic()
        refused = service.http.post("/orders", json=MARKET)
        assert (refused.status_code, time.monotonic() - began < 5) == (503, True)
        before = len(acknowledged)
    finally:
        if fault == "stop":
            postgres_server.start()
        else:
            postgres_server.signal(signal.SIGCONT)
    eventually("orders are taken again", lambda: len(acknowledged) > before + 20, seconds=30)
    stop.set()
    for client in clients:
        client.join(40)
    assert not any(client.is_alive() for client in clients)
    for task_id in acknowledged:
        assert service.finished(task_id)["status"] == "completed"
    tasks = execute(postgres_url, "SELECT task_id, broker_tag FROM order_tasks")
    assert set(acknowledged) <= {task_id for task_id, _ in tasks}
    assert all(len(at_broker(tmp_path, tag)) == 1 for _, tag in tasks)
    assert "database back" in service.text or fault == "freeze"
