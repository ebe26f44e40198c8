"""What one stimulus changes: decided at once, committed as one transaction, told afterwards."""

from dataclasses import dataclass, field

from ticker_actors.model.accounts import Standing
from ticker_actors.model.batches import Batch
from ticker_actors.model.changes import Attempt, Change, Key
from ticker_actors.model.events import Event
from ticker_actors.model.orders import OrderView
from ticker_actors.model.tasks import OrderTask


@dataclass(slots=True)
class Draft:
    """A change in the making. Rows written twice are written once, as they came to be last."""

    key: Key | None = None
    tasks: dict[str, OrderTask] = field(default_factory=dict)
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    orders: dict[str, OrderView] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    endings: list[Event] = field(default_factory=list)
    """`task_status` events: they follow the orders' own within a transaction."""
    touched: dict[str, None] = field(default_factory=dict)
    """Batches of which something changed, in order."""
    ended: list[OrderTask] = field(default_factory=list)
    """Tasks that finished by this."""
    calls: list[str] = field(default_factory=list)
    """Tasks to be sent once this is durable."""

    standing: Standing | None = None
    """The account's new state."""

    def __bool__(self) -> bool:
        rows = self.tasks or self.attempts or self.orders or self.batches or self.standing
        return bool(rows or self.events or self.endings)

    def change(self, account_id: str) -> Change:
        """The transaction."""
        return Change(
            account_id=account_id,
            key=self.key,
            tasks=tuple(self.tasks.values()),
            attempts=tuple(self.attempts.values()),
            orders=tuple(self.orders.values()),
            batches=tuple(self.batches.values()),
            standing=self.standing,
            events=(*self.events, *self.endings),
        )
