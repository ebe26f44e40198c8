"""The WebhookDispatcher: sends what is in the outbox, again until it is taken or given up.

Its queue is the table. What is under way is known in memory only, so a crash sends it again under
the same id: at least once, always. A subscription has few places under way and takes none beyond
them, so a slow or dead receiver delays only itself.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit

import structlog
import trio

from ticker_actors.actors.persistence import PersistenceActor, Wakeup
from ticker_actors.actors.ports import Clock
from ticker_actors.mailbox import Mailbox, Stopped
from ticker_actors.metrics import Metrics
from ticker_actors.model.changes import Change, Committed, Delivery, DeliveryResult
from ticker_actors.model.ids import Chance
from ticker_actors.model.webhook_rules import Answer, verdict

EACH = 4
"""Under way to one subscription: hides a round trip, and does not flood a small receiver."""
AHEAD = 16
"""Read of one subscription in one look: as many as can go until the next look."""
FRESH_SECONDS = 0.1
"""For how long after a look began what it showed may still be begun, when it has ended: since then
a webhook may have been deleted."""
EACH_HOST = 8
"""Under way to one host and port: two of its subscriptions at full speed."""
ALL = 64
"""Under way in all: 16 dead subscriptions must hang at once before a living one waits."""
LONGEST_SLEEP = 30.0
"""Seconds until it looks again: the wall clock, by which deliveries are due, may be set."""
QUIET_SECONDS = 0.005
"""For which nothing that somebody waits for must have been stored before a look: an order's next
step follows its last by 2 to 4 ms, and results and looks at that moment would be in its way, on the
disk as on the processor. It goes first: its time is the trader's, a webhook's mostly the
internet's."""
LOOK_SHARE = 4
"""A look is followed by a pause of so many times its length: a lone delivery goes soon, and under
load many go together."""
LOOK_SECONDS = 0.02
"""The most that a look, or a result that waits for none any more, is kept waiting by either."""
RESULT_SECONDS = 0.1
"""How long a result may wait for the next look, after which it is stored, if it hides nothing from
that. A process that dies first sends the delivery again."""
SHORTEST_SLEEP = 0.001
"""Seconds: the resolution of stored times."""

_RESULTS = {"succeeded": "succeeded", "pending": "retried", "failed": "failed"}
_CHANCE_BITS = 53
"""As many as a float has."""

_log = structlog.get_logger(__name__)


class Outbox(Protocol):
    """What this actor reads."""

    async def due_deliveries(self, now: datetime, each: int) -> list[Delivery]:
        """Deliveries to send now, oldest first, at most `each` of one subscription."""
        ...

    async def next_delivery_at(self, after: datetime) -> datetime | None:
        """When the first delivery that is not due yet will be, or None."""
        ...


class Poster(Protocol):
    """Sends one request within a deadline of its own. What goes wrong with it is in the answer."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post once."""
        ...

    def tidy(self) -> None:
        """Called every now and then, to let go of what it has kept."""
        ...


class Places:
    """How many deliveries are under way, and whether there is room for one more."""

    def __init__(self) -> None:
        self._taken = Counter[str]()

    def room(self, delivery: Delivery) -> bool:
        """Whether none of its limits is reached."""
        return all(self._taken[name] < most for name, most in _limits(delivery).items())

    def take(self, delivery: Delivery) -> bool:
        """Take a place; False when there is no room."""
        if not self.room(delivery):
            return False
        self._taken.update(_limits(delivery).keys())
        return True

    def free(self, delivery: Delivery) -> None:
        """Give the place back."""
        self._taken.subtract(_limits(delivery).keys())
        self._taken += Counter()  # forget the zeros

    def __repr__(self) -> str:
        return f"<Places {self._taken['all']}/{ALL}>"


class WebhookDispatcher:
    """Delivers the outbox of all accounts."""

    def __init__(  # noqa: PLR0913, PLR0917  # what it works with, named in service.py
        self,
        outbox: Outbox,
        persistence: PersistenceActor,
        poster: Poster,
        wakeup: Wakeup,
        clock: Clock,
        chance: Chance,
        metrics: Metrics,
    ) -> None:
        """`wakeup` is the one that persistence rings when a commit put deliveries in the outbox."""
        self._outbox = outbox
        self._persistence = persistence
        self._poster = poster
        self._wakeup = wakeup
        self._clock = clock
        self._chance = chance
        self._metrics = metrics
        self._mailbox = Mailbox[None](1)
        self._places = Places()
        self._nursery: trio.Nursery
        self._looked_at = self._busy_until = -math.inf
        """When the last look began, and until when there is none, whatever rings."""
        self._full: set[str] = set()
        """Subscriptions of which the last look may not have shown all that was due."""
        self._alone: set[str] = set()
        """Deliveries of the last look behind which no other of their order waits."""
        self._behind = False
        """Whether another look may show more, now that something has come to its end."""
        self._settle_at = math.inf
        """Until when what has ended may wait to be stored."""
        self._waiting: list[Delivery] = []
        """What the last look showed and there was no place for, oldest first."""
        self._begun: set[str] = set()
        """Deliveries that were begun and whose result is not stored: pending, but not to begin."""
        self._finished: list[tuple[Delivery, DeliveryResult]] = []
        """What has come of deliveries, and is not stored yet."""
        self._next_at: datetime | None = datetime.min.replace(tzinfo=UTC)
        """When the first delivery that is not due yet will be; None when there is none. Once it has
        passed, as it has at the start, the table is asked."""
        self._sleeping = trio.CancelScope()
        self._stopping = False

    @property
    def mailboxes(self) -> tuple[Mailbox[None], ...]:
        """One that carries nothing: closing it stops the actor."""
        return (self._mailbox,)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until the mailbox is closed; then let what is under way come to its end."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._watch_mailbox)
            task_status.started()
            while not self._stopping:
                if self._wakeup.rings() or self._behind or self._is_time():
                    await self._look()
                await self._settle()
                await self._sleep()
                await self._pause()
                self._poster.tidy()
            await self._settle()  # what has ended since; what still ends does so itself

    async def _watch_mailbox(self) -> None:
        async for _ in self._mailbox:
            pass
        self._stopping = True
        self._wakeup.ring()

    async def _pause(self) -> None:
        """Until it is nobody's turn but ours, for `LOOK_SECONDS` at the most.

        A receiver that took all that was shown, and falls behind, is not held up for the orders
        that it is to hear of; one that is slow or dead has no use for another look.
        """
        if not self._stopping:
            end = trio.current_time() + LOOK_SECONDS
            await trio.sleep_until(min(self._busy_until, end))
            if self._full <= {delivery.webhook_id for delivery in self._waiting}:
                await self._wakeup.quiet(QUIET_SECONDS, end)

    async def _settle(self) -> None:
        """Store what has come of deliveries, of all accounts together.

        They are forgotten only here, never while a look reads and may still begin: it may show one
        as pending whose result was stored since, and that must not go out again.
        """
        if not self._finished:
            return
        finished, self._finished = self._finished, []
        self._settle_at = math.inf
        accounts = {delivery.account_id for delivery, _ in finished}
        async with trio.open_nursery() as nursery:
            for account_id in accounts:
                ended = [one for one in finished if one[0].account_id == account_id]
                nursery.start_soon(self._store, ended)

    async def _store(self, finished: Sequence[tuple[Delivery, DeliveryResult]]) -> None:
        change = Change(
            account_id=finished[0][0].account_id,
            deliveries=tuple(result for _, result in finished),
        )
        try:
            stored = await self._persistence.commit(change)
        except Stopped:  # only in a crash: the next start finds them pending
            return
        if isinstance(stored, Committed):
            for delivery, result in finished:
                self._begun.remove(delivery.delivery_id)
                if result.next_at is not None:
                    self._next_at = min(self._next_at or result.next_at, result.next_at)
        elif len(finished) > 1:
            for one in finished:
                await self._store([one])
        # else it is not forgotten, and keeps its row of each look: it would go again without end

    async def _look(self) -> None:
        """Read what is due, and begin what has a place."""
        if self._behind:  # only then does the table show what was behind them
            await self._settle()
        self._wakeup.heed()
        self._waiting.clear()  # what an older look has shown may not be so any more
        now, self._looked_at = self._clock.now(), trio.current_time()
        # Those begun are read as well: of as many as are read, enough are new.
        due = await self._outbox.due_deliveries(now, AHEAD)
        ended = trio.current_time()
        self._busy_until = ended + min(LOOK_SECONDS, LOOK_SHARE * (ended - self._looked_at))
        shown = Counter(delivery.webhook_id for delivery in due)
        self._full = {webhook_id for webhook_id, rows in shown.items() if rows >= AHEAD}
        self._alone = {delivery.delivery_id for delivery in due if not delivery.followed}
        self._behind = any(self._hides(delivery) for delivery, _ in self._finished)
        self._waiting = [delivery for delivery in due if delivery.delivery_id not in self._begun]
        found = bool(self._waiting)
        self._begin()
        if self._has_passed(now) or not found:  # for nothing: the wall clock may be set back
            self._next_at = await self._outbox.next_delivery_at(now)

    def _is_time(self) -> bool:
        """Whether to look, though nothing rang."""
        look_at = self._looked_at + LONGEST_SLEEP
        return look_at <= trio.current_time() or self._has_passed(self._clock.now())

    def _has_passed(self, now: datetime) -> bool:
        return self._next_at is not None and self._next_at <= now

    def _hides(self, delivery: Delivery) -> bool:
        """Whether the table may show more once this one's result is stored."""
        return delivery.webhook_id in self._full or delivery.delivery_id not in self._alone

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, []
        for delivery in waiting:
            if not self._stopping and self._places.take(delivery):
                self._begun.add(delivery.delivery_id)
                self._nursery.start_soon(self._deliver, delivery)
            else:
                self._waiting.append(delivery)

    async def _sleep(self) -> None:
        """Until something happens, the next is due, or what has ended is to be stored.

        All that was due is under way, has ended, or waits for one of these, so only what is due
        later counts. It is known once it was asked for: only our own results put it off, or a clock
        set back, by `LONGEST_SLEEP` at the most.
        """
        end = min(self._looked_at + LONGEST_SLEEP, self._settle_at)
        if self._next_at is not None:
            until = (self._next_at - self._clock.now()).total_seconds()
            end = min(end, trio.current_time() + max(until, SHORTEST_SLEEP))
        with trio.move_on_at(end) as self._sleeping:
            if not (self._behind or self._stopping):
                await self._wakeup.wait()

    async def _deliver(self, delivery: Delivery) -> None:
        started_at, began = self._clock.now(), trio.current_time()
        answer = await self._poster.post(delivery.url, headers(delivery, started_at), delivery.body)
        result = self._judge(delivery, answer, started_at, trio.current_time() - began)
        self._places.free(delivery)
        self._finished.append((delivery, result))
        if self._stopping:  # nobody looks any more, and the others may take long to end
            await self._settle()
            return
        now = trio.current_time()
        if fresh := now - self._looked_at < FRESH_SECONDS:
            self._begin()
        if self._hides(delivery) or (not fresh and any(map(self._places.room, self._waiting))):
            self._behind = True
            self._sleeping.cancel()
        self._settle_at = min(self._settle_at, now + RESULT_SECONDS)
        self._sleeping.deadline = min(self._sleeping.deadline, self._settle_at)

    def _judge(
        self, delivery: Delivery, answer: Answer, started_at: datetime, seconds: float
    ) -> DeliveryResult:
        attempt = delivery.attempts + 1
        chance = self._chance(_CHANCE_BITS) / 2**_CHANCE_BITS
        state, next_at = verdict(answer, attempt=attempt, now=self._clock.now(), chance=chance)
        self._metrics.delivery_seconds.observe(seconds)
        self._metrics.deliveries(delivery.event, _RESULTS[state]).inc()
        if state != "succeeded":
            tell = _log.error if state == "failed" else _log.warning
            tell(
                "webhook delivery given up" if state == "failed" else "webhook delivery failed",
                webhook_id=delivery.webhook_id,
                delivery_id=delivery.delivery_id,
                host=_host(delivery),  # no more of the URL: its path may be a secret
                attempt=attempt,
                status=answer.status,
                error=answer.error,
                next_at=next_at and next_at.isoformat(),
            )
        return DeliveryResult(
            delivery_id=delivery.delivery_id,
            attempt=attempt,
            state=state,
            next_at=next_at,
            started_at=started_at,
            seconds=seconds,
            status_code=answer.status,
            error=answer.error,
        )


def headers(delivery: Delivery, now: datetime) -> dict[str, str]:
    """The mission document's, then Standard Webhooks' (id and time of attempt), then ours."""
    secret = {} if delivery.secret is None else {"X-Webhook-Secret": delivery.secret}
    return {
        "Content-Type": "application/json",
        **secret,
        "User-Agent": "ticker-actors",
        "webhook-id": delivery.event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "X-Webhook-Event": delivery.event,
        "X-Webhook-Attempt": str(delivery.attempts + 1),
        "X-Webhook-Subscription": delivery.webhook_id,
        "X-Webhook-Trigger": "retry" if delivery.attempts else "live",
    }


def _host(delivery: Delivery) -> str:
    """The host and port of a URL that was checked when its webhook was made."""
    return urlsplit(delivery.url).netloc.rpartition("@")[2]


def _limits(delivery: Delivery) -> dict[str, int]:
    return {"all": ALL, f"host {_host(delivery)}": EACH_HOST, delivery.webhook_id: EACH}
