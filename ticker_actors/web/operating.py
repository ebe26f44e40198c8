"""`/`, `/health` and `/metrics`: for those who run the service."""

from http import HTTPStatus
from typing import Any

import trio
from quart import Blueprint, Response, request

from ticker_actors.actors.lane import LaneState
from ticker_actors.web.doors import Doors
from ticker_actors.web.parts import Parts
from ticker_actors.web.tasks import as_json

CHECK_SECONDS = 2.0
"""A store or an actor that does not answer within this is stuck."""
LAG_SECONDS = 1.0
"""An event loop this far behind serves nobody."""
AWAY_SECONDS = 60.0
"""A store that takes nothing for less than this may come back by itself."""


def blueprint(parts: Parts, doors: Doors) -> Blueprint:
    """The routes of operating."""
    routes = Blueprint("operating", __name__)

    @routes.get("/")
    async def index() -> Response:
        return as_json(
            {
                "service": "ticker-actors",
                "orders": "/orders",
                "batches": "/advanced/batch-orders",
                "tasks": "/tasks",
                "webhooks": "/advanced/webhooks",
                "accounts": "/accounts",
                "stream": "/advanced/ws/orders/{account_id}",
                "health": "/health",
                "metrics": "/metrics",
            }
        )

    @routes.get("/health")
    async def health() -> Response:
        checks = {
            "store": await store(),
            **await accounts(),
            "event_loop": loop(),
            "mailboxes": {"status": "ok", "waiting": dict(parts.mailboxes())},
        }
        statuses = {check["status"] for check in checks.values()}
        worst = next((word for word in ("unhealthy", "degraded") if word in statuses), "ok")
        code = HTTPStatus.SERVICE_UNAVAILABLE if worst == "unhealthy" else HTTPStatus.OK
        details = {"checks": checks} if doors.holds_key(request) else {"checks": {}}
        return as_json({"status": worst, **details}, code)

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(
            parts.metrics.render(), content_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def store() -> dict[str, Any]:
        waited = max(parts.commit_age(), parts.tables.away_seconds)
        if parts.tables.away_seconds or waited > CHECK_SECONDS:
            status = "degraded" if waited < AWAY_SECONDS else "unhealthy"
            message = (
                f"a transaction has been waiting for {waited:.0f} s: "
                "is the database away, or its file locked?"
            )
            return {"status": status, "message": message}
        with trio.move_on_after(CHECK_SECONDS):
            began = trio.current_time()
            await parts.tables.task("")
            return {"status": "ok", "seconds": round(trio.current_time() - began, 4)}
        return {"status": "unhealthy", "message": f"no answer within {CHECK_SECONDS:.0f} s"}

    async def accounts() -> dict[str, dict[str, Any]]:
        with trio.move_on_after(CHECK_SECONDS):
            lanes = await parts.executor.lanes()
            return {f"account {lane.account_id}": account(lane) for lane in lanes}
        message = f"the executor did not answer within {CHECK_SECONDS:.0f} s"
        return {"executor": {"status": "unhealthy", "message": message}}

    def account(lane: LaneState) -> dict[str, Any]:
        worries = list(lane.worries)
        if lane.missing:
            shown = ", ".join(lane.missing[:5])
            worries.append(
                f"the broker's order book does not show {len(lane.missing)} known orders "
                f"({shown}); nothing is concluded from it, and nothing is sent before it does"
            )
        elif not lane.gate_open:
            worries.append("the order book has not been read yet: no order is sent before it is")
        if lane.last_read_error is not None:
            worries.append(f"the order book cannot be read: {lane.last_read_error}")
        if not lane.feed_up:
            worries.append("the order feed is down: the book is read every 2 s instead")
        return {
            "status": "degraded" if worries else "ok",
            "broker": lane.broker,
            "unsent": lane.unsent,
            "unfinished": lane.unfinished,
            **({"book_unread_seconds": round(lane.unread_seconds)} if worries else {}),
            **({"message": "; ".join(worries)} if worries else {}),
        }

    def loop() -> dict[str, Any]:
        lag = parts.loop_lag()
        status = "ok" if lag < LAG_SECONDS else "unhealthy"
        return {"status": status, "lag_seconds": round(lag, 4)}

    return routes
