"""The command line: `ticker-actors serve`, and what an operator runs beside it."""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog
import trio

from ticker_actors import heap, log
from ticker_actors.account_settings import AccountSettings
from ticker_actors.exchange.file import PaperFileUnusable
from ticker_actors.login import LoginError, caught, login
from ticker_actors.mailbox import Stopped
from ticker_actors.service import Address, StartError, serve
from ticker_actors.settings import PRIMARY, Settings, SettingsError, load, load_accounts
from ticker_actors.store.tables import StaleEpochError, StoreError
from ticker_actors.upkeep import cleanup, migrate
from ticker_actors.web.signals import EndedBeforeStart

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "--account": {
        "help": "which account, where several are at Kite",
        "dest": "login_account",
        "metavar": "ID",
    },
    "--listen": {
        "help": "catch the redirect that follows the login on this port of 127.0.0.1",
        "dest": "login_port",
        "metavar": "PORT",
    },
    "--days": {
        "help": "keep what ended in the last N days (TASK_RETENTION_DAYS)",
        "dest": "task_retention_days",
        "metavar": "N",
    },
    "--events": {
        "help": "keep the newest N events of each account, 0 for all (EVENT_RETENTION_COUNT)",
        "dest": "event_retention_count",
        "metavar": "N",
    },
    "--host": {"help": "the address to listen on (HOST)"},
    "--port": {"help": "the port to listen on (PORT)"},
    "--database-url": {"help": "sqlite:///file.db or postgresql://… (DATABASE_URL)"},
    "--broker": {"help": "paper or kite, for account primary (BROKER)"},
    "--log-format": {"help": "auto, console or json (LOG_FORMAT)"},
    "--standby": {
        "help": "wait while another copy writes the accounts, and take over (STANDBY)",
        "action": "store_const",
        "const": "1",
    },
}
"""Each sets the setting of its name."""
SERVING = ("--host", "--port", "--database-url", "--broker", "--log-format", "--standby")

BANNER = """
  Ticker Actors is ready: account {accounts}, orders in {database}.

    orders    {url}/orders
    stream    {stream}/advanced/ws/orders/{first}
    health    {url}/health
    metrics   {url}/metrics
"""
TRY_IT = """
  Try it:

    curl -X POST '{url}/orders?wait=5' -H 'Content-Type: application/json'{key} -d '{{
      "exchange": "NSE", "tradingsymbol": "INFY", "transaction_type": "BUY",
      "quantity": 1, "product": "CNC", "order_type": "MARKET"}}'
"""
INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended: 128 and the signal's number."""


@dataclass(frozen=True, slots=True)
class Command:
    """One word of the command line."""

    help: str
    options: Sequence[str]
    run: Callable[[Settings], Awaitable[None]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Exit code: 0 after a clean end, 1 after a crash, 2 when misused.

    130 when Ctrl-C ended a command other than `serve`.
    """
    parser = argparse.ArgumentParser(
        prog="ticker-actors", description="A durable order service for Kite Connect."
    )
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["sandbox"]:
        # It has options of its own, and whoever serves needs none of it.
        from ticker_actors.sandbox.__main__ import main as sandbox  # noqa: PLC0415

        return sandbox(words[1:])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sandbox", help="run a Kite Connect of one's own, with paper money")
    for name, command in COMMANDS.items():
        verb = commands.add_parser(
            name, help=command.help, epilog="Every setting is an environment variable too."
        )
        for option in command.options:
            verb.add_argument(option, **OPTIONS[option])  # type: ignore[arg-type]  # only texts
    given = vars(parser.parse_args(words))
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
    except* (StartError, StoreError, StaleEpochError, PaperFileUnusable, LoginError) as group:
        complaint, code = str(next(_leaves(group))), 1
    except* SettingsError as group:
        complaint, code = str(next(_leaves(group))), 2
    except* EndedBeforeStart:
        pass
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
    heap.give_back_big_pieces()
    async with trio.open_nursery() as nursery:
        accounts = load_accounts(settings, os.environ)
        address: Address = await nursery.start(partial(serve, settings, accounts))
        _greet(settings, accounts, address)


async def _migrate(settings: Settings) -> None:
    await migrate(settings)
    print(f"The tables in {settings.database} are up to date.")


async def _cleanup(settings: Settings) -> None:
    deleted = await cleanup(settings, now=datetime.now(UTC), tell=partial(print, file=sys.stderr))
    kept = settings.retention
    beyond = f", or beyond the newest {kept.events} events of an account" if kept.events else ""
    print(f"{deleted.total()} rows deleted that were older than {kept.days} days{beyond}")
    for table, count in deleted.items():
        print(f"{count:>10}  {table}")


async def _login(settings: Settings) -> None:
    async def request_token(url: str) -> str:
        if settings.login_port is not None:
            return await caught(url, settings.login_port, partial(print, flush=True))
        print(f"Open this page and log in:\n\n{url}\n")
        print("Then paste the address that it leads to, or the request token in it:", flush=True)
        line: bytes = await trio.to_thread.run_sync(
            sys.stdin.buffer.readline, abandon_on_cancel=True
        )
        return line.decode(errors="replace")

    accounts = load_accounts(settings, os.environ)
    print(await login(accounts, settings.login_account, request_token, lambda: datetime.now(UTC)))


COMMANDS: Mapping[str, Command] = {
    "login": Command(
        "log an account in at Kite, once a day", ("--account", "--listen", "--database-url"), _login
    ),
    "serve": Command("run the service", SERVING, _serve),
    "migrate": Command("make the tables, or bring them up to date", ("--database-url",), _migrate),
    "cleanup": Command(
        "delete what is beyond the retention, now",
        ("--database-url", "--days", "--events"),
        _cleanup,
    ),
}


def _greet(settings: Settings, accounts: Sequence[AccountSettings], address: Address) -> None:
    named = ", ".join(f"{account.account_id!r} ({account.broker})" for account in accounts)
    key = ' -H "X-API-Key: $API_KEY"' if settings.api_key is not None else ""
    # The example is an order, so nobody is shown one that costs real money.
    playing = any(
        account.account_id == PRIMARY and account.broker == "paper" for account in accounts
    )
    banner = (BANNER + TRY_IT if playing else BANNER).format(
        url=address.url,
        stream=address.url.replace("http", "ws", 1),
        accounts=named,
        first=accounts[0].account_id,
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
