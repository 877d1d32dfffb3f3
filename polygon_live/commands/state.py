"""``polygon-live state``: ``/state`` as tables."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import click
import trio

from polygon_live import logs
from polygon_live.asking import address_of, ask, state_from
from polygon_live.commands.tables import say, show
from polygon_live.commands.times import instant
from polygon_live.config import settings_from
from polygon_live.errors import CollectorError
from polygon_live.health import guarantee, health
from polygon_live.model import encode
from polygon_live.status import SinkSnapshot, State, SymbolSnapshot

LOUD: Final = "bold red"


@click.command(epilog="Exit codes: 0 it answered, 1 it did not, 2 usage, 78 the configuration can't be used.")
@click.option("--json", "as_json", is_flag=True, help="The page as it is.")
def state(*, as_json: bool) -> None:
    """Print what the running collector knows of itself: health, connection, stores, symbols, gaps, configuration.

    It is asked at POLYGON_LIVE_HTTP_HOST and _HTTP_PORT, with POLYGON_LIVE_HTTP_TOKEN if that is set.
    """
    settings = settings_from(os.environ, needed=())
    logs.configure("error", settings.log_format, settings.secrets())
    try:
        answer = trio.run(ask, settings.http, "/state", "validator")
        if as_json:
            click.echo(encode(answer))
            return
        found = state_from(answer, address_of(settings.http))
    except CollectorError as why:
        raise click.ClickException(str(why)) from None
    for line, style in _lines(found):
        say(line, style)
    say("")
    show(("STORE", "STATE", "BEHIND", "WAITING", "DELIVERED", "SEQ", "LAST ERROR"), [_store(s) for s in found.sinks])
    show(
        ("SYMBOL", "MARKET", "BID", "ASK", "SPREAD", "AGE", "TICKS", "REJECTED", "LATE", "SUSPECT"),
        [_symbol(s, found.at_ms) for s in sorted(found.validator.symbols, key=lambda s: s.symbol)],
    )
    show(
        ("GAPS BY CAUSE", "ENTRIES"),
        [(cause, _counted(states)) for cause, states in found.gaps.counts.items()],
    )
    show(
        ("REJECTED BY", "EVENTS"),
        [(stage, _counted(reasons)) for stage, reasons in found.rejects.counts.items()],
    )


def _lines(found: State) -> Iterator[tuple[str, str]]:
    simulated = ", SIMULATED" if found.simulated else ""
    since = spelled_span(found.at_ms - found.started_ms)
    at = f"at {instant(found.at_ms)} UTC, running for {since}"
    yield f"{found.collector}, version {found.version}{simulated}, {at}", "bold"
    verdict = health(found)
    yield ("healthy", "bold green") if verdict.healthy else ("UNHEALTHY", LOUD)
    yield from ((f"  - {reason}", "red") for reason in verdict.reasons)
    yield from ((f"  note: {note}", "yellow") for note in verdict.notes)
    yield f"promised: {guarantee(found)}", ""
    yield from ((line, "") for line in (*_feed(found), *_disk(found), *_settings(found)))
    for watcher in found.watchers:
        if not watcher.running:
            yield f"task {watcher.name} is failing ({watcher.restarts} restarts): {watcher.last_error}", LOUD


def _feed(found: State) -> Iterator[str]:
    feed = found.feed
    since = f" for {spelled_span(found.at_ms - feed.connected_since_ms)}" if feed.connected_since_ms is not None else ""
    at = f", {feed.address}" if feed.address else ""
    yield f"Polygon: {feed.state}{since}{at}; {len(feed.acknowledged)} topics, connected {feed.connections} times"
    if feed.endings:
        last = f"; the last at {instant(feed.last_error_ms)}: {feed.last_error}" if feed.last_error_ms else ""
        yield f"  ended: {_counted(feed.endings)}{last}"
    limits = found.limits
    violations = f"; violations: {_counted(limits.violations)}" if limits.violations else ", no violations"
    yield f"rate: {limits.taken} turns taken at {limits.per_second:g} a second, {limits.waiting} waiting{violations}"
    skew = "" if found.validator.skew_ms is None else f", {found.validator.skew_ms:.0f} ms after their timestamps"
    yield f"accepted: {found.validator.accepted:,} ticks{skew}"


def _disk(found: State) -> Iterator[str]:
    journal = found.journal
    size = f"{journal.bytes / 2**20:.1f} of {journal.most_bytes / 2**20:.0f} MiB"
    yield f"journal: {size} in {journal.folder}{f'; FAILING: {journal.failing}' if journal.failing else ''}"
    yield f"retention: {'' if found.retention.verified else 'UNVERIFIED: '}{found.retention.detail}"
    yield f"stores: {found.verification.told}"
    filler = found.filler
    if filler.gap is not None:
        yield f"filling: {filler.gap.symbol} from {instant(filler.gap.from_ms)} ({filler.gap.cause})"
    if filler.waiting is not None:
        yield f"filling waits: {filler.waiting}"


def _settings(found: State) -> Iterator[str]:
    now = found.configuration
    version = f", version {now.hub.version}" if now.hub.version else ""
    by = f", posted by {now.hub.updated_by}" if now.hub.updated_by else ""
    since = f"generation {now.generation}, in force since {instant(now.since_ms)}"
    yield f"configuration: {now.digest} from {now.hub.source}{version}{by}; {since} (see polygon-live config show)"


def _store(sink: SinkSnapshot) -> Sequence[str]:
    state = sink.state if sink.connected else f"{sink.state}, not connected"
    error = f"{instant(sink.last_error_ms)}: {sink.last_error}" if sink.last_error_ms else ""
    numbers = (f"{sink.behind_seconds:.1f} s", f"{sink.waiting_ticks:,}", f"{sink.delivered:,}", str(sink.cursor))
    return (sink.name, state, *numbers, "; ".join((*sink.complaints, error) if error else sink.complaints))


def _symbol(one: SymbolSnapshot, at_ms: int) -> Sequence[str]:
    market = "open" if one.market_open else "closed"
    last = one.last
    price = (
        ("", "", "", "")
        if last is None
        else (
            f"{last.bid:.10g}",
            f"{last.ask:.10g}",
            f"{last.spread:.6g}",
            spelled_span(at_ms - last.timestamp_ms),
        )
    )
    return (one.symbol, market, *price, *(f"{n:,}" for n in (one.accepted, one.rejected, one.late, one.suspect)))


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def spelled_span(ms: int) -> str:
    """In the two largest units."""
    seconds = max(0, ms) / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = divmod(int(seconds), 60), divmod(int(seconds) // 60, 60)
    if seconds < 3600:
        return f"{minutes[0]} min {minutes[1]} s"
    return f"{hours[0]} h {hours[1]} min" if hours[0] < 48 else f"{hours[0] // 24} d {hours[0] % 24} h"
