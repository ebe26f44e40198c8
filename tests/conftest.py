"""A test that hangs fails by itself; a PostgreSQL server for those that need one."""

import functools
import inspect
import itertools
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
import trio

from tests.postgres import Server, execute

DEADLINE = 30.0
"""Seconds of real time, also under a mocked clock: before pytest-timeout's, which ends the run.

It is there for what hangs, not for what is slow: on a shared machine a commit took four seconds.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every Trio test its deadline, but for those that start real processes."""
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and inspect.iscoroutinefunction(item.obj)
            and item.get_closest_marker("slow") is None
        ):
            item.obj = _within(DEADLINE, item.obj)


def _within(seconds: float, test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def guarded(**fixtures: Any) -> None:  # noqa: ANN401  # whatever the test asks for
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:
            timer = threading.Timer(seconds, token.run_sync_soon, [scope.cancel])
            timer.start()
            try:
                await test(**fixtures)
            finally:
                timer.cancel()
                timer.join()
        if scope.cancelled_caught:
            pytest.fail(f"hung for {seconds} s")

    return guarded


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """What was logged, instead of lines on the terminal."""
    with structlog.testing.capture_logs() as lines:
        yield lines


_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A server of the tests' own, which they may stop, start and freeze."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Server:
    """The server, when it is ours to stop."""
    if os.environ.get("TEST_DATABASE_URL"):
        pytest.skip("a server of somebody else's is not stopped")
    server: Server = request.getfixturevalue("postgres_server")
    return server


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database: on the server that TEST_DATABASE_URL names, else on one of our own."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    given = os.environ.get("TEST_DATABASE_URL")
    if given is None:
        server: Server = request.getfixturevalue("postgres_server")
        maintenance, url = server.url("postgres"), server.url(name)
    else:
        maintenance, url = given, urlsplit(given)._replace(path=f"/{name}").geturl()
    execute(maintenance, f"CREATE DATABASE {name}")
    yield url
    execute(maintenance, f"DROP DATABASE {name} WITH (FORCE)")
