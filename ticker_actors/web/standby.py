"""What a standby answers while another copy of the service does the work."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

import structlog
import trio
from quart import Response, request, websocket
from quart_trio import QuartTrio

from ticker_actors.settings import Settings
from ticker_actors.web.app import answer_errors
from ticker_actors.web.doors import Doors
from ticker_actors.web.problems import Problem
from ticker_actors.web.server import serve_app
from ticker_actors.web.tasks import as_json
from ticker_actors.web.tickets import Tickets

RETRY_SECONDS = 5
"""A client may come back then; the first copy has a lease of 15 s."""
MESSAGE = "another copy of the service writes the accounts; this one takes over when it ends"

_log = structlog.get_logger(__name__)


def create_standby(settings: Settings) -> QuartTrio:
    """The application of a standby: it is healthy, and refuses everything else."""
    app = QuartTrio(__name__)
    doors = Doors(settings, Tickets())
    answer_errors(app)

    @app.before_request
    async def enter() -> Response:
        doors.check(request)
        if request.path != "/health":
            raise not_yet()
        check = {"standby": {"status": "degraded", "message": MESSAGE}}
        return as_json({"status": "degraded", "checks": check if doors.holds_key(request) else {}})

    @app.before_websocket
    async def enter_websocket() -> None:
        doors.check(websocket)
        raise not_yet()

    return app


def not_yet() -> Problem:
    """Nothing is taken here yet."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"This is a standby: {MESSAGE}. Nothing was stored.",
        retry_after=RETRY_SECONDS,
    )


class StandIn:
    """Answers clients in place of the service, until it is sent away."""

    def __init__(self, settings: Settings, listeners: Sequence[trio.SocketListener]) -> None:
        self._app = create_standby(settings)
        # The server closes what it listens on; the service still needs its own.
        self._listeners = [trio.SocketListener(listener.socket.dup()) for listener in listeners]
        self._leaving, self._gone = trio.Event(), trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Answer until `leave`."""
        await serve_app(self._app, self._listeners, stopping=self._leaving, task_status=task_status)
        self._gone.set()

    async def leave(self) -> None:
        """Make room for the service."""
        self._leaving.set()
        await self._gone.wait()


@asynccontextmanager
async def standing_by(
    settings: Settings, listeners: Sequence[trio.SocketListener]
) -> AsyncGenerator[StandIn | None, None]:
    """Where a standby is wanted: somebody who answers while another copy works."""
    if not settings.standby:
        yield None
        return
    stand_in = StandIn(settings, listeners)
    async with trio.open_nursery() as nursery:
        await nursery.start(stand_in.run)
        host, port, *_ = listeners[0].socket.getsockname()
        _log.info("standing by", host=host, port=port)
        try:
            yield stand_in
        finally:
            nursery.cancel_scope.cancel()
