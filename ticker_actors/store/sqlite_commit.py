"""A commit as one SQLite statement: an insert into a view, whose triggers write every table.

Each statement gives up Python's lock and takes it back, and to take it from a busy loop takes up to
5 ms: a dozen statements a commit were a dozen such waits. The rows come as JSON, an array for each
part, and are taken apart without that lock. Being a statement of its own it is a transaction.

SQLite fires triggers in no order that it promises: no part looks at what another one writes.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from ticker_actors.store import rows
from ticker_actors.store.commit import PARTS, TARGETS, Decided, Fence, Part
from ticker_actors.store.sqlite_file import patiently
from ticker_actors.store.tables import StaleEpochError


def _value(name: str) -> str:
    """A field of a row; a time in the form of `calendar.iso`, which sorts."""
    value = f"json_extract(row.value, '$.{name}')"
    if not name.endswith("_at"):
        return value
    # Microseconds, which msgspec writes where there are any, are cut off: strftime would round.
    short = f"substr({value}, 1, {len('2026-01-31T23:59:59.123')})"
    zone = f"substr({value}, {len('2026-01-31T23:59:59.123456Z')})"
    form = "strftime('%Y-%m-%dT%H:%M:%fZ', {})"
    return (
        f"CASE WHEN {zone} = 'Z' THEN {short} || 'Z' WHEN {zone} = '' THEN {form.format(value)} "
        f"ELSE {form.format(f'{short} || {zone}')} END"
    )


def _each(part: Part) -> str:
    # Materialized: else SQLite would write the JSON of a row anew for each of its columns.
    rows_of_part = f"SELECT value FROM json_each(NEW.{part})"
    return f"(WITH found AS MATERIALIZED ({rows_of_part}) SELECT value FROM found) row"


def _insert(part: Part) -> str:
    target = TARGETS[part]
    values = ", ".join(map(_value, target.columns))
    if part == "outbox":  # whose bodies are bytes in this table
        values = values.replace(_value("body"), f"CAST({_value('body')} AS BLOB)")
    return (
        f"INSERT INTO {target.table} ({', '.join(target.columns)}) SELECT {values} "
        f"FROM {_each(part)} WHERE true{target.on_conflict};"  # without WHERE, ON begins a join
    )


_FENCE = (
    f"SELECT RAISE(ABORT, 'stale epoch') FROM {_each('fences')} WHERE NOT EXISTS "
    f"(SELECT 1 FROM accounts WHERE account_id = {_value('account_id')} "
    f"AND epoch = {_value('epoch')}); "
    f"UPDATE accounts SET head_sequence = {_value('head_sequence')}, "
    f"state = COALESCE({_value('state')}, state), "
    f"state_reason = iif({_value('state')} IS NULL, state_reason, {_value('state_reason')}), "
    f"accepted_missing = COALESCE({_value('accepted_missing')}, accepted_missing) "
    f"FROM {_each('fences')} WHERE account_id = {_value('account_id')};"
)
_GIVE_UP_DELIVERIES = (
    "UPDATE webhook_deliveries SET state = 'failed', next_at = NULL, "
    f"updated_at = {_value('updated_at')} FROM {_each('given_up')} "
    f"WHERE webhook_id = {_value('webhook_id')} AND state = 'pending';"
)
_UPDATE_DELIVERIES = (  # one that was given up meanwhile is not tried again
    f"UPDATE webhook_deliveries SET attempts = {_value('attempts')}, "
    f"updated_at = {_value('updated_at')}, "
    f"state = iif(state = 'pending' OR {_value('state')} = 'succeeded', {_value('state')}, state), "
    f"next_at = iif(state = 'pending', {_value('next_at')}, NULL) "
    f"FROM {_each('updates')} WHERE delivery_id = {_value('delivery_id')};"
)
_UPDATES: dict[Part, str] = {
    "fences": _FENCE,
    "given_up": _GIVE_UP_DELIVERIES,
    "updates": _UPDATE_DELIVERIES,
}
_SQL = {part: _UPDATES.get(part) or _insert(part) for part in PARTS}
_VIEW = f"CREATE TEMP VIEW decided AS SELECT {', '.join(f'NULL AS {part}' for part in _SQL)}"
_COMMIT = f"INSERT INTO decided ({', '.join(_SQL)}) VALUES ({', '.join('?' * len(_SQL))})"


def prepare(writer: sqlite3.Connection) -> None:
    """Make the view and its triggers, which are this connection's own."""
    writer.execute("PRAGMA temp_store = MEMORY")
    writer.execute(_VIEW)
    for part, sql in _SQL.items():
        writer.execute(
            f"CREATE TEMP TRIGGER write_{part} INSTEAD OF INSERT ON decided "
            f"WHEN NEW.{part} IS NOT NULL BEGIN {sql} END"
        )
    # What this SQLite does not understand, it says now, not at the first order.
    writer.execute(f"EXPLAIN {_COMMIT}", [None] * len(_SQL)).close()


def write(writer: sqlite3.Connection, decided: Decided) -> None:
    """Run the transaction, or its part in one that is open, in a thread of Trio's.

    Nothing is written when it raises: `StaleEpochError` when an account has another writer;
    `sqlite3.IntegrityError`, `sqlite3.DataError` or `UnicodeError` when a row cannot be written.
    """
    values = [_json(decided.parts.get(part)) for part in _SQL]
    try:
        patiently(lambda: writer.execute(_COMMIT, values))
    except sqlite3.IntegrityError as error:
        # Whatever it was that failed: rows of a new owner may be in the way of ours.
        if stale := _stale(writer, decided.fences):
            raise StaleEpochError(", ".join(stale)) from error
        raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR and "JSON" in str(error):
            raise sqlite3.DataError(str(error)) from error  # too deep; no fault of the file
        raise


def _json(structs: Sequence[msgspec.Struct] | None) -> str | None:
    if structs is None:
        return None
    text = msgspec.json.encode(structs).decode()
    if "\\u0000" in text and any(map(_has_nul, structs)):
        raise sqlite3.DataError("a text with a NUL")  # SQLite would cut it off there
    return text


def _has_nul(struct: msgspec.Struct) -> bool:
    """Whether a text has one. In what is JSON itself it stays as it is written there."""
    values = (
        getattr(struct, name) for name in struct.__struct_fields__ if name not in rows.JSON_COLUMNS
    )
    return any(isinstance(value, str) and "\0" in value for value in values)


def _stale(writer: sqlite3.Connection, fences: Iterable[Fence]) -> list[str]:
    """The accounts whose row has another epoch, or is gone."""
    found = writer.execute("SELECT account_id, epoch FROM accounts").fetchall()
    epochs = {row["account_id"]: row["epoch"] for row in found}
    return [fence.account_id for fence in fences if epochs.get(fence.account_id) != fence.epoch]
