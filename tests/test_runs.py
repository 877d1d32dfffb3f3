"""Stretches of numbers: as sets do it."""

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from polygon_live.runs import Answered, Run, runs_of, size, united, without

NUMBERS = st.sets(st.integers(0, 60))
RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda run: (run[0], run[0] + run[1])))


def numbers(runs: Sequence[Run]) -> set[int]:
    return {n for first, last in runs for n in range(first, last + 1)}


def in_order(runs: Sequence[Run]) -> bool:
    return all(one[1] + 1 < other[0] for one, other in itertools.pairwise(runs))


@given(RUNS, RUNS)
def test_union_and_difference(one: list[Run], other: list[Run]) -> None:
    both, left = united([*one, *other]), without(united(one), other)
    assert numbers(both) == numbers(one) | numbers(other)
    assert numbers(left) == numbers(one) - numbers(other)
    assert in_order(both)
    assert in_order(left)
    assert size(both) == len(numbers(both))


@given(NUMBERS)
def test_of_numbers(some: set[int]) -> None:
    assert numbers(runs_of([*some, *some])) == some
    assert in_order(runs_of(some))


@given(RUNS, st.integers(0, 70), st.integers(0, 70))
def test_what_was_answered_for_and_forgotten(runs: list[Run], first: int, forgotten: int) -> None:
    answered = Answered()
    for run in runs:
        answered.add(*run)
    between = answered.between(first, first + 20)
    assert numbers(between) == numbers(runs) & set(range(first, first + 21))
    answered.forget(forgotten)
    assert numbers(answered.between(forgotten + 1, 100)) == {n for n in numbers(runs) if n > forgotten}


def test_what_follows_costs_nothing() -> None:
    answered = Answered()
    for n in range(0, 100_000, 10):
        answered.add(n, n + 9)
    assert answered.between(0, 99_999) == [(0, 99_999)]
    assert len(answered._runs) == 1
