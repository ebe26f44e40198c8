"""A service whose paper broker has a fault named by its class: `python doomed.py DiesAfterPlacing`.

A fault strikes orders of the symbol DOOMED only, so that others can be placed before. Where the
client must hold its acknowledgement first, the fault waits until the file `acknowledged` is there.

`python doomed.py nest` imports everything once and then forks a service for each line of JSON on
its standard input (`folder`, `log`, `fault` or none, `copy`, `settings`): a process of its own,
which runs the same command line (as a copy of `copies.py`), without the second that imports take.
"""

import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import msgspec
import trio

from tests.bare_portfolio import BarePortfolio
from tests.service import copies
from ticker_actors import log, service
from ticker_actors.actors.ports import Broker
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.brokers.paper import open_paper
from ticker_actors.model.events import Event
from ticker_actors.model.orders import OrderChanges, PlaceOrder
from ticker_actors.model.outcomes import (
    ChangeOutcome,
    FeedBack,
    FeedItem,
    OrderBook,
    PlaceOutcome,
    Unreadable,
)
from ticker_actors.service import Address, SystemClock, serve
from ticker_actors.settings import PRIMARY, load

DOOMED = "DOOMED"
CHATTERING = (PRIMARY, "second", "third", "fourth")
"""Accounts of a service that chatters: the commits of several go together."""
PADDING = "x" * 700
"""So that an event takes about 1.2 KB, and a slow client soon shows."""
CHATTER, CHATTER_PAUSE = 50, 0.02
"""So many updates of each order, and then a pause in seconds."""


def die() -> None:
    """`kill -9`, by its own hand."""
    os.kill(os.getpid(), signal.SIGKILL)


def there(name: str) -> bool:
    """Whether a file is there by which the test speaks."""
    return Path(name).exists()


async def acknowledged() -> None:
    """Wait until the client says that it holds its acknowledgement."""
    while not await trio.Path("acknowledged").exists():  # noqa: ASYNC110  # another process makes it
        await trio.sleep(0.005)


class FaultyBroker(BarePortfolio):
    """A whole broker, in front of the real paper one. Subclasses have the faults."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        return await self._broker.place(order, tag)

    async def modify(self, order_id: str, variety: str, changes: OrderChanges) -> ChangeOutcome:
        return await self._broker.modify(order_id, variety, changes)

    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:
        return await self._broker.cancel(order_id, variety)

    async def orders(self) -> OrderBook | Unreadable:
        return await self._broker.orders()

    def updates(self) -> AsyncIterable[FeedItem]:
        return self._broker.updates()


class DiesBeforePlacing(FaultyBroker):
    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        if order.tradingsymbol == DOOMED:
            await acknowledged()
            die()
        return await super().place(order, tag)


class DiesAfterPlacing(FaultyBroker):
    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        if order.tradingsymbol == DOOMED:
            await acknowledged()
        outcome = await super().place(order, tag)
        if order.tradingsymbol == DOOMED:
            die()
        return outcome


class DiesBeforePlacingLeg(FaultyBroker):
    """Nobody waits for an acknowledgement: a batch is answered when it is finished."""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        if order.tradingsymbol == DOOMED:
            die()
        return await super().place(order, tag)


class DiesAfterPlacingLeg(FaultyBroker):
    """As above."""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        outcome = await super().place(order, tag)
        if order.tradingsymbol == DOOMED:
            die()
        return outcome


class DiesBeforeCancelling(FaultyBroker):
    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:  # noqa: ARG002
        die()
        raise AssertionError


class DiesAfterCancelling(FaultyBroker):
    async def cancel(self, order_id: str, variety: str) -> ChangeOutcome:
        await super().cancel(order_id, variety)
        die()
        raise AssertionError


class HangsWhenPlacing(FaultyBroker):
    """Takes no order and does not answer, as a stalled network does."""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        if order.tradingsymbol == DOOMED:
            await trio.sleep_forever()
        return await super().place(order, tag)


class HasABug(FaultyBroker):
    """An exception from a broker is a bug, and ends the process."""

    async def place(self, order: PlaceOrder, tag: str) -> PlaceOutcome:
        outcome = await super().place(order, tag)
        if order.tradingsymbol == DOOMED:
            await acknowledged()
            raise ZeroDivisionError
        return outcome


class Chatters(FaultyBroker):
    """Its feed tells of every resting order without end: a change each time."""

    async def updates(self) -> AsyncIterator[FeedItem]:
        yield FeedBack()
        for tick in itertools.count():
            book = await self._broker.orders()
            assert isinstance(book, OrderBook)
            for row in book.orders:
                for turn in range(0 if there("quiet") else CHATTER):
                    yield msgspec.structs.replace(row, status_message=f"{tick}.{turn} {PADDING}")
            await trio.sleep(CHATTER_PAUSE)


class DiesBeforeItTells(StreamHub):
    """Dies with events that are committed and not published, once the file `kill` is there."""

    async def publish(self, events: tuple[Event, ...]) -> None:
        if there("kill"):
            die()
        await super().publish(events)


FAULTS: dict[str, Callable[[Broker], FaultyBroker]] = {
    fault.__name__: fault for fault in FaultyBroker.__subclasses__()
}


async def run(fault: str) -> None:
    """Serve with the fault until the end."""
    settings = load(os.environ)
    log.configure(settings.log_level, settings.log_format)
    clock = SystemClock()
    accounts = CHATTERING if fault == Chatters.__name__ else (PRIMARY,)
    if fault == Chatters.__name__:
        vars(service)["StreamHub"] = DiesBeforeItTells  # the name by which it makes its hub
    async with AsyncExitStack() as papers:
        brokers = {}
        for account in accounts:
            own = settings.paper_path
            paper = await papers.enter_async_context(
                open_paper(
                    own if account == PRIMARY else own.with_name(f"{account}.paper.db"),
                    funds=settings.paper_funds,
                    clock=clock,
                    seed=str(settings.paper_seed),
                )
            )
            brokers[account] = FAULTS[fault](paper)
        nursery = await papers.enter_async_context(trio.open_nursery())
        address: Address = await nursery.start(partial(serve, settings, (), brokers=brokers))
        print(f"health {address.url}/health", flush=True)  # noqa: T201  # as the banner says it


def nest() -> None:
    """Fork a service for each line of standard input, and say its process id."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)  # noqa: T201
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(wanted["folder"])
        os.environ.update(wanted["settings"])
        with Path(wanted["log"]).open("a") as output:
            os.dup2(output.fileno(), sys.stdout.fileno())
            os.dup2(output.fileno(), sys.stderr.fileno())
        code = 1
        try:
            if wanted["fault"] is None:
                code = copies.main(msgspec.convert(wanted["copy"], copies.Copy))
            else:
                trio.run(run, wanted["fault"], strict_exception_groups=True)
                code = 0
        except BaseException:  # noqa: BLE001  # told, and the process ends
            traceback.print_exc()
        finally:
            print(f"exit {code}", flush=True)  # noqa: T201  # the parent does not wait for it
            os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "nest":
        nest()
    else:
        trio.run(run, sys.argv[1], strict_exception_groups=True)
