"""Where a request came from, for limits and logs: `TRUSTED_PROXIES` says whose word is taken."""

from quart import Websocket

from ticker_actors.model import proxies
from ticker_actors.web.plain import AnyRequest


def address(client: AnyRequest | Websocket, trusted: tuple[proxies.Network, ...]) -> str:
    """The address of the client itself; that of the connection when no trusted proxy names one."""
    forwarded = client.headers.getlist("X-Forwarded-For")
    return proxies.client_address(client.remote_addr or "", forwarded, trusted)
