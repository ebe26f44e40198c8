"""Kite's ticker as the feed of one account's order updates.

Kite pushes updates of all orders of the account, with no subscription, and repeats none that was
missed: so the feed says when it is down and when it is up again, and the lane reads the book. Ticks
of prices are not asked for; `exchange.packets` reads them.

What the official Python client does not do: it checks the server's certificate before the token is
sent, notices a connection that died without a word, and stops asking with a dead token.
"""

from dataclasses import dataclass
from math import inf
from typing import Self, cast
from urllib.parse import quote

import h11
import structlog
import trio
import wsproto.utilities
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from ticker_actors.brokers.kite import messages
from ticker_actors.brokers.kite.dial import Dial
from ticker_actors.brokers.kite.messages import Garbled, Notice, OrderReader
from ticker_actors.brokers.kite.root import TickerUrl
from ticker_actors.brokers.kite.session import Session
from ticker_actors.brokers.pushed import Pushed
from ticker_actors.http1 import cause
from ticker_actors.model.ids import Chance
from ticker_actors.model.orders import BrokerOrder
from ticker_actors.model.outcomes import FeedBack, FeedItem, FeedLost

CONNECT_SECONDS = 5.0
"""From the look-up to the end of the upgrade. With the silence that may follow, a feed that fails
is told within the 10 s that the order protocol allows."""
SILENCE_SECONDS = 5.0
"""Without any frame, the connection is given up. Kite sends a heartbeat every second or two, and
the official Go and JavaScript clients wait as long. A ping counts, for nobody but the server sends
one; so does each part of a long message on a slow line."""
WORDLESS_SECONDS = 15.0
"""Frames alone keep a connection for so long: a ticker whose server still answers, but whose source
has died, pings and tells nothing. Before its first message it is not believed even that."""
FIRST_BACKOFF = 1.0
MOST_BACKOFF = 60.0
"""Seconds between attempts, doubled each time: the official clients' own."""
JITTER = 0.2
"""Part of a back-off that chance moves it by, so that accounts do not come in step."""
STEADY_SECONDS = 30.0
"""A connection that stood as long was a good one, and the next back-off begins anew. One that is
dropped at once, again and again, must not fill the event log with its coming and going."""
DOUBT_SECONDS = 2.0
"""At most so often is a message that cannot be understood told, and the book read for it: as often
as without a feed."""
MAX_MESSAGE_BYTES = 1024 * 1024
"""Twice the largest frame of Kite's: 3 000 instruments in mode full."""
PUSHED_SIZE = 1_000
"""Updates that wait for the reader. More are dropped, and it is told to read the book."""

HEADERS = [(b"X-Kite-Version", b"3"), (b"User-Agent", b"ticker-actors")]
NO_LOGIN = "There is no access token: log in."

_EDGE = (
    OSError,
    UnicodeError,
    h11.ProtocolError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    wsproto.utilities.ProtocolError,
    ConnectionClosed,
    ConnectionRejected,
)
"""What a server or a network can make trio-websocket raise."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _End:
    """Why there is no connection."""

    message: str
    needs_login: bool = False
    """Whether another attempt with the same token is of no use."""


class _Heard(trio.abc.ReceiveStream):
    """What a stream receives, and when it last received something.

    trio-websocket tells of whole messages only: the frames of pings and of parts are seen here.
    """

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self.at = trio.current_time()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        received = await self._stream.receive_some(max_bytes)
        self.at = trio.current_time()
        return received

    async def aclose(self) -> None:
        await self._stream.aclose()


class KiteFeed:
    """Order updates of one account, for one reader, while `run` runs.

    Iteration ends when `run` does; `aclose` ends both. No token is in a log or message of it.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # the parts it joins
        self,
        account_id: str,
        url: TickerUrl,
        session: Session,
        read_order: OrderReader,
        chance: Chance,
        dial: Dial,
    ) -> None:
        """`dial` is `dial.tls_dial()`, but in tests."""
        self._url = url
        self._session = session
        self._read_order = read_order
        self._chance = chance
        self._dial = dial
        self._log = _log.bind(account_id=account_id)
        self._scope = trio.CancelScope()
        self._pushed = Pushed(PUSHED_SIZE)
        self._up: bool | None = None
        self._last_end = ""
        self._garbled: Garbled | None = None
        self._doubt_at = -inf

    def __repr__(self) -> str:
        state = {None: "not yet up", True: "up", False: "lost"}[self._up]
        return f"<KiteFeed {self._url.authority}, {state}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FeedItem:
        return await anext(self._pushed)

    def take_nowait(self) -> FeedItem | None:
        """The next item if it is there already."""
        return self._pushed.take_nowait()

    async def aclose(self) -> None:
        """Cut the connection, and let `run` and the reader end.

        There is no closing handshake: the end of the stream says the same, and waits for nobody.
        """
        self._scope.cancel()
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Keep the connection up, or try to, until `aclose`."""
        try:
            with self._scope:
                await self._keep_up()
        finally:
            self._pushed.close()

    async def _keep_up(self) -> None:
        failures = 0
        while True:
            token, began = self._session.access_token, trio.current_time()
            end = await self._connection(token)
            self._lose(end.message)
            if trio.current_time() - began >= STEADY_SECONDS:
                failures = 0
            with trio.move_on_after(inf if end.needs_login else self._backoff(failures)):
                await self._session.wait_changed(token)
            failures = failures + 1 if self._session.access_token == token else 0

    def _backoff(self, failures: int) -> float:
        seconds = min(MOST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures, 16))
        return seconds * (1 + JITTER * (self._chance(16) / 2**15 - 1))

    async def _connection(self, token: str | None) -> _End:
        """One connection, from first to last, for as long as its token is the newest."""
        if not token:
            return _End(NO_LOGIN, needs_login=True)
        end = _End("There is a new access token.")

        async def end_with_token() -> None:
            await self._session.wait_changed(token)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_with_token)
            end = await self._attempt(token)
            nursery.cancel_scope.cancel()
        return end

    async def _attempt(self, token: str) -> _End:
        deadline = trio.current_time() + CONNECT_SECONDS
        try:
            with trio.fail_at(deadline):
                stream = await self._dial(self._url)
        except (OSError, UnicodeError, trio.BrokenResourceError, trio.TooSlowError) as error:
            return _End(f"There is no connection to {self._url.authority}: {cause(error)}.")
        end, heard = _End(""), _Heard(stream)
        try:
            async with trio.open_nursery() as reader:
                with trio.fail_at(deadline):
                    line = trio.StapledStream(stream, heard)
                    socket = await self._upgraded(reader, line, token)
                end = await self._converse(socket, heard, token)
                reader.cancel_scope.cancel()
        except* _EDGE as group:
            end = _judged(group)
        finally:
            await trio.aclose_forcefully(stream)
        return end

    async def _upgraded(
        self, reader: trio.Nursery, stream: trio.abc.Stream, token: str
    ) -> WebSocketConnection:
        return await wrap_client_stream(
            reader,
            cast("trio.SocketStream", stream),  # any stream will do, whatever its signature says
            self._url.authority,
            self._url.target(self._session.api_key, token),
            extra_headers=HEADERS,
            max_message_size=MAX_MESSAGE_BYTES,
        )

    async def _converse(self, socket: WebSocketConnection, heard: _Heard, token: str) -> _End:
        told, patience = trio.current_time(), SILENCE_SECONDS
        while (until := min(heard.at + SILENCE_SECONDS, told + patience)) > trio.current_time():
            with trio.move_on_at(until):
                message = await socket.get_message()
                self._hear(message, token)
                told, patience = trio.current_time(), WORDLESS_SECONDS
        if heard.at + SILENCE_SECONDS <= until:
            return _End(f"The ticker was silent for {SILENCE_SECONDS:g} s.")
        return _End(f"The ticker told nothing for {patience:g} s.")

    def _hear(self, message: str | bytes, token: str) -> None:
        """Take one message. The first one shows that the connection works, whatever it says."""
        if not self._up:
            self._up = True
            self._last_end = ""
            self._pushed.push(FeedBack())
        if isinstance(message, str):
            match messages.read(message, self._read_order):
                case BrokerOrder() as order:
                    self._pushed.push(order)
                case Notice(kind=kind, text=text):
                    self._log.warning("ticker says", kind=kind, text=_without(token, text))
                case Garbled() as garbled:
                    self._garbled = garbled
        if self._garbled is not None and trio.current_time() >= self._doubt_at:
            self._doubt(self._garbled, token)

    def _doubt(self, garbled: Garbled, token: str) -> None:
        """What could not be understood may have been an update, so the book is to be read."""
        self._garbled = None
        self._doubt_at = trio.current_time() + DOUBT_SECONDS
        problem, raw = _without(token, garbled.problem), _without(token, garbled.raw)
        self._log.error("ticker message not understood", problem=problem, raw=raw)
        self._pushed.push(FeedLost(f"A message of the ticker was not understood: {problem}"))
        self._pushed.push(FeedBack())

    def _lose(self, message: str) -> None:
        """The reader is told once; the log, of each new reason."""
        if message != self._last_end:
            self._log.warning("ticker down", reason=message)
        self._last_end = message
        if self._up is not False:
            self._up = False
            self._pushed.push(FeedLost(message))


def _judged(group: BaseExceptionGroup[BaseException]) -> _End:
    """Why a connection ended. In words of our own: what a server says may repeat the token."""
    match _first(group):
        case ConnectionRejected(status_code=403):
            return _End("Kite refused the access token (403): log in.", needs_login=True)
        case ConnectionRejected(status_code=status):
            return _End(f"The ticker refused the connection ({status}).")
        case ConnectionClosed(reason=reason):
            code = "no code" if reason is None else f"code {reason.code}"
            return _End(f"The ticker's connection was closed ({code}).")
        case trio.TooSlowError():
            return _End("The ticker's upgrade took too long.")
        case error:
            return _End(f"The ticker's connection broke ({type(error).__name__}).")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _without(token: str, text: str) -> str:
    """A text from outside, with the token made unreadable wherever it stands."""
    return text.replace(token, "[token]").replace(quote(token, safe=""), "[token]")
