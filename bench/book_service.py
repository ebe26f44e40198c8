"""The service on a broker that is a book in a file: what `bench.start` starts and measures."""

import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import msgspec
import trio

from tests.bare_portfolio import BarePortfolio
from ticker_actors import log
from ticker_actors.model.orders import BrokerOrder, OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import FeedBack, FeedItem, OrderBook, Unknown
from ticker_actors.service import serve
from ticker_actors.settings import PRIMARY, load


class BookBroker(BarePortfolio):
    """A broker that shows the book in a file, and says of no call what became of it."""

    def __init__(self, path: Path) -> None:
        self._path = trio.Path(path)

    async def place(self, order: PlaceOrder, tag: str) -> Unknown:  # noqa: ARG002  # of a port
        """Nobody knows."""
        return Unknown("Nobody knows.")

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> Unknown:  # noqa: ARG002  # of a port
        """Nobody knows."""
        return Unknown("Nobody knows.")

    async def cancel(self, order_id: str, variety: str) -> Unknown:  # noqa: ARG002  # of a port
        """Nobody knows."""
        return Unknown("Nobody knows.")

    async def orders(self) -> OrderBook:
        """The book, decoded anew each time, as a broker's answer is."""
        text = await self._path.read_bytes()
        return OrderBook(msgspec.json.decode(text, type=tuple[BrokerOrder, ...]))

    async def updates(self) -> AsyncIterator[FeedItem]:
        """A feed that is there, and silent."""
        yield FeedBack()
        await trio.sleep_forever()


def serve_book(book: Path) -> None:
    """What the started process runs: the service, on that broker."""
    settings = load(os.environ)
    log.configure(settings.log_level, settings.log_format)
    trio.run(partial(serve, settings, (), brokers={PRIMARY: BookBroker(book)}))


if __name__ == "__main__":
    serve_book(Path(sys.argv[1]))
