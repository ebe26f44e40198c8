"""From a broker's update to 500 clients, with and without one that does not read; and the stop.

The whole service, on SQLite: each update is merged, committed and fsynced before it is told. When an
update reached a client is what the kernel of the client's socket says, so that what the clients
themselves cost is not counted.
"""

import http.client
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.stream_clients import Client, Crowd
from bench.stream_servers import PATH

CLIENTS = 500
UPDATES, PAUSE = 200, 0.05
"""In a round, and seconds between two."""
WARM_UP = 20
ROUNDS, QUICK_ROUNDS = 5, 2
START_SECONDS, STOP_SECONDS = 20.0, 10.0
SMALL_BUFFER = 4096
"""Bytes that the dead client's kernel takes, so that it is full soon."""
SO_TIMESTAMPNS = 35
"""Linux, socket(7): with each read, when its last byte came."""
ORDER = {
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "transaction_type": "BUY",
    "quantity": 1_000_000,
    "product": "CNC",
    "order_type": "LIMIT",
    "price": 1.0,
}
_TOLD = re.compile(rb'"status_message":"(\d+)"')


class Watching(Client):
    """Notes how long each update took to come."""

    def __init__(self, port: int) -> None:
        self.delays: list[float] = []
        """Seconds, of each update since it was last cleared."""
        super().__init__(port, PATH)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def take(self) -> bytes:
        received, notes, *_ = self.socket.recvmsg(65_536, 256)
        stamps = [data for _, kind, data in notes if kind == SO_TIMESTAMPNS]
        if stamps:  # not for what came before the clock was switched on
            seconds, nanoseconds = struct.unpack("qq", stamps[0])
            came = seconds * 1_000_000_000 + nanoseconds
            self.delays += [(came - int(told)) / 1e9 for told in _TOLD.findall(received)]
        return received


class Round(NamedTuple):
    """Seconds from an update to its arrival, over all updates and clients of a round."""

    p50: float
    p99: float
    most: float
    texts: int


class Service:
    """The service in a process of its own, with one order that rests."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        variables = {
            "DATABASE_URL": f"sqlite:///{Path(folder).resolve() / 'ticker.db'}",
            "PORT": str(self.port),
            "LOG_LEVEL": "error",
            "STREAM_CONNECTIONS_PER_ACCOUNT": "0",
            "STREAM_CONNECTIONS_PER_ADDRESS": "0",
            "STREAM_HANDSHAKES_PER_SECOND": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.update_service"],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            text=True,
        )
        self._place()

    def tell(self, count: int) -> None:
        """Let the broker tell so many updates."""
        if self.process.stdin is None:
            raise AssertionError
        self.process.stdin.write(f"{count} {PAUSE}\n")
        self.process.stdin.flush()

    def stop(self) -> float:
        """Seconds from SIGTERM until the process is gone."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(STOP_SECONDS)
        return time.monotonic() - began

    def _place(self) -> None:
        until = time.monotonic() + START_SECONDS
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
            try:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/orders?wait=5", msgspec.json.encode(ORDER), headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status >= http.client.BAD_REQUEST:
                    raise RuntimeError(text.decode())
            except ConnectionRefusedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return
            finally:
                connection.close()


def measure(*, quick: bool = False) -> dict[str, object]:
    """Rounds without and with a dead client, in alternation; then a stop with one."""
    rounds: dict[str, list[Round]] = {"all alive": [], "one dead": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        service = Service(folder)
        try:
            crowd = Crowd(CLIENTS - 1, lambda: Watching(service.port))
            for number in range(2 * (QUICK_ROUNDS if quick else ROUNDS)):
                case = ("all alive", "one dead")[(number + number // 2) % 2]
                if case == "one dead":
                    last: Client = Client(service.port, PATH, buffer=SMALL_BUFFER)
                    rounds[case].append(one_round(service, crowd))
                    last.socket.close()
                else:
                    last = Watching(service.port)
                    crowd.add(last)
                    rounds[case].append(one_round(service, crowd))
                    crowd.remove(last)
                found = rounds[case][-1]
                print(f"{case}: p50 {found.p50 * 1e3:.1f} ms, p99 {found.p99 * 1e3:.1f} ms", flush=True)
            dead = Client(service.port, PATH, buffer=SMALL_BUFFER)
            one_round(service, crowd)
            stopped = service.stop()
            dead.socket.close()
            crowd.close()
        finally:
            service.process.kill()
            service.process.wait()
    ratios = [
        dead.p99 / alive.p99
        for alive, dead in zip(rounds["all alive"], rounds["one dead"], strict=True)
    ]
    return {
        "rounds": rounds,
        "dead_to_alive_p99": statistics.median(ratios),
        "ratios": ratios,
        "stop_seconds": stopped,
    }


def one_round(service: Service, crowd: Crowd) -> Round:
    """Tell updates, and see how long each took to each client."""
    for count in (WARM_UP, UPDATES):
        crowd.settle()
        for client in crowd.clients:
            if isinstance(client, Watching):
                client.delays.clear()
        wanted = count * len(crowd.clients)
        service.tell(count)
        if (received := crowd.receive(wanted)) != wanted:
            raise RuntimeError(f"{received} of {wanted} texts came.")
    delays = sorted(
        delay
        for client in crowd.clients
        if isinstance(client, Watching)
        for delay in client.delays
    )
    return Round(percentile(delays, 0.5), percentile(delays, 0.99), delays[-1], len(delays))


def percentile(delays: list[float], part: float) -> float:
    """Of sorted values the one that so large a part of them does not exceed."""
    return delays[min(len(delays) - 1, int(part * len(delays)))]


if __name__ == "__main__":
    print(measure(quick="--quick" in sys.argv))
