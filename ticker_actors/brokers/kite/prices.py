"""Last prices for risk checks, asked for together: Kite takes one such question a second."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf

import trio

from ticker_actors.exchange.wire import MAX_QUOTES
from ticker_actors.model.outcomes import Unreadable
from ticker_actors.model.portfolio import Quote

Ask = Callable[[Sequence[str]], Awaitable[Mapping[str, Quote] | Unreadable]]

SPACING_SECONDS = 1.0
FRESH_SECONDS = 1.0
OLD_SECONDS = 60.0
"""How old a price may be: as a matter of course, and for want of a newer one."""
MOST_PRICES = 1_000
"""Instruments whose price is remembered."""


class LastPrices:
    """What instruments last traded at, by `EXCHANGE:TRADINGSYMBOL`, in rupees."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._wanted: dict[str, None] = {}
        self._known: dict[str, tuple[float, float]] = {}
        self._turn = trio.Lock()
        self._next_at = -inf

    async def price(self, name: str) -> float | None:
        """The price as of now, or of a moment ago; None when Kite knows none, or does not say."""
        if (price := self._within(name, FRESH_SECONDS)) is not None:
            return price
        self._wanted[name] = None
        async with self._turn:  # whoever has it asks for all who wait
            if name in self._wanted:
                await trio.sleep_until(self._next_at)
                await self._ask_for(tuple(self._wanted)[:MAX_QUOTES])
        return self._within(name, OLD_SECONDS)

    async def _ask_for(self, names: Sequence[str]) -> None:
        found = await self._ask(names)
        self._next_at = trio.current_time() + SPACING_SECONDS
        for name in names:
            self._wanted.pop(name, None)
        if isinstance(found, Unreadable):
            return
        for name, quote in found.items():
            self._known.pop(name, None)
            self._known[name] = quote.last_price, trio.current_time()
        while len(self._known) > MOST_PRICES:
            del self._known[next(iter(self._known))]

    def _within(self, name: str, seconds: float) -> float | None:
        price, at = self._known.get(name, (None, -inf))
        return price if trio.current_time() - at < seconds else None
