"""The broker tag: Kite's only handle on an order of ours, at most 20 alphanumeric characters.

    1 ABC 0123456789AB 00 07
    │  │       │        │  └ send number, counted in base 36
    │  │       │        └ spare
    │  │       └ intent: one task, constant over its sends
    │  └ installation: one database
    └ version

It is found in the day's order book and in updates. Orders are matched by it alone, never by symbol,
side or quantity. It is compared without case.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from ticker_actors.model.ids import base36

MAX_SENDS = 36**2 - 1
"""What two digits can count; far above what back-off lets happen in a day."""

_FORM = re.compile(r"1([0-9A-Z]{3})([0-9A-Z]{12})00([0-9A-Z]{2})")


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag of ours, taken apart."""

    installation: str
    intent: str
    send: int

    def __str__(self) -> str:
        return f"1{self.installation}{self.intent}00{base36(self.send, 2)}"


@lru_cache(maxsize=64)  # an order is reported several times in a row
def parse(text: str) -> Tag | None:
    """The parts of a tag, or None when no installation of this service can have made it."""
    match = _FORM.fullmatch(text.upper()) if text.isascii() else None
    if match is None:
        return None
    installation, intent, send = match.groups()
    return Tag(installation, intent, int(send, 36))


def ours(tags: tuple[str, ...], installation: str) -> Tag | None:
    """The first tag among a row's that this installation made."""
    for text in tags:
        tag = parse(text)
        if tag is not None and tag.installation == installation:
            return tag
    return None
