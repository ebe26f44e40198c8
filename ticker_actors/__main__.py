"""The command line: `ticker-actors serve`, `ticker-actors cleanup`."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

import structlog
import trio

from ticker_actors import log
from ticker_actors.exchange.file import PaperFileUnusable
from ticker_actors.mailbox import Stopped
from ticker_actors.service import Address, StartError, serve
from ticker_actors.settings import Settings, SettingsError, load
from ticker_actors.store.tables import StoreError
from ticker_actors.upkeep import cleanup

OPTIONS = {
    "--host": "the address to listen on (HOST)",
    "--port": "the port to listen on (PORT)",
    "--database-url": "sqlite:///file.db or postgresql://… (DATABASE_URL)",
    "--broker": "paper (BROKER)",
    "--log-format": "auto, console or json (LOG_FORMAT)",
}

BANNER = """
  Ticker Actors is ready: account 'primary' on the {broker} exchange, orders in {database}.

    orders    {url}/orders
    stream    {stream}/advanced/ws/orders/primary
    health    {url}/health
    metrics   {url}/metrics

  Try it:

    curl -X POST '{url}/orders?wait=5' -H 'Content-Type: application/json'{key} -d '{{
      "exchange": "NSE", "tradingsymbol": "INFY", "transaction_type": "BUY",
      "quantity": 1, "product": "CNC", "order_type": "MARKET"}}'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Exit code: 0 after a clean stop, 1 after a crash, 2 when misused."""
    parser = argparse.ArgumentParser(
        prog="ticker-actors", description="A durable order service for Kite Connect."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    service = commands.add_parser(
        "serve", help="run the service", epilog="Every setting is an environment variable too."
    )
    for option, text in OPTIONS.items():
        service.add_argument(option, help=text)
    cleaner = commands.add_parser("cleanup", help="delete what is older than the retention, now")
    cleaner.add_argument("--database-url", help=OPTIONS["--database-url"])
    cleaner.add_argument(
        "--days",
        dest="task_retention_days",
        metavar="N",
        help="keep what ended in the last N days (TASK_RETENTION_DAYS)",
    )
    given = vars(parser.parse_args(arguments))
    work = {"serve": _serve, "cleanup": _cleanup}[given.pop("command")]
    overrides = {name.upper(): text for name, text in given.items() if text is not None}
    try:
        settings = load({**os.environ, **overrides})
    except SettingsError as error:
        return _complain(str(error), 2)
    log.configure(settings.log_level, settings.log_format)
    complaint = ""
    try:
        trio.run(work, settings, strict_exception_groups=True)
    except* (StartError, StoreError, PaperFileUnusable) as group:
        complaint = str(next(_leaves(group)))
    except* Exception as group:  # noqa: BLE001  # the last place that can say what happened
        leaf = _cause(group)
        structlog.get_logger(__name__).critical(
            "crashed", error=f"{type(leaf).__name__}: {leaf}", exc_info=group
        )
        complaint = "a bug or a failing disk stopped it; start it again, and it recovers"
    return _complain(complaint, 1) if complaint else 0


async def _serve(settings: Settings) -> None:
    async with trio.open_nursery() as nursery:
        address: Address = await nursery.start(partial(serve, settings))
        _greet(settings, address)


async def _cleanup(settings: Settings) -> None:
    deleted = await cleanup(settings, now=datetime.now(UTC), tell=partial(print, file=sys.stderr))
    print(
        f"{deleted.total()} rows deleted that were older than {settings.task_retention_days} days"
    )
    for table, count in deleted.items():
        print(f"{count:>10}  {table}")


def _greet(settings: Settings, address: Address) -> None:
    key = ' -H "X-API-Key: $API_KEY"' if settings.api_key is not None else ""
    banner = BANNER.format(
        url=address.url,
        stream=address.url.replace("http", "ws", 1),
        broker=settings.broker,
        database=settings.database,
        key=key,
    )
    print(banner, file=sys.stderr, flush=True)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _cause(group: BaseExceptionGroup[Exception]) -> BaseException:
    """The error that began it; that others found an actor stopped is its consequence."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if not isinstance(leaf, Stopped)), leaves[0])


def _complain(message: str, code: int) -> int:
    print(f"ticker-actors: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
