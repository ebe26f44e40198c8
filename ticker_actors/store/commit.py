"""What a commit writes, decided before anything is sent: whose keys are used, every sequence.

Pure. Each store has its own SQL for the parts, `postgres_commit.py` and `sqlite_commit.py`; both
run all of a transaction as one statement.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

import msgspec
from msgspec.structs import replace

from ticker_actors.model.accounts import AccountState
from ticker_actors.model.changes import Change, CommitAnswer, Committed, Key, KeyTaken
from ticker_actors.model.events import Event
from ticker_actors.store import rows
from ticker_actors.store.tables import StaleEpochError, Subscriptions, numbered


class Fence(msgspec.Struct):
    """What this process knows of an account's row; a row that differs has another writer."""

    account_id: str
    epoch: int
    head_sequence: int
    state: AccountState | None = None
    """Written with this one transaction; not known otherwise."""
    state_reason: str | None = None
    accepted_missing: str | None = None
    """JSON."""
    session: int = 0
    """Of the writer's connection; PostgreSQL's alone, as what follows."""
    writes: int = 0
    """Transactions of the account."""


Part = Literal[
    "fences",
    "keys",
    "tasks",
    "attempts",
    "batches",
    "orders",
    "webhooks",
    "given_up",
    "events",
    "outbox",
    "updates",
    "results",
]
"""The rows of one table that a commit writes in one way."""
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Target:
    """The table that the rows of a part are inserted into."""

    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...] = ()
    """A row replaces the one of the same key. Empty where every row is a new one."""
    fixed: tuple[str, ...] = ()
    """The columns that are written once, and not replaced."""

    @property
    def on_conflict(self) -> str:
        """The end of the `INSERT`, by which a row replaces another one."""
        if not self.key:
            return ""
        kept = {*self.key, *self.fixed}
        changes = ", ".join(
            f"{name} = excluded.{name}" for name in self.columns if name not in kept
        )
        return f" ON CONFLICT ({', '.join(self.key)}) DO UPDATE SET {changes}"


TARGETS: dict[Part, Target] = {
    "keys": Target("idempotency_keys", Key.__struct_fields__),
    "tasks": Target("order_tasks", rows.TASK, ("task_id",), rows.TASK_FIXED),
    "attempts": Target("task_attempts", rows.ATTEMPT, ("task_id", "send")),
    "batches": Target("batches", rows.BATCH, ("batch_id",)),
    "orders": Target("broker_orders", rows.ORDER, ("account_id", "order_id"), rows.ORDER_FIXED),
    "webhooks": Target("webhooks", rows.WEBHOOK, ("webhook_id",)),
    "events": Target("order_events", rows.EVENT),
    "outbox": Target("webhook_deliveries", rows.OUTBOX),
    "results": Target("webhook_attempts", rows.ATTEMPT_RESULT, ("delivery_id", "attempt")),
}
"""Of all parts but those that update rows which are there already."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The rows of a transaction, and the answers it gives to its changes."""

    parts: dict[Part, Sequence[msgspec.Struct]]
    """Those that have rows, the fences first."""
    fences: list[Fence]
    """The accounts' rows once it is committed; none when every change had a used key."""
    answers: list[CommitAnswer]


def decide(
    changes: Sequence[Change],
    *,
    taken: Mapping[str, Key],
    held: Mapping[str, Fence],
    subscriptions: Subscriptions,
    now: datetime,
) -> Decided:
    """Put the changes together. What is decided stands only if all of it is written.

    `taken`: the keys among those of the changes that are in the database. `held`: the accounts'
    rows as they are now. Raises `StaleEpochError` for an account that is not among them.
    """
    used_keys, fences = dict(taken), dict[str, Fence]()
    written: list[Change] = []
    events: list[Event] = []
    outbox: list[rows.OutboxRow] = []
    answers: list[CommitAnswer] = []
    for change in changes:
        if change.key is not None and change.key.key in used_keys:
            answers.append(KeyTaken(used_keys[change.key.key]))
            continue
        if change.key is not None:
            used_keys[change.key.key] = change.key
        fence = fences.get(change.account_id)
        if fence is None:
            if change.account_id not in held:
                raise StaleEpochError(change.account_id)
            fence = replace(held[change.account_id])
            fence.writes += 1
            fences[change.account_id] = fence
        if change.standing is not None:
            fence.state, fence.state_reason = change.standing.state, change.standing.reason
            fence.accepted_missing = msgspec.json.encode(change.standing.accepted).decode()
        told = numbered(change.events, fence.head_sequence)
        fence.head_sequence += len(told)
        made = [row for event in told for row in subscriptions.deliveries(event)]
        events += told
        outbox += made
        written.append(change)
        answers.append(Committed(told, len(made)))
    results = [result for change in written for result in change.deliveries]
    parts: dict[Part, Sequence[msgspec.Struct]] = {
        "fences": list(fences.values()),
        "keys": [change.key for change in written if change.key is not None],
        "tasks": _last("tasks", (task for change in written for task in change.tasks)),
        "attempts": _last("attempts", (sent for change in written for sent in change.attempts)),
        "batches": _last("batches", (batch for change in written for batch in change.batches)),
        "orders": _last(
            "orders", (rows.of_order(view, now) for change in written for view in change.orders)
        ),
        "webhooks": _last("webhooks", (hook for change in written for hook in change.webhooks)),
        "given_up": [
            rows.GivenUp(webhook_id=webhook.webhook_id, updated_at=now)
            for change in written
            for webhook in change.webhooks
            if webhook.deleted
        ],
        "events": events,
        "outbox": outbox,
        "updates": _last_of_key((rows.of_result(one, now) for one in results), ("delivery_id",)),
        "results": _last("results", results),
    }
    return Decided(
        parts={part: structs for part, structs in parts.items() if structs},
        fences=list(fences.values()),
        answers=answers,
    )


def _last(part: Part, structs: Iterable[rows.S]) -> list[rows.S]:
    return _last_of_key(structs, TARGETS[part].key, TARGETS[part].fixed)


def _last_of_key(
    structs: Iterable[rows.S], key: tuple[str, ...], fixed: tuple[str, ...] = ()
) -> list[rows.S]:
    """The last struct of each key: a PostgreSQL statement may write a row only once."""
    structs = list(structs)
    if len(structs) < 2:  # noqa: PLR2004  # nothing can repeat
        return structs
    found: dict[tuple[object, ...], rows.S] = {}
    for struct in structs:
        name = tuple(getattr(struct, part) for part in key)
        first = found.get(name)
        kept = {} if first is None else {part: getattr(first, part) for part in fixed}
        found[name] = replace(struct, **kept) if kept else struct
    return list(found.values())
