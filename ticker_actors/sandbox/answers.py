"""The sandbox's answers over HTTP: Kite's envelopes, and the pages of a broken gateway."""

from http import HTTPStatus
from typing import NoReturn

import trio
from quart import Response, request

from ticker_actors.exchange import wire, wire_out
from ticker_actors.model.outcomes import Refused
from ticker_actors.web.connection import connection_of

JSON = "application/json"
TIMED_OUT = "Order request timed out. Please check the order book and confirm before placing again."
BAD_TOKEN = "Incorrect `api_key` or `access_token`."  # noqa: S105  # a sentence of Kite's
_PAGE = "<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"


class KiteError(Exception):
    """Answered with Kite's envelope of an error."""

    def __init__(self, error_type: str, message: str, status: int | None = None) -> None:
        """`status` where it is not the usual one of the type."""
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.status = wire.ERROR_STATUS[error_type] if status is None else status

    def response(self) -> Response:
        """The answer."""
        return _typed(wire_out.failure(self.error_type, self.message), self.status, JSON)


def refused(outcome: Refused) -> KiteError:
    """What the book refuses, as an error."""
    return KiteError(outcome.error_type, outcome.message)


def bad_token() -> KiteError:
    """The one answer to every wrong key and token."""
    return KiteError("TokenException", BAD_TOKEN)


def too_many(message: str = "Too many requests") -> KiteError:
    """Over a limit."""
    return KiteError("NetworkException", message, HTTPStatus.TOO_MANY_REQUESTS)


def success(data: object) -> Response:
    """The answer to what went well."""
    return _typed(wire_out.success(data), HTTPStatus.OK, JSON)


def page(status: HTTPStatus) -> Response:
    """What a proxy in front of a broken service says."""
    return _typed(
        _PAGE.format(title=f"{status.value} {status.phrase}").encode(), status, "text/html"
    )


def table(text: str) -> Response:
    """CSV. Exactly this type, without a charset: the JavaScript client compares it."""
    return _typed(text.encode(), HTTPStatus.OK, "text/csv")


async def hang_up() -> NoReturn:
    """Cut the connection under this request, which ends here."""
    connection_of(request).kill()
    await trio.sleep_forever()
    raise AssertionError("nothing wakes it")


def _typed(body: bytes, status: int, content_type: str) -> Response:
    response = Response(body, status)
    response.headers["Content-Type"] = content_type
    return response
