"""The command line: `ticker-actors serve`, and what an operator runs beside it."""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from ticker_actors import log
from ticker_actors.exchange.file import PaperFileUnusable
from ticker_actors.mailbox import Stopped
from ticker_actors.service import Address, StartError, serve
from ticker_actors.settings import Settings, SettingsError, load
from ticker_actors.store.tables import StaleEpochError, StoreError
from ticker_actors.upkeep import migrate

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "--host": {"help": "the address to listen on (HOST)"},
    "--port": {"help": "the port to listen on (PORT)"},
    "--database-url": {"help": "sqlite:///file.db or postgresql://… (DATABASE_URL)"},
    "--broker": {"help": "paper (BROKER)"},
    "--log-format": {"help": "auto, console or json (LOG_FORMAT)"},
    "--standby": {
        "help": "wait while another copy writes the accounts, and take over (STANDBY)",
        "action": "store_const",
        "const": "1",
    },
}
"""Each sets the setting of its name."""

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
INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended before it served: 128 and the signal's number."""


@dataclass(frozen=True, slots=True)
class Command:
    """One word of the command line."""

    help: str
    options: Sequence[str]
    run: Callable[[Settings], Awaitable[None]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Exit code: 0 after a clean end, 1 after a crash, 2 when misused."""
    parser = argparse.ArgumentParser(
        prog="ticker-actors", description="A durable order service for Kite Connect."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        words = commands.add_parser(
            name, help=command.help, epilog="Every setting is an environment variable too."
        )
        for option in command.options:
            words.add_argument(option, **OPTIONS[option])  # type: ignore[arg-type]  # only texts
    given = vars(parser.parse_args(arguments))
    command = COMMANDS[given.pop("command")]
    overrides = {name.upper(): text for name, text in given.items() if text is not None}
    try:
        settings = load({**os.environ, **overrides})
    except SettingsError as error:
        return _complain(str(error), 2)
    log.configure(settings.log_level, settings.log_format)
    return _run(command, settings)


def _run(command: Command, settings: Settings) -> int:
    complaint, code = "", 0
    try:
        trio.run(command.run, settings, strict_exception_groups=True)
    except* (StartError, StoreError, StaleEpochError, PaperFileUnusable) as group:
        complaint, code = str(next(_leaves(group))), 1
    except* KeyboardInterrupt:
        code = INTERRUPTED
    except* Exception as group:  # noqa: BLE001  # the last place that can say what happened
        leaf = _cause(group)
        if not complaint or not isinstance(leaf, Stopped):
            structlog.get_logger(__name__).critical(
                "crashed", error=f"{type(leaf).__name__}: {leaf}", exc_info=group
            )
            complaint = "a bug or a failing disk stopped it; start it again, and it recovers"
            code = 1
    return _complain(complaint, code) if complaint else code


async def _serve(settings: Settings) -> None:
    async with trio.open_nursery() as nursery:
        address: Address = await nursery.start(partial(serve, settings))
        _greet(settings, address)


async def _migrate(settings: Settings) -> None:
    await migrate(settings)
    print(f"The tables in {settings.database} are up to date.")


COMMANDS: Mapping[str, Command] = {
    "serve": Command("run the service", tuple(OPTIONS), _serve),
    "migrate": Command(
        "make the tables, or bring them up to date", ("--database-url", "--log-format"), _migrate
    ),
}


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
