"""Streams to Kite's ticker, which have proved whose they are before a byte of ours is sent."""

import ssl
from collections.abc import Awaitable, Callable

import trio

from ticker_actors.brokers.kite.root import TickerUrl

Dial = Callable[[TickerUrl], Awaitable[trio.abc.Stream]]
"""Raises OSError, UnicodeError or trio.BrokenResourceError for what `cause` has words."""


def tls_dial(context: ssl.SSLContext | None = None) -> Dial:
    """Dials that check the server's certificate before a byte of ours is sent."""
    trusted = context or ssl.create_default_context()

    async def dial(url: TickerUrl) -> trio.abc.Stream:
        plain = await trio.open_tcp_stream(url.host, url.port)
        if not url.tls:
            return plain
        secure = trio.SSLStream(plain, trusted, server_hostname=url.host, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:  # cancelled or not, it is raised again
            await trio.aclose_forcefully(plain)
            raise
        return secure

    return dial


def cause(error: BaseException) -> str:
    """The system's or TLS's own words, from the error at the bottom."""
    while True:
        match error:
            case trio.TooSlowError():
                return "it took too long"
            case BaseExceptionGroup(exceptions=(error, *_)):
                pass
            case BaseException(__cause__=BaseException() as error):
                pass
            case _:
                return getattr(error, "strerror", None) or str(error) or type(error).__name__
