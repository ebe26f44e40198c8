"""The service on a broker that only tells updates of one order: `bench.stream_delay` measures it.

For each line `COUNT PAUSE` on its standard input the broker tells COUNT updates, PAUSE seconds
apart. Each says in `status_message` when it was told: nanoseconds of the system's clock.
"""

import os
import time
from collections.abc import AsyncIterator
from functools import partial

import msgspec
import trio

from tests.bare_portfolio import BarePortfolio
from ticker_actors import log
from ticker_actors.model.orders import BrokerOrder, OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import (
    FeedBack,
    FeedItem,
    OrderBook,
    Placed,
    Unknown,
)
from ticker_actors.service import serve
from ticker_actors.settings import PRIMARY, load

ORDER_ID = "251120000000042"


class UpdatingBroker(BarePortfolio):
    """Takes one order, and tells of it whenever it is asked to."""

    def __init__(self) -> None:
        self._order: BrokerOrder | None = None

    async def place(self, order: PlaceOrder, tag: str) -> Placed:
        """It rests, and will be filled one by one."""
        self._order = BrokerOrder(
            order_id=ORDER_ID,
            status="OPEN",
            exchange=order.exchange,
            tradingsymbol=order.tradingsymbol,
            transaction_type=order.transaction_type,
            quantity=order.quantity,
            product=order.product,
            order_type=order.order_type,
            price=order.price or 0.0,
            pending_quantity=order.quantity,
            tag=tag,
        )
        return Placed(ORDER_ID)

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> Unknown:  # noqa: ARG002  # of a port
        """Nobody asks for it."""
        return Unknown("Nobody knows.")

    async def cancel(self, order_id: str, variety: str) -> Unknown:  # noqa: ARG002  # of a port
        """Nobody asks for it."""
        return Unknown("Nobody knows.")

    async def orders(self) -> OrderBook:
        """The order as it was told last."""
        return OrderBook(() if self._order is None else (self._order,))

    async def updates(self) -> AsyncIterator[FeedItem]:
        """What standard input asks for."""
        yield FeedBack()
        async with trio.lowlevel.FdStream(os.dup(0)) as wishes:
            async for line in wishes:  # short ones come whole
                count, pause = line.split()
                for _ in range(int(count)):
                    yield self._filled()
                    await trio.sleep(float(pause))
        await trio.sleep_forever()

    def _filled(self) -> BrokerOrder:
        if self._order is None:
            raise AssertionError("There is no order yet.")
        self._order = msgspec.structs.replace(
            self._order,
            filled_quantity=self._order.filled_quantity + 1,
            pending_quantity=self._order.pending_quantity - 1,
            status_message=str(time.time_ns()),
        )
        return self._order


if __name__ == "__main__":
    settings = load(os.environ)
    log.configure(settings.log_level, settings.log_format)
    trio.run(partial(serve, settings, (), brokers={PRIMARY: UpdatingBroker()}))
