"""Two copies of the service on one database: of one account, and of two."""

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.postgres import execute
from tests.service.conftest import Fork
from tests.service.copies import Copy, lines
from tests.service.harness import MARKET, Hatched, decoded, eventually, new_client
from tests.service.load import UNLIMITED, Load, assert_settled, in_paper_book
from ticker_actors.model import tags

pytestmark = pytest.mark.slow

LEASE = 3
"""Seconds, instead of 15."""
HORIZON = 2
"""Seconds: an order of these exchanges shows at once."""
CUT_OFF = {"not_placed_proved"}
"""How a task may end whose process stood still or died between its last commit and the call."""
FREEZES = 3
PATIENCE_SECONDS = 2.0
"""After which a client of a frozen copy tries the other one."""
TAKEN_OVER_SECONDS = 30.0
"""For a lease and a start on a slow machine."""


def intent_of(tag: str) -> str:
    """The part of a tag that all sends of a task share."""
    parsed = tags.parse(tag)
    assert parsed is not None
    return parsed.intent


def standby_waits(standby: Hatched) -> None:
    """Wait until a copy has found that its account may have a living writer."""
    eventually("it waits for the lease", lambda: "waiting for a lease" in standby.text)


def test_a_frozen_copy_sends_nothing_when_it_wakes(
    fork: Fork, postgres_url: str, tmp_path: Path
) -> None:
    """Frozen under load at some moment, and followed by a copy on another host; again and again.

    It ends with one sentence. All that any of them acknowledged is at the exchange once, or proved
    not to be there.
    """
    exchange = tmp_path / "exchange"
    chance = Random(20)

    def copy(number: int, *, ready: bool = True) -> Hatched:
        return fork(
            copy=Copy(host=f"host-{number}", exchange=str(exchange), lease=LEASE),
            ready=ready,
            DATABASE_URL=postgres_url,
            STANDBY=1,
            ABSENCE_HORIZON_SECONDS=HORIZON,
            **UNLIMITED,
        )

    holder = copy(0)
    frozen_sends: list[str] = []
    with Load(holder, clients=6, timeout=PATIENCE_SECONDS) as load:
        for number in range(1, FREEZES + 1):
            load.more(chance.randrange(20, 60))
            holder.signal(signal.SIGSTOP)
            standby = copy(number, ready=False)
            standby_waits(standby)
            standby.wait_until_ready()
            load.services[:] = [standby]
            load.more(20, TAKEN_OVER_SECONDS)
            before = len(lines(exchange))
            holder.signal(signal.SIGCONT)
            assert holder.wait() == 1
            said = holder.text.splitlines()[-2]
            assert said == "ticker-actors: Account primary has another writer."
            late = [line for line in lines(exchange)[before:] if line.pid == holder.pid]
            assert len(late) <= 1  # the one between its last check and the first byte
            frozen_sends += [line.tag for line in late]
            holder = standby
        load.more()
    assert load.broken > 0  # clients did meet a frozen copy
    assert execute(postgres_url, "SELECT epoch FROM accounts") == [(1 + FREEZES,)]
    sent = execute(postgres_url, "SELECT broker_tag FROM task_attempts")
    assert {(tag,) for tag in frozen_sends} <= set(sent)
    assert_settled(
        load,
        partial(execute, postgres_url),
        lambda: Counter(intent_of(line.tag) for line in lines(exchange)),
        dead=CUT_OFF,
    )
    never_sent = {line.tag for line in lines(exchange)} - {tag for (tag,) in sent}
    assert not never_sent  # each call was durable before it was made


class Receiver(ThreadingHTTPServer):
    """Takes webhooks, or lets them wait while its door is shut."""

    daemon_threads = True

    def __init__(self) -> None:
        self.accounts: list[str] = []
        self.events: set[str] = set()
        self.open = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not receiver.open.wait(4):
                    return
                receiver.accounts.append(body["account_id"])
                receiver.events.add(self.headers["webhook-id"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, *_: object) -> None:
        """The sender was killed: that is what the test is about."""

    @property
    def url(self) -> str:
        """Where it takes them."""
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver, shut at first."""
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


def register(service: Hatched, account: str, url: str) -> str:
    """Subscribe to all new orders of an account; the webhook's id."""
    body = {"url": url, "account_id": account, "events": ["order_placed"]}
    answer = service.http.post("/advanced/webhooks", json=body)
    assert answer.status_code == 201, answer.text
    return str(decoded(answer)["webhook_id"])


def placed_events(url: str, account: str) -> set[str]:
    """The ids of an account's events that its webhook must be told of."""
    sql = "SELECT event_id FROM order_events WHERE event = 'order_placed' AND account_id = "
    return {event_id for (event_id,) in execute(url, f"{sql}'{account}'")}


def test_two_accounts_share_a_database(fork: Fork, postgres_url: str, tmp_path: Path) -> None:
    """One dies and is started again, the other notices nothing; each does only what is its own."""
    books = {account: tmp_path / f"{account}.db" for account in ("primary", "second")}

    def copy(account: str) -> Hatched:
        return fork(
            copy=Copy(account=account),
            DATABASE_URL=postgres_url,
            PAPER_FILE=books[account],
            ABSENCE_HORIZON_SECONDS=HORIZON,
            **UNLIMITED,
        )

    first, second = copy("primary"), copy("second")
    with receiving() as ours, receiving() as theirs:
        register(first, "primary", ours.url)
        their_hook = register(second, "second", theirs.url)
        theirs.open.set()
        with (
            Load(first, clients=2) as load,
            Load(second, clients=2, account="second") as their_load,
        ):
            load.more()
            their_load.more()
            first.kill()
            ours.open.set()  # what the dead one had under way is cut off; what it owes, it owes
            taken = len(ours.accounts)
            their_load.more()
            eventually("the other one's are delivered", lambda: len(theirs.events) > 20)
            owed = execute(
                postgres_url,
                "SELECT COUNT(*) FROM webhook_deliveries "
                "WHERE account_id = 'primary' AND state = 'pending'",
            )
            assert owed[0][0] > 0
            assert len(ours.accounts) - taken <= 4  # that the dead one had sent
            first = copy("primary")
            load.services[:] = [first]
            load.more()
            their_load.more()
            same_keys(first, second)
        of_one_another(first, second, their_hook)
        ask = partial(execute, postgres_url)
        assert_settled(load, ask, partial(in_paper_book, books["primary"]), dead=CUT_OFF)
        assert_settled(their_load, ask, partial(in_paper_book, books["second"]))
        assert not load.refusals
        assert not their_load.broken
        for receiver, account in ((ours, "primary"), (theirs, "second")):
            wanted = placed_events(postgres_url, account)
            told = partial(receiver.events.issuperset, wanted)
            eventually(f"all of {account} is delivered", told, TAKEN_OVER_SECONDS)
            assert receiver.events == wanted
            assert set(receiver.accounts) == {account}


def same_keys(first: Hatched, second: Hatched) -> None:
    """A key that both accounts use at once is one's; to the other it says nothing."""

    def post(
        service: Hatched, account: str, key: str, together: threading.Barrier
    ) -> httpx.Response:
        with new_client(service.url) as client:
            together.wait(10)
            body = {**MARKET, "account_id": account, "expires_in": 600}
            return client.post("/orders", json=body, headers={"Idempotency-Key": key})

    with ThreadPoolExecutor(2) as pool:
        for number in range(20):
            together = threading.Barrier(2)
            answers = [
                pool.submit(post, service, account, f"both-{number}", together)
                for service, account in ((first, "primary"), (second, "second"))
            ]
            taken, refused = sorted((answer.result() for answer in answers), key=status)
            assert (taken.status_code, refused.status_code) == (202, 422)
            assert decoded(refused)["detail"] == (
                "Idempotency-Key was used before, for another request."
            )


def status(answer: httpx.Response) -> int:
    """The status code of an answer."""
    return answer.status_code


def of_one_another(first: Hatched, second: Hatched, their_hook: str) -> None:
    """Tasks are everybody's to see; only its own copy changes what an account has."""
    theirs = second.place({**MARKET, "account_id": "second"})
    assert first.task(theirs["task_id"])["status"] == "completed"
    for account in ("primary", "second"):
        answer = first.http.get("/tasks", params={"account_id": account, "limit": 500})
        assert {task["account_id"] for task in decoded(answer)["tasks"]} == {account}
    hooks = first.http.get("/advanced/webhooks").json()
    assert {hook["account_id"] for hook in hooks} == {"primary", "second"}
    order, task = theirs["order_id"], theirs["task_id"]
    other = {"account_id": "second"}
    for method, path, query, code in (
        ("GET", "/orders", other, 422),
        ("GET", f"/orders/{order}", other, 422),
        ("PUT", f"/orders/{order}", other, 422),
        ("DELETE", f"/orders/{order}", other, 422),
        ("POST", f"/tasks/{task}/cancel", {}, 404),
        ("GET", "/advanced/webhooks", other, 422),
        ("DELETE", f"/advanced/webhooks/{their_hook}", {}, 409),
    ):
        body = {"quantity": 2} if method == "PUT" else None
        answer = first.http.request(method, path, params=query, json=body)
        assert answer.status_code == code, (method, path, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert first.place(MARKET)["status"] == "completed"
    assert decoded(first.http.get("/health"))["status"] == "ok"
