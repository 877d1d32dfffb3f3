"""What may be used of a core: never more over time, and what that leaves of the blocks."""

import itertools
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from polygon_live.blocks import Block
from polygon_live.budget import Budget, Sampling

SHARE: Final = 0.03
SAVED: Final = 300.0


def block(number: int, count: int = 1000, lasted_ms: int = 1000) -> Block:
    first, at = number * 1_000_000, number * lasted_ms
    return Block(first, first + count - 1, at, at + lasted_ms, (at, at), None)


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 2)), max_size=200))
def test_whoever_waits_for_what_is_left_never_uses_more_than_its_share(steps: list[tuple[float, float]]) -> None:
    budget, now, largest = Budget(SHARE, saved_seconds=SAVED, now=0.0), 0.0, 0.0
    for pause, cost in steps:
        now += pause
        if budget.left(now) > 0:
            budget.spend(cost)
            largest = max(largest, cost)
        assert budget.spent <= SHARE * (SAVED + now) + largest + 1e-9


def test_all_are_looked_at_while_that_can_be_afforded() -> None:
    budget, sampling = Budget(SHARE, saved_seconds=SAVED, now=0.0), Sampling(0.001)
    ready = [block(n) for n in range(5)]
    assert sampling.affordable(ready, budget, 0.0) == ready
    sampling.done(ready, looked=True)
    assert sampling.one_in == 1
    budget.spend(7.0)
    assert sampling.affordable(ready, budget, 0.0) == ()  # it is saved up
    assert sampling.affordable(ready, budget, 100.0) == ready


def test_where_it_never_can_be_the_latest_are_and_it_is_said_how_many() -> None:
    budget, sampling = Budget(SHARE, saved_seconds=SAVED, now=0.0), Sampling(0.001)
    ready = [block(n) for n in range(12)]
    assert sampling.affordable(ready, budget, 0.0) == ready[3:]
    budget.spend(8.5)
    assert sampling.affordable(ready, budget, 0.0) == ready[-1:]  # one at least
    sampling.done(ready[:9], looked=False)
    sampling.done(ready[9:], looked=True)
    assert sampling.one_in == 4
    assert sampling.whole_share == 1.0
    budget.spend(1.0)
    assert sampling.affordable(ready, budget, 0.0) == ()


def test_under_load_without_end_the_share_is_kept_and_some_of_every_stretch_are_seen() -> None:
    """Ten thousand ticks a second that cost 15 µs each: five times the share."""
    budget, sampling = Budget(SHARE, saved_seconds=SAVED, now=0.0), Sampling(15e-6)
    ready: list[Block] = []
    seen: list[int] = []
    for second in range(0, 7200, 5):
        ready += [block(n, count=10_000) for n in range(second, second + 5)]
        if chosen := sampling.affordable(ready, budget, float(second)):
            budget.spend(sum(b.count for b in chosen) * 15e-6)
            sampling.done(ready[: -len(chosen)], looked=False)
            sampling.done(chosen, looked=True)
            seen += [b.from_ms // 1000 for b in chosen]
            ready = []
        assert len(ready) < 1000
    assert budget.spent <= SHARE * (7200 + SAVED) + 1
    assert 0.15 < len(seen) / 7200 < 0.25
    assert max(b - a for a, b in itertools.pairwise(seen)) < 300


def test_the_cost_of_a_tick_is_learnt() -> None:
    sampling = Sampling(20e-6)
    sampling.measured(0.0, 0)
    for _ in range(50):
        sampling.measured(0.1, 10_000)
    assert abs(sampling.tick_seconds - 10e-6) < 1e-8
