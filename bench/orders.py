"""The way of an order, in stages, beside a FastAPI service that does the same.

In each round every system is measured once at each rate, in another order each time, as a new
process with a new database and a new broker; some rounds more measure only what the goals compare.
Orders leave on schedule. All times are taken outside of the service: where a client sends and
hears, and where the broker and a webhook's receiver listen. One stream and one webhook are always
attached. What counts is the ratio within a round, and of the rounds the median: no round is
dropped.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import msgspec

from bench.machine import conditions, keep, sentence
from bench.order_report import OURS, PEER, Found, goal_table, other_table, stage_table
from bench.order_runs import QUICK, Plan, Session, ceiling, measure
from bench.services import Name, serving, targeting
from tests.postgres import Server


@contextmanager
def fresh(name: Name, *, server: Server) -> Iterator[Session]:
    """A system, just started."""
    with serving(name, server) as running:
        yield Session(running)


def main(  # noqa: PLR0913  # the command line's
    *,
    quick: bool = False,
    rounds: int | None = None,
    goals: bool = False,
    random: bool = False,
    target: str | None = None,
    broker_port: int = 8091,
) -> None:
    """Measure, print and keep. `goals`: only what these compare, but for saturation.

    `target` is the URL of a service that somebody started with `KITE_ROOT_URL` at `broker_port` of
    loopback: it is measured alone.
    """
    plan = planned(QUICK if quick else Plan(), rounds=rounds, goals=goals, random=random)
    server = Server()
    try:
        known, most = conditions(server), ceiling()
        print(f"{sentence(known)}; the broker takes {most:,.0f} orders a second\n", flush=True)
        if target is not None:
            with targeting(target, broker_port) as running:
                session = Session(running)
                rows = measure(plan, lambda _: nullcontext(session), ["target"])
        else:
            names: list[Name] = [*OURS, PEER, "floor"]
            rows = measure(plan, partial(fresh, server=server), names)
    finally:
        server.close()
    found = Found(rows)
    compared = [] if target is not None else list(found.goals(saturation=not goals))
    print("\nMilliseconds from when an order was due, p50 / p99, medians of all rounds\n")
    print(*stage_table(found), "", *other_table(found), sep="\n")
    if compared:
        print("", *goal_table(compared), sep="\n")
    name = ("orders" if target is None else "target") + ("-goals" if goals else "")
    keep(
        name + ("-random" if random else ""),
        {
            "conditions": {**known, "broker orders a second": round(most)},
            "plan": plan,
            "rows": rows,
            "goals": [
                {**goal._asdict(), "median": goal.ratio, "met": goal.met} for goal in compared
            ],
        },
    )


def planned(plan: Plan, *, rounds: int | None, goals: bool, random: bool) -> Plan:
    """A plan with what was asked for on the command line."""
    return msgspec.structs.replace(
        plan,
        rounds=0 if goals else rounds or plan.rounds,
        goal_rounds=rounds or plan.goal_rounds,
        random=random,
    )


if __name__ == "__main__":
    main()
