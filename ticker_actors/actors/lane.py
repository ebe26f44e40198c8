"""An account's lane: the one place from which its broker is called.

The ledger decides, synchronously; the lane waits. Every stimulus (a request, a reply, a pushed
update, a read of the book, the clock) goes the same way: decide into a draft, commit the draft as
one transaction, then tell who waits and make the calls that are now durable.

What happens when a reply is lost: `call` gets `Unknown`, the ledger holds the task as *resolving*,
and `_keep_reading` reads the order book until it shows the order or proves that there is none.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog
import trio

from ticker_actors.actors.checks import Checks
from ticker_actors.actors.draft import Draft
from ticker_actors.actors.ledger import Ledger
from ticker_actors.actors.persistence import PersistenceActor
from ticker_actors.actors.ports import Clock, Reads, Trading
from ticker_actors.actors.recall import Recall
from ticker_actors.mailbox import Reply
from ticker_actors.metrics import Metrics
from ticker_actors.model import batches as saga
from ticker_actors.model.accounts import AccountState, Standing
from ticker_actors.model.calendar import Moment
from ticker_actors.model.changes import Committed, KeyTaken, Recovered
from ticker_actors.model.ids import Chance
from ticker_actors.model.limits import Limits
from ticker_actors.model.orders import (
    BrokerOrder,
    OrderChanges,
    PlaceOrder,
)
from ticker_actors.model.outcomes import (
    CALL_SECONDS,
    ChangeOutcome,
    FeedBack,
    FeedItem,
    FeedLost,
    NotSent,
    PlaceOutcome,
    Refused,
    Unreadable,
)
from ticker_actors.model.tasks import OrderTask
from ticker_actors.waits import Alarm, Waits

FIRST_BACKOFF = 0.25
MOST_BACKOFF = 30.0
CANCEL_BACKOFF = 5.0
"""Seconds between sends of one task; cancels never give up, so they never wait long either."""
JITTER = 0.2
"""Part of a pause that chance moves it by, so that retries do not come in step, nor the reads of
many accounts' books."""

READ_SPACING = 0.1
"""Seconds from read to read at the least: Kite allows 10 requests a second outside of orders."""
READ_SHARE = 20
"""A read is followed by a pause of so many times its length: big books must not fill the day."""
UNKNOWN_READS = (0.25, 0.5, 1.0, 2.0)
"""Seconds between reads while an outcome is unknown; the last one repeats."""
LOGIN_READ = 30.0
"""A login elsewhere may have given our token a new life."""
PROBE_READ = 5.0
"""While the breaker is open: one look every so often."""
MISMATCH_SECONDS = 60.0
"""When the book has missed known orders for so long, the account is halted until its operator has
looked. When it could not be read at all, no order is sent until it can."""
MOST_NAMED = 10
"""Order ids in one line of the log."""
ROWS_AT_ONCE = 200
"""Rows of a book that are looked at in one go, for one transaction: others wait meanwhile."""
GATE_READ = 1.0
GOAL_READ = 0.5
FEED_DOWN_READ = 2.0
"""Without the feed, the book is the only thing that shows fills."""
IDLE_READ = 30.0
"""At the most. With the feed, the book only catches what the feed lost, and orders that appear very
late."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LaneState:
    """What `/health` and `/accounts` show of an account."""

    account_id: str
    broker: str
    limits: Limits
    standing: Standing
    gate_open: bool
    login_required: bool
    breaker_open: bool
    left_today: int | None
    """Orders that may still be placed on this trading day; None without a limit."""
    worries: tuple[str, ...]
    """What keeps orders back, for people."""
    feed_up: bool
    missing: tuple[str, ...]
    unread_seconds: float
    """Since the last valid read of the book; 0.0 when none was wanted."""
    last_read_error: str | None
    unsent: int
    unfinished: int


class Lane:
    """One account at its broker."""

    def __init__(  # noqa: PLR0913, PLR0917  # the parts it joins
        self,
        ledger: Ledger,
        trading: Trading,
        persistence: PersistenceActor,
        reads: Reads,
        clock: Clock,
        chance: Chance,
        metrics: Metrics,
    ) -> None:
        self.ledger = ledger
        self.account_id = ledger.account_id
        self.checks = Checks(trading.risk, ledger, trading.broker)
        self.recall = Recall(ledger, reads)
        self._broker = trading.broker
        self._broker_name = trading.name
        self._persistence = persistence
        self._reads = reads
        self._clock = clock
        self._chance = chance
        self._metrics = metrics
        self._second_zero = datetime.min.replace(tzinfo=UTC)
        self._nursery: trio.Nursery
        self._waits = Waits()
        """Ended by `stop`. Only waits are cut short, never a decision or its commit."""
        self._pump = Alarm(self._waits)
        self._reader = Alarm(self._waits)
        self._waiters: dict[str, list[Reply[Any]]] = {}
        self._feed_up = True
        self._last_valid = trio.current_time()
        self._last_error: str | None = None
        self._missed_at: float | None = None
        self._unknown_reads = 0
        self._read_wanted_at = 0.0
        self._read_began = self._no_read_before = -math.inf
        self._idle_read = IDLE_READ
        """Seconds from the last read to the next, if nothing wants one sooner."""

    def start(self, found: Recovered, nursery: trio.Nursery) -> None:
        """Go on with what a dead process left, then begin to serve."""
        self._nursery = nursery
        if found.tasks:
            self._not_before(max(task.updated_at for task in found.tasks))
            _log.info("recovering", account_id=self.account_id, unfinished=len(found.tasks))
        self.ledger.recover(found, self.now())
        nursery.start_soon(self._resume)

    async def _resume(self) -> None:
        """Write down what the recovery changes, while new orders are taken; then read and send."""
        draft = Draft()
        while not self.ledger.admission.stopping and self.ledger.resume(draft, self.now()):
            await self.carry_out(draft)
            await trio.lowlevel.checkpoint()  # for others, also when there was nothing to write
            draft = Draft()
        for work in (self._keep_reading, self._keep_sending, self._listen):
            self._nursery.start_soon(work)

    def now(self) -> Moment:
        """Now, on both clocks.

        The wall clock may be set back while orders wait; by it, they would stay fresh for as long.
        So the lane's time is never set back: it is the wall clock's, or what it would be if it had
        gone on as Trio's does, whichever is later. Set forward (a suspend), it is followed at once.
        """
        wall, mono = self._clock.now(), trio.current_time()
        at = self._second_zero + timedelta(seconds=mono)
        if wall > at:
            self._not_before(wall)
            at = wall
        return Moment(at, mono)

    def _not_before(self, instant: datetime) -> None:
        """It is this late, or later: also what a dead process wrote is not of the future."""
        second_zero = instant - timedelta(seconds=trio.current_time())
        self._second_zero = max(self._second_zero, second_zero)

    async def carry_out(self, draft: Draft, *, news: bool = False) -> None:
        """Commit what was decided; then tell who waits, and make the calls it allows.

        `news`: what was decided on, the broker told by itself, see `_only_news`.
        """
        if not draft:
            return
        change = draft.change(self.account_id)
        answer = await self._persistence.commit(change, news=news and self._only_news(draft))
        if not isinstance(answer, Committed):
            message = f"A change of account {self.account_id} was not stored: {answer}"
            raise RuntimeError(message)  # noqa: TRY004  # no wrong type: the database's no
        self.go_on(draft)

    def _only_news(self, draft: Draft) -> bool:
        """Whether nobody waits for what the broker told: of orders, or the end of a batch's leg."""
        if draft.calls or draft.key or draft.standing:
            return False
        if any(batch.finished for batch in draft.batches.values()):
            return False
        legs = {task.task_id for task in draft.ended if task.batch_id in self.ledger.batches}
        return draft.tasks.keys() <= legs - self._waiters.keys()

    def go_on(self, draft: Draft) -> None:
        """Finish a durable draft, and make its calls beside whatever comes next."""
        for task in self.finish(draft):
            self._nursery.start_soon(self.call, task)

    def finish(self, draft: Draft) -> list[OrderTask]:
        """What follows once a draft is durable; the tasks that are to be sent now."""
        self._tell(draft)
        calls = [self.ledger.tasks[task_id] for task_id in draft.calls]
        self.ledger.forget(draft)
        self.look_again()
        return calls

    def look_again(self) -> None:
        """Wake who has something to do sooner than it thought when it fell asleep."""
        now = self.now()
        self._pump.ring(now.mono + self.ledger.next_turn(now))
        self._reader.ring(self._next_read())

    async def commit_key(self, draft: Draft) -> Committed | KeyTaken | str:
        """Commit a submission. A string says why the database would not take it."""
        answer = await self._persistence.commit(draft.change(self.account_id))
        return answer if isinstance(answer, Committed | KeyTaken) else answer.message

    def wait_for(self, name: str, reply: Reply[Any]) -> bool:
        """Answer when this task or batch has finished. False when it is not under way."""
        if name not in self.ledger.tasks and name not in self.ledger.batches:
            return False
        self._waiters.setdefault(name, []).append(reply)
        if (task := self.ledger.told(name)) is not None:
            self._answer(name, task)
        return True

    def state(self) -> LaneState:
        """How it stands."""
        ledger = self.ledger
        waiting = not ledger.admission.gate_open or ledger.missing or self._last_error
        return LaneState(
            account_id=self.account_id,
            broker=self._broker_name,
            limits=ledger.limits,
            worries=tuple(ledger.admission.worries(self.now())),
            standing=ledger.admission.standing,
            gate_open=ledger.admission.gate_open,
            login_required=ledger.admission.login_required,
            breaker_open=ledger.admission.breaker_open,
            left_today=ledger.admission.left_today(self.now()),
            feed_up=self._feed_up,
            missing=ledger.missing,
            unread_seconds=trio.current_time() - self._last_valid if waiting else 0.0,
            last_read_error=self._last_error,
            unsent=ledger.unsent(),
            unfinished=ledger.unfinished(),
        )

    def stop(self) -> None:
        """Send nothing more, and stop waiting for work; what is out may still come back."""
        self.ledger.admission.stopping = True
        self._waits.end()

    def close(self) -> None:
        """Nothing more will be answered."""
        for replies in self._waiters.values():
            for reply in replies:
                reply.close()

    def _tell(self, draft: Draft) -> None:
        for task in draft.ended:
            reason = "" if task.reason is None else str(task.reason)
            self._metrics.tasks(task.operation, task.status, reason).inc()
            seconds = (task.updated_at - task.created_at).total_seconds()
            self._metrics.stage(f"submit to finished {task.operation}").observe(seconds)
            _log.info(
                "task finished",
                account_id=self.account_id,
                task_id=task.task_id,
                operation=task.operation,
                status=str(task.status),
                order_id=task.order_id,
                reason=reason or None,
                error=task.last_error,
            )
            self._answer(task.task_id, task)
        for event in draft.endings:
            if event.event == "account_status":
                said = msgspec.json.decode(event.data)
                _log.warning(
                    "account status",
                    account_id=self.account_id,
                    state=said["state"],
                    message=said["message"],
                )
        for batch in draft.batches.values():
            if batch.finished:
                _log.info("batch finished", batch_id=batch.batch_id, state=batch.state)
                self._answer(batch.batch_id, batch.answer)

    def _answer(self, name: str, answer: object) -> None:
        for reply in self._waiters.pop(name, ()):
            with reply:
                reply(answer)

    # Sending

    async def _keep_sending(self) -> None:
        """Do what the clock makes due."""
        while not self.ledger.admission.stopping:
            draft = Draft()
            self.ledger.turn(draft, self.now())
            await self.carry_out(draft)
            now = self.now()
            await self._pump.sleep_until(now.mono + self.ledger.next_turn(now))

    async def call(self, task: OrderTask) -> None:
        """One request to the broker. Nothing is awaited between the last check and the call."""
        began = self.now()
        stop = self.ledger.must_not_send(task, began)
        if self._reads.lease_seconds(self.account_id) < CALL_SECONDS:
            # The process stood still, or the commit took long: soon another one may be the writer.
            stop = stop or "The lease ran short while it was being stored."
        pause = 0.0 if stop is not None else self.ledger.admission.crowded(began)
        if pause:
            stop = "Too many requests were to go at once."
        if stop is not None:
            outcome: PlaceOutcome | ChangeOutcome = NotSent(stop, spent=False)
        else:
            outcome = await self._request(task)
            self._measure(task, outcome, began)
        draft, now = Draft(), self.now()
        again = now.at + timedelta(seconds=pause or self._backoff(task, outcome))
        self.ledger.answer(draft, task.task_id, outcome, again, now)
        self._unknown_reads = 0
        if self.ledger.admission.login_required:
            self.read_soon()  # it may be the answer to a token that was replaced meanwhile
        await self.carry_out(draft, news=True)

    def _measure(
        self, task: OrderTask, outcome: PlaceOutcome | ChangeOutcome, began: Moment
    ) -> None:
        stage, name = self._metrics.stage, type(outcome).__name__.lower()
        stage(f"broker {task.operation}").observe(trio.current_time() - began.mono)
        if task.sends == 1:
            waited = (began.at - task.created_at).total_seconds()
            stage(f"submit to sent {task.operation}").observe(waited)
        self._metrics.broker_calls(self.account_id, task.operation, name).inc()

    def _request(self, task: OrderTask) -> Awaitable[PlaceOutcome | ChangeOutcome]:
        match task.operation:
            case "place_order":
                order = msgspec.convert(task.params, PlaceOrder)
                return self._broker.place(order, task.broker_tag or "")
            case "modify_order":
                changes = msgspec.convert(task.params["changes"], OrderChanges)
                return self._broker.modify(task.order_id or "", task.params["variety"], changes)
            case "cancel_order":
                return self._broker.cancel(task.order_id or "", task.params["variety"])

    def _backoff(self, task: OrderTask, outcome: PlaceOutcome | ChangeOutcome) -> float:
        most = CANCEL_BACKOFF if task.operation == "cancel_order" else MOST_BACKOFF
        seconds: float = min(most, FIRST_BACKOFF * 2.0 ** min(task.sends, 16))
        seconds *= 1 + JITTER * (self._chance(16) / 2**15 - 1)
        if isinstance(outcome, NotSent) and not outcome.spent:
            return 0.0
        if isinstance(outcome, Refused) and outcome.retry_after is not None:
            return min(most, max(seconds, outcome.retry_after))
        return seconds

    # Reading the book

    async def _keep_reading(self) -> None:
        """One poller for all that the book can tell: the gate, unknowns, settling, fills."""
        while not self.ledger.admission.stopping:
            at = self._next_read()
            if at > trio.current_time():
                await self._reader.sleep_until(at)
                continue
            began = self._read_began = trio.current_time()
            self._idle_read = IDLE_READ * (1 - JITTER * self._chance(16) / 2**16)
            await self._read()
            pause = max(READ_SPACING, READ_SHARE * (trio.current_time() - began))
            self._no_read_before = began + min(pause, FEED_DOWN_READ)

    def _next_read(self) -> float:
        """When the book is to be read next."""
        return max(self._wanted_read(self._read_began), self._no_read_before)

    def _wanted_read(self, last: float) -> float:
        """The same, if it could be read at any time, given when the last read began."""
        ledger = self.ledger
        wanted = [last + self._idle_read if self._read_wanted_at <= last else self._read_wanted_at]
        if ledger.admission.login_required:
            # Every read is refused, but for one that somebody asks for: there may be a new token.
            asked = self._read_wanted_at
            return asked if asked > last else last + LOGIN_READ
        if ledger.admission.breaker_open:
            return last + PROBE_READ  # a broker in trouble is not helped by reads
        if not ledger.admission.gate_open or ledger.missing or self._last_error is not None:
            wanted.append(last + GATE_READ)
        if ledger.lost.any_lost():
            step = min(self._unknown_reads, len(UNKNOWN_READS) - 1)
            wanted.append(last + UNKNOWN_READS[step])
        if ledger.goals.any_resolving():
            wanted.append(last + GOAL_READ)
        wanted.append(ledger.views.next_look(last))
        if ledger.views.any_open() and not self._feed_up:
            wanted.append(last + FEED_DOWN_READ)
        return min(wanted)

    async def _read(self) -> None:
        began = self.now()
        if self.ledger.recount(began):
            self._broker.forget_book()
        with self._waits.wait():
            book = await self._broker.orders()
            rows = await self.recall.for_book(book, began)
        if self.ledger.admission.stopping:
            return
        self._metrics.stage("order book read").observe(trio.current_time() - began.mono)
        self._unknown_reads += 1
        if isinstance(book, Unreadable):
            self._complain(book)
        else:
            self._last_error = None
        await self._sight(rows)
        draft, now = Draft(), self.now()
        if isinstance(book, Unreadable):
            self.ledger.note_trouble(draft, book.trouble, book.message, now)
            self.ledger.advance(draft, now)
            if now.mono - self._last_valid > MISMATCH_SECONDS:
                self.ledger.admission.close_gate()
        elif self.ledger.read(draft, book, began, now):
            self._last_valid, self._missed_at = now.mono, None
        elif self.ledger.missing:
            self._miss(draft, now)
        await self.carry_out(draft)
        self._pump.ring()  # the gate may have opened

    async def _sight(self, rows: Sequence[BrokerOrder]) -> None:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            draft, now = Draft(), self.now()
            for row in rows[start : start + ROWS_AT_ONCE]:
                self.ledger.sight(draft, row, "book", now)
            self.ledger.advance(draft, now)
            await self.carry_out(draft, news=True)
            await trio.lowlevel.checkpoint()

    def _complain(self, book: Unreadable) -> None:
        if self._last_error != book.message:
            _log.warning("order book unreadable", account_id=self.account_id, error=book.message)
            for row in book.bad:  # kept raw, for whoever must look into it
                _log.error(
                    "row not understood",
                    account_id=self.account_id,
                    order_id=row.order_id,
                    problem=row.problem,
                    raw=row.raw,
                )
        self._last_error = book.message

    def _miss(self, draft: Draft, now: Moment) -> None:
        """The book does not show what it must: for a while it may be stale, then it is wrong."""
        missing = self.ledger.missing
        _log.warning(
            "order book misses known orders",
            account_id=self.account_id,
            order_ids=missing[:MOST_NAMED],
        )
        if self._missed_at is None:
            self._missed_at = now.mono
        if now.mono - self._missed_at > MISMATCH_SECONDS:
            self.ledger.mistrust(draft, now)

    async def cancel_task(self, task_id: str) -> OrderTask | None:
        """A task's owner does not want it any more. The task as it stands then."""
        async with self.recall.turn:
            task = self.ledger.tasks.get(task_id) or await self._reads.task(task_id)
            if task is None:
                return None
            draft = Draft()
            self.ledger.cancel_task(draft, task, "Its owner cancelled it.", self.now())
        await self.carry_out(draft)
        return draft.tasks[task_id]

    # The feed

    async def _listen(self) -> None:
        updates = aiter(self._broker.updates())
        close = getattr(updates, "aclose", None)  # generators have it, other iterators may
        try:
            await self._hear(updates)
        finally:
            if close is not None:
                await close()

    async def _hear(self, updates: AsyncIterator[FeedItem]) -> None:
        # Queues have it, other iterators need not: what has come together is written together.
        take_nowait: Callable[[], FeedItem | None] = getattr(updates, "take_nowait", lambda: None)
        while True:
            items: list[FeedItem | None] = []
            with self._waits.wait():
                items.append(await anext(updates, None))
                # Word of the feed's own state is told after all orders of its transaction.
                while isinstance(items[-1], BrokerOrder) and len(items) < ROWS_AT_ONCE:
                    if (more := take_nowait()) is None:
                        break
                    items.append(more)
                orders = [item for item in items if isinstance(item, BrokerOrder)]
                if orders:
                    await self.recall.strangers(orders)
            if self.ledger.admission.stopping:
                return
            draft, now = Draft(), self.now()
            for item in items:
                self._take_in(draft, item, now)
            await self.carry_out(draft, news=True)
            if items[-1] is None:
                return

    def _take_in(self, draft: Draft, item: FeedItem | None, now: Moment) -> None:
        match item:
            case None:
                self._turn_feed(draft, up=False, message="The order feed ended.", now=now)
            case FeedLost(message=message):
                self._turn_feed(draft, up=False, message=message, now=now)
            case FeedBack():
                self.read_soon()  # what was missed is in the book
                self._turn_feed(draft, up=True, message="The order feed is back.", now=now)
            case BrokerOrder():
                self.ledger.sight(draft, item, "feed", now)
                self.ledger.advance(draft, now)

    # The account

    async def stand(
        self, state: AccountState, reason: str | None, accepted: tuple[str, ...]
    ) -> None:
        """Its operator gives the account another state."""
        draft, now = Draft(), self.now()
        self._missed_at = None  # a book that was wrong has its time again
        before = self.ledger.admission.standing.accepted
        self.ledger.stand(draft, Standing(state, reason, (*before, *accepted)), now)
        await self.carry_out(draft)

    async def log_in(self) -> None:
        """The broker has a new token of ours: read the book, and go on."""
        draft, now = Draft(), self.now()
        self.ledger.log_in(draft, now)
        await self.carry_out(draft)
        self.read_soon()
        self._pump.ring()

    def read_soon(self) -> None:
        """Something may have happened at the broker."""
        self._read_wanted_at = trio.current_time()
        self._reader.ring()

    def _turn_feed(self, draft: Draft, *, up: bool, message: str, now: Moment) -> None:
        if up == self._feed_up:
            return
        self._feed_up = up
        state = "feed_back" if up else "feed_lost"
        draft.endings.append(
            self.ledger.scribe.account_status(self.account_id, state, message, now.at)
        )

    # Answers about what is under way

    def batch_answer(self, batch_id: str) -> dict[str, Any] | None:
        """What is true now of a batch under way, or None."""
        batch = self.ledger.batches.get(batch_id)
        return None if batch is None else saga.answer(batch, self.ledger.legs(batch))
