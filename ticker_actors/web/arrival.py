"""Whether a request had come whole when it was answered: if not, its connection cannot live on."""

from contextlib import suppress

import trio
from quart import Response, g, request
from werkzeug.exceptions import HTTPException

REST_SECONDS = 0.2
"""How long a refused request may take to arrive, for its connection to live on."""


async def hang_up_unless_arrived(response: Response) -> None:
    """Say so when this answer ends the connection, because only a part of the request was read.

    Else a client would send its next request into a connection that is being closed.
    """
    if not await _arrived():
        response.headers["Connection"] = "close"


async def _arrived() -> bool:
    if g.get("body_read"):
        return True
    if request.content_length is None and "Transfer-Encoding" not in request.headers:
        return True
    with trio.move_on_after(REST_SECONDS), suppress(HTTPException):
        await request.get_data(as_text=False)
        return True
    return False
