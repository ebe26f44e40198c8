"""What came of one HTTP request: a whole reply, a request that never left, or one that is lost.

The difference between the last two is what the order protocol stands on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer of whoever is at the other end, which need not be Kite."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name; of headers that repeat, the last."""
    body: bytes = field(repr=False)
    """Out of the representation, like the headers: a login's answer holds a token."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """Not one byte of the request was handed to a connection."""

    message: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Some of the request may have arrived, and no whole answer came back."""

    message: str


HttpResult = Reply | Unsent | Lost
