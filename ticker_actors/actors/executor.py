"""The ExecutorActor: takes orders, batches and their changes, each for the lane of its account.

A submission is answered once it is durable, never before. Each is a child task of its own, so many
wait for one commit together; the mailbox and the lane's queue bound how many. Cancels have a
mailbox of their own: no flood of orders can stand before them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import trio

from ticker_actors.actors.draft import Draft
from ticker_actors.actors.lane import Lane, LaneState
from ticker_actors.actors.ledger import Ledger
from ticker_actors.actors.persistence import PersistenceActor
from ticker_actors.actors.ports import Clock, Reads, Trading
from ticker_actors.actors.requests import (
    Accepted,
    AcceptedBatch,
    AwaitBatch,
    AwaitTask,
    CancelOrder,
    CancelTask,
    ClientKey,
    Denied,
    GetBatch,
    GetLanes,
    KeyConflict,
    ModifyOrder,
    NoteLogin,
    NotePostback,
    NotFound,
    Ordinary,
    Overloaded,
    SetState,
    SubmitBatch,
    SubmitOrder,
    Submitted,
    SubmittedBatch,
    Unanswered,
    Unchecked,
    Urgent,
)
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.mailbox import Mailbox, Reply, Stopped
from ticker_actors.metrics import Metrics
from ticker_actors.model import batches as saga
from ticker_actors.model import ids, saved
from ticker_actors.model.accounts import AccountState
from ticker_actors.model.batches import Batch
from ticker_actors.model.calendar import day_end
from ticker_actors.model.changes import Committed, Key, KeyTaken, Owned
from ticker_actors.model.orders import OrderChanges, PlaceOrder
from ticker_actors.model.tasks import OrderTask, Phase, create
from ticker_actors.waits import Waits

A = TypeVar("A")

MAILBOX_SIZE = 1000
"""Requests that may wait; beyond that a client is told to come back (503)."""
ANSWER_SECONDS = 10.0
"""A request whose change is not durable by then is told to ask again: most clients wait longer."""
HURRY_SECONDS = 1.0
"""The same once the service is stopping: the server cuts requests off after 2 s."""
NOT_TAKEN_UP = (
    "was saved by another program, which may still be changing it: "
    "this service takes it up at its next start"
)
MOST_UNSENT = 2000
"""Orders an account may have waiting to be sent: at 8 a second, four minutes' worth."""


class ExecutorActor:
    """Runs the orders of all accounts."""

    def __init__(  # noqa: PLR0913, PLR0917  # the parts it joins, then settings by name
        self,
        accounts: Mapping[str, Trading],
        persistence: PersistenceActor,
        hub: StreamHub,
        reads: Reads,
        clock: Clock,
        chance: ids.Chance,
        metrics: Metrics,
        *,
        installation: str,
        horizon: float,
        max_attempts: int,
        stopping: trio.Event | None = None,
    ) -> None:
        """`stopping` is set when the service is about to end."""
        self._persistence = persistence
        self._hub = hub
        self._reads = reads
        self._clock = clock
        self._chance = chance
        self._metrics = metrics
        self._max_attempts = max_attempts
        self._stopping = trio.Event() if stopping is None else stopping
        self._answering = Waits()
        self._urgent = Mailbox[Urgent](MAILBOX_SIZE)
        self._ordinary = Mailbox[Ordinary](MAILBOX_SIZE)
        self._lanes = {
            account_id: Lane(
                Ledger(
                    account_id,
                    installation,
                    horizon,
                    trading.limits,
                    chance,
                    trading.risk,
                ),
                trading,
                persistence,
                reads,
                clock,
                chance,
                metrics,
            )
            for account_id, trading in accounts.items()
        }

    @property
    def mailboxes(self) -> tuple[Mailbox[Any], ...]:
        """Cancels, and everything else."""
        return (self._urgent, self._ordinary)

    @property
    def accounts(self) -> tuple[str, ...]:
        """The accounts it trades for; they do not change while it runs."""
        return tuple(self._lanes)

    # What others may ask

    async def submit_order(
        self, account_id: str, order: PlaceOrder, key: ClientKey | None = None
    ) -> Submitted:
        """Store an order to be placed. Raises `Busy` when too many requests wait."""
        task_id = self._new_task_id()
        request = SubmitOrder(task_id, account_id, order, key)
        return await self._answered(task_id, self._ordinary.ask_nowait(request))

    async def modify_order(
        self, account_id: str, order_id: str, changes: OrderChanges, key: ClientKey | None = None
    ) -> Submitted:
        """Store a modification. Raises `Busy`."""
        task_id = self._new_task_id()
        request = ModifyOrder(task_id, account_id, order_id, changes, key)
        return await self._answered(task_id, self._ordinary.ask_nowait(request))

    async def cancel_order(
        self, account_id: str, order_id: str, key: ClientKey | None = None
    ) -> Submitted:
        """Store a cancel. Raises `Busy`."""
        task_id = self._new_task_id()
        request = CancelOrder(task_id, account_id, order_id, key)
        return await self._answered(task_id, self._urgent.ask_nowait(request))

    async def cancel_task(self, task_id: str) -> Submitted:
        """Keep a task from being sent, or have its order cancelled. Raises `Busy`."""
        return await self._answered(task_id, self._urgent.ask_nowait(CancelTask(task_id)))

    async def submit_batch(
        self,
        account_id: str,
        orders: tuple[PlaceOrder, ...],
        *,
        rollback_on_failure: bool,
        key: ClientKey | None = None,
    ) -> SubmittedBatch:
        """Store a batch and all its legs. Raises `Busy`."""
        batch_id = ids.uuid(self._chance)
        request = SubmitBatch(batch_id, account_id, orders, rollback_on_failure, key)
        return await self._answered(batch_id, self._ordinary.ask_nowait(request))

    async def finished_task(self, task_id: str) -> OrderTask | None:
        """Wait until a task under way has finished; None when it is not under way."""
        return await self._ordinary.ask(AwaitTask(task_id))

    async def finished_batch(self, batch_id: str) -> Mapping[str, Any] | None:
        """Wait until a batch under way has finished; None when it is not under way."""
        return await self._ordinary.ask(AwaitBatch(batch_id))

    async def batch(self, batch_id: str) -> Mapping[str, Any] | None:
        """What is true now of a batch under way; None when it is not."""
        return await self._ordinary.ask(GetBatch(batch_id))

    async def lanes(self) -> tuple[LaneState, ...]:
        """How every account stands."""
        return await self._ordinary.ask(GetLanes())

    async def set_state(
        self,
        account_id: str,
        state: AccountState,
        reason: str | None,
        accept_missing: tuple[str, ...] = (),
    ) -> LaneState | Denied:
        """The operator's word on what an account may do. Raises `Busy`."""
        return await self._urgent.ask_nowait(SetState(account_id, state, reason, accept_missing))

    async def note_login(self, account_id: str) -> LaneState:
        """The account's broker has a new token: what waited for it may go. Raises `Busy`."""
        return await self._urgent.ask_nowait(NoteLogin(account_id))

    async def note_postback(self, account_id: str) -> None:
        """Something happened at the broker: read the book. Raises `Busy`."""
        await self._ordinary.ask_nowait(NotePostback(account_id))

    async def _answered(self, name: str, answer: Awaitable[A]) -> A | Unanswered:
        """The answer, or word that none came: the change may be stored all the same."""
        with self._answering.wait(ANSWER_SECONDS), suppress(Stopped):
            return await answer
        return Unanswered(name)

    async def _hurry(self) -> None:
        """Let nobody wait for long once the service is stopping: the server ends before us."""
        await self._stopping.wait()
        self._answering.end(within=HURRY_SECONDS)

    def _new_task_id(self) -> str:
        return ids.task_id(self._clock.now(), self._chance)

    # The actor

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recover every account, then serve until the mailboxes are closed; then drain."""
        async with trio.open_nursery() as nursery:
            for lane in self._lanes.values():
                await self._recover(lane, nursery)
            task_status.started()
            async with trio.open_nursery() as watch:
                watch.start_soon(self._hurry)
                async with trio.open_nursery() as readers:
                    readers.start_soon(self._read, self._urgent, nursery)
                    readers.start_soon(self._read, self._ordinary, nursery)
                watch.cancel_scope.cancel()
            for lane in self._lanes.values():
                lane.stop()
        for lane in self._lanes.values():
            lane.close()

    async def _recover(self, lane: Lane, nursery: trio.Nursery) -> None:
        found = await self._reads.recover(lane.account_id, self._clock.now())
        await self._hub.start_from(lane.account_id, found.head_sequence, found.orders)
        lane.start(found, nursery)

    async def _read(self, mailbox: Mailbox[Any], nursery: trio.Nursery) -> None:
        work: Mapping[type, Callable[[Any], Awaitable[Any]]] = {
            ModifyOrder: self._submit_change,
            CancelOrder: self._submit_change,
            CancelTask: self._cancel_task,
            SubmitBatch: self._submit_batch,
            SetState: self._set_state,
            NoteLogin: self._note_login,
        }
        async for message, reply in mailbox:
            match message:
                case AwaitTask(task_id=name) | AwaitBatch(batch_id=name):
                    if not any(lane.wait_for(name, reply) for lane in self._lanes.values()):
                        reply(None)
                case GetBatch(batch_id=batch_id):
                    answers = (lane.batch_answer(batch_id) for lane in self._lanes.values())
                    reply(next((answer for answer in answers if answer is not None), None))
                case GetLanes():
                    reply(tuple(lane.state() for lane in self._lanes.values()))
                case SubmitOrder():
                    nursery.start_soon(self._submit_order, message, reply)
                case NotePostback(account_id=account_id):
                    self._lanes[account_id].read_soon()
                    reply(None)
                case _:
                    nursery.start_soon(self._answer, work[type(message)], message, reply)

    async def _answer(
        self, work: Callable[[Any], Awaitable[Any]], message: object, reply: Reply[Any]
    ) -> None:
        with reply:
            reply(await work(message))

    async def _submit_order(self, request: SubmitOrder, reply: Reply[Submitted]) -> None:
        """Answer once it is durable; then send it in this very task, which waits for no turn."""
        lane, draft = self._lanes[request.account_id], Draft()
        with reply:
            answer = await self._stored(lane, request, draft)
            stored = isinstance(answer, Accepted) and not answer.replayed
            calls = lane.finish(draft) if stored else []
            reply(answer)
        for task in calls:
            await lane.call(task)

    async def _stored(self, lane: Lane, request: SubmitOrder, draft: Draft) -> Submitted:
        asked = lane.now()
        if denied := await self._denied(lane, [request.order]):
            return await self._replay(request) or denied
        now = lane.now()
        task = create(
            task_id=request.task_id,
            intent=ids.intent(self._chance),
            key=None if request.key is None else request.key.key,
            operation="place_order",
            params=_params(request.order),
            account_id=request.account_id,
            at=now.at,
            expires_at=asked.at + timedelta(seconds=request.order.expiry_seconds()),
            max_attempts=self._max_attempts,
        )
        draft.key = _key(request.key, "task", task.task_id, request.account_id)
        task = lane.ledger.submit(draft, task, now)
        answer = await lane.commit_key(draft)
        if not isinstance(answer, Committed):
            lane.ledger.drop(task, now)
            lane.look_again()  # what waited for its place in the limits may go
            return await self._not_written(answer, request.key, request.account_id)
        lane.ledger.adopt(task, lane.now())
        return Accepted(task)

    async def _submit_change(self, request: ModifyOrder | CancelOrder) -> Submitted:
        lane = self._lanes[request.account_id]
        changes = request.changes if isinstance(request, ModifyOrder) else None
        known = await lane.recall.order(request.order_id)
        if known is None:
            return await self._replay(request) or NotFound()
        if changes is not None:
            denial = await lane.checks.change_denial(changes, known.order)
            if denial is not None:
                self._metrics.denied(request.account_id).inc()
                denied = Denied(denial.code, denial.field, denial.message)
                return await self._replay(request) or denied
        now = lane.now()
        params: dict[str, Any] = {
            "order_id": request.order_id,
            "variety": known.order.variety,
        }
        if changes is not None:
            params["changes"] = changes.named()
        task = create(
            task_id=request.task_id,
            intent=ids.intent(self._chance),
            key=None if request.key is None else request.key.key,
            operation="cancel_order" if changes is None else "modify_order",
            params=params,
            account_id=request.account_id,
            at=now.at,
            expires_at=day_end(now.at),
            max_attempts=self._max_attempts,
            order_id=request.order_id,
        )
        draft = Draft(key=_key(request.key, "task", task.task_id, request.account_id))
        draft.tasks[task.task_id] = task
        answer = await lane.commit_key(draft)
        if not isinstance(answer, Committed):
            return await self._not_written(answer, request.key, request.account_id)
        await lane.recall.order(request.order_id)  # it may have been let go meanwhile
        draft = Draft()
        lane.ledger.request_change(draft, task, lane.now())
        lane.ledger.advance(draft, lane.now())
        await lane.carry_out(draft)
        return Accepted(lane.ledger.tasks.get(task.task_id) or draft.tasks[task.task_id])

    async def _cancel_task(self, request: CancelTask) -> Submitted:
        for lane in self._lanes.values():
            if request.task_id in lane.ledger.tasks:
                break
        else:
            known = await self._reads.task(request.task_id)
            if known is None or known.account_id not in self._lanes:
                return NotFound()
            lane = self._lanes[known.account_id]
            if saved.is_strange(known) and known.epoch == lane.ledger.epoch:
                return Denied("not_taken_up", "task_id", NOT_TAKEN_UP)
        task = await lane.cancel_task(request.task_id)
        return NotFound() if task is None else Accepted(task)

    async def _set_state(self, request: SetState) -> LaneState | Denied:
        lane = self._lanes[request.account_id]
        unknown = set(request.accept_missing) - set(lane.ledger.missing)
        if unknown:
            named = ", ".join(sorted(unknown))
            message = f"names orders that the book is not missing: {named}"
            return Denied("not_missing", "accept_missing", message)
        await lane.stand(request.state, request.reason, request.accept_missing)
        return lane.state()

    async def _note_login(self, request: NoteLogin) -> LaneState:
        lane = self._lanes[request.account_id]
        await lane.log_in()
        return lane.state()

    async def _submit_batch(self, request: SubmitBatch) -> SubmittedBatch:
        lane = self._lanes[request.account_id]
        if denied := await self._denied(lane, request.orders, legs=True):
            return await self._batch_replay(request) or denied
        now = lane.now()
        batch_id = request.batch_id
        legs = [
            create(
                task_id=ids.task_id(now.at, self._chance),
                intent=ids.intent(self._chance),
                key=f"~{batch_id}:{number}",
                operation="place_order",
                params=_params(order),
                account_id=request.account_id,
                at=now.at,
                expires_at=None,
                max_attempts=self._max_attempts,
                phase=Phase.PLANNED,
                batch_id=batch_id,
                leg=number,
            )
            for number, order in enumerate(request.orders)
        ]
        batch = Batch(
            batch_id=batch_id,
            account_id=request.account_id,
            idempotency_key=f"~{batch_id}" if request.key is None else request.key.key,
            rollback_on_failure=request.rollback_on_failure,
            task_ids=tuple(leg.task_id for leg in legs),
            created_at=now.at,
            progress_at=now.at,
        )
        draft = Draft(key=_key(request.key, "batch", batch_id, request.account_id))
        batch, legs = lane.ledger.plan(draft, batch, legs, now)
        answer = await lane.commit_key(draft)
        if not isinstance(answer, Committed):
            lane.ledger.drop_batch(legs, now)
            lane.look_again()
            return await self._batch_not_written(answer, request)
        following = Draft()
        lane.ledger.adopt_batch(following, batch, legs, lane.now())
        lane.go_on(draft)
        await lane.carry_out(following)
        return AcceptedBatch(batch_id, saga.answer(batch, [saga.Leg(leg) for leg in legs]))

    async def _denied(
        self, lane: Lane, orders: Sequence[PlaceOrder], *, legs: bool = False
    ) -> Denied | Overloaded | Unchecked | None:
        """Why these orders are not taken, or None. What waits for that counts as unsent."""
        if lane.ledger.unsent() + lane.checks.under_way >= MOST_UNSENT:
            return Overloaded()
        try:
            found = await lane.checks.denial(orders, lane.now())
        except trio.TooSlowError:
            return Unchecked()
        if found is None:
            return None
        self._metrics.denied(lane.account_id).inc()
        number, denial = found
        return Denied(denial.code, denial.field, denial.message, number if legs else None)

    async def _replay(self, request: SubmitOrder | ModifyOrder | CancelOrder) -> Submitted | None:
        """The answer that a key has already, whatever would be said of a new request."""
        key = None if request.key is None else await self._reads.key(request.key.key)
        if key is None:
            return None
        return await self._not_written(KeyTaken(key), request.key, request.account_id)

    async def _batch_replay(self, request: SubmitBatch) -> SubmittedBatch | None:
        key = None if request.key is None else await self._reads.key(request.key.key)
        return None if key is None else await self._batch_not_written(KeyTaken(key), request)

    async def _not_written(
        self, answer: KeyTaken | str, key: ClientKey | None, account_id: str
    ) -> Submitted:
        if isinstance(answer, str):
            return Denied("unstorable", "", f"The database does not take this order: {answer}")
        if not _same(answer.key, key, "task", account_id):
            return KeyConflict()
        task = await self._reads.task(answer.key.id)
        return KeyConflict() if task is None else Accepted(task, replayed=True)

    async def _batch_not_written(
        self, answer: KeyTaken | str, request: SubmitBatch
    ) -> SubmittedBatch:
        if isinstance(answer, str):
            return Denied("unstorable", "", f"The database does not take this batch: {answer}")
        if not _same(answer.key, request.key, "batch", request.account_id):
            return KeyConflict()
        batch_id = answer.key.id
        known = None
        while known is None:  # the one that came first may be durable, and not taken up yet
            known = self._lanes[request.account_id].batch_answer(batch_id)
            if known is None:
                batch = await self._reads.batch(batch_id)
                if batch is None:
                    return KeyConflict()  # so old that it was deleted at this very moment
                known = batch.answer
        return AcceptedBatch(batch_id, known, replayed=True)


def _params(order: PlaceOrder) -> dict[str, Any]:
    """An order's fields as a task stores them: those that are set."""
    fields: Sequence[str] = order.__struct_fields__
    return {name: value for name in fields if (value := getattr(order, name)) is not None}


def _key(key: ClientKey | None, kind: Owned, name: str, account_id: str) -> Key | None:
    if key is None:
        return None
    return Key(key.key, key.request_hash, kind, name, account_id)


def _same(taken: Key, key: ClientKey | None, kind: Owned, account_id: str) -> bool:
    """Whether the key was used for just this. Another account's is told from nothing else."""
    return (
        key is not None
        and taken.request_hash == key.request_hash
        and taken.kind == kind
        and taken.account_id == account_id
    )
