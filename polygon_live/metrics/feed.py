"""Of the connection to Polygon, and of what came through it."""

from typing import Final, get_args

from polygon_live.health import silent_symbols
from polygon_live.metrics.family import Family, counter, counters, gauge, gauges, histogram, seconds
from polygon_live.status import Stage

STAGES: Final = get_args(Stage)

FEED: Final[tuple[Family, ...]] = (
    gauge(
        "market_open",
        "1 while the market of at least one collected symbol is open.",
        lambda s: int(any(symbol.market_open for symbol in s.validator.symbols)),
    ),
    gauge(
        "feed_streaming",
        "1 while logged in with acknowledged subscriptions.",
        lambda s: int(s.feed.state == "streaming"),
    ),
    gauge(
        "feed_needs_operator",
        "1 while Polygon refuses us for what waiting does not mend: key, plan, another instance.",
        lambda s: int(s.feed.needs_operator),
    ),
    gauge(
        "feed_connected_timestamp_seconds",
        "Since when the present connection streams; absent if it does not.",
        lambda s: seconds(s.feed.connected_since_ms),
    ),
    counter("feed_connections", "Connections that came to stream.", lambda s: s.feed.connections),
    counters(
        "feed_reconnects",
        "Connections and attempts that ended, each followed by another, by reason.",
        ("reason",),
        lambda s: [((reason,), count) for reason, count in s.feed.endings.items()],
    ),
    counter("feed_messages", "WebSocket messages received.", lambda s: s.feed.frames),
    counter("feed_characters", "Characters in them.", lambda s: s.feed.characters),
    counter("feed_messages_dropped", "Messages dropped unjudged for want of memory.", lambda s: s.feed.dropped_frames),
    gauge("feed_waiting_characters", "Received and not judged yet.", lambda s: s.feed.waiting_characters),
    gauge("feed_symbols_acknowledged", "Symbols that Polygon confirmed.", lambda s: len(s.feed.acknowledged)),
    gauge(
        "feed_symbols_silent",
        "Symbols given up as silent until they tick, though their market is open, as far as Polygon says too.",
        lambda s: len(silent_symbols(s)),
    ),
    gauges(
        "feed_symbols_quiet",
        "Symbols that are silent for longer than is usual while others tick, by what was done so far.",
        ("stage",),
        lambda s: [((stage,), list(s.feed.stages.values()).count(stage)) for stage in STAGES],
    ),
    gauge(
        "feed_left_quiet",
        "1 while nothing ticks in market hours, and Polygon says closed or can't be asked.",
        lambda s: int(s.feed.hush == "quiet"),
    ),
    gauge(
        "feed_symbols_added_silent",
        "Symbols that were added and have not ticked in their time.",
        lambda s: len(s.feed.added_silent),
    ),
    histogram(
        "feed_delay_seconds",
        "From Polygon's timestamp to the receipt, of accepted live ticks; less than nothing counts as 0.",
        lambda s: s.validator.delay,
    ),
    gauge(
        "clock_skew_seconds",
        "Median of receipt minus Polygon's timestamp over the last ticks; absent before the first.",
        lambda s: seconds(s.validator.skew_ms),
    ),
    # Requests
    gauge("request_rate_limit", "Requests to Polygon in one second, at most.", lambda s: s.limits.per_second),
    counter("requests", "Requests to Polygon: dials, logins, subscriptions, REST.", lambda s: s.limits.taken),
    gauge("requests_waiting", "Requests that wait for their turn.", lambda s: s.limits.waiting),
    counters(
        "rate_limit_violations",
        "What Polygon refused as too much, or not ours.",
        ("endpoint",),
        lambda s: [((endpoint,), count) for endpoint, count in s.limits.violations.items()],
    ),
    # Events and ticks
    counter(
        "events_received",
        "Events in the messages: accepted, rejected, ignored, and what Polygon says of the connection.",
        lambda s: s.validator.events,
    ),
    counters(
        "events_ignored",
        "Known events that are not collected.",
        ("kind",),
        lambda s: [((kind,), count) for kind, count in s.validator.ignored.items()],
    ),
    counter("ticks_accepted", "Ticks accepted, live or fetched.", lambda s: s.validator.accepted),
    gauge(
        "last_tick_received_timestamp_seconds",
        "When the last live tick was received; absent before the first.",
        lambda s: seconds(s.validator.last_accepted_ms),
    ),
    counters(
        "rejects",
        "Events and ticks refused, by stage and reason.",
        ("stage", "reason"),
        lambda s: [
            ((stage, reason), count) for stage, reasons in s.rejects.counts.items() for reason, count in reasons.items()
        ],
    ),
    counter("rejects_unkept", "Rejects that are counted and not in the table.", lambda s: s.rejects.unkept),
)
