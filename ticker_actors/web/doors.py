"""Who may come in. Without a key only this machine, and even there no web page of somebody else's.

A page in the user's browser can send requests to loopback. It cannot choose its `Origin`, it cannot
send JSON to another origin unasked, and when it plays tricks with DNS its name shows in `Host`: so
these three are looked at.
"""

import hashlib
import hmac
import ipaddress
import re
from functools import lru_cache
from http import HTTPStatus

from quart import Response, Websocket

from ticker_actors.settings import Settings
from ticker_actors.web import tickets
from ticker_actors.web.parts import Parts
from ticker_actors.web.plain import AnyRequest
from ticker_actors.web.problems import Problem, database_away, stopping
from ticker_actors.web.tickets import Tickets

OPEN_PATHS = frozenset({"/health"})
"""Load balancers ask without a key; they get the status without the details."""
WITHOUT_DATABASE = frozenset({"/", "/health", "/metrics"})
POSTBACKS = "/advanced/postback/"
"""Kite sends these: it has no key of ours, and calls us by a name that we may not know. Its
checksum is judged by the handler, and a postback does nothing but cause a read."""
_READING = frozenset({"GET", "HEAD"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class Doors:
    """Judges every request and every WebSocket before anything else sees it."""

    def __init__(self, settings: Settings, issued: Tickets) -> None:
        self._tickets = issued
        self._key = None if settings.api_key is None else _digest(settings.api_key)
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._origins = frozenset(origin.lower() for origin in settings.allowed_origins)

    def check(self, request: AnyRequest | Websocket) -> None:
        """Raise the `Problem` for which this request is not let in."""
        if request.path.startswith(POSTBACKS):
            return
        self._check_host(request)
        self._check_origin(request)
        if isinstance(request, Websocket) and "ticket" in request.args:
            self._check_ticket(request)
            return
        asks_first = self.preflight(request) is not None
        if not asks_first and request.path not in OPEN_PATHS and not self.holds_key(request):
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "An API key is needed: send it as 'Authorization: Bearer …' or 'X-API-Key'.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if not isinstance(request, Websocket):
            _check_content_type(request)

    def admit(self, parts: Parts, request: AnyRequest) -> None:
        """Raise the `Problem` for which this request is not taken now, whatever it asks for."""
        self.check(request)
        if parts.stopping.is_set() and request.path != "/health":
            raise stopping()
        if parts.tables.away_seconds and request.path not in WITHOUT_DATABASE:
            raise database_away()

    def holds_key(self, request: AnyRequest | Websocket) -> bool:
        """Whether the request carries the key, or none is needed."""
        if self._key is None:
            return True
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        candidates = [bearer if scheme.lower() == "bearer" else ""]
        candidates.append(request.headers.get("X-API-Key", ""))
        if isinstance(request, Websocket):  # browsers cannot set headers on a WebSocket
            candidates.append(request.args.get("token", ""))
        return any(hmac.compare_digest(_digest(text), self._key) for text in candidates)

    def origin_headers(self, request: AnyRequest) -> dict[str, str]:
        """What lets the pages of `ALLOWED_ORIGINS` read the answer (CORS)."""
        origin = request.headers.get("Origin", "")
        if origin.lower() not in self._origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "Location, Retry-After, Idempotency-Replayed",
            "Vary": "Origin",
        }

    def preflight(self, request: AnyRequest | Websocket) -> Response | None:
        """The answer to a browser that asks before it sends; None for any other request."""
        if isinstance(request, Websocket):
            return None
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        return Response(
            b"",  # without it Quart would look for asyncio
            status=HTTPStatus.NO_CONTENT.value,
            headers={
                "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
                "Access-Control-Allow-Headers": (
                    "Content-Type, Authorization, X-API-Key, Idempotency-Key"
                ),
                "Access-Control-Max-Age": "600",
            },
        )

    def _check_ticket(self, request: Websocket) -> None:
        # The handler uses it up, and only when it opens the stream: a client that is told to come
        # again comes with the same one.
        account_id = self._tickets.account(request.args["ticket"])
        if account_id is None:
            raise tickets.refused()
        if (request.view_args or {}).get("account_id") != account_id:
            raise Problem(HTTPStatus.FORBIDDEN, "This ticket is for another account's stream.")

    def _check_host(self, request: AnyRequest | Websocket) -> None:
        if self._key is not None:
            return
        host = _hostname(request.headers.get("Host", ""))
        if not _is_loopback(host) and host not in self._hosts:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"This service does not answer to the name {host!r}: "
                "add it to ALLOWED_HOSTS, or use 127.0.0.1.",
            )

    def _check_origin(self, request: AnyRequest | Websocket) -> None:
        origin = request.headers.get("Origin")
        if origin is None or origin.lower() in self._origins:
            return
        harmless = isinstance(request, Websocket) or request.method in _READING
        page = _ORIGIN.fullmatch(origin.lower())
        if harmless and page is not None and _is_loopback(_hostname(page["host"])):
            return
        raise Problem(
            HTTPStatus.FORBIDDEN,
            f"Web pages of {origin} may not use this service: add it to ALLOWED_ORIGINS.",
        )


def _check_content_type(request: AnyRequest) -> None:
    has_body = request.content_length or "Transfer-Encoding" in request.headers
    if request.method in _WITH_BODY and has_body and request.mimetype != "application/json":
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "The body must be JSON: send 'Content-Type: application/json'.",
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+))(?::\d+)?")
_ORIGIN = re.compile(r"https?://(?P<host>[^/@]+)")


def _hostname(host: str) -> str:
    """`Host` without its port, in lower case; empty when it is no host at all."""
    match = _HOST.fullmatch(host.lower())
    return "" if match is None else match["v6"] or match["name"]


@lru_cache(maxsize=64)  # clients call us by few names, but with every request
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
