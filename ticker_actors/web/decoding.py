"""One strict decode of what a client sent. A wrong one is told of every bad field at once.

msgspec judges; only when it refuses is the value walked a second time, to name all that is wrong.
"""

import hashlib
import re
from collections.abc import Iterator
from enum import Enum
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta
from quart import request

from ticker_actors.model.orders import PRINTABLE, FieldProblem, OrderChanges, PlaceOrder, conflicts
from ticker_actors.web.problems import Problem, bad_fields

T = TypeVar("T")

AccountId = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE)]
MAX_WAIT_SECONDS = 30.0
MAX_KEY_LENGTH = 64


async def body(kind: type[T]) -> tuple[T, object]:
    """The request's JSON body, decoded and as sent. Raises `Problem` naming every bad field."""
    raw = await request.get_data(as_text=False)
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
    errors = list(_conflicts(decoded, ""))
    if errors:
        raise bad_fields(errors)
    return decoded


def problems(  # a type hint has no type of its own
    value: object,
    kind: Any,  # noqa: ANN401
    path: str = "",
) -> Iterator[FieldProblem]:
    """Everything that is wrong with a value, each with its path (`orders[48].quantity`)."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        yield from _struct_problems(value, plain, path)
    elif get_origin(plain) is tuple and isinstance(value, list):
        yield from _leaf_problems(
            value, Annotated[list[Any], *getattr(kind, "__metadata__", ())], path
        )
        for number, item in enumerate(value):
            yield from problems(item, get_args(plain)[0], f"{path}[{number}]")
    else:
        yield from _leaf_problems(value, kind, path)


def _struct_problems(
    value: object, kind: type[msgspec.Struct], path: str
) -> Iterator[FieldProblem]:
    if not isinstance(value, dict):
        yield from _leaf_problems(value, dict[str, Any], path)
        return
    prefix = f"{path}." if path else ""
    sound: dict[str, object] = {}
    for field in msgspec.structs.fields(kind):
        if field.name not in value:
            if field.required:
                yield f"{prefix}{field.name}", "is required"
            continue
        found = list(problems(value[field.name], _hints(kind)[field.name], prefix + field.name))
        yield from found
        if not found:
            sound[field.name] = value[field.name]
    for name in value:
        if name not in kind.__struct_fields__:
            yield f"{prefix}{name}", "is not a field of this request"
    if issubclass(kind, PlaceOrder):
        defaults = {f.name: f.default for f in msgspec.structs.fields(kind) if not f.required}
        refused = {name for name in value if name not in sound}
        for name, text in conflicts({**defaults, **sound}):
            if name not in refused:
                yield prefix + name, text


def _leaf_problems(
    value: object,
    kind: Any,  # noqa: ANN401  # as above
    path: str,
) -> Iterator[FieldProblem]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        choices = _choices(kind)
        text = f"must be one of {', '.join(choices)}" if choices else _sentence(str(error))
        yield path or "body", text


def _conflicts(decoded: object, path: str) -> Iterator[FieldProblem]:
    """Rules across fields, wherever orders stand in a body."""
    if isinstance(decoded, PlaceOrder | OrderChanges):
        prefix = f"{path}." if path else ""
        yield from ((prefix + name, text) for name, text in conflicts(decoded))
    elif isinstance(decoded, msgspec.Struct):
        for name in decoded.__struct_fields__:
            yield from _conflicts(getattr(decoded, name), name)
    elif isinstance(decoded, tuple):
        for number, item in enumerate(decoded):
            yield from _conflicts(item, f"{path}[{number}]")


def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _choices(kind: Any) -> tuple[str, ...]:  # noqa: ANN401  # as above
    """The allowed words of a Literal, however it is wrapped."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(str(member.value) for member in kind)
    return tuple(
        word for part in get_args(kind) if part is not type(None) for word in _choices(part)
    )


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_BOUNDS = {">=": "of at least", ">": "above", "<=": "of at most", "<": "below"}
_EXPECTED = re.compile(
    r"Expected `(?P<kind>\w+)[^`]*`(?P<length> of length)?(?: (?P<bound>[<>]=?) (?P<number>\S+))?"
)


def _sentence(error: str) -> str:
    """The words of msgspec, as the end of a sentence that starts with the field's name."""
    text = error.split(" - at `$", 1)[0]
    if "matching regex" in text:
        return "must be printable text"
    match = _EXPECTED.match(text)
    if match is None:
        return f"is not valid: {text}"
    kind = _KINDS.get(match["kind"], match["kind"])
    if match["bound"]:
        number = match["number"].removesuffix(".0")
        unit = {"array": " items", "str": " characters"}.get(match["kind"], "")
        return f"must be {kind} {_BOUNDS[match['bound']]} {number}{unit}"
    _, _, got = text.partition("got `")
    return f"must be {kind}, not {_KINDS.get(got.rstrip('`'), got)}" if got else f"must be {kind}"


def request_hash(*parts: object) -> str:
    """SHA-256 of what is asked for, before defaults are filled in; key order does not count."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def idempotency_key() -> str | None:
    """The `Idempotency-Key` header, checked."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not key or len(key) > MAX_KEY_LENGTH or not key.isprintable() or not key.isascii():
        text = f"must be 1 to {MAX_KEY_LENGTH} printable ASCII characters"
        raise bad_fields([("Idempotency-Key", text)])
    if key.startswith("~"):
        raise bad_fields([("Idempotency-Key", "must not start with ~")])
    return key


def query(kind: type[T]) -> T:
    """The query string as a struct. Text is all that a URL can hold, so here "5" means 5."""
    errors: list[FieldProblem] = []
    hints, found = _hints(kind), {}
    for name in request.args:
        if name not in hints:
            errors.append((name, "is not a parameter of this request"))
            continue
        try:
            found[name] = msgspec.convert(request.args[name], hints[name], strict=False)
        except msgspec.ValidationError as error:
            choices = _choices(hints[name])
            text = f"must be one of {', '.join(choices)}" if choices else _sentence(str(error))
            errors.append((name, text))
    if errors:
        raise bad_fields(errors)
    return kind(**found)


class Nothing(msgspec.Struct, frozen=True):
    """No parameters at all: a misspelt one must not be passed over in silence."""


class Wait(msgspec.Struct, frozen=True):
    """`?wait=SECONDS`: answer when the task has finished, or when time is up."""

    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)] = 0.0


class Account(msgspec.Struct, frozen=True):
    """`?account_id=`."""

    account_id: AccountId = "primary"


class AccountAndWait(msgspec.Struct, frozen=True):
    """Both of them."""

    account_id: AccountId = "primary"
    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)] = 0.0
