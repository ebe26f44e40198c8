"""What the sandbox does wrong on request: named, seeded, counted. Pure.

Every kind draws from a generator of its own, so one order of requests always meets the same faults
and to enable one kind does not move another.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

ORDER_CALLS = MappingProxyType(
    {
        "lose_request": "not carried out; the connection is cut without an answer",
        "lose_reply": "carried out; the connection is cut without an answer",
        "delay": "carried out at once, answered after the delay",
        "too_many": "not carried out; 429",
        "bad_gateway": "carried out; 502 with a page of HTML",
        "unavailable": "not carried out; 503 with a page of HTML",
        "general": "not carried out; 500 GeneralException",
        "timed_out": 'carried out; 400 "Order request timed out"',
        "late": 'carried out after the delay; 400 "Order request timed out" at once',
        "dead_token": "not carried out; 403 TokenException",
    }
)
"""Of a request that places, modifies or cancels."""
READS = MappingProxyType(
    {
        "lose_read": "the connection is cut without an answer",
        "delay_read": "answered after the delay",
        "too_many_reads": "429",
        "bad_gateway_read": "502 with a page of HTML",
    }
)
"""Of any other request with a token."""
BOOKS = MappingProxyType(
    {
        "stale_book": "the rows of the last honest answer, none before it",
        "empty_book": "no rows",
    }
)
"""Of a `GET /orders`."""
TICKER = MappingProxyType(
    {
        "drop_ticker": "the connection is cut, at the second at which this is drawn",
        "silent_ticker": "the connection stays, and nothing is sent on it any more",
    }
)
"""Of a ticker's connection, drawn once a second."""
KINDS: Mapping[str, str] = MappingProxyType({**ORDER_CALLS, **READS, **BOOKS, **TICKER})

USUAL_RATE = 0.05
"""Of every kind, when only a seed is given: about two order calls in five go wrong."""
_SEEDED = re.compile(r"(?P<seed>\w{1,32})(:(?P<rate>[0-9.]{1,12}))?")


class FaultsError(ValueError):
    """The faults asked for are not understood. Its message is a sentence for the operator."""


@dataclass(slots=True)
class Faults:
    """Which faults may happen, and how often each did."""

    rates: Mapping[str, float] = field(default_factory=dict)
    """By kind, from 0 to 1. A kind that is not there never happens."""
    seed: str = "0"
    counts: Counter[str] = field(default_factory=Counter)
    _chance: dict[str, random.Random] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._chance = {
            kind: random.Random(f"{self.seed}:{kind}")  # noqa: S311  # must repeat, not surprise
            for kind in KINDS
        }

    @classmethod
    def parse(cls, text: str) -> Self:
        """`SEED[:RATE]` for all kinds, or `KIND=RATE,…[,seed=SEED]`; empty for none.

        Raises `FaultsError`.
        """
        return cls(*_understood(text))

    def reset(self, text: str) -> None:
        """From now on those, counted anew. Raises `FaultsError`."""
        self.rates, self.seed = _understood(text)
        self.counts = Counter()
        self.__post_init__()

    def draw(self, kinds: Mapping[str, str]) -> str | None:
        """The fault that happens now, the first of those kinds that is drawn; None for none."""
        drawn = [
            kind
            for kind in kinds
            if (rate := self.rates.get(kind, 0.0)) and self._chance[kind].random() < rate
        ]
        if not drawn:
            return None
        self.counts[drawn[0]] += 1
        return drawn[0]

    def report(self) -> dict[str, dict[str, float]]:
        """Rates and counts, for whoever tests."""
        return {"rates": dict(self.rates), "counts": dict(self.counts)}


def _understood(text: str) -> tuple[dict[str, float], str]:
    """Rates and seed."""
    if not text:
        return {}, "0"
    if "=" not in text:
        if not (found := _SEEDED.fullmatch(text)):
            raise FaultsError(f"Faults are SEED[:RATE] or KIND=RATE,…, not {text!r}.")
        rate = _rate(text, found["rate"]) if found["rate"] else USUAL_RATE
        return dict.fromkeys(KINDS, rate), found["seed"]
    rates: dict[str, float] = {}
    seed = "0"
    for part in text.split(","):
        kind, _, value = part.strip().partition("=")
        if kind == "seed":
            seed = value
        elif kind in KINDS:
            rates[kind] = _rate(kind, value)
        else:
            raise FaultsError(f"There is no fault {kind!r}; there are {', '.join(KINDS)}.")
    return rates, seed


def _rate(kind: str, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise FaultsError(f"The rate of {kind!r} must be a number from 0 to 1.")
    return rate
