"""What an account holds and may use, and what the market shows: the broker's read-only answers.

Names are Kite Connect's (https://kite.trade/docs/connect/v3/portfolio/, /user/, /market-quotes/).
Prices and money are rupees, times `calendar.iso` strings (UTC).
"""

import msgspec


class Trade(msgspec.Struct, frozen=True, kw_only=True):
    """One fill. Kite's `order_timestamp` is only a time of day here, so it is left out."""

    trade_id: str
    order_id: str
    exchange: str
    tradingsymbol: str
    transaction_type: str
    product: str
    quantity: int
    average_price: float
    instrument_token: int = 0
    exchange_order_id: str | None = None
    fill_timestamp: str | None = None
    exchange_timestamp: str | None = None


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument and product held short term; a negative quantity is sold."""

    exchange: str
    tradingsymbol: str
    product: str
    quantity: int
    instrument_token: int = 0
    overnight_quantity: int = 0
    multiplier: float = 1.0
    average_price: float = 0.0
    close_price: float = 0.0
    last_price: float = 0.0
    value: float = 0.0
    pnl: float = 0.0
    m2m: float = 0.0
    unrealised: float = 0.0
    realised: float = 0.0
    buy_quantity: int = 0
    buy_price: float = 0.0
    buy_value: float = 0.0
    buy_m2m: float = 0.0
    sell_quantity: int = 0
    sell_price: float = 0.0
    sell_value: float = 0.0
    sell_m2m: float = 0.0
    day_buy_quantity: int = 0
    day_buy_price: float = 0.0
    day_buy_value: float = 0.0
    day_sell_quantity: int = 0
    day_sell_price: float = 0.0
    day_sell_value: float = 0.0


class Positions(msgspec.Struct, frozen=True, kw_only=True):
    """All positions of an account."""

    net: tuple[Position, ...] = ()
    """What is held now."""
    day: tuple[Position, ...] = ()
    """Today's buying and selling alone."""


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of one company kept in the demat account."""

    exchange: str
    tradingsymbol: str
    product: str
    quantity: int
    instrument_token: int = 0
    isin: str | None = None
    price: float = 0.0
    used_quantity: int = 0
    t1_quantity: int = 0
    realised_quantity: int = 0
    authorised_quantity: int = 0
    authorised_date: str | None = None
    opening_quantity: int = 0
    collateral_quantity: int = 0
    collateral_type: str | None = None
    discrepancy: bool = False
    average_price: float = 0.0
    last_price: float = 0.0
    close_price: float = 0.0
    pnl: float = 0.0
    day_change: float = 0.0
    day_change_percentage: float = 0.0


class SegmentMargins(msgspec.Struct, frozen=True, kw_only=True):
    """Money of one segment."""

    net: float
    """What may still be used."""
    enabled: bool = False
    available: dict[str, float] = {}
    utilised: dict[str, float] = {}


class Margins(msgspec.Struct, frozen=True, kw_only=True):
    """Money of an account, by segment."""

    equity: SegmentMargins | None = None
    commodity: SegmentMargins | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Who the access token belongs to, and what may be traded with it."""

    user_id: str
    user_name: str | None = None
    user_shortname: str | None = None
    user_type: str | None = None
    email: str | None = None
    broker: str | None = None
    exchanges: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    order_types: tuple[str, ...] = ()


class Ohlc(msgspec.Struct, frozen=True, kw_only=True):
    """The day's prices; `close` is the previous day's."""

    open: float = 0.0
    high: float = 0.0
    low: float = 0.0
    close: float = 0.0


class DepthLevel(msgspec.Struct, frozen=True, kw_only=True):
    """What is offered or asked for at one price."""

    price: float
    quantity: int
    orders: int = 0


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """The best five prices of each side, best first."""

    buy: tuple[DepthLevel, ...] = ()
    sell: tuple[DepthLevel, ...] = ()


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """The market of one instrument."""

    instrument_token: int
    last_price: float
    timestamp: str | None = None
    last_trade_time: str | None = None
    last_quantity: int = 0
    average_price: float = 0.0
    volume: int = 0
    buy_quantity: int = 0
    sell_quantity: int = 0
    net_change: float = 0.0
    lower_circuit_limit: float = 0.0
    upper_circuit_limit: float = 0.0
    oi: float = 0.0
    oi_day_high: float = 0.0
    oi_day_low: float = 0.0
    ohlc: Ohlc | None = None
    depth: Depth | None = None
