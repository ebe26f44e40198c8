"""An account's order view: what the reply, the feed and the book tell, merged into one.

Synchronous, like the ledger that it is a part of. Questions that are asked after every step (is any
order still open, is any not settled) look only at the open ones: a day has thousands of the others.
"""

import heapq
import math
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from datetime import date

import msgspec

from ticker_actors.model import events as catalogue
from ticker_actors.model import tags
from ticker_actors.model.calendar import Moment, trading_day
from ticker_actors.model.events import EventName
from ticker_actors.model.orders import (
    KIND,
    SETTLED,
    BrokerOrder,
    OrderView,
    PlaceOrder,
    Source,
    merge,
)
from ticker_actors.model.tags import Tag
from ticker_actors.model.tasks import OrderTask

SETTLE_READS = (0.5, 1.0, 2.0, 4.0)
"""Seconds after its reply when an order is looked for: Kite pushes nothing for a resting one."""
LEG_SETTLE_READS = (0.05, 0.2, *SETTLE_READS)
"""The same for a leg, on which a whole batch waits."""
KNOWN_SECONDS = 5.0
"""An order known this long before a read began must be in it, or the read is not valid."""
LONG_AGO = -float("inf")
"""Since when an order is known that another process had seen."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one report changed."""

    view: OrderView
    tag: Tag
    told: tuple[EventName, ...]

    @property
    def first(self) -> bool:
        """Whether the order was not known before."""
        return "order_placed" in self.told


@dataclass(slots=True)
class OrderViews:
    """All orders of ours that an account has today."""

    installation: str
    excused: frozenset[str] = frozenset()
    """Orders that a whole book need not show: an operator has looked."""
    _views: dict[str, OrderView] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)
    """Process seconds of first sight."""
    _rows: dict[str, BrokerOrder] = field(default_factory=dict)
    """The row of each order that was last sighted in a book."""
    _open: set[str] = field(default_factory=set)
    """Those that may still change."""
    _unsettled: set[str] = field(default_factory=set)
    """Those of which not much more than the reply is known."""
    _looks: list[tuple[float, str]] = field(default_factory=list)
    """A heap: when to look for an order that was unsettled. Stale entries do no harm."""

    def __contains__(self, order_id: object) -> bool:
        return order_id in self._views

    def get(self, order_id: str | None) -> OrderView | None:
        """An order, or None."""
        return self._views.get(order_id or "")

    def restore(self, view: OrderView) -> None:
        """Take back an order that the store kept."""
        self._keep(view, LONG_AGO)

    def our_tag(self, row: BrokerOrder) -> Tag | None:
        """The tag by which a row is one of ours, also where a report leaves it out."""
        known = self._views.get(row.order_id)
        return tags.ours((known.order if known else row).all_tags(), self.installation)

    def unchanged(self, row: BrokerOrder) -> bool:
        """Whether a book's row of an order that is done is the very one of the book before.

        Most are: the adapters give the same struct for the same row.
        """
        if self._rows.get(row.order_id) is not row:
            return False
        known = self._views.get(row.order_id)
        return known is not None and known.order.terminal

    def sight(
        self, row: BrokerOrder, source: Source, owner: OrderTask | None, now: Moment
    ) -> Sighting | None:
        """Merge a report. None when it tells nothing new, or of an order that nobody here owns.

        `owner` is the task whose intent is in the order's tag.
        """
        tag, known = self.our_tag(row), self._views.get(row.order_id)
        if tag is None:
            return None
        if source == "book" and known is not None:
            self._rows[row.order_id] = row
        if known is not None:
            merged = merge(known.order, row, source)
            told = catalogue.of_view(known.order, merged)
            view = msgspec.structs.replace(known, order=merged, version=known.version + 1)
        elif owner is not None:
            told = catalogue.of_view(None, row)
            view = OrderView(
                account_id=owner.account_id,
                order=row,
                task_id=owner.task_id,
                tag=owner.params.get("tag"),
                version=1,
                trading_day=trading_day(now.at),
            )
        else:
            return None
        if not told:
            return None
        self._keep(view, self._since.get(row.order_id, now.mono))
        if known is None and row.order_id in self._unsettled:
            leg = owner is not None and owner.batch_id is not None
            for after in LEG_SETTLE_READS if leg else SETTLE_READS:
                heapq.heappush(self._looks, (now.mono + after, row.order_id))
        return Sighting(view, tag, told)

    def expected(self, day: date, began: float) -> list[str]:
        """The orders that a whole book of that day, read from `began` on, must hold."""
        return [
            order_id
            for order_id, view in self._views.items()
            if view.trading_day == day
            and self._since[order_id] <= began - KNOWN_SECONDS
            and order_id not in self.excused
        ]

    def resting(self, order: PlaceOrder) -> Iterator[OrderView]:
        """Open orders that move the same position the same way."""
        for view in map(self._views.__getitem__, self._open):
            if all(getattr(view.order, name) == getattr(order, name) for name in KIND):
                yield view

    def any_open(self) -> bool:
        """Whether any order may still change."""
        return bool(self._open)

    def next_look(self, last: float) -> float:
        """When to look for an order of which only the reply is known, if last looked at `last`."""
        looks = self._looks
        while looks and (looks[0][0] <= last or looks[0][1] not in self._unsettled):
            heapq.heappop(looks)
        return looks[0][0] if looks else math.inf

    def roll(self, today: date, needed: Container[str]) -> None:
        """Drop the orders of earlier days, but for those of tasks that are still needed."""
        for order_id, view in tuple(self._views.items()):
            if view.trading_day < today and view.task_id not in needed:
                del self._views[order_id], self._since[order_id]
                self._rows.pop(order_id, None)
                self._open.discard(order_id)
                self._unsettled.discard(order_id)

    def _keep(self, view: OrderView, since: float) -> None:
        order_id = view.order.order_id
        self._views[order_id] = view
        self._since[order_id] = since
        if view.order.terminal:
            self._open.discard(order_id)
        else:
            self._open.add(order_id)
        if view.order.terminal or view.order.status in SETTLED:
            self._unsettled.discard(order_id)
        else:
            self._unsettled.add(order_id)
