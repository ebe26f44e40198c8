"""The catch-up endpoint of a real service: the log from a sequence on, or that it is gone."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
from websockets.sync.client import connect

from tests.service.conftest import Fork
from tests.service.harness import (
    MARKET,
    RESTING,
    SOON,
    Client,
    database,
    decoded,
    eventually,
    new_client,
    select,
)


def asked(service: Client, **query: Any) -> httpx.Response:  # noqa: ANN401  # a query
    """The answer to a question for events."""
    return service.http.get("/advanced/orders/primary/events", params=query)


def log(service: Client, **query: Any) -> dict[str, Any]:  # noqa: ANN401  # a query
    """What the log has to say."""
    answer = asked(service, **query)
    assert answer.status_code == 200, answer.text
    return decoded(answer)


def sequences(answer: dict[str, Any]) -> list[int]:
    """Which events came."""
    return [event["sequence"] for event in answer["events"]]


def test_the_log_says_what_the_stream_said(fork: Fork) -> None:
    """The same messages with the same ids, from any sequence on, a page at a time."""
    service = fork()
    with connect(service.stream_url) as stream:
        stream.recv(SOON)
        service.place(MARKET)
        streamed = [httpx.Response(200, content=stream.recv(SOON)).json() for _ in range(3)]
    whole = log(service)
    assert (whole["events"], whole["head"]) == (streamed, 3)
    assert whole["stream"] == streamed[0]["stream"]
    assert sequences(log(service, since=0, limit=2)) == [1, 2]
    assert sequences(log(service, since=2, limit=2, stream=whole["stream"])) == [3]
    assert log(service, since=3) == {"stream": whole["stream"], "head": 3, "events": []}


def test_waiting_for_the_next_event(fork: Fork) -> None:
    """`wait` answers as soon as there is something new, or empty when time is up."""
    service = fork()
    assert sequences(log(service, wait=0.05)) == []
    with ThreadPoolExecutor(1) as pool, closing(new_client(service.url)) as other:
        waiting = pool.submit(
            other.get, "/advanced/orders/primary/events", params={"since": 0, "wait": 30}
        )
        service.place(RESTING)
        assert sequences(waiting.result(SOON).json())[0] == 1


def test_what_is_gone_is_not_told_in_part(fork: Fork) -> None:
    """A sequence of another stream, of the future, or older than the log is 410, with the head."""
    service = fork()
    service.place(MARKET)
    eventually("all is told", lambda: log(service)["head"] == 3)
    stream = log(service)["stream"]
    for query in ({"since": 4}, {"since": 2**63 - 1}, {"since": 0, "stream": "str_0"}):
        answer = asked(service, **query)
        assert answer.status_code == 410
        gone = {"stream": stream, "head": 3, "oldest": 1}
        assert gone.items() <= decoded(answer).items()
    assert select(database(service.folder), "SELECT MAX(sequence) FROM order_events") == [(3,)]
    service.kill()
    prune(service, 2)
    again = fork()
    assert asked(again, since=1).status_code == 410
    assert sequences(log(again)) == sequences(log(again, since=2)) == [3]
    again.kill()
    prune(service, 3)
    bare = fork()
    assert asked(bare, since=2).status_code == 410
    assert log(bare) == {"stream": stream, "head": 3, "events": []} == log(bare, since=3)


def prune(service: Client, sequence: int) -> None:
    """Delete the log up to a sequence, as retention does."""
    with closing(sqlite3.connect(database(service.folder), isolation_level=None)) as connection:
        connection.execute("DELETE FROM order_events WHERE sequence <= ?", (sequence,))


def test_wrong_questions_are_named(fork: Fork) -> None:
    """Each by its parameter; and there is no log of an account that there is not."""
    service = fork()
    for query in ("since=-1", "since=x", f"since={2**63}", "limit=0", "wait=31", "sinse=1"):
        answer = service.http.get(f"/advanced/orders/primary/events?{query}")
        assert answer.status_code == 422
        assert decoded(answer)["errors"][0]["field"] == query.partition("=")[0]
    assert service.http.get("/advanced/orders/nobody/events").status_code == 404
