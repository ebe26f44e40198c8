"""An account's ledger: every unfinished task, every order of the day, every unfinished batch.

All state of an account changes here, in synchronous methods; nothing here waits. Each method takes
the draft of one transaction and writes down what it changed. The lane commits the draft, then acts.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec

from ticker_actors.actors.admission import Admission
from ticker_actors.actors.draft import Draft
from ticker_actors.actors.goal_queues import GoalQueues
from ticker_actors.actors.lost_replies import LostReplies
from ticker_actors.actors.order_view import OrderViews
from ticker_actors.model import batches as saga
from ticker_actors.model import ids, saved, tags
from ticker_actors.model.accounts import AccountState, Standing
from ticker_actors.model.batches import Batch, Leg
from ticker_actors.model.calendar import Moment, day_end, end_of, trading_day
from ticker_actors.model.changes import Attempt, Recovered
from ticker_actors.model.events import Scribe
from ticker_actors.model.goals import verdict
from ticker_actors.model.limits import MOST_MODIFICATIONS, Limits
from ticker_actors.model.orders import (
    KIND,
    REGISTERED,
    BrokerOrder,
    OrderView,
    PlaceOrder,
    Source,
)
from ticker_actors.model.outcomes import ChangeOutcome, OrderBook, Placed, PlaceOutcome, Trouble
from ticker_actors.model.risk import RiskLimits
from ticker_actors.model.tasks import (
    AbsenceProved,
    Answered,
    CancelAsked,
    DayEnded,
    Expired,
    GoalOpen,
    Interrupted,
    OrderTask,
    Overmodified,
    Phase,
    Queued,
    Reason,
    Seen,
    Sent,
    Superseded,
    TaskEvent,
    advance,
    contradiction,
    create,
)

MOST_AT_ONCE = 200
"""Tasks that one transaction ends or makes unknown: a hundred thousand may expire at one instant,
or be left behind by a dead process, and new orders must find their place in between."""
RECOUNT_SECONDS = 30.0
"""Between two reads of the book that give every row only to prove an absence."""
MOST_NAMED = 10
"""Order ids in one message."""
AMO_DAYS = 4
"""An after-market order may first show in the next session's book: over a weekend and a holiday."""


@dataclass(slots=True)
class Ledger:
    """The state of one account. Built by its lane from what the store recovered."""

    account_id: str
    installation: str
    horizon: float
    """Seconds that an unknown order may take to appear."""
    limits: Limits
    chance: ids.Chance
    risk: RiskLimits = field(default_factory=RiskLimits)
    """For tasks that another program saved."""
    epoch: int = 0
    tasks: dict[str, OrderTask] = field(default_factory=dict)
    """Unfinished ones, and the legs of unfinished batches."""
    batches: dict[str, Batch] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    """Orders that the last read of the book should have shown and did not."""
    _day: date = date.min
    _queue: dict[str, None] = field(default_factory=dict)
    """Place tasks that may be sent, in order."""
    _arriving: dict[str, OrderTask] = field(default_factory=dict)
    """Place tasks that are being stored: they count already, or two at once would pass as one."""
    _intents: dict[str, str] = field(default_factory=dict)
    _timers: list[tuple[datetime, str]] = field(default_factory=list)
    """When to look at a task or batch again; stale entries do no harm."""
    _interrupted: deque[str] = field(default_factory=deque)
    """Tasks that a dead process had sent, or that another program has saved, until `resume`."""
    _unjudged: deque[str] = field(default_factory=deque)
    """Orders whose cancels and modifies a dead process left behind, until `resume` has looked."""
    _calling: set[str] = field(default_factory=set)
    """Tasks whose broker call has not returned: they are held until it has."""
    _unwritten: set[str] = field(default_factory=set)
    """Tasks whose newest state is not durable yet: the store would tell an older one."""
    _modifications: dict[str, int] = field(default_factory=dict)
    """Sends of modifications that are spent, by order: the broker takes only so many."""
    _taken: int = 0
    """Place tasks of today."""
    _recount: bool = False
    """Whether a row may have been given, and not been understood."""
    _recounted: float = -math.inf
    """Process seconds of the last read that was to give every row."""
    _foreign: set[str] = field(default_factory=set)
    """Orders with our tag that no task of ours explains."""
    lost: LostReplies = field(init=False)
    goals: GoalQueues = field(init=False)
    views: OrderViews = field(init=False)
    scribe: Scribe = field(init=False)
    admission: Admission = field(init=False)

    def __post_init__(self) -> None:
        self.lost = LostReplies(self.horizon)
        self.goals = GoalQueues(self.tasks)
        self.views = OrderViews(self.installation)
        self.scribe = Scribe(lambda at: ids.event_id(at, self.chance))
        self.admission = Admission(self.limits)

    # The start

    def recover(self, found: Recovered, now: Moment) -> None:
        """Take over what a dead process left. `resume` goes on with it; then the gate may open."""
        self.epoch, self._day = found.epoch, trading_day(now.at)
        self.views.day = self._day
        self.admission.stand(found.standing)
        self.views.excused = frozenset(found.standing.accepted)
        self._modifications = dict(found.modifications)
        self._taken = found.taken_today
        for view in found.orders:
            self.views.restore(view)
        for batch in found.batches:
            self.batches[batch.batch_id] = batch
        for attempt in found.attempts:
            age = max(0.0, (now.at - attempt.sent_at).total_seconds())
            then = Moment(now.at - timedelta(seconds=age), now.mono - age)
            self.admission.take(attempt.operation, then)
        for task in found.tasks:
            self._hold(task)
            if task.phase is Phase.SENT or saved.is_strange(task):
                self._interrupted.append(task.task_id)
            else:
                self._schedule(task, now)
        self._unjudged.extend(self.goals)

    def resume(self, draft: Draft, now: Moment) -> bool:
        """One more piece of the recovery; False when there was nothing left.

        What a dead process had sent is looked up from now on, and never sent again.
        """
        if not self._interrupted and not self._unjudged:
            return False
        for _ in range(min(MOST_AT_ONCE, len(self._interrupted))):
            if (task := self.tasks.get(self._interrupted.popleft())) is not None:
                self._take_up(draft, task, now)
        while len(draft.tasks) < MOST_AT_ONCE and self._unjudged:
            self._judge(draft, self._unjudged.popleft(), now)
        return True

    def _take_up(self, draft: Draft, task: OrderTask, now: Moment) -> None:
        """What becomes of a task that a dead process had sent, or another program has saved."""
        if task.phase is Phase.SENT:
            self.change(draft, task.task_id, Interrupted(now.at), now)
        elif (end := saved.obstacle(task, self.risk, now.at)) is not None:
            self.change(draft, task.task_id, end, now)
        else:
            self._schedule(task, now)

    # Requests

    def submit(self, draft: Draft, task: OrderTask, now: Moment) -> OrderTask:
        """A new task for the draft: sent by the very transaction that stores it, when it can be.

        The ledger does not hold it yet: `adopt` it once the transaction is durable.
        """
        self._arrive(task)
        self.admission.let_pass(task.task_id)
        if not self._queue and self.admission.wait(task, now) <= 0:
            task = self._send(draft, task, now)
        draft.tasks[task.task_id] = task
        return task

    def drop(self, task: OrderTask, came: Moment) -> None:
        """Forget a submission that was not written: its key was taken."""
        self._leave(task)
        self.admission.forget(task.task_id)
        if task.phase is Phase.SENT:
            self._calling.discard(task.task_id)
            self.admission.give_back(task.operation, came)

    def _arrive(self, task: OrderTask) -> None:
        self._arriving[task.task_id] = task
        self._taken += 1

    def _leave(self, task: OrderTask) -> None:
        del self._arriving[task.task_id]
        self._taken = max(0, self._taken - 1)  # the day may have turned meanwhile

    def adopt(self, task: OrderTask, now: Moment) -> None:
        """Hold a task that is durable."""
        del self._arriving[task.task_id]
        self._hold(task)
        self._schedule(self.tasks[task.task_id], now)  # cancelled meanwhile, it is another

    def request_change(self, draft: Draft, task: OrderTask, now: Moment) -> None:
        """A new cancel or modify task, which its order may settle at once."""
        self._hold(task)
        task = self.tasks[task.task_id]
        self._write(draft, task)
        if task.finished:
            return  # cancelled while it was being stored
        for older in self.goals.superseded(task):
            self.change(draft, older.task_id, Superseded(now.at), now)
        self._judge(draft, task.order_id or "", now)
        if not self.tasks[task.task_id].finished:
            self._schedule(self.tasks[task.task_id], now)

    def plan(
        self, draft: Draft, batch: Batch, legs: Sequence[OrderTask], now: Moment
    ) -> tuple[Batch, list[OrderTask]]:
        """A new batch for the draft: it, its legs, and the first one sent, as `submit` does it.

        The ledger does not hold them yet: `adopt_batch` them once the transaction is durable.
        """
        planned = list(legs)
        for leg in planned:
            self._arrive(leg)
            self.admission.let_pass(leg.task_id)
        if self._may_advance() and self.admission.gate_open:
            step = saga.step(batch, [Leg(leg) for leg in planned], now.at)
            batch = step.batch
            if step.queue is not None:
                first = advance(planned[step.queue], _turn(planned[step.queue], now))
                if not self._queue and self.admission.wait(first, now) <= 0:
                    first = self._send(draft, first, now)
                planned[step.queue] = first
        draft.batches[batch.batch_id] = batch
        draft.tasks.update((leg.task_id, leg) for leg in planned)
        return batch, planned

    def drop_batch(self, legs: Sequence[OrderTask], came: Moment) -> None:
        """Forget a batch that was not written: its key was taken."""
        for leg in legs:
            self.drop(leg, came)

    def adopt_batch(
        self, draft: Draft, batch: Batch, legs: Sequence[OrderTask], now: Moment
    ) -> None:
        """Hold a durable batch, and go on with it."""
        self.batches[batch.batch_id] = batch
        for leg in legs:
            self.adopt(leg, now)
        draft.touched[batch.batch_id] = None
        self.advance(draft, now)

    def cancel_task(self, draft: Draft, task: OrderTask, why: str, now: Moment) -> None:
        """A task's owner does not want it any more."""
        self._hold(task)
        task = self.tasks[task.task_id]
        self._write(draft, task)
        # What another program has tried is not known to be unsent: cancelled is not what it is.
        end = saved.obstacle(task, self.risk, now.at)
        self.change(draft, task.task_id, end or CancelAsked(now.at, why), now)
        self.advance(draft, now)

    # What comes back

    def answer(
        self,
        draft: Draft,
        task_id: str,
        outcome: PlaceOutcome | ChangeOutcome,
        again: datetime,
        now: Moment,
    ) -> None:
        """A broker call returned. `again`: when to try or to look again, if that is the outcome."""
        self._calling.discard(task_id)
        task = self.tasks[task_id]
        self._write(draft, task)
        draft.attempts[task_id, task.sends] = self._attempt(
            task,
            answered_at=now.at,
            outcome=type(outcome).__name__.lower(),
            detail=getattr(outcome, "message", None) or getattr(outcome, "order_id", None),
        )
        if isinstance(outcome, Placed):
            self.sight(draft, _registered(task, outcome.order_id), "reply", now)
        self.change(draft, task_id, Answered(now.at, outcome, again), now)
        self.admission.note(outcome, now)
        message = getattr(outcome, "message", "")
        self.note_trouble(draft, getattr(outcome, "trouble", None), message, now)
        self.advance(draft, now)

    def strangers(self, rows: Iterable[BrokerOrder]) -> dict[str, str]:
        """Rows with our tag that this ledger does not know: order id and intent.

        Their tasks have ended, or were ended by another process: the store knows them.
        """
        found = {}
        for row in rows:
            if row.order_id not in self.views and row.order_id not in self._foreign:
                tag = self.views.our_tag(row)
                if tag is not None and tag.intent not in self._intents:
                    found[row.order_id] = tag.intent
        return found

    def remember(self, order_id: str, task: OrderTask | None, view: OrderView | None) -> None:
        """Take a stranger's task, and its order where one was seen, back from the store."""
        if view is not None:
            self.views.restore(view)
        elif task is not None:
            self._hold(task)
        else:
            self._foreign.add(order_id)

    def sight(self, draft: Draft, row: BrokerOrder, source: Source, now: Moment) -> None:
        """A report of an order: merge it into the view, tell what changed, complete its task."""
        tag = self.views.our_tag(row)
        owner = self.tasks.get(self._intents.get(tag.intent, "")) if tag else None
        seen = self.views.sight(row, source, owner, now)
        if seen is None:
            return
        view = draft.orders[row.order_id] = seen.view
        for name in seen.told:
            draft.events.append(self.scribe.order(name, view, seen.tag.intent, now.at))
        if seen.first:
            sliced = row.variety == "iceberg"
            event = Seen(now.at, row.order_id, source, seen.tag.send, sliced)
            self.change(draft, view.task_id, event, now)
        self._judge(draft, row.order_id, now)
        if (task := self.tasks.get(view.task_id)) is not None and task.batch_id is not None:
            draft.touched[task.batch_id] = None

    def read(self, draft: Draft, book: OrderBook, began: Moment, now: Moment) -> bool:
        """The whole book was read, and each row sighted. True when it holds every order it should.

        Only such a read is valid: it opens the gate, and counts as evidence of absence.
        """
        day, present = trading_day(began.at), book.present
        self.missing = self.views.missing(day, began.mono, present)
        valid = not self.missing and day == trading_day(now.at)
        if self.views.contradicted(book.repeated):
            self._recount = True
        self.log_in(draft, now)
        if valid:
            known, whole = self.views.knows_any(day, began.mono), not book.repeated
            for task_id in self.lost.observe(
                began=began.mono, day=day, orders_known=known, whole=whole
            ):
                self._look_at(now.at, task_id)
            if self.admission.note_read():
                draft.touched.update(dict.fromkeys(self.batches))
            self.views.release(self.tasks, self.goals, began.mono)
        for task in self.goals.undone(None if valid else present, began.at, now.at):
            self.change(draft, task.task_id, GoalOpen(now.at), now)
        self.advance(draft, now)
        return valid

    def recount(self, began: Moment) -> bool:
        """Whether the read of the book that begins now must give every row, and count none.

        After one that counted as done what is open here, for a leg may wait for it; on a new day,
        whose begin may have come between a row and the look at it; and so that no order is called
        absent without a look at each row, but not every time: thousands of them take a third of a
        second.
        """
        wanted = self._recount
        if not wanted and began.mono >= self._recounted + RECOUNT_SECONDS:
            known = self.views.knows_any(trading_day(began.at), began.mono)
            wanted = self.lost.want_whole(began.mono, orders_known=known)
        if wanted:
            self._recount, self._recounted = False, began.mono
        return wanted

    # Time

    def turn(self, draft: Draft, now: Moment) -> None:
        """Do what is due: expiries, retries, the next legs; then send what may be sent."""
        while self._timers and self._timers[0][0] <= now.at and len(draft.tasks) < MOST_AT_ONCE:
            _, name = heapq.heappop(self._timers)
            if name in self.batches:
                draft.touched[name] = None
            elif name in self.tasks:
                self._due(draft, self.tasks[name], now)
        if trading_day(now.at) != self._day:
            self._day = trading_day(now.at)
            self._modifications.clear()
            self._taken = 0
            self.views.roll(self._day, self.tasks)
            self._recount = True
            draft.touched.update(dict.fromkeys(self.batches))
        self.advance(draft, now)

    def next_turn(self, now: Moment) -> float:
        """Seconds until `turn` has something to do by itself."""
        tomorrow = end_of(self._day)
        due = min(self._timers[0][0] if self._timers else tomorrow, tomorrow)
        seconds = max(0.0, (due - now.at).total_seconds())
        place = self._next_place(now)
        for task in (*self.goals.sendable(now), *([place] if place else ())):
            seconds = min(seconds, self.admission.wait(task, now))
        return seconds

    def advance(self, draft: Draft, now: Moment) -> None:
        """Let the batches that something happened to take their steps; send what may be sent."""
        if not self._may_advance():
            return
        while draft.touched:
            name = next(iter(draft.touched))
            del draft.touched[name]
            batch = self.batches.get(name)
            if batch is not None and self.admission.gate_open:
                self._step(draft, batch, now)
        for task in tuple(self.goals.sendable(now)):
            if self._overmodified(task):
                self.change(draft, task.task_id, Overmodified(now.at), now)
            elif self.admission.wait(task, now) <= 0:
                self._admit(draft, task, now)
        while (place := self._next_place(now)) and self.admission.wait(place, now) <= 0:
            self._admit(draft, place, now)

    def _may_advance(self) -> bool:
        """Not while stopping: a new process goes on. Not before `resume` has come to its end."""
        return not (self.admission.stopping or self._interrupted or self._unjudged)

    def must_not_send(self, task: OrderTask, now: Moment) -> str | None:
        """The last look before the first byte, after a commit that may have taken long."""
        task = self.tasks[task.task_id]
        if task.phase is not Phase.SENT:
            return "There is nothing left to do."
        if task.expires_at is not None and task.expires_at <= now.at:
            return "It expired while it was being stored."
        if task.cancel_requested:
            return "It was cancelled while it was being stored."
        if self.admission.forbids(task):
            return f"The account is {self.admission.standing.state}."
        return None

    # The account

    def stand(self, draft: Draft, standing: Standing, now: Moment) -> None:
        """A new state of the account, by its operator or by what its broker shows."""
        draft.standing = standing
        self.admission.stand(standing)
        self.views.excused = frozenset(standing.accepted)
        message = standing.reason or f"The account is {standing.state}."
        self._tell_account(draft, standing.state.lower(), message, now)
        self.advance(draft, now)

    def note_trouble(
        self, draft: Draft, trouble: Trouble | None, message: str, now: Moment
    ) -> None:
        """An answer that shows what is wrong with the whole account."""
        match self.admission.note_trouble(trouble):
            case "login_required":
                self._tell_account(draft, "login_required", message, now)
            case "not_permitted":
                accepted = self.admission.standing.accepted
                reason = f"not_permitted: {message}"
                standing = Standing(AccountState.HALTED, reason, accepted)
                self.stand(draft, standing, now)
            case None:
                pass

    def mistrust(self, draft: Draft, now: Moment) -> None:
        """The book has missed known orders for too long: only an operator may go on."""
        if self.admission.standing.state is not AccountState.HALTED:
            named = ", ".join(self.missing[:MOST_NAMED])
            more = len(self.missing) - MOST_NAMED
            others = f" and {more} more" if more > 0 else ""
            reason = f"book_mismatch: the order book does not show {named}{others}"
            accepted = self.admission.standing.accepted
            self.stand(draft, Standing(AccountState.HALTED, reason, accepted), now)

    def log_in(self, draft: Draft, now: Moment) -> None:
        """There is a session again: what waits may go."""
        if self.admission.note_session():
            self._tell_account(draft, "logged_in", "The broker takes our token again.", now)

    def _tell_account(self, draft: Draft, state: str, message: str, now: Moment) -> None:
        draft.endings.append(self.scribe.account_status(self.account_id, state, message, now.at))

    # What the lane's reader wants to know

    def legs(self, batch: Batch) -> list[Leg]:
        """The batch's legs as they stand."""
        return [self._leg(self.tasks[task_id]) for task_id in batch.task_ids]

    def modifications(self, order_id: str) -> int:
        """How many modifications of an order the broker was sent, or may have been."""
        return self._modifications.get(order_id, 0)

    def taken_today(self, now: Moment) -> int:
        """How many place tasks were taken on this trading day."""
        return self._taken if trading_day(now.at) == self._day else 0

    def pending(self, order: PlaceOrder) -> int:
        """Units of the same kind that are on their way already, or rest at the exchange.

        Also those that were sent and of which nothing is known yet: they may be there.
        """
        resting = sum(view.order.pending_quantity for view in self.views.resting(order))
        coming = (
            task.params
            for task in (*self._arriving.values(), *self.tasks.values())
            if task.operation == "place_order" and not task.finished
        )
        return resting + sum(
            int(params["quantity"])
            for params in coming
            if all(params.get(name) == getattr(order, name) for name in KIND)
        )

    def unsent(self) -> int:
        """How many orders wait to be sent, those that are being stored among them."""
        return len(self._queue) + len(self._arriving)

    def unfinished(self) -> int:
        """How many tasks are under way."""
        return sum(not task.finished for task in self.tasks.values())

    def told(self, task_id: str) -> OrderTask | None:
        """A task that is held though its end is durable and was told, or None."""
        task = self.tasks.get(task_id)
        return task if task and task.finished and task_id not in self._unwritten else None

    def forget(self, draft: Draft) -> None:
        """Let go of what a durable transaction finished: the store remembers it."""
        self.views.written(draft.orders)
        for task in draft.tasks.values():
            if self.tasks.get(task.task_id) is task:
                self._unwritten.discard(task.task_id)
                self._release(task)
        for batch in draft.batches.values():
            if batch.finished and self.batches.pop(batch.batch_id, None) is not None:
                for task_id in batch.task_ids:
                    self._release(self.tasks[task_id])

    # Inside

    def change(self, draft: Draft, task_id: str, event: TaskEvent, now: Moment) -> None:
        """One step of one task, and the events that tell of it."""
        old = self.tasks[task_id]
        new = advance(old, event)
        message = contradiction(old, event)
        if message is not None:
            order_id = event.order_id if isinstance(event, Seen) else old.order_id
            draft.events.append(self.scribe.order_incident(new, message, order_id, now.at))
            self._write(draft, old)
        if new is old:
            return
        self._write(draft, new)
        if new.phase is not old.phase:
            self._tell(draft, new)
            self._schedule(new, now)
            if new.finished:
                draft.ended.append(new)
        if new.batch_id is not None:
            draft.touched[new.batch_id] = None
        if new.operation == "place_order" and new.cancel_requested and new.phase is Phase.DONE:
            self._follow_with_cancel(draft, new, now)

    def _overmodified(self, task: OrderTask) -> bool:
        """Whether a modification is one too many, though it was taken: others were tried again."""
        sent = self.modifications(task.order_id or "")
        return task.operation == "modify_order" and sent >= MOST_MODIFICATIONS

    def _write(self, draft: Draft, task: OrderTask) -> None:
        old = self.tasks.get(task.task_id)
        if task.operation == "modify_order" and old is not None and task.order_id is not None:
            sent = self.modifications(task.order_id) + task.attempts - old.attempts
            self._modifications[task.order_id] = max(0, sent)  # the day may have turned meanwhile
        self.tasks[task.task_id] = draft.tasks[task.task_id] = task
        self._unwritten.add(task.task_id)

    def _tell(self, draft: Draft, task: OrderTask) -> None:
        if task.phase is Phase.DEAD and task.operation == "place_order":
            unresolved = task.reason is Reason.UNRESOLVED
            tell = self.scribe.order_unresolved if unresolved else self.scribe.order_failed
            draft.events.append(tell(task))
        if task.phase in {Phase.DONE, Phase.DEAD, Phase.WAITING, Phase.RESOLVING}:
            draft.endings.append(self.scribe.task_status(task))

    def _hold(self, task: OrderTask) -> None:
        if task.task_id in self.tasks:
            return
        self.tasks[task.task_id] = task
        if task.operation == "place_order":
            self._intents[task.intent] = task.task_id
        elif not task.finished:
            self.goals.add(task)

    def _release(self, task: OrderTask) -> None:
        name = task.task_id
        needed = task.batch_id in self.batches or name in self._calling or name in self._unwritten
        if task.finished and not needed:
            del self.tasks[name]
            self._intents.pop(task.intent, None)
            self.admission.forget(name)

    def _schedule(self, task: OrderTask, now: Moment) -> None:
        """Put the task where its phase wants it: the queue, a timer, a watch."""
        name, place = task.task_id, task.operation == "place_order"
        self._queue.pop(name, None)
        self.lost.forget(name)
        match task.phase:
            case Phase.QUEUED:
                if place:
                    self._queue[name] = None
                self._look_at(task.expires_at, name)
            case Phase.WAITING:
                self._look_at(task.next_attempt_at, name)
                self._look_at(task.expires_at, name)
            case Phase.RESOLVING:
                day = task.trading_day or self._day
                if place:
                    self.lost.watch(name, since=now.mono, day=day)
                self._look_at(end_of(self._told_until(task)), name)
            case Phase.DONE | Phase.DEAD if not place:
                self.goals.remove(task)
            case _:
                pass

    def _look_at(self, when: datetime | None, name: str) -> None:
        if when is not None:
            heapq.heappush(self._timers, (when, name))

    def _due(self, draft: Draft, task: OrderTask, now: Moment) -> None:
        if task.phase is Phase.RESOLVING:
            if self.lost.proved_absent(task.task_id):
                self.change(draft, task.task_id, AbsenceProved(now.at), now)
            elif self._told_until(task) < trading_day(now.at):
                # The book of that day is gone, and with it what it could have told.
                self.change(draft, task.task_id, DayEnded(now.at), now)
        if task.phase not in {Phase.QUEUED, Phase.WAITING}:
            return
        if task.expires_at is not None and task.expires_at <= now.at:
            self.change(draft, task.task_id, Expired(now.at), now)
        elif (
            task.phase is Phase.WAITING
            and task.operation == "place_order"
            and task.next_attempt_at is not None
            and task.next_attempt_at <= now.at
        ):
            self._queue[task.task_id] = None

    def _told_until(self, task: OrderTask) -> date:
        """The last day whose book can tell what became of a task."""
        day = task.trading_day or self._day
        return _last_day(task, day) if task.operation == "place_order" else day

    def _next_place(self, now: Moment) -> OrderTask | None:
        """The first queued place task that the account's state does not hold back."""
        if self.admission.standing.state is AccountState.HALTED:
            return None
        if self._timers and self._timers[0][0] <= now.at:
            return None  # some of the queue may have expired: `turn` comes first
        queued = (self.tasks[task_id] for task_id in self._queue)
        return next((task for task in queued if not self.admission.forbids(task)), None)

    def _admit(self, draft: Draft, task: OrderTask, now: Moment) -> None:
        sent = self._send(draft, task, now)
        self._write(draft, sent)
        self._schedule(sent, now)

    def _send(self, draft: Draft, task: OrderTask, now: Moment) -> OrderTask:
        """Mark a task sent: durable before the first byte."""
        self.admission.take(task.operation, now)
        tag = tags.Tag(self.installation, task.intent, task.sends)
        event = Sent(now.at, str(tag), trading_day(now.at), self.epoch)
        sent = advance(task, event)
        draft.attempts[task.task_id, sent.sends] = self._attempt(sent)
        draft.calls.append(task.task_id)
        self._calling.add(task.task_id)
        return sent

    def _attempt(self, task: OrderTask, **answer: Any) -> Attempt:  # noqa: ANN401  # its fields
        return Attempt(
            task_id=task.task_id,
            send=task.sends,
            account_id=self.account_id,
            operation=task.operation,
            broker_tag=task.broker_tag or "",
            epoch=self.epoch,
            sent_at=task.sent_at or datetime.min.replace(tzinfo=UTC),
            **answer,
        )

    def _judge(self, draft: Draft, order_id: str, now: Moment) -> None:
        """See which cancel and modify tasks an order's state settles."""
        view = self.views.get(order_id)
        if view is None:
            return
        modifying = False
        for task in self.goals.of(order_id):
            if task.task_id in self._interrupted:
                continue  # not looked at yet: `resume` does, and judges it then
            if task.operation == "modify_order" and modifying:
                continue  # an earlier one must come to its end first
            event = verdict(task, view.order, now.at)
            if event is not None:
                self.change(draft, task.task_id, event, now)
            elif task.operation == "modify_order":
                modifying = True

    def _follow_with_cancel(self, draft: Draft, task: OrderTask, now: Moment) -> None:
        """The order of a task that nobody wants any more is known now: cancel it."""
        view = self.views.get(task.order_id)
        if view is None or view.order.terminal or self._day_over(task):
            return
        cancel = create(
            task_id=ids.task_id(now.at, self.chance),
            intent=ids.intent(self.chance),
            key=f"~cancel:{task.task_id}",
            operation="cancel_order",
            params={"order_id": task.order_id, "variety": view.order.variety},
            account_id=self.account_id,
            at=now.at,
            expires_at=day_end(now.at),
            max_attempts=task.max_attempts,
            order_id=task.order_id,
        )
        self.request_change(draft, cancel, now)

    def _leg(self, task: OrderTask) -> Leg:
        view = self.views.get(task.order_id)
        order = None if view is None else view.order
        return Leg(task, order, day_over=task.phase is Phase.DONE and self._day_over(task))

    def _day_over(self, task: OrderTask) -> bool:
        """Whether the book in which the order of a task was is gone."""
        return _last_day(task, task.trading_day or self._day) < self._day

    def _step(self, draft: Draft, batch: Batch, now: Moment) -> None:
        if batch.finished:
            return
        step = saga.step(batch, self.legs(batch), now.at)
        self.batches[batch.batch_id] = step.batch
        if step.batch != batch:
            draft.batches[batch.batch_id] = step.batch
        self._look_at(step.wake_at, batch.batch_id)
        if step.queue is not None:
            leg = self.tasks[batch.task_ids[step.queue]]
            self.change(draft, leg.task_id, _turn(leg, now), now)
        why = step.batch.cause or "It was late, and the batch went on without it."
        for number in step.abandon:
            self.change(draft, batch.task_ids[number], CancelAsked(now.at, why), now)
        if step.batch.finished and step.batch.answer is not None:
            answer: Mapping[str, Any] = step.batch.answer
            draft.endings.append(self.scribe.batch_status(self.account_id, dict(answer), now.at))


def _turn(leg: OrderTask, now: Moment) -> Queued:
    """A leg's turn has come: only now its time begins."""
    order = msgspec.convert(leg.params, PlaceOrder)
    return Queued(now.at, now.at + timedelta(seconds=order.expiry_seconds()))


def _last_day(task: OrderTask, sent: date) -> date:
    """The last day whose book may show what was sent on a day."""
    return sent + timedelta(days=AMO_DAYS if task.params.get("variety") == "amo" else 0)


def _registered(task: OrderTask, order_id: str) -> BrokerOrder:
    """What a reply alone proves: the request's fields under an order id."""
    order = msgspec.convert(task.params, PlaceOrder)
    return BrokerOrder(
        order_id=order_id,
        status=REGISTERED,
        exchange=order.exchange,
        tradingsymbol=order.tradingsymbol,
        transaction_type=order.transaction_type,
        quantity=order.quantity,
        product=order.product,
        order_type=order.order_type,
        variety=order.variety,
        validity=order.validity,
        price=order.price or 0.0,
        trigger_price=order.trigger_price or 0.0,
        pending_quantity=order.quantity,
        disclosed_quantity=order.disclosed_quantity or 0,
        tag=task.broker_tag,
    )
