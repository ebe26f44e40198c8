"""What is counted, beside what Prometheus' own library would have counted."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ticker_actors.instruments import Counters, Histograms
from ticker_actors.model.tasks import TaskStatus

BOUNDS = (0.0005, 0.001, 1.0, 2.5, 10.0, 500)
VALUES = [
    *(near for bound in BOUNDS for near in (bound, math.nextafter(bound, 0), bound * 1.01)),
    *(0, 0.0, -1.0, 1e-12, 1e12, math.inf),
]
LABELS = [("a", ""), ('"quoted"', "back\\slash"), ("two\nlines", "ж"), (TaskStatus.PENDING, "{}")]


def text(registry: CollectorRegistry) -> list[str]:
    """What is told, but for when each of the library's own was made, which nobody asks for."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


@pytest.fixture
def ours() -> CollectorRegistry:
    """A registry for what is ours."""
    return CollectorRegistry()


@pytest.fixture
def theirs() -> CollectorRegistry:
    """A registry for the library's own."""
    return CollectorRegistry()


def test_counts_are_those_of_the_library(
    ours: CollectorRegistry, theirs: CollectorRegistry
) -> None:
    """By labels of any text, and without labels; what never happened is a family without counts."""
    Counters("never", "Help\\ of\nit", ["x"], ours)
    Counter("never", "Help\\ of\nit", ["x"], registry=theirs)
    mine, other = (
        Counters("c", "C", ["x", "y"], ours),
        Counter("c", "C", ["x", "y"], registry=theirs),
    )
    for times, labels in enumerate(LABELS * 2):
        mine(*labels).inc(times)
        mine(*labels).inc()
        other.labels(*labels).inc(times)
        other.labels(*labels).inc()
    Counters("plain", "P", [], ours)().inc(2**60)
    Counter("plain", "P", registry=theirs).inc(2**60)
    assert text(ours) == text(theirs)


def test_distributions_are_those_of_the_library(
    ours: CollectorRegistry, theirs: CollectorRegistry
) -> None:
    """Also of values that are just a bound, above all of them, or below zero."""
    Histograms("never", "N", ["x"], BOUNDS, ours)
    Histogram("never", "N", ["x"], buckets=BOUNDS, registry=theirs)
    mine = Histograms("h", "H", ["x", "y"], BOUNDS, ours)
    other = Histogram("h", "H", ["x", "y"], buckets=BOUNDS, registry=theirs)
    for number, value in enumerate(VALUES):
        labels = LABELS[number % len(LABELS)]
        mine(*labels).observe(value)
        other.labels(*labels).observe(value)
    Histograms("plain", "P", [], BOUNDS, ours)().observe(1)
    Histogram("plain", "P", buckets=BOUNDS, registry=theirs).observe(1)
    assert text(ours) == text(theirs)


def test_labels_are_counted(ours: CollectorRegistry) -> None:
    """Too few or too many are a bug, as two families of one name are."""
    counters = Counters("c", "C", ["x", "y"], ours)
    for labels in ((), ("a",), ("a", "b", "c")):
        with pytest.raises(ValueError, match="has the labels"):
            counters(*labels)
    with pytest.raises(ValueError, match="Duplicate"):
        Histograms("c", "C", [], BOUNDS, ours)
