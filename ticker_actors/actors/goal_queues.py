"""Cancels and modifies under way: they queue at their order, and its state settles them."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from ticker_actors.model.calendar import Moment
from ticker_actors.model.order_keys import Keys, order_key
from ticker_actors.model.tasks import OrderTask, Phase


class GoalQueues:
    """Those of one account that are not finished, by order, in the order in which they came."""

    def __init__(self, tasks: Mapping[str, OrderTask]) -> None:
        """`tasks`: those that the ledger holds, as they stand."""
        self._tasks = tasks
        self._queues: dict[str, list[str]] = {}

    def __contains__(self, order_id: object) -> bool:
        return order_id in self._queues

    def __iter__(self) -> Iterator[str]:
        """The orders for which there are any."""
        return iter(self._queues)

    def add(self, task: OrderTask) -> None:
        """The last of its order."""
        self._queues.setdefault(task.order_id or "", []).append(task.task_id)

    def remove(self, task: OrderTask) -> None:
        """It is finished."""
        order_id = task.order_id or ""
        queue = self._queues.get(order_id, [])
        if task.task_id in queue:
            queue.remove(task.task_id)
        if not queue:
            self._queues.pop(order_id, None)

    def of(self, order_id: str | None) -> Iterator[OrderTask]:
        """Those of an order, each as it stands when it is reached."""
        for task_id in tuple(self._queues.get(order_id or "", ())):
            yield self._tasks[task_id]

    def sendable(self, now: Moment) -> Iterator[OrderTask]:
        """Those that may go out: one an order at a time, cancels first.

        All are to be taken before any is changed.
        """
        for queue in self._queues.values():
            waiting = [self._tasks[task_id] for task_id in queue]
            if any(task.phase is Phase.SENT for task in waiting):
                continue
            cancels = [task for task in waiting if task.operation == "cancel_order"]
            task = (cancels or waiting)[0]
            due = task.next_attempt_at is None or task.next_attempt_at <= now.at
            if task.phase in {Phase.QUEUED, Phase.WAITING} and due:
                yield task

    def any_resolving(self) -> bool:
        """Whether any waits for its order to show what became of it."""
        return any(
            self._tasks[task_id].phase is Phase.RESOLVING
            for queue in self._queues.values()
            for task_id in queue
        )

    def undone(self, shown: Keys | None, began: datetime, now: datetime) -> Iterator[OrderTask]:
        """Those that a read of the book, begun after their answer, shows undone: to be sent again.

        `shown`: the keys of the only orders of which the read says anything; None when it is a
        valid one. Each as it stands when it is reached.
        """
        for task_id in [name for queue in self._queues.values() for name in queue]:
            task = self._tasks[task_id]
            if (
                task.phase is Phase.RESOLVING
                and task.updated_at < began
                and (task.next_attempt_at is None or task.next_attempt_at <= now)
                and (shown is None or order_key(task.order_id or "") in shown)
            ):
                yield task

    def superseded(self, newer: OrderTask) -> Iterator[OrderTask]:
        """Modifications that wait to be sent, and whose place a later one of their order takes."""
        for older in self.of(newer.order_id):
            if (
                older.task_id != newer.task_id
                and older.operation == newer.operation == "modify_order"
                and older.phase in {Phase.QUEUED, Phase.WAITING}
            ):
                yield older
