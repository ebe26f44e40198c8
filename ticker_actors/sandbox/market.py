"""Instruments, and what their market shows: made of the walk of prices that the book trades at.

Any symbol of a known exchange is an instrument from its first mention on. The day's open and close
are where its walk began; high and low are what this run has seen; volume is what the walk traded
since 00:00 IST. Every quote has five prices on each side, one tick apart.
"""

from datetime import date, datetime
from hashlib import blake2b
from typing import get_args

import msgspec

from ticker_actors.exchange.book import LIQUIDITY
from ticker_actors.exchange.order import to_rupees
from ticker_actors.exchange.packets import (
    DEPTH_LEVELS,
    SEGMENTS,
    Depth,
    FullTick,
    IndexTick,
)
from ticker_actors.exchange.prices import Walk, start_ticks
from ticker_actors.model.calendar import IST
from ticker_actors.model.orders import Exchange

MOST_INSTRUMENTS = 20_000
"""That are remembered; more is a program that makes up names."""
CSV_FIELDS = (
    *("instrument_token", "exchange_token", "tradingsymbol", "name", "last_price", "expiry"),
    *("strike", "tick_size", "lot_size", "instrument_type", "segment", "exchange"),
)
"""The columns of https://kite.trade/docs/connect/v3/market-quotes/#csv-response-columns."""
LONGEST_SYMBOL = 64
_TOKEN_BITS = 23
"""Of an instrument, beside the eight of its segment: JavaScript's client reads 31 bits."""


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument, as Kite's list has it."""

    instrument_token: int
    exchange: str
    tradingsymbol: str
    name: str = ""
    expiry: date | None = None
    lot_size: int = 1
    instrument_type: str = "EQ"
    segment: str = ""
    """Empty: the exchange's name."""

    @property
    def index(self) -> bool:
        """Whether it only has a price, and cannot be bought."""
        return self.instrument_token & 0xFF == SEGMENTS["indices"]


def _future(token: int, symbol: str, name: str, lot_size: int) -> Instrument:
    return Instrument(
        instrument_token=token,
        exchange="NFO",
        tradingsymbol=symbol,
        name=name,
        expiry=date(2025, 11, 25),
        lot_size=lot_size,
        instrument_type="FUT",
        segment="NFO-FUT",
    )


LISTED = (
    Instrument(
        instrument_token=256265,
        exchange="NSE",
        tradingsymbol="NIFTY 50",
        name="NIFTY 50",
        segment="INDICES",
    ),
    Instrument(instrument_token=408065, exchange="NSE", tradingsymbol="INFY", name="INFOSYS"),
    Instrument(instrument_token=2953217, exchange="NSE", tradingsymbol="TCS", name="TATA CONSULT"),
    Instrument(instrument_token=779521, exchange="NSE", tradingsymbol="SBIN", name="STATE BANK"),
    Instrument(
        instrument_token=738561, exchange="NSE", tradingsymbol="RELIANCE", name="RELIANCE IND."
    ),
    Instrument(instrument_token=519937, exchange="NSE", tradingsymbol="M&M", name="MAHINDRA & M."),
    Instrument(instrument_token=128028676, exchange="BSE", tradingsymbol="INFY", name="INFOSYS"),
    _future(9_485_826, "NIFTY25NOVFUT", "NIFTY", 75),
    _future(9_484_802, "BANKNIFTY25NOVFUT", "BANKNIFTY", 35),
)
"""In the list from the start. The first tokens are Kite's own."""


class Market:
    """All instruments at their prices."""

    def __init__(self, walk: Walk) -> None:
        """`walk` is the book's own."""
        self._walk = walk
        self._by_token = {one.instrument_token: one for one in LISTED}
        self._by_name = {(one.exchange, one.tradingsymbol): one for one in LISTED}
        self._seen: dict[str, tuple[int, int]] = {}

    def instruments(self) -> tuple[Instrument, ...]:
        """Those that are listed, and those that were mentioned."""
        return tuple(self._by_token.values())

    def by_token(self, token: int) -> Instrument | None:
        """The instrument of a token that was shown."""
        return self._by_token.get(token)

    def find(self, exchange: str, tradingsymbol: str) -> Instrument | None:
        """The instrument of a name; a new one has its token from now on.

        None for an exchange that is not there, an impossible name, or one too many.
        """
        if (known := self._by_name.get((exchange, tradingsymbol))) is not None:
            return known
        if (
            exchange not in get_args(Exchange)
            or not 0 < len(tradingsymbol) <= LONGEST_SYMBOL
            or not tradingsymbol.isprintable()
            or not tradingsymbol.isascii()
            or len(self._by_token) >= MOST_INSTRUMENTS
        ):
            return None
        new = Instrument(
            instrument_token=self._free_token(exchange, tradingsymbol),
            exchange=exchange,
            tradingsymbol=tradingsymbol,
            instrument_type="FUT" if tradingsymbol.endswith("FUT") else "EQ",
        )
        self._by_token[new.instrument_token] = new
        self._by_name[exchange, tradingsymbol] = new
        return new

    def price(self, tradingsymbol: str, now: datetime) -> int:
        """In ticks, at this second."""
        return self._walk.price(tradingsymbol, int(now.timestamp()))

    def tick(self, instrument: Instrument, now: datetime) -> FullTick | IndexTick:
        """All that can be shown of it at this second."""
        price = self.price(instrument.tradingsymbol, now)
        start = start_ticks(instrument.tradingsymbol)
        low, high = self._seen.get(instrument.tradingsymbol, (start, start))
        low, high = min(low, price), max(high, price)
        self._seen[instrument.tradingsymbol] = low, high
        second = now.replace(microsecond=0)
        if instrument.index:
            return IndexTick(
                instrument_token=instrument.instrument_token,
                last_price=to_rupees(price),
                high=to_rupees(high),
                low=to_rupees(low),
                open=to_rupees(start),
                close=to_rupees(start),
                change=to_rupees(price - start),
                exchange_timestamp=second,
            )
        side = LIQUIDITY * DEPTH_LEVELS
        return FullTick(
            instrument_token=instrument.instrument_token,
            last_price=to_rupees(price),
            last_traded_quantity=LIQUIDITY,
            average_traded_price=to_rupees(price),
            volume_traded=LIQUIDITY * _seconds_of_day(now),
            total_buy_quantity=side,
            total_sell_quantity=side,
            open=to_rupees(start),
            high=to_rupees(high),
            low=to_rupees(low),
            close=to_rupees(start),
            last_trade_time=second,
            oi=0,
            oi_day_high=0,
            oi_day_low=0,
            exchange_timestamp=second,
            buy=tuple(_level(price - away) for away in range(1, DEPTH_LEVELS + 1)),
            sell=tuple(_level(price + away) for away in range(1, DEPTH_LEVELS + 1)),
        )

    def _free_token(self, exchange: str, tradingsymbol: str) -> int:
        digest = blake2b(f"{exchange}:{tradingsymbol}".encode(), digest_size=8).digest()
        number: int = int.from_bytes(digest)
        while True:
            token: int = (number % 2**_TOKEN_BITS) << 8 | SEGMENTS[exchange.lower()]
            if token >> 8 and token not in self._by_token:
                return token
            number += 1


def _level(ticks: int) -> Depth:
    return Depth(quantity=LIQUIDITY, price=to_rupees(max(ticks, 0)), orders=1)


def _seconds_of_day(now: datetime) -> int:
    """So that the volume grows through the day, and a binary tick can hold it."""
    at = now.astimezone(IST)
    return at.hour * 3600 + at.minute * 60 + at.second


def csv_row(instrument: Instrument) -> tuple[object, ...]:
    """Its line in the list. Kite's list, made once a day, has 0 for the last price."""
    return (
        instrument.instrument_token,
        instrument.instrument_token >> 8,
        instrument.tradingsymbol,
        instrument.name,
        0,
        instrument.expiry or "",
        0,
        to_rupees(1),
        instrument.lot_size,
        instrument.instrument_type,
        instrument.segment or instrument.exchange,
        instrument.exchange,
    )
