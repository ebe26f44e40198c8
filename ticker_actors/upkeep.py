"""What an operator does to the tables, before the service, beside it or without it."""

import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import trio

from ticker_actors.actors.janitor import Prunable, sweep
from ticker_actors.model.retention import cutoffs
from ticker_actors.service import open_store
from ticker_actors.settings import Settings
from ticker_actors.store.sqlite_prune import SqlitePruner

PROGRESS_SECONDS = 2.0
"""Long enough that ordinary work says nothing, short enough that nobody wonders."""


async def migrate(settings: Settings) -> None:
    """Make the tables, or bring them up to date. Changes nothing when they are.

    Raises `StoreError` when the database cannot be used. Every start of the service does the same.
    """
    async with open_store(settings, now=datetime.now(UTC), chance=secrets.randbits):
        pass


async def cleanup(
    settings: Settings, *, now: datetime, tell: Callable[[str], object]
) -> Counter[str]:
    """Delete what is beyond the retention: how many rows of each table.

    `tell` hears how far it is. Raises `StoreError` when the database cannot be used, or was made by
    another version: it is never altered here.
    """
    deleted, told_at = Counter[str](), trio.current_time()

    def count(some: Mapping[str, int]) -> None:
        nonlocal told_at
        deleted.update(some)
        if trio.current_time() - told_at >= PROGRESS_SECONDS:
            told_at = trio.current_time()
            tell(f"{deleted.total()} rows deleted so far, {', '.join(some)} now")

    async with opened(settings) as tables:
        await sweep(tables, cutoffs(now, settings.retention), count)
    return deleted


@asynccontextmanager
async def opened(settings: Settings) -> AsyncGenerator[Prunable, None]:
    """The database that DATABASE_URL names, as it is. It takes no account over."""
    if settings.postgres is None:
        with SqlitePruner.open(settings.database_file) as file:
            yield file
        return
    # Who keeps a file need not wait for asyncpg's import.
    from ticker_actors.store.postgres_prune import PostgresPruner  # noqa: PLC0415

    async with PostgresPruner.open(settings.postgres) as database:
        yield database
