"""How identifiers look. Chance is passed in: any source of `n` random bits."""

from collections.abc import Callable
from datetime import datetime
from functools import cache

Chance = Callable[[int], int]
"""So many random bits, as `secrets.randbits` gives them."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _digits(number: int, alphabet: str, length: int) -> str:
    """The last digits of a number; two at a time are half the work."""
    pairs, found = _pairs(alphabet), []
    for _ in range((length + 1) // 2):
        number, pair = divmod(number, len(pairs))
        found.append(pairs[pair])
    return "".join(reversed(found))[-length:]


@cache
def _pairs(alphabet: str) -> list[str]:
    return [first + second for first in alphabet for second in alphabet]


def ulid(now: datetime, chance: Chance) -> str:
    """26 characters that sort by time: 48 bits of ms, 80 of chance (github.com/ulid/spec)."""
    return _digits((int(now.timestamp() * 1000) << 80) | chance(80), _CROCKFORD, 26)


def task_id(now: datetime, chance: Chance) -> str:
    """A task's id; newer ones sort later."""
    return f"task_{ulid(now, chance)}"


def first_task_id(at: datetime) -> str:
    """The least id that a task made at an instant or later can have."""
    return task_id(at, lambda _bits: 0)


def event_id(now: datetime, chance: Chance) -> str:
    """An event's id, the same on every channel that tells of it."""
    return f"evt_{ulid(now, chance)}"


def uuid(chance: Chance) -> str:
    """A random UUID (RFC 9562, version 4): how the mission document shows batches and webhooks."""
    bits = chance(128) & ~(0xF << 76) & ~(0x3 << 62) | (0x4 << 76) | (0x2 << 62)
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def intent(chance: Chance) -> str:
    """12 of `[0-9A-Z]`: what one task means to do, the part of a tag that never changes."""
    return base36(chance(62), 12)


def base36(number: int, length: int) -> str:
    """The last `length` digits of a number in base 36."""
    return _digits(number, _BASE36, length)


def ticket(chance: Chance) -> str:
    """What opens one stream once: 160 bits that nobody guesses."""
    return f"tkt_{_digits(chance(160), _CROCKFORD, 32)}"


def connection(chance: Chance) -> str:
    """The name of one connection, for logs on both sides."""
    return f"con_{_digits(chance(80), _CROCKFORD, 16)}"


def stream(chance: Chance) -> str:
    """The name of one event log, made with its database: sequences of another mean nothing here."""
    return f"str_{_digits(chance(80), _CROCKFORD, 16)}"
