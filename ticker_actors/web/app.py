"""The HTTP application: doors, errors, and one blueprint a subject."""

from http import HTTPStatus

import structlog
import trio
from quart import Response, g, has_request_context, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from ticker_actors.web import (
    accounts,
    batches,
    clients,
    events,
    operating,
    problems,
    stream,
    tasks,
    tickets,
    webhooks,
)
from ticker_actors.web.arrival import hang_up_unless_arrived
from ticker_actors.web.doors import Doors
from ticker_actors.web.express import Express
from ticker_actors.web.parts import Parts
from ticker_actors.web.problems import Problem, stopping

MAX_BODY_BYTES = 256 * 1024
"""50 legs are about 25 KB; a body far above that is a mistake or an attack."""

_WORDS = {
    HTTPStatus.NOT_FOUND: "There is nothing at {request.path}.",
    HTTPStatus.METHOD_NOT_ALLOWED: "{request.path} does not know {request.method}.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"A body may have {MAX_BODY_BYTES // 1024} KiB at most.",
}

_log = structlog.get_logger(__name__)


def create_app(parts: Parts) -> QuartTrio:
    """The application for a running service."""
    app = QuartTrio(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.strict_slashes = False
    issued = tickets.Tickets()
    doors, trusted = Doors(parts.settings, issued), parts.settings.proxies
    for routes in (
        tasks.blueprint(parts),
        batches.blueprint(parts),
        webhooks.blueprint(parts),
        accounts.blueprint(parts),
        events.blueprint(parts),
        stream.blueprint(parts, issued),
        tickets.blueprint(parts, issued),
        operating.blueprint(parts, doors),
    ):
        app.register_blueprint(routes)

    @app.before_request
    async def enter() -> Response | None:
        g.began = trio.current_time()
        g.client = clients.address(request, trusted)
        doors.admit(parts, request)
        return doors.preflight(request)

    @app.before_websocket
    async def enter_websocket() -> None:
        g.client = clients.address(websocket, trusted)
        doors.check(websocket)
        if parts.stopping.is_set():
            raise stopping()

    @app.after_request
    async def leave(response: Response) -> Response:
        # Not by path or method where no route matched: those are the client's own words.
        rule = request.url_rule
        method, route = ("other", "other") if rule is None else (request.method, rule.rule)
        seconds = trio.current_time() - g.began
        parts.metrics.http(method, route, str(response.status_code)).observe(seconds)
        await hang_up_unless_arrived(response)
        for name, value in doors.origin_headers(request).items():
            response.headers.add(name, value)
        return response

    handlers = {"/orders": tasks.place, "/advanced/batch-orders": batches.place}
    app.extensions["express"] = Express(parts, doors, handlers, MAX_BODY_BYTES)
    answer_errors(app)
    return app


def answer_errors(app: QuartTrio) -> None:
    """Every error is problem+json."""

    @app.errorhandler(HTTPException)
    async def http(error: HTTPException) -> Response:
        status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
        detail = _WORDS.get(status, error.description or status.phrase).format(
            request=request if has_request_context() else websocket
        )
        response = Problem(status, detail).response()
        for name, value in error.get_headers():
            if name.lower() not in {"content-type", "content-length"}:
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    async def other(error: Exception) -> Response:
        if (problem := problems.problem_of(error)) is not None:
            return problem.response()
        path = request.path if has_request_context() else websocket.path
        _log.error("request failed", path=path, client=g.get("client"), exc_info=error)
        return problems.bug().response()
