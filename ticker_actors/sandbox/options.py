"""What the sandbox is told at its start."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ticker_actors.sandbox.faults import KINDS, Faults, FaultsError

API_KEY = ACCESS_TOKEN = API_SECRET = "sandbox"  # noqa: S105  # there is nothing to protect


@dataclass(frozen=True, kw_only=True)
class SandboxOptions:
    """All of it. `from_arguments` reads it off the command line."""

    host: str = "127.0.0.1"
    port: int = 8090
    """0 lets the system choose."""
    prefix: str = ""
    """A path before every path, such as `/oms`; not before `/instruments`, as at Zerodha."""
    file: Path | None = None
    """Keeps the book; without it, it lives as long as the process."""
    funds: int = 1_000_000_000
    """Rupees."""
    seed: str = "1"
    """Of the price walk."""
    faults: Faults = field(default_factory=Faults)
    fault_delay: float = 8.0
    """Seconds: the official clients give up after 7, and orders were seen to come 8 s late."""
    limits: bool = True
    """Kite's limits on requests."""
    postback_url: str | None = None
    redirect_url: str | None = None
    """Where a login sends the browser; without it the request token is shown."""


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:  # noqa: PLR2004  # a port
        raise ValueError
    return port


def _prefix(text: str) -> str:
    prefix = text.rstrip("/")
    if prefix and (not prefix.startswith("/") or not prefix.isascii() or "?" in prefix):
        raise argparse.ArgumentTypeError("it must look like /oms")
    return prefix


def _funds(text: str) -> int:
    funds = int(text)
    if not 1 <= funds <= 10**15:  # what sums of ticks can hold
        raise ValueError
    return funds


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise argparse.ArgumentTypeError("it must begin with http:// or https://")
    return text


def _faults(text: str) -> Faults:
    try:
        return Faults.parse(text)
    except FaultsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:  # noqa: PLR2004  # an hour
        raise ValueError
    return seconds


_Reader = Callable[[str], Any]
ARGUMENTS: Mapping[str, tuple[_Reader | None, str]] = {
    "--host": (str, "the address to listen on (default 127.0.0.1)"),
    "--port": (_port, "the port to listen on (default 8090)"),
    "--prefix": (_prefix, "a path before every path, such as /oms"),
    "--file": (Path, "keep the book in this file (default: in memory)"),
    "--funds": (_funds, "rupees before the first trade (default 1000000000)"),
    "--seed": (str, "of the price walk (default 1)"),
    "--faults": (_faults, f"SEED[:RATE] for all, or KIND=RATE,…[,seed=SEED]: {', '.join(KINDS)}"),
    "--fault-delay": (_seconds, "seconds of the kinds that delay (default 8)"),
    "--no-limits": (None, "take any number of requests"),
    "--postback-url": (_url, "POST every order update here"),
    "--redirect-url": (_url, "send logins back here, with a request_token"),
}
"""Of each option how it is read (None for a switch) and what it is for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a parser know the options."""
    for option, (read, text) in ARGUMENTS.items():
        if read is None:
            parser.add_argument(
                option, dest="limits", action="store_false", default=None, help=text
            )
        else:
            parser.add_argument(option, type=read, help=text)


def from_arguments(given: argparse.Namespace) -> SandboxOptions:
    """The options that such a parser was given."""
    names = SandboxOptions.__dataclass_fields__
    stated = {name: value for name, value in vars(given).items() if name in names}
    return SandboxOptions(**{name: value for name, value in stated.items() if value is not None})
