"""`/orders` and `/trades`. Source: https://kite.trade/docs/connect/v3/orders/."""

from quart import Blueprint, Response

from ticker_actors.exchange import wire_forms
from ticker_actors.exchange.rules import NOT_CANCELLABLE, NOT_FOUND, NOT_MODIFIABLE
from ticker_actors.exchange.wire_out import Json, trade_row
from ticker_actors.model.outcomes import Refused
from ticker_actors.sandbox.answers import refused
from ticker_actors.sandbox.desk import Desk
from ticker_actors.sandbox.forms import form
from ticker_actors.sandbox.limits import RateLimits
from ticker_actors.sandbox.mischief import Mischief
from ticker_actors.sandbox.order_ids import hidden


def blueprint(desk: Desk, limits: RateLimits, mischief: Mischief) -> Blueprint:
    """The routes of orders and trades."""
    routes = Blueprint("orders", __name__)

    @routes.post("/orders/<variety>")
    async def place(variety: str) -> Response:
        limits.order_call(places=True)
        asked = wire_forms.place(variety, await form())
        if isinstance(asked, Refused):
            raise refused(asked)
        order, tag = asked

        async def call() -> Json:
            outcome = await desk.do(lambda now: desk.place(order, tag, now))
            if isinstance(outcome, Refused):
                raise refused(outcome)
            return {"order_id": outcome.order_id}

        return await mischief.order_call(call)

    @routes.put("/orders/<variety>/<order_id>")
    async def modify(variety: str, order_id: str) -> Response:
        limits.order_call(places=False)
        fields = await form()

        async def call() -> Json:
            found = known(variety, order_id, NOT_MODIFIABLE)
            changes = wire_forms.changes(found, fields)
            if isinstance(changes, Refused):
                raise refused(changes)
            outcome = await desk.do(lambda now: desk.book.modify(hidden(order_id), changes, now))
            if isinstance(outcome, Refused):
                raise refused(outcome)
            return {"order_id": order_id}

        return await mischief.order_call(call)

    @routes.delete("/orders/<variety>/<order_id>")
    async def cancel(variety: str, order_id: str) -> Response:
        limits.order_call(places=False)

        async def call() -> Json:
            known(variety, order_id, NOT_CANCELLABLE)
            outcome = await desk.do(lambda now: desk.book.cancel(hidden(order_id), now))
            if isinstance(outcome, Refused):
                raise refused(outcome)
            return {"order_id": order_id}

        return await mischief.order_call(call)

    def known(variety: str, order_id: str, ended: Refused) -> str:
        """The type of an order that may still change."""
        version = desk.record.version(hidden(order_id))
        if version is None or version.variety != variety:
            raise refused(NOT_FOUND)
        if not version.resting:
            raise refused(ended)
        return version.order_type

    @routes.get("/orders")
    async def book() -> Response:
        limits.other()

        async def call() -> list[object]:
            await desk.settle()
            return mischief.book([*desk.rows()])

        return await mischief.read(call)

    @routes.get("/orders/<order_id>")
    async def history(order_id: str) -> Response:
        limits.other()

        async def call() -> list[Json]:
            await desk.settle()
            states = desk.record.history(hidden(order_id))
            if not states:
                raise refused(NOT_FOUND)
            return [desk.row(state) for state in states]

        return await mischief.read(call)

    @routes.get("/trades")
    async def trades() -> Response:
        limits.other()

        async def call() -> list[Json]:
            await desk.settle()
            return [trade_row(trade) for trade in desk.trades()]

        return await mischief.read(call)

    @routes.get("/orders/<order_id>/trades")
    async def trades_of(order_id: str) -> Response:
        limits.other()

        async def call() -> list[Json]:
            await desk.settle()
            if desk.record.version(hidden(order_id)) is None:
                raise refused(NOT_FOUND)
            return [trade_row(trade) for trade in desk.trades(hidden(order_id))]

        return await mischief.read(call)

    return routes
