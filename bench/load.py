"""Offers orders in an open loop: they leave on schedule, whatever comes back.

`python -m bench.load` reads a `Job` and writes a `Result`, both JSON. It is a process of its own,
so that it neither slows down what it measures nor waits for it. A request's latency counts from
when it was due, not from when there was time to send it: a service that makes clients wait cannot
hide it (no "coordinated omission"). Also listens to the account's order stream.
"""

import asyncio
import contextlib
import gc
import select
import selectors
import subprocess
import sys
import time
from random import Random
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec
import websockets

from bench.broker import number_in
from bench.sample import ORDER

MOST_CONNECTIONS = 1_000
"""More requests wait for a connection here; their latency counts all the same."""
FRESH_SECONDS = 2.0
"""A connection that was idle for longer is not used again: uvicorn closes them after 5 s."""
LEAD_SECONDS = 0.2
"""From the start to the first request."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to offer."""

    url: str
    path: str
    rate: float
    """Requests a second."""
    seconds: float
    first: int
    """Number of the first order; each has the next."""
    seed: int | None = None
    """Of arrivals at random; None for even ones."""
    legs: int = 0
    """Of a batch; 0 for single orders."""
    accounts: tuple[str, ...] = ()
    """Whose orders they are, in turns; none are the service's only account."""
    streams: tuple[str, ...] = ()
    """URLs of the order streams to listen to, a connection each."""
    patience: float = 10.0
    """Seconds to wait for answers and stream messages after the last request."""


class Sample(msgspec.Struct, array_like=True):
    """One request, in nanoseconds of the monotonic clock; 0 where it did not come to it."""

    number: int
    """Of its first order."""
    due: int
    sent: int = 0
    answered: int = 0
    status: int = 0
    """Of the answer; 0 when the connection broke."""

    @property
    def good(self) -> bool:
        """Whether the answer is a success."""
        return 200 <= self.status < 300  # noqa: PLR2004  # the 2xx


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job."""

    samples: list[Sample]
    streamed: dict[int, int]
    """When the stream first spoke of an order, by its number."""
    refused: str = ""
    """The first answer that is no success."""


def offer(job: Job) -> Result:
    """Run a job in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=msgspec.json.encode(job),
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=Result)


def schedule(rate: float, seconds: float, seed: int | None = None) -> list[float]:
    """When requests are due, in seconds from the first: evenly, or at random.

    At random they come as from many clients that know nothing of each other (a Poisson process,
    given how many come). What is even falls into step with whatever a service does a fixed time
    after an order, and then measures that: at one rate or another, the same code looked a fifth
    quicker or slower.
    """
    number = round(rate * seconds)
    if seed is None or not number:
        return [place / rate for place in range(number)]
    chance = Random(seed)
    return [0.0, *sorted(chance.uniform(0.0, seconds) for _ in range(number - 1))]


def order(number: int) -> dict[str, object]:
    """An order that is known by its quantity."""
    return {**ORDER, "quantity": number, "price": 1500.0}


class PreciseSelector(selectors.EpollSelector):
    """Waits to the microsecond, where epoll alone rounds up to the millisecond."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events."""
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


class Load:
    """One job under way."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.samples: list[Sample] = []
        self.streamed: dict[int, int] = {}
        self.refused = ""
        address = urlsplit(job.url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._head = (
            f"POST {job.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._idle: list[Connection] = []
        self._waiting: list[tuple[Sample, bytes]] = []
        self._open = 0
        self._schedule = schedule(job.rate, job.seconds, job.seed)
        self._expected = len(self._schedule)
        self._answers = 0
        self._complete = asyncio.Event()
        self._opening: set[asyncio.Task[None]] = set()

    async def run(self) -> Result:
        """Offer it all, and wait for what comes back."""
        loop, job = asyncio.get_running_loop(), self.job
        async with contextlib.AsyncExitStack() as stack:
            for url in job.streams:
                stream = await stack.enter_async_context(
                    websockets.connect(url, compression=None, max_queue=None)
                )
                await stream.recv()  # the welcome
                listening = loop.create_task(self._listen(stream))
                stack.callback(listening.cancel)
            began = loop.time() + LEAD_SECONDS
            zero = time.monotonic_ns() + round((began - loop.time()) * 1e9)
            for place, after in enumerate(self._schedule):
                number = job.first + place * max(job.legs, 1)
                sample = Sample(number, zero + round(after * 1e9))
                request = self._request(number)
                loop.call_at(began + after, self._send, sample, request)
                self.samples.append(sample)
            await asyncio.sleep(LEAD_SECONDS + job.seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(job.patience):
                    await self._complete.wait()
        return Result(samples=self.samples, streamed=self.streamed, refused=self.refused)

    def note_answer(self) -> None:
        """One more request has its answer, or never will."""
        self._answers += 1
        self._look()

    def _look(self) -> None:
        heard = not self.job.streams or len(self.streamed) == self._expected
        if heard and self._answers == self._expected:
            self._complete.set()

    def _request(self, number: int) -> bytes:
        body: object = order(number)
        if self.job.legs:
            body = {"orders": [order(number + leg) for leg in range(self.job.legs)]}
        elif self.job.accounts:
            account_id = self.job.accounts[number % len(self.job.accounts)]
            body = {**order(number), "account_id": account_id}
        text = msgspec.json.encode(body)
        return b"%s%d\r\n\r\n%s" % (self._head, len(text), text)

    def _send(self, sample: Sample, request: bytes) -> None:
        oldest = time.monotonic() - FRESH_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since > oldest:
                connection.send(sample, request)
                return
            connection.close()
        self._waiting.append((sample, request))
        if self._open < MOST_CONNECTIONS:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        self._open += 1
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: Connection(self), self._host, self._port)
        except OSError:
            self.lose()

    def ready(self, connection: "Connection") -> None:
        """A connection is free."""
        if self._waiting:
            connection.send(*self._waiting.pop(0))
        else:
            self._idle.append(connection)

    def lose(self, connection: "Connection | None" = None) -> None:
        """A connection has ended."""
        self._open -= 1
        if connection is not None and connection in self._idle:
            self._idle.remove(connection)

    async def _listen(self, stream: websockets.ClientConnection) -> None:
        async for message in stream:
            at = time.monotonic_ns()
            number = number_in(message if isinstance(message, bytes) else message.encode())
            if number is not None:
                self.streamed.setdefault(number, at)
                self._look()


class Connection(asyncio.Protocol):
    """One keep-alive connection. httptools calls the `on_` methods."""

    def __init__(self, load: Load) -> None:
        self.idle_since = 0.0
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._sample: Sample | None = None
        self._body = b""

    def send(self, sample: Sample, request: bytes) -> None:
        """Send a request now."""
        self._sample, self._body = sample, b""
        sample.sent = time.monotonic_ns()
        self._transport.write(request)

    def close(self) -> None:
        """It is of no use any more."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._load.ready(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # of the protocol
        """Called by the loop."""
        if self._sample is not None:
            self._end(0)
        self._load.lose(self)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """A part of the answer's body."""
        self._body += body

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._end(self._parser.get_status_code())
        self.idle_since = time.monotonic()
        if self._parser.should_keep_alive():
            self._load.ready(self)

    def _end(self, status: int) -> None:
        if self._sample is not None:
            self._sample.answered, self._sample.status = time.monotonic_ns(), status
            self._load.note_answer()
        if not (200 <= status < 300 or self._load.refused):  # noqa: PLR2004  # the 2xx
            self._load.refused = f"{status} {self._body.decode(errors='replace')}"[:500]
        self._sample = None


def main() -> None:
    """Do the job on the standard input."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    gc.disable()  # everything here is kept, and a pause would be counted as the service's latency
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(PreciseSelector())
    ) as runner:
        result = runner.run(Load(job).run())
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
