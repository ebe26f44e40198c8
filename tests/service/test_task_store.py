"""What a program saved with the library, and what the real service makes of it when it starts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.service.conftest import Start
from tests.service.harness import MARKET, RESTING, SOON, at_broker, database
from ticker_actors import OrderTask, TaskStatus, TaskStore

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind, for the library and the service."""
    if request.param == "sqlite":
        return f"sqlite:///{database(tmp_path)}"
    found: str = request.getfixturevalue("postgres_url")
    return found


def saved(url: str, **tasks: dict[str, Any]) -> None:
    """Save tasks as a program of one's own does, which then ends."""

    async def save() -> None:
        store = TaskStore(connection_string=url)
        await store.initialize()
        for name, fields in tasks.items():
            known = {"task_id": name, "idempotency_key": name, "operation": "place_order"}
            await store.save(OrderTask(**{**known, **fields}))

    trio.run(save)


def test_a_start_takes_up_what_the_library_saved(start: Start, url: str, tmp_path: Path) -> None:
    """Fresh orders are sent, once; stale ones expire; what is no order ends, and stops nothing."""
    old = datetime.now(UTC) - timedelta(hours=1)
    saved(
        url,
        fresh={"params": {**RESTING, "expires_in": 60}},
        stale={"params": dict(MARKET), "created_at": old},
        no_order={"params": {"exchange": "NFO", "tradingsymbol": "NIFTY25NOVFUT"}},
        too_big={"params": {**RESTING, "quantity": 2_000_000}},
        no_change={"operation": "modify_order", "params": {}},
        tried={"params": dict(RESTING), "status": TaskStatus.RUNNING, "attempts": 1},
        again={"params": dict(RESTING), "status": TaskStatus.RETRYING, "attempts": 1},
    )
    service = start(DATABASE_URL=url, PAPER_FILE="data/ticker.paper.db")
    ends = {
        name: service.finished(name, 3 * SOON)
        for name in ("fresh", "stale", "no_order", "too_big", "no_change", "tried", "again")
    }
    told = {name: (task["status"], task["reason"]) for name, task in ends.items()}
    assert told == {
        "fresh": ("completed", None),
        "stale": ("dead_letter", "expired"),
        "no_order": ("dead_letter", "invalid"),
        "too_big": ("dead_letter", "invalid"),
        "no_change": ("dead_letter", "invalid"),
        "tried": ("dead_letter", "unresolved"),
        "again": ("dead_letter", "unresolved"),
    }
    assert ends["no_order"]["last_error"] == ("It cannot be sent: transaction_type is required.")
    assert ends["tried"]["may_be_at_broker"]
    assert at_broker(tmp_path, ends["fresh"]["broker_tag"]) == [(ends["fresh"]["order_id"], "OPEN")]
    assert [name for name, task in ends.items() if task["broker_tag"]] == ["fresh"]
    service.kill()
    again = start(DATABASE_URL=url, PAPER_FILE="data/ticker.paper.db")
    assert {name: again.task(name) for name in ends} == ends


def test_beside_a_running_service_rows_wait_for_its_next_start(
    start: Start, url: str, tmp_path: Path
) -> None:
    """It goes on undisturbed, answers for the row, and refuses its key to others."""
    service = start(DATABASE_URL=url, PAPER_FILE="data/ticker.paper.db")
    saved(url, later={"params": {**RESTING, "expires_in": 60}})
    assert service.place(MARKET)["status"] == "completed"
    assert service.task("later")["status"] == "pending"
    answer = service.http.post("/orders", json=MARKET, headers={"Idempotency-Key": "later"})
    assert answer.status_code == 422
    service.kill()
    again = start(DATABASE_URL=url, PAPER_FILE="data/ticker.paper.db")
    task = again.finished("later")
    assert task["status"] == "completed"
    assert at_broker(tmp_path, task["broker_tag"]) == [(task["order_id"], "OPEN")]
