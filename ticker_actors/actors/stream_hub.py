"""The StreamHub: committed events out to the WebSocket clients of their account.

The hub never waits for a client. Each client has a bounded queue of ready texts; one that does not
keep up is dropped with the sequence it got to, and nobody else notices.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import trio

from ticker_actors.mailbox import Mailbox, Request
from ticker_actors.metrics import Metrics
from ticker_actors.model.events import Event, stream_message

MAILBOX_SIZE = 100
"""Groups of events; persistence waits for room, which the hub always makes at once."""
CLIENT_QUEUE = 1000
"""Texts of about 500 bytes that may wait for one client before it counts as slow."""


@dataclass(eq=False, slots=True)
class Subscription:
    """One client's place at the hub. Iterate `texts`; they end when it was dropped for slowness."""

    account_id: str
    texts: trio.MemoryReceiveChannel[bytes]
    _send: trio.MemorySendChannel[bytes]
    sequence: int
    """The head of the account's log when it joined: what comes is after it."""
    dropped: bool = False
    """Whether it did not keep up: its texts had no more room, or its socket took none."""

    def offer(self, text: bytes) -> bool:
        """Queue a text; False when there is no room, and the client must go."""
        try:
            self._send.send_nowait(text)
        except trio.WouldBlock:
            self.dropped = True
            self._send.close()
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False  # it has ended before, and is about to leave
        return True

    def end(self) -> None:
        """No more texts will come."""
        self._send.close()


@dataclass(frozen=True, slots=True)
class StartFrom:
    """An account's log stands here."""

    account_id: str
    head: int


@dataclass(frozen=True, slots=True)
class Publish:
    """These events are durable: tell whoever listens."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Join(Request[Subscription | None]):
    """A client wants an account's events from here on. None when the account has no more room."""

    account_id: str


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
class Leave:
    """A client is gone."""

    subscription: Subscription


@dataclass(frozen=True, slots=True)
class Statistics:
    """What `GET /advanced/ws/stats` shows."""

    total_connections: int
    accounts: Mapping[str, int]
    messages: int
    dropped: int


@dataclass(frozen=True, slots=True)
class GetStatistics(Request[Statistics]):
    """How many listen."""


@dataclass(slots=True)
class _Account:
    head: int
    clients: set[Subscription] = field(default_factory=set)
    moved: trio.Event = field(default_factory=trio.Event)


HubMessage = StartFrom | Publish | Join | Watch | Leave | GetStatistics


class StreamHub:
    """Hands each committed event to every client of its account, in sequence."""

    def __init__(self, stream: str, metrics: Metrics, most_clients: int) -> None:
        """`most_clients`: connections an account may have; 0 for no limit."""
        self.stream = stream
        self._metrics = metrics
        self._most_clients = most_clients
        self._mailbox = Mailbox[HubMessage](MAILBOX_SIZE)
        self._accounts: dict[str, _Account] = {}
        self._messages = 0
        self._dropped = 0

    @property
    def mailboxes(self) -> tuple[Mailbox[HubMessage], ...]:
        """Its one mailbox."""
        return (self._mailbox,)

    async def start_from(self, account_id: str, head: int) -> None:
        """Tell where an account's log stands, before anything of it is published."""
        await self._mailbox.tell(StartFrom(account_id, head))

    async def publish(self, events: tuple[Event, ...]) -> None:
        """Tell of committed events, in sequence."""
        await self._mailbox.tell(Publish(events))

    async def join(self, account_id: str) -> Subscription | None:
        """A place for one more client, or None when the account has no more."""
        return await self._mailbox.ask(Join(account_id))

    async def watch(self, account_id: str) -> Watched:
        """Where an account's log stands: everything up to there is durable."""
        return await self._mailbox.ask(Watch(account_id))

    async def leave(self, subscription: Subscription) -> None:
        """Give the place back."""
        await self._mailbox.tell(Leave(subscription))

    async def statistics(self) -> Statistics:
        """How many listen."""
        return await self._mailbox.ask(GetStatistics())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the mailbox is closed and empty."""
        task_status.started()
        async for message, reply in self._mailbox:
            with reply:
                match message:
                    case StartFrom(account_id=account_id, head=head):
                        self._account(account_id).head = head
                    case Publish(events=events):
                        for event in events:
                            self._tell(event)
                        self._wake({event.account_id for event in events})
                    case Join(account_id=account_id):
                        reply(self._join(account_id))
                    case Watch(account_id=account_id):
                        account = self._account(account_id)
                        reply(Watched(account.head, account.moved))
                    case Leave(subscription=subscription):
                        self._leave(subscription)
                    case GetStatistics():
                        reply(self._statistics())

    def _account(self, account_id: str) -> _Account:
        return self._accounts.setdefault(account_id, _Account(head=0))

    def _tell(self, event: Event) -> None:
        account = self._account(event.account_id)
        account.head = event.sequence
        if not account.clients:
            return
        text = stream_message(event, self.stream)  # encoded once, however many listen
        for client in tuple(account.clients):
            if client.offer(text):
                self._messages += 1
            else:
                self._leave(client)
        self._metrics.stream_messages.inc(len(account.clients))

    def _wake(self, account_ids: Iterable[str]) -> None:
        for account_id in account_ids:
            account = self._account(account_id)
            account.moved.set()
            account.moved = trio.Event()

    def _join(self, account_id: str) -> Subscription | None:
        account = self._account(account_id)
        if self._most_clients and len(account.clients) >= self._most_clients:
            return None
        send, receive = trio.open_memory_channel[bytes](CLIENT_QUEUE)
        subscription = Subscription(account_id, receive, send, account.head)
        account.clients.add(subscription)
        self._metrics.stream_connections.labels(account_id).set(len(account.clients))
        return subscription

    def _leave(self, subscription: Subscription) -> None:
        account = self._account(subscription.account_id)
        if subscription in account.clients:
            account.clients.remove(subscription)
            subscription.end()
            if subscription.dropped:
                self._dropped += 1
                self._metrics.stream_dropped.inc()
            self._metrics.stream_connections.labels(subscription.account_id).set(
                len(account.clients)
            )

    def _statistics(self) -> Statistics:
        accounts = {name: len(account.clients) for name, account in self._accounts.items()}
        return Statistics(sum(accounts.values()), accounts, self._messages, self._dropped)
