"""`/advanced/batch-orders`: several orders as one, answered when it is finished."""

from http import HTTPStatus
from typing import Annotated

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from ticker_actors.actors.requests import (
    AcceptedBatch,
)
from ticker_actors.model.batches import MAX_LEGS
from ticker_actors.model.orders import PlaceOrder
from ticker_actors.web import decoding
from ticker_actors.web.decoding import AccountId
from ticker_actors.web.parts import Parts
from ticker_actors.web.plain import Answer, AnyRequest, json_answer
from ticker_actors.web.problems import not_found
from ticker_actors.web.tasks import REPLAYED, as_json, client_key, refusal


class BatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /advanced/batch-orders`."""

    orders: Annotated[tuple[PlaceOrder, ...], Meta(min_length=1, max_length=MAX_LEGS)]
    account_id: AccountId = "primary"
    rollback_on_failure: bool = True


def blueprint(parts: Parts) -> Blueprint:
    """The routes of batches."""
    routes = Blueprint("batches", __name__)

    @routes.post("/advanced/batch-orders")
    async def submit() -> Response:
        return (await place(parts, request, await decoding.raw_body())).response()

    @routes.get("/advanced/batch-orders/<batch_id>")
    async def batch(batch_id: str) -> Response:
        decoding.query(decoding.Account)
        answer = await current(parts, batch_id)
        if answer is None:
            raise not_found(f"batch {batch_id!r}")
        return as_json(answer)

    return routes


async def place(parts: Parts, asked: AnyRequest, raw: bytes) -> Answer:
    """`POST /advanced/batch-orders`."""
    wait = decoding.query(decoding.BatchWait, asked).wait
    key = decoding.idempotency_key(asked)
    body, sent = decoding.read(raw, BatchBody)
    submitted = await parts.executor.submit_batch(
        parts.account(body.account_id),
        body.orders,
        rollback_on_failure=body.rollback_on_failure,
        key=client_key(key, "batch", sent),
    )
    if not isinstance(submitted, AcceptedBatch):
        raise refusal(submitted)
    batch_id = submitted.batch_id
    finished = parts.executor.finished_batch(batch_id)
    most = parts.settings.batch_answer_seconds
    answer = await parts.within(most if wait is None else min(wait, most), finished)
    answer = answer or await current(parts, batch_id) or submitted.answer
    status = HTTPStatus.OK if answer["completed_at"] is not None else HTTPStatus.ACCEPTED
    location = {"Location": f"/advanced/batch-orders/{batch_id}"}
    return json_answer(answer, status.value, {**location, **REPLAYED[submitted.replayed]})


async def current(parts: Parts, batch_id: str) -> dict[str, object] | None:
    """What is true of a batch now, or was when it finished."""
    answer = await parts.executor.batch(batch_id)
    if answer is not None:
        return dict(answer)
    stored = await parts.tables.batch(batch_id)
    return None if stored is None else stored.answer
