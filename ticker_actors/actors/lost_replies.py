"""Orders whose reply was lost: neither placed nor failed, until the broker shows which.

Their tasks are `resolving`, and nothing is sent again for them. A report of the order, from the
book or the feed, ends it well. Enough reads of the book that do not show it prove that it is absent
(see `model.absence`), and then the ledger may say so. If the day ends before either, it is told as
unresolved.
"""

from dataclasses import dataclass, field
from datetime import date

from ticker_actors.model.absence import AbsenceWatch


@dataclass(slots=True)
class LostReplies:
    """Those of one account, by task. Times are seconds of the process's own clock."""

    horizon: float
    """Seconds that an unknown order may take to appear."""
    _watches: dict[str, AbsenceWatch] = field(default_factory=dict)
    _absent: set[str] = field(default_factory=set)
    """Tasks whose watch has its proof, until they are forgotten."""

    def any_lost(self) -> bool:
        """Whether one is looked out for."""
        return bool(self._watches)

    def watch(self, task_id: str, *, since: float, day: date) -> None:
        """Look out for a task's order, in the book of that day."""
        self._watches[task_id] = AbsenceWatch(since, day, self.horizon)

    def forget(self, task_id: str) -> None:
        """Look out for it no more, if it was looked out for."""
        self._watches.pop(task_id, None)
        self._absent.discard(task_id)

    def observe(self, *, began: float, day: date, orders_known: bool, whole: bool) -> list[str]:
        """Take in one valid read of the book, in which none of them was; which are proved absent.

        As `AbsenceWatch.observe`.
        """
        proved = [
            task_id
            for task_id, watch in self._watches.items()
            if watch.observe(began=began, day=day, orders_known=orders_known, whole=whole)
        ]
        self._absent.update(proved)
        return proved

    def proved_absent(self, task_id: str) -> bool:
        """Whether there is proof that a task's order was not placed."""
        return task_id in self._absent

    def want_whole(self, began: float, *, orders_known: bool) -> bool:
        """Whether a read that begins then is to give every row, and count none as repeated."""
        watches = self._watches.values()
        return any(watch.wants(began, orders_known=orders_known) for watch in watches)
