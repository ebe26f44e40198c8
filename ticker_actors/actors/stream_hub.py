"""The StreamHub: committed events out to the WebSocket clients of their account.

The hub never waits for a client. An event becomes one frame, whoever listens, and goes straight to
each socket; what a socket does not take waits at its own `Subscription`. A client first takes a
place (`join`), is sent by its handler what it has missed, and becomes live (`go_live`) once it has
all that was published: so nothing falls between, and nothing comes twice.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import trio

from ticker_actors.actors.open_orders import OpenOrders
from ticker_actors.actors.stream_requests import (
    Full,
    GetStatistics,
    GoLive,
    HubMessage,
    Join,
    Leave,
    Publish,
    Snapshot,
    StartFrom,
    Statistics,
    TakeSnapshot,
    Watch,
    Watched,
)
from ticker_actors.actors.subscription import News, Subscription, Told
from ticker_actors.mailbox import Busy, Mailbox, Reply
from ticker_actors.metrics import Metrics
from ticker_actors.model.events import ORDER_EVENTS, Event, stream_message
from ticker_actors.model.frames import text_frame
from ticker_actors.model.limits import StreamLimits
from ticker_actors.model.orders import OrderView
from ticker_actors.model.stream_messages import CloseCode

MAILBOX_SIZE = 100
"""Groups of events; persistence waits for room, which the hub soon makes."""
MOST_TOGETHER = 100
"""Events that have come together are told together: a socket takes ten frames for little more than
the price of one. A commit has at most about as many."""
PIECE_BYTES = 32 * 1024
"""Of frames that are sent in one piece: half of what a socket's buffer holds."""
PUSHES_A_TURN = 128
"""Some 1.5 ms; then other tasks have their turn, which costs as much as five pushes."""
ANSWER_TURNS = 2
"""Of the scheduler, from a commit to the answer of who waits for it, by way of the lane. Mostly it
goes first: who asked acts on it, and who listens has it a moment later."""


@dataclass(slots=True)
class _Account:
    head: int = 0
    orders: OpenOrders = field(default_factory=OpenOrders)
    places: set[Subscription] = field(default_factory=set)
    live: set[Subscription] = field(default_factory=set)
    moved: trio.Event = field(default_factory=trio.Event)


class StreamHub:
    """Hands each committed event to every client of its account, in sequence."""

    def __init__(
        self,
        stream: str,
        metrics: Metrics,
        limits: StreamLimits = StreamLimits(),  # noqa: B008  # frozen
    ) -> None:
        self.stream = stream
        self._metrics = metrics
        self._limits = limits
        self._mailbox = Mailbox[HubMessage](MAILBOX_SIZE)
        self._accounts: dict[str, _Account] = {}
        self._addresses: Counter[str] = Counter()
        self._handshakes = 2.0 * limits.handshakes_per_second
        self._last_handshake = -float("inf")
        self._counts: Counter[str] = Counter()
        self._pushes = 0

    @property
    def mailboxes(self) -> tuple[Mailbox[HubMessage], ...]:
        """Its one mailbox."""
        return (self._mailbox,)

    async def start_from(
        self, account_id: str, head: int, orders: tuple[OrderView, ...] = ()
    ) -> None:
        """Tell where an account's log stands, before anything of it is published."""
        await self._mailbox.tell(StartFrom(account_id, head, orders))

    async def publish(self, events: tuple[Event, ...]) -> None:
        """Tell of committed events, in sequence. It waits only when there is no room."""
        try:
            self._mailbox.tell_nowait(Publish(events))
        except Busy:
            await self._mailbox.tell(Publish(events))

    async def join(self, subscription: Subscription) -> int | Full:
        """A place for one more client, and the head of its account's log."""
        return await self._mailbox.ask(Join(subscription))

    async def go_live(self, subscription: Subscription) -> int | None:
        """Tell it all that follows its cursor; or the head that its cursor must reach before."""
        return await self._mailbox.ask(GoLive(subscription))

    async def leave(self, subscription: Subscription) -> None:
        """Give the place back."""
        await self._mailbox.tell(Leave(subscription))

    async def watch(self, account_id: str) -> Watched:
        """Where an account's log stands: everything up to there is durable."""
        return await self._mailbox.ask(Watch(account_id))

    async def snapshot(self, account_id: str, today: date) -> Snapshot:
        """The orders of an account that are open, as of the head of its log."""
        return await self._mailbox.ask(TakeSnapshot(account_id, today))

    async def statistics(self) -> Statistics:
        """How many listen."""
        return await self._mailbox.ask(GetStatistics())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the mailbox is closed and empty."""
        task_status.started()
        async for message, reply in self._mailbox:
            events: list[Event] = []
            if isinstance(message, Publish) and any(a.live for a in self._accounts.values()):
                for _ in range(ANSWER_TURNS):
                    await trio.lowlevel.checkpoint()
            while isinstance(message, Publish):
                events += message.events
                following = self._mailbox.take_nowait() if len(events) < MOST_TOGETHER else None
                if following is None:
                    break
                message, reply = following  # noqa: PLW2901  # the last one is answered below
            with reply:
                await self._publish(events)
                self._answer(message, reply)

    def _answer(self, message: HubMessage, reply: Reply[Any]) -> None:
        match message:
            case StartFrom(account_id=account_id, head=head, orders=orders):
                account = self._account(account_id)
                account.head, account.orders = head, OpenOrders(orders)
            case Publish():
                pass  # it was told with those before it
            case Join(subscription=subscription):
                reply(self._join(subscription))
            case GoLive(subscription=subscription):
                reply(self._go_live(subscription))
            case Leave(subscription=subscription):
                self._leave(subscription)
            case Watch(account_id=account_id):
                account = self._account(account_id)
                reply(Watched(account.head, account.moved))
            case TakeSnapshot(account_id=account_id, today=today):
                account = self._account(account_id)
                reply(Snapshot(account.head, account.orders.of(today)))
            case GetStatistics():
                reply(self._statistics())

    def _account(self, account_id: str) -> _Account:
        if (known := self._accounts.get(account_id)) is None:
            known = self._accounts[account_id] = _Account()
        return known

    async def _publish(self, events: Iterable[Event]) -> None:
        news: dict[str, list[Told]] = {}
        for event in events:
            account = self._account(event.account_id)
            account.head = event.sequence
            account.orders.fold(event)
            told = news.setdefault(event.account_id, [])
            if account.live:
                frame = text_frame(stream_message(event, self.stream))
                order_id = event.order_id if event.event in ORDER_EVENTS else None
                told.append(Told(event.sequence, frame, order_id))
        for account_id, told in news.items():
            account = self._account(account_id)
            for piece in _pieces(told):
                await self._tell(account, News(piece))
            account.moved.set()
            account.moved = trio.Event()

    async def _tell(self, account: _Account, news: News) -> None:
        """The same bytes for all. Only this task changes who is live, so it may yield between."""
        clients, ended = tuple(account.live), list[Subscription]()
        for first in range(0, len(clients), PUSHES_A_TURN):
            some = clients[first : first + PUSHES_A_TURN]
            if self._pushes + len(some) > PUSHES_A_TURN:
                self._pushes = 0
                await trio.lowlevel.checkpoint()
            self._pushes += len(some)
            ended += [client for client in some if not client.tell(news)]
        told = (len(clients) - len(ended)) * len(news.events)
        self._counts["messages"] += told
        self._metrics.stream_messages.inc(told)
        account.live.difference_update(ended)

    def _join(self, subscription: Subscription) -> int | Full:
        account, limits = self._account(subscription.account_id), self._limits
        if limits.per_account and len(account.places) >= limits.per_account:
            return Full.ACCOUNT
        if limits.per_address and self._addresses[subscription.address] >= limits.per_address:
            return Full.ADDRESS
        # Last: who is refused for what is its own takes nothing from the others.
        if limits.handshakes_per_second and not self._take_handshake(limits.handshakes_per_second):
            return Full.RATE
        account.places.add(subscription)
        self._addresses[subscription.address] += 1
        self._metrics.stream_connections(subscription.account_id).set(len(account.places))
        return account.head

    def _take_handshake(self, rate: int) -> bool:
        now = trio.current_time()
        earned = (now - self._last_handshake) * rate
        self._handshakes = min(2.0 * rate, self._handshakes + earned)
        self._last_handshake = now
        if self._handshakes < 1:
            return False
        self._handshakes -= 1
        return True

    def _go_live(self, subscription: Subscription) -> int | None:
        account = self._account(subscription.account_id)
        if subscription.cursor < account.head:
            return account.head
        if subscription in account.places:  # else it has left meanwhile
            account.live.add(subscription)
            self._counts[subscription.status] += 1
            self._counts["replayed"] += subscription.replayed
            self._metrics.stream_resumes(subscription.status).inc()
            self._metrics.stream_replayed.inc(subscription.replayed)
        return None

    def _leave(self, subscription: Subscription) -> None:
        account = self._account(subscription.account_id)
        if subscription not in account.places:
            return
        account.places.remove(subscription)
        account.live.discard(subscription)
        self._addresses[subscription.address] -= 1
        if not self._addresses[subscription.address]:
            del self._addresses[subscription.address]
        if subscription.code is CloseCode.SLOW:
            self._counts["dropped"] += 1
            self._metrics.stream_dropped.inc()
        self._metrics.stream_connections(subscription.account_id).set(len(account.places))

    def _statistics(self) -> Statistics:
        accounts = {name: len(account.places) for name, account in self._accounts.items()}
        counts = self._counts
        return Statistics(
            total_connections=sum(accounts.values()),
            accounts=accounts,
            messages=counts["messages"],
            dropped=counts["dropped"],
            resumed=counts["resumed"],
            gaps=counts["gap"],
            replayed=counts["replayed"],
        )


def _pieces(told: list[Told]) -> Iterator[list[Told]]:
    """In order, as many at a time as may go out together."""
    piece, size = list[Told](), 0
    for event in told:
        if piece and size + len(event.frame) > PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(event)
        size += len(event.frame)
    if piece:
        yield piece
