"""What the stream's handlers and persistence ask of the StreamHub, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import Enum

import msgspec
import trio

from ticker_actors.actors.subscription import Subscription
from ticker_actors.mailbox import Request
from ticker_actors.model.events import Event
from ticker_actors.model.orders import OrderView


class Full(Enum):
    """Why there is no place for one more client."""

    ACCOUNT = "account"
    ADDRESS = "address"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class StartFrom:
    """An account's log stands here, and these are its orders."""

    account_id: str
    head: int
    orders: tuple[OrderView, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """These events are durable: tell whoever listens."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Join(Request[int | Full]):
    """A client wants a place; it is given the head of its account's log."""

    subscription: Subscription


@dataclass(frozen=True, slots=True)
class GoLive(Request[int | None]):
    """A client has all up to its cursor. None when it is live now; else the head it lacks."""

    subscription: Subscription


@dataclass(frozen=True, slots=True)
class Leave:
    """A client is gone."""

    subscription: Subscription


@dataclass(frozen=True, slots=True)
class Watched:
    """Where an account's log stands, and what is set when it has moved on."""

    head: int
    moved: trio.Event


@dataclass(frozen=True, slots=True)
class Watch(Request[Watched]):
    """Where an account's log stands."""

    account_id: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The open orders of an account, as of the head of its log."""

    head: int
    orders: tuple[msgspec.Raw, ...]


@dataclass(frozen=True, slots=True)
class TakeSnapshot(Request[Snapshot]):
    """Which orders are open."""

    account_id: str
    today: date


@dataclass(frozen=True, slots=True)
class Statistics:
    """What `GET /advanced/ws/stats` shows."""

    total_connections: int
    accounts: Mapping[str, int]
    messages: int
    dropped: int
    resumed: int
    gaps: int
    replayed: int


@dataclass(frozen=True, slots=True)
class GetStatistics(Request[Statistics]):
    """How many listen."""


HubMessage = (
    StartFrom | Publish | Join | GoLive | Leave | Watch | TakeSnapshot | GetStatistics
)  # fmt: skip
