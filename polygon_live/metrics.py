"""/metrics: the same snapshots as /state, in Prometheus' words, made anew at each scrape.

Nothing is counted twice: the components own the tallies, this file only names them.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from polygon_live.health import health
from polygon_live.status import State

PREFIX = "polygon_live_"


def render(state: State) -> bytes:
    """The scrape's body, in the text format."""
    registry = CollectorRegistry()
    registry.register(_Snapshots(state))
    return generate_latest(registry)


class _Snapshots(Collector):
    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state
        yield _gauge(
            "build_info", "Always 1; the labels say what runs.", 1, version=state.version, collector=state.collector
        )
        yield _gauge("healthy", "1 if /health answers 200.", int(health(state).healthy))
        yield _gauge("simulated", "1 if the market is simulated.", int(state.simulated))
        yield _gauge("start_time_seconds", "Unix time of the start.", state.started_ms / 1000)
        yield from self._feed()
        yield from self._validator()
        yield from self._sinks()
        yield from self._journal()
        yield _gauge("retention_verified", "1 if three days are kept, as seen lately.", int(state.retention.verified))
        restarts = _counters("task_restarts", "Background tasks started anew after a fault.", "task")
        for watcher in state.watchers:
            restarts.add_metric([watcher.name], watcher.restarts)
        yield restarts

    def _feed(self) -> Iterator[Metric]:
        feed = self._state.feed
        yield _gauge(
            "feed_streaming", "1 while logged in with acknowledged subscriptions.", int(feed.state == "streaming")
        )
        yield _counter("feed_connections", "Connections that came to stream.", feed.connections)
        endings = _counters("feed_endings", "Connections and attempts that ended, by reason.", "reason")
        for reason, count in feed.endings.items():
            endings.add_metric([reason], count)
        yield endings
        yield _counter("feed_frames", "WebSocket messages received.", feed.frames)
        yield _counter("feed_characters", "Characters received in WebSocket messages.", feed.characters)
        yield _counter("feed_frames_dropped", "Messages dropped unjudged for want of memory.", feed.dropped_frames)
        yield _gauge("feed_symbols_acknowledged", "Symbols that Polygon confirmed.", len(feed.acknowledged))
        yield _gauge("feed_symbols_silent", "Symbols given up as silent until they tick.", len(feed.silent))

    def _validator(self) -> Iterator[Metric]:
        validator, rejects = self._state.validator, self._state.rejects
        accepted = _counters("ticks_accepted", "Ticks accepted, by symbol.", "symbol")
        late = _counters("ticks_late", "Accepted ticks older than the newest of their symbol.", "symbol")
        suspect = _counters("ticks_suspect", "Accepted ticks with an unusual jump.", "symbol")
        newest = GaugeMetricFamily(
            PREFIX + "last_tick_timestamp_seconds", "Polygon's time of the last tick.", labels=["symbol"]
        )
        for s in validator.symbols:
            accepted.add_metric([s.symbol], s.accepted)
            late.add_metric([s.symbol], s.late)
            suspect.add_metric([s.symbol], s.suspect)
            if s.last is not None:
                newest.add_metric([s.symbol], s.last.timestamp_ms / 1000)
        yield from (accepted, late, suspect, newest)
        refused = _counters("rejects", "Events and ticks refused, by stage and reason.", "stage", "reason")
        for stage, reasons in rejects.counts.items():
            for reason, count in reasons.items():
                refused.add_metric([stage, reason], count)
        yield refused
        yield _counter("rejects_unkept", "Rejects counted but not kept in the table.", rejects.unkept)
        if validator.skew_ms is not None:
            yield _gauge("skew_seconds", "Median of received minus Polygon's timestamp.", validator.skew_ms / 1000)

    def _journal(self) -> Iterator[Metric]:
        journal, gaps = self._state.journal, self._state.gaps
        yield _gauge("journal_bytes", "Size of the journal on disk.", journal.bytes)
        yield _gauge("journal_most_bytes", "Its bound.", journal.most_bytes)
        yield _gauge("journal_failing", "1 while ticks go on unjournaled.", int(journal.failing is not None))
        yield _counter("journal_given_up", "Ticks given up at the bound, once for each store.", journal.given_up_ticks)
        if journal.oldest_ms is not None:
            yield _gauge("journal_oldest_timestamp_seconds", "Time of its oldest tick.", journal.oldest_ms / 1000)
        entries = _gauges("gaps", "Entries of the gap ledger.", "cause", "state")
        for cause, states in gaps.counts.items():
            for name, count in states.items():
                entries.add_metric([cause, name], count)
        yield entries
        yield _gauge("gaps_lasting", "Symbols that nobody hears at this moment.", len(gaps.lasting))

    def _sinks(self) -> Iterator[Metric]:
        connected = _gauges("sink_connected", "1 while the store is connected.", "sink")
        behind = _gauges("sink_behind_seconds", "Age of the oldest tick the store has not acknowledged.", "sink")
        waiting = _gauges("sink_waiting_ticks", "Ticks accepted and not yet acknowledged by the store.", "sink")
        until_loss = _gauges(
            "sink_seconds_until_loss", "Until the journal gives up what the store lacks, at the present rate.", "sink"
        )
        complaints = _gauges("sink_complaints", "Standing faults of the store that somebody should mend.", "sink")
        counters = {
            "delivered": _counters("sink_delivered", "Ticks the store holds.", "sink"),
            "expired": _counters("sink_expired", "Ticks older than the store keeps.", "sink"),
            "set_aside": _counters("sink_set_aside", "Ticks the store refused for their content.", "sink"),
            "lost": _counters("sink_lost", "Ticks the store lacks and the journal could not give it.", "sink"),
            "fell_behind": _counters("sink_fell_behind", "Times the store lacked what it had had.", "sink"),
            "retries": _counters("sink_retries", "Writes tried again.", "sink"),
        }
        for sink in self._state.sinks:
            connected.add_metric([sink.name], int(sink.connected))
            behind.add_metric([sink.name], sink.behind_seconds)
            waiting.add_metric([sink.name], sink.waiting_ticks)
            if sink.seconds_until_loss is not None:
                until_loss.add_metric([sink.name], sink.seconds_until_loss)
            complaints.add_metric([sink.name], len(sink.complaints))
            for field, family in counters.items():
                family.add_metric([sink.name], getattr(sink, field))
        yield from (connected, behind, waiting, until_loss, complaints, *counters.values())


def _gauge(name: str, text: str, value: float, **labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(PREFIX + name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _gauges(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=list(labels))


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _counters(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, labels=list(labels))
