"""One strict decode of what a client sent: body, query and key. A wrong one is told all at once."""

import hashlib
from http import HTTPStatus
from typing import Annotated, TypeVar, cast

import msgspec
from msgspec import Meta
from quart import Websocket, g, request

from ticker_actors.model.orders import PRINTABLE, FieldProblem
from ticker_actors.model.validation import complaint, hints, order_conflicts, problems
from ticker_actors.web.plain import AnyRequest
from ticker_actors.web.problems import Problem, bad_fields

T = TypeVar("T")

AccountId = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE)]
MAX_WAIT_SECONDS = 30.0
MAX_KEY_LENGTH = 64


async def raw_body() -> bytes:
    """The request's body, once it is here."""
    raw = await request.get_data(as_text=False)
    g.body_read = True
    return cast("bytes", raw)  # not as text, says the line before; its types do not


async def body(kind: type[T]) -> tuple[T, object]:
    """The request's JSON body, decoded and as sent. Raises `Problem` naming every bad field."""
    return read(await raw_body(), kind)


def read(raw: bytes, kind: type[T]) -> tuple[T, object]:
    """A JSON text, decoded and as it is. Raises `Problem` naming every bad field."""
    try:
        sent = msgspec.json.decode(raw)
    except RecursionError:
        raise Problem(HTTPStatus.BAD_REQUEST, "The body is nested too deeply.") from None
    except ValueError as error:  # msgspec's own errors are ValueErrors; bad UTF-8 is another
        raise Problem(HTTPStatus.BAD_REQUEST, f"The body is not valid JSON: {error}.") from None
    return decode(sent, kind), sent


def decode(sent: object, kind: type[T]) -> T:
    """A value decoded strictly: `"5"` is not 5, and unknown fields are errors."""
    errors: list[FieldProblem]
    try:
        decoded = msgspec.convert(sent, kind)
    except msgspec.ValidationError as error:
        errors = list(problems(sent, kind))
        raise bad_fields(errors or [("", str(error))]) from None
    errors = list(order_conflicts(decoded))
    if errors:
        raise bad_fields(errors)
    return decoded


def request_hash(*parts: object) -> str:
    """SHA-256 of what is asked for, before defaults are filled in; key order does not count."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def idempotency_key(asked: AnyRequest | None = None) -> str | None:
    """The `Idempotency-Key` header, checked."""
    key = (asked or request).headers.get("Idempotency-Key")
    if key is None:
        return None
    if not key or len(key) > MAX_KEY_LENGTH or not key.isprintable() or not key.isascii():
        text = f"must be 1 to {MAX_KEY_LENGTH} printable ASCII characters"
        raise bad_fields([("Idempotency-Key", text)])
    if key.startswith("~"):
        raise bad_fields([("Idempotency-Key", "must not start with ~")])
    return key


def query(kind: type[T], asked: AnyRequest | Websocket | None = None) -> T:
    """The query string as a struct. Text is all that a URL can hold, so here "5" means 5.

    `asked`: what is not Quart's present request.
    """
    errors: list[FieldProblem] = []
    kinds, found = hints(kind), {}
    args = (asked or request).args
    for name in args:
        if name not in kinds:
            errors.append((name, "is not a parameter of this request"))
            continue
        try:
            found[name] = msgspec.convert(args[name], kinds[name], strict=False)
        except msgspec.ValidationError as error:
            errors.append((name, complaint(error, kinds[name])))
    if errors:
        raise bad_fields(errors)
    return kind(**found)


class Nothing(msgspec.Struct, frozen=True):
    """No parameters at all: a misspelt one must not be passed over in silence."""


class Wait(msgspec.Struct, frozen=True):
    """`?wait=SECONDS`: answer when the task has finished, or when time is up."""

    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)] = 0.0


class BatchWait(msgspec.Struct, frozen=True):
    """`?wait=SECONDS` for a batch, which is waited for anyhow: a shorter time."""

    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)] | None = None


class Account(msgspec.Struct, frozen=True):
    """`?account_id=`."""

    account_id: AccountId = "primary"


class AccountAndWait(msgspec.Struct, frozen=True):
    """Both of them."""

    account_id: AccountId = "primary"
    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)] = 0.0
