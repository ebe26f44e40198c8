"""Services for tests: each a process in a folder of its own, killed at the end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.service.copies import Copy
from tests.service.harness import SERVE, Hatched, Nest, Service


class Start(Protocol):
    """Starts a service; by default in the test's own folder, on the files of one before it."""

    def __call__(
        self,
        *arguments: str,
        folder: Path | None = None,
        command: tuple[str, ...] = SERVE,
        ready: bool = True,
        **settings: object,
    ) -> Service: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start services. None may write a traceback, unless its crash is what the test is about."""
    started: list[Service] = []

    def start(
        *arguments: str,
        folder: Path | None = None,
        command: tuple[str, ...] = SERVE,
        ready: bool = True,
        **settings: object,
    ) -> Service:
        service = Service(folder or tmp_path, settings, (*command, *arguments))
        started.append(service)
        return service.wait_until_ready() if ready else service

    yield start
    for service in started:
        service.close()
    for number, service in enumerate(started):  # pytest shows this when the test fails
        print(f"--- service {number} ({service.url}) ---\n{service.text}")  # noqa: T201
    for service in started:
        assert service.crash_expected or "Traceback" not in service.text


@pytest.fixture
def service(start: Start) -> Service:
    """One service with the settings as they come."""
    return start()


class Fork(Protocol):
    """Forks a service, sound or with a fault; by default on the files of the test's own folder."""

    def __call__(
        self,
        fault: str | None = None,
        *,
        copy: Copy | None = None,
        folder: Path | None = None,
        ready: bool = True,
        **settings: object,
    ) -> Hatched: ...


@pytest.fixture(scope="session")
def nest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nest]:
    """The process that services are forked from."""
    nest = Nest(tmp_path_factory.mktemp("nest"))
    yield nest
    nest.close()


@pytest.fixture
def fork(nest: Nest, tmp_path: Path) -> Iterator[Fork]:
    """Fork services: the same as `start`, but quick. None may write a traceback."""
    before = len(nest.hatched)

    def fork(
        fault: str | None = None,
        *,
        copy: Copy | None = None,
        folder: Path | None = None,
        ready: bool = True,
        **settings: object,
    ) -> Hatched:
        service = nest.start(folder or tmp_path, fault, copy, **settings)
        return service.wait_until_ready() if ready else service

    yield fork
    started = nest.hatched[before:]
    for service in started:
        service.close()
    for number, service in enumerate(started):
        print(f"--- forked service {number} ---\n{service.text[-10_000:]}")  # noqa: T201
    assert not any("Traceback" in service.text for service in started)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests of a module that only ask, or are refused."""
    service = Service(tmp_path_factory.mktemp("shared"))
    try:
        yield service.wait_until_ready()
    finally:
        service.close()
        print(f"--- shared service ---\n{service.text}")  # noqa: T201
    assert "Traceback" not in service.text
