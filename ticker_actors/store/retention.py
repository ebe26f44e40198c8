"""What may be deleted, and when: one rule for each table, the same for both stores.

A rule looks at rows alone, never at who owns an account, so it holds for every account of the
database: also for one that no service trades any more, whose rows would else stay for ever. Where
two services share a database, the shorter retention counts.

- `order_tasks`: finished before the cut-off, and not unresolved. A leg stays until its batch is as
  old. Under a client's key it stays `LEAST_KEY_DAYS`, so that the key gives its result; so does the
  task of an order that is not known to have ended: an after-market order comes in the book of
  another day, and must find its task. Its key goes in the same transaction.
- `batches`: finished before the cut-off, and no leg of it is left; the same with its key.
- `task_attempts`, `broker_orders`: as old, and their task is gone. The budget at the broker is
  rebuilt from the attempts of the last day, and that is the least retention.
- `webhook_deliveries`: ended before the cut-off. Of a deleted webhook none will be delivered.
- `webhook_attempts`: as old, and their delivery is gone.
- `webhooks`: deleted, as old, and no delivery of it is left.
- `order_events`: from the oldest on, up to the first that is younger and among the newest so many
  of its account, or has a delivery that has not ended. So the log has no hole, and whoever resumes
  finds either all he missed or a gap at its start. The next number is in the account's row, which
  stays.

Each statement deletes at most `MOST_ROWS` and is quick, so that orders are committed in between.
It needs no fence: what it deletes has ended. If a task is written at the same time (its order
appeared late), either the row is passed over, or it is written again, whole.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ticker_actors.model.orders import TERMINAL
from ticker_actors.model.retention import Cutoffs, Table

MOST_ROWS = 1000
"""In one transaction: some 10 ms of a disk's time, which an order may have to wait."""

_ENDED = ", ".join(f"'{status}'" for status in sorted(TERMINAL))
_KEY_OF = "SELECT 1 FROM idempotency_keys k WHERE k.key = t.idempotency_key AND k.id ="


class _Rule(NamedTuple):
    key: str
    """The columns that name a row."""
    rows: str
    """From where, and which: `t` is the table; `:old` and such are the fields of `Cutoffs`.

    `CROSS JOIN` has SQLite take the small table first, and so find the rows of the other by index.
    """
    keyed: bool = False
    """Whether a row may have an idempotency key, which goes with it."""


_RULES: dict[Table, _Rule] = {
    "order_tasks": _Rule(
        "task_id",
        "FROM order_tasks t WHERE t.phase IN ('done', 'dead') "
        "AND (t.reason IS NULL OR t.reason <> 'unresolved') AND t.updated_at < :old "
        "AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.batch_id = t.batch_id "
        "AND (b.completed_at IS NULL OR b.completed_at >= :old)) "
        f"AND (t.updated_at < :week OR (NOT EXISTS ({_KEY_OF} t.task_id) "
        "AND NOT EXISTS (SELECT 1 FROM broker_orders o WHERE o.account_id = t.account_id "
        f"AND o.order_id = t.order_id AND o.status NOT IN ({_ENDED})))) ORDER BY t.updated_at",
        keyed=True,
    ),
    "batches": _Rule(
        "batch_id",
        "FROM batches t WHERE t.completed_at < :old "
        "AND NOT EXISTS (SELECT 1 FROM order_tasks l WHERE l.batch_id = t.batch_id) "
        f"AND (t.completed_at < :week OR NOT EXISTS ({_KEY_OF} t.batch_id)) "
        "ORDER BY t.completed_at",
        keyed=True,
    ),
    "task_attempts": _Rule(
        "task_id, send",
        "FROM accounts a CROSS JOIN task_attempts t WHERE t.account_id = a.account_id "
        "AND t.sent_at < :old "
        "AND NOT EXISTS (SELECT 1 FROM order_tasks p WHERE p.task_id = t.task_id)",
    ),
    "broker_orders": _Rule(
        "account_id, order_id",
        "FROM accounts a CROSS JOIN broker_orders t WHERE t.account_id = a.account_id "
        "AND t.trading_day < :day "
        "AND NOT EXISTS (SELECT 1 FROM order_tasks p WHERE p.task_id = t.task_id)",
    ),
    "webhook_deliveries": _Rule(
        "delivery_id",
        "FROM webhooks w CROSS JOIN webhook_deliveries t WHERE t.webhook_id = w.webhook_id "
        "AND t.updated_at < :old AND (t.state IN ('succeeded', 'failed') OR w.deleted)",
    ),
    "webhook_attempts": _Rule(
        "delivery_id, attempt",
        "FROM webhook_attempts t WHERE t.started_at < :old "
        "AND NOT EXISTS (SELECT 1 FROM webhook_deliveries p WHERE p.delivery_id = t.delivery_id)",
    ),
    "webhooks": _Rule(
        "webhook_id",
        "FROM webhooks t WHERE t.deleted AND t.created_at < :old "
        "AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.webhook_id = t.webhook_id)",
    ),
    "order_events": _Rule(
        "account_id, sequence",
        # Only the oldest of each account are looked at; `needed` holds from the first such one on.
        # Without a limit on their number its comparison is with NULL, and none is beyond it.
        "FROM (WITH oldest AS MATERIALIZED (SELECT a.account_id, a.head_sequence AS head, "
        "(SELECT MIN(f.sequence) FROM order_events f WHERE f.account_id = a.account_id) "
        "AS sequence FROM accounts a) SELECT e.account_id, e.sequence, "
        "MAX(CASE WHEN (e.created_at < :old OR e.sequence <= o.head - :events) "
        "AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d JOIN webhooks w "
        "ON w.webhook_id = d.webhook_id WHERE d.account_id = e.account_id "
        "AND d.sequence = e.sequence AND d.state IN ('pending', 'held') AND NOT w.deleted) "
        "THEN 0 ELSE 1 END) OVER (PARTITION BY e.account_id ORDER BY e.sequence) AS needed "
        "FROM oldest o CROSS JOIN order_events e WHERE e.account_id = o.account_id "
        f"AND e.sequence < o.sequence + {MOST_ROWS}) t "
        "WHERE t.needed = 0 ORDER BY t.account_id, t.sequence",
    ),
}


def deletion(table: Table, old: Cutoffs, *, lock: str = "") -> tuple[str, list[object]]:
    """The statement that deletes what is too old, in the rows' order, and its values.

    It returns a row for each one deleted: where `keys_of` is to be used, its key. `lock` is the
    clause by which a database that has many writers passes over rows that another one holds.
    """
    rule = _RULES[table]
    names: list[str] = []

    def number(name: re.Match[str]) -> str:
        if name[1] not in names:
            names.append(name[1])
        return f"${names.index(name[1]) + 1}"

    columns = ", ".join(f"t.{column}" for column in rule.key.split(", "))
    most = MOST_ROWS // 2 if rule.keyed else MOST_ROWS  # a key is a row too
    locked = "" if table == "order_events" else lock  # they never change, and a hole must not be
    # Materialised, because a plan that looked more than once would lock, and delete, more rows.
    sql = (
        f"WITH gone AS MATERIALIZED (SELECT {columns} {rule.rows} LIMIT {most}{locked}) "
        f"DELETE FROM {table} WHERE ({rule.key}) IN (SELECT {rule.key} FROM gone) "
        f"RETURNING {'idempotency_key' if rule.keyed else '1'} AS key"
    )
    return re.sub(r":(\w+)", number, sql), [getattr(old, name) for name in names]


def keys_of(table: Table, rows: Sequence[str], among: str) -> str | None:
    """The statement that deletes the keys of deleted rows, or None when there can be none.

    `among` is the condition that a key is one of them, the statement's one value.
    """
    if not rows or not _RULES[table].keyed:
        return None
    return (
        f"DELETE FROM idempotency_keys WHERE key {among} "
        "AND NOT EXISTS (SELECT 1 FROM order_tasks t WHERE t.task_id = id) "
        "AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.batch_id = id) RETURNING key"
    )


def counted(**deleted: int) -> dict[str, int]:
    """How many rows each table lost, without the zeros."""
    return {table: count for table, count in deleted.items() if count}
