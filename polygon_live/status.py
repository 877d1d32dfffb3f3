"""What each component says of itself, and what follows from it for /health.

Components offer frozen snapshots, the composition root collects them into a `State`, and ``health`` is a pure function
of that state and the time: the same evidence always gives the same answer.
"""

from collections.abc import Mapping
from typing import Final

import attrs

from polygon_live.model import Reject, Tick

LATE_SECONDS: Final = 2.0
DOWN_SECONDS: Final = 10.0
SKEW_ALARM_MS: Final = 5000.0
"""A feed this slow, or a clock this wrong, makes every price on the live subjects a stale one."""
STREAM_QUIET_SECONDS: Final = 60.0
"""With fourteen symbols and an open market something ticks every second; a holiday's thinnest pair, every 156 s."""
START_SECONDS: Final = 30.0
"""A collector that has just been started is given so long to begin streaming before it is called unhealthy."""
REFUSED_ALARM: Final = 20
"""So many events of one symbol in a row can't be told from a symbol that does not stream."""
DROP_ALARM_MS: Final = 600_000

GUARANTEE: Final = "at most once across a crash: ticks that a store has not taken yet are held in memory only"


@attrs.frozen
class FeedSnapshot:
    """The connection to Polygon."""

    state: str
    """dialling, logging in, subscribing, streaming, closing, waiting (before the next dial) or stopped."""
    address: str
    connected_since_ms: int | None
    """Since when the present connection is logged in with acknowledged subscriptions; None if it is not."""
    connections: int
    """How many times "Connected to Polygon.io" was true."""
    endings: Mapping[str, int]
    """Connections and attempts that ended, by reason."""
    last_error: str | None
    last_error_ms: int | None
    needs_operator: bool
    """The last attempt failed for a reason that waiting does not mend: key, plan, another instance."""
    retry_at_ms: int | None
    acknowledged: tuple[str, ...]
    silent: tuple[str, ...]
    """Symbols that stayed without acknowledgement or tick after resubscribing and reconnecting."""
    refusals: tuple[str, ...]
    """What Polygon said about refused topics on this connection; it names no topic."""
    frames: int
    characters: int
    dropped_frames: int
    last_dropped_ms: int | None
    waiting_characters: int
    """Received and not judged yet."""


@attrs.frozen
class SymbolSnapshot:
    """One symbol."""

    symbol: str
    accepted: int
    rejected: int
    refused_in_a_row: int
    """Rejected since the last accepted one, exact repeats not counted."""
    late: int
    suspect: int
    opened_ms: int | None
    """When the market's present session began; None while it is closed."""
    last: Tick | None

    @property
    def market_open(self) -> bool:
        """Whether ticks are expected."""
        return self.opened_ms is not None


@attrs.frozen
class ValidatorSnapshot:
    """What was judged."""

    accepted: int
    ignored: Mapping[str, int]
    """Known events that are not collected (aggregates), by kind."""
    last_seq: int | None
    last_accepted_ms: int | None
    skew_ms: float | None
    """Median of received − Polygon's timestamp over the last ticks."""
    symbols: tuple[SymbolSnapshot, ...]


@attrs.frozen
class RejectsSnapshot:
    """What was refused, by stage and reason."""

    counts: Mapping[str, Mapping[str, int]]
    """By stage (``validate`` or a store), then by reason."""
    latest: tuple[Reject, ...]
    unkept: int
    """Rejects that were counted but are not in the table."""


@attrs.frozen
class SinkSnapshot:
    """One store and its pump."""

    name: str
    connected: bool
    behind_seconds: float
    """Age of the oldest tick that the store has not acknowledged, or how long it could not be reached; 0 if neither."""
    waiting_ticks: int
    delivered: int
    expired: int
    set_aside: int
    """Ticks that the store refused for their content: they are in /rejects, and not in the store."""
    last_set_aside_ms: int | None
    dropped: int
    """Ticks that this store will never get: its queue was full while it was away."""
    last_dropped_ms: int | None
    retries: int
    last_seq: int | None
    last_delivered_ms: int | None
    last_error: str | None
    last_error_ms: int | None
    needs_operator: bool
    """The store answers, but somebody must change something."""
    about: Mapping[str, str | int | float | bool | None]
    complaints: tuple[str, ...]

    @property
    def state(self) -> str:
        """good, late (over 2 s behind) or down (over 10 s)."""
        if self.behind_seconds > DOWN_SECONDS:
            return "down"
        return "late" if self.behind_seconds > LATE_SECONDS else "good"


@attrs.frozen
class WatcherSnapshot:
    """A background task beside the pipeline."""

    name: str
    running: bool
    restarts: int
    last_error: str | None


@attrs.frozen
class RetentionSnapshot:
    """The three days of the table."""

    verified: bool
    detail: str
    """In words: what was found and when, or what went wrong."""
    about: Mapping[str, str | int | float | bool | None]


@attrs.frozen
class State:
    """Everything, at one moment."""

    at_ms: int
    started_ms: int
    version: str
    collector: str
    simulated: bool
    stopping: bool
    feed: FeedSnapshot
    validator: ValidatorSnapshot
    rejects: RejectsSnapshot
    sinks: tuple[SinkSnapshot, ...]
    retention: RetentionSnapshot
    watchers: tuple[WatcherSnapshot, ...]


@attrs.frozen
class Health:
    """The answer of /health: healthy, or not and why. ``notes`` are worth knowing and no reason to wake anybody."""

    healthy: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def health(state: State) -> Health:
    """Judge the evidence. Every sentence names what is wrong with what."""
    reasons = [*_feed_reasons(state), *_drop_reasons(state), *_skew_reasons(state)]
    reasons += [
        f"{s.symbol}: its last {s.refused_in_a_row} events were all rejected, see /rejects"
        for s in state.validator.symbols
        if s.market_open and s.refused_in_a_row >= REFUSED_ALARM
    ]
    for sink in state.sinks:
        if sink.state == "down":
            reasons.append(
                f"{sink.name} is down: {sink.behind_seconds:.0f} s behind with {sink.waiting_ticks} ticks waiting"
                f"{f'; {sink.last_error}' if sink.last_error else ''}"
            )
        reasons += [f"{sink.name}: {complaint}" for complaint in sink.complaints]
    if not state.retention.verified and _age_seconds(state) > START_SECONDS:
        reasons.append(f"three-day retention is unverified: {state.retention.detail}")
    reasons += [f"the {w.name} task is failing: {w.last_error}" for w in state.watchers if not w.running]
    if state.stopping:
        reasons.append("the collector is stopping")
    return Health(healthy=not reasons, reasons=tuple(reasons), notes=tuple(_notes(state)))


def _feed_reasons(state: State) -> list[str]:
    feed, validator = state.feed, state.validator
    open_symbols = {s.symbol: s.opened_ms for s in validator.symbols if s.opened_ms is not None}
    if feed.needs_operator:
        return [f"Polygon: {feed.last_error}"]
    if not open_symbols:
        return []
    if feed.state != "streaming":
        if _age_seconds(state) < START_SECONDS and feed.last_error is None:
            return [f"not streaming yet: {feed.state}"]
        return [
            f"not streaming ({feed.state}) though the market is open{f': {feed.last_error}' if feed.last_error else ''}"
        ]
    since = max(validator.last_accepted_ms or 0, feed.connected_since_ms or 0, min(open_symbols.values()))
    quiet = (state.at_ms - since) / 1000
    if quiet > STREAM_QUIET_SECONDS:
        return [f"connected, but no tick was accepted for {quiet:.0f} s though the market is open"]
    silent = [s for s in feed.silent if s in open_symbols]
    if silent:
        said = f"; Polygon said {feed.refusals[-1]!r}" if feed.refusals else ""
        return [f"no ticks for {', '.join(silent)} in market hours, after resubscribing and reconnecting{said}"]
    return []


def _drop_reasons(state: State) -> list[str]:
    reasons = []
    feed = state.feed
    if feed.last_dropped_ms is not None and state.at_ms - feed.last_dropped_ms < DROP_ALARM_MS:
        reasons.append(f"{feed.dropped_frames} frames were dropped unjudged, the last within ten minutes: overload")
    reasons += [
        f"{s.name} has lost {s.dropped} ticks, the last within ten minutes: its queue was full while it was away"
        for s in state.sinks
        if s.last_dropped_ms is not None and state.at_ms - s.last_dropped_ms < DROP_ALARM_MS
    ]
    reasons += [
        f"{s.name} has refused {s.set_aside} ticks, the last within ten minutes: see /rejects"
        for s in state.sinks
        if s.last_set_aside_ms is not None and state.at_ms - s.last_set_aside_ms < DROP_ALARM_MS
    ]
    return reasons


def _skew_reasons(state: State) -> list[str]:
    skew = state.validator.skew_ms
    if skew is None or abs(skew) <= SKEW_ALARM_MS:
        return []
    if not any(s.market_open for s in state.validator.symbols):
        return []  # as it was at the close: no evidence of now
    if skew > 0:
        return [f"ticks arrive {skew / 1000:.1f} s after their timestamps: the feed is slow or this clock is ahead"]
    return [f"ticks arrive {-skew / 1000:.1f} s before their timestamps: this machine's clock is behind"]


def _notes(state: State) -> list[str]:
    notes = []
    if not any(s.market_open for s in state.validator.symbols):
        notes.append("the market is closed: no ticks are expected")
    notes += [f"{s.name} is late: {s.behind_seconds:.1f} s behind" for s in state.sinks if s.state == "late"]
    notes += [f"{s.name} never got {s.dropped} ticks since the start" for s in state.sinks if s.dropped]
    notes += [f"{s.name} set {s.set_aside} ticks aside: see /rejects" for s in state.sinks if s.set_aside]
    return notes


def _age_seconds(state: State) -> float:
    return (state.at_ms - state.started_ms) / 1000
