"""What seldom comes by chance, and does in the world: faults that come together, or last long enough to be noticed.

Drawn beside the rest of the plan, from the same seed.
"""

import random
from typing import Final

import attrs

from polygon_live.model import pair_of
from tests.simulation.plan import FeedFault, Plan, Trouble

LONG_SECONDS: Final = 340.0
"""A symbol that is silent for so long is known to be mute, in any life that saw it begin."""


def together(plan: Plan) -> Plan:
    """The plan, and these."""
    rng = random.Random(f"together {plan.seed}")
    return _long_mute(rng, _no_store_at_the_power_cut(rng, plan))


def _no_store_at_the_power_cut(rng: random.Random, plan: Plan) -> Plan:
    """A rack loses its network before its power: what came last is in no store, and maybe not on the disk."""
    for end in plan.ends:
        if end.how == "power" and rng.random() < 0.4:
            dark = Trouble("away", end.at - rng.uniform(1.0, 8.0), end.at + rng.choice((1.0, 5.0, 20.0)))
            stores = {name: attrs.evolve(s, troubles=(dark, *s.troubles)) for name, s in plan.stores.items()}
            plan = attrs.evolve(plan, stores=stores)
    return plan


def _long_mute(rng: random.Random, plan: Plan) -> Plan:
    """One symbol's ticks do not come, the others' do: nothing but the watch can know."""
    if len(plan.symbols) == 1 or plan.seconds < LONG_SECONDS + 60 or rng.random() < 0.4:
        return plan
    pairs = frozenset({pair_of(rng.choice(plan.symbols))})
    mute = FeedFault("mute", rng.uniform(10, plan.seconds - LONG_SECONDS), pairs, rng.uniform(LONG_SECONDS, 500.0))
    return attrs.evolve(plan, feed=tuple(sorted((*plan.feed, mute), key=lambda fault: fault.at)))
