"""`POST /advanced/ws/tickets`: a word that opens one stream once.

A browser cannot put a key in a header of a WebSocket, and a key in a URL ends up in logs. So a page
asks for a ticket with its key, and connects with that.
"""

import hashlib
from collections import Counter
from http import HTTPStatus

import msgspec
import trio
from quart import Blueprint, Response

from ticker_actors.model import ids
from ticker_actors.web import decoding
from ticker_actors.web.decoding import AccountId
from ticker_actors.web.parts import Parts
from ticker_actors.web.problems import Problem
from ticker_actors.web.tasks import as_json

TICKET_SECONDS = 60.0
"""For a page to connect; a stolen one is of no use for long."""
MOST_TICKETS = 1000
"""That have not been used yet, of all accounts."""
MOST_OF_AN_ACCOUNT = 100
"""The same of one: a page that asks and asks takes none from the pages of others."""


class TicketBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /advanced/ws/tickets`."""

    account_id: AccountId = "primary"


class Tickets:
    """Those that may still be used: kept hashed, in memory, and taken away by their first use."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, float]] = {}
        self._unused: Counter[str] = Counter()

    def issue(self, account_id: str, chance: ids.Chance) -> str | None:
        """A new ticket, or None when too many are out, of this account or of all."""
        now = trio.current_time()
        while self._known and next(iter(self._known.values()))[1] <= now:  # the oldest is first
            self._forget(next(iter(self._known)))
        if len(self._known) >= MOST_TICKETS or self._unused[account_id] >= MOST_OF_AN_ACCOUNT:
            return None
        ticket = ids.ticket(chance)
        self._known[_digest(ticket)] = (account_id, now + TICKET_SECONDS)
        self._unused[account_id] += 1
        return ticket

    def account(self, ticket: str) -> str | None:
        """The account whose stream it opens, or None. Asking does not use it up."""
        account_id, until = self._known.get(_digest(ticket), (None, 0.0))
        return account_id if trio.current_time() < until else None

    def redeem(self, ticket: str) -> str | None:
        """Use it up: the account whose stream it opens, or None. It opens none a second time."""
        account_id = self.account(ticket)
        self._forget(_digest(ticket))
        return account_id

    def _forget(self, digest: bytes) -> None:
        if digest in self._known:
            account_id, _ = self._known.pop(digest)
            self._unused -= Counter([account_id])  # and no zeros stay


def blueprint(parts: Parts, tickets: Tickets) -> Blueprint:
    """The route of tickets."""
    routes = Blueprint("tickets", __name__)

    @routes.post("/advanced/ws/tickets")
    async def issue() -> Response:
        decoding.query(decoding.Nothing)
        body, _ = await decoding.body(TicketBody)
        account_id = parts.account(body.account_id)
        ticket = tickets.issue(account_id, parts.chance)
        if ticket is None:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"Too many tickets are unused: account {account_id!r} may have "
                f"{MOST_OF_AN_ACCOUNT}, and all together {MOST_TICKETS}.",
                retry_after=int(TICKET_SECONDS),
            )
        answer = {"ticket": ticket, "account_id": account_id, "expires_in": TICKET_SECONDS}
        return as_json(answer, HTTPStatus.CREATED, {"Cache-Control": "no-store"})

    return routes


def refused() -> Problem:
    """A ticket that opens nothing."""
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "This ticket is unknown, used or too old: POST /advanced/ws/tickets gives another.",
    )


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode(errors="replace")).digest()
