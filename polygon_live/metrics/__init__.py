"""/metrics: the same snapshots as /state, in Prometheus' words, made anew at each scrape.

Nothing is counted twice: the components own the tallies, this package only names them. ``FAMILIES`` is all there is,
and the README's table is made from it.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from polygon_live.metrics.family import PREFIX, Family
from polygon_live.metrics.feed import FEED
from polygon_live.metrics.run import RUN
from polygon_live.metrics.stores import STORES
from polygon_live.metrics.symbols import MOST_SYMBOLS, SYMBOLS
from polygon_live.metrics.verified import VERIFIED
from polygon_live.status import State

__all__ = ["FAMILIES", "MOST_SYMBOLS", "PREFIX", "Family", "render", "table"]

FAMILIES: Final[tuple[Family, ...]] = (*RUN, *FEED, *SYMBOLS, *STORES, *VERIFIED)


def render(state: State) -> bytes:
    """The scrape's body, in the text format: all of ``FAMILIES``, and the usual ``process_…``."""
    registry = CollectorRegistry()
    registry.register(_Snapshots(state))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


def table() -> str:
    """One line of Markdown for each, for the README."""
    lines = ["| metric | kind | what it is |", "|---|---|---|"]
    for family in FAMILIES:
        labels = f"{{{', '.join(family.labels)}}}" if family.labels else ""
        lines.append(f"| `{family.exposed.removeprefix(PREFIX)}{labels}` | {family.kind} | {family.text} |")
    return "\n".join(lines)


class _Snapshots(Collector):
    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            yield family.metric(self._state)
