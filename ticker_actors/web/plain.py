"""A request and an answer without Quart: of a request that is in a hurry, see `express`."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar, overload
from urllib.parse import parse_qsl

import msgspec
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

    def raw(self, date: str) -> bytes:
        """What goes to the client, worded as by Hypercorn and h11."""
        headers = "".join(f"{name.lower()}: {value}\r\n" for name, value in self.headers.items())
        return (
            f"HTTP/1.1 {self.status:d} \r\n"
            f"content-type: {self.content_type}\r\ncontent-length: {len(self.body)}\r\n"
            f"{headers}date: {date}\r\n\r\n"
        ).encode() + self.body


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Answer with JSON."""
    return Answer(status, _encode(value), headers or {})


class Headers:
    """The headers of a request, by name in any case. Of several with one name, `get` is the first.

    As in HTTP/1.1 they are Latin-1.
    """

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """`headers`: their names in lower case."""
        self._all = headers
        self._first: dict[str, str] = {}
        for name, value in headers:
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

    method = "POST"

    def __init__(
        self,
        path: str,
        query: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        client: tuple[str, int] | None,
    ) -> None:
        """`headers`: their names in lower case. `client`: address and port that it came from."""
        self.path = path
        self.headers = Headers(headers)
        self._query = query
        self._client = client

    @property
    def content_length(self) -> int | None:
        """Bytes of the body; None when the client does not say."""
        text = self.headers.get("content-length")
        return int(text) if text else None

    @property
    def mimetype(self) -> str:
        """`Content-Type` without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def remote_addr(self) -> str:
        """The address that the connection came from."""
        return self._client[0] if self._client else ""

    @cached_property
    def args(self) -> MultiDict[str, str]:
        """The query."""
        if not self._query:  # as most have none
            return MultiDict()
        # As Quart has it.
        text = self._query.decode()
        return MultiDict(parse_qsl(text, keep_blank_values=True, errors="werkzeug.url_quote"))


AnyRequest = Request | PlainRequest
