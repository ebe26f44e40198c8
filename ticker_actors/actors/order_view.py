"""An account's order view: what the reply, the feed and the book tell, merged into one.

Synchronous, like the ledger that it is a part of. Questions that are asked after every step (is any
order still open, is any not settled) look only at the open ones: a day has thousands of the others.

Those are let go, all but a few bytes, once nothing is expected of them: the store has the order,
the book shows the same end of it, and no task waits for it. When something new is told of one, it
is first taken back from the store (`recall`); then it is an order like any other.
"""

import heapq
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

import msgspec

from ticker_actors.actors.done_orders import DoneOrders, mark
from ticker_actors.model import events as catalogue
from ticker_actors.model import tags
from ticker_actors.model.calendar import Moment, trading_day
from ticker_actors.model.events import EventName
from ticker_actors.model.order_keys import Keys, order_key
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

_NAMELESS = re.compile(r"~([0-9a-f]{16})")


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
    day: date = date.min
    """Today."""
    excused: frozenset[str] = frozenset()
    """Orders that a whole book need not show: an operator has looked."""
    _views: dict[str, OrderView] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)
    """Process seconds of first sight."""
    _shown: dict[str, int] = field(default_factory=dict)
    """Of each order whose last row in a book was terminal, that row's mark."""
    _unwritten: set[str] = field(default_factory=set)
    """Those whose newest state is not durable yet."""
    _done: DoneOrders = field(default_factory=DoneOrders)
    """Today's orders that were let go."""
    _past: DoneOrders = field(default_factory=DoneOrders)
    """Those of earlier days, which a book goes on showing for some hours."""
    _open: set[str] = field(default_factory=set)
    """Those that may still change."""
    _unsettled: set[str] = field(default_factory=set)
    """Those of which not much more than the reply is known."""
    _looks: list[tuple[float, str]] = field(default_factory=list)
    """A heap: when to look for an order that was unsettled. Stale entries do no harm."""

    def __contains__(self, order_id: str) -> bool:
        """Whether it is an order of ours, held here or let go."""
        return order_id in self._views or self._mark_of(order_id) is not None

    def get(self, order_id: str | None) -> OrderView | None:
        """An order that is held, or None."""
        return self._views.get(order_id or "")

    def restore(self, view: OrderView) -> None:
        """Take back an order that the store kept. One that is held is newer."""
        order_id = view.order.order_id
        if order_id in self._views:
            return
        self._keep(view, LONG_AGO)
        for done in (self._done, self._past):
            if (shown := done.pop(order_id)) is not None:
                self._shown[order_id] = shown

    def written(self, views: Mapping[str, OrderView]) -> None:
        """These are durable."""
        for order_id, view in views.items():
            if self._views.get(order_id) is view:
                self._unwritten.discard(order_id)

    def our_tag(self, row: BrokerOrder) -> Tag | None:
        """The tag by which a row is one of ours, also where a report leaves it out."""
        known = self._views.get(row.order_id)
        return tags.ours((known.order if known else row).all_tags(), self.installation)

    def news(self, rows: Iterable[BrokerOrder]) -> list[BrokerOrder]:
        """The rows of a book, but for those of done orders that are as they were the last time."""
        return [row for row in rows if not self._repeats(row)]

    def _repeats(self, row: BrokerOrder) -> bool:
        if not row.terminal:
            return False
        held = row.order_id in self._views
        shown = self._shown.get(row.order_id) if held else self._mark_of(row.order_id)
        return shown is not None and shown == mark(row)

    def let_go(self, order_id: str) -> bool:
        """Whether an order of today is done, and no more of it is held than that."""
        return order_id not in self._views and order_id in self._done

    def wanted(self, rows: Iterable[BrokerOrder]) -> list[str]:
        """The orders among these that were let go, of any day: take them back before `sight`."""
        ids = {row.order_id: None for row in rows if row.order_id not in self._views}
        return [order_id for order_id in ids if self._mark_of(order_id) is not None]

    def _mark_of(self, order_id: str) -> int | None:
        found = self._done.mark(order_id)
        return self._past.mark(order_id) if found is None and self._past else found

    def sight(
        self, row: BrokerOrder, source: Source, owner: OrderTask | None, now: Moment
    ) -> Sighting | None:
        """Merge a report. None when it tells nothing new, or of an order that nobody here owns.

        `owner` is the task whose intent is in the order's tag. An order that was let go changes
        only by its row in a book, for which it is taken back first: no other report can.
        """
        tag, known = self.our_tag(row), self._views.get(row.order_id)
        if tag is None or (known is None and row.order_id in self):
            return None
        if source == "book" and (known is not None or owner is not None):
            if row.terminal:
                self._shown[row.order_id] = mark(row)
            else:
                self._shown.pop(row.order_id, None)
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
        self._unwritten.add(row.order_id)
        if known is None and row.order_id in self._unsettled:
            leg = owner is not None and owner.batch_id is not None
            for after in LEG_SETTLE_READS if leg else SETTLE_READS:
                heapq.heappush(self._looks, (now.mono + after, row.order_id))
        return Sighting(view, tag, told)

    def missing(self, day: date, began: float, present: Keys) -> tuple[str, ...]:
        """The orders that a whole book of that day, read from `began` on, must hold and does not.

        `present`: the keys of those that it holds.
        """
        held = [name for name in self._expected(day, began) if order_key(name) not in present]
        return (*held, *map(_nameless, self.lost(day, present)))

    def knows_any(self, day: date, began: float) -> bool:
        """Whether such a book must hold any order at all."""
        excused = sum(self._done.holds(_key(name)) for name in self.excused)
        done = day == self.day and len(self._done) > excused
        return done or any(True for _ in self._expected(day, began))

    def lost(self, day: date, present: Keys) -> set[int]:
        """The keys of orders that were let go, and that a book of that day should show and did not.

        They have no name here: take them back, and `missing` names them.
        """
        keys = self._done.missing(present) if day == self.day else set()
        return keys.difference(map(_key, self.excused)) if keys else keys

    def _expected(self, day: date, began: float) -> Iterator[str]:
        for order_id, view in self._views.items():
            if (
                view.trading_day == day
                and self._since[order_id] <= began - KNOWN_SECONDS
                and order_id not in self.excused
            ):
                yield order_id

    def contradicted(self, repeated: Keys) -> bool:
        """Whether a book counts as done what is open here: its row was given, and not understood.

        So it is with an order whose row had no tag before its order id was known.
        """
        return bool(repeated) and any(order_key(name) in repeated for name in self._open)

    def release(self, tasks: Container[str], orders: Container[str], began: float) -> None:
        """Let go of the orders that are done, after a book, read from `began` on, that is valid.

        But for those of `tasks`, and for `orders`, which are still needed.
        """
        for order_id, shown in tuple(self._shown.items()):
            view = self._views[order_id]
            if (
                view.order.terminal
                and view.trading_day <= self.day
                and self._since[order_id] <= began - KNOWN_SECONDS
                and order_id not in self._unwritten
                and order_id not in orders
                and view.task_id not in tasks
            ):
                self._drop(order_id)
                (self._done if view.trading_day == self.day else self._past).add(order_id, shown)

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
                self._drop(order_id)
        self.day = today
        self._past, self._done = self._done, DoneOrders()

    def _drop(self, order_id: str) -> None:
        del self._views[order_id], self._since[order_id]
        self._shown.pop(order_id, None)
        self._open.discard(order_id)
        self._unsettled.discard(order_id)
        self._unwritten.discard(order_id)

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


def _nameless(key: int) -> str:
    """What an order is called whose key is all that is left of it: the store has lost it."""
    return f"~{key:016x}"


def _key(name: str) -> int:
    """The key of an order, by its id or by that name."""
    match = _NAMELESS.fullmatch(name)
    return order_key(name) if match is None else int(match[1], 16)
