"""The way of an order past Quart, which takes longer than all else that a `POST /orders` does here.

Who may come in, how a body is decoded and what is answered is the same code as on the way through
Quart, and every other request goes that way: also one whose body is late, too big or of no known
length.
"""

from collections.abc import Awaitable, Callable, Mapping

import structlog
import trio
from hypercorn.typing import ASGISendCallable, HTTPScope

from ticker_actors.web import clients
from ticker_actors.web.doors import Doors
from ticker_actors.web.parts import Parts
from ticker_actors.web.plain import Answer, AnyRequest, PlainRequest
from ticker_actors.web.problems import Problem, bug, problem_of

Handler = Callable[[Parts, AnyRequest, bytes], Awaitable[Answer]]
"""Answers a request whose body is there. Raises `Problem`."""

_log = structlog.get_logger(__name__)


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

    def takes(self, scope: HTTPScope) -> bool:
        """Whether a request is one of its own, as far as its head tells."""
        if scope["method"] != "POST" or scope["path"] not in self._handlers:
            return False
        size = next((text for name, text in scope["headers"] if name == b"content-length"), None)
        return size is not None and int(size) <= self._most_bytes  # h11 lets only digits pass

    async def answer(self, scope: HTTPScope, body: bytes, send: ASGISendCallable) -> None:
        """Answer one of them."""
        began, asked = trio.current_time(), PlainRequest(scope)
        try:
            self._doors.admit(self._parts, asked)
            answer = await self._handlers[asked.path](self._parts, asked, body)
        except Exception as error:  # noqa: BLE001  # told, and logged where it is a bug
            answer = (problem_of(error) or self._bug(error, asked)).answer()
        seconds = trio.current_time() - began
        self._parts.metrics.http.labels("POST", asked.path, answer.status).observe(seconds)
        answer.headers.update(self._doors.origin_headers(asked))
        headers = answer.raw_headers()
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})

    def _bug(self, error: Exception, asked: PlainRequest) -> Problem:
        client = clients.address(asked, self._parts.settings.proxies)
        _log.error("request failed", path=asked.path, client=client, exc_info=error)
        return bug()
