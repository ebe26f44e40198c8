"""Checks of our own, before anything is stored.

What they refuse is *denied*, never *rejected*: that is the exchange's word.
"""

from ticker_actors.model.orders import FieldProblem, OrderChanges, PlaceOrder


def denial(order: PlaceOrder | OrderChanges, max_quantity: int) -> FieldProblem | None:
    """The field and the reason for which this order is not taken, or None."""
    if order.quantity is not None and order.quantity > max_quantity:
        return "quantity", f"is more than this service allows (MAX_ORDER_QUANTITY={max_quantity})"
    return None
