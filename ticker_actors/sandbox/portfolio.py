"""What the account has: Kite's rows of positions and margins, made of the book and its fills. Pure.

Sources: https://kite.trade/docs/connect/v3/portfolio/ and /user/. There are no holdings: nothing is
ever delivered here, so what was bought stays a position.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

from ticker_actors.exchange.account import Position
from ticker_actors.exchange.order import to_rupees
from ticker_actors.exchange.wire_out import Json
from ticker_actors.model.portfolio import Trade

LastPrice = Callable[[str, str], tuple[int, float, float]]
"""Of an exchange and tradingsymbol: its token, last price and last close."""


class _Side:
    """What was bought (or sold) today."""

    def __init__(self) -> None:
        self.quantity = 0
        self.value = 0.0

    @property
    def price(self) -> float:
        return round(self.value / self.quantity, 4) if self.quantity else 0.0


def positions(held: Iterable[Position], trades: Iterable[Trade], last: LastPrice) -> Json:
    """Both lists: what is held, and what came of today's trading alone."""
    sides: defaultdict[tuple[str, str, str, str], _Side] = defaultdict(_Side)
    for trade in trades:
        side = sides[trade.exchange, trade.tradingsymbol, trade.product, trade.transaction_type]
        side.quantity += trade.quantity
        side.value += trade.quantity * trade.average_price
    net, day = [], []
    for position in held:
        bought, sold = (sides[*position.key, kind] for kind in ("BUY", "SELL"))
        row = _row(position, bought, sold, last)
        net.append(row)
        if bought.quantity or sold.quantity:
            traded = bought.quantity - sold.quantity
            day.append({**row, "quantity": traded, "overnight_quantity": 0})
    return {"net": net, "day": day}


def _row(position: Position, bought: _Side, sold: _Side, last: LastPrice) -> Json:
    token, price, close = last(position.exchange, position.tradingsymbol)
    average = to_rupees(position.cost) / abs(position.net) if position.net else 0.0
    unrealised = round(position.net * (price - average), 2)
    realised = to_rupees(position.realised)
    sides = {
        f"{prefix}{name}_{what}": number
        for prefix in ("", "day_")
        for name, side in (("buy", bought), ("sell", sold))
        for what, number in (
            ("quantity", side.quantity),
            ("price", side.price),
            ("value", round(side.value, 2)),
        )
    }
    return {
        "tradingsymbol": position.tradingsymbol,
        "exchange": position.exchange,
        "instrument_token": token,
        "product": position.product,
        "quantity": position.net,
        "overnight_quantity": position.net - bought.quantity + sold.quantity,
        "multiplier": 1,
        "average_price": round(average, 4),
        "close_price": close,
        "last_price": price,
        "value": round(-position.net * average, 2),
        "pnl": round(realised + unrealised, 2),
        "m2m": round(realised + unrealised, 2),
        "unrealised": unrealised,
        "realised": realised,
        **sides,
        "buy_m2m": round(bought.value, 2),
        "sell_m2m": round(sold.value, 2),
    }


def margins(funds: float, available: float) -> dict[str, Json]:
    """Both segments. All the money is in one: the book knows but one purse."""
    return {"equity": _segment(funds, available, enabled=True), "commodity": _segment(0, 0)}


def _segment(funds: float, available: float, *, enabled: bool = False) -> Json:
    return {
        "enabled": enabled,
        "net": available,
        "available": {
            "adhoc_margin": 0,
            "cash": funds,
            "opening_balance": funds,
            "live_balance": available,
            "collateral": 0,
            "intraday_payin": 0,
        },
        "utilised": {
            "debits": round(funds - available, 2),
            "exposure": 0,
            "m2m_realised": 0,
            "m2m_unrealised": 0,
            "option_premium": 0,
            "payout": 0,
            "span": 0,
            "holding_sales": 0,
            "turnover": 0,
            "liquid_collateral": 0,
            "stock_collateral": 0,
            "delivery": 0,
        },
    }
