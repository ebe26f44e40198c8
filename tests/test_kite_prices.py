"""Last prices: asked for together, at most once a second."""

from collections.abc import Mapping, Sequence

import pytest
import trio
from trio.testing import MockClock

from ticker_actors.brokers.kite.prices import MOST_PRICES, OLD_SECONDS, LastPrices
from ticker_actors.model.outcomes import Unreadable
from ticker_actors.model.portfolio import Quote


class Market:
    """Knows a price of everything but UNKNOWN, and when it was asked for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, tuple[str, ...]]] = []
        self.down = False

    async def __call__(self, names: Sequence[str]) -> Mapping[str, Quote] | Unreadable:
        self.asked.append((trio.current_time(), tuple(names)))
        await trio.sleep(0.1)
        if self.down:
            return Unreadable("429 Too many requests")
        return {
            name: Quote(instrument_token=1, last_price=float(len(self.asked)))
            for name in names
            if name != "NSE:UNKNOWN"
        }


async def test_many_at_once_are_one_question(autojump_clock: MockClock) -> None:
    """The first goes alone, all who came meanwhile go together a second later."""
    market = Market()
    prices, found = LastPrices(market), dict[str, float | None]()

    async def ask(name: str) -> None:
        found[name] = await prices.price(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "NSE:A")
        await trio.sleep(0.05)
        for name in ("NSE:B", "NSE:C", "NSE:UNKNOWN"):
            nursery.start_soon(ask, name)
    assert found == {"NSE:A": 1.0, "NSE:B": 2.0, "NSE:C": 2.0, "NSE:UNKNOWN": None}
    (first, alone), (second, together) = market.asked
    assert alone == ("NSE:A",)
    assert set(together) == {"NSE:B", "NSE:C", "NSE:UNKNOWN"}
    assert second - first >= 1.0


async def test_a_price_of_a_moment_ago_will_do(autojump_clock: MockClock) -> None:
    """Then it is asked for again; when Kite does not say, an older one will do for a minute."""
    market = Market()
    prices = LastPrices(market)
    assert [await prices.price("NSE:A"), await prices.price("NSE:A")] == [1.0, 1.0]
    await trio.sleep(2)
    market.down = True
    assert await prices.price("NSE:A") == 1.0
    await trio.sleep(OLD_SECONDS)
    assert await prices.price("NSE:A") is None
    assert len(market.asked) == 3


async def test_who_gives_up_leaves_the_others_their_turn(autojump_clock: MockClock) -> None:
    """Also when it was the one that asked for all."""
    market = Market()
    prices = LastPrices(market)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.05):
            await prices.price("NSE:A")
        nursery.start_soon(prices.price, "NSE:B")
    assert await prices.price("NSE:B") == pytest.approx(2.0)


async def test_it_does_not_remember_for_ever(autojump_clock: MockClock) -> None:
    """A program may ask for any symbol."""
    prices = LastPrices(Market())
    async with trio.open_nursery() as nursery:
        for number in range(MOST_PRICES + 500):
            nursery.start_soon(prices.price, f"NSE:S{number}")
    assert len(prices._known) == MOST_PRICES
    assert not prices._wanted
