"""`/accounts`: how each account stands, its operator's verbs, and what its broker says of it.

`POST /advanced/postback/{account_id}` is here too: Kite's word that something happened to an order.
"""

from collections import deque
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import msgspec
import trio
from msgspec import Meta
from quart import Blueprint, Response, request

from ticker_actors.actors.lane import LaneState
from ticker_actors.actors.ports import Broker
from ticker_actors.actors.requests import Denied
from ticker_actors.model.accounts import AccountState
from ticker_actors.model.orders import PRINTABLE
from ticker_actors.model.outcomes import LoginToken, Unreadable
from ticker_actors.web import decoding
from ticker_actors.web.parts import Parts
from ticker_actors.web.problems import Problem, bad_fields, not_found
from ticker_actors.web.tasks import as_json, refusal

T = TypeVar("T")

BROKER_SECONDS = 8.0
"""For a question that the broker answers: its own deadline is 7 s."""
POSTBACKS_A_SECOND = 50
"""Of all accounts: anybody can send them, and each that is genuine causes a read."""

Token = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[!-~]+$")]
OrderId = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE)]


class StateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /accounts/{account_id}/state`."""

    state: AccountState
    reason: Annotated[str, Meta(min_length=1, max_length=200, pattern=PRINTABLE)] | None = None
    accept_missing: Annotated[tuple[OrderId, ...], Meta(max_length=1000)] = ()
    """Orders that the broker's book need not show any more: the operator has looked."""


class SessionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /accounts/{account_id}/session`: one of the two."""

    request_token: Token | None = None
    access_token: Token | None = None


def blueprint(parts: Parts) -> Blueprint:
    """The routes of accounts."""
    routes = Blueprint("accounts", __name__)

    @routes.get("/accounts")
    async def accounts() -> Response:
        decoding.query(decoding.Nothing)
        lanes = await parts.executor.lanes()
        return as_json([account_json(lane) for lane in lanes])

    @routes.get("/accounts/<account_id>")
    async def account(account_id: str) -> Response:
        decoding.query(decoding.Nothing)
        return as_json(account_json(await lane_of(account_id)))

    @routes.post("/accounts/<account_id>/state")
    async def state(account_id: str) -> Response:
        decoding.query(decoding.Nothing)
        body, _ = await decoding.body(StateBody)
        known(account_id)
        answer = await parts.executor.set_state(
            account_id, body.state, body.reason, body.accept_missing
        )
        if isinstance(answer, Denied):
            raise refusal(answer)
        return as_json(account_json(answer))

    @routes.post("/accounts/<account_id>/session")
    async def session(account_id: str) -> Response:
        decoding.query(decoding.Nothing)
        body, _ = await decoding.body(SessionBody)
        known(account_id)
        if (body.request_token is None) == (body.access_token is None):
            raise bad_fields([("body", "must hold request_token or access_token, one of them")])
        token = LoginToken(access_token=body.access_token, request_token=body.request_token)
        refused = await asked(parts.brokers[account_id].log_in(token))
        if refused is not None:
            raise Problem(HTTPStatus.CONFLICT, refused.message)
        return as_json(account_json(await parts.executor.note_login(account_id)))

    @routes.get("/accounts/<account_id>/positions")
    async def positions(account_id: str) -> Response:
        return await read(account_id, broker(account_id).positions())

    @routes.get("/accounts/<account_id>/holdings")
    async def holdings(account_id: str) -> Response:
        return await read(account_id, broker(account_id).holdings())

    @routes.get("/accounts/<account_id>/margins")
    async def margins(account_id: str) -> Response:
        return await read(account_id, broker(account_id).margins())

    @routes.post("/advanced/postback/<account_id>")
    async def postback(account_id: str) -> Response:
        if crowded():
            message = f"More than {POSTBACKS_A_SECOND} postbacks came within a second."
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after=1)
        raw: bytes = await request.get_data(as_text=False)  # type: ignore[assignment]  # said so
        # One answer for every mistake: who cannot sign learns nothing of the accounts here.
        if account_id not in parts.executor.accounts or not parts.genuine(account_id, raw):
            raise Problem(HTTPStatus.FORBIDDEN, "The checksum is wrong.")
        await parts.executor.note_postback(account_id)
        return as_json({"success": True})

    def known(account_id: str) -> None:
        if account_id not in parts.executor.accounts:
            raise not_found(f"account {account_id!r}")

    def broker(account_id: str) -> Broker:
        decoding.query(decoding.Nothing)
        known(account_id)
        return parts.brokers[account_id]

    async def lane_of(account_id: str) -> LaneState:
        known(account_id)
        lanes = await parts.executor.lanes()
        return next(lane for lane in lanes if lane.account_id == account_id)

    async def read(account_id: str, work: Awaitable[object]) -> Response:
        answer = await asked(work)
        if isinstance(answer, Unreadable):
            detail = f"The broker of account {account_id!r} does not say: {answer.message}"
            raise Problem(HTTPStatus.BAD_GATEWAY, detail)
        return as_json(answer)

    async def asked(work: Awaitable[T]) -> T:
        with trio.move_on_after(BROKER_SECONDS):
            return await work
        raise Problem(HTTPStatus.GATEWAY_TIMEOUT, "The broker did not answer in time.")

    lately = deque[float](maxlen=POSTBACKS_A_SECOND)

    def crowded() -> bool:
        now = trio.current_time()
        full = len(lately) == lately.maxlen and lately[0] > now - 1
        if not full:
            lately.append(now)
        return full

    return routes


def account_json(lane: LaneState) -> dict[str, Any]:
    """An account on the wire."""
    return {
        "account_id": lane.account_id,
        "broker": lane.broker,
        "state": lane.standing.state,
        "reason": lane.standing.reason,
        "session": "login_required" if lane.login_required else "ok",
        "feed": "up" if lane.feed_up else "down",
        "gate": "open" if lane.gate_open else "closed",
        "breaker": "open" if lane.breaker_open else "closed",
        "limits": {
            "orders_per_second": lane.limits.per_second,
            "orders_per_minute": lane.limits.per_minute,
            "orders_per_day": lane.limits.per_day,
        },
        "orders_left_today": lane.left_today,
        "missing_orders": lane.missing,
        "accepted_missing": lane.standing.accepted,
        "unsent": lane.unsent,
        "unfinished": lane.unfinished,
        "worries": lane.worries,
    }
