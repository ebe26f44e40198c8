"""Cancel and modify tasks have a goal: what their order shall show. The order alone decides."""

from collections.abc import Mapping
from datetime import datetime

from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.tasks import GoalMissed, GoalReached, OrderTask


def verdict(task: OrderTask, order: BrokerOrder, at: datetime) -> GoalReached | GoalMissed | None:
    """Whether the order shows what the task wants, can never show it, or neither (yet)."""
    result = {
        "order_id": order.order_id,
        "status": order.status,
        "filled_quantity": order.filled_quantity,
    }
    if task.operation == "cancel_order":
        if order.status == "CANCELLED":
            return GoalReached(at, result)
    elif _shows(order, task.params["changes"]) and (
        # An order that ended with the new values had them first, unless nobody asked for them.
        not order.terminal or (task.sends > 0 and order.status != "REJECTED")
    ):
        return GoalReached(at, result)
    if order.terminal:
        return GoalMissed(at, result, f"Too late: the order is {order.status}.")
    return None


def _shows(order: BrokerOrder, changes: Mapping[str, object]) -> bool:
    return all(getattr(order, name) == value for name, value in changes.items())
