"""What is wrong with a value, in words for people: every bad field at once, each with its path.

msgspec judges; only when it has refused is the value walked again, to name all that is wrong.
"""

import re
from collections.abc import Hashable, Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from ticker_actors.model.orders import FieldProblem, OrderChanges, PlaceOrder, conflicts


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
        found = list(problems(value[field.name], hints(kind)[field.name], prefix + field.name))
        yield from found
        if not found:
            sound[field.name] = value[field.name]
    for name in value:
        if name not in kind.__struct_fields__:
            yield f"{prefix}{name}", "is not a known field"
    if issubclass(kind, PlaceOrder):
        yield from ((prefix + name, text) for name, text in _conflicts(value, kind, sound))


def _conflicts(
    value: dict[str, Any], kind: type[PlaceOrder], sound: dict[str, object]
) -> Iterator[FieldProblem]:
    """What is wrong between the fields that are sound by themselves."""
    defaults = {f.name: f.default for f in msgspec.structs.fields(kind) if not f.required}
    for name, text in conflicts({**defaults, **sound}):
        if name in sound or name not in value:
            yield name, text


def _leaf_problems(
    value: object,
    kind: Any,  # noqa: ANN401  # as above
    path: str,
) -> Iterator[FieldProblem]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        yield path or "body", complaint(error, kind)


def complaint(error: msgspec.ValidationError, kind: Any) -> str:  # noqa: ANN401  # as above
    """What is wrong with one value, as the end of a sentence that starts with its name."""
    words = _choices(kind)
    return f"must be one of {', '.join(words)}" if words else _sentence(str(error))


def order_conflicts(decoded: object, path: str = "") -> Iterator[FieldProblem]:
    """Rules across fields, wherever orders stand in a body."""
    if isinstance(decoded, PlaceOrder | OrderChanges):
        prefix = f"{path}." if path else ""
        yield from ((prefix + name, text) for name, text in conflicts(decoded))
    elif isinstance(decoded, msgspec.Struct):
        for name in decoded.__struct_fields__:
            yield from order_conflicts(getattr(decoded, name), name)
    elif isinstance(decoded, tuple):
        for number, item in enumerate(decoded):
            yield from order_conflicts(item, f"{path}[{number}]")


def hints(kind: type) -> Mapping[str, Any]:
    """The fields of a type with their constraints."""
    return _hints(kind)


@cache
def _hints(kind: Hashable) -> Mapping[str, Any]:
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
