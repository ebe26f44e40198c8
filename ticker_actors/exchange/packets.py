"""Kite's binary ticks, without I/O: read and built. The ticker's adapter and the sandbox share it.

Source: https://kite.trade/docs/connect/v3/websocket/#message-structure; where it is silent, what
the official Python client reads (5.2.2). All numbers are big endian, prices are whole parts of a
rupee. A frame is a count of packets, then each packet after its length; the length tells the kind.
"""

import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

Mode = Literal["ltp", "quote", "full"]

HEARTBEAT = b"\x00"
"""Sent about every second while there is nothing else. Any frame of one byte is one."""

SEGMENTS = {
    "nse": 1,
    "nfo": 2,
    "cds": 3,
    "bse": 4,
    "bfo": 5,
    "bcd": 6,
    "mcx": 7,
    "mcxsx": 8,
    "indices": 9,
    "nco": 12,
}
"""The last byte of an instrument token."""
_DIVISORS = {SEGMENTS["cds"]: 1e7, SEGMENTS["bcd"]: 1e4, SEGMENTS["nco"]: 1e4}
PAISE = 100.0
"""Parts of a rupee in every other segment."""

DEPTH_LEVELS = 5
"""Entries of each side of the market depth."""


class LtpTick(msgspec.Struct, frozen=True, kw_only=True):
    """The last price of an instrument, in rupees."""

    instrument_token: int
    last_price: float

    @property
    def tradable(self) -> bool:
        """Whether it can be bought: an index cannot."""
        return self.instrument_token & 0xFF != SEGMENTS["indices"]


class IndexTick(LtpTick, frozen=True, kw_only=True):
    """An index, in mode quote, or full with its time."""

    high: float
    low: float
    open: float
    close: float
    change: float
    """Since the last close, in points. The official clients work it out and do not read it."""
    exchange_timestamp: datetime | None = None
    """UTC; None in mode quote."""


class QuoteTick(LtpTick, frozen=True, kw_only=True):
    """An instrument in mode quote. Prices are rupees, quantities units."""

    last_traded_quantity: int
    average_traded_price: float
    volume_traded: int
    total_buy_quantity: int
    total_sell_quantity: int
    open: float
    high: float
    low: float
    close: float


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """What is offered or asked for at one price."""

    quantity: int
    price: float
    orders: int


class FullTick(QuoteTick, frozen=True, kw_only=True):
    """An instrument in mode full. Times are UTC, None where the exchange has none."""

    last_trade_time: datetime | None
    oi: int
    oi_day_high: int
    oi_day_low: int
    exchange_timestamp: datetime | None
    buy: tuple[Depth, ...]
    """Five, the best first; what is not there is zeros."""
    sell: tuple[Depth, ...]


Tick = LtpTick | IndexTick | QuoteTick | FullTick


_QUOTE_FIELDS = (
    "instrument_token",
    "last_price",
    "last_traded_quantity",
    "average_traded_price",
    "volume_traded",
    "total_buy_quantity",
    "total_sell_quantity",
    "open",
    "high",
    "low",
    "close",
)
_LAYOUTS: dict[type[Tick], tuple[str, ...]] = {
    LtpTick: ("instrument_token", "last_price"),
    # Not in the order of quotes; the time is left out in mode quote.
    IndexTick: (
        *("instrument_token", "last_price", "high", "low", "open", "close", "change"),
        "exchange_timestamp",
    ),
    QuoteTick: _QUOTE_FIELDS,
    FullTick: (
        *_QUOTE_FIELDS,
        *("last_trade_time", "oi", "oi_day_high", "oi_day_low", "exchange_timestamp"),
    ),
}
"""The fields of each kind as they stand in its packet, four bytes each. Depth follows after."""
_PRICES = {"last_price", "average_traded_price", "open", "high", "low", "close", "change"}
_TIMES = {"last_trade_time", "exchange_timestamp"}

_COUNT = struct.Struct(">H")
_DEPTH = struct.Struct(">2IH2x")
_KINDS: dict[int, tuple[type[Tick], struct.Struct]] = {
    8: (LtpTick, struct.Struct(">2I")),
    28: (IndexTick, struct.Struct(">6Ii")),
    32: (IndexTick, struct.Struct(">6IiI")),
    44: (QuoteTick, struct.Struct(">11I")),
    184: (FullTick, struct.Struct(">16I")),
}
"""By the length of a packet. Unsigned but for an index's change, which may be a fall."""
_FORMS = {(kind, len(form.unpack(bytes(form.size)))): form for kind, form in _KINDS.values()}
"""By type and number of fields."""
_NO_DEPTH = Depth(quantity=0, price=0.0, orders=0)


class Ticks(msgspec.Struct, frozen=True):
    """A frame that could be read. A heartbeat holds none."""

    ticks: tuple[Tick, ...] = ()
    skipped: int = 0
    """Packets of a length that is no kind we know: Kite may add kinds."""


class Malformed(msgspec.Struct, frozen=True):
    """A frame that is not what it says. Nothing in it is to be believed."""

    message: str


def read(frame: bytes) -> Ticks | Malformed:
    """What a binary message says. Never raises. Bytes after the last packet are left alone.

    As the official clients do; but they raise where this gives `Malformed`.
    """
    if len(frame) < _COUNT.size:
        return Ticks()
    (count,) = _COUNT.unpack_from(frame)
    ticks: list[Tick] = []
    at = _COUNT.size
    for number in range(1, count + 1):
        body = at + _COUNT.size
        if body > len(frame):
            return Malformed(f"It ends before packet {number} of {count}.")
        (length,) = _COUNT.unpack_from(frame, at)
        at = body + length
        if at > len(frame):
            return Malformed(f"It ends within packet {number} of {count}.")
        tick = _tick(frame[body:at])
        if tick is not None:
            ticks.append(tick)
    return Ticks(tuple(ticks), count - len(ticks))


def build(ticks: Iterable[Tick]) -> bytes:
    """The frame that shows these ticks, each in the mode that its type is.

    Raises ValueError for a number that its field cannot hold, such as a negative price.
    """
    try:
        packets = [_packet(tick) for tick in ticks]
        parts = [_COUNT.pack(len(packets))]
        for packet in packets:
            parts += (_COUNT.pack(len(packet)), packet)
    except struct.error as error:
        raise ValueError(f"No frame can hold it: {error}.") from None
    return b"".join(parts)


def fits(tick: Tick) -> bool:
    """Whether a frame can hold its numbers: a currency above 429 rupees, say, does not."""
    try:
        _packet(tick)
    except struct.error:
        return False
    return True


def in_mode(tick: IndexTick | FullTick, mode: Mode) -> Tick:
    """What a subscriber of that mode is shown of a tick."""
    if mode == "ltp":
        return LtpTick(instrument_token=tick.instrument_token, last_price=tick.last_price)
    if mode == "full":
        return tick
    if isinstance(tick, IndexTick):
        return msgspec.structs.replace(tick, exchange_timestamp=None)
    return QuoteTick(**{name: getattr(tick, name) for name in QuoteTick.__struct_fields__})


def _divisor(token: int) -> float:
    return _DIVISORS.get(token & 0xFF, PAISE)


def _tick(packet: bytes) -> Tick | None:
    if len(packet) not in _KINDS:
        return None
    kind, form = _KINDS[len(packet)]
    numbers = form.unpack_from(packet)
    divisor = _divisor(numbers[0])
    fields: dict[str, Any] = {
        name: _value(name, number, divisor)
        for name, number in zip(_LAYOUTS[kind], numbers, strict=False)
    }
    if kind is FullTick:
        depth = tuple(
            Depth(quantity=quantity, price=price / divisor, orders=orders)
            for quantity, price, orders in _DEPTH.iter_unpack(packet[form.size :])
        )
        fields |= {"buy": depth[:DEPTH_LEVELS], "sell": depth[DEPTH_LEVELS:]}
    return kind(**fields)


def _value(name: str, number: int, divisor: float) -> float | datetime | None:
    if name in _PRICES:
        return number / divisor
    if name in _TIMES:
        return datetime.fromtimestamp(number, UTC) if number else None
    return number


def _packet(tick: Tick) -> bytes:
    divisor = _divisor(tick.instrument_token)
    names = _LAYOUTS[type(tick)]
    if isinstance(tick, IndexTick) and tick.exchange_timestamp is None:
        names = names[:-1]
    form = _FORMS[type(tick), len(names)]
    packet = form.pack(*(_number(name, getattr(tick, name), divisor) for name in names))
    if isinstance(tick, FullTick):
        for side in (tick.buy, tick.sell):
            levels = (*side, *[_NO_DEPTH] * DEPTH_LEVELS)[:DEPTH_LEVELS]
            packet += b"".join(
                _DEPTH.pack(level.quantity, round(level.price * divisor), level.orders)
                for level in levels
            )
    return packet


def _number(name: str, value: float | datetime | None, divisor: float) -> int:
    if isinstance(value, datetime):
        return int(value.timestamp())
    return round((value or 0) * (divisor if name in _PRICES else 1))
