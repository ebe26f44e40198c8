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
