"""What follows from the evidence for /health: a pure function of the state. The same evidence, the same answer."""

from typing import Final

import attrs

from polygon_live.compared import Difference
from polygon_live.habit import MUTE_SECONDS
from polygon_live.status import State, SymbolSnapshot

SKEW_ALARM_MS: Final = 5000.0
"""A feed this slow, or a clock this wrong, makes every price on the live subjects a stale one."""
STREAM_QUIET_SECONDS: Final = 60.0
"""With fourteen symbols and an open market something ticks every second."""
START_SECONDS: Final = 30.0
"""A collector that has just been started is given so long to begin streaming before it is called unhealthy."""
MOST_NAMED: Final = 5
"""Quiet symbols with a note of their own."""
REFUSED_ALARM: Final = 20
"""So many events of one symbol in a row can't be told from a symbol that does not stream."""
DROP_ALARM_MS: Final = 600_000

WARNED_SECONDS: Final = 3600.0
"""Within so long, at the present rate, the journal gives up what a store still needs, or a disk is full."""
EXACTLY_ONCE: Final = (
    "exactly once, in order, in TimescaleDB and (read committed) in Kafka, at least once on NATS, across crashes, "
    "outages and restarts"
)
AT_MOST_ONCE: Final = (
    "at most once: the journal fails, and ticks that a store has not taken yet are held in memory only"
)


@attrs.frozen
class Health:
    """The answer of /health: healthy, or not and why. ``notes`` are worth knowing and no reason to wake anybody."""

    healthy: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def health(state: State) -> Health:
    """Judge the evidence. Every sentence names what is wrong with what."""
    reasons = [*_feed_reasons(state), *_journal_reasons(state), *_drop_reasons(state), *_skew_reasons(state)]
    reasons += [
        f"{s.symbol}: its last {s.refused_in_a_row} events were all rejected, see /rejects"
        for s in state.validator.symbols
        if s.market_open and s.refused_in_a_row >= REFUSED_ALARM
    ]
    for sink in state.sinks:
        if sink.state == "down":
            reasons.append(
                f"{sink.name} is down: {sink.behind_seconds:.0f} s behind with {sink.waiting_ticks} ticks waiting"
                f"{f'; {sink.last_error}' if sink.failing else ''}"
            )
        reasons += [f"{sink.name}: {complaint}" for complaint in sink.complaints]
    if not state.retention.verified and _age_seconds(state) > START_SECONDS:
        reasons.append(f"three-day retention is unverified: {state.retention.detail}")
    reasons += [sentence for left, sentence in _filling(state) if left < WARNED_SECONDS]
    reasons += [_differs(d) for d in state.verification.differences if d.alarms(state.at_ms)]
    reasons += [f"the {w.name} task is failing: {w.last_error}" for w in state.watchers if not w.running]
    if state.stopping:
        reasons.append("the collector is stopping")
    return Health(healthy=not reasons, reasons=tuple(reasons), notes=tuple(_notes(state)))


def _feed_reasons(state: State) -> list[str]:
    feed, validator = state.feed, state.validator
    open_symbols = {s.symbol: s.opened_ms for s in validator.symbols if s.opened_ms is not None}
    if feed.needs_operator:
        return [f"Polygon: {feed.last_error}"]
    if not open_symbols or feed.state == "off":
        return []
    if feed.hush == "alarm":
        return [f"{_no_ticks(state)}, though the market is open, as Polygon says too, and after a new connection"]
    if feed.hush != "none":
        return []
    if feed.state != "streaming":
        if _age_seconds(state) < START_SECONDS and feed.last_error is None:
            return [f"not streaming yet: {feed.state}"]
        return [
            f"not streaming ({feed.state}) though the market is open{f': {feed.last_error}' if feed.last_error else ''}"
        ]
    opened_ms = min(open_symbols.values())
    since = max(validator.last_accepted_ms or 0, feed.connected_since_ms or 0, opened_ms)
    quiet, opened = ((state.at_ms - at) / 1000 for at in (since, opened_ms))
    if quiet > _patience(state) and opened > MUTE_SECONDS + STREAM_QUIET_SECONDS:
        return [f"connected, but no tick was accepted for {quiet:.0f} s though the market is open"]
    if silent := silent_symbols(state):
        said = f"; Polygon said {feed.refusals[-1]!r}" if feed.refusals else ""
        return [f"no ticks for {', '.join(silent)} in market hours, after resubscribing and reconnecting{said}"]
    return []


def silent_symbols(state: State) -> list[str]:
    """Those that were given up as silent though they should tick: their market is open, as far as Polygon says too."""
    if state.feed.market_said == "closed":
        return []
    open_symbols = {s.symbol for s in state.validator.symbols if s.market_open}
    return [symbol for symbol in state.feed.silent if symbol in open_symbols]


def _patience(state: State) -> float:
    """Seconds without an accepted tick that need no alarm: the feed's own search begins within them, if nothing comes
    at all, and that has its own words.
    """
    expected = [s.expected_seconds for s in state.validator.symbols if s.market_open]
    return STREAM_QUIET_SECONDS + min(MUTE_SECONDS / len(expected), *expected)


def _no_ticks(state: State) -> str:
    last_ms = state.validator.last_accepted_ms
    since_ms = state.started_ms if last_ms is None else last_ms
    return f"no ticks at all for {_long((state.at_ms - since_ms) / 1000)}"


def _silence_notes(state: State) -> list[str]:
    feed = state.feed
    symbols = [s for s in state.validator.symbols if s.market_open]
    if not symbols:
        return []
    if feed.hush == "odd":
        return [f"{_no_ticks(state)}, though the market should be open: a new connection is tried"]
    if feed.hush == "quiet":
        closed = feed.market_said == "closed"
        said = "Polygon says closed" if closed else f"Polygon can't be asked ({feed.market_said})"
        return [f"{_no_ticks(state)}: open by the calendar, and {said}: a holiday?"]
    if feed.hush == "alarm":
        return []
    quiet = [s for s in symbols if feed.stages.get(s.symbol, "silent") != "silent"]
    notes = [f"{s.symbol} is {silence(s, state.at_ms)}" for s in quiet[:MOST_NAMED]]
    if len(quiet) > MOST_NAMED:
        notes.append(f"{len(quiet) - MOST_NAMED} more symbols are unusually quiet: see /symbols")
    if feed.silent and feed.market_said == "closed":
        notes.append(
            f"no ticks for {', '.join(feed.silent)}: open by the calendar, and Polygon says closed: a holiday?"
        )
    return notes


def silence(symbol: SymbolSnapshot, at_ms: int) -> str:
    """For how long no tick of it was accepted, and what is usual."""
    lately = "" if symbol.usual_seconds is None else f", lately never for more than {symbol.usual_seconds:.0f} s"
    since_ms = max(symbol.last.received_ms if symbol.last else 0, symbol.opened_ms or 0)
    return f"silent for {_long((at_ms - since_ms) / 1000)}{lately}" if since_ms else "silent from the beginning"


def guarantee(state: State) -> str:
    """What is promised at this moment."""
    return AT_MOST_ONCE if state.journal.failing else EXACTLY_ONCE


def _journal_reasons(state: State) -> list[str]:
    journal = state.journal
    reasons = []
    if journal.failing:
        reasons.append(
            f"at most once: {journal.unjournaled_ticks} ticks went to the stores unjournaled; {journal.failing}"
        )
    if journal.last_given_up_ms is not None and state.at_ms - journal.last_given_up_ms < DROP_ALARM_MS:
        reasons.append(f"the journal was full and gave up {journal.given_up_ticks} ticks that a store still needed")
    reasons += [
        f"{sink.name} must be back within {sink.seconds_until_loss / 60:.0f} min: then the journal is full, and gives "
        "up what only this store still needs"
        for sink in state.sinks
        if sink.state == "down" and sink.seconds_until_loss is not None and sink.seconds_until_loss < WARNED_SECONDS
    ]
    return reasons


def _drop_reasons(state: State) -> list[str]:
    reasons = []
    feed = state.feed
    if feed.last_dropped_ms is not None and state.at_ms - feed.last_dropped_ms < DROP_ALARM_MS:
        reasons.append(f"{feed.dropped_frames} frames were dropped unjudged, the last within ten minutes: overload")
    reasons += [
        f"{s.name} lacks {s.lost} ticks that the journal could not give it, seen within ten minutes: see /gaps"
        for s in state.sinks
        if s.last_lost_ms is not None and state.at_ms - s.last_lost_ms < DROP_ALARM_MS
    ]
    reasons += [
        f"{s.name} has refused {s.set_aside} ticks, the last within ten minutes: see /quarantine"
        for s in state.sinks
        if s.last_set_aside_ms is not None and state.at_ms - s.last_set_aside_ms < DROP_ALARM_MS
    ]
    return reasons


def _filling(state: State) -> list[tuple[float, str]]:
    """Disks that will be full in so many seconds, and what to say of them."""
    disks = {
        f"the disk of the journal's folder {state.journal.folder}": state.journal.room,
        "the disk of the table (for what it holds and would drop: polygon-live retention)": state.retention.room,
    }
    return [
        (left, f"{disk} has {room.free_bytes / 2**20:.0f} MiB left, and is full in {_span(left)} at the present rate")
        for disk, room in disks.items()
        if (left := room.seconds_until_full) is not None and room.free_bytes is not None
    ]


def _span(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    return f"{seconds / 60:.0f} min" if seconds < 2 * WARNED_SECONDS else f"{seconds / 3600:.0f} h"


def _long(seconds: float) -> str:
    return f"{max(0.0, seconds):.0f} s" if seconds < 120 else _span(seconds)


def _skew_reasons(state: State) -> list[str]:
    skew = state.validator.skew_ms
    if skew is None or abs(skew) <= SKEW_ALARM_MS:
        return []
    if not any(s.market_open for s in state.validator.symbols) and not _quotes_come(state):
        return []  # as it was at the close: no evidence of now
    if skew > 0:
        return [f"ticks arrive {skew / 1000:.1f} s after their timestamps: the feed is slow or this clock is ahead"]
    return [f"ticks arrive {-skew / 1000:.1f} s before their timestamps: this machine's clock is behind"]


def _quotes_come(state: State) -> bool:
    """Whatever the calendar says: it goes by this machine's clock, which may be the one that is wrong."""
    last_ms = state.validator.last_quote_ms
    return last_ms is not None and 0 <= state.at_ms - last_ms < STREAM_QUIET_SECONDS * 1000


def _configuration_notes(state: State) -> list[str]:
    configuration, limits = state.configuration, state.limits
    hub, notes = configuration.hub, []
    if hub.last_error:
        notes.append(f"Central Hub: {hub.last_error}; in force: {hub.source}")
    if hub.last_refusal is not None:
        refusal = hub.last_refusal
        by = f" by {refusal.updated_by}" if refusal.updated_by else ""
        faults = "; ".join(refusal.faults)
        notes.append(f"the configuration that was posted{by} is refused, and what was in force stays: {faults}")
    if configuration.unheard and not hub.last_error:
        notes.append(f"the Hub's announcements can't be heard, changes take longer: {configuration.unheard}")
    if state.feed.added_silent:
        notes.append(f"added, and not a tick of it yet: {', '.join(state.feed.added_silent)}")
    if limits.last_violation_ms is not None and state.at_ms - limits.last_violation_ms < DROP_ALARM_MS:
        notes.append(f"Polygon refused something as too much, or not ours, within ten minutes: {limits.last_violation}")
    return notes


def _notes(state: State) -> list[str]:
    notes = _configuration_notes(state)
    if not any(s.market_open for s in state.validator.symbols) and not _skew_reasons(state):
        notes.append("the market is closed: no ticks are expected")
    notes += _silence_notes(state)
    if state.journal.damaged:
        notes.append(
            f"files of the journal were damaged and set aside: {', '.join(state.journal.damaged)}; what was in them is "
            "lost to who still needed it: see /gaps, then remove them"
        )
    journal, retention = state.journal, state.retention
    notes += [sentence for left, sentence in _filling(state) if left >= WARNED_SECONDS]
    grows = journal.most_bytes - journal.bytes
    if journal.room.free_bytes is not None and journal.room.free_bytes < grows:
        notes.append(
            f"the journal may grow by {grows / 2**20:.0f} MiB, and its disk has {journal.room.free_bytes / 2**20:.0f} "
            "MiB left: make room, or set POLYGON_LIVE_JOURNAL_MAX_BYTES lower"
        )
    if retention.verified and retention.failing:
        notes.append(f"the retention's last run failed, it tries again: {retention.last_failure}")
    notes += [_differs(d) for d in state.verification.differences if not d.alarms(state.at_ms)]
    notes += [f"{s.name} is late: {s.behind_seconds:.1f} s behind" for s in state.sinks if s.state == "late"]
    notes += [f"{s.name} lacks {s.lost} ticks since the start: see /gaps" for s in state.sinks if s.lost]
    notes += [f"{s.name} set {s.set_aside} ticks aside: see /quarantine" for s in state.sinks if s.set_aside]
    return notes


def _differs(found: Difference) -> str:
    return f"{found.sentence}; to mend it: {found.mend}"


def _age_seconds(state: State) -> float:
    return (state.at_ms - state.started_ms) / 1000
