"""A commit as one PostgreSQL statement: common table expressions that write every table set-wise.

One statement is one transaction and one round trip. Its first part updates the accounts' rows,
which fences, orders and counts. The one row of a part comes as parameters, one for each column;
several come as one array of JSON, so that their number makes no other statement.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from ticker_actors.model.changes import CommitAnswer
from ticker_actors.store import rows
from ticker_actors.store.commit import TARGETS, Decided, Fence, Part, Target

LEASE_SECONDS = 15
"""For which a commit or a renewal makes sure of an account, by the database's clock."""


def _insert(target: Target, found: str) -> str:
    names = ", ".join(target.columns)
    return f"INSERT INTO {target.table} ({names}) {found}{target.on_conflict}"


def _insert_all(target: Target) -> str:
    """Insert all the rows of one JSON array; the table itself gives the types."""
    names = ", ".join(target.columns)
    source = f"json_populate_recordset(NULL::{target.table}, $json)"
    return _insert(target, f"SELECT {names} FROM {source}")


def _fence(value: Callable[[str], str], source: str = "") -> str:
    # No stale writer passes the NOT NULL of `epoch`, and so nothing of its statement is written.
    return (
        "UPDATE accounts a SET epoch = CASE WHEN "
        f"a.epoch = {value('epoch')} AND a.session = {value('session')} THEN a.epoch END, "
        f"head_sequence = {value('head_sequence')}, writes = a.writes + 1, "
        f"state = COALESCE({value('state')}, a.state), state_reason = "
        f"CASE WHEN {value('state')} IS NULL THEN a.state_reason ELSE {value('state_reason')} END, "
        f"accepted_missing = COALESCE({value('accepted_missing')}, a.accepted_missing), "
        f"lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s' "
        f"{source}WHERE a.account_id = {value('account_id')} RETURNING a.account_id"
    )


_FENCE_ALL = _fence("f.{}".format, "FROM json_populate_recordset(NULL::accounts, $json) f ")
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
_ALL: dict[Part, str] = {
    **{part: _insert_all(target) for part, target in TARGETS.items()},
    "fences": _FENCE_ALL,
    "given_up": _GIVE_UP_DELIVERIES,
    "updates": _UPDATE_DELIVERIES,
}
"""What writes all the rows of a part."""
_FENCE_COLUMNS = tuple(name for name in Fence.__struct_fields__ if name != "writes")
_ALONE: dict[Part, tuple[str, ...]] = {
    **{part: target.columns for part, target in TARGETS.items()},
    "fences": _FENCE_COLUMNS,
}
"""The columns of a row that is the only one of its part, where it may come as parameters. Nobody
waits for the other parts."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One statement that writes some changes, and the answers it gives them."""

    sql: str
    arguments: list[object]
    fences: list[Fence]
    """The accounts' rows once it is committed."""
    answers: list[CommitAnswer]


def transaction(decided: Decided) -> Transaction:
    """The statement that writes what was decided."""
    form: list[tuple[Part, bool]] = []
    arguments: list[object] = []
    for part, structs in decided.parts.items():
        alone = len(structs) == 1 and part in _ALONE
        form.append((part, alone))
        if alone:
            arguments += rows.parameters(structs[0], _ALONE[part])
        else:
            arguments.append(msgspec.json.encode(structs).decode())
    return Transaction(
        sql=_statement(tuple(form)),
        arguments=arguments,
        fences=decided.fences,
        answers=decided.answers,
    )


@lru_cache(maxsize=256)  # few combinations occur
def _statement(form: tuple[tuple[Part, bool], ...]) -> str:
    written, used = [], 0
    for part, alone in form:
        if alone:
            columns = _ALONE[part]
            numbers = {name: f"${used + n}" for n, name in enumerate(columns, start=1)}
            written.append(_write_one(part, numbers))
            used += len(columns)
        else:
            used += 1
            written.append(_ALL[part].replace("$json", f"${used}"))
    parts = (f"part_{number} AS ({sql})" for number, sql in enumerate(written, start=1))
    return f"WITH {', '.join(parts)} SELECT * FROM part_1"


def _write_one(part: Part, numbers: dict[str, str]) -> str:
    """What writes the one row of a part, whose columns are parameters of these numbers."""
    if part == "fences":
        return _fence(numbers.__getitem__)
    return _insert(TARGETS[part], f"VALUES ({', '.join(numbers.values())})")


def is_there(transaction: Transaction, writes: dict[str, int]) -> bool:
    """Whether a transaction is committed, by the counters found after it."""
    return all(writes[fence.account_id] == fence.writes for fence in transaction.fences)
