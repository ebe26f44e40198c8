"""Waits that are cut short when their owner stops.

Each is a cancel scope in a set: a task for each, which waits for the stop beside it, would take the
scheduler three turns.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Waits:
    """What an owner's tasks are waiting in."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._until = math.inf

    @contextmanager
    def wait(self, seconds: float = math.inf) -> Iterator[None]:
        """Cancel the block when the time is up, or when the waits are ended."""
        with trio.move_on_at(min(trio.current_time() + seconds, self._until)) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def end(self, within: float = 0.0) -> None:
        """End all of them within so many seconds, and every later one."""
        self._until = trio.current_time() + within
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self._until)
