"""`/gtt/triggers`. Source: https://kite.trade/docs/connect/v3/gtt/."""

from collections.abc import Callable
from datetime import datetime

from quart import Blueprint, Response

from ticker_actors.exchange.wire_out import Json
from ticker_actors.model.outcomes import Refused
from ticker_actors.sandbox.answers import refused
from ticker_actors.sandbox.desk import USER_ID, Desk
from ticker_actors.sandbox.forms import form
from ticker_actors.sandbox.gtt import NOT_FOUND, Trigger
from ticker_actors.sandbox.limits import RateLimits
from ticker_actors.sandbox.mischief import Mischief


def blueprint(desk: Desk, limits: RateLimits, mischief: Mischief) -> Blueprint:
    """The routes of triggers."""
    routes = Blueprint("gtt", __name__)

    async def changed(verb: Callable[[datetime], Trigger | Refused]) -> Response:
        limits.other()

        async def call() -> Json:
            outcome = await desk.do(verb)
            if isinstance(outcome, Refused):
                raise refused(outcome)
            return {"trigger_id": outcome.trigger_id}

        return await mischief.read(call)

    def shown(trigger: Trigger) -> Json:
        condition = trigger.condition
        return trigger.row(USER_ID, desk.token(condition.exchange, condition.tradingsymbol))

    @routes.post("/gtt/triggers")
    async def place() -> Response:
        fields = await form()
        return await changed(lambda now: desk.triggers.place(fields, now))

    @routes.put("/gtt/triggers/<int:trigger_id>")
    async def modify(trigger_id: int) -> Response:
        fields = await form()
        return await changed(lambda now: desk.triggers.modify(trigger_id, fields, now))

    @routes.delete("/gtt/triggers/<int:trigger_id>")
    async def delete(trigger_id: int) -> Response:
        return await changed(lambda now: desk.triggers.delete(trigger_id, now))

    @routes.get("/gtt/triggers")
    async def every() -> Response:
        limits.other()

        async def call() -> list[Json]:
            await desk.settle()
            return [shown(trigger) for trigger in desk.triggers.every()]

        return await mischief.read(call)

    @routes.get("/gtt/triggers/<int:trigger_id>")
    async def one(trigger_id: int) -> Response:
        limits.other()

        async def call() -> Json:
            await desk.settle()
            found = desk.triggers.find(trigger_id)
            if found is None:
                raise refused(NOT_FOUND)
            return shown(found)

        return await mischief.read(call)

    return routes
