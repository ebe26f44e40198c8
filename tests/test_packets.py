"""Kite's binary ticks: read, built, broken, and against the official client's parser."""

import struct
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ticker_actors.exchange.packets import (
    HEARTBEAT,
    SEGMENTS,
    Depth,
    FullTick,
    IndexTick,
    LtpTick,
    Malformed,
    Mode,
    QuoteTick,
    Tick,
    Ticks,
    build,
    in_mode,
    read,
)

NSE, CDS, BCD, INDEX = 0x000001_01, 0x000001_03, 0x000001_06, 0x000001_09
AT = datetime(2026, 3, 2, 4, 30, tzinfo=UTC)
LEVELS = tuple(Depth(quantity=10 * n, price=100 - n / 20, orders=n) for n in range(1, 6))
FULL = FullTick(
    instrument_token=NSE,
    last_price=1412.95,
    last_traded_quantity=5,
    average_traded_price=1412.47,
    volume_traded=7_360_198,
    total_buy_quantity=0,
    total_sell_quantity=5191,
    open=1396.0,
    high=1421.75,
    low=1395.55,
    close=1389.65,
    last_trade_time=AT,
    oi=1,
    oi_day_high=2,
    oi_day_low=3,
    exchange_timestamp=AT,
    buy=LEVELS,
    sell=LEVELS[::-1],
)
NIFTY = IndexTick(
    instrument_token=INDEX,
    last_price=17_521.2,
    high=17_600.0,
    low=17_400.05,
    open=17_550.5,
    close=17_600.4,
    change=-79.2,
    exchange_timestamp=AT,
)

u32 = st.integers(0, 2**32 - 1)
tokens = st.builds(
    lambda number, segment: number << 8 | segment,
    st.integers(0, 2**24 - 1),
    st.sampled_from([*SEGMENTS.values(), 0, 255]),
)
packets = st.one_of(
    *(
        st.builds(
            lambda token, rest: struct.pack(">I", token) + rest,
            tokens,
            st.binary(min_size=size - 4, max_size=size - 4),
        )
        for size in (8, 28, 32, 44, 184, 12, 183, 185)
    )
)


def framed(packets: list[bytes]) -> bytes:
    """A frame of packets, made without the code under test."""
    parts = (struct.pack(">H", len(packet)) + packet for packet in packets)
    return struct.pack(">H", len(packets)) + b"".join(parts)


@pytest.mark.parametrize("frame", [HEARTBEAT, b"\xff", b"", b"\x00\x00"])
def test_heartbeat_holds_no_tick(frame: bytes) -> None:
    """A frame of one byte is a sign of life and nothing more."""
    assert read(frame) == Ticks()


def test_layout_is_the_documented_one() -> None:
    """Bytes written by hand are read field by field, index and quote each in its own order."""
    ltp = struct.pack(">2I", NSE, 141_295)
    index = struct.pack(">6IiI", INDEX, 1_00, 2_00, 3_00, 4_00, 5_00, -6_00, 1_772_425_800)
    quote = struct.pack(">11I", NSE, 1_00, 2, 3_00, 4, 5, 6, 7_00, 8_00, 9_00, 10_00)
    assert read(framed([ltp, index, quote])) == Ticks(
        (
            LtpTick(instrument_token=NSE, last_price=1412.95),
            IndexTick(
                instrument_token=INDEX,
                last_price=1,
                high=2,
                low=3,
                open=4,
                close=5,
                change=-6,
                exchange_timestamp=AT,
            ),
            QuoteTick(
                instrument_token=NSE,
                last_price=1,
                last_traded_quantity=2,
                average_traded_price=3,
                volume_traded=4,
                total_buy_quantity=5,
                total_sell_quantity=6,
                open=7,
                high=8,
                low=9,
                close=10,
            ),
        )
    )


@pytest.mark.parametrize(
    "token,price", [(NSE, 8_000.0), (CDS, 0.08), (BCD, 80.0), (INDEX, 8_000.0)]
)
def test_price_is_divided_by_its_segment(token: int, price: float) -> None:
    """Currencies have more decimals than paise, and each segment its own."""
    assert read(framed([struct.pack(">2I", token, 800_000)])) == Ticks(
        (LtpTick(instrument_token=token, last_price=price),)
    )


@pytest.mark.parametrize(
    "tick,mode,kind,size",
    [
        (FULL, "ltp", LtpTick, 8),
        (FULL, "quote", QuoteTick, 44),
        (FULL, "full", FullTick, 184),
        (NIFTY, "ltp", LtpTick, 8),
        (NIFTY, "quote", IndexTick, 28),
        (NIFTY, "full", IndexTick, 32),
    ],
)
def test_what_is_built_is_read_again(
    tick: IndexTick | FullTick, mode: Mode, kind: type[Tick], size: int
) -> None:
    """A tick in each of the three modes comes back as it was, in a packet of the mode's length."""
    shown = in_mode(tick, mode)
    frame = build([shown, shown])
    assert type(shown) is kind
    assert len(frame) == 2 + 2 * (2 + size)
    assert read(frame) == Ticks((shown, shown))


def test_missing_depth_is_zeros() -> None:
    """A thin market still has five levels on each side."""
    thin = FullTick(**{**_fields(FULL), "buy": LEVELS[:1], "sell": ()})
    found = read(build([thin]))
    nothing = Depth(quantity=0, price=0, orders=0)
    assert isinstance(found, Ticks)
    (tick,) = found.ticks
    assert isinstance(tick, FullTick)
    assert (tick.buy, tick.sell) == ((LEVELS[0], *[nothing] * 4), (nothing,) * 5)


def _fields(tick: FullTick) -> dict[str, Any]:
    return {name: getattr(tick, name) for name in tick.__struct_fields__}


@pytest.mark.parametrize("price", [-0.01, 2.0**32])
def test_number_that_does_not_fit_is_not_built(price: float) -> None:
    """What no field can hold is the builder's caller's mistake."""
    with pytest.raises(ValueError, match="No frame can hold it"):
        build([LtpTick(instrument_token=NSE, last_price=price)])


@pytest.mark.parametrize(
    "frame,message",
    [
        (b"\x00\x01", "It ends before packet 1 of 1."),
        (b"\x00\x01\x00", "It ends before packet 1 of 1."),
        (framed([bytes(8), bytes(8)])[:-1], "It ends within packet 2 of 2."),
        (
            framed([bytes(8)]).replace(b"\x00\x01", b"\xff\xff", 1),
            "It ends before packet 2 of 65535.",
        ),
    ],
)
def test_cut_frame_names_its_fault(frame: bytes, message: str) -> None:
    """A frame that ends too soon says where, and none of its ticks is believed."""
    assert read(frame) == Malformed(message)


def test_unknown_kinds_are_skipped() -> None:
    """A packet of an unknown length, even an empty one, does not hide its neighbours."""
    ltp = struct.pack(">2I", NSE, 100)
    found = read(framed([b"", ltp, bytes(200), ltp, b"abc"]))
    assert found == Ticks((LtpTick(instrument_token=NSE, last_price=1),) * 2, skipped=3)


@given(st.binary(max_size=400))
def test_no_bytes_raise(frame: bytes) -> None:
    """Whatever comes, the answer is a value."""
    assert isinstance(read(frame), Ticks | Malformed)


@given(st.lists(packets, max_size=8))
def test_frames_survive_reading_and_building(packets: list[bytes]) -> None:
    """Ticks that were read from any packets are built and read again without a change."""
    found = read(framed(packets))
    assert isinstance(found, Ticks)
    assert read(build(found.ticks)) == Ticks(found.ticks)


@pytest.fixture(scope="module")
def official() -> Callable[[bytes], list[dict[str, Any]]]:
    """The official client's parser. Importing it makes a Twisted reactor, which never runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ticker = pytest.importorskip("kiteconnect.ticker").KiteTicker
    parse: Callable[[bytes], list[dict[str, Any]]] = object.__new__(ticker)._parse_binary
    return parse


@example(frame=framed([bytes(size) for size in (8, 28, 32, 44, 184)]))
@given(frame=st.builds(framed, st.lists(packets, max_size=8)) | st.binary(max_size=1))
def test_official_client_reads_the_same(
    official: Callable[[bytes], list[dict[str, Any]]], frame: bytes
) -> None:
    """Every kind of packet of every segment says the same to us and to the official client."""
    found = read(frame)
    assert isinstance(found, Ticks)
    assert [as_official(tick) for tick in found.ticks] == [_told(tick) for tick in official(frame)]


def _told(tick: dict[str, Any]) -> dict[str, Any]:
    """Of what the official client says: all but the percentage that it works out itself.

    An index at no time is one in mode quote to us.
    """
    told = {name: value for name, value in tick.items() if name != "change"}
    for name in {"last_trade_time", "exchange_timestamp"} & told.keys():
        told[name] = int(told[name].timestamp())
    if "depth" not in told and told.get("exchange_timestamp") == 0:
        del told["exchange_timestamp"]
        told["mode"] = "quote"
    return told


def as_official(tick: Tick) -> dict[str, Any]:
    """A tick of ours in the official client's words."""
    told: dict[str, Any] = {name: getattr(tick, name) for name in tick.__struct_fields__}
    told["tradable"] = tick.tradable
    told.pop("change", None)
    match tick:
        case FullTick():
            mode = "full"
            told["depth"] = {
                side: [
                    {"quantity": level.quantity, "price": level.price, "orders": level.orders}
                    for level in told.pop(side)
                ]
                for side in ("buy", "sell")
            }
        case IndexTick(exchange_timestamp=datetime()):
            mode = "full"
        case IndexTick() | QuoteTick():
            mode = "quote"
            told.pop("exchange_timestamp", None)
        case _:
            mode = "ltp"
    if mode != "ltp":
        told["ohlc"] = {name: told.pop(name) for name in ("open", "high", "low", "close")}
    for name in {"last_trade_time", "exchange_timestamp"} & told.keys():
        told[name] = int(told[name].timestamp()) if told[name] else 0
    return {"mode": mode, **told}
