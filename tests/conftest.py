"""A test that hangs fails by itself."""

import functools
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

DEADLINE = 3.0
"""Seconds of real time, also under a mocked clock: before pytest-timeout's, which ends the run."""


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
