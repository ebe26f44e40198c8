"""A URL, taken apart into what a request needs of it."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Url:
    """An origin, and what stands before every path and query there."""

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
