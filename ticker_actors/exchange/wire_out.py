"""What Kite answers and pushes, built from our structs, without I/O: the sandbox's direction.

Sources: https://kite.trade/docs/connect/v3/response-structure/, /orders/, /postbacks/, /portfolio/,
/user/ and /market-quotes/. `wire` and `wire_rows` read the same.
"""

import hashlib
from datetime import datetime
from typing import Any

import msgspec

from ticker_actors.exchange.packets import Depth, FullTick, IndexTick
from ticker_actors.model.calendar import IST, from_iso
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.portfolio import Trade

Json = dict[str, Any]


def success(data: object) -> bytes:
    """An envelope that says `success`."""
    return msgspec.json.encode({"status": "success", "data": data})


def failure(error_type: str, message: str) -> bytes:
    """An envelope that says `error`."""
    content = {"status": "error", "message": message, "data": None, "error_type": error_type}
    return msgspec.json.encode(content)


def ist(instant: datetime | str | None) -> str | None:
    """A time as Kite writes it: IST to the second, and no zone. Takes our own texts too."""
    if instant is None:
        return None
    exact = from_iso(instant) if isinstance(instant, str) else instant
    return exact.astimezone(IST).strftime("%Y-%m-%d %H:%M:%S")


def order_row(
    order: BrokerOrder,
    *,
    user_id: str,
    token: int,
    modified: bool = False,
    meta: Json | None = None,
) -> Json:
    """A row of the order book, or one state in an order's history.

    `token` is the instrument's, `meta` tells of an iceberg's leg. `tags` is left out where there
    are none. What we do not keep has Kite's value for "nothing".
    """
    tags = list(dict.fromkeys(tag for tag in order.all_tags() if tag))
    return {
        "placed_by": user_id,
        "order_id": order.order_id,
        "exchange_order_id": order.exchange_order_id,
        "parent_order_id": order.parent_order_id,
        "status": order.status,
        "status_message": order.status_message,
        "status_message_raw": order.status_message,
        "order_timestamp": ist(order.order_timestamp),
        "exchange_update_timestamp": ist(order.exchange_update_timestamp),
        "exchange_timestamp": ist(order.exchange_timestamp),
        "variety": order.variety,
        "modified": modified,
        "exchange": order.exchange,
        "tradingsymbol": order.tradingsymbol,
        "instrument_token": token,
        "order_type": order.order_type,
        "transaction_type": order.transaction_type,
        "validity": order.validity,
        "validity_ttl": 0,
        "product": order.product,
        "quantity": order.quantity,
        "disclosed_quantity": order.disclosed_quantity,
        "price": order.price,
        "trigger_price": order.trigger_price,
        "average_price": order.average_price,
        "filled_quantity": order.filled_quantity,
        "pending_quantity": order.pending_quantity,
        "cancelled_quantity": order.cancelled_quantity,
        "auction_number": None,
        "market_protection": 0,
        "meta": meta or {},
        "tag": tags[0] if tags else None,
        **({"tags": tags} if tags else {}),
        "guid": hashlib.sha256(order.order_id.encode()).hexdigest()[:24],
    }


def update(row: Json, *, user_id: str, app_id: int) -> Json:
    """An order row as a postback, and the `data` of a ticker's message, which has no checksum."""
    return {
        **row,
        "user_id": user_id,
        "app_id": app_id,
        "unfilled_quantity": row["quantity"] - row["filled_quantity"],
        "checksum": "",
    }


def checksum(order_id: str, order_timestamp: str, api_secret: str) -> str:
    """What a postback is signed with."""
    return hashlib.sha256(f"{order_id}{order_timestamp}{api_secret}".encode()).hexdigest()


def login_checksum(api_key: str, request_token: str, api_secret: str) -> str:
    """What the exchange of a request token is signed with."""
    return hashlib.sha256(f"{api_key}{request_token}{api_secret}".encode()).hexdigest()


def order_message(data: Json) -> str:
    """A ticker's message of an order."""
    return msgspec.json.encode({"type": "order", "id": "", "data": data}).decode()


def error_message(text: str) -> str:
    """A ticker's word about the connection."""
    return msgspec.json.encode({"type": "error", "data": text}).decode()


def trade_row(trade: Trade) -> Json:
    """One fill. Of the order's time only the time of day is shown, as Kite does."""
    filled = ist(trade.fill_timestamp)
    return {
        "trade_id": trade.trade_id,
        "order_id": trade.order_id,
        "exchange": trade.exchange,
        "tradingsymbol": trade.tradingsymbol,
        "instrument_token": trade.instrument_token,
        "product": trade.product,
        "average_price": trade.average_price,
        "quantity": trade.quantity,
        "exchange_order_id": trade.exchange_order_id,
        "transaction_type": trade.transaction_type,
        "fill_timestamp": filled,
        "order_timestamp": None if filled is None else filled[11:],
        "exchange_timestamp": ist(trade.exchange_timestamp),
    }


def ltp(tick: FullTick | IndexTick) -> Json:
    """The smallest quote."""
    return {"instrument_token": tick.instrument_token, "last_price": tick.last_price}


def ohlc(tick: FullTick | IndexTick) -> Json:
    """The quote with the day's prices."""
    day = {"open": tick.open, "high": tick.high, "low": tick.low, "close": tick.close}
    return {**ltp(tick), "ohlc": day}


def quote(tick: FullTick | IndexTick) -> Json:
    """The whole quote. An index has less of it."""
    whole = {
        **ohlc(tick),
        "timestamp": ist(tick.exchange_timestamp),
        "net_change": round(tick.last_price - tick.close, 4),
    }
    if isinstance(tick, IndexTick):
        return whole
    return {
        **whole,
        "last_trade_time": ist(tick.last_trade_time),
        "last_quantity": tick.last_traded_quantity,
        "average_price": tick.average_traded_price,
        "volume": tick.volume_traded,
        "buy_quantity": tick.total_buy_quantity,
        "sell_quantity": tick.total_sell_quantity,
        "oi": tick.oi,
        "oi_day_high": tick.oi_day_high,
        "oi_day_low": tick.oi_day_low,
        "lower_circuit_limit": 0,
        "upper_circuit_limit": 0,
        "depth": {"buy": _levels(tick.buy), "sell": _levels(tick.sell)},
    }


def _levels(levels: tuple[Depth, ...]) -> list[Json]:
    return [
        {"price": level.price, "quantity": level.quantity, "orders": level.orders}
        for level in levels
    ]
