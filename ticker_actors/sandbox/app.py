"""The sandbox's HTTP application: its door, its errors, and one blueprint a subject."""

from http import HTTPStatus

import structlog
from quart import Blueprint, Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from ticker_actors.sandbox import gtt_routes, orders, reads, session, ticker
from ticker_actors.sandbox.answers import KiteError, bad_token, success
from ticker_actors.sandbox.desk import Desk
from ticker_actors.sandbox.faults import Faults, FaultsError
from ticker_actors.sandbox.forms import body
from ticker_actors.sandbox.limits import RateLimits
from ticker_actors.sandbox.mischief import Mischief
from ticker_actors.sandbox.options import ACCESS_TOKEN, API_KEY, SandboxOptions
from ticker_actors.web.arrival import hang_up_unless_arrived

MAX_BODY_BYTES = 16 * 1024
"""An order's form has less than 1 KiB."""
OPEN = frozenset({"session", "instruments", "faults"})
"""Blueprints that ask for no token. Kite's list of instruments is open too."""
VERSION = "3"

_WORDS = {
    HTTPStatus.NOT_FOUND: "Route not found",
    HTTPStatus.METHOD_NOT_ALLOWED: "Method not allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The request is too large.",
}
_log = structlog.get_logger(__name__)


def create_app(desk: Desk, options: SandboxOptions, mischief: Mischief) -> QuartTrio:
    """The application."""
    app = QuartTrio(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # else `//orders` would be a redirect
    limits = RateLimits(enforced=options.limits)
    prefix = options.prefix or None
    for routes in (
        session.blueprint(desk, options.redirect_url),
        orders.blueprint(desk, limits, mischief),
        reads.blueprint(desk, limits, mischief),
        gtt_routes.blueprint(desk, limits, mischief),
        ticker.blueprint(desk, options.faults),
    ):
        app.register_blueprint(routes, url_prefix=prefix)
    # Without the prefix: so it is at Zerodha's sandbox, and tests of ours need no token.
    app.register_blueprint(reads.instruments(desk, limits))
    app.register_blueprint(faults_blueprint(options.faults))

    @app.before_request
    async def enter() -> None:
        if request.headers.get("X-Kite-Version", VERSION) != VERSION:
            raise KiteError("InputException", f"Only version {VERSION} of the API is here.")
        if request.url_rule is not None and request.blueprint not in OPEN:
            expected = f"token {API_KEY}:{ACCESS_TOKEN}"
            if request.headers.get("Authorization") != expected:
                raise bad_token()

    @app.after_request
    async def leave(response: Response) -> Response:
        await hang_up_unless_arrived(response)
        return response

    answer_errors(app)
    return app


def faults_blueprint(faults: Faults) -> Blueprint:
    """`/sandbox/faults`, for tests: which there are and how often each happened; or set them anew.

    Kite has no such thing, so it answers outside of the prefix and needs no token.
    """
    routes = Blueprint("faults", __name__)

    @routes.get("/sandbox/faults")
    async def show() -> Response:
        return success(faults.report())

    @routes.put("/sandbox/faults")
    async def change() -> Response:
        try:
            faults.reset((await body()).decode("ascii", "replace").strip())
        except FaultsError as error:
            raise KiteError("InputException", str(error)) from None
        return success(faults.report())

    return routes


def answer_errors(app: QuartTrio) -> None:
    """Every error is Kite's envelope."""

    @app.errorhandler(KiteError)
    async def kite(error: KiteError) -> Response:
        return error.response()

    @app.errorhandler(HTTPException)
    async def http(error: HTTPException) -> Response:
        status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
        message = _WORDS.get(status, status.phrase)
        return KiteError("GeneralException", message, status).response()

    @app.errorhandler(Exception)
    async def bug(error: Exception) -> Response:
        _log.error("call failed", exc_info=error)  # of a request or of a ticker
        return KiteError("GeneralException", "This is a bug of the sandbox.").response()
