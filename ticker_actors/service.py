"""The whole service on one page: every part, in the order in which it lives; it dies in reverse.

An actor holds handles only of actors opened before it, so there are no cycles, and bounded
mailboxes cannot deadlock. Whatever fails unexpectedly ends the process; the next start recovers.
"""

import gc
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog
import trio
from quart_trio import QuartTrio

from ticker_actors.account_settings import AccountSettings, KiteSettings, PaperSettings
from ticker_actors.actors.executor import ExecutorActor
from ticker_actors.actors.janitor import keep_tidy
from ticker_actors.actors.persistence import PersistenceActor, Wakeup
from ticker_actors.actors.ports import Broker, Trading
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.actors.webhook_client import WebhookClient
from ticker_actors.actors.webhook_dispatcher import WebhookDispatcher
from ticker_actors.brokers.kite import postback
from ticker_actors.brokers.paper import open_paper
from ticker_actors.mailbox import Actor, running
from ticker_actors.metrics import Metrics
from ticker_actors.model.ids import Chance
from ticker_actors.settings import Settings
from ticker_actors.store.owner import this_process
from ticker_actors.store.sqlite import SqliteStore
from ticker_actors.store.tables import Store
from ticker_actors.web.app import create_app
from ticker_actors.web.parts import Parts
from ticker_actors.web.server import open_listeners, serve_app
from ticker_actors.web.signals import interruptible
from ticker_actors.web.standby import StandIn, standing_by

DRAIN_SECONDS = 8.0
"""For the executor: a broker call in flight has 7 s, and its outcome must be stored."""
WEBHOOK_DRAIN_SECONDS = 6.0
"""A delivery in flight has 5 s."""
QUICK_DRAIN_SECONDS = 3.0
"""For actors that only work on what is already here."""
LAST_WORDS_SECONDS = 4.0
"""For the server to end by itself when the service crashes."""
LAG_PROBE_SECONDS = 0.1

_log = structlog.get_logger(__name__)


class StartError(Exception):
    """The service cannot start. Its message is one sentence for the operator."""


class SystemClock:
    """The machine's wall clock."""

    def now(self) -> datetime:
        """The present instant, in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service can be reached once it has started."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """For HTTP clients on this machine."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104  # compared
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


async def serve(
    settings: Settings,
    accounts: Sequence[AccountSettings],
    *,
    brokers: Mapping[str, Broker] | None = None,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the service until SIGTERM or SIGINT, or until it is cancelled.

    `brokers`, by account, replace `accounts`: for tests and for brokers of one's own. Raises
    `StartError`, `StoreError` or `PaperFileUnusable` when it cannot start, and `EndedBeforeStart`
    when a signal came first.
    """
    clock, chance, metrics = SystemClock(), secrets.randbits, Metrics()
    stopping, outbox, lag = trio.Event(), Wakeup(), LoopLag()
    names = brokers or [account.account_id for account in accounts]
    async with (
        interruptible(stopping) as started,
        listening(settings) as listeners,
        standing_by(settings, listeners) as stand_in,
        open_store(settings, now=clock.now(), chance=chance, patient=settings.standby) as store,
        owning(names, store, stand_in),
        uncollected() as collect,
        WebhookClient(allow_private=settings.private_webhooks) as poster,
        opened(brokers, settings, accounts, clock, chance) as trading,
        running(
            StreamHub(store.installation.stream, metrics, settings.stream_limits),
            drain=QUICK_DRAIN_SECONDS,
        ) as hub,
        running(
            PersistenceActor(store, hub, outbox, clock, metrics), drain=QUICK_DRAIN_SECONDS
        ) as persistence,
        running(
            ExecutorActor(
                trading,
                persistence,
                hub,
                store,
                clock,
                chance,
                metrics,
                installation=store.installation.tag,
                horizon=settings.absence_horizon_seconds,
                max_attempts=settings.task_max_attempts,
                stopping=stopping,
            ),
            drain=DRAIN_SECONDS,
        ) as executor,
        running(
            WebhookDispatcher(store, persistence, poster, outbox, clock, chance, metrics),
            drain=WEBHOOK_DRAIN_SECONDS,
        ) as dispatcher,
        trio.open_nursery() as nursery,
    ):
        actors = (hub, persistence, executor, dispatcher)
        metrics.watch_mailboxes(lambda: depths(actors))
        parts = Parts(
            settings=settings,
            executor=executor,
            persistence=persistence,
            hub=hub,
            tables=store,
            webhook_refusal=poster.refusal,
            clock=clock,
            chance=chance,
            metrics=metrics,
            brokers={name: account.broker for name, account in trading.items()},
            genuine=partial(genuine_postback, accounts),
            stopping=stopping,
            mailboxes=lambda: dict(depths(actors)),
            loop_lag=lag.seconds,
            commit_age=persistence.stalled_seconds,
        )
        nursery.start_soon(lag.watch)
        nursery.start_soon(parts.end_waits)
        nursery.start_soon(
            keep_tidy,
            store,
            clock,
            settings.cleanup_schedule,
            settings.retention,
            metrics,
        )
        async with trio.open_nursery() as server:
            await server.start(partial(serve_to_the_end, create_app(parts), listeners, stopping))
            started()
            collect()
            _, port, *_ = listeners[0].socket.getsockname()
            task_status.started(Address(settings.host, port))
        # The server has ended; leaving the block drains the actors, the last one first.
        nursery.cancel_scope.cancel()
    _log.info("stopped")


@asynccontextmanager
async def uncollected() -> AsyncGenerator[Callable[[], None], None]:
    """Look for no garbage until the start is over, and never in what it made: that is to stay.

    With 100 000 unfinished tasks it would take a part of the start, and later stop the event loop
    for 0.2 s at a time.
    """

    def collect() -> None:
        gc.freeze()
        gc.enable()

    gc.disable()
    try:
        yield collect
    finally:
        gc.enable()


@asynccontextmanager
async def listening(settings: Settings) -> AsyncGenerator[list[trio.SocketListener], None]:
    """Take the address first: a second copy by mistake must fail before it touches anything."""
    try:
        listeners = await open_listeners(settings.host, settings.port)
    except OSError as error:
        message = f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}."
        raise StartError(message) from error
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


def open_store(
    settings: Settings, *, now: datetime, chance: Chance, patient: bool = False
) -> AbstractAsyncContextManager[Store]:
    """The store that DATABASE_URL names. `patient`: wait while another copy has it."""
    if settings.postgres is None:
        return SqliteStore.open(settings.database_file, now=now, chance=chance, patient=patient)
    # Who keeps a file need not wait for asyncpg's import.
    from ticker_actors.store.postgres import PostgresStore  # noqa: PLC0415

    return PostgresStore.open(settings.postgres, now=now, chance=chance, patient=patient)


@asynccontextmanager
async def owning(
    accounts: Iterable[str], store: Store, stand_in: StandIn | None
) -> AsyncGenerator[None, None]:
    """These accounts, with nobody else writing them."""
    for account_id in accounts:
        await store.claim(account_id, this_process())
    if stand_in is not None:
        await stand_in.leave()
    yield


@asynccontextmanager
async def opened(
    brokers: Mapping[str, Broker] | None,
    settings: Settings,
    accounts: Sequence[AccountSettings],
    clock: SystemClock,
    chance: Chance,
) -> AsyncGenerator[Mapping[str, Trading], None]:
    """The broker of each account, and what the account is held to."""
    if brokers is not None:
        yield {
            name: Trading("own", broker, settings.limits, settings.risk)
            for name, broker in brokers.items()
        }
        return
    async with AsyncExitStack() as stack:
        yield {
            account.account_id: Trading(
                account.broker,
                await stack.enter_async_context(open_broker(account, clock, chance)),
                account.limits,
                account.risk,
            )
            for account in accounts
        }


def open_broker(
    account: AccountSettings, clock: SystemClock, chance: Chance
) -> AbstractAsyncContextManager[Broker]:
    """An account's broker."""
    at = account.at
    if isinstance(at, PaperSettings):
        return open_paper(at.file, funds=at.funds, clock=clock, seed=str(at.seed))
    # Who trades on paper need not wait for TLS and a WebSocket client to be imported.
    from ticker_actors.brokers.kite.opening import open_kite  # noqa: PLC0415

    return open_kite(account.account_id, at, clock.now, chance)


def genuine_postback(accounts: Sequence[AccountSettings], account_id: str, body: bytes) -> bool:
    """Whether a postback for an account is signed with its API secret."""
    for account in accounts:
        if account.account_id == account_id and isinstance(account.at, KiteSettings):
            secret = account.at.api_secret
            return secret is not None and postback.genuine(body, secret)
    return False


async def serve_to_the_end(
    app: QuartTrio,
    listeners: list[trio.SocketListener],
    stopping: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stopping`; in a crash too, who waits is still told what is known."""
    last_words = trio.CancelScope(shield=True)

    async def end_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            stopping.set()
            last_words.deadline = trio.current_time() + LAST_WORDS_SECONDS

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_when_cancelled)
        with last_words:
            await serve_app(app, listeners, stopping=stopping, task_status=task_status)
        nursery.cancel_scope.cancel()


def depths(actors: tuple[Actor, ...]) -> Iterator[tuple[str, int]]:
    """How many messages wait in each actor's mailboxes."""
    for actor in actors:
        for number, mailbox in enumerate(actor.mailboxes):
            name = type(actor).__name__
            yield (f"{name}.{number}" if number else name), len(mailbox)


class LoopLag:
    """How far the event loop runs behind: by how much a short sleep is too long."""

    def __init__(self) -> None:
        self._due = trio.current_time() + LAG_PROBE_SECONDS
        self._last = 0.0

    def seconds(self) -> float:
        """The lag of the last probe, or of the present one if it is already late."""
        return max(self._last, trio.current_time() - self._due)

    async def watch(self) -> None:
        """Probe without end."""
        while True:
            self._due = trio.current_time() + LAG_PROBE_SECONDS
            await trio.sleep_until(self._due)
            self._last = trio.current_time() - self._due
