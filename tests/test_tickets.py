"""Tickets: a word that opens one stream, once, and not for long."""

from collections import Counter
from random import Random

import trio
from trio.testing import MockClock

from ticker_actors.web import tickets
from ticker_actors.web.tickets import TICKET_SECONDS, Tickets


async def test_a_ticket_opens_once(autojump_clock: MockClock) -> None:
    """And only the stream of its account; what was never issued opens nothing."""
    known, chance = Tickets(), Random(1).getrandbits
    first, second = known.issue("primary", chance), known.issue("second", chance)
    assert first is not None
    assert second is not None
    assert Counter((first[:4], second[:4])) == {"tkt_": 2}
    assert [known.redeem(text) for text in (first, first, second, "tkt_0", "", "\ud800")] == [
        "primary",
        None,
        "second",
        None,
        None,
        None,
    ]


async def test_a_ticket_grows_old(autojump_clock: MockClock) -> None:
    """After a minute it opens nothing, and takes no room."""
    known, chance = Tickets(), Random(1).getrandbits
    old, young = known.issue("primary", chance), None
    await trio.sleep(TICKET_SECONDS - 1)
    young = known.issue("primary", chance)
    await trio.sleep(1)
    assert known.issue("primary", chance) is not None
    assert len(known._known) == 2
    assert old is not None
    assert young is not None
    assert (known.redeem(old), known.redeem(young)) == (None, "primary")


async def test_asking_uses_no_ticket_up(autojump_clock: MockClock) -> None:
    """Whose it is can be asked until it is used or too old."""
    known, chance = Tickets(), Random(1).getrandbits
    used, old = known.issue("primary", chance), known.issue("second", chance)
    assert used is not None
    assert old is not None
    assert [known.account(text) for text in (used, used, old, "tkt_0")] == [
        "primary",
        "primary",
        "second",
        None,
    ]
    assert known.redeem(used) == "primary"
    await trio.sleep(TICKET_SECONDS)
    assert [known.account(text) for text in (used, old)] == [None, None]


async def test_an_account_cannot_take_the_tickets_of_others(autojump_clock: MockClock) -> None:
    """It has a bound of its own, until it uses some or they have grown old."""
    known, chance = Tickets(), Random(1).getrandbits
    issued = [known.issue("primary", chance) for _ in range(tickets.MOST_OF_AN_ACCOUNT + 1)]
    assert [ticket is None for ticket in issued].count(True) == 1
    assert known.issue("second", chance) is not None
    assert issued[0] is not None
    assert [known.redeem(issued[0]) for _ in range(2)] == ["primary", None]
    assert [known.issue("primary", chance) is None for _ in range(2)] == [False, True]
    await trio.sleep(TICKET_SECONDS)
    assert known.issue("primary", chance) is not None


async def test_tickets_are_bounded(autojump_clock: MockClock) -> None:
    """Beyond a thousand unused ones there are no more, until the oldest have grown old."""
    known, chance = Tickets(), Random(1).getrandbits
    names = [f"account {number // 50}" for number in range(tickets.MOST_TICKETS + 1)]
    issued = [known.issue(name, chance) for name in names]
    assert [ticket is None for ticket in issued].count(True) == 1
    await trio.sleep(TICKET_SECONDS)
    assert known.issue(names[-1], chance) is not None
    assert len(known._known) == len(known._unused) == 1
