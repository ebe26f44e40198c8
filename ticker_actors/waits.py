"""Waits that are cut short when their owner stops, or by whoever has something to do sooner.

Each is a cancel scope: a task for each, which waits for the stop beside it, would take the
scheduler three turns, and a sleeper that is woken to look at its clock two.
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
    def wait(self, seconds: float = math.inf) -> Iterator[trio.CancelScope]:
        """Cancel the block when the time is up, or when the waits are ended."""
        with trio.move_on_at(min(trio.current_time() + seconds, self._until)) as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def end(self, within: float = 0.0) -> None:
        """End all of them within so many seconds, and every later one."""
        self._until = trio.current_time() + within
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self._until)


class Alarm:
    """Wakes one sleeper, at a time that others may bring forward, also before it sleeps."""

    def __init__(self, waits: Waits) -> None:
        """The end of `waits` wakes it too."""
        self._waits = waits
        self._at = math.inf
        self._scope = trio.CancelScope()

    async def sleep_until(self, at: float) -> None:
        """Sleep until then by Trio's clock, or until it rings."""
        self._at = min(self._at, at)
        with self._waits.wait(self._at - trio.current_time()) as self._scope:
            await trio.Event().wait()
        self._at = math.inf

    def ring(self, at: float = -math.inf) -> None:
        """Wake the sleeper then, unless it wakes sooner; by default, now."""
        if at < self._at:
            self._at = at
            self._scope.deadline = min(self._scope.deadline, at)  # it may have just been ended
