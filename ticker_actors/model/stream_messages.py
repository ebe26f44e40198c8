"""What the order stream says beside its events, and the codes with which it ends.

A client that knows only the mission document gets `connected` with more keys, and `pong` when it
asks; `snapshot` and `heartbeat` are for those that connect with `?v=2`.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from typing import Literal

import msgspec

from ticker_actors.model.calendar import iso

HEARTBEAT_SECONDS = 15.0
"""How long a loss can stay unseen."""

ResumeStatus = Literal["fresh", "resumed", "gap"]


class CloseCode(IntEnum):
    """4000 to 4499: connect again, and resume. 4500 and more: not before something has changed."""

    OVERLOADED = 1013
    """The log could not be read in time (RFC 6455's registry: try again later)."""
    SLOW = 4001
    """The client did not keep up with its orders. It has lost nothing if it resumes."""
    RESET = 4003
    """What was to be replayed is no longer kept: resuming again will say so."""
    BAD_REQUEST = 4503
    """The client sent something that is no text."""
    TOO_MANY = 4504
    """The client sent too much."""


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the stream goes on where the client's last one ended."""

    status: ResumeStatus
    from_: int | None = msgspec.field(name="from", default=None)
    """The sequence that the client named."""
    replayed: int = 0
    """How many events come from the log, when the welcome is written."""


def welcome(  # noqa: PLR0913  # the keys of one message
    account_id: str,
    at: datetime,
    *,
    sequence: int,
    stream: str,
    protocol: int,
    connection_id: str,
    resume: Resume,
    limits: dict[str, float],
) -> bytes:
    """The first message, which holds the cursor: the next event follows `sequence`.

    When the client resumes, the next event follows the sequence that it named.
    """
    return msgspec.json.encode(
        {
            "type": "connected",
            "account_id": account_id,
            "timestamp": iso(at),
            "sequence": sequence,
            "stream": stream,
            "protocol": protocol,
            "connection_id": connection_id,
            "resume": resume,
            "heartbeat_seconds": None if protocol == 1 else HEARTBEAT_SECONDS,
            "limits": limits,
        }
    )


def heartbeat(account_id: str, at: datetime, *, sequence: int, stream: str) -> bytes:
    """Every event up to `sequence` has been sent: a client that lacks one must resume."""
    return msgspec.json.encode(
        {
            "type": "heartbeat",
            "account_id": account_id,
            "timestamp": iso(at),
            "sequence": sequence,
            "stream": stream,
        }
    )


def snapshot(  # noqa: PLR0913  # the keys of one message
    account_id: str,
    at: datetime,
    *,
    sequence: int,
    stream: str,
    orders: Sequence[msgspec.Raw],
    page: int,
    pages: int,
) -> bytes:
    """A page of the orders that were open when the log stood at `sequence`."""
    return msgspec.json.encode(
        {
            "type": "snapshot",
            "account_id": account_id,
            "timestamp": iso(at),
            "sequence": sequence,
            "stream": stream,
            "orders": orders,
            "page": page,
            "pages": pages,
        }
    )


def pong(at: datetime) -> bytes:
    """The answer to `ping`."""
    return msgspec.json.encode({"type": "pong", "timestamp": iso(at)})
