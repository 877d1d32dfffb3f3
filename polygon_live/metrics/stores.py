"""Of each store and its pump."""

from collections.abc import Callable
from typing import Final

from polygon_live.histogram import Spread
from polygon_live.metrics.family import Family, Row, counters, gauges, seconds
from polygon_live.status import SinkSnapshot, State

_LABELS: Final = ("sink",)


def _each(value: Callable[[SinkSnapshot], float | None]) -> Callable[[State], list[Row]]:
    return lambda state: [((sink.name,), value(sink)) for sink in state.sinks]


def _spreads(name: str, text: str, spread: Callable[[SinkSnapshot], Spread]) -> Family:
    return Family(name, "histogram", text, _LABELS, lambda s: [((sink.name,), spread(sink)) for sink in s.sinks])


STORES: Final[tuple[Family, ...]] = (
    gauges("sink_connected", "1 while the store is connected.", _LABELS, _each(lambda s: int(s.connected))),
    gauges(
        "sink_needs_operator",
        "1 while the store answers and somebody must change something.",
        _LABELS,
        _each(lambda s: int(s.needs_operator)),
    ),
    gauges(
        "sink_behind_seconds",
        "Lag: age of the oldest tick that the store has not acknowledged; late over 2, down over 10.",
        _LABELS,
        _each(lambda s: s.behind_seconds),
    ),
    gauges(
        "sink_waiting_ticks",
        "Ticks accepted and not yet acknowledged by the store.",
        _LABELS,
        _each(lambda s: s.waiting_ticks),
    ),
    gauges(
        "sink_until_loss_seconds",
        "Until the journal gives up what the store lacks, at the present rate; absent if ticks don't come.",
        _LABELS,
        _each(lambda s: s.seconds_until_loss),
    ),
    gauges(
        "sink_delivered_timestamp_seconds",
        "When the store last took a tick; absent before the first.",
        _LABELS,
        _each(lambda s: seconds(s.last_delivered_ms)),
    ),
    counters("sink_ticks_delivered", "Ticks that the store holds.", _LABELS, _each(lambda s: s.delivered)),
    counters("sink_ticks_expired", "Ticks older than the store keeps.", _LABELS, _each(lambda s: s.expired)),
    counters(
        "sink_ticks_set_aside", "Ticks that the store refused for their content.", _LABELS, _each(lambda s: s.set_aside)
    ),
    gauges("sink_quarantined_ticks", "The same in all runs.", _LABELS, _each(lambda s: s.set_aside_ever)),
    counters(
        "sink_ticks_lost",
        "Ticks that the store lacks and the journal could not give it.",
        _LABELS,
        _each(lambda s: s.lost),
    ),
    counters(
        "sink_fell_behind", "Times that the store lacked what it had had.", _LABELS, _each(lambda s: s.fell_behind)
    ),
    counters("sink_retries", "Writes tried again.", _LABELS, _each(lambda s: s.retries)),
    gauges(
        "sink_complaints",
        "Standing faults of the store that somebody should mend.",
        _LABELS,
        _each(lambda s: len(s.complaints)),
    ),
    _spreads(
        "sink_delay_seconds",
        "From the receipt of a tick to the store's acknowledgement, catching up included.",
        lambda s: s.delay,
    ),
    _spreads("sink_batch_ticks", "Ticks in a batch that the store took.", lambda s: s.batches),
)
