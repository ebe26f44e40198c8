"""A second copy that waits: it says so, refuses what it cannot do, and takes over."""

import signal
from pathlib import Path

import pytest

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

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that both copies use."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/data/ticker.db"


def test_a_standby_takes_over(start: Start, database_url: str, tmp_path: Path) -> None:
    """It is healthy and refuses orders; after a `kill -9` of the first it serves, on its port."""
    book = str(tmp_path / "data" / "ticker.paper.db")
    first = start(DATABASE_URL=database_url, PAPER_FILE=book)
    resting = first.place(RESTING)
    second = start("--standby", DATABASE_URL=database_url, PAPER_FILE=book, ready=False)
    second.wait_for_line("standing by")
    second.url = f"http://127.0.0.1:{port_of(second)}"
    health = second.http.get("/health")
    assert (health.status_code, decoded(health)["status"]) == (200, "degraded")
    assert "takes over" in decoded(health)["checks"]["standby"]["message"]
    refused = second.http.post("/orders", json=MARKET)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert first.place(MARKET)["status"] == "completed"  # nobody disturbed it
    first.kill()
    second.hang_up()
    second.wait_until_ready()
    with new_client(second.url) as client:
        answer = client.delete(f"/orders/{resting['order_id']}", params={"wait": 10})
    assert decoded(answer)["status"] == "completed"
    assert at_broker(tmp_path, resting["broker_tag"]) == [(resting["order_id"], "CANCELLED")]


def port_of(service: Service) -> int:
    """The port on which a standby says that it waits."""
    return int(service.wait_for_line(r'"port": (\d+), "event": "standing by"')[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_standby_can_be_stopped(
    start: Start, database_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    """A signal ends it with exit code 0 and no traceback, and the first copy goes on."""
    book = str(tmp_path / "data" / "ticker.paper.db")
    first = start(DATABASE_URL=database_url, PAPER_FILE=book)
    second = start("--standby", DATABASE_URL=database_url, PAPER_FILE=book, ready=False)
    second.wait_for_line("standing by")
    if database_url.startswith("postgres"):
        second.wait_for_line("waiting for a lease")
    second.signal(number)
    assert second.wait() == 0
    assert first.place(MARKET)["status"] == "completed"


def test_a_standby_alone_serves_at_once(start: Start) -> None:
    """Nobody has to know which copy was first."""
    service = start("--standby")
    assert service.place(MARKET)["status"] == "completed"
    assert eventually("it is healthy", lambda: service.http.get("/health").json())["status"] == "ok"
