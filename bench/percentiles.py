"""Latencies as percentiles, and how a line rises: pure functions.

Every sample is kept, so the percentiles are exact; a histogram of buckets would need less memory,
which no run here lacks.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import linear_regression

import msgspec

NAMED = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
CURVE = tuple(100 * (1 - 10 ** (-step / 10)) for step in range(41))
"""Percentiles from 0 to 99.99, ten a decade of what lies beyond them: the axis of HDR plots."""


class Summary(msgspec.Struct, frozen=True):
    """Percentiles of one measurement, in milliseconds."""

    count: int
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest sample that is not below so many percent of all (nearest rank).

    `ordered` is sorted and not empty.
    """
    rank = math.ceil(len(ordered) * percent / 100 - 1e-9)  # 99.9 % of 1000 is rank 999, not 1000
    return ordered[max(rank, 1) - 1]


def summary(samples: Iterable[float]) -> Summary | None:
    """The percentiles of samples; None of no samples."""
    ordered = sorted(samples)
    if not ordered:
        return None
    named = {name: round(percentile(ordered, percent), 3) for name, percent in NAMED.items()}
    return Summary(count=len(ordered), max=round(ordered[-1], 3), **named)


def curve(samples: Iterable[float]) -> list[tuple[float, float]]:
    """Percentile and sample, for a plot; as far out as there are samples to tell."""
    ordered = sorted(samples)
    told = [percent for percent in CURVE if len(ordered) * (100 - percent) >= 100]  # noqa: PLR2004  # percent
    return [(percent, percentile(ordered, percent)) for percent in told]


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """By how much values rise in a unit of time: the line of least squares."""
    return linear_regression(times, values).slope
