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
"""

import sys

if "structlog" not in sys.modules:
    # structlog imports Twisted wherever it is installed, and kiteconnect has it installed.
    sys.modules["structlog.twisted"] = None  # type: ignore[assignment]  # Python: "do not import"
    import structlog as structlog  # only so that it is loaded

    del sys.modules["structlog.twisted"]
