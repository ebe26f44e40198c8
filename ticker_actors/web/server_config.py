"""How the HTTP server treats its clients: sizes, times and numbers."""

import logging
import sys

from hypercorn.config import Config


class ServerConfig(Config):
    """Hypercorn's settings as we want them, and our own. Times in seconds, sizes in bytes."""

    backlog = 1024
    errorlog = logging.getLogger("hypercorn.error")  # the application's own handlers
    include_server_header = False
    keep_alive_max_requests = sys.maxsize  # Hypercorn hangs up on a busy client after 1 000
    keep_alive_timeout = 75.0  # more than proxies keep theirs, so that they hang up first
    websocket_max_message_size = 4096
    websocket_ping_interval = 20.0

    most_connections: int | None = None
    """Open at once; more are turned away with 503. None: as many as the limit on files allows."""
    first_request_timeout = 10.0
    """How long a new connection may take to send the whole head of its first request."""
    silence_timeout = 45.0
    """A WebSocket client that sends nothing, not even pongs, for this long is closed."""
    send_timeout = 3.0
    """A client that takes no byte for this long is cut."""
    receive_timeout = 10.0
    """A WebSocket whose handler takes no message for this long is closed: it would miss its end."""
    linger_timeout = 1.0
    """How long a client may take to hang up after we did."""
    stop_timeout = 2.0
    """How long requests may still run when the server stops."""
    farewell_timeout = 1.0
    """How long a WebSocket's client may then take to read its 1012, and to hang up."""
    lifespan_timeout = 1.0
    """How long `after_serving` may then take: never save anything there."""
    send_buffer = 64 * 1024
    """In the kernel, a client; with the default it takes over 1 MB until a slow one shows."""
    user_timeout = 15.0
    """TCP gives up on a peer that acknowledges nothing; below 10 s a mere pause would be cut."""
