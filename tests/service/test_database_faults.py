"""PostgreSQL goes away under load in every way but a stop: nothing is lost, nothing is double."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from tests.postgres import Server, execute
from tests.service.conftest import Fork, Start
from tests.service.copies import Copy
from tests.service.harness import SOON, Hatched, decoded, eventually, paper
from tests.service.load import UNLIMITED, Load, assert_settled, in_paper_book
from tests.service.proxy import Proxy

pytestmark = pytest.mark.slow

IN_A_HURRY = Copy(answer=1.5)
"""Waits for an answer, a connection or a lock so briefly that the tests need not wait long."""
BACK_SECONDS = 30.0
"""Until a service has found its database again: its longest pause is 2 s; the machine is slow."""


@pytest.fixture
def run(fork: Fork, tmp_path: Path) -> Callable[..., Hatched]:
    """Start a service whose orders are not limited, with its paper exchange in the usual place."""
    return partial(fork, PAPER_FILE=paper(tmp_path), **UNLIMITED)


def settled(load: Load, service: Hatched, url: str) -> None:
    """The service is well, and what it acknowledged is where it should be."""
    eventually("it is healthy", lambda: health(service) == "ok", BACK_SECONDS)
    assert_settled(load, partial(execute, url), lambda: in_paper_book(paper(service.folder)))


def health(service: Hatched) -> str:
    """`status` of `/health`."""
    return str(decoded(service.http.get("/health"))["status"])


def degraded(service: Hatched, seconds: float = SOON) -> None:
    """Wait until the service says that its database is away."""

    def look() -> bool:
        answer = decoded(service.http.get("/health"))
        said = answer["checks"]["store"].get("message", "")
        return answer["status"] == "degraded" and "a transaction has been waiting" in said

    eventually("health is degraded", look, seconds)


def sessions(url: str) -> int:
    """How often the writer has connected anew."""
    ((count,),) = execute(url, "SELECT session FROM accounts")
    return int(count)


def connected_since(url: str, before: int) -> bool:
    """Whether the writer has connected anew more than so many times."""
    return sessions(url) > before


def terminate_backends(url: str) -> int:
    """End every connection of the service; how many there were."""
    sql = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'ticker-actors' AND datname = current_database()"
    )
    return len(execute(url, sql))


def test_all_backends_terminated(run: Callable[..., Hatched], postgres_url: str) -> None:
    """Again and again in the midst of commits and reads: the service connects anew each time."""
    times = 8
    service = run(DATABASE_URL=postgres_url)
    with Load(service) as load:
        for before in range(times):
            load.more(10)
            service.http.get("/tasks")  # so that there is a connection for reads too
            assert terminate_backends(postgres_url) >= 2
            eventually("it is back", partial(connected_since, postgres_url, before))
        load.more()
    assert sessions(postgres_url) >= times
    settled(load, service, postgres_url)


@pytest.mark.parametrize("for_good", [False, True], ids=["for a while", "for old connections"])
def test_a_black_hole(
    run: Callable[..., Hatched],
    own_server: Server,
    postgres_url: str,
    *,
    for_good: bool,
) -> None:
    """Nothing comes and nothing is closed: 503; then what was under way has a definite end.

    For a while: the old connections' bytes arrive at the server late, after the new ones'.
    For old connections: they stay black, as behind a firewall after a failover.
    """
    with Proxy(own_server.socket) as proxy:
        url = f"{postgres_url.partition('?')[0].replace('@/', f'@127.0.0.1:{proxy.port}/')}"
        service = run(copy=IN_A_HURRY, DATABASE_URL=url)
        with Load(service) as load:
            load.more()
            connected = proxy.connections
            proxy.go_black()
            degraded(service)
            load.refused()
            eventually("it tries new connections", lambda: proxy.connections > connected + 1)
            before = len(load.acknowledged)
            load.refused()
            assert len(load.acknowledged) == before
            if for_good:
                proxy.forget()
            else:
                proxy.let_go()
            load.more(50, BACK_SECONDS)
        assert proxy.kept > 0
        assert sessions(postgres_url) > 0
        settled(load, service, postgres_url)


@contextmanager
def holding(url: str, *statements: str) -> Iterator[None]:
    """Another program's transaction, that has run these statements and does not end."""
    held, let_go = threading.Event(), threading.Event()

    async def hold() -> None:
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
            held.set()
            await asyncio.to_thread(let_go.wait)
        await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    try:
        assert held.wait(10)
        yield
    finally:
        let_go.set()
        thread.join()


@pytest.mark.parametrize(
    "statement",
    ["LOCK TABLE order_tasks IN ACCESS EXCLUSIVE MODE", "SELECT * FROM accounts FOR UPDATE"],
    ids=["table", "accounts row"],
)
def test_somebody_holds_a_lock(
    run: Callable[..., Hatched], postgres_url: str, statement: str
) -> None:
    """For longer than a statement waits for it: 503 meanwhile, then all goes on."""
    service = run(copy=IN_A_HURRY, DATABASE_URL=postgres_url)
    with Load(service) as load:
        load.more()
        with holding(postgres_url, statement):
            degraded(service)
            load.refused()
            eventually("a lock is given up twice", lambda: service.text.count("lock timeout") >= 2)
            before = len(load.acknowledged)
            load.refused()
            assert len(load.acknowledged) == before
        load.more(20, BACK_SECONDS)
    settled(load, service, postgres_url)


class Disk:
    """A small disk of its own, in memory, which a test can fill up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no room."""
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        assert shutil.disk_usage(self.folder).free == 0

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()


@pytest.fixture
def small_disk() -> Iterator[Disk]:
    """A disk of a few megabytes, where this machine lets us mount one."""
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m,mode=755", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


@pytest.fixture(params=["tables", "log"])
def cramped(request: pytest.FixtureRequest, small_disk: Disk) -> Iterator[tuple[Server, str]]:
    """A server that has its tables or its log on the small disk, and a database's URL there."""
    if request.param == "log":
        server = Server(small_disk.folder / "log")
        yield server, server.url("postgres")
        server.close()
        return
    server = request.getfixturevalue("own_server")
    server.give(small_disk.folder)
    server.execute(f"CREATE TABLESPACE small LOCATION '{small_disk.folder}'")
    server.execute("CREATE DATABASE cramped TABLESPACE small")
    yield server, server.url("cramped")
    server.execute("DROP DATABASE cramped WITH (FORCE)")
    server.execute("DROP TABLESPACE small")


def test_a_full_disk(
    run: Callable[..., Hatched], small_disk: Disk, cramped: tuple[Server, str]
) -> None:
    """503 while there is no room; when there is, it goes on, though the server may have given up.

    Without room for its log, the server crashes and does not come back before there is some.
    """
    server, url = cramped
    service = run(DATABASE_URL=url)
    with Load(service, clients=8) as load:
        load.more()
        small_disk.fill()
        degraded(service, BACK_SECONDS)  # the log has some room left in files of its own
        load.refused()
        small_disk.free()

        def back(wanted: int = len(load.acknowledged) + 50) -> bool:
            if not server.alive:
                server.start()
            return len(load.acknowledged) >= wanted

        eventually("orders are taken again", back, BACK_SECONDS)
    assert "No space left" in server.log
    settled(load, service, url)


@pytest.fixture
def guarded_url(own_server: Server, postgres_url: str) -> str:
    """The database's URL for a user who needs a password, and has the right one."""
    role = "guarded"
    if (role,) not in execute(postgres_url, "SELECT rolname::text FROM pg_roles"):
        execute(postgres_url, f"CREATE ROLE {role} LOGIN")
        own_server.demand_password(role)
    execute(postgres_url, f"ALTER ROLE {role} LOGIN PASSWORD 'right'")
    execute(postgres_url, f"ALTER DATABASE {postgres_url_name(postgres_url)} OWNER TO {role}")
    execute(postgres_url, f"ALTER SCHEMA public OWNER TO {role}")
    return postgres_url.replace("//tester@", f"//{role}:right@")


def postgres_url_name(url: str) -> str:
    """The name of a URL's database."""
    return url.partition("?")[0].rpartition("/")[2]


def test_a_wrong_password(start: Start, guarded_url: str) -> None:
    """One sentence without the password, and exit code 1."""
    url = guarded_url.replace(":right@", ":hunter2@")
    service = start(DATABASE_URL=url, ready=False)
    assert service.wait(BACK_SECONDS) == 1
    said = service.lines[-1]
    assert said.startswith("ticker-actors: The database postgresql://guarded@")
    assert said.endswith('cannot be used: password authentication failed for user "guarded".')
    assert "hunter2" not in service.text


@pytest.mark.parametrize(
    "shut, reopen",
    [
        ("ALTER ROLE guarded PASSWORD 'another'", "ALTER ROLE guarded PASSWORD 'right'"),
        ("ALTER ROLE guarded NOLOGIN", "ALTER ROLE guarded LOGIN"),
    ],
    ids=["password", "role"],
)
def test_shut_out_while_running(
    run: Callable[..., Hatched], postgres_url: str, guarded_url: str, shut: str, reopen: str
) -> None:
    """Whose connections end and who is not let in again waits, readers too, and goes on after."""
    service = run(DATABASE_URL=guarded_url)
    hook = {"url": "http://127.0.0.1:9/nobody", "events": ["order_placed"]}  # it reads all the time
    assert service.http.post("/advanced/webhooks", json=hook).status_code == 201
    with Load(service) as load:
        load.more()
        execute(postgres_url, shut)
        try:
            assert terminate_backends(postgres_url) >= 2
            degraded(service)
            assert terminate_backends(postgres_url) == 0
            load.refused()
            eventually(
                "it is not let in", lambda: service.text.count("database away") >= 3, BACK_SECONDS
            )
        finally:
            execute(postgres_url, reopen)
        load.more(20, BACK_SECONDS)
    assert "password" not in service.text.replace("password authentication failed", "")
    settled(load, service, postgres_url)
