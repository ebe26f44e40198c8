"""Sends one webhook request, to a public address only, within one deadline.

Every attempt resolves the host anew, judges all of its addresses, and connects to a vetted address
itself: a name that changes between look and leap gains nothing. TLS still checks the URL's host. No
redirect is followed, no proxy asked, no cookie kept, no body unpacked; no connection outlives its
request, so none is found dead by the next order.
"""

import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from ssl import SSLContext
from typing import Any

import httpcore
import httpx
import trio

from ticker_actors.model.addresses import allowed
from ticker_actors.model.webhook_rules import Answer

DEADLINE_SECONDS = 5.0
"""Resolving, connecting, TLS, request and answer together: what the document promises receivers."""
CONNECT_SECONDS = 1.5
"""For one address of several: one lost SYN (repeated after 1 s), and time left for two more."""
LONGEST_BODY = 64 * 1024
"""Bytes of an answer that are read; nobody needs more of them than its first few lines."""
LOOKUPS = 64
"""Threads that wait for DNS, one for each delivery under way. A look-up cannot be cancelled, so
they are counted apart: a dead name server must not use up the threads of the store."""


class ForbiddenAddressError(Exception):
    """The host leads where webhooks may not go. Its message is one sentence."""


class WebhookClient:
    """Posts to receivers. It keeps no connection, so there is nothing to close."""

    def __init__(
        self,
        *,
        allow_private: bool,
        deadline: float = DEADLINE_SECONDS,
        ssl_context: SSLContext | None = None,
    ) -> None:
        """`allow_private` is the setting WEBHOOK_ALLOW_PRIVATE; `deadline` is in seconds."""
        self._deadline = deadline
        self._guard = _Guard(allow_private=allow_private)
        self._http = httpx.AsyncClient(
            transport=_GuardedTransport(self._guard, ssl_context or httpx.create_ssl_context()),
            timeout=None,  # noqa: S113  # one deadline for everything, below
            trust_env=False,
        )

    async def refusal(self, url: str) -> str | None:
        """Why no webhook may go to this URL, in one sentence; None when it may.

        A name that does not resolve just now may: it is judged again at every attempt.
        """
        try:
            with trio.move_on_after(self._deadline):
                await self._guard.addresses(httpx.URL(url).host, 0)
        except ForbiddenAddressError as error:
            return str(error)
        except (httpx.InvalidURL, UnicodeError):
            return "The URL's host is not a name that can be resolved."
        except OSError:
            return None
        return None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one request, at most once. Whatever goes wrong with it is in the answer."""
        opened: list[httpcore.AsyncNetworkStream] = []

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                opened.append(info["return_value"])

        try:
            with trio.move_on_after(self._deadline):
                return await self._exchange(url, headers, body, {"trace": trace})
        except _FAILURES as error:
            return Answer(error=_sentence(error))
        finally:
            for stream in opened:  # httpcore loses one that is cancelled in its TLS handshake
                stream.get_extra_info("socket").close()
        return Answer(error=f"There was no complete answer within {self._deadline:g} s.")

    async def _exchange(
        self, url: str, headers: Mapping[str, str], body: bytes, extensions: dict[str, Any]
    ) -> Answer:
        everything = {**headers, "Accept-Encoding": "identity", "Connection": "close"}
        async with self._http.stream(
            "POST", url, headers=everything, content=body, extensions=extensions
        ) as response:
            size = 0
            # Not a `break`: only an end or a cancellation unwinds all of the libraries' generators.
            with trio.CancelScope() as enough:
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size >= LONGEST_BODY:
                        enough.cancel()
        return Answer(status=response.status_code, retry_after=response.headers.get("retry-after"))


class _GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's own, on our network backend. httpx has no public way to give it one."""

    def __init__(self, guard: "_Guard", ssl_context: SSLContext) -> None:
        super().__init__(verify=ssl_context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=None,  # the dispatcher counts
            max_keepalive_connections=0,
            network_backend=guard,
        )


class _Guard(httpcore.AsyncNetworkBackend):
    """Connects to hosts all of whose addresses are allowed."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._trio = httpcore.TrioBackend()
        self._lookups = trio.CapacityLimiter(LOOKUPS)

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """The host's addresses in the system's order of preference.

        Raises `ForbiddenAddressError` when any of them is denied, `OSError` when there is none.
        """
        if _is_ipv4(host):  # nothing to ask anybody, and a thread is dear
            self._judge(host, host)
            return (host,)
        found = await trio.to_thread.run_sync(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
            limiter=self._lookups,
        )
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
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

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers."""
        failure: Exception = OSError("the host has no address")
        for address in await self.addresses(host, port):
            try:
                return await self._trio.connect_tcp(
                    address, port, CONNECT_SECONDS, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


def _is_ipv4(host: str) -> bool:
    """Whether it is an address in the usual form; the system knows others, and judges them."""
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True


_FAILURES = (ForbiddenAddressError, httpx.HTTPError, httpx.InvalidURL, OSError, ValueError)
"""What a receiver, its name or its URL can do to a request; anything else is a bug of ours."""


def _sentence(error: Exception) -> str:
    """What to tell of a failure. Words of libraries are left out where they may quote a secret."""
    match error:
        case ForbiddenAddressError():
            return str(error)
        case socket.gaierror():
            return f"The host cannot be resolved: {error.strerror}."
        case httpx.RemoteProtocolError():
            return "The answer is not HTTP."
        case httpx.NetworkError() | httpx.TimeoutException() | OSError():
            return f"The connection failed: {_cause(error)}."
        case _:
            return "The request cannot be sent as it is."


def _cause(error: BaseException) -> str:
    """The words of the error at the bottom: the system's or TLS's own."""
    while True:
        match error:
            case BaseExceptionGroup(exceptions=(error, *_)):
                pass
            case BaseException(__cause__=BaseException() as error):
                pass
            case BaseException(__context__=BaseException() as error):
                pass
            case _:
                return str(error) or type(error).__name__
