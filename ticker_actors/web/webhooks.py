"""`/advanced/webhooks`: who is told of what. Delivering is the dispatcher's business."""

from http import HTTPStatus
from typing import Annotated, Any

import msgspec
import trio
from msgspec import Meta
from quart import Blueprint, Response

from ticker_actors.model import ids
from ticker_actors.model.calendar import iso
from ticker_actors.model.changes import Change, Unstorable, Webhook
from ticker_actors.model.events import WebhookEvent
from ticker_actors.model.webhook_rules import url_problem
from ticker_actors.web import decoding
from ticker_actors.web.decoding import AccountId
from ticker_actors.web.parts import Parts
from ticker_actors.web.problems import Problem, bad_fields, not_found
from ticker_actors.web.tasks import as_json

STORE_SECONDS = 10.0
"""As long as an order waits to be durable."""
MOST_WEBHOOKS = 20
"""Subscriptions of one account: each costs a delivery an event."""


HEADER_VALUE = r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$"
"""What a header can carry: printable ASCII without spaces round it."""


class WebhookBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /advanced/webhooks`."""

    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    account_id: AccountId = "primary"
    events: Annotated[tuple[WebhookEvent, ...], Meta(min_length=1, max_length=20)]
    secret: Annotated[str, Meta(max_length=256, pattern=HEADER_VALUE)] | None = None
    """Sent in clear with every delivery as `X-Webhook-Secret`."""


class ListQuery(msgspec.Struct, frozen=True):
    """The query of `GET /advanced/webhooks`."""

    account_id: AccountId | None = None


def blueprint(parts: Parts) -> Blueprint:
    """The routes of webhooks."""
    routes = Blueprint("webhooks", __name__)

    @routes.post("/advanced/webhooks")
    async def create() -> Response:
        decoding.query(decoding.Nothing)
        body, _ = await decoding.body(WebhookBody)
        account_id = parts.account(body.account_id)
        await check_url(body.url)
        if len(await parts.tables.webhooks(account_id)) >= MOST_WEBHOOKS:
            message = f"Account {account_id!r} has {MOST_WEBHOOKS} webhooks: delete one first."
            raise Problem(HTTPStatus.CONFLICT, message)
        webhook = Webhook(
            webhook_id=ids.uuid(parts.chance),
            url=body.url,
            account_id=account_id,
            events=tuple(dict.fromkeys(body.events)),
            secret=body.secret,
            created_at=parts.clock.now(),
        )
        await stored(webhook)
        return as_json(webhook_json(webhook), HTTPStatus.CREATED)

    @routes.get("/advanced/webhooks")
    async def webhooks() -> Response:
        query = decoding.query(ListQuery)
        if query.account_id is not None:
            parts.account(query.account_id)
        found = await parts.tables.webhooks(query.account_id)
        return as_json([webhook_json(webhook) for webhook in found])

    @routes.delete("/advanced/webhooks/<webhook_id>")
    async def delete(webhook_id: str) -> Response:
        decoding.query(decoding.Nothing)
        webhook = await parts.tables.webhook(webhook_id)
        if webhook is None:
            raise not_found(f"webhook {webhook_id!r}")
        if webhook.account_id not in parts.executor.accounts:
            message = f"Webhook {webhook_id!r} is of an account of another service."
            raise Problem(HTTPStatus.CONFLICT, message)
        gone = msgspec.structs.replace(webhook, active=False, deleted=True, secret=None)
        await stored(gone)
        return as_json({"success": True, "webhook_id": webhook_id})

    async def stored(webhook: Webhook) -> None:
        """Make a subscription durable, or say that it is not known to be."""
        change = Change(account_id=webhook.account_id, webhooks=(webhook,))
        with trio.move_on_after(STORE_SECONDS):
            answer = await parts.persistence.commit(change)
            if isinstance(answer, Unstorable):
                raise bad_fields([("body", f"cannot be stored: {answer.message}")])
            return
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "It is not known yet whether this was stored: ask GET /advanced/webhooks.",
            retry_after=5,
        )

    async def check_url(url: str) -> None:
        problem = url_problem(url, allow_http=parts.settings.private_webhooks)
        refusal = None if problem else await parts.webhook_refusal(url)
        if problem or refusal:
            raise bad_fields([("url", problem or f"is refused: {refusal}".rstrip("."))])

    return routes


def webhook_json(webhook: Webhook) -> dict[str, Any]:
    """A subscription on the wire, in the mission document's fields: never with its secret."""
    return {
        "webhook_id": webhook.webhook_id,
        "url": webhook.url,
        "account_id": webhook.account_id,
        "events": webhook.events,
        "active": webhook.active,
        "created_at": iso(webhook.created_at),
    }
