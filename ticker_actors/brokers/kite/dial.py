"""Streams to Kite's ticker, which have proved whose they are before a byte of ours is sent."""

import ssl
from collections.abc import Awaitable, Callable

import trio

from ticker_actors.brokers.kite.root import TickerUrl
from ticker_actors.http1 import encrypt

Dial = Callable[[TickerUrl], Awaitable[trio.abc.Stream]]
"""Raises OSError, UnicodeError or trio.BrokenResourceError for what `http1.cause` has words."""


def tls_dial(context: ssl.SSLContext | None = None) -> Dial:
    """Dials that check the server's certificate before a byte of ours is sent."""
    trusted = context or ssl.create_default_context()

    async def dial(url: TickerUrl) -> trio.abc.Stream:
        plain = await trio.open_tcp_stream(url.host, url.port)
        if not url.tls:
            return plain
        return await encrypt(plain, trusted, url.host)

    return dial
