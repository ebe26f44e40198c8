"""Errors for people: `application/problem+json` (RFC 9457)."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from quart import Response

from ticker_actors.mailbox import Busy, Stopped
from ticker_actors.model.orders import FieldProblem
from ticker_actors.web.plain import Answer


class Problem(Exception):
    """A request is refused. Handlers raise it; the app answers it. Nothing was stored or sent."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
        **members: object,
    ) -> None:
        """`errors` name every bad field by its path; `retry_after` is in seconds."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        self.members = members

    def response(self) -> Response:
        """The answer, for Quart."""
        return self.answer().response()

    def answer(self) -> Answer:
        """The answer on the wire."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            **self.members,
        }
        if self.errors:
            body["errors"] = [{"field": field, "message": text} for field, text in self.errors]
        return Answer(
            self.status.value, msgspec.json.encode(body), self.headers, "application/problem+json"
        )


def bad_fields(errors: Sequence[FieldProblem]) -> Problem:
    """The answer to a body, query or header whose content is wrong."""
    named = "; ".join(f"{field} {text}" for field, text in errors[:3])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""  # noqa: PLR2004  # as above
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{named}{more}.", errors=errors)


def overloaded() -> Problem:
    """Too much waits already."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Too many requests are waiting; nothing was stored. Try again shortly.",
        retry_after=1,
    )


def unchecked() -> Problem:
    """Our own checks need to know a price or a position, and the broker does not tell it."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The broker did not say in time what the risk checks need; nothing was stored or sent.",
        retry_after=2,
    )


def database_away() -> Problem:
    """Nothing can be made durable now, so nothing is taken."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The database does not answer; nothing was stored. Try again shortly.",
        retry_after=2,
    )


def stopping() -> Problem:
    """The service is going down."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The service is stopping. Ask again when it is back, under the same Idempotency-Key.",
        retry_after=5,
    )


def unanswered(name: str) -> Problem:
    """The commit's outcome is not known: asking is safe, sending again without a key is not."""
    task = name.startswith("task_")
    path = f"/tasks/{name}" if task else f"/advanced/batch-orders/{name}"
    problem = Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"It is not known yet whether this was stored. Ask GET {path}; "
        "do not send it again but under the same Idempotency-Key.",
        retry_after=5,
    )
    problem.members["task_id" if task else "batch_id"] = name
    return problem


def not_found(what: str) -> Problem:
    """There is no such thing."""
    return Problem(HTTPStatus.NOT_FOUND, f"There is no {what}.")


def problem_of(error: Exception) -> Problem | None:
    """What a client is told of an error that is none of ours; None of one that is a bug."""
    match error:
        case Problem():
            return error
        case Busy():
            return overloaded()
        case Stopped():
            return stopping()
        case _:
            return None


def bug() -> Problem:
    """The log has the traceback."""
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "This is a bug of the service; its log tells more."
    )
