"""`python -m ticker_actors.sandbox`: the sandbox by itself."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import trio

from ticker_actors.exchange.file import PaperFileUnusable
from ticker_actors.sandbox.options import SandboxOptions, add_arguments, from_arguments
from ticker_actors.sandbox.serve import SandboxAddress, SandboxError, serve_sandbox

BANNER = """
  The sandbox is ready: a Kite Connect of your own, with paper money.

    root      {rest}
    ticker    {ticker}
    login     {rest}/connect/login?v=3&api_key=sandbox

    api key, secret and access token are all: sandbox
"""


async def run(options: SandboxOptions) -> None:
    """Serve, and say where."""
    async with trio.open_nursery() as nursery:
        address: SandboxAddress = await nursery.start(partial(serve_sandbox, options))
        banner = BANNER.format(rest=address.rest, ticker=address.ticker)
        print(banner, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a clean end, 1 when it cannot start, 2 when misused."""
    parser = argparse.ArgumentParser(
        prog="ticker-actors sandbox", description="A paper exchange that speaks Kite's wire."
    )
    add_arguments(parser)
    complaint = ""
    try:
        trio.run(run, from_arguments(parser.parse_args(arguments)), strict_exception_groups=True)
    except* (SandboxError, PaperFileUnusable) as group:
        complaint = str(_leaf(group))
    if complaint:
        print(f"ticker-actors: {complaint}", file=sys.stderr)
    return 1 if complaint else 0


def _leaf(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


if __name__ == "__main__":
    sys.exit(main())
