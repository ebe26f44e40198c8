"""What an operator runs beside the service, or before it."""

import secrets
from datetime import UTC, datetime

from ticker_actors.service import open_store
from ticker_actors.settings import Settings


async def migrate(settings: Settings) -> None:
    """Make the tables, or bring them up to date. Changes nothing when they are.

    Raises `StoreError` when the database cannot be used. Every start of the service does the same.
    """
    async with open_store(settings, now=datetime.now(UTC), chance=secrets.randbits):
        pass
