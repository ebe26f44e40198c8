"""Where Kite is: an origin, perhaps with a path before every path and a query after every query.

Zerodha's own sandbox lives under `/oms`, and some set-ups need further query parameters.
"""

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode, urlsplit

Query = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Root:
    """A root URL, taken apart."""

    tls: bool
    host: str
    port: int
    prefix: str
    """Without a slash at its end."""
    query: str
    """Of every request; empty for none."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError with a sentence for the operator."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"It is no URL: {error}.") from None
        if parts.scheme not in {"http", "https"} or not host:
            raise ValueError("It must begin with https:// (or http://) and name a host.")
        if parts.username is not None or parts.fragment:
            raise ValueError("It must have neither a user nor a fragment.")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("It must be written in printable ASCII.")
        tls = parts.scheme == "https"
        return cls(tls, host, port or (443 if tls else 80), parts.path.rstrip("/"), parts.query)

    @property
    def authority(self) -> str:
        """What goes into the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def target(self, path: str, query: Query | None = None) -> str:
        """The request target of one of Kite's paths."""
        whole = "&".join(filter(None, (self.query, urlencode(query or []))))
        return f"{self.prefix}{path}" + (f"?{whole}" if whole else "")
