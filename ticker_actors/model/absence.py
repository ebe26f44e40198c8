"""When may an order be called *not placed*? Only on this evidence.

An order of which the broker's answer is unknown can still appear: a minute and a half late has been
seen (forum comment 41029). It is proved absent by enough reads of the day's book that do not show
it, begun late enough and far enough apart, all on the trading day of its send.
"""

from dataclasses import dataclass, field
from datetime import date

READS = 3
"""One read could be stale; three of them, apart, would have to be stale in the same way."""
READS_OF_EMPTY_BOOK = 5
HORIZONS_OF_EMPTY_BOOK = 5
"""While no order of the day is known, an empty book may be a wrong one: wait much longer."""
SPACING = 1 / 24
"""Reads count only this part of a horizon apart: 5 s of 120 s."""


@dataclass(slots=True)
class AbsenceWatch:
    """The evidence about one unknown order. Times are seconds of the process's own clock.

    After a restart the watch begins anew: what a dead process had seen is not evidence.
    """

    since: float
    """When it was sent, or when this process began to look."""
    day: date
    """The trading day whose book would show it."""
    horizon: float
    """Seconds that an unknown order may take to appear (`ABSENCE_HORIZON_SECONDS`)."""
    _reads: list[float] = field(default_factory=list)

    def wants(self, began: float) -> bool:
        """Whether a read begun then may count."""
        return began >= self.since + self.horizon and self._apart(began)

    def observe(self, *, began: float, day: date, orders_known: bool) -> bool:
        """Take in one valid read that did not show it; True when its absence is proved.

        `orders_known`: whether any order of that day was known when the read began.
        """
        if day != self.day:
            return False
        factor, needed = (
            (1, READS) if orders_known else (HORIZONS_OF_EMPTY_BOOK, READS_OF_EMPTY_BOOK)
        )
        earliest = self.since + self.horizon * factor
        if began < earliest or not self._apart(began):
            return False
        self._reads.append(began)
        return sum(read >= earliest for read in self._reads) >= needed

    def _apart(self, began: float) -> bool:
        return not self._reads or began >= self._reads[-1] + self.horizon * SPACING
