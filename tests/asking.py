"""What tests ask of an executor, and what they insist on."""

from collections.abc import Callable
from typing import Any

import trio

from tests.fakes import ACCOUNT, Process, limit_order
from ticker_actors.actors.requests import Accepted, AcceptedBatch, ClientKey
from ticker_actors.model.orders import OrderChanges, PlaceOrder
from ticker_actors.model.tasks import OrderTask


async def submit(
    process: Process, order: PlaceOrder | None = None, key: ClientKey | None = None
) -> OrderTask:
    """Submit an order that is taken."""
    answer = await process.executor.submit_order(ACCOUNT, order or limit_order(), key)
    assert isinstance(answer, Accepted)
    return answer.task


async def finished(process: Process, task: OrderTask) -> OrderTask:
    """The task at its end."""
    found = await process.executor.finished_task(task.task_id) or await process.connection.task(
        task.task_id
    )
    assert found is not None
    assert found.finished
    return found


async def cancelled(process: Process, order_id: str) -> OrderTask:
    """A cancel task that is taken."""
    answer = await process.executor.cancel_order(ACCOUNT, order_id)
    assert isinstance(answer, Accepted)
    return answer.task


async def modified(process: Process, order_id: str, **changes: Any) -> OrderTask:  # noqa: ANN401
    """A modify task that is taken."""
    answer = await process.executor.modify_order(ACCOUNT, order_id, OrderChanges(**changes))
    assert isinstance(answer, Accepted)
    return answer.task


async def batched(
    process: Process, *orders: PlaceOrder, rollback: bool = True, key: ClientKey | None = None
) -> str:
    """The id of a batch that is taken."""
    answer = await process.executor.submit_batch(
        ACCOUNT, orders, rollback_on_failure=rollback, key=key
    )
    assert isinstance(answer, AcceptedBatch)
    return answer.batch_id


async def batch_answer(process: Process, batch_id: str) -> Any:  # noqa: ANN401  # JSON
    """The batch's answer at its end."""
    answer = await process.executor.finished_batch(batch_id)
    if answer is not None:
        return answer
    batch = process.connection.store.batches[batch_id]
    assert batch.answer is not None
    return batch.answer


async def until(condition: Callable[[], bool]) -> None:
    """Look every (mocked) millisecond until it is so."""
    while not condition():  # noqa: ASYNC110  # of things that tell nobody
        await trio.sleep(0.001)
