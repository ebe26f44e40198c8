"""The way of an order past Hypercorn's streams and Quart: they take longer than all else about it.

Only the plainest requests go this way, in the form that every client sends: one `POST` to a known
path, with a length, whose body is there or follows at once. They are told apart by one expression,
which takes only what all parsers of HTTP read alike. Everything else is for h11 and Quart, broken
requests too: until a request is taken here nothing of it has been done. Who may come in, how a body
is decoded and what is answered is the same code on both ways.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
import trio

from ticker_actors.web import clients
from ticker_actors.web.doors import Doors
from ticker_actors.web.parts import Parts
from ticker_actors.web.plain import Answer, AnyRequest, PlainRequest
from ticker_actors.web.problems import Problem, bug, problem_of

Handler = Callable[[Parts, AnyRequest, bytes], Awaitable[Answer]]
"""Answers a request whose body is there. Raises `Problem`."""

MOST_HEAD_BYTES = 16 * 1024
MOST_DIGITS = 20
"""Of a length. Both as h11 has them."""
END = b"\r\n\r\n"
STORED_ONLY = "/orders"
"""Without a query, such as `?wait`, it is answered as soon as it is stored."""
_NAME = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"(?:[!-~](?:[\t -~]*[!-~])?)?"
"""A header is a token and printable ASCII (RFC 9112, 5), on one line."""
_fields = re.compile(rb"(%b):[ \t]*+(%b)[ \t]*+\r\n" % (_NAME, _VALUE)).findall
_head = re.compile(
    rb"POST (/[a-z/-]*)(?:\?([!-~]*))? HTTP/1\.1\r\n((?:%b:[ \t]*+%b[ \t]*+\r\n)++)\r\n"
    % (_NAME, _VALUE)
).fullmatch
_SPECIAL = {b"transfer-encoding", b"expect", b"upgrade"}
"""These change how a request is read or answered."""
_ONCE = (b"host", b"content-length")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """The head of a request that goes this way."""

    request: PlainRequest
    begin: int
    """Where its body begins in the bytes that it was read from."""
    end: int
    """And where it ends, or will end when all has come."""
    waits: bool
    """Whether the answer may wait for its orders to be done, not only to be stored."""


class Express:
    """Answers `POST`s to a few paths."""

    def __init__(
        self, parts: Parts, doors: Doors, handlers: Mapping[str, Handler], most_bytes: int
    ) -> None:
        """`handlers`: by path. `most_bytes`: of a body."""
        self._parts = parts
        self._doors = doors
        self._handlers = handlers
        self._most_bytes = most_bytes

    def read(self, data: bytes, client: tuple[str, int] | None) -> Taken | None:
        """The one request that these bytes are, or begin. None: this is not for here."""
        begin = data.find(END, 0, MOST_HEAD_BYTES) + len(END)
        if not (match := _head(data, 0, begin)) or match[1].decode() not in self._handlers:
            return None
        headers = [(name.lower(), value) for name, value in _fields(match[3])]
        size = _size(headers)
        if size is None or size > self._most_bytes or len(data) > begin + size:
            return None  # the last: the next request has come too
        request = PlainRequest(match[1].decode(), match[2] or b"", headers, client)
        waits = match[2] is not None or request.path != STORED_ONLY
        return Taken(request, begin, begin + size, waits)

    async def answer(self, asked: PlainRequest, body: bytes) -> Answer:
        """Answer one of them."""
        began = trio.current_time()
        try:
            self._doors.admit(self._parts, asked)
            answer = await self._handlers[asked.path](self._parts, asked, body)
        except Exception as error:  # noqa: BLE001  # told, and logged where it is a bug
            answer = (problem_of(error) or self._bug(error, asked)).answer()
        seconds = trio.current_time() - began
        self._parts.metrics.http("POST", asked.path, str(answer.status)).observe(seconds)
        answer.headers.update(self._doors.origin_headers(asked))
        return answer

    def _bug(self, error: Exception, asked: PlainRequest) -> Problem:
        client = clients.address(asked, self._parts.settings.proxies)
        _log.error("request failed", path=asked.path, client=client, exc_info=error)
        return bug()


def _size(headers: list[tuple[bytes, bytes]]) -> int | None:
    """The bytes of a body; None when anything else is said about how to read or answer it."""
    names = [name for name, _ in headers]
    if any(names.count(name) != 1 for name in _ONCE) or not _SPECIAL.isdisjoint(names):
        return None
    if any(name == b"connection" and value.lower() != b"keep-alive" for name, value in headers):
        return None
    length = headers[names.index(b"content-length")][1]
    return int(length) if length.isdigit() and len(length) <= MOST_DIGITS else None
