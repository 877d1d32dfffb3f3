"""How long things take, and how large they are: counts by bucket, since the start and of the last minutes.

A batch costs a count of its values, and a bisection for each that is distinct: ticks of one message share the
millisecond in which they came.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

import attrs

DELAY_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""From a store on the same machine to one that was away for an hour; 2.5 and 10 s are near late and down."""
BATCH_TICKS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)

SLICE_SECONDS: Final = 60.0
SLICES: Final = 5
"""The percentiles are of the last four to five of them: an hour's outage must not colour them for ever."""


@attrs.frozen
class Spread:
    """What a histogram held at one moment."""

    bounds: tuple[float, ...]
    """Upper bounds of the buckets, each included; one more bucket follows them."""
    counts: tuple[int, ...]
    """By bucket, since the start."""
    total: float
    """The sum of all values."""
    p50: float | None
    """Percentiles of the last minutes, interpolated within their bucket, at most the last bound; None: nothing came."""
    p95: float | None
    p99: float | None


NOTHING: Final = Spread(bounds=(), counts=(0,), total=0.0, p50=None, p95=None, p99=None)


class Histogram:
    """One of them. Values are not negative: what a wrong clock makes so counts as 0."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._marks: deque[tuple[float, tuple[int, ...]]] = deque()
        """What the counts were at the beginning of each of the last slices."""

    def add(self, values: Mapping[int, int], now: float, scale: float = 1.0) -> None:
        """Count each value, times ``scale``, as often as it says. ``now`` is in seconds, on any clock: one that is set
        back makes the last minutes longer, no more.
        """
        self._mark(now)
        for value, times in values.items():
            scaled = max(0.0, value * scale)
            self._counts[bisect_left(self._bounds, scaled)] += times
            self._total += scaled * times

    def spread(self, now: float) -> Spread:
        """As of now."""
        self._mark(now)
        before = self._marks[0][1]
        recent = [n - then for n, then in zip(self._counts, before, strict=True)]
        p50, p95, p99 = (quantile(q, self._bounds, recent) for q in (0.5, 0.95, 0.99))
        return Spread(self._bounds, tuple(self._counts), self._total, p50, p95, p99)

    def _mark(self, now: float) -> None:
        if not self._marks or now - self._marks[-1][0] >= SLICE_SECONDS:
            self._marks.append((now, tuple(self._counts)))
        while len(self._marks) > 1 and now - self._marks[1][0] >= (SLICES - 1) * SLICE_SECONDS:
            self._marks.popleft()


def quantile(q: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """As Prometheus reckons ``histogram_quantile``: within a bucket values are taken as evenly spread."""
    passed = list(accumulate(counts))
    if not passed[-1]:
        return None
    rank = q * passed[-1]
    found = bisect_left(passed, rank)
    if found == len(bounds):
        return bounds[-1]
    low = bounds[found - 1] if found else 0.0
    return low + (bounds[found] - low) * (rank - (passed[found] - counts[found])) / counts[found]
