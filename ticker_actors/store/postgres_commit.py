"""A commit as one PostgreSQL statement: common table expressions that write every table set-wise.

One statement is one transaction and one round trip. Its first part updates the accounts' rows,
which fences, orders and counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from ticker_actors.model.accounts import AccountState
from ticker_actors.model.changes import Change, CommitAnswer, Committed, Key, KeyTaken
from ticker_actors.model.events import Event
from ticker_actors.store import rows
from ticker_actors.store.tables import StaleEpochError, Subscriptions, numbered

LEASE_SECONDS = 15
"""For which a commit or a renewal makes sure of an account, by the database's clock."""


def _insert(table: str, columns: Iterable[str], conflict: str = "") -> str:
    """Insert all the rows of one JSON array; the table itself gives the types."""
    names = ", ".join(columns)
    return (
        f"INSERT INTO {table} ({names}) "
        f"SELECT {names} FROM json_populate_recordset(NULL::{table}, $json){conflict}"
    )


def _upsert(table: str, columns: Sequence[str], key: str, fixed: Iterable[str] = ()) -> str:
    return _insert(table, columns, rows.replacing(columns, key, fixed))


_FENCE = (
    # No stale writer passes the NOT NULL of `epoch`, and so nothing of its statement is written.
    "UPDATE accounts a SET "
    "epoch = CASE WHEN a.epoch = f.epoch AND a.session = f.session THEN a.epoch END, "
    "head_sequence = f.head_sequence, writes = a.writes + 1, "
    "state = COALESCE(f.state, a.state), "
    "state_reason = CASE WHEN f.state IS NULL THEN a.state_reason ELSE f.state_reason END, "
    "accepted_missing = COALESCE(f.accepted_missing, a.accepted_missing), "
    f"lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s' "
    "FROM json_populate_recordset(NULL::accounts, $json) f "
    "WHERE a.account_id = f.account_id RETURNING a.account_id"
)
_INSERT_KEYS = _insert("idempotency_keys", Key.__struct_fields__)
_UPSERT_TASKS = _upsert("order_tasks", rows.TASK, "task_id", rows.TASK_FIXED)
_UPSERT_ATTEMPTS = _upsert("task_attempts", rows.ATTEMPT, "task_id, send")
_UPSERT_BATCHES = _upsert("batches", rows.BATCH, "batch_id")
_UPSERT_ORDERS = _upsert("broker_orders", rows.ORDER, "account_id, order_id", rows.ORDER_FIXED)
_INSERT_EVENTS = _insert("order_events", rows.EVENT)
_UPSERT_WEBHOOKS = _upsert("webhooks", rows.WEBHOOK, "webhook_id")
_INSERT_DELIVERIES = _insert("webhook_deliveries", rows.OUTBOX)
_UPDATE_DELIVERIES = (  # one that was given up meanwhile is not tried again
    "UPDATE webhook_deliveries d SET attempts = r.attempts, updated_at = r.updated_at, "
    "state = CASE WHEN d.state = 'pending' OR r.state = 'succeeded' THEN r.state ELSE d.state END, "
    "next_at = CASE WHEN d.state = 'pending' THEN r.next_at END "
    "FROM json_populate_recordset(NULL::webhook_deliveries, $json) r "
    "WHERE d.delivery_id = r.delivery_id"
)
_GIVE_UP_DELIVERIES = (
    "UPDATE webhook_deliveries d SET state = 'failed', next_at = NULL, updated_at = now() "
    "FROM json_populate_recordset(NULL::webhooks, $json) w "
    "WHERE d.webhook_id = w.webhook_id AND d.state = 'pending'"
)
_UPSERT_ATTEMPT_RESULTS = _upsert("webhook_attempts", rows.ATTEMPT_RESULT, "delivery_id, attempt")


class Fence(msgspec.Struct):
    """What this process knows of an account's row; a row that differs has another writer."""

    account_id: str
    epoch: int
    session: int
    writes: int
    head_sequence: int
    state: AccountState | None = None
    """Written with this one transaction; not known otherwise."""
    state_reason: str | None = None
    accepted_missing: str | None = None
    """JSON."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One statement that writes some changes, and the answers it gives them."""

    sql: str
    arguments: list[str]
    fences: list[Fence]
    """The accounts' rows once it is committed."""
    answers: list[CommitAnswer]


def transaction(
    changes: Sequence[Change],
    *,
    taken: Mapping[str, Key],
    held: Mapping[str, Fence],
    subscriptions: Subscriptions,
    now: datetime,
) -> Transaction:
    """Decide everything before anything is sent: whose keys are used, and every sequence.

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
    parts: dict[str, list[Any]] = {
        _FENCE: list(fences.values()),
        _INSERT_KEYS: [change.key for change in written if change.key is not None],
        _UPSERT_TASKS: _last(
            (task for change in written for task in change.tasks),
            ("task_id",),
            rows.TASK_FIXED,
        ),
        _UPSERT_ATTEMPTS: _last(
            (attempt for change in written for attempt in change.attempts),
            ("task_id", "send"),
        ),
        _UPSERT_BATCHES: _last(
            (batch for change in written for batch in change.batches), ("batch_id",)
        ),
        _UPSERT_ORDERS: _last(
            (rows.of_order(view, now) for change in written for view in change.orders),
            ("account_id", "order_id"),
            rows.ORDER_FIXED,
        ),
        _UPSERT_WEBHOOKS: _last(
            (webhook for change in written for webhook in change.webhooks), ("webhook_id",)
        ),
        _GIVE_UP_DELIVERIES: [
            webhook for change in written for webhook in change.webhooks if webhook.deleted
        ],
        _INSERT_EVENTS: events,
        _INSERT_DELIVERIES: outbox,
        _UPDATE_DELIVERIES: _last(
            (rows.of_result(result, now) for result in results), ("delivery_id",)
        ),
        _UPSERT_ATTEMPT_RESULTS: _last(results, ("delivery_id", "attempt")),
    }
    used = {sql: values for sql, values in parts.items() if values}
    return Transaction(
        sql=_statement(tuple(used)),
        arguments=[msgspec.json.encode(values).decode() for values in used.values()],
        fences=list(fences.values()),
        answers=answers,
    )


@lru_cache(maxsize=256)  # few combinations occur
def _statement(parts: tuple[str, ...]) -> str:
    numbered_parts = [
        f"part_{number} AS ({sql.replace('$json', f'${number}')})"
        for number, sql in enumerate(parts, start=1)
    ]
    return f"WITH {', '.join(numbered_parts)} SELECT * FROM part_1"


def is_there(transaction: Transaction, writes: dict[str, int]) -> bool:
    """Whether a transaction is committed, by the counters found after it."""
    return all(writes[fence.account_id] == fence.writes for fence in transaction.fences)


def _last(
    structs: Iterable[rows.S], key: tuple[str, ...], fixed: tuple[str, ...] = ()
) -> list[rows.S]:
    """The last struct of each key: one statement may write a row only once."""
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
