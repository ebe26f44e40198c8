"""Back from the store: what an account's ledger has let go, or another process left to it.

A report or a client's wish may be about an order that the ledger does not hold any more. What the
store knows of it is fetched first; then the ledger decides, as about any other order.
"""

from collections.abc import Collection, Sequence

import structlog
import trio

from ticker_actors.actors.ledger import Ledger
from ticker_actors.actors.ports import Reads
from ticker_actors.model.calendar import Moment, trading_day
from ticker_actors.model.order_keys import order_key
from ticker_actors.model.orders import BrokerOrder, OrderView
from ticker_actors.model.outcomes import OrderBook, Unreadable

ONE_BY_ONE = 20
"""Orders that are taken back by as many questions; for more, all of the day are asked for."""

_log = structlog.get_logger(__name__)


class Recall:
    """Fetches what an account's ledger needs and does not hold."""

    def __init__(self, ledger: Ledger, reads: Reads) -> None:
        self.turn = trio.Lock()
        """What is read while it is held is the newest: nobody else takes it up meanwhile."""
        self._ledger = ledger
        self._views = ledger.views
        self._account_id = ledger.account_id
        self._reads = reads

    async def order(self, order_id: str) -> OrderView | None:
        """An order of today, taken back when it had been let go; None when there is none."""
        if self._views.let_go(order_id):
            await self._take_back([order_id])
        return self._views.get(order_id)

    async def for_book(self, book: OrderBook | Unreadable, began: Moment) -> list[BrokerOrder]:
        """Fetch what a read of the book, begun then, is about. Its rows that may tell news."""
        rows = self._views.news(book.orders)
        await self._take_back(self._views.wanted(rows))
        await self.strangers(rows)
        if isinstance(book, OrderBook):
            await self._name_lost(book, began)
        return rows

    async def strangers(self, rows: Sequence[BrokerOrder]) -> None:
        """Fetch what the store knows of orders with our tag that the ledger does not hold."""
        if not self._ledger.strangers(rows):
            return  # as it is nearly always, and a lock is a turn of the scheduler
        async with self.turn:
            for order_id, intent in self._ledger.strangers(rows).items():
                task = await self._reads.task_by_intent(intent)
                if task is not None and task.account_id != self._account_id:
                    task = None  # two accounts are one at the broker: not ours to write
                view = await self._reads.order(self._account_id, order_id)
                if task is None:
                    _log.error("order with our tag but no task", order_id=order_id, intent=intent)
                self._ledger.remember(order_id, task, view)

    async def _take_back(self, order_ids: Collection[str]) -> None:
        """Fetch orders that were let go: something new is told of them, or wanted of them."""
        if not order_ids:
            return
        async with self.turn:
            found: dict[str, OrderView] = {}
            if len(order_ids) > ONE_BY_ONE:
                views = await self._reads.orders(self._account_id, self._views.day)
                found = {view.order.order_id: view for view in views}
            for order_id in order_ids:
                view = found.get(order_id) or await self._reads.order(self._account_id, order_id)
                if view is None:
                    _log.error("order not stored", account_id=self._account_id, order_id=order_id)
                else:
                    self._views.restore(view)

    async def _name_lost(self, book: OrderBook, began: Moment) -> None:
        """Fetch the orders that a book should show and does not, if they had been let go."""
        if lost := self._views.lost(trading_day(began.at), book.present):
            async with self.turn:
                for view in await self._reads.orders(self._account_id, self._views.day):
                    if order_key(view.order.order_id) in lost:
                        self._views.restore(view)
