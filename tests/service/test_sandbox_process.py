"""The sandbox as a process: it says where it is, keeps its file, and ends when it is asked to."""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from tests.service.harness import SOON, START_SECONDS, Process, environment, eventually

KEY = {"Authorization": "token sandbox:sandbox"}
ORDER = {
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "transaction_type": "BUY",
    "quantity": "1",
    "product": "CNC",
    "order_type": "MARKET",
    "market_protection": "-1",
    "tag": "TAG1",
}


class StartSandbox(Protocol):
    """Starts a sandbox in the test's folder, on a port that the system chooses."""

    def __call__(self, *arguments: str, port: int = 0) -> Process: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartSandbox]:
    """Start sandboxes. None may write a traceback."""
    started: list[Process] = []

    def start(*arguments: str, port: int = 0) -> Process:
        command = (sys.executable, "-m", "ticker_actors.sandbox", "--port", str(port), *arguments)
        started.append(Process(command, tmp_path, environment()))
        return started[-1]

    yield start
    for process in started:
        process.close()
    assert not any("Traceback" in process.text for process in started)


def root(process: Process) -> str:
    """Where a started one can be reached."""
    return process.wait_for_line(r"root +(http://\S+)", START_SECONDS)[1]


def rows(url: str) -> list[dict[str, Any]]:
    """Its order book."""
    found: list[dict[str, Any]] = httpx.get(f"{url}/orders", headers=KEY).json()["data"]
    return found


def test_file_survives_a_kill(start: StartSandbox) -> None:
    """Whoever was told of an order finds it again after kill -9: its row, history and trades."""
    first = start("--file", "book.db")
    url = root(first)
    placed = httpx.post(f"{url}/orders/regular", headers=KEY, data=ORDER).json()["data"]
    (before,) = rows(url)
    first.kill()
    url = root(start("--file", "book.db"))
    assert rows(url) == [before]
    assert before["order_id"] == placed["order_id"]
    (trade,) = httpx.get(f"{url}/trades", headers=KEY).json()["data"]
    assert trade["order_id"] == placed["order_id"]
    second = httpx.post(f"{url}/orders/regular", headers=KEY, data=ORDER).json()["data"]
    assert int(second["order_id"]) == int(placed["order_id"]) + 1


def test_memory_is_the_default(start: StartSandbox, tmp_path: Path) -> None:
    """Without a file nothing is written anywhere."""
    url = root(start())
    httpx.post(f"{url}/orders/regular", headers=KEY, data=ORDER)
    assert len(rows(url)) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly(start: StartSandbox, number: signal.Signals) -> None:
    """Exit code 0, even while a client holds its connection."""
    process = start()
    with httpx.Client() as client:
        assert client.get(f"{root(process)}/instruments").status_code == 200
        process.signal(number)
        assert process.wait(SOON) == 0


def test_delayed_answer_does_not_hold_up_the_end(start: StartSandbox) -> None:
    """A call that waits for its late answer is given up, and the exit code is 0."""
    process = start("--faults", "delay_read=1", "--fault-delay", "60")
    url = root(process)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.get, f"{url}/orders", headers=KEY, timeout=30)
        eventually(
            "the read is under way",
            lambda: httpx.get(f"{url}/sandbox/faults").json()["data"]["counts"],
        )
        process.signal(signal.SIGTERM)
        assert process.wait(SOON) == 0
        assert waiting.exception(SOON) or waiting.result().is_error


def test_two_on_one_port_are_one_too_many(start: StartSandbox) -> None:
    """The second says so in a sentence, and exits with 1."""
    port = int(root(start()).rpartition(":")[2])
    second = start(port=port)
    assert second.wait(START_SECONDS) == 1
    assert f"ticker-actors: Cannot listen on 127.0.0.1:{port}: " in second.text


def test_faults_are_set_while_it_runs(start: StartSandbox) -> None:
    """Tests in other processes change them over HTTP, and read how often each happened."""
    url = root(start("--faults", "too_many=1"))
    assert httpx.post(f"{url}/orders/regular", headers=KEY, data=ORDER).status_code == 429
    counts = httpx.get(f"{url}/sandbox/faults").json()["data"]["counts"]
    assert counts == {"too_many": 1}
    assert httpx.put(f"{url}/sandbox/faults", content="").json()["data"]["rates"] == {}
    assert httpx.post(f"{url}/orders/regular", headers=KEY, data=ORDER).status_code == 200
    assert httpx.put(f"{url}/sandbox/faults", content="x=1").status_code == 400
