"""Where the paper exchange's prices come from: one seeded random walk a symbol.

The walk of a symbol begins at its start price: that of the table below, else one between 50 and
5 000 rupees drawn from a hash of its name. It makes one step a second. Step number `n` moves it by
-2, -1, 0, 1 or 2 ticks, as `blake2b("seed:symbol:n") mod 5 - 2` says, and it is reflected at 5 %
above and below its start. Two walks with one seed that are asked at the same steps agree.

No clock is read here: the step number is the caller's, by custom the Unix time in whole seconds.
"""

from hashlib import blake2b

START_TICKS = {
    "NIFTY25NOVFUT": 390_005,  # 19 500.25 rupees
    "BANKNIFTY25NOVFUT": 910_000,  # 45 500.00
    "INFY": 30_000,  # 1 500.00
}
"""The symbols of the feature document, near the prices it shows."""

LOWEST_START_TICKS, HIGHEST_START_TICKS = 1_000, 100_000  # 50 and 5 000 rupees
LARGEST_MOVE_TICKS = 2
RANGE_PERCENT = 5
MAX_CATCH_UP_STEPS = 300
"""After a longer silence only the last five minutes are walked: about 0.3 ms instead of a day's
90 ms, and nobody saw the prices between."""


def start_ticks(symbol: str) -> int:
    """The price at which a symbol's walk begins. The same for every seed."""
    known = START_TICKS.get(symbol)
    if known is not None:
        return known
    return LOWEST_START_TICKS + _hash(symbol) % (HIGHEST_START_TICKS - LOWEST_START_TICKS + 1)


class Walk:
    """The prices of all symbols, in ticks. Remembers for each where it stands."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._places: dict[str, tuple[int, int]] = {}

    def price(self, symbol: str, step: int) -> int:
        """The price at a step. A first question, or one of an earlier step, moves nothing."""
        start = start_ticks(symbol)
        last, price = self._places.get(symbol, (step, start))
        width = start * RANGE_PERCENT // 100
        low, high = start - width, start + width
        for number in range(max(last, step - MAX_CATCH_UP_STEPS) + 1, step + 1):
            price += self._move(symbol, number)
            if price > high:
                price = 2 * high - price
            elif price < low:
                price = 2 * low - price
        self._places[symbol] = (step, price)
        return price

    def _move(self, symbol: str, step: int) -> int:
        choices = 2 * LARGEST_MOVE_TICKS + 1
        return _hash(f"{self._seed}:{symbol}:{step}") % choices - LARGEST_MOVE_TICKS


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
