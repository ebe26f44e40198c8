"""Where Kite is: an origin, perhaps with a path before every path and a query after every query.

Zerodha's own sandbox lives under `/oms`, and some set-ups need further query parameters.
"""

from typing import Self
from urllib.parse import urlencode

from ticker_actors.model.url import Url

Query = list[tuple[str, str]]


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
