"""Stretches of ``seq``, both ends included, in order and apart from each other."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

Run = tuple[int, int]


def runs_of(seqs: Iterable[int]) -> list[Run]:
    """Of numbers in any order, each once or more often."""
    return united((seq, seq) for seq in seqs)


def united(runs: Iterable[Run]) -> list[Run]:
    """All of these, in any order, as runs that neither touch nor overlap."""
    found: list[Run] = []
    for first, last in sorted(runs):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def without(runs: Sequence[Run], taken: Iterable[Run]) -> list[Run]:
    """What is left of ``runs``, which are in order and apart; ``taken`` need not be."""
    left: list[Run] = []
    away, at = united(taken), 0
    for start, last in runs:
        first = start
        while at < len(away) and away[at][0] <= last:
            begin, end = away[at]
            if first < begin:
                left.append((first, begin - 1))
            first = max(first, end + 1)
            if end > last:
                break  # it may take of the next one, too
            at += 1
        if first <= last:
            left.append((first, last))
    return left


def size(runs: Iterable[Run]) -> int:
    """How many numbers there are."""
    return sum(last - first + 1 for first, last in runs)


class Answered:
    """The ticks that a store has answered for, as they came: each of them once, in order."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def add(self, first: int, last: int) -> None:
        """Another stretch. What follows the last one costs nothing."""
        if self._runs and self._runs[-1][1] == first - 1:
            self._runs[-1] = self._runs[-1][0], last
        else:
            self._runs = united([*self._runs, (first, last)])

    def between(self, first: int, last: int) -> list[Run]:
        """Those of them that lie there."""
        begin = max(0, bisect_right(self._runs, (first,)) - 1)
        parts = ((max(a, first), min(b, last)) for a, b in self._runs[begin:])
        return [part for part in parts if part[0] <= part[1]]

    def forget(self, seq: int) -> None:
        """Those up to this one."""
        if self._runs and self._runs[0][1] <= seq:
            self._runs = [run for run in self._runs if run[1] > seq]
