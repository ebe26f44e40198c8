"""Ticker Actors: a durable order service for Kite Connect.

The map of the package, from the edge inwards; a module imports only from rooms below its own:

- `__main__`   the command line
- `service`    opens every part in order: the picture of the whole
- `web`        HTTP and WebSocket: decoding, doors, answers
- `actors`     the four actors and the lane an account has at its broker
- `brokers`    what places orders: the paper exchange now, Kite Connect later
- `store`      the durable tables
- `exchange`   the paper exchange itself: matching, prices, its own file
- `settings`   the environment, decoded once
- `model`      pure tables and decisions, without clock, chance or I/O
- `mailbox`, `log`, `metrics`  what everything above may use

As a library it gives `TaskStore`, its `OrderTask` and `TaskStatus`, and what they raise. They are
imported when they are asked for: the rest of the package does without them.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ticker_actors.model.saved import NotSaved
    from ticker_actors.model.tasks import TaskStatus
    from ticker_actors.store.tables import StoreError
    from ticker_actors.store.task_store import OrderTask, TaskStore

if "structlog" not in sys.modules:
    # structlog imports Twisted wherever it is installed, and kiteconnect has it installed.
    sys.modules["structlog.twisted"] = None  # type: ignore[assignment]  # Python: "do not import"
    import structlog as structlog  # only so that it is loaded

    del sys.modules["structlog.twisted"]

__all__ = ["NotSaved", "OrderTask", "StoreError", "TaskStatus", "TaskStore"]

_HOMES = {
    "NotSaved": "ticker_actors.model.saved",
    "OrderTask": "ticker_actors.store.task_store",
    "StoreError": "ticker_actors.store.tables",
    "TaskStatus": "ticker_actors.model.tasks",
    "TaskStore": "ticker_actors.store.task_store",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
