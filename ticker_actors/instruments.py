"""Counters and histograms that cost next to nothing to add to; Prometheus' library reads them.

The library's own take a lock for every number, for programs whose threads count together. Here
one thread counts, some 25 times an order, and that took a fortieth of an order's processor time.
"""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """How often something has happened."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, times: int = 1) -> None:
        """It has happened, so many times."""
        self.value += times


class Distribution:
    """How many values were at most how large."""

    __slots__ = ("_bounds", "_found", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._found = [0] * (len(bounds) + 1)
        """By the first bound that is not less than the value; the last are above all bounds."""
        self._total = 0.0

    def observe(self, value: float) -> None:
        """One more value, in the unit of the bounds."""
        self._found[bisect_left(self._bounds, value)] += 1
        self._total += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Tell what was found as the library wants it: each bound, and how many are not above."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        found = zip(bounds, accumulate(self._found), strict=True)
        family.add_metric(labels, buckets=list(found), sum_value=self._total)


T = TypeVar("T", Count, Distribution)


class _Labelled(Collector, Generic[T]):
    """One of its kind for each combination of labels that has occurred."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._made: dict[tuple[str, ...], T] = {}
        registry.register(self)

    def __call__(self, *labels: str) -> T:
        """The one for these labels' values. Raises `ValueError` for too few or too many."""
        try:
            return self._made[labels]
        except KeyError:
            if len(labels) != len(self._labels):
                message = f"{self._name} has the labels {self._labels}, not {len(labels)}."
                raise ValueError(message) from None
            return self._made.setdefault(labels, self._new())

    @abstractmethod
    def _new(self) -> T: ...

    def describe(self) -> Iterable[Metric]:
        """For the library, which refuses a second family of one name."""
        return self.collect()


class Counters(_Labelled[Count]):
    """Counts, by labels."""

    def _new(self) -> Count:
        return Count()

    def collect(self) -> Iterator[Metric]:
        """For the library."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, count in self._made.items():
            family.add_metric(labels, count.value)
        yield family


class Histograms(_Labelled[Distribution]):
    """Distributions, by labels."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._bounds = bounds
        super().__init__(name, documentation, labels, registry)

    def _new(self) -> Distribution:
        return Distribution(self._bounds)

    def collect(self) -> Iterator[Metric]:
        """For the library."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, distribution in self._made.items():
            distribution.add_to(family, labels)
        yield family
