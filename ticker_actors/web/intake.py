"""A request's way from the connection into Quart and back, in one task.

Hypercorn hands what a client sends through a channel, from which Quart-Trio takes it in a second
task, beside the handler's, in a nursery: four turns of the scheduler before a handler has its body.
Here the body is put straight into the request, and a client that leaves ends the handler's scope.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)
from quart.typing import ResponseTypes
from quart.utils import encode_headers
from quart.wrappers.response import DataBody
from quart_trio.asgi import TrioASGIHTTPConnection

PIECES_A_TURN = 32
"""Pieces of a body that are taken without a pause: a client may send it byte by byte."""


class _Body(Protocol):
    """What is used of a request's body."""

    def append(self, data: bytes) -> None: ...
    def set_complete(self) -> None: ...


class Intake:
    """What a client sends for one request: kept until the request is there, then put into it."""

    def __init__(self) -> None:
        self.handler = trio.CancelScope()
        """Cancelled when the client leaves."""
        self._early: list[ASGIReceiveEvent] = []
        self._body: _Body | None = None
        self._pieces = 0

    async def put(self, message: ASGIReceiveEvent) -> None:
        """Called by the connection."""
        if message["type"] == "http.disconnect":
            self.handler.cancel()
        elif self._body is None:
            self._early.append(message)
        else:
            self._take(message, self._body)
        self._pieces += 1
        if self._pieces % PIECES_A_TURN == 0:
            await trio.lowlevel.checkpoint()

    def connect(self, body: _Body) -> None:
        """Called by the application: from now on it goes into this body."""
        self._body = body
        for message in self._early:
            self._take(message, body)
        self._early.clear()

    async def receive(self) -> ASGIReceiveEvent:
        """What makes it a channel for Hypercorn; nobody receives from it."""
        raise AssertionError

    def _take(self, message: ASGIReceiveEvent, body: _Body) -> None:
        if message["type"] == "http.request":
            body.append(message["body"])
            if not message["more_body"]:
                body.set_complete()


class Tasks(TaskGroup):
    """The tasks of a connection; each request has one."""

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start what handles a request or WebSocket; what is given takes what its client sends."""
        if scope["type"] != "http":
            return await super().spawn_app(app, config, scope, send)
        intake = Intake()
        self.spawn(
            _handle,
            *(app, config, scope, intake.receive, send),
            *(trio.to_thread.run_sync, trio.from_thread.run),
        )
        return intake.put


class HTTPConnection(TrioASGIHTTPConnection):
    """Handles a request in one task.

    And a body that is there is sent at once; Quart iterates over it, and ends it separately.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Handle the request."""
        intake: Any = getattr(receive, "__self__", None)
        if not isinstance(intake, Intake):  # the application is in a test client
            await super().__call__(receive, send)
            return
        with intake.handler:
            request = self._create_request_from_scope(send)
            intake.connect(request.body)
            response = await self.app.handle_request(request)
            # No more time for it than a client has who takes no byte; see `Connection`.
            await self._send_response(send, response)

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        body = response.response
        if not isinstance(body, DataBody):
            await super()._send_response(send, response)
            return
        headers = encode_headers(response.headers)
        await send(
            {"type": "http.response.start", "status": response.status_code, "headers": headers}
        )
        sent = body.data[body.begin : body.end]
        await send({"type": "http.response.body", "body": sent, "more_body": False})
