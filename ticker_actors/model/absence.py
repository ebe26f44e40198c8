"""When may an order be called *not placed*? Only on this evidence.

An order of which the broker's answer is unknown can still appear: a minute and a half late has been
seen (forum comment 41029). It is proved absent by enough reads of the day's book that do not show
it, begun late enough and far enough apart, all on the trading day of its send.
"""

import math
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
    _whole: float = -math.inf
    """When the last of them began that gave every row."""

    def wants(self, began: float, *, orders_known: bool) -> bool:
        """Whether a read begun then is to give every row, and count none as repeated."""
        return self._whole < self._earliest(orders_known=orders_known) <= began

    def observe(self, *, began: float, day: date, orders_known: bool, whole: bool) -> bool:
        """Take in one valid read that did not show it; True when its absence is proved.

        `orders_known`: whether any order of that day was known when the read began. `whole`:
        whether each row was looked at, for of the reads that count one must be such a one.
        """
        earliest = self._earliest(orders_known=orders_known)
        if day != self.day or began < earliest:
            return False
        if whole:
            self._whole = began
        if not self._reads or began >= self._reads[-1] + self.horizon * SPACING:
            self._reads.append(began)
        needed = READS if orders_known else READS_OF_EMPTY_BOOK
        enough = sum(read >= earliest for read in self._reads) >= needed
        return enough and self._whole >= earliest

    def _earliest(self, *, orders_known: bool) -> float:
        return self.since + self.horizon * (1 if orders_known else HORIZONS_OF_EMPTY_BOOK)
