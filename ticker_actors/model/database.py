"""Database URLs, judged: which database `DATABASE_URL` means, and what is wrong with it."""

from typing import Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

TlsMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
"""libpq's words (https://www.postgresql.org/docs/current/libpq-ssl.html)."""

PARAMETERS = ("host", "port", "user", "password", "sslmode", "sslrootcert", "application_name")
"""What a PostgreSQL URL may carry after its `?`. Anything else could mean something that we would
not do, so it stops the start."""


class Postgres(msgspec.Struct, frozen=True, kw_only=True):
    """Where a PostgreSQL database is, and who we are there."""

    host: str | None = None
    """A name, an address, or the folder of a Unix socket; None for the usual places."""
    port: int = 5432
    user: str | None = None
    password: str | None = None
    """Never shown."""
    database: str
    tls: TlsMode | None = None
    root_certificate: str | None = None
    application_name: str = "ticker-actors"

    def __str__(self) -> str:
        user = "" if self.user is None else f"{self.user}@"
        if self.host is None or self.host.startswith("/"):
            return f"postgresql://{user}{self.host or ''}:{self.port}/{self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{user}{host}:{self.port}/{self.database}"

    __repr__ = __str__


def is_postgres(url: str) -> bool:
    """Whether a URL names a PostgreSQL database: `postgres:`, `postgresql:`, with any `+driver`."""
    scheme = url.partition(":")[0].partition("+")[0]
    return scheme.lower() in {"postgres", "postgresql"}


def postgres(url: str) -> Postgres:
    """The database of a PostgreSQL URL. A host after the `?` wins over the URL's own.

    Raises `ValueError`, whose message ends a sentence that began with the setting's name.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is no URL: postgresql://user:password@host:5432/database") from None
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [name for name in given if name not in PARAMETERS]
    if unknown:
        known = ", ".join(PARAMETERS)
        raise ValueError(f"has the parameter {unknown[0]}, but only these are known: {known}")
    database = unquote(parts.path.removeprefix("/"))
    if not database or "/" in database:
        raise ValueError("must name a database: postgresql://user:password@host:5432/database")
    tls = given.get("sslmode")
    if tls is not None and tls not in get_args(TlsMode):
        raise ValueError(f"has sslmode={tls}, but it is one of {', '.join(get_args(TlsMode))}")
    fields = {
        "host": given.get("host") or (unquote(parts.hostname) if parts.hostname else None),
        "port": given.get("port") or port or 5432,
        "user": given.get("user") or (unquote(parts.username) if parts.username else None),
        "password": given.get("password") or (unquote(parts.password) if parts.password else None),
        "database": database,
        "tls": tls,
        "root_certificate": given.get("sslrootcert"),
    }
    if given.get("application_name"):
        fields["application_name"] = given["application_name"]
    try:
        return msgspec.convert(fields, Postgres, strict=False)
    except msgspec.ValidationError:
        raise ValueError("has a port that is no number") from None


def sqlite(url: str) -> str:
    """The path of a SQLite URL: `sqlite:///relative.db` or `sqlite:////absolute.db`.

    Raises `ValueError`, as `postgres` does.
    """
    path = url.removeprefix("sqlite:///")
    if not path or path == url:
        # No more of it is said: in another form than a URL's it may hold a password anywhere.
        scheme, colon, _ = url.partition("://")
        told = f", not {scheme}" if colon else ""
        raise ValueError(
            f"must be sqlite:///file.db or postgresql://user:password@host/database{told}"
        )
    if "?" in path:
        raise ValueError("takes no parameters (after ?) for SQLite")
    if path.rpartition("/")[2] in {"", ".", "..", ":memory:"}:
        # A database in memory would lose what was acknowledged.
        raise ValueError("must name a file: sqlite:///file.db")
    return path
