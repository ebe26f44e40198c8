"""`python -m bench [PART…]`: starts what it needs on loopback, prints tables, keeps the results."""

import argparse
import importlib
import importlib.util
import signal
import sys
import time
from typing import Any

PARTS = {
    "orders": "the way of an order, in stages, beside a FastAPI service",
    "stream": "telling 1 to 1000 subscribers",
    "web": "what a POST /orders costs in the HTTP server and the web layer",
    "webhooks": "webhook deliveries a second",
    "store": "durable tasks a second",
    "start": "a start with 100 000 unfinished tasks",
    "plots": "draws what the others have left",
    "soak": "the service under steady load for a long time; only when it is named",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    text = "; ".join(f"{name}: {what}" for name, what in PARTS.items())
    found = argparse.ArgumentParser(prog="python -m bench", description=__doc__, epilog=text)
    found.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", default=[])
    found.add_argument("--quick", action="store_true", help="everything in under 3 minutes")
    found.add_argument("--rounds", type=int, help="of the orders part")
    found.add_argument(
        "--goals", action="store_true", help="orders: only what the goals compare at 50/s"
    )
    found.add_argument(
        "--random", action="store_true", help="orders: orders come at random, not evenly"
    )
    found.add_argument("--target", metavar="URL", help="orders: measure this service alone")
    found.add_argument(
        "--broker-port", type=int, default=8091, help="where a target finds its broker (8091)"
    )
    found.add_argument("--minutes", type=float, default=30.0, help="of the soak (30)")
    found.add_argument("--sqlite", action="store_true", help="soak: on SQLite")
    return found


def arguments(part: str, given: argparse.Namespace) -> dict[str, Any]:
    """What a part's `main` takes."""
    names = {
        "orders": ["quick", "rounds", "goals", "random", "target", "broker_port"],
        "soak": ["minutes", "sqlite"],
        "plots": [],
    }
    return {name: getattr(given, name) for name in names.get(part, ["quick"])}


def main() -> None:
    """Run the parts that are named, else all but the soak."""
    given = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    began = time.monotonic()
    for part in given.parts or [name for name in PARTS if name != "soak"]:
        name = f"bench.{part}"
        if importlib.util.find_spec(name) is None:
            print(f"\n# {part}: not there\n")
            continue
        print(f"\n# {part}: {PARTS[part]}\n", flush=True)
        importlib.import_module(name).main(**arguments(part, given))
    print(f"\n{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
