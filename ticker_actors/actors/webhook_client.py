"""Sends one webhook request, to a public address only, within one deadline.

Every new connection resolves the host anew, judges all of its addresses, and goes to a vetted one
itself: a name that changes between look and leap gains nothing. TLS still checks the URL's host. No
redirect is followed, no proxy asked, no cookie kept, no body unpacked.

A connection is kept for the next delivery to the same host and port, but not for long, so that a
receiver which moves is found. If it turns out to be dead before a byte of the answer has come, the
request is sent again on a new one: deliveries may repeat, their id tells.
"""

import socket
from collections.abc import Mapping
from ipaddress import IPv4Address
from ssl import SSLContext, create_default_context
from typing import Self

import certifi
import trio

from ticker_actors.http1 import Connection, Lost, Pool, cause, connect, encrypt, look_up, request
from ticker_actors.model.addresses import allowed
from ticker_actors.model.url import Url
from ticker_actors.model.webhook_rules import Answer

DEADLINE_SECONDS = 5.0
"""Resolving, connecting, TLS, request and answer together: what the document promises receivers."""
CONNECT_SECONDS = 1.5
"""For one address of several: one lost SYN (repeated after 1 s), and time left for two more."""
LONGEST_BODY = 64 * 1024
"""Bytes of an answer that are read; nobody needs more of them than its first few lines."""
LOOKUPS = 64
"""Threads that wait for DNS, one for each delivery under way."""
IDLE_SECONDS = 2.0
"""How long a connection is kept unused: servers close idle ones after 5 s and more."""
OLDEST_SECONDS = 60.0
"""How long one is used at all: then its host's name is looked up and judged again."""
KEPT_EACH = 8
"""Connections to one host and port: as many as deliveries under way to it."""
KEPT_ORIGINS = 8
"""Hosts and ports to which connections are kept, those used last: each is a file of the process."""
CANNOT_BE_SENT = "The request cannot be sent as it is."
"""No more is said, because a library's words may quote a secret."""


class ForbiddenAddressError(Exception):
    """The host leads where webhooks may not go. Its message is one sentence."""


class WebhookClient:
    """Posts to receivers, in a block at whose end it closes what is idle. It has no task."""

    def __init__(
        self,
        *,
        allow_private: bool,
        deadline: float = DEADLINE_SECONDS,
        ssl_context: SSLContext | None = None,
    ) -> None:
        """`allow_private` is the setting WEBHOOK_ALLOW_PRIVATE; `deadline` is in seconds."""
        self._allow_private = allow_private
        self._deadline = deadline
        self._ssl = ssl_context or create_default_context(cafile=certifi.where())
        self._lookups = trio.CapacityLimiter(LOOKUPS)
        self._pools: dict[tuple[bool, str, int], Pool] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._pools:
            self._pools.popitem()[1].close()

    async def refusal(self, url: str) -> str | None:
        """Why no webhook may go to this URL, in one sentence; None when it may.

        A name that does not resolve just now may: it is judged again at every attempt.
        """
        try:
            with trio.move_on_after(self._deadline):
                await self._addresses(Url.taken_apart(url, "http", "https").host, 0)
        except ForbiddenAddressError as error:
            return str(error)
        except ValueError:  # UnicodeError is one: a name too long for DNS
            return "The URL's host is not a name that can be resolved."
        except OSError:
            return None
        return None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one request. Whatever goes wrong with it is in the answer."""
        try:
            to = Url.taken_apart(url, "http", "https")
            data = _request(to, headers, body)
        except ValueError:
            return Answer(error=CANNOT_BE_SENT)
        deadline = trio.current_time() + self._deadline
        if (kept := self._kept(to)) is not None:
            answer = await self._send(to, kept, data, deadline)
            if kept.answering:
                return answer
        connection = await self._open(to, deadline)
        if isinstance(connection, Answer):
            return connection
        return await self._send(to, connection, data, deadline)

    async def _send(self, to: Url, connection: Connection, data: bytes, deadline: float) -> Answer:
        try:
            result = await connection.exchange(data, deadline, most_bytes=LONGEST_BODY)
        except BaseException:  # cancelled or not, it is raised again
            connection.close()
            raise
        self._keep(to, connection)
        if isinstance(result, Lost):
            return self._late() if trio.current_time() >= deadline else Answer(error=result.message)
        return Answer(status=result.status, retry_after=result.headers.get("retry-after"))

    def _kept(self, to: Url) -> Connection | None:
        pool = self._pools.get(_origin(to))
        connection = None if pool is None else pool.take(IDLE_SECONDS)
        if connection is not None and connection.made_at < trio.current_time() - OLDEST_SECONDS:
            connection.close()
            return None
        return connection

    def _keep(self, to: Url, connection: Connection) -> None:
        origin = _origin(to)
        pool = self._pools.pop(origin, None) or Pool(KEPT_EACH, IDLE_SECONDS)
        pool.keep(connection)
        if pool:
            self._pools[origin] = pool  # the last: the first were not used for the longest time
        while len(self._pools) > KEPT_ORIGINS:
            self._pools.pop(next(iter(self._pools))).close()

    def tidy(self) -> None:
        """Close what has not been used lately."""
        for origin, pool in tuple(self._pools.items()):
            pool.tidy()
            if not pool:
                del self._pools[origin]

    def _late(self) -> Answer:
        return Answer(error=f"There was no complete answer within {self._deadline:g} s.")

    async def _open(self, to: Url, deadline: float) -> Connection | Answer:
        """A new connection to a vetted address, or why there is none."""
        with trio.move_on_at(deadline):
            try:
                return await self._connected(to)
            except _NOT_CONNECTED as error:
                return Answer(error=_sentence(error))
        return self._late()

    async def _connected(self, to: Url) -> Connection:
        addresses = await self._addresses(to.host, to.port)
        plain = await connect(addresses, to.port, CONNECT_SECONDS)
        stream = await encrypt(plain, self._ssl, to.host) if to.tls else plain
        return Connection(stream, plain.socket)

    async def _addresses(self, host: str, port: int) -> tuple[str, ...]:
        """The host's addresses in the system's order of preference.

        Raises `ForbiddenAddressError` when any of them is denied, `OSError` when there is none.
        """
        if _is_ipv4(host):  # nothing to ask anybody, and a thread is dear
            self._judge(host, host)
            return (host,)
        addresses = await look_up(host, port, self._lookups)
        for address in addresses:
            self._judge(host, address)
        return addresses

    def _judge(self, host: str, address: str) -> None:
        if allowed(address, private=self._allow_private):
            return
        where = host if host == address else f"{host} leads to {address}, and this"
        if allowed(address, private=True):
            message = (
                f"{where} is a private address: webhooks go there only when "
                "WEBHOOK_ALLOW_PRIVATE is set."
            )
        else:
            message = (
                f"{where} is an address to which webhooks never go "
                "(WEBHOOK_ALLOW_PRIVATE opens loopback and private networks only)."
            )
        raise ForbiddenAddressError(message)


def _request(to: Url, headers: Mapping[str, str], body: bytes) -> bytes:
    """Raises `ValueError` for what no header can carry."""
    return request(
        "POST",
        (to.path or "/") + (f"?{to.query}" if to.query else ""),
        (
            ("Host", to.authority),
            *headers.items(),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Content-Length", str(len(body))),
        ),
        body,
    )


def _origin(to: Url) -> tuple[bool, str, int]:
    return to.tls, to.host, to.port


def _is_ipv4(host: str) -> bool:
    """Whether it is an address in the usual form; the system knows others, and judges them."""
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True


_NOT_CONNECTED = (ForbiddenAddressError, OSError, UnicodeError, trio.BrokenResourceError)
"""What a receiver or its name can do to a connection; anything else is a bug of ours."""


def _sentence(error: Exception) -> str:
    """What to tell of a connection that was not made."""
    match error:
        case ForbiddenAddressError():
            return str(error)
        case socket.gaierror():
            return f"The host cannot be resolved: {error.strerror}."
        case UnicodeError():
            return CANNOT_BE_SENT
        case _:
            return f"The connection failed: {cause(error)}."
