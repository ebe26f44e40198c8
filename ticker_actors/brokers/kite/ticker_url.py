"""Where Kite's ticker is: a URL of the operator's, whose path and query are kept as they are."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode, urlsplit

KITE_TICKER_URL = "wss://ws.kite.trade"


@dataclass(frozen=True, slots=True)
class TickerUrl:
    """A WebSocket URL, taken apart."""

    tls: bool
    host: str
    port: int
    path: str
    query: str
    """Of the operator's own, before ours; empty for none. Zerodha's sandbox needs a `user_id`."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError with a sentence for the operator."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"It is no URL: {error}.") from None
        if parts.scheme not in {"ws", "wss"} or not host:
            raise ValueError("It must begin with wss:// (or ws://) and name a host.")
        if parts.username is not None or parts.fragment:
            raise ValueError("It must have neither a user nor a fragment.")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("It must be written in printable ASCII.")
        tls = parts.scheme == "wss"
        return cls(tls, host, port or (443 if tls else 80), parts.path or "/", parts.query)

    @property
    def authority(self) -> str:
        """What goes into the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def target(self, api_key: str, access_token: str) -> str:
        """The request target that opens the ticker. It is a secret."""
        # Not "strict": a token that cannot be UTF-8 is Kite's to refuse.
        ours = urlencode({"api_key": api_key, "access_token": access_token}, errors="replace")
        return f"{self.path}?{self.query}&{ours}" if self.query else f"{self.path}?{ours}"
