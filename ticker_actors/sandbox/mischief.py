"""Where a fault that was drawn is carried out, around the call that it befalls."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

import trio
from quart import Response

from ticker_actors.sandbox.answers import (
    TIMED_OUT,
    KiteError,
    bad_token,
    hang_up,
    page,
    success,
    too_many,
)
from ticker_actors.sandbox.faults import BOOKS, ORDER_CALLS, READS, Faults

MOST_LATE = 1_000
"""Orders that wait to come late."""

Call = Callable[[], Awaitable[object]]
"""Does the thing and gives the data of its answer. Raises `KiteError`."""


class Mischief:
    """The faults of the REST side."""

    def __init__(self, faults: Faults, delay: float, background: trio.Nursery) -> None:
        """`background` carries out what comes late."""
        self._faults = faults
        self._delay = delay
        self._background = background
        self._late = 0
        self._honest_rows: list[object] = []

    async def order_call(self, call: Call) -> Response:  # one answer a fault
        """Answer a call that places, modifies or cancels."""
        match self._faults.draw(ORDER_CALLS):
            case None:
                return success(await call())
            case "lose_request":
                await hang_up()
            case "lose_reply":
                await _tried(call)
                await hang_up()
            case "delay":
                return await self._delayed(call)
            case "too_many":
                raise too_many()
            case "bad_gateway":
                await _tried(call)
                return page(HTTPStatus.BAD_GATEWAY)
            case "unavailable":
                return page(HTTPStatus.SERVICE_UNAVAILABLE)
            case "general":
                raise KiteError("GeneralException", "Something went wrong. Please try later.")
            case "timed_out":
                await call()
            case "late" if self._late < MOST_LATE:
                self._late += 1
                self._background.start_soon(self._later, call)
            case "dead_token":
                raise bad_token()
        raise KiteError("OrderException", TIMED_OUT, HTTPStatus.BAD_REQUEST)

    async def read(self, call: Call) -> Response:
        """Answer any other call."""
        match self._faults.draw(READS):
            case "lose_read":
                await hang_up()
            case "delay_read":
                return await self._delayed(call)
            case "too_many_reads":
                raise too_many()
            case "bad_gateway_read":
                return page(HTTPStatus.BAD_GATEWAY)
        return success(await call())

    def book(self, rows: list[object]) -> list[object]:
        """The rows of the order book that are shown."""
        match self._faults.draw(BOOKS):
            case "stale_book":
                return self._honest_rows
            case "empty_book":
                return []
        self._honest_rows = rows
        return rows

    async def _delayed(self, call: Call) -> Response:
        data = await call()
        await trio.sleep(self._delay)
        return success(data)

    async def _later(self, call: Call) -> None:
        await trio.sleep(self._delay)
        self._late -= 1
        await _tried(call)


async def _tried(call: Call) -> None:
    """Do it, whatever comes of it: nobody is going to hear."""
    try:
        await call()
    except KiteError:
        return
