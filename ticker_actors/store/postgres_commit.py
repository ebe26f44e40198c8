"""A commit as one PostgreSQL statement: common table expressions that write every table set-wise.

One statement is one transaction and one round trip. Its first part updates the accounts' rows,
which fences, orders and counts. Few rows, as one order makes, come as parameters, one for each
column. Where a part has more, each is one array of JSON, whose length makes no other statement.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import msgspec

from ticker_actors.model.changes import CommitAnswer
from ticker_actors.store import rows
from ticker_actors.store.commit import TARGETS, Decided, Fence, Part, Target

FEW = 3
"""Rows of a part that may be parameters, which spares the database the JSON: a leg of a batch makes
two tasks, its own and the next one's, and two or three events."""
MOST_FORMS = 40
"""Statements with parameters. Those that occur first are the ones that occur often; with some fifty
that have none they are what asyncpg keeps prepared, a hundred: one more is planned each time."""
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
_COLUMNS: dict[Part, tuple[str, ...]] = {
    **{part: target.columns for part, target in TARGETS.items()},
    "fences": tuple(name for name in Fence.__struct_fields__ if name != "writes"),
}
"""Of the parts whose rows may be parameters; nobody waits for the others."""

Form = tuple[tuple[Part, int], ...]
"""The parts of a statement, and how many rows of each are parameters: 0 when they are JSON."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One statement that writes some changes, and the answers it gives them."""

    sql: str
    arguments: list[object]
    fences: list[Fence]
    """The accounts' rows once it is committed."""
    answers: list[CommitAnswer]


class Statements:
    """The statements of one writer: no more than its connection keeps prepared."""

    def __init__(self) -> None:
        self._forms: set[Form] = set()
        """Of those with parameters."""

    def transaction(self, decided: Decided) -> Transaction:
        """The statement that writes what was decided."""
        form = self._form(decided)
        arguments: list[object] = []
        for part, few in form:
            structs = decided.parts[part]
            if few:
                for struct in structs:
                    arguments += rows.parameters(struct, _COLUMNS[part])
            else:
                arguments.append(msgspec.json.encode(structs).decode())
        return Transaction(_statement(form), arguments, decided.fences, decided.answers)

    def _form(self, decided: Decided) -> Form:
        form = tuple(
            (part, len(structs) if part in _COLUMNS else 0)
            for part, structs in decided.parts.items()
        )
        if form not in self._forms:
            few = len(decided.fences) <= 1 and all(number <= FEW for _, number in form)
            if not few or len(self._forms) == MOST_FORMS:
                return tuple((part, 0) for part in decided.parts)
            self._forms.add(form)
        return form


@lru_cache(maxsize=128)  # asyncpg keeps a hundred prepared
def _statement(form: Form) -> str:
    number = count(1)
    written = []
    for part, few in form:
        if few == 0:
            written.append(_ALL[part].replace("$json", f"${next(number)}"))
        else:
            found = [{name: f"${next(number)}" for name in _COLUMNS[part]} for _ in range(few)]
            written.append(_write(part, found))
    named = (f"part_{n} AS ({sql})" for n, sql in enumerate(written, start=1))
    return f"WITH {', '.join(named)} SELECT * FROM part_1"


def _write(part: Part, found: list[dict[str, str]]) -> str:
    """What writes the rows of a part, of which these are the parameters by their columns."""
    if part == "fences":
        return _fence(found[0].__getitem__)
    values = (f"({', '.join(row.values())})" for row in found)
    return _insert(TARGETS[part], f"VALUES {', '.join(values)}")


def is_there(transaction: Transaction, writes: dict[str, int]) -> bool:
    """Whether a transaction is committed, by the counters found after it."""
    return all(writes[fence.account_id] == fence.writes for fence in transaction.fences)
