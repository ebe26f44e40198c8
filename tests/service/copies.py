"""Services that are one of several copies, or in more of a hurry than the real one.

A copy is the real command line with another account, another host's name, or an exchange that is
outside of all copies. What takes the real one long (leases, time-outs) may be made shorter, in its
process only.
"""

import os
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import msgspec
import trio

from tests.bare_portfolio import BarePortfolio
from ticker_actors import __main__ as command_line
from ticker_actors import service
from ticker_actors.actors import lane
from ticker_actors.actors.ports import Broker
from ticker_actors.brokers.paper import open_paper
from ticker_actors.model.orders import BrokerOrder, OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import (
    ChangeOutcome,
    FeedBack,
    FeedItem,
    OrderBook,
    Placed,
    PlaceOutcome,
    Refused,
)
from ticker_actors.service import Address, SystemClock
from ticker_actors.settings import PRIMARY, Settings
from ticker_actors.store import postgres, postgres_commit, postgres_link
from ticker_actors.store.postgres_commit import LEASE_SECONDS

BACK_SECONDS = 0.01
"""At most how long the exchange's answer is on its way: so copies die with answers outstanding."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """How a service differs from the real one."""

    account: str = "primary"
    host: str | None = None
    """What it believes its machine to be called."""
    exchange: str | None = None
    """The file of a `FileExchange`; None: a paper exchange of its own."""
    lease: int | None = None
    """Seconds, instead of `LEASE_SECONDS`; a broker call then counts for a quarter of it."""
    answer: float | None = None
    """Seconds to wait for the database's answers and connections; for its locks a fifth."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One order that the exchange took."""

    order_id: str
    tag: str
    pid: int
    """The process that placed it."""
    at: float
    """By the machine's monotonic clock."""
    order: PlaceOrder


class FileExchange(BarePortfolio):
    """An exchange outside of every copy: one file, a durable line for each order it took."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._chance = Random(os.getpid())

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        order_id = f"{os.getpid()}-{time.monotonic_ns()}"
        line = Line(order_id=order_id, tag=tag, pid=os.getpid(), at=time.monotonic(), order=order)
        os.write(self._file, msgspec.json.encode(line) + b"\n")
        os.fsync(self._file)
        await trio.sleep(self._chance.uniform(0, BACK_SECONDS))
        return Placed(order_id)

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> ChangeOutcome:
        message = f"Order {order_id} ({variety}) is filled: it does not become {changes}."
        return Refused("OrderException", message)

    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:
        return Refused("OrderException", f"Order {order_id} ({variety}) is filled.")

    async def orders(self) -> OrderBook:
        rows = []
        for line in lines(self._path):
            fields = {name: getattr(line.order, name) for name in _SHARED}
            filled = line.order.quantity
            rows.append(
                BrokerOrder(
                    order_id=line.order_id,
                    status="COMPLETE",
                    tag=line.tag,
                    filled_quantity=filled,
                    **fields,
                )
            )
        return OrderBook(tuple(rows))

    async def updates(self) -> AsyncIterator[FeedItem]:
        yield FeedBack()
        await trio.sleep_forever()


_SHARED = ("exchange", "tradingsymbol", "transaction_type", "quantity", "product", "order_type")


def lines(path: Path) -> list[Line]:
    """All that the exchange took, in order."""
    return [msgspec.json.decode(text, type=Line) for text in path.read_bytes().splitlines()]


def main(copy: Copy) -> int:
    """Run the command line as this copy; its exit code."""
    if copy.host is not None:
        socket.gethostname = lambda: str(copy.host)
    if copy.lease is not None:
        _shorten_lease(copy.lease)
    if copy.answer is not None:
        postgres_link.ANSWER_SECONDS = postgres_link.CONNECT_SECONDS = copy.answer
        postgres_link.SESSION["lock_timeout"] = f"{copy.answer * 200:.0f}"
    if copy.exchange is not None or copy.account != PRIMARY:
        command = replace(command_line.COMMANDS["serve"], run=partial(_serve, copy))
        command_line.COMMANDS = {**command_line.COMMANDS, "serve": command}
    return command_line.main(["serve"])


async def _serve(copy: Copy, settings: Settings) -> None:
    async with _broker(copy, settings) as broker, trio.open_nursery() as nursery:
        brokers = {copy.account: broker}
        address: Address = await nursery.start(
            partial(service.serve, settings, (), brokers=brokers)
        )
        print(f"health {address.url}/health", flush=True)  # noqa: T201  # as the banner says it


@asynccontextmanager
async def _broker(copy: Copy, settings: Settings) -> AsyncGenerator[Broker]:
    if copy.exchange is not None:
        yield FileExchange(Path(copy.exchange))
        return
    clock, funds = SystemClock(), settings.paper_funds
    async with open_paper(settings.paper_path, funds=funds, clock=clock) as paper:
        yield paper


def _shorten_lease(seconds: int) -> None:
    long, short = (f"interval '{lease} s'" for lease in (LEASE_SECONDS, seconds))
    for module in (postgres, postgres_commit):
        for name, value in list(vars(module).items()):
            if isinstance(value, str) and long in value:
                setattr(module, name, value.replace(long, short))
        vars(module)["LEASE_SECONDS"] = seconds
    postgres.RENEW_SECONDS, postgres.LEASE_LOOK_SECONDS = seconds / 5, 0.1
    vars(lane)["CALL_SECONDS"] = seconds / 4  # the name by which it knows it
