"""How a server is asked to end."""

import os
import signal

import structlog
import trio

_log = structlog.get_logger(__name__)


async def stop_on_signal(stopping: trio.Event) -> None:
    """SIGTERM and SIGINT ask for a clean end; a second one ends at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if stopping.is_set():
                os._exit(1)
            _log.info("stopping", signal=signal.Signals(number).name)
            stopping.set()
