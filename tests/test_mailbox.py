"""Mailboxes and the lifetime of actors: nobody waits in vain, nothing is dropped unseen."""

import random
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ticker_actors.mailbox import Busy, Mailbox, Reply, Request, Stopped, running


@dataclass(frozen=True, slots=True)
class Placed:
    order_id: str


@dataclass(frozen=True, slots=True)
class Place(Request[Placed]):
    quantity: int


@dataclass(frozen=True, slots=True)
class Silence(Request[Placed]):
    """Is never answered."""


@dataclass(frozen=True, slots=True)
class Note:
    text: str


@dataclass(frozen=True, slots=True)
class Boom:
    """Shows a bug."""


Message = Place | Silence | Note | Boom


class Executor:
    """An actor that works slowly."""

    def __init__(
        self,
        size: int = 4,
        delay: float = 0.0,
        log: list[str] | None = None,
        peer: "Executor | None" = None,
    ) -> None:
        self.mailbox = Mailbox[Message](size)
        self.delay = delay
        self.log = [] if log is None else log
        self.peer = peer

    @property
    def mailboxes(self) -> tuple[Mailbox[Message], ...]:
        return (self.mailbox,)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            async for message, reply in self.mailbox:
                with reply:
                    await trio.sleep(self.delay)
                    match message:
                        case Note(text=text):
                            self.log.append(text)
                        case Boom():
                            raise RuntimeError("bug")
                        case Place(quantity=quantity):
                            self.log.append(f"placed {quantity}")
                            if self.peer is not None:
                                await self.peer.mailbox.tell(Note(f"journal {quantity}"))
                            reply(Placed(f"id-{quantity}"))
                        case Silence():
                            pass
        finally:
            self.log.append("stopped")


async def test_an_ask_is_answered(autojump_clock: MockClock) -> None:
    """Each asker gets its own answer."""
    async with running(Executor(delay=1), drain=5) as executor, trio.open_nursery() as nursery:
        got: dict[int, Placed] = {}

        async def ask(quantity: int) -> None:
            got[quantity] = await executor.mailbox.ask(Place(quantity))

        for quantity in range(4):
            nursery.start_soon(ask, quantity)
    assert got == {quantity: Placed(f"id-{quantity}") for quantity in range(4)}


async def test_messages_are_taken_in_order(autojump_clock: MockClock) -> None:
    """The first come is the first served."""
    executor = Executor(size=10)
    async with running(executor, drain=5):
        for number in range(10):
            executor.mailbox.tell_nowait(Note(str(number)))
    assert executor.log == [*map(str, range(10)), "stopped"]


async def test_a_full_mailbox_is_busy(autojump_clock: MockClock) -> None:
    """`ask_nowait` and `tell_nowait` shed the load; `ask` and `tell` wait for room."""
    executor = Executor(size=1, delay=10)
    async with running(executor, drain=50), trio.open_nursery() as nursery:
        nursery.start_soon(executor.mailbox.ask, Place(1))
        await wait_all_tasks_blocked()
        nursery.start_soon(executor.mailbox.ask, Place(2))
        await wait_all_tasks_blocked()
        with pytest.raises(Busy):
            await executor.mailbox.ask_nowait(Place(3))
        with pytest.raises(Busy):
            executor.mailbox.tell_nowait(Note("x"))
        assert repr(executor.mailbox) == "<Mailbox 1/1>"
        began = trio.current_time()
        await executor.mailbox.tell(Note("waited"))
        assert trio.current_time() > began
        assert await executor.mailbox.ask(Place(4)) == Placed("id-4")
    assert executor.log == ["placed 1", "placed 2", "waited", "placed 4", "stopped"]


async def test_a_flood_takes_no_channel_away(autojump_clock: MockClock) -> None:
    """What was refused for want of room has not used up the channel of an answer."""
    mailbox = Mailbox[Place](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.ask, Place(1))
        await wait_all_tasks_blocked()
        taken = mailbox.take_nowait()
        assert taken is not None
        taken[1](Placed("id-1"))
    mailbox.tell_nowait(Place(2))
    for _ in range(3):
        with pytest.raises(Busy):
            await mailbox.ask_nowait(Place(3))
    assert len(mailbox._spare) == 1


async def test_a_caller_that_leaves_does_not_hurt_the_actor(autojump_clock: MockClock) -> None:
    """Its request is still carried out, its answer goes nowhere."""
    async with running(Executor(delay=10), drain=50) as executor:
        with trio.move_on_after(1):
            await executor.mailbox.ask(Place(1))
        assert await executor.mailbox.ask(Place(2)) == Placed("id-2")
    assert executor.log == ["placed 1", "placed 2", "stopped"]


async def test_a_caller_that_leaves_while_waiting_for_room_asked_nothing(
    autojump_clock: MockClock,
) -> None:
    """What was not put is not carried out."""
    async with running(Executor(size=1, delay=10), drain=50) as executor:
        executor.mailbox.tell_nowait(Note("a"))
        await wait_all_tasks_blocked()
        executor.mailbox.tell_nowait(Note("b"))
        with trio.move_on_after(1):
            await executor.mailbox.ask(Place(1))
    assert executor.log == ["a", "b", "stopped"]


async def test_no_answer_reaches_another_caller(autojump_clock: MockClock) -> None:
    """Not though answers go over channels that served others, late, twice, or to nobody."""
    chance, mailbox, answered = random.Random(7), Mailbox[Place](50), 0

    async def answer(place: Place, reply: Reply[Placed]) -> None:
        await trio.sleep(chance.random())
        for _ in range(chance.randrange(3)):
            reply(Placed(f"id-{place.quantity}"))
        reply.close()

    async def ask(quantity: int) -> None:
        nonlocal answered
        with trio.move_on_after(2 * chance.random()):
            try:
                assert await mailbox.ask(Place(quantity)) == Placed(f"id-{quantity}")
                answered += 1
            except Stopped:
                pass

    async with trio.open_nursery() as nursery:
        for quantity in range(500):
            nursery.start_soon(ask, quantity)
            if quantity % 10 == 9:
                await trio.sleep(0.3 * chance.random())
            while (taken := mailbox.take_nowait()) is not None:
                nursery.start_soon(answer, *taken)
    assert answered > 100


async def test_a_request_that_is_not_answered_is_stopped(autojump_clock: MockClock) -> None:
    """Nobody waits for an answer that cannot come."""
    async with running(Executor(), drain=5) as executor:
        with pytest.raises(Stopped):
            await executor.mailbox.ask(Silence())


async def test_leaving_the_block_drains(autojump_clock: MockClock) -> None:
    """What was accepted is done; what comes later is refused."""
    executor = Executor(delay=1)
    async with running(executor, drain=10):
        for number in range(3):
            executor.mailbox.tell_nowait(Note(str(number)))
    assert executor.log == ["0", "1", "2", "stopped"]
    with pytest.raises(Stopped):
        executor.mailbox.tell_nowait(Note("late"))
    with pytest.raises(Stopped):
        await executor.mailbox.tell(Note("late"))
    with pytest.raises(Stopped):
        await executor.mailbox.ask(Place(1))
    with pytest.raises(Stopped):
        await executor.mailbox.ask_nowait(Place(1))


async def test_the_drain_has_a_deadline_and_refuses_the_rest(autojump_clock: MockClock) -> None:
    """The one at work and those that wait are all told."""
    executor = Executor(delay=100, size=2)
    got: list[int] = []

    async def ask(quantity: int) -> None:
        with pytest.raises(Stopped):
            await executor.mailbox.ask(Place(quantity))
        got.append(quantity)

    async with trio.open_nursery() as nursery:
        async with running(executor, drain=5):
            for quantity in range(5):  # one at work, two in the mailbox, two waiting for room
                nursery.start_soon(ask, quantity)
            await wait_all_tasks_blocked()
            began = trio.current_time()
        assert trio.current_time() - began == 5
    assert sorted(got) == [0, 1, 2, 3, 4]


async def test_a_crash_reaches_the_opener_and_no_caller_hangs(autojump_clock: MockClock) -> None:
    """A bug ends the process, and its callers learn that nothing more will come."""
    executor, got = Executor(), list[str]()

    async def ask() -> None:
        try:
            await executor.mailbox.ask(Place(9))
        except Stopped:
            got.append("stopped")

    async def crash(outside: trio.Nursery) -> None:
        async with running(executor, drain=5):
            executor.mailbox.tell_nowait(Boom())
            outside.start_soon(ask)
            await trio.sleep_forever()

    async with trio.open_nursery() as outside:
        with pytest.raises(ExceptionGroup) as info:
            await crash(outside)
        assert info.group_contains(RuntimeError, match="bug")
    assert got == ["stopped"]


async def test_dependents_stop_first_even_when_everything_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    """A cancelled block drains from the inside out."""
    log: list[str] = []
    journal = Executor(log=log)
    executor = Executor(log=log, peer=journal, delay=1)
    with trio.CancelScope() as everything:
        async with running(journal, drain=10), running(executor, drain=10):
            for quantity in range(3):
                executor.mailbox.tell_nowait(Place(quantity))
            everything.cancel()
            await trio.sleep_forever()
    assert [line for line in log if "journal" in line] == [
        "journal 0",
        "journal 1",
        "journal 2",
    ]
    assert log[-1] == "stopped"


async def test_an_inner_crash_lets_the_outer_drain(autojump_clock: MockClock) -> None:
    """One bug loses nothing of the others."""
    log: list[str] = []
    journal, executor = Executor(log=log, delay=1), Executor()

    async def crash() -> None:
        async with running(journal, drain=10), running(executor, drain=10):
            journal.mailbox.tell_nowait(Note("a"))
            journal.mailbox.tell_nowait(Note("b"))
            executor.mailbox.tell_nowait(Boom())
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup):
        await crash()
    assert log == ["a", "b", "stopped"]


class FailsToStart(Executor):
    async def run(self, **_: object) -> None:
        raise OSError("no database")


class NeverStarts(Executor):
    async def run(self, **_: object) -> None:
        await trio.sleep_forever()


async def test_a_failed_start_is_seen_by_the_opener() -> None:
    """The block is never entered."""
    with pytest.raises(ExceptionGroup) as info:
        async with running(FailsToStart(), drain=1):
            pytest.fail("entered")
    assert info.group_contains(OSError, match="no database")


async def test_a_start_that_takes_too_long_can_be_cancelled(autojump_clock: MockClock) -> None:
    """Ctrl-C works before the service serves, too."""
    with trio.move_on_after(5) as scope:
        async with running(NeverStarts(), drain=1):
            pytest.fail("entered")
    assert scope.cancelled_caught
    assert trio.current_time() < 7


async def test_a_start_cancelled_in_its_last_moment_is_cancelled() -> None:
    """What the actor has begun by then is cancelled as well, not caught between two answers."""

    class CancelledAsItStarts(Executor):
        async def run(
            self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        ) -> None:
            task_status.started()
            scope.cancel()
            await super().run()

    for _ in range(20):  # whose turn comes first is left to chance
        with trio.CancelScope() as scope:
            async with running(CancelledAsItStarts(), drain=1):
                pytest.fail("entered")
        assert scope.cancelled_caught


async def test_an_actor_that_works_in_batches_takes_what_waits() -> None:
    """`take_nowait` gives the next message, or None at once."""
    mailbox = Mailbox[Note](4)
    assert mailbox.take_nowait() is None
    mailbox.tell_nowait(Note("a"))
    taken = mailbox.take_nowait()
    assert taken is not None
    assert taken[0] == Note("a")
    mailbox.close()
    assert mailbox.take_nowait() is None
    assert len(mailbox) == 0


async def test_abandoning_twice_is_abandoning_once() -> None:
    """An actor may do so itself."""
    mailbox = Mailbox[Place](4)
    mailbox.abandon()
    mailbox.abandon()
