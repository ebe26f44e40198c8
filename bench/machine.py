"""On what the numbers were taken: no number is worth keeping without it."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from tests.postgres import Server

RESULTS = Path(__file__).parent / "results"
"""Where the parts leave their JSON and PNG files."""

LIBRARIES = ("trio", "quart", "hypercorn", "asyncpg", "fastapi", "uvicorn", "uvloop", "httptools")
"""Whose versions move the numbers."""


def conditions(server: Server | None) -> dict[str, str]:
    """Machine, commit, versions and durability, for people and for a file."""
    found = {
        "commit": _git("describe", "--always", "--dirty"),
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{os.cpu_count()} cores of {_processor_name()}",
        "load": " ".join(f"{part:.1f}" for part in os.getloadavg()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "sqlite": "WAL, synchronous FULL",
    }
    if server is not None:
        shown = {name: _setting(server, name) for name in ("fsync", "synchronous_commit")}
        found["postgresql"] = (
            f"{_setting(server, 'server_version')} on a Unix socket, "
            + ", ".join(f"{name} {value}" for name, value in shown.items())
        )
    return found


def sentence(found: dict[str, str]) -> str:
    """The conditions as one line."""
    return (
        f"commit {found['commit']}, {found['time']}; {found['machine']}, load {found['load']} "
        f"before; Python {found['python']}, PostgreSQL {found.get('postgresql', 'not used')}; "
        f"SQLite {found['sqlite']}"
    )


def machine(server: Server) -> str:
    """The conditions as one line, for a part that keeps no file."""
    return sentence(conditions(server))


def keep(name: str, found: object) -> None:
    """Write a part's results down as JSON."""
    RESULTS.mkdir(exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(found), indent=1)
    (RESULTS / f"{name}.json").write_bytes(text + b"\n")


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


def _setting(server: Server, name: str) -> str:
    ((value,),) = server.execute(f"SHOW {name}")
    return str(value)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
