"""From a broker's update to 500 clients, with and without one that does not read; and the stop.

The whole service, on SQLite: each update is merged, committed and fsynced before it is told. When
an update reached a client is what the kernel of the client's socket says, so that what the clients
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

from bench import sample
from bench.percentiles import percentile
from bench.processes import free_port
from bench.stream_clients import Client, Crowd
from bench.stream_servers import PATH

CLIENTS = 500
UPDATES, PAUSE = 200, 0.05
"""In a round, and seconds between two."""
WARM_UP = 20
ROUNDS, QUICK_ROUNDS = 5, 1
MOST_DEAD_TO_ALIVE, MOST_STOP_SECONDS = 1.1, 2.0
"""The aims."""
START_SECONDS, STOP_SECONDS = 20.0, 10.0
SMALL_BUFFER = 4096
"""Bytes that the dead client's kernel takes, so that it is full soon."""
SO_TIMESTAMPNS = 35
"""Linux, socket(7): with each read, when its last byte came."""
ORDER = {**sample.ORDER, "quantity": 1_000_000}
_TOLD = re.compile(rb'"status_message":"(\d+)"')


class Watching(Client):
    """Notes how long each update took to come."""

    def __init__(self, port: int) -> None:
        self.delays: list[float] = []
        """Seconds, of each update since it was last cleared."""
        super().__init__(port, PATH)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def take(self) -> bytes:
        """The bytes that have come, their delays noted."""
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
        self.port = free_port()
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


class Delay(msgspec.Struct, frozen=True):
    """What was measured."""

    alive: list[Round]
    """With 500 clients that read."""
    dead: list[Round]
    """With 499, and one that does not."""
    dead_to_alive: float
    """The 99th percentiles: the median of the rounds' ratios."""
    stop_seconds: float
    """From SIGTERM to the end of the process, with a dead client and 499 that do not hang up."""


def measure(*, quick: bool = False) -> Delay:
    """Rounds without and with a dead client, in alternation; then a stop with one."""
    alive, dead = list[Round](), list[Round]()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        service = Service(folder)
        try:
            crowd = Crowd(CLIENTS - 1, lambda: Watching(service.port))
            for number in range(QUICK_ROUNDS if quick else ROUNDS):
                for with_dead in (False, True) if number % 2 else (True, False):
                    if with_dead:
                        silent = Client(service.port, PATH, buffer=SMALL_BUFFER)
                        dead.append(one_round(service, crowd))
                        silent.socket.close()
                    else:
                        last = Watching(service.port)
                        crowd.add(last)
                        alive.append(one_round(service, crowd))
                        crowd.remove(last)
            silent = Client(service.port, PATH, buffer=SMALL_BUFFER)
            one_round(service, crowd)
            stopped = service.stop()
            silent.socket.close()
            crowd.close()
        finally:
            service.process.kill()
            service.process.wait()
    ratios = [with_it.p99 / without.p99 for without, with_it in zip(alive, dead, strict=True)]
    return Delay(alive, dead, statistics.median(ratios), stopped)


def text(found: Delay) -> str:
    """For people."""

    def rounds(some: list[Round]) -> str:
        p50, p99 = (
            statistics.median(getattr(each, name) for each in some) for name in ("p50", "p99")
        )
        return f"p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms"

    missed = " (missed)" if found.dead_to_alive > MOST_DEAD_TO_ALIVE else ""
    late = " (missed)" if found.stop_seconds > MOST_STOP_SECONDS else ""
    return (
        f"From a broker's update to {CLIENTS} clients, {1 / PAUSE:.0f} updates a second, medians "
        f"of {len(found.alive)} rounds: {rounds(found.alive)}; with one of them dead: "
        f"{rounds(found.dead)}. The p99 with a dead one in parts of that without: "
        f"{found.dead_to_alive:.2f}, aim {MOST_DEAD_TO_ALIVE}{missed}. Stop with a dead one: "
        f"{found.stop_seconds:.1f} s, aim {MOST_STOP_SECONDS:.0f} s{late}."
    )


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
        delay for client in crowd.clients if isinstance(client, Watching) for delay in client.delays
    )
    return Round(percentile(delays, 50), percentile(delays, 99), delays[-1], len(delays))


if __name__ == "__main__":
    print(text(measure(quick="--quick" in sys.argv[1:])))
