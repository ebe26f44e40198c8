"""The official Python ticker as a program, because Twisted's reactor runs once in a process.

`python official_ticker.py URL` subscribes INFY in full, TCS in quote and NIFTY 50 in ltp, and
prints a line of JSON for every tick, order update and error.
"""

import json
import sys
from typing import Any

from kiteconnect import KiteTicker

INFY, TCS, NIFTY = 408065, 2953217, 256265


def main() -> None:
    """Print until killed."""
    ticker = KiteTicker("sandbox", "sandbox", root=sys.argv[1])

    def show(kind: str, content: object) -> None:
        print(json.dumps({"kind": kind, "content": content}, default=str), flush=True)  # noqa: T201

    def subscribe(ws: Any, response: object) -> None:  # noqa: ANN401
        ws.subscribe([INFY, TCS, NIFTY])
        ws.set_mode(ws.MODE_FULL, [INFY])
        ws.set_mode(ws.MODE_LTP, [NIFTY])

    def ticks(ws: object, found: list[object]) -> None:
        for tick in found:
            show("tick", tick)

    ticker.on_connect = subscribe
    ticker.on_ticks = ticks
    ticker.on_order_update = lambda _, data: show("order", data)
    ticker.on_error = lambda _, code, reason: show("error", f"{code} {reason}")
    ticker.connect()


if __name__ == "__main__":
    main()
