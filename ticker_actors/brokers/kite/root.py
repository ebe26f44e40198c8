"""Where Kite is: an origin, perhaps with a path before every path and a query after every query.

Zerodha's own sandbox lives under `/oms`, and some set-ups need further query parameters.
"""

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode, urlsplit

Query = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Url:
    """A URL of the operator's, taken apart."""

    tls: bool
    host: str
    port: int
    path: str
    query: str
    """Of every request; empty for none."""

    @property
    def authority(self) -> str:
        """What goes into the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @classmethod
    def taken_apart(cls, url: str, plain: str, encrypted: str) -> Self:
        """A URL of one of two schemes. Raises ValueError with a sentence for the operator."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"It is no URL: {error}.") from None
        if parts.scheme not in {plain, encrypted} or not host:
            raise ValueError(f"It must begin with {encrypted}:// (or {plain}://) and name a host.")
        if parts.username is not None or parts.fragment:
            raise ValueError("It must have neither a user nor a fragment.")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("It must be written in printable ASCII.")
        tls = parts.scheme == encrypted
        return cls(tls, host, port or (443 if tls else 80), parts.path, parts.query)


class Root(Url):
    """Where the REST calls go."""

    __slots__ = ()

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError with a sentence for the operator."""
        return cls.taken_apart(url, "http", "https")

    def target(self, path: str, query: Query | None = None) -> str:
        """The request target of one of Kite's paths."""
        whole = "&".join(filter(None, (self.query, urlencode(query or []))))
        return self.path.rstrip("/") + path + (f"?{whole}" if whole else "")


class TickerUrl(Url):
    """Where the ticker is. Its own query stays before ours: Zerodha's sandbox needs a `user_id`."""

    __slots__ = ()

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError with a sentence for the operator."""
        return cls.taken_apart(url, "ws", "wss")

    def target(self, api_key: str, access_token: str) -> str:
        """The request target that opens the ticker. It is a secret."""
        # Not "strict": a token that cannot be UTF-8 is Kite's to refuse.
        ours = urlencode({"api_key": api_key, "access_token": access_token}, errors="replace")
        whole = f"{self.query}&{ours}" if self.query else ours
        return f"{self.path or '/'}?{whole}"
