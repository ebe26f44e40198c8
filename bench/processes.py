"""Processes that a part starts: where they may listen, and what they use."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def memory(pid: int) -> float:
    """Megabytes of a process that are resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor(pid: int) -> float:
    """Seconds of processor time that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Busy:
    """How much of the machine's processor time is in use from now on."""

    def __init__(self) -> None:
        self._idle, self._all = _ticks()

    def part(self) -> float:
        """From 0 to 1, of all cores together; what other guests of the host take counts too."""
        idle, everything = _ticks()
        return 1 - (idle - self._idle) / max(1, everything - self._all)


def _ticks() -> tuple[int, int]:
    """Idle ticks, those that wait for a disk included, and all ticks (proc_stat(5))."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split()[1:9]]
    return fields[3] + fields[4], sum(fields)


class Child:
    """`python -m MODULE NAME PORT`, which prints `ready` when it is; it is killed at the end."""

    def __init__(self, module: str, name: str) -> None:
        self.port = free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, name, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout is None or self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{name} did not start.")

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        if self._process.stdin is None:
            raise AssertionError
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def processor(self) -> int:
        """Nanoseconds of processor time that the threads it has now have used."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads)

    def memory(self) -> int:
        """Bytes that are its own: resident, and of no file."""
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
