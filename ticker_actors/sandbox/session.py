"""Logins: a page that lets everyone in, and the exchange of its request token.

Source: https://kite.trade/docs/connect/v3/user/. A login always gives the token `sandbox`, which is
always valid; `--faults dead_token=1` is the morning after.
"""

import hmac
import secrets
from html import escape
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import trio
from quart import Blueprint, Response, request

from ticker_actors.exchange import wire_out
from ticker_actors.exchange.wire_out import Json
from ticker_actors.sandbox.answers import KiteError, bad_token, success
from ticker_actors.sandbox.desk import USER_ID, Desk
from ticker_actors.sandbox.forms import MOST_FIELDS, form
from ticker_actors.sandbox.options import ACCESS_TOKEN, API_KEY, API_SECRET

REQUEST_TOKEN_SECONDS = 300.0
"""Kite's live "a few minutes"."""
MOST_REQUEST_TOKENS = 100

PROFILE: Json = {
    "user_id": USER_ID,
    "user_type": "individual",
    "email": "sandbox@example.com",
    "user_name": "Sandbox User",
    "user_shortname": "Sandbox",
    "broker": "ZERODHA",
    "exchanges": ["NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX"],
    "products": ["CNC", "NRML", "MIS", "MTF"],
    "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
    "avatar_url": None,
    "meta": {"demat_consent": "consent"},
}


def blueprint(desk: Desk, redirect_url: str | None) -> Blueprint:
    """The routes of the session. They need no token."""
    routes = Blueprint("session", __name__)
    issued: dict[str, float] = {}

    @routes.get("/connect/login")
    async def login() -> Response:
        if request.args.get("api_key") != API_KEY:
            raise KiteError("InputException", "Invalid `api_key`.")
        if len(issued) >= MOST_REQUEST_TOKENS:
            del issued[next(iter(issued))]
        token = secrets.token_hex(16)
        issued[token] = trio.current_time() + REQUEST_TOKEN_SECONDS
        if redirect_url is None:
            return Response(f"<p>request_token: <code>{escape(token)}</code></p>\n")
        return _sent_back(redirect_url, token)

    @routes.post("/session/token")
    async def exchange() -> Response:
        fields = await form()
        token = fields.get("request_token", "")
        wanted = wire_out.login_checksum(API_KEY, token, API_SECRET)
        if fields.get("api_key") != API_KEY:
            raise bad_token()
        if not hmac.compare_digest(wanted.encode(), fields.get("checksum", "").encode()):
            raise KiteError("TokenException", "Invalid `checksum`.")
        if issued.pop(token, 0.0) < trio.current_time():
            raise KiteError("TokenException", "Token is invalid or has expired.")
        return success(
            {
                **PROFILE,
                "api_key": API_KEY,
                "access_token": ACCESS_TOKEN,
                "public_token": "sandbox-public",
                "refresh_token": "",
                "enctoken": "sandbox-enc",
                "login_time": wire_out.ist(desk.now()),
            }
        )

    @routes.delete("/session/token")
    async def leave() -> Response:
        if request.args.get("api_key") != API_KEY or (
            request.args.get("access_token") != ACCESS_TOKEN
        ):
            raise bad_token()
        return success(data=True)

    return routes


def _sent_back(url: str, token: str) -> Response:
    """To the application, as Kite's page does after a login."""
    parts = urlsplit(url)
    try:
        own = parse_qsl(request.args.get("redirect_params", ""), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise KiteError("InputException", "Invalid `redirect_params`.") from None
    query = [
        *parse_qsl(parts.query),
        *own,
        ("action", "login"),
        ("type", "login"),
        ("status", "success"),
        ("request_token", token),
    ]
    return Response(
        b"",  # not none: Quart would ask asyncio for an empty stream
        status=HTTPStatus.FOUND,
        headers={"Location": urlunsplit(parts._replace(query=urlencode(query)))},
    )
