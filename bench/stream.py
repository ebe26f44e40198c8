"""What it costs to tell many clients one thing: ours beside what a user would take instead.

`python -m bench.stream` runs for about six minutes; `--quick` for one. Every server runs as a process
of its own, with as many clients as the case says, and the three take turns, in another order each
round. Counted are the processor time of the server's process and the texts that clients received.
"""

import argparse
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.stream_clients import Crowd
from bench.stream_servers import PATH

SERVERS = ("ours", "websockets", "uvicorn")
ROUNDS, QUICK_ROUNDS = 5, 1
START_SECONDS = 20.0


class Case(NamedTuple):
    """So many clients, told so many messages a turn, and seconds between two of them.

    The pause leaves the slowest server idle a part of the time, so that messages do not gather.
    """

    clients: int
    turns: int
    burst: int
    pause: float

    @property
    def messages(self) -> int:
        """How many each client is sent."""
        return self.turns * self.burst


CASES = (Case(1, 200, 10, 0.005), Case(100, 30, 10, 0.03), Case(500, 8, 10, 0.15), Case(1000, 4, 10, 0.3),Case(1, 400, 1, 0.002), Case(100, 200,1, 0.006), Case(500, 50, 1, 0.03), Case(1000, 25, 1, 0.06))


class Turn(NamedTuple):
    """One server's turn."""

    cpu_us: float
    """Microseconds of processor time for each text that a client received."""
    received: int
    """Of the texts that were sent, a part of one."""


class Server:
    """One of the servers, in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.stream_servers", name, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{name} did not start.")

    def turn(self, case: Case, crowd: Crowd) -> Turn:
        """Let it send a case's messages."""
        crowd.settle(0.05)
        before = self.processor()
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case.turns} {case.burst} {case.pause}\n")
        self.process.stdin.flush()
        wanted = case.messages * case.clients
        received = crowd.receive(wanted)
        return Turn((self.processor() - before) / 1000 / received, received / wanted)

    def processor(self) -> int:
        """Nanoseconds of processor time that all its threads have used."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks)

    def memory(self) -> int:
        """Bytes that are its own: resident, and not of a file."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def fan_out(case: Case, rounds: int, *, deflate: bool) -> Iterator[dict[str, object]]:
    """One case on all the servers: a row of results each."""
    with ExitStack() as stack:
        servers = [Server(name) for name in SERVERS]
        for server in servers:
            stack.callback(server.close)
        alone = [server.memory() for server in servers]
        crowds = [Crowd(server.port, PATH, case.clients, deflate=deflate) for server in servers]
        turns: dict[str, list[Turn]] = {name: [] for name in SERVERS}
        for crowd, server in zip(crowds, servers, strict=True):
            stack.callback(crowd.close)
            crowd.settle()
            server.turn(case, crowd)  # the first is not counted: caches fill, code is specialised
        with_clients = [server.memory() for server in servers]
        for number in range(rounds):
            order = list(range(len(servers)))
            random.Random(number).shuffle(order)  # noqa: S311  # no secret
            for which in order:
                turns[SERVERS[which]].append(servers[which].turn(case, crowds[which]))
        for which, name in enumerate(SERVERS):
            cpu = [turn.cpu_us for turn in turns[name]]
            ratios = [
                mine.cpu_us / other.cpu_us
                for mine, other in zip(turns[SERVERS[0]], turns[name], strict=True)
            ]
            yield {
                "server": name,
                "clients": case.clients,
                "deflate": deflate,
                "compressed": crowds[which].clients[0].compressed,
                "cpu_us": statistics.median(cpu),
                "rounds": cpu,
                "ours_to_it": statistics.median(ratios),
                "received": min(turn.received for turn in turns[name]),
                "bytes_a_client": (with_clients[which] - alone[which]) / case.clients,
            }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stream", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--clients", type=int)
    given = parser.parse_args(arguments)
    rounds = QUICK_ROUNDS if given.quick else ROUNDS
    for deflate in (False, True):
        for case in CASES:
            if given.clients and case.clients != given.clients: continue
            for row in fan_out(case, rounds, deflate=deflate):
                print(row["server"], row["clients"], deflate, f"{row['cpu_us']:.2f} µs  ratio {row['ours_to_it']:.2f} recv {row['received']} mem {row['bytes_a_client']/1000:.1f} kB", flush=True)


if __name__ == "__main__":
    main()
