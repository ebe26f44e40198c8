"""`/advanced/orders/{account_id}/events`: the log itself, for those who missed some of the stream.

Also what the stream's resume and this catch-up share: what follows a sequence, or that it cannot be
told any more. Never a part of it.
"""

from http import HTTPStatus
from typing import Annotated

import msgspec
from msgspec import Meta
from quart import Blueprint, Response

from ticker_actors.model.events import Event, stream_message
from ticker_actors.web import decoding
from ticker_actors.web.parts import Parts, Tables
from ticker_actors.web.problems import Problem, not_found
from ticker_actors.web.tasks import as_json

MOST_EVENTS = 1000
"""In one answer: about 500 KB."""
LARGEST_SEQUENCE = 2**63 - 1
"""What both databases can compare with."""

Sequence = Annotated[int, Meta(ge=0, le=LARGEST_SEQUENCE)]


class EventsQuery(msgspec.Struct, frozen=True):
    """The query of the catch-up."""

    since: Sequence | None = None
    """The last sequence that the client has. None: from the oldest one kept on."""
    stream: str | None = None
    """The log that `since` is of. None: this one."""
    limit: Annotated[int, Meta(ge=1, le=MOST_EVENTS)] = 500
    wait: Annotated[float, Meta(ge=0, le=decoding.MAX_WAIT_SECONDS)] = 0.0
    """Seconds to wait for an event when there is none yet."""


def blueprint(parts: Parts) -> Blueprint:
    """The route of the log."""
    routes = Blueprint("events", __name__)

    @routes.get("/advanced/orders/<account_id>/events")
    async def events(account_id: str) -> Response:
        query = decoding.query(EventsQuery)
        if account_id not in parts.executor.accounts:
            raise not_found(f"account {account_id!r}")
        log = await parts.hub.watch(account_id)
        if query.since is not None and query.stream not in {None, parts.hub.stream}:
            raise await gone(account_id, log.head)
        since = await start(account_id, log.head) if query.since is None else query.since
        if query.wait and since == log.head:
            await parts.within(query.wait, log.moved.wait())
            log = await parts.hub.watch(account_id)
        found = await events_after(parts.tables, account_id, since, log.head, query.limit)
        if found is None:
            raise await gone(account_id, log.head)
        return as_json(
            {
                "stream": parts.hub.stream,
                "head": max(log.head, found[-1].sequence if found else since),
                "events": [msgspec.Raw(stream_message(event, parts.hub.stream)) for event in found],
            }
        )

    async def start(account_id: str, head: int) -> int:
        oldest = await parts.tables.oldest_event(account_id)
        return head if oldest is None else oldest - 1

    async def gone(account_id: str, head: int) -> Problem:
        return Problem(
            HTTPStatus.GONE,
            "The log cannot tell all that came after that: it is older than what is kept, or of "
            "another stream. Read GET /orders, and go on from `head`.",
            stream=parts.hub.stream,
            head=head,
            oldest=await parts.tables.oldest_event(account_id),
        )

    return routes


async def events_after(
    tables: Tables, account_id: str, since: int, head: int, limit: int
) -> list[Event] | None:
    """The events that follow a sequence, at most `limit`; None when they are not all there.

    `head` is the last sequence published: the table may be ahead of it. `since` beyond both is of a
    log that has been put back to an earlier state.
    """
    if since == head:
        return []
    if since > head:
        known = await tables.events(account_id, since - 1, 1)
        if not known or known[0].sequence != since:
            return None
    found = await tables.events(account_id, since, limit)
    if since < head and (not found or found[0].sequence != since + 1):
        return None
    return found
