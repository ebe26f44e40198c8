"""The dispatcher: in memory on a mocked clock, then with real tables and sockets."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.receiver import OK, Receiver, answer, listening, read_request
from ticker_actors.actors import webhook_dispatcher
from ticker_actors.actors.persistence import PersistenceActor, Wakeup
from ticker_actors.actors.stream_hub import StreamHub
from ticker_actors.actors.webhook_client import WebhookClient
from ticker_actors.actors.webhook_dispatcher import (
    AHEAD,
    ALL,
    EACH,
    EACH_HOST,
    FRESH_SECONDS,
    LOOK_SECONDS,
    QUIET_SECONDS,
    RESULT_SECONDS,
    WebhookDispatcher,
)
from ticker_actors.mailbox import running
from ticker_actors.metrics import Metrics
from ticker_actors.model.changes import (
    Change,
    CommitAnswer,
    Committed,
    Delivery,
    DeliveryResult,
    Unstorable,
    Webhook,
)
from ticker_actors.model.events import Event, EventName
from ticker_actors.model.webhook_rules import Answer
from ticker_actors.store.sqlite import SqliteStore

GOLDEN = 0.618
"""Its multiples, without the whole ones, are spread evenly."""
NOON = datetime(2025, 11, 20, 6, 30, tzinfo=UTC)
FAILED = Answer(status=500)
TAKEN = Answer(status=200)


def middle(bits: int) -> int:
    """The chance that leaves delays as they are."""
    return 1 << (bits - 1)


class TrioClock:
    """A wall clock that goes with Trio's, until it is set."""

    def __init__(self) -> None:
        self.set_by = timedelta(0)

    def now(self) -> datetime:
        return NOON + timedelta(seconds=trio.current_time()) + self.set_by


@dataclass
class MemoryOutbox:
    """The outbox in memory: what the dispatcher reads, and what its results are written to."""

    rows: dict[str, Delivery] = field(default_factory=dict)
    orders: dict[str, str] = field(default_factory=dict)
    next_at: dict[str, datetime] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    stored_at: dict[str, float] = field(default_factory=dict)
    commit_seconds: float = 0
    look_seconds: float = 0
    looks: int = 0

    def put(
        self, name: str, webhook: str = "w", url: str = "https://w.test/hook", order: str = ""
    ) -> None:
        """A delivery that is due now, of an order of its own if none is named."""
        self.rows[name] = Delivery(
            delivery_id=name,
            webhook_id=webhook,
            account_id="primary",
            event_id=f"evt_{name}",
            event="order_placed",
            sequence=len(self.rows) + 1,
            attempts=0,
            body=f'{{"id":"evt_{name}"}}'.encode(),
            url=url,
            secret="hush",
            followed=False,
        )
        self.orders[name] = order or name
        self.next_at[name] = NOON
        self.states[name] = "pending"

    def _pending(self) -> list[Delivery]:
        rows = [row for name, row in self.rows.items() if self.states[name] == "pending"]
        return sorted(rows, key=lambda row: self.next_at[row.delivery_id])

    async def due_deliveries(self, now: datetime, each: int) -> list[Delivery]:
        found, taken = [], Counter[str]()
        self.looks += 1
        await trio.sleep(self.look_seconds)
        for row in self._pending():
            if self.next_at[row.delivery_id] <= now and taken[row.webhook_id] < each:
                same = [other.sequence for other in self._pending() if self._is_beside(other, row)]
                if min(same) == row.sequence:
                    taken[row.webhook_id] += 1
                    found.append(msgspec.structs.replace(row, followed=len(same) > 1))
        return found

    def _is_beside(self, other: Delivery, row: Delivery) -> bool:
        key = row.webhook_id, self.orders[row.delivery_id]
        return (other.webhook_id, self.orders[other.delivery_id]) == key

    async def next_delivery_at(self, after: datetime) -> datetime | None:
        await trio.lowlevel.checkpoint()
        times = (self.next_at[row.delivery_id] for row in self._pending())
        return min((at for at in times if at > after), default=None)

    async def commit(
        self,
        changes: Sequence[Change],
        now: datetime,  # noqa: ARG002  # the store's signature
    ) -> list[CommitAnswer]:
        await trio.sleep(self.commit_seconds)
        for result in (result for change in changes for result in change.deliveries):
            self.record(result)
        return [Committed(()) for _ in changes]

    def record(self, result: DeliveryResult) -> None:
        name = result.delivery_id
        self.rows[name] = msgspec.structs.replace(self.rows[name], attempts=result.attempt)
        self.states[name] = result.state
        self.stored_at[name] = trio.current_time()
        if result.next_at is not None:
            self.next_at[name] = result.next_at


class SlowReadingOutbox(MemoryOutbox):
    """A read shows what was true two seconds before it returns."""

    async def due_deliveries(self, now: datetime, each: int) -> list[Delivery]:
        found = await super().due_deliveries(now, each)
        await trio.sleep(2)
        return found


class FullOutbox(MemoryOutbox):
    """No result can be stored."""

    async def commit(self, changes: Sequence[Change], now: datetime) -> list[CommitAnswer]:
        await super().commit((), now)
        return [Unstorable("no room") for _ in changes]


@dataclass
class Post:
    """One request."""

    at: float
    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def name(self) -> str:
        return self.headers["webhook-id"].removeprefix("evt_")


@dataclass
class FakePoster:
    """Answers as it is told to, after so many seconds, and counts how many it does at once."""

    answer: Answer = TAKEN
    seconds: float = 0
    spread: float = 0
    """More seconds, for each request another part of them, but for those to `quick`."""
    quick: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    """URLs that use up the whole deadline."""
    posts: list[Post] = field(default_factory=list)
    under_way: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)

    def tidy(self) -> None:
        """Nothing is kept."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.posts.append(Post(trio.current_time(), url, headers, body))
        keys = {"all", url}
        self.under_way.update(keys)
        self.most |= self.under_way
        part = 0 if url in self.quick else len(self.posts) * GOLDEN % 1
        await trio.sleep(5 if url in self.dead else self.seconds + self.spread * part)
        self.under_way.subtract(keys)
        return Answer(error="There was no answer.") if url in self.dead else self.answer


@dataclass
class Bench:
    """A dispatcher at work in memory."""

    outbox: MemoryOutbox
    poster: FakePoster
    wakeup: Wakeup
    clock: TrioClock
    metrics: Metrics
    dispatcher: WebhookDispatcher

    def add(
        self, name: str, webhook: str = "w", url: str = "https://w.test/hook", order: str = ""
    ) -> None:
        """A delivery that is due now, and the ring that persistence gives for it."""
        self.outbox.put(name, webhook, url, order)
        self.wakeup.ring()

    def times(self, name: str) -> list[float]:
        return [round(post.at, 3) for post in self.poster.posts if post.name == name]


@asynccontextmanager
async def at_work(outbox: MemoryOutbox, poster: FakePoster | None = None) -> AsyncGenerator[Bench]:
    """Run a dispatcher on this outbox; at the end let it drain."""
    poster, wakeup, clock, metrics = poster or FakePoster(), Wakeup(), TrioClock(), Metrics()
    hub = StreamHub("str_test", metrics)
    persistence = PersistenceActor(outbox, hub, wakeup, clock, metrics)
    dispatcher = WebhookDispatcher(outbox, persistence, poster, wakeup, clock, middle, metrics)
    async with running(persistence, drain=1), running(dispatcher, drain=6):
        yield Bench(outbox, poster, wakeup, clock, metrics, dispatcher)


@pytest.fixture
def outbox() -> MemoryOutbox:
    """An empty outbox."""
    return MemoryOutbox()


async def test_a_due_delivery_is_sent(outbox: MemoryOutbox, autojump_clock: MockClock) -> None:
    """The stored bytes go to the subscription's URL under the documented headers."""
    outbox.put("a")
    async with at_work(outbox) as bench:
        await trio.sleep(1)
    (post,) = bench.poster.posts
    assert post.url == "https://w.test/hook"
    assert post.body == b'{"id":"evt_a"}'
    assert post.headers == {
        "Content-Type": "application/json",
        "X-Webhook-Secret": "hush",
        "User-Agent": "ticker-actors",
        "webhook-id": "evt_a",
        "webhook-timestamp": str(int(NOON.timestamp())),
        "X-Webhook-Event": "order_placed",
        "X-Webhook-Attempt": "1",
        "X-Webhook-Subscription": "w",
        "X-Webhook-Trigger": "live",
    }
    assert outbox.states == {"a": "succeeded"}


async def test_no_secret_no_header(outbox: MemoryOutbox, autojump_clock: MockClock) -> None:
    """A subscription without a secret gets no secret header."""
    outbox.put("a")
    outbox.rows["a"] = msgspec.structs.replace(outbox.rows["a"], secret=None)
    async with at_work(outbox) as bench:
        await trio.sleep(1)
    assert "X-Webhook-Secret" not in bench.poster.posts[0].headers


async def test_the_whole_schedule(
    outbox: MemoryOutbox, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that never takes it is asked eleven times in 68.6 hours, then left."""
    monkeypatch.setattr(webhook_dispatcher, "LONGEST_SLEEP", 3600.0)  # three days of 30 s are many
    outbox.put("a")
    async with at_work(outbox, FakePoster(FAILED)) as bench:
        await trio.sleep(7 * 86_400)
    steps = [0, 5, 15, 60, 300, 1800, 7200, 21_600, 43_200, 86_400, 86_400]
    assert bench.times("a") == pytest.approx([sum(steps[: n + 1]) for n in range(11)], abs=0.1)
    assert outbox.states == {"a": "failed"}
    headers = [post.headers for post in bench.poster.posts]
    assert [each["X-Webhook-Attempt"] for each in headers] == [str(n) for n in range(1, 12)]
    assert [each["X-Webhook-Trigger"] for each in headers] == ["live", *["retry"] * 10]
    assert {each["webhook-id"] for each in headers} == {"evt_a"}
    assert {post.body for post in bench.poster.posts} == {b'{"id":"evt_a"}'}


async def test_gone_is_gone(outbox: MemoryOutbox, autojump_clock: MockClock) -> None:
    """410 ends a delivery at once."""
    outbox.put("a")
    async with at_work(outbox, FakePoster(Answer(status=410))) as bench:
        await trio.sleep(86_400)
    assert bench.times("a") == [0]
    assert outbox.states == {"a": "failed"}


async def test_a_new_delivery_ends_the_sleep(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """It goes at once, when nothing else is stored."""
    async with at_work(outbox) as bench:
        await trio.sleep(1.5)
        bench.add("a")
        await wait_all_tasks_blocked()
        assert bench.times("a") == [1.5]


async def test_a_clock_set_forward_is_noticed(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """A delivery that became due because the wall clock was set goes within half a minute."""
    outbox.put("a")
    outbox.next_at["a"] += timedelta(hours=2)
    async with at_work(outbox) as bench:
        await trio.sleep(3600)
        assert not bench.poster.posts
        bench.clock.set_by = timedelta(hours=1)
        await trio.sleep(30)
        assert len(bench.poster.posts) == 1


async def test_a_clock_set_back_stops_nothing(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """A delivery that is due in the future, because the clock was set back, goes when it is due.

    Also if it comes together with the result of another, after which nothing else happens.
    """
    outbox.put("first")
    async with at_work(outbox, FakePoster(seconds=1)) as bench:
        await trio.sleep(0.999)
        outbox.put("second")
        outbox.next_at["second"] = NOON + timedelta(seconds=3)
        bench.wakeup.ring()
        await trio.sleep(10)
        assert bench.times("second") == [pytest.approx(3, abs=0.05)]
        outbox.put("third")
        outbox.next_at["third"] = bench.clock.now() + timedelta(seconds=2)
        await trio.sleep(40)  # nobody rang at all
        assert len(bench.times("third")) == 1


async def test_a_clock_set_back_keeps_no_order_waiting(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """What is under way is not due any more then; its order's next still goes when it has ended."""
    outbox.put("a", order="o")
    async with at_work(outbox, FakePoster(seconds=1)) as bench:
        await trio.sleep(0.5)
        bench.clock.set_by = -timedelta(hours=1)
        outbox.put("b", order="o")
        outbox.next_at["b"] = bench.clock.now()
        bench.wakeup.ring()
        await trio.sleep(5)
        assert bench.times("b") == [1]


@pytest.mark.parametrize("after", [0.001, 0.5])
async def test_what_rings_in_a_pause_is_not_forgotten(
    outbox: MemoryOutbox, autojump_clock: MockClock, after: float
) -> None:
    """Nor while a result is stored: if it is due later, because the clock was set back, it goes."""
    outbox.commit_seconds = 1
    outbox.put("first")
    async with at_work(outbox, FakePoster(seconds=1)) as bench:
        await trio.sleep(1 + RESULT_SECONDS - 0.001)
        bench.wakeup.stir()
        await trio.sleep(0.001 + after)  # the result waits until it is quiet, then it is stored
        outbox.put("second")
        outbox.next_at["second"] = NOON + timedelta(seconds=5)
        bench.wakeup.ring()
        await trio.sleep(10)
        assert bench.times("second") == [pytest.approx(5, abs=0.05)]


async def test_a_deleted_webhook_is_not_served_from_memory(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """What an older look has shown is not begun while results are being stored, however slowly."""
    slow = "https://slow.test/"
    outbox.put("quicker", "other", "https://other.test/")
    for number in range(EACH + 4):
        outbox.put(f"{number}", "w", slow)
    outbox.commit_seconds = 2
    async with at_work(outbox, FakePoster(seconds=4.95, dead=(slow,))) as bench:
        await trio.sleep(0.5)
        for number in range(EACH, EACH + 4):
            outbox.states[f"{number}"] = "failed"  # the webhook was deleted
        await trio.sleep(20)
    assert {post.name for post in bench.poster.posts} == {"quicker", *map(str, range(EACH))}


async def test_a_subscription_has_few_places(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """Four of one subscription are under way, and the next goes when one is done."""
    for number in range(10):
        outbox.put(f"{number}")
    async with at_work(outbox, FakePoster(seconds=1)) as bench:
        await trio.sleep(10)
    assert bench.poster.most["all"] == EACH
    assert [post.at for post in bench.poster.posts] == pytest.approx([0] * 4 + [1] * 4 + [2] * 2)


async def test_a_host_has_few_places(outbox: MemoryOutbox, autojump_clock: MockClock) -> None:
    """Eight of one host are under way, however many subscriptions lead there."""
    for number in range(40):
        outbox.put(f"{number}", f"w{number % 5}")
    async with at_work(outbox, FakePoster(seconds=1)) as bench:
        await trio.sleep(30)
    assert bench.poster.most["all"] == EACH_HOST
    assert len(bench.poster.posts) == 40


async def test_there_is_a_bound_for_all(outbox: MemoryOutbox, autojump_clock: MockClock) -> None:
    """However many subscriptions there are, 64 requests are under way."""
    for number in range(200):
        outbox.put(f"{number}", f"w{number % 50}", f"https://w{number % 50}.test/")
    async with at_work(outbox, FakePoster(seconds=1)) as bench:
        await trio.sleep(30)
    assert bench.poster.most["all"] == ALL
    assert set(outbox.states.values()) == {"succeeded"}


async def test_a_dead_receiver_slows_nobody(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """Behind a dead one's thousand older deliveries, those of fifty others go at once."""
    dead = "https://dead.test/"
    for number in range(1000):
        outbox.put(f"dead {number}", "dead", dead)
    for number in range(200):
        outbox.put(f"{number}", f"w{number % 50}", f"https://w{number % 50}.test/")
    async with at_work(outbox, FakePoster(seconds=0.1, dead=(dead,))) as bench:
        await trio.sleep(3)
        living = [post.at for post in bench.poster.posts if post.url != dead]
        assert len(living) == 200
        assert max(living) < 1
        assert bench.poster.most[dead] == EACH


async def test_an_old_read_sends_nothing_twice(autojump_clock: MockClock) -> None:
    """A read that began before a result was stored still shows it pending; it does not go out."""
    outbox = SlowReadingOutbox()
    outbox.put("a")
    async with at_work(outbox, FakePoster(seconds=3)) as bench:
        for number in range(10):
            await trio.sleep(1)
            bench.add(f"{number}")
        await trio.sleep(60)
    counts = Counter(post.name for post in bench.poster.posts)
    assert set(counts.values()) == {1}
    assert len(counts) == 11


async def test_stopping_finishes_what_is_under_way(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """At the end nothing new begins, and results of what has begun are stored."""
    for number in range(10):
        outbox.put(f"{number}")
    async with at_work(outbox, FakePoster(seconds=4)) as bench:
        await trio.sleep(1)
    assert trio.current_time() == pytest.approx(4)
    assert len(bench.poster.posts) == EACH
    assert Counter(outbox.states.values()) == {"succeeded": 4, "pending": 6}


async def test_a_result_at_the_stop_waits_for_no_other(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """While a dead receiver uses up its time, what else has come is stored: a kill loses little."""
    dead = "https://dead.test/"
    outbox.put("dead", "dead", dead)
    outbox.put("quick")
    async with at_work(outbox, FakePoster(seconds=2, dead=(dead,))):
        await trio.sleep(1)
    assert outbox.stored_at == pytest.approx({"quick": 2, "dead": 5})


async def test_results_are_stored_together(outbox: MemoryOutbox, autojump_clock: MockClock) -> None:
    """What ends between two looks is one transaction; no look is made for it."""
    for number in range(EACH):
        outbox.put(f"{number}")
    async with at_work(outbox, FakePoster(seconds=1)) as bench:
        await trio.sleep(1.5)
        assert set(outbox.stored_at.values()) == {1 + RESULT_SECONDS}
        assert bench.metrics.registry.get_sample_value("ticker_commit_changes_count") == 1
        assert outbox.looks == 1


async def test_results_do_not_wait_for_each_other(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """However soon others come, the first is stored in its time, with those that are there."""
    async with at_work(outbox, FakePoster(seconds=1)) as bench:
        for number in range(4):
            bench.add(f"{number}")
            await trio.sleep(0.06)
        await trio.sleep(2)
    assert outbox.stored_at == pytest.approx({"0": 1.1, "1": 1.1, "2": 1.22, "3": 1.22})


async def test_results_go_with_the_next_look(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """What is new has not to wait until they are stored, nor they for long after it."""
    outbox.commit_seconds = 0.5
    async with at_work(outbox) as bench:
        await trio.sleep(1)
        bench.add("a")
        await trio.sleep(0.05)
        bench.add("b")
        await trio.sleep(5)
        assert bench.times("b") == [1.05]
        assert outbox.stored_at == pytest.approx({"a": 1.55, "b": 2.05})


@pytest.mark.parametrize("after", [0, 0.005, 0.05, 0.2])
async def test_the_next_of_an_order_goes_soon(
    outbox: MemoryOutbox, autojump_clock: MockClock, after: float
) -> None:
    """Whether it came before the one before it went, under way, unsaved, or long ago."""
    outbox.look_seconds = outbox.commit_seconds = 0.001
    async with at_work(outbox, FakePoster(seconds=0.02)) as bench:
        await trio.sleep(1)
        outbox.put("a", order="o")
        if not after:
            outbox.put("b", order="o")
        bench.wakeup.ring()
        await trio.sleep(after)
        if after:
            bench.add("b", order="o")
        await trio.sleep(1)
        (gone,) = bench.times("b")
        # A look that shows it is hidden, its pause of four times as long, a commit, and a look.
        assert gone == pytest.approx(1 + max(after, 0.02), abs=0.0071)


@pytest.mark.parametrize("seed", range(40))
async def test_everything_goes_once_in_order_and_soon(
    outbox: MemoryOutbox, autojump_clock: MockClock, seed: int
) -> None:
    """However deliveries, orders under way, looks, requests and transactions fall."""
    chance = Random(seed)
    outbox.look_seconds = chance.choice([0, 0.001, 0.004])
    outbox.commit_seconds = chance.choice([0, 0.002, 0.01])
    poster = FakePoster(seconds=chance.choice([0, 0.003, 0.03]))
    came = dict[str, float]()
    async with at_work(outbox, poster) as bench:
        for number in range(60):
            await trio.sleep(chance.choice([0, 0.001, 0.007, 0.05, 0.2]))
            if chance.random() < 0.3:
                bench.wakeup.stir()
            for _ in range(chance.choice([1, 1, 2, 3])):
                name = f"{len(came)}"
                hook = f"w{chance.randrange(2)}"
                outbox.put(name, hook, f"https://{hook}.test/", f"o{number // 3}")
                came[name] = trio.current_time()
            bench.wakeup.ring()
        await trio.sleep(5)
    assert set(outbox.states.values()) == {"succeeded"}
    gone = {post.name: post.at for post in poster.posts}
    assert len(poster.posts) == len(gone) == len(came)
    last = dict[tuple[str, str], float]()
    for name, row in outbox.rows.items():
        key = row.webhook_id, outbox.orders[name]
        could = max(came[name], last.get(key, -1) + poster.seconds + outbox.commit_seconds)
        assert could <= gone[name] < could + 0.2
        last[key] = gone[name]


async def test_orders_go_first(outbox: MemoryOutbox, autojump_clock: MockClock) -> None:
    """Looks and results wait while something is stored every few milliseconds, but not for long."""
    async with at_work(outbox) as bench, trio.open_nursery() as nursery:

        async def orders() -> None:
            while trio.current_time() < 0.999 + 0.2:
                bench.wakeup.stir()
                await trio.sleep(0.003)

        await trio.sleep(0.999)
        nursery.start_soon(orders)
        await trio.sleep(0.001)
        bench.add("a")
        await trio.sleep(0.019)
        assert not bench.poster.posts
        await trio.sleep(0.002)
        assert bench.times("a") == [1 + LOOK_SECONDS]
        await trio.sleep(1)
        expected = 1 + LOOK_SECONDS + RESULT_SECONDS + LOOK_SECONDS
        assert outbox.stored_at == pytest.approx({"a": expected})


async def test_a_receiver_does_not_fall_behind_for_them(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """However many orders come, without a pause: what they tell a receiver goes as they come."""
    outbox.look_seconds = outbox.commit_seconds = 0.001
    async with at_work(outbox, FakePoster(seconds=0.001)) as bench:
        for number in range(1000):
            bench.add(f"{number}")
            bench.wakeup.stir()
            await trio.sleep(0.001)
            assert len(bench.poster.posts) > number - 3 * AHEAD
        await trio.sleep(1)
    assert len(bench.poster.posts) == 1000


async def test_a_dead_receiver_takes_no_turn_from_orders(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """However much it has missed: the living ones' looks still wait until it is quiet."""
    dead = "https://dead.test/"
    for number in range(100):
        outbox.put(f"dead {number}", "dead", dead)
    async with at_work(outbox, FakePoster(dead=(dead,))) as bench:
        await trio.sleep(1)
        bench.add("a", "living", "https://living.test/")
        bench.wakeup.stir()
        await trio.sleep(0.1)
        assert bench.times("a") == [1 + QUIET_SECONDS]


async def test_results_of_all_accounts_are_stored_together(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """Each is a change of its own, and all are one transaction."""
    outbox.commit_seconds = 1
    for number in range(8):
        outbox.put(f"{number}", f"w{number}", f"https://w{number}.test/")
        row = outbox.rows[f"{number}"]
        outbox.rows[f"{number}"] = msgspec.structs.replace(row, account_id=f"account {number}")
    async with at_work(outbox, FakePoster(seconds=1)) as bench:
        await trio.sleep(5)
        changes = bench.metrics.registry.get_sample_value("ticker_commit_changes_sum")
        assert changes == 8
    # The first begins at once, alone; what waits when it returns is the next.
    assert max(outbox.stored_at.values()) <= 3


async def test_what_is_new_goes_when_it_is_quiet(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """Not after the longest wait."""
    async with at_work(outbox) as bench:
        await trio.sleep(1)
        bench.add("a")
        bench.wakeup.stir()
        await trio.sleep(1)
        assert bench.times("a") == [1 + QUIET_SECONDS]
        assert outbox.stored_at == pytest.approx({"a": 1 + QUIET_SECONDS + RESULT_SECONDS})


async def test_stopping_while_a_result_is_stored(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """That comes to its end, and nothing sleeps after it."""
    outbox.commit_seconds = 1
    outbox.put("a")
    async with at_work(outbox) as bench:
        await trio.sleep(0.5)
        bench.add("b")
    assert trio.current_time() == pytest.approx(RESULT_SECONDS + 1)
    assert outbox.states == {"a": "succeeded", "b": "pending"}


@pytest.mark.parametrize(
    "length, most", [(0.001, 1 / 0.005), (0.002, 1 / 0.01), (0.01, 1 / (0.01 + LOOK_SECONDS))]
)
async def test_the_longer_a_look_takes_the_fewer_there_are(
    outbox: MemoryOutbox, autojump_clock: MockClock, length: float, most: float
) -> None:
    """However often it rings."""
    outbox.look_seconds = length
    async with at_work(outbox) as bench:
        for number in range(1000):
            bench.add(f"{number}")
            await trio.sleep(0.001)
        assert outbox.looks == pytest.approx(most, rel=0.1)
        await trio.sleep(1)
    assert len(bench.poster.posts) == 1000


async def test_what_has_no_place_goes_when_there_is_one(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """What a look has shown is begun without another look, as long as it is fresh."""
    for number in range(AHEAD):
        outbox.put(f"{number}")
    async with at_work(outbox, FakePoster(seconds=0.001)) as bench:
        await trio.sleep(1)
    assert len(bench.poster.posts) == AHEAD
    assert max(post.at for post in bench.poster.posts) < LOOK_SECONDS
    assert bench.poster.most["all"] == EACH


async def test_a_stale_look_is_not_gone_by(outbox: MemoryOutbox, autojump_clock: MockClock) -> None:
    """A delivery that was given up while it waited for a place is not sent."""
    for number in range(EACH + 1):
        outbox.put(f"{number}")
    async with at_work(outbox, FakePoster(seconds=1)) as bench:
        await trio.sleep(0.5)
        outbox.states[f"{EACH}"] = "failed"  # its webhook was deleted
        await trio.sleep(5)
    assert len(bench.poster.posts) == EACH


@pytest.mark.parametrize("stop", [0.0205, 0.0215, 0.022, 0.024, 0.0255, 0.03, 0.05])
@pytest.mark.parametrize("page", [2, AHEAD])
async def test_stopping_is_heard_at_any_moment(
    outbox: MemoryOutbox, autojump_clock: MockClock, stop: float, page: int
) -> None:
    """Also while results are stored, of which more was to be shown."""
    outbox.look_seconds, outbox.commit_seconds = 0.001, 0.003
    for number in range(page):
        outbox.put(f"{number}", order="o" if page == 2 else "")
    async with at_work(outbox, FakePoster(seconds=0.02)):
        await trio.sleep(stop)
    assert trio.current_time() < stop + 0.02 + 2 * LOOK_SECONDS


async def test_slow_results_starve_no_looks(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """However long they take to be stored, and however many come: what is new goes between them."""
    outbox.commit_seconds = 4 * RESULT_SECONDS
    living = "https://living.test/"
    for number in range(15 * 20):
        outbox.put(f"{number}", f"w{number % 15}", f"https://w{number % 15}.test/")
    async with at_work(outbox, FakePoster(spread=5, quick=(living,))) as bench:
        for number in range(10):
            await trio.sleep(0.9)
            came = trio.current_time()
            bench.add(f"new {number}", "living", living)
            await trio.sleep(3 * outbox.commit_seconds)
            (gone,) = bench.times(f"new {number}")
            assert gone < came + 2 * outbox.commit_seconds


async def test_a_dead_receivers_backlog_costs_no_looks(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """What waits for its places gains nothing when another's delivery has ended."""
    dead, living = "https://dead.test/", "https://living.test/"
    for number in range(AHEAD - 1):
        outbox.put(f"dead {number}", "dead", dead)
    poster = FakePoster(dead=(dead,), seconds=1.5 * FRESH_SECONDS)
    async with at_work(outbox, poster) as bench:
        await trio.sleep(1)
        looks = outbox.looks
        for number in range(3):
            bench.add(f"{number}", "living", living)
            await trio.sleep(1)
        assert outbox.looks == looks + 3


async def test_results_take_no_place_from_what_is_new(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """A look shows what is not stored yet, too: if its page is full, they are stored first."""
    outbox.look_seconds = outbox.commit_seconds = 0.004
    async with at_work(outbox, FakePoster(seconds=0.001)) as bench:
        for number in range(500):
            bench.add(f"{number}")
            await trio.sleep(1 / 700)
        await trio.sleep(1)
    assert median(post.at - int(post.name) / 700 for post in bench.poster.posts) < 0.04


async def test_stopping_in_the_middle_of_a_read(autojump_clock: MockClock) -> None:
    """What a read brings after the stop is left for the next start."""
    outbox = SlowReadingOutbox()
    outbox.put("a")
    async with at_work(outbox) as bench:
        await trio.sleep(1)
    assert not bench.poster.posts


async def test_an_idle_dispatcher_stops_at_once(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """Stopping does not wait for the sleep to end, nor until it is quiet."""
    async with at_work(outbox) as bench:
        await trio.sleep(1)
        bench.wakeup.stir()
    assert trio.current_time() == pytest.approx(1)


async def test_stopping_before_it_is_quiet(outbox: MemoryOutbox, autojump_clock: MockClock) -> None:
    """What was to go then is left for the next start."""
    async with at_work(outbox) as bench:
        await trio.sleep(1)
        bench.add("a")
        bench.wakeup.stir()
        await trio.sleep(0.001)
    assert trio.current_time() == pytest.approx(1 + QUIET_SECONDS)
    assert not bench.poster.posts


async def test_a_result_that_cannot_be_stored_stays_pending(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """When persistence has gone first, the delivery is left for the next start."""
    outbox.put("a")
    async with at_work(outbox, FakePoster(seconds=2)) as bench:
        await trio.sleep(1)
        bench.dispatcher._persistence.mailboxes[0].close()
    assert outbox.states == {"a": "pending"}


async def test_what_cannot_be_stored_is_not_sent_without_end(autojump_clock: MockClock) -> None:
    """A delivery whose result the tables do not take goes once until the next start."""
    outbox = FullOutbox()
    outbox.put("a")
    async with at_work(outbox) as bench:
        await trio.sleep(1)
        bench.wakeup.ring()
        await trio.sleep(60)
    assert bench.times("a") == [0]


async def test_failures_are_logged_without_secrets(
    outbox: MemoryOutbox, autojump_clock: MockClock
) -> None:
    """A failure names subscription, host and status; the URL's path, query and user stay out."""
    outbox.put("a", url="https://me:pw@w.test:8443/services/T0KEN?key=K3Y")
    with capture_logs() as logs:
        async with at_work(outbox, FakePoster(Answer(status=410))):
            await trio.sleep(1)
    (line,) = logs
    assert line["event"] == "webhook delivery given up"
    assert line["host"] == "w.test:8443"
    assert line["status"] == 410
    for secret in ("T0KEN", "K3Y", "pw", "hush"):
        assert secret not in str(line)


async def test_attempts_are_counted(outbox: MemoryOutbox, autojump_clock: MockClock) -> None:
    """Metrics tell attempts by event and result, and their seconds."""
    outbox.put("a")
    poster = FakePoster(FAILED, seconds=0.5)
    async with at_work(outbox, poster) as bench:
        await trio.sleep(1)
        poster.answer = TAKEN
        await trio.sleep(10)
    text = bench.metrics.render().decode()
    assert 'ticker_webhook_attempts_total{event="order_placed",result="retried"} 1.0' in text
    assert 'ticker_webhook_attempts_total{event="order_placed",result="succeeded"} 1.0' in text
    assert "ticker_webhook_attempt_seconds_count 2.0" in text
    assert "ticker_webhook_attempt_seconds_sum 1.0" in text


# From here on with real tables and real sockets.


class HandClock:
    """A wall clock that the test turns."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self) -> datetime:
        return self.time


def subscribed(name: str, port: int, *, deleted: bool = False) -> Change:
    """A subscription of the receiver on this port."""
    webhook = Webhook(
        webhook_id=name,
        url=f"http://127.0.0.1:{port}/hook",
        account_id="primary",
        events=("order_placed", "order_completed"),
        secret="hush",
        active=not deleted,
        deleted=deleted,
        created_at=NOON,
    )
    return Change(account_id="primary", webhooks=(webhook,))


def told(name: str, event: EventName = "order_placed", order: str = "o1") -> Change:
    """An event of an order."""
    happened = Event(
        event_id=f"evt_{name}",
        account_id="primary",
        event=event,
        order_id=order,
        order_key=order,
        order_version=1,
        data=msgspec.Raw(b'{"order_id":"%s"}' % order.encode()),
        created_at=NOON,
    )
    return Change(account_id="primary", events=(happened,))


@dataclass
class Service:
    """Store, persistence and dispatcher, as `service.py` puts them together."""

    store: SqliteStore
    persistence: PersistenceActor
    wakeup: Wakeup
    clock: HandClock

    async def subscribe(self, port: int, *, deleted: bool = False) -> None:
        """A subscription of the receiver on this port."""
        await self.persistence.commit(subscribed("hook", port, deleted=deleted))

    async def tell(self, name: str, event: EventName = "order_placed", order: str = "o1") -> None:
        """Commit an event."""
        await self.persistence.commit(told(name, event, order))

    def turn(self, seconds: float) -> None:
        """Let time pass on the wall, and let the dispatcher look at it."""
        self.clock.time += timedelta(seconds=seconds)
        self.wakeup.ring()

    async def outbox(self) -> list[dict[str, Any]]:
        """The rows of the outbox in sequence."""
        sql = "SELECT * FROM webhook_deliveries ORDER BY sequence"
        return await self.store._rows(sql)

    async def stored(self, attempts: int) -> None:
        """Wait until so many attempts are in the tables."""
        sql = "SELECT COUNT(*) AS count FROM webhook_attempts"
        while True:
            if (await self.store._rows(sql))[0]["count"] >= attempts:
                return
            await trio.sleep(0.005)


@asynccontextmanager
async def service(path: Path, clock: HandClock, drain: float = 6) -> AsyncGenerator[Service]:
    """Start on the tables in this file; at the end stop in order. No drain at all is a crash."""
    wakeup, metrics, chance = Wakeup(), Metrics(), Random(1).getrandbits
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            SqliteStore.open(path, now=clock.now(), chance=chance)
        )
        await store.claim("primary", "test")
        hub = await stack.enter_async_context(
            running(StreamHub(store.installation.stream, metrics), drain=1)
        )
        persistence = await stack.enter_async_context(
            running(PersistenceActor(store, hub, wakeup, clock, metrics), drain=1)
        )
        client = await stack.enter_async_context(WebhookClient(allow_private=True))
        await stack.enter_async_context(
            running(
                WebhookDispatcher(store, persistence, client, wakeup, clock, middle, metrics),
                drain=drain,
            )
        )
        yield Service(store, persistence, wakeup, clock)


@pytest.fixture
def clock() -> HandClock:
    """The wall clock."""
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The database file."""
    return tmp_path / "ticker.db"


async def test_an_event_reaches_its_receiver(path: Path, clock: HandClock) -> None:
    """What was committed arrives byte for byte, with the document's headers and fields."""
    async with listening(receiver := Receiver()) as port, service(path, clock) as here:
        await here.subscribe(port)
        await here.tell("one")
        (request,) = await receiver.received(1)
        (row,) = await here.outbox()
    assert request.line == "POST /hook HTTP/1.1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-webhook-secret"] == "hush"
    assert request.headers["user-agent"] == "ticker-actors"
    assert request.headers["webhook-id"] == "evt_one"
    assert request.body == row["body"]
    body = msgspec.json.decode(request.body)
    assert list(body)[:4] == ["event", "account_id", "data", "timestamp"]
    assert body["event"] == "order_placed"


async def test_events_of_one_order_come_in_sequence(path: Path, clock: HandClock) -> None:
    """The completion waits while the placing is being retried; another order does not."""
    receiver = Receiver([answer(500), OK])
    async with listening(receiver) as port, service(path, clock) as here:
        await here.subscribe(port)
        await here.tell("placed")
        await here.stored(1)
        await here.tell("completed", "order_completed")
        await here.tell("other", order="o2")
        await here.stored(2)
        here.turn(6)
        requests = await receiver.received(4)
    names = [request.headers["webhook-id"] for request in requests]
    assert names == ["evt_placed", "evt_other", "evt_placed", "evt_completed"]


async def test_a_retry_survives_a_restart(path: Path, clock: HandClock) -> None:
    """What failed before the restart is sent after it: same id, same bytes, next attempt."""
    receiver = Receiver([answer(503, "Retry-After: 60"), OK])
    async with listening(receiver) as port:
        async with service(path, clock) as before:
            await before.subscribe(port)
            await before.tell("one")
            await receiver.received(1)
        clock.time += timedelta(seconds=59)
        async with service(path, clock) as between:
            (row,) = await between.outbox()
            assert (row["state"], row["attempts"]) == ("pending", 1)
            assert await between.store.due_deliveries(clock.now(), 1) == []
        clock.time += timedelta(seconds=1)
        async with service(path, clock) as after:
            first, second = await receiver.received(2)
        async with service(path, clock) as after:
            (row,) = await after.outbox()
    assert second.headers["webhook-id"] == first.headers["webhook-id"] == "evt_one"
    assert second.body == first.body == row["body"]
    assert second.headers["x-webhook-attempt"] == "2"
    assert second.headers["x-webhook-trigger"] == "retry"
    assert (row["state"], row["attempts"], row["next_at"]) == ("succeeded", 2, None)


async def test_what_a_crash_cut_is_sent_again(path: Path, clock: HandClock) -> None:
    """A request under way when the process died goes again, as it was."""
    receiver = Receiver()
    arrived = trio.Event()

    async def hold(stream: trio.abc.Stream) -> None:
        if not arrived.is_set():
            receiver.requests.append(await read_request(stream))
            arrived.set()
            await trio.sleep_forever()
        await receiver(stream)

    async with listening(hold) as port:
        async with service(path, clock, drain=0) as here:
            await here.subscribe(port)
            await here.tell("one")
            await arrived.wait()
        async with service(path, clock):
            first, second = await receiver.received(2)
    assert second.headers["webhook-id"] == "evt_one"
    assert second == first


async def test_a_subscription_deleted_under_way_harms_nothing(path: Path, clock: HandClock) -> None:
    """The result of its last request is stored, and nothing more is sent there."""
    arrived, release = trio.Event(), trio.Event()
    receiver = Receiver([answer(500)])

    async def hold(stream: trio.abc.Stream) -> None:
        arrived.set()
        await release.wait()
        await receiver(stream)

    async with listening(hold) as port, service(path, clock) as here:
        await here.subscribe(port)
        await here.tell("one")
        await arrived.wait()
        await here.subscribe(port, deleted=True)
        release.set()
        await here.stored(1)
        clock.time += timedelta(days=1)
    async with service(path, clock) as here:
        (row,) = await here.outbox()
        assert (row["state"], row["attempts"]) == ("failed", 1)
        assert await here.store.due_deliveries(clock.now(), 8) == []
        assert await here.store.next_delivery_at(NOON) is None
    assert len(receiver.requests) == 1


@pytest.fixture
async def store(path: Path) -> AsyncGenerator[SqliteStore]:
    """Tables of which this process writes the account."""
    async with SqliteStore.open(path, now=NOON, chance=Random(1).getrandbits) as store:
        await store.claim("primary", "test")
        yield store


async def due(store: SqliteStore, each: int = 8, *, after: float = 0) -> list[str]:
    """The events due so many seconds after noon."""
    found = await store.due_deliveries(NOON + timedelta(seconds=after), each)
    return [delivery.event_id for delivery in found]


def failed(name: str, attempt: int, after: float) -> Change:
    """A failed attempt, to be repeated so many seconds after noon."""
    result = DeliveryResult(
        delivery_id=f"dlv_{name}_hook",
        attempt=attempt,
        state="pending",
        next_at=NOON + timedelta(seconds=after),
        started_at=NOON,
        seconds=0.1,
        status_code=500,
        error=None,
    )
    return Change(account_id="primary", deliveries=(result,))


async def test_a_backlog_fills_no_others_read(store: SqliteStore) -> None:
    """However much is due to one subscription, only so many of its rows are read."""
    await store.commit([subscribed("dead", 1)], NOON)
    await store.commit([told(f"{number}", order=f"o{number}") for number in range(20)], NOON)
    await store.commit([subscribed("live", 2)], NOON)
    await store.commit([told("last", order="o20")], NOON)
    found = await store.due_deliveries(NOON, 3)
    assert sorted(delivery.webhook_id for delivery in found) == ["dead"] * 3 + ["live"]


async def test_an_order_waits_for_its_earlier_delivery(store: SqliteStore) -> None:
    """Up to the fourth failure of an earlier one, a later delivery of the order is not due."""
    await store.commit([subscribed("hook", 1)], NOON)
    await store.commit([told("a"), told("b", "order_completed"), told("c", order="o2")], NOON)
    assert await due(store) == ["evt_a", "evt_c"]
    for attempt in range(1, 5):
        await store.commit([failed("a", attempt, after=60)], NOON)
        assert await due(store) == ["evt_c"]
    await store.commit([failed("a", 5, after=60)], NOON)
    assert await due(store) == ["evt_b", "evt_c"]
    assert await due(store, after=60) == ["evt_b", "evt_c", "evt_a"]


async def test_only_what_is_not_due_yet_sets_the_alarm(store: SqliteStore) -> None:
    """The next time is that of a later delivery of a living subscription."""
    await store.commit([subscribed("hook", 1)], NOON)
    await store.commit([told("a"), told("b", order="o2")], NOON)
    assert await store.next_delivery_at(NOON) is None
    await store.commit([failed("b", 1, after=60)], NOON)
    assert await store.next_delivery_at(NOON) == NOON + timedelta(seconds=60)
    assert await store.next_delivery_at(NOON + timedelta(seconds=60)) is None
    await store.commit([subscribed("hook", 1, deleted=True)], NOON)
    assert await store.next_delivery_at(NOON) is None


async def test_an_account_of_another_is_left_alone(store: SqliteStore) -> None:
    """Deliveries of an account that this process does not write are not due here."""
    await store.commit([subscribed("hook", 1)], NOON)
    await store.commit([told("a")], NOON)
    assert await due(store) == ["evt_a"]
    store._fences.clear()
    assert await due(store) == []
