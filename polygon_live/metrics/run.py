"""Of the run itself: health, tasks, configuration, journal, gaps, retention."""

import platform
from typing import Final

from polygon_live.health import health
from polygon_live.metrics.family import Family, counter, counters, gauge, gauges, seconds
from polygon_live.room import RoomSnapshot
from polygon_live.status import State

RUN: Final[tuple[Family, ...]] = (
    gauges(
        "build_info",
        "Always 1; the labels say what runs.",
        ("version", "python", "collector"),
        lambda s: [((s.version, platform.python_version(), s.collector), 1)],
    ),
    gauge("healthy", "1 if `/health` answers 200.", lambda s: int(health(s).healthy)),
    gauge("simulated", "1 if the market is simulated.", lambda s: int(s.simulated)),
    gauge("stopping", "1 from the request to stop on.", lambda s: int(s.stopping)),
    gauge("start_time_seconds", "Unix time of the start.", lambda s: seconds(s.started_ms)),
    counters(
        "task_restarts",
        "Background tasks started anew after a fault.",
        ("task",),
        lambda s: [((w.name,), w.restarts) for w in s.watchers],
    ),
    gauges(
        "task_running",
        "1 while the background task runs, 0 while it waits for a new start.",
        ("task",),
        lambda s: [((w.name,), int(w.running)) for w in s.watchers],
    ),
    # The configuration
    gauge("configuration_generation", "Configurations in force in this run.", lambda s: s.configuration.generation),
    gauges(
        "configuration_info",
        "Always 1; which is in force, and where it is from.",
        ("digest", "source"),
        lambda s: [((s.configuration.digest, s.configuration.hub.source), 1)],
    ),
    gauge(
        "configuration_change_timestamp_seconds",
        "Since when it is in force.",
        lambda s: seconds(s.configuration.since_ms),
    ),
    counter("configuration_refused", "Configurations that were not taken.", lambda s: s.configuration.hub.refused),
    gauge(
        "configuration_refusal_standing",
        "1 while the newest configuration is one that was not taken.",
        lambda s: int(s.configuration.hub.last_refusal is not None),
    ),
    counter("hub_fetches", "Times that Central Hub was asked.", lambda s: s.configuration.hub.fetches),
    counter("hub_failures", "Times that Central Hub gave no configuration.", lambda s: s.configuration.hub.failures),
    gauge(
        "hub_answered_timestamp_seconds",
        "When Central Hub last answered; absent if it never did.",
        lambda s: seconds(s.configuration.hub.fetched_ms),
    ),
    # The journal
    gauge("journal_bytes", "Size of the journal on disk.", lambda s: s.journal.bytes),
    gauge("journal_limit_bytes", "At this size it gives up the oldest.", lambda s: s.journal.most_bytes),
    gauge("journal_failing", "1 while ticks go on unjournaled.", lambda s: int(s.journal.failing is not None)),
    gauge(
        "journal_unjournaled_ticks",
        "Ticks that went on unjournaled in the present failure.",
        lambda s: s.journal.unjournaled_ticks,
    ),
    counter(
        "journal_given_up_ticks",
        "Ticks given up at the limit, once for each store.",
        lambda s: s.journal.given_up_ticks,
    ),
    gauge(
        "journal_oldest_timestamp_seconds",
        "When its oldest batch was written; absent if it is empty.",
        lambda s: seconds(s.journal.oldest_ms),
    ),
    gauge(
        "journal_damaged_files",
        "Files found damaged at a start, set aside and still there.",
        lambda s: len(s.journal.damaged),
    ),
    gauge("journal_unwritten_gaps", "Entries that the ledger could not take yet.", lambda s: s.journal.unwritten_gaps),
    # What was not received
    gauges(
        "gaps",
        "Entries of the gap ledger.",
        ("cause", "state"),
        lambda s: [((cause, name), n) for cause, states in s.gaps.counts.items() for name, n in states.items()],
    ),
    gauge("gaps_lasting", "Symbols that nobody hears at this moment.", lambda s: len(s.gaps.lasting)),
    gauge(
        "gaps_unsettled_timestamp_seconds",
        "When the oldest entry that is neither filled nor given up had ended and was made; absent if there is none.",
        lambda s: seconds(s.gaps.unsettled_since_ms),
    ),
    counters(
        "filler_ended",
        "Entries that the filler ended, by how.",
        ("outcome",),
        lambda s: [((outcome,), n) for outcome, n in s.filler.ended.items()],
    ),
    gauge("filler_retrying", "Entries that it will try again.", lambda s: s.filler.retrying),
    counter("filler_ticks_delivered", "Ticks that it fetched and the stores had not.", lambda s: s.filler.delivered),
    counter("filler_ticks_rejected", "Quotes that it fetched and that were no good.", lambda s: s.filler.rejected),
    # The three days
    gauge("retention_verified", "1 if three days are kept, as seen lately.", lambda s: int(s.retention.verified)),
    counter(
        "retention_failures", "Runs of the retention that failed or left something.", lambda s: s.retention.failures
    ),
    gauge(
        "retention_run_timestamp_seconds",
        "When it last ran; absent if never.",
        lambda s: seconds(s.retention.last_run_ms),
    ),
    gauge(
        "table_oldest_row_timestamp_seconds",
        "When the oldest row's tick was; absent if there is none.",
        lambda s: seconds(s.retention.oldest_row_ms),
    ),
    gauge("table_bytes", "Size of the table with its indexes; absent if unknown.", lambda s: s.retention.table_bytes),
    # The disks
    gauges(
        "disk_free_bytes",
        "Free space where it can be seen, by what the disk holds.",
        ("holds",),
        lambda s: [((holds,), room.free_bytes) for holds, room in _rooms(s)],
    ),
    gauges(
        "disk_until_full_seconds",
        "Until it is full at the present rate; absent if that is not in sight.",
        ("holds",),
        lambda s: [((holds,), room.seconds_until_full) for holds, room in _rooms(s)],
    ),
    gauge(
        "retention_verified_timestamp_seconds",
        "When that was last seen; absent if never.",
        lambda s: seconds(_verified_ms(s)),
    ),
)


def _rooms(state: State) -> list[tuple[str, RoomSnapshot]]:
    return [("journal", state.journal.room), ("table", state.retention.room)]


def _verified_ms(state: State) -> float | None:
    at_ms = state.retention.about.get("verified_ms")
    return at_ms if isinstance(at_ms, int | float) else None
