"""When something is to be done again and again: a cron line in a time zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

FIELDS = 5
"""Minute, hour, day of month, month, day of week: as `man 5 crontab` has them."""
_FOLD = timedelta(hours=3)
"""More than any clock is put back by."""
_ANY_DAY = datetime(2026, 1, 1, tzinfo=UTC)


class Schedule:
    """A cron line, read as Debian's cron reads it, also where the clocks of a zone change.

    Raises `ValueError`, whose message says what is wrong, as the rest of a sentence.
    """

    def __init__(self, line: str, zone: ZoneInfo) -> None:
        self._line, self._zone = line, zone
        if len(line.split()) != FIELDS:
            raise ValueError("must have five fields, like 0 2 * * *")
        try:
            self.after(_ANY_DAY)
        except CronSimError as error:
            raise ValueError(f"is no cron line: {error}") from error
        except StopIteration:
            raise ValueError("names a day that never comes") from None

    def after(self, instant: datetime) -> datetime:
        """The first time after an instant, in UTC."""
        times = CronSim(self._line, instant.astimezone(self._zone))
        return next(at for at in map(_utc, times) if at > instant)

    def latest(self, instant: datetime) -> datetime:
        """The last time up to an instant, in UTC."""
        # An hour that comes twice is one to CronSim: go back from beyond it.
        times = CronSim(self._line, (instant + _FOLD).astimezone(self._zone), reverse=True)
        return next(at for at in map(_utc, times) if at <= instant)


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC)
