"""Of comparing the stores with what was accepted."""

from collections.abc import Callable
from typing import Final

from polygon_live.compared import StoreCompared
from polygon_live.metrics.family import Family, Row, gauge, gauges, seconds
from polygon_live.status import State

_LABELS: Final = ("sink",)


def _each(value: Callable[[StoreCompared], float | None]) -> Callable[[State], list[Row]]:
    return lambda state: [((store.name,), value(store)) for store in state.verification.stores]


def _alarming(state: State) -> list[Row]:
    return [
        ((store.name,), sum(found.alarms(state.at_ms) for found in store.differences))
        for store in state.verification.stores
    ]


VERIFIED: Final[tuple[Family, ...]] = (
    gauges(
        "verification_timestamp_seconds",
        "When the last tick was received up to which the store is compared; absent before the first.",
        _LABELS,
        _each(lambda s: seconds(s.up_to_ms)),
    ),
    gauges(
        "verification_behind_seconds",
        "Age of the oldest accepted tick that the store is not compared with yet.",
        _LABELS,
        _each(lambda s: s.behind_seconds),
    ),
    gauges(
        "verification_differences",
        "Blocks in which the store differs from what was accepted, as long as somebody must be told.",
        _LABELS,
        _alarming,
    ),
    gauges(
        "verification_missing_ticks",
        "Ticks that the store lacks in blocks that differ.",
        _LABELS,
        _each(lambda s: sum(found.missing for found in s.differences)),
    ),
    gauges(
        "verification_doubled_ticks",
        "Ticks that the store has too many in blocks that differ.",
        _LABELS,
        _each(lambda s: sum(found.doubled for found in s.differences)),
    ),
    gauges(
        "verification_sampled_ratio",
        "Share of the latest blocks that was compared; 1 is all of them.",
        _LABELS,
        _each(lambda s: 1 / s.one_in),
    ),
    gauge(
        "verification_core_ratio",
        "What comparing has used of a core, on average since the start.",
        lambda s: s.verification.core_share,
    ),
)
