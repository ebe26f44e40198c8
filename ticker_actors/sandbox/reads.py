"""The account and the market: `/user`, `/portfolio`, `/quote` and `/instruments`.

Sources: https://kite.trade/docs/connect/v3/user/, /portfolio/ and /market-quotes/.
"""

import csv
from collections.abc import Callable, Iterator
from io import StringIO

from quart import Blueprint, Response, request

from ticker_actors.exchange import wire, wire_out
from ticker_actors.exchange.packets import FullTick, IndexTick
from ticker_actors.exchange.wire_out import Json
from ticker_actors.sandbox import portfolio
from ticker_actors.sandbox.answers import KiteError, table
from ticker_actors.sandbox.desk import Desk
from ticker_actors.sandbox.limits import RateLimits
from ticker_actors.sandbox.market import CSV_FIELDS, Instrument, csv_row
from ticker_actors.sandbox.mischief import Mischief
from ticker_actors.sandbox.session import PROFILE

MOST_LTP = 1_000
"""Instruments in one call of `/quote/ltp` or `/quote/ohlc`."""


def blueprint(desk: Desk, limits: RateLimits, mischief: Mischief) -> Blueprint:
    """The routes that only read, but for orders."""
    routes = Blueprint("reads", __name__)

    async def answered(make: Callable[[], object]) -> Response:
        limits.other()

        async def call() -> object:
            await desk.settle()
            return make()

        return await mischief.read(call)

    @routes.get("/user/profile")
    async def profile() -> Response:
        return await answered(lambda: PROFILE)

    @routes.get("/user/margins")
    async def margins() -> Response:
        return await answered(money)

    @routes.get("/user/margins/<segment>")
    async def margins_of(segment: str) -> Response:
        if segment not in money():
            raise KiteError("InputException", "Invalid segment.")
        return await answered(lambda: money()[segment])

    def money() -> dict[str, Json]:
        return portfolio.margins(float(desk.funds), desk.book.available)

    @routes.get("/portfolio/positions")
    async def positions() -> Response:
        return await answered(
            lambda: portfolio.positions(desk.book.positions, desk.trades(), last_price)
        )

    def last_price(exchange: str, tradingsymbol: str) -> tuple[int, float, float]:
        instrument = desk.market.find(exchange, tradingsymbol)
        if instrument is None:
            return 0, 0.0, 0.0
        tick = desk.market.tick(instrument, desk.now())
        return instrument.instrument_token, tick.last_price, tick.close

    @routes.get("/portfolio/holdings")
    async def holdings() -> Response:
        return await answered(list)

    @routes.get("/quote")
    async def quote() -> Response:
        return await quoted(wire_out.quote, wire.MAX_QUOTES)

    @routes.get("/quote/ohlc")
    async def ohlc() -> Response:
        return await quoted(wire_out.ohlc, MOST_LTP)

    @routes.get("/quote/ltp")
    async def ltp() -> Response:
        return await quoted(wire_out.ltp, MOST_LTP)

    async def quoted(show: Callable[[FullTick | IndexTick], Json], most: int) -> Response:
        limits.quote()
        names = request.args.getlist("i")
        if not names:
            raise KiteError("InputException", "Missing or empty field `i`")
        if len(names) > most:
            text = f"Too many instruments requested. Max permitted is {most}."
            raise KiteError("InputException", text)

        async def call() -> Json:
            now = desk.now()
            return {
                name: show(desk.market.tick(instrument, now)) for name, instrument in found(names)
            }

        return await mischief.read(call)

    def found(names: list[str]) -> Iterator[tuple[str, Instrument]]:
        """Those that are instruments, by name or token. The others are left out, as Kite does."""
        for name in names:
            exchange, _, tradingsymbol = name.partition(":")
            instrument = desk.market.find(exchange, tradingsymbol)
            if instrument is None and name.isdecimal() and len(name) <= 10:  # noqa: PLR2004  # 2**32
                instrument = desk.market.by_token(int(name))
            if instrument is not None:
                yield name, instrument

    return routes


def instruments(desk: Desk, limits: RateLimits) -> Blueprint:
    """The list of instruments. A blueprint of its own: it may live outside of the prefix."""
    routes = Blueprint("instruments", __name__)

    @routes.get("/instruments")
    async def every() -> Response:
        return listed(desk.market.instruments())

    @routes.get("/instruments/<exchange>")
    async def of_exchange(exchange: str) -> Response:
        return listed(tuple(one for one in desk.market.instruments() if one.exchange == exchange))

    def listed(chosen: tuple[Instrument, ...]) -> Response:
        limits.other()
        text = StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(CSV_FIELDS)
        rows.writerows(csv_row(instrument) for instrument in chosen)
        return table(text.getvalue())

    return routes
