"""On what the numbers were taken: no number is worth keeping without it."""

import os
import platform
import subprocess
from collections.abc import Mapping
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
        "commit": commit(Path.cwd()),
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


def commit(folder: Path) -> str:
    """What is checked out; "-dirty" when more was edited since than what earlier parts left."""
    others = ("--", ":(top)", ":(top,exclude)bench/results")
    edited = _git(folder, "status", "--porcelain", "--untracked-files=no", *others)
    return _git(folder, "describe", "--always") + ("-dirty" if edited else "") or "unknown"


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


def keep(name: str, found: Mapping[str, object]) -> None:
    """Write a part's results down as JSON, a row a line."""
    RESULTS.mkdir(exist_ok=True)
    parts = [f"{_json(key)}: {_rows(part)}" for key, part in found.items()]
    (RESULTS / f"{name}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


def _rows(part: object) -> str:
    if isinstance(part, (list, tuple)) and part:
        return "[\n" + ",\n".join(_json(row) for row in part) + "\n]"
    return _json(part)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _setting(server: Server, name: str) -> str:
    ((value,),) = server.execute(f"SHOW {name}")
    return str(value)


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
