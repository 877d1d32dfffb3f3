"""Stretches of numbers: as sets do it."""

import itertools
from collections.abc import Sequence
from typing import ClassVar

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


class Counted(int):
    """A number that counts how often it was compared."""

    times: ClassVar[int] = 0

    def __lt__(self, other: int) -> bool:
        Counted.times += 1
        return int(self) < int(other)

    def __le__(self, other: int) -> bool:
        return not other < self

    def __gt__(self, other: int) -> bool:
        Counted.times += 1
        return int(self) > int(other)

    def __ge__(self, other: int) -> bool:
        return not other > self


def test_what_is_left_of_twice_as_many_costs_twice_as_much() -> None:
    costs = []
    for many in (200, 400):
        Counted.times = 0
        runs = [(Counted(10 * n), Counted(10 * n + 6)) for n in range(many)]
        assert len(without(runs, [(Counted(10 * n + 3), Counted(10 * n + 4)) for n in range(many)])) == 2 * many
        costs.append(Counted.times)
    assert costs[1] < 3 * costs[0]


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
