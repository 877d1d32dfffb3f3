"""A metric family: its name, its line of documentation, its labels, and where its values stand in a state."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, Literal

import attrs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from polygon_live.histogram import Spread
from polygon_live.status import State

PREFIX: Final = "polygon_live_"

Row = tuple[Sequence[str], float | None]
"""The labels' values, and the value; None: there is none at this moment."""


@attrs.frozen
class Family:
    """``name`` is without the prefix, and of a counter without ``_total``."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    text: str
    """One sentence, in the scrape and in the README alike."""
    labels: tuple[str, ...]
    read: Callable[[State], Iterable[tuple[Sequence[str], float | Spread | None]]]

    @property
    def exposed(self) -> str:
        """Its full name in a scrape."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"

    @property
    def samples(self) -> frozenset[str]:
        """The names under which a query finds it."""
        if self.kind == "histogram":
            return frozenset(self.exposed + end for end in ("_bucket", "_sum", "_count"))
        return frozenset({self.exposed})

    def metric(self, state: State) -> Metric:
        """With the values of this moment."""
        name = PREFIX + self.name
        if self.kind == "histogram":
            histogram = HistogramMetricFamily(name, self.text, labels=self.labels)
            for labels, value in self.read(state):
                if isinstance(value, Spread):
                    histogram.add_metric(labels, list(_buckets(value)), value.total)
            return histogram
        kind = GaugeMetricFamily if self.kind == "gauge" else CounterMetricFamily
        metric = kind(name, self.text, labels=self.labels)
        for labels, value in self.read(state):
            if value is not None and not isinstance(value, Spread):
                metric.add_metric(labels, value)
        return metric


def _buckets(spread: Spread) -> Iterator[tuple[str, float]]:
    """Each with what is in those below it too."""
    names = [*(str(bound) for bound in spread.bounds), "+Inf"]
    return zip(names, accumulate(spread.counts), strict=True)


def gauge(name: str, text: str, read: Callable[[State], float | None]) -> Family:
    """One value that goes up and down."""
    return Family(name, "gauge", text, (), lambda state: [((), read(state))])


def gauges(name: str, text: str, labels: Sequence[str], read: Callable[[State], Iterable[Row]]) -> Family:
    """One for each value of the labels."""
    return Family(name, "gauge", text, tuple(labels), read)


def counter(name: str, text: str, read: Callable[[State], float]) -> Family:
    """One value that only rises while the collector runs."""
    return Family(name, "counter", text, (), lambda state: [((), read(state))])


def counters(name: str, text: str, labels: Sequence[str], read: Callable[[State], Iterable[Row]]) -> Family:
    """One for each value of the labels."""
    return Family(name, "counter", text, tuple(labels), read)


def histogram(name: str, text: str, read: Callable[[State], Spread]) -> Family:
    """How often a value lay where."""
    return Family(name, "histogram", text, (), lambda state: [((), read(state))])


def seconds(unix_ms: float | None) -> float | None:
    """Prometheus has one unit of time."""
    return None if unix_ms is None else unix_ms / 1000
