"""Asyncio's own event loop as a guest of Trio: asyncpg knows no other.

The loop waits for its files in an epoll (on macOS a kqueue), which is a file itself: Trio waits for
that one. When it is readable, a timer is due or a coroutine is handed over, the loop makes a pass:
it does all that it can do now, and where it would sleep it is stopped. So a query takes Trio two
steps, and everything of asyncio's stays in C. (trio-asyncio, which this took the place of, gives
each callback a step of Trio's: 38 of 108 for an order, see `bench/README.md`.)

Only public parts of asyncio are used: a selector of one's own, which is told for how long the loop
would sleep, the methods that schedule, and `stop`.
"""

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Never, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MOST_ROUNDS = 16
"""Of asyncio's in a row: a query takes three. Then others have a turn, whatever is still to do."""
END_SECONDS = 1.0
"""For a cancelled coroutine to end by itself: on a link that is cut off it may wait without end."""


class _Files(selectors.DefaultSelector):
    """What the loop waits for; it never sleeps here, but says that it would."""

    def __init__(self, looked: Callable[[bool, float | None], None]) -> None:
        super().__init__()
        self._looked = looked

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        self._looked(bool(events), timeout)
        return events


class GuestLoop(asyncio.SelectorEventLoop):
    """Runs asyncio's coroutines inside a Trio run, while `host` is running. `end` it after that."""

    def __init__(self) -> None:
        self._files = _Files(self._rest)
        self._rounds = 0
        """Of the pass under way."""
        self._sleeps = math.inf
        """Seconds for which the loop would sleep, had the last pass not ended there."""
        self._unrun = True
        """Whether a callback may have been left by the last pass, or was scheduled after it."""
        self._awake = False
        """Whether a pass is under way, or about to begin: then nobody needs to wake the host."""
        self._sleep = trio.CancelScope()
        self._callers: set[trio.Event] = set()
        super().__init__(self._files)

    async def host(self) -> Never:
        """Make a pass whenever there is something to do, until cancelled."""
        while True:
            with trio.move_on_after(self._sleeps) as self._sleep:
                while not self._unrun:  # a scope for each sleep would cost as much as the pass
                    await trio.lowlevel.wait_readable(self._files.fileno())
                    self._pass()
            # A timer is due, or something was scheduled outside of a pass or left by the last one.
            await trio.lowlevel.checkpoint()
            self._pass()

    def end(self) -> None:
        """Cancel what is still running, and close the loop."""
        for task in asyncio.all_tasks(self):
            task.cancel()
        self._pass()
        self.close()
        for done in self._callers:
            done.set()

    async def run(self, work: Awaitable[T]) -> T:
        """Await something of asyncio's. Cancelling this cancels it, and waits a moment for its end.

        Raises what it raises, and `RuntimeError` when the loop is closed, also meanwhile.
        """
        done = trio.Event()

        def ended(task: asyncio.Future[T]) -> None:
            done.set()
            if not task.cancelled():
                task.exception()  # seen, also if nobody waits for it any more

        self._awake = True
        task = asyncio.ensure_future(work, loop=self)
        task.add_done_callback(ended)
        self._callers.add(done)
        try:
            self._pass()
            await self._wait(task, done)
        finally:
            self._callers.discard(done)
        if not task.done() or task.cancelled():
            message = "The event loop was closed."
            raise RuntimeError(message)
        return task.result()

    async def _wait(self, task: asyncio.Future[T], done: trio.Event) -> None:
        try:
            await done.wait()
        except trio.Cancelled:
            if not self.is_closed():
                task.cancel()
                self._pass()
            with trio.move_on_after(END_SECONDS, shield=True):
                await done.wait()
            if not task.done() or task.cancelled():
                raise

    def _pass(self) -> None:
        """Do all that can be done now, until the loop would sleep."""
        self._awake, self._rounds = True, 0
        try:
            self.run_forever()
        finally:
            self._awake = False
        if self._unrun:
            self._wake()
        elif (until := trio.current_time() + self._sleeps) != self._sleep.deadline:  # seldom
            self._sleep.deadline = until

    def _rest(self, found: bool, timeout: float | None) -> None:  # noqa: FBT001  # of a selector
        """End the pass where the loop would sleep, or when it has gone on for long."""
        self._rounds += 1
        if not found and timeout != 0:
            self._sleeps = math.inf if timeout is None else timeout
        elif self._rounds >= MOST_ROUNDS:
            self._sleeps = 0.0
        else:
            return
        # This round is the last, and may yet schedule something: a callback from a thread may have
        # come in this very moment, and will be run in it.
        self._unrun = False
        self.stop()

    def _wake(self) -> None:
        """Have the host look again: something was scheduled outside of a pass."""
        if not self._awake:
            self._sleep.cancel()

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Asyncio's; all of its callbacks but those of files and timers come this way."""
        self._unrun = True
        self._wake()
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Asyncio's; all of its timers come this way."""
        self._wake()
        return super().call_at(when, callback, *args, context=context)
