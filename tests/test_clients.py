"""Whose request it was, in the log."""

import pytest
from quart import g, request, websocket
from quart.testing.connections import WebsocketResponseError
from quart_trio import QuartTrio
from structlog.testing import capture_logs

from ticker_actors.model.proxies import networks
from ticker_actors.web import clients
from ticker_actors.web.app import answer_errors

TRUSTED = networks(["10.0.0.0/8"])


def failing() -> QuartTrio:
    """An application with nothing but bugs."""
    app = QuartTrio(__name__)
    answer_errors(app)

    @app.before_request
    async def enter() -> None:
        g.client = clients.address(request, TRUSTED)

    @app.route("/bug")
    async def bug() -> str:
        raise RuntimeError("our bug")

    @app.websocket("/bug")
    async def stream_bug() -> None:
        g.client = clients.address(websocket, TRUSTED)
        raise RuntimeError("our bug")

    return app


async def test_a_bug_is_logged_with_its_client() -> None:
    """That of the request or of the stream, read through the proxy that is trusted."""
    client = failing().test_client()
    came = {"X-Forwarded-For": "198.51.100.1"}
    scope = {"client": ("10.0.0.1", 4711)}
    with capture_logs() as logs:
        assert (await client.get("/bug", headers=came, scope_base=scope)).status_code == 500
        with pytest.RaisesGroup(WebsocketResponseError):
            async with client.websocket("/bug", headers=came, scope_base=scope) as stream:
                await stream.receive()
    assert [(line["event"], line["client"]) for line in logs] == [
        ("request failed", "198.51.100.1")
    ] * 2
