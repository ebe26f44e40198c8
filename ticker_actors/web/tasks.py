"""`/orders` and `/tasks`: every verb that makes a task, and what became of them."""

from collections.abc import Awaitable
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from ticker_actors.actors.requests import (
    Accepted,
    AcceptedBatch,
    ClientKey,
    Denied,
    KeyConflict,
    NotFound,
    Overloaded,
    Submitted,
    SubmittedBatch,
    Unanswered,
    Unchecked,
)
from ticker_actors.model.calendar import iso, trading_day
from ticker_actors.model.changes import Attempt
from ticker_actors.model.events import Event
from ticker_actors.model.orders import OrderChanges, OrderView, PlaceOrder
from ticker_actors.model.tasks import OrderTask, TaskStatus
from ticker_actors.web import decoding
from ticker_actors.web.decoding import AccountId
from ticker_actors.web.parts import Parts
from ticker_actors.web.plain import Answer, AnyRequest, json_answer
from ticker_actors.web.problems import (
    Problem,
    bad_fields,
    not_found,
    overloaded,
    unanswered,
    unchecked,
)

MOST_TASKS = 500
"""On one page."""


REPLAYED = {True: {"Idempotency-Replayed": "true"}, False: {}}
"""Tells a client that its key was known: this is the answer to its first request."""


class OrderBody(PlaceOrder, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /orders`: one order, and whose."""

    account_id: AccountId = "primary"

    def order(self) -> PlaceOrder:
        """The order alone."""
        fields = PlaceOrder.__struct_fields__
        return PlaceOrder(**{name: getattr(self, name) for name in fields})


class TaskQuery(msgspec.Struct, frozen=True):
    """The query of `GET /tasks`."""

    status: TaskStatus | None = None
    account_id: AccountId | None = None
    batch_id: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_TASKS)] = 100
    cursor: str | None = None


def blueprint(parts: Parts) -> Blueprint:
    """The routes of orders and tasks."""
    routes = Blueprint("tasks", __name__)

    async def answer(work: Awaitable[Submitted], seconds: float) -> Response:
        return (await answered(parts, work, seconds)).response()

    @routes.post("/orders")
    async def place_order() -> Response:
        return (await place(parts, request, await decoding.raw_body())).response()

    @routes.put("/orders/<order_id>")
    async def modify(order_id: str) -> Response:
        query = decoding.query(decoding.AccountAndWait)
        key = decoding.idempotency_key()
        changes, sent = await decoding.body(OrderChanges)
        if not changes.named():
            raise bad_fields([("body", "must name at least one field to change")])
        account_id = parts.account(query.account_id)
        used = client_key(key, "modify", order_id, sent)
        work = parts.executor.modify_order(account_id, order_id, changes, used)
        return await answer(work, query.wait)

    @routes.delete("/orders/<order_id>")
    async def cancel(order_id: str) -> Response:
        query = decoding.query(decoding.AccountAndWait)
        key = client_key(decoding.idempotency_key(), "cancel", order_id)
        account_id = parts.account(query.account_id)
        work = parts.executor.cancel_order(account_id, order_id, key)
        return await answer(work, query.wait)

    @routes.get("/orders")
    async def orders() -> Response:
        account_id = parts.account(decoding.query(decoding.Account).account_id)
        views = await parts.tables.orders(account_id, trading_day(parts.clock.now()))
        return as_json([order_json(view) for view in views])

    @routes.get("/orders/<order_id>")
    async def order(order_id: str) -> Response:
        account_id = parts.account(decoding.query(decoding.Account).account_id)
        view = await parts.tables.order(account_id, order_id)
        if view is None:
            raise not_found(f"order {order_id!r} of account {account_id!r}")
        events = await parts.tables.order_events(account_id, order_id)
        return as_json({**order_json(view), "history": [event_json(event) for event in events]})

    @routes.get("/tasks")
    async def tasks() -> Response:
        query = decoding.query(TaskQuery)
        found = await parts.tables.tasks(
            account_id=query.account_id,
            status=query.status,
            batch_id=query.batch_id,
            before=query.cursor,
            limit=query.limit,
        )
        cursor = found[-1].task_id if len(found) == query.limit else None
        return as_json({"tasks": [task_json(task) for task in found], "cursor": cursor})

    @routes.get("/tasks/stats")
    async def statistics() -> Response:
        rows = await parts.tables.task_statistics()
        return as_json(
            {
                status: {"count": count, "avg_attempts": round(attempts, 3)}
                for status, count, attempts in rows
            }
        )

    @routes.get("/tasks/<task_id>")
    async def task(task_id: str) -> Response:
        found = await parts.tables.task(task_id)
        if found is None:
            raise not_found(f"task {task_id!r}")
        sends = await parts.tables.attempts(task_id)
        return as_json({**task_json(found), "sends": [attempt_json(send) for send in sends]})

    @routes.post("/tasks/<task_id>/cancel")
    async def cancel_task(task_id: str) -> Response:
        wait = decoding.query(decoding.Wait)
        return await answer(parts.executor.cancel_task(task_id), wait.wait)

    return routes


async def place(parts: Parts, asked: AnyRequest, raw: bytes) -> Answer:
    """`POST /orders`."""
    wait = decoding.query(decoding.Wait, asked).wait
    key = decoding.idempotency_key(asked)
    body, sent = decoding.read(raw, OrderBody)
    account_id = parts.account(body.account_id)
    work = parts.executor.submit_order(account_id, body.order(), client_key(key, "place", sent))
    return await answered(parts, work, wait)


async def answered(parts: Parts, work: Awaitable[Submitted], seconds: float) -> Answer:
    """What became of a task: once it is durable, or finished if that takes no longer."""
    submitted = accepted(await work)
    task = submitted.task
    if seconds and not task.finished:
        done = await parts.within(seconds, parts.executor.finished_task(task.task_id))
        task = done or await parts.tables.task(task.task_id) or task
    status = HTTPStatus.OK if seconds and task.finished else HTTPStatus.ACCEPTED
    headers = {"Location": f"/tasks/{task.task_id}", **REPLAYED[submitted.replayed]}
    return json_answer(task_json(task), status.value, headers)


def client_key(key: str | None, *asked: object) -> ClientKey | None:
    """The client's key with the hash of all that it asks for."""
    return None if key is None else ClientKey(key, decoding.request_hash(*asked))


def accepted(submitted: Submitted) -> Accepted:
    """The acceptance, or the `Problem` that says why there is none."""
    if isinstance(submitted, Accepted):
        return submitted
    raise refusal(submitted)


def refusal(submitted: Submitted | SubmittedBatch) -> Problem:
    """Why nothing was stored."""
    match submitted:
        case Denied(code=code, field=field, message=message, leg=leg):
            path = field if leg is None else f"orders[{leg}].{field}"
            problem = bad_fields([(path, message)])
            problem.members["code"] = code
            return problem
        case KeyConflict():
            return bad_fields([("Idempotency-Key", "was used before, for another request")])
        case Overloaded():
            return overloaded()
        case Unchecked():
            return unchecked()
        case NotFound():
            return not_found("such order or task")
        case Unanswered(name=name):
            return unanswered(name)
        case Accepted() | AcceptedBatch():
            message = "an acceptance is no refusal"
            raise AssertionError(message)


def as_json(
    value: object, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """A JSON answer."""
    return json_answer(value, status.value, headers).response()


def _time(instant: datetime | None) -> str | None:
    return None if instant is None else iso(instant)


def task_json(task: OrderTask) -> dict[str, Any]:
    """A task on the wire: the mission document's fields first, then ours."""
    return {
        "task_id": task.task_id,
        "idempotency_key": task.idempotency_key,
        "operation": task.operation,
        "params": task.params,
        "status": task.status,
        "attempts": task.attempts,
        "max_attempts": task.max_attempts,
        "created_at": iso(task.created_at),
        "updated_at": iso(task.updated_at),
        "last_error": task.last_error,
        "result": task.result,
        "account_id": task.account_id,
        "phase": task.phase,
        "reason": task.reason,
        "may_be_at_broker": task.may_be_at_broker,
        "order_id": task.order_id,
        "batch_id": task.batch_id,
        "leg": task.leg,
        "broker_tag": task.broker_tag,
        "expires_at": _time(task.expires_at),
    }


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    """One send of a task."""
    return {
        "send": attempt.send,
        "broker_tag": attempt.broker_tag,
        "sent_at": iso(attempt.sent_at),
        "answered_at": _time(attempt.answered_at),
        "outcome": attempt.outcome,
        "detail": attempt.detail,
    }


def order_json(view: OrderView) -> dict[str, Any]:
    """An order of the merged view: Kite's fields first, then ours."""
    return {**view.data(), "account_id": view.account_id, "order_version": view.version}


def event_json(event: Event) -> dict[str, Any]:
    """One event of an order's history."""
    return {
        "sequence": event.sequence,
        "event_id": event.event_id,
        "event": event.event,
        "timestamp": iso(event.created_at),
        "order_version": event.order_version,
        "data": event.data,
    }
