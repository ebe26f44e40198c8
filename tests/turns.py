"""How often other tasks have their turn while something is done that must not keep them out."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def counted_turns() -> AsyncGenerator[Callable[[], int]]:
    """Tells how many turns another task has had in the block so far."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        yield lambda: turns
        nursery.cancel_scope.cancel()
