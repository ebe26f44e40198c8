"""A commit as one PostgreSQL statement: common table expressions that write every table set-wise.

One statement is one transaction and one round trip. Its first part updates the accounts' rows,
which fences, orders and counts.
"""

from dataclasses import dataclass
from functools import lru_cache

import msgspec

from ticker_actors.model.changes import CommitAnswer
from ticker_actors.store.commit import TARGETS, Decided, Fence, Part, Target

LEASE_SECONDS = 15
"""For which a commit or a renewal makes sure of an account, by the database's clock."""


def _insert(target: Target) -> str:
    """Insert all the rows of one JSON array; the table itself gives the types."""
    names = ", ".join(target.columns)
    return (
        f"INSERT INTO {target.table} ({names}) SELECT {names} "
        f"FROM json_populate_recordset(NULL::{target.table}, $json){target.on_conflict}"
    )


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
_UPDATE_DELIVERIES = (  # one that was given up meanwhile is not tried again
    "UPDATE webhook_deliveries d SET attempts = r.attempts, updated_at = r.updated_at, "
    "state = CASE WHEN d.state = 'pending' OR r.state = 'succeeded' THEN r.state ELSE d.state END, "
    "next_at = CASE WHEN d.state = 'pending' THEN r.next_at END "
    "FROM json_populate_recordset(NULL::webhook_deliveries, $json) r "
    "WHERE d.delivery_id = r.delivery_id"
)
_GIVE_UP_DELIVERIES = (
    "UPDATE webhook_deliveries d SET state = 'failed', next_at = NULL, updated_at = g.updated_at "
    "FROM json_populate_recordset(NULL::webhook_deliveries, $json) g "
    "WHERE d.webhook_id = g.webhook_id AND d.state = 'pending'"
)
_SQL: dict[Part, str] = {
    **{part: _insert(target) for part, target in TARGETS.items()},
    "fences": _FENCE,
    "given_up": _GIVE_UP_DELIVERIES,
    "updates": _UPDATE_DELIVERIES,
}


@dataclass(frozen=True, slots=True)
class Transaction:
    """One statement that writes some changes, and the answers it gives them."""

    sql: str
    arguments: list[str]
    fences: list[Fence]
    """The accounts' rows once it is committed."""
    answers: list[CommitAnswer]


def transaction(decided: Decided) -> Transaction:
    """The statement that writes what was decided."""
    return Transaction(
        sql=_statement(tuple(decided.parts)),
        arguments=[msgspec.json.encode(structs).decode() for structs in decided.parts.values()],
        fences=decided.fences,
        answers=decided.answers,
    )


@lru_cache(maxsize=256)  # few combinations occur
def _statement(parts: tuple[Part, ...]) -> str:
    numbered_parts = [
        f"part_{number} AS ({_SQL[part].replace('$json', f'${number}')})"
        for number, part in enumerate(parts, start=1)
    ]
    return f"WITH {', '.join(numbered_parts)} SELECT * FROM part_1"


def is_there(transaction: Transaction, writes: dict[str, int]) -> bool:
    """Whether a transaction is committed, by the counters found after it."""
    return all(writes[fence.account_id] == fence.writes for fence in transaction.fences)
