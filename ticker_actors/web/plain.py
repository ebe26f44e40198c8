"""A request and an answer without Quart: of a request that is in a hurry, see `express`."""

from functools import cached_property
from typing import NamedTuple, TypeVar, overload
from urllib.parse import parse_qsl

import msgspec
from hypercorn.typing import HTTPScope
from quart import Request, Response
from werkzeug.datastructures import MultiDict

T = TypeVar("T")

JSON = "application/json"

_encode = msgspec.json.Encoder().encode


class Answer(NamedTuple):
    """What a client is told."""

    status: int
    body: bytes
    headers: dict[str, str]
    content_type: str = JSON

    def response(self) -> Response:
        """For Quart."""
        return Response(
            self.body, status=self.status, headers=self.headers, content_type=self.content_type
        )

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """For ASGI."""
        return [
            (b"content-type", self.content_type.encode()),
            (b"content-length", b"%d" % len(self.body)),
            *((name.lower().encode(), value.encode()) for name, value in self.headers.items()),
        ]


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Answer with JSON."""
    return Answer(status, _encode(value), headers or {})


class Headers:
    """The headers of a request, by name in any case. Of several with one name, `get` is the first.

    As in HTTP/1.1 they are Latin-1.
    """

    def __init__(self, scope: HTTPScope) -> None:
        self._all = scope["headers"]
        self._first: dict[str, str] = {}
        for name, value in self._all:  # h11 gives the names in lower case
            self._first.setdefault(name.decode("latin1"), value.decode("latin1"))

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._first

    @overload
    def get(self, name: str) -> str | None: ...

    @overload
    def get(self, name: str, default: T) -> str | T: ...

    def get(self, name: str, default: T | None = None) -> str | T | None:
        """The first of this name, or the default."""
        return self._first.get(name.lower(), default)

    def getlist(self, name: str) -> list[str]:
        """All of this name."""
        wanted = name.lower().encode("latin1")
        return [value.decode("latin1") for known, value in self._all if known == wanted]


class PlainRequest:
    """What doors and handlers look at, under the names and with the meanings of Quart's."""

    def __init__(self, scope: HTTPScope) -> None:
        self.method = scope["method"]
        self.path = scope["path"]
        self.headers = Headers(scope)
        self._scope = scope

    @property
    def content_length(self) -> int | None:
        """Bytes of the body; None when the client does not say."""
        text = self.headers.get("content-length")
        return int(text) if text else None  # h11 lets only digits pass

    @property
    def mimetype(self) -> str:
        """`Content-Type` without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def remote_addr(self) -> str:
        """The address that the connection came from."""
        client = self._scope["client"]
        return client[0] if client else ""

    @cached_property
    def args(self) -> MultiDict[str, str]:
        """The query."""
        query = self._scope["query_string"]
        # As Quart has it; most have none.
        if not query:
            return MultiDict()
        text = query.decode()
        return MultiDict(parse_qsl(text, keep_blank_values=True, errors="werkzeug.url_quote"))


AnyRequest = Request | PlainRequest
