"""All tests in order, against the collector that runs or the one that these settings would start."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Final

import attrs

from polygon_live.asking import ask_state
from polygon_live.check import arrived, kept, running
from polygon_live.check.flow import Flow, Stores, look_on, newest_of
from polygon_live.check.items import Item, skipped
from polygon_live.check.login import ALIVE_SECONDS, login
from polygon_live.check.market import Market
from polygon_live.check.reload import reload
from polygon_live.config import Settings
from polygon_live.document import SYMBOLS
from polygon_live.engines.postgres import Looked, look_at
from polygon_live.errors import CollectorAway, CollectorError, JournalError, StoreError
from polygon_live.health import STREAM_QUIET_SECONDS
from polygon_live.inforce import ConfigurationSnapshot
from polygon_live.journal.lock import holder
from polygon_live.status import State

SPAN: Final = timedelta(hours=1)
"""Ticks of the last hour are counted."""

AtAStart = Callable[[Settings], Awaitable[ConfigurationSnapshot]]
Doing = Callable[[str], None]


@attrs.frozen
class Examination:
    """What was found. ``refused``: it was dialled, and Polygon said no."""

    at_ms: int
    collector: str
    items: tuple[Item, ...]
    refused: bool


@attrs.define
class _Evidence:
    """What is gathered before it is judged. A ``why`` is why the thing before it is not there."""

    before: State | None = None
    after: State | None = None
    away: bool = False
    no_state: str | None = None
    found: Looked | None = None
    no_table: str | None = None


async def examine(
    settings: Settings,
    *,
    seconds: float,
    dial: bool,
    now_ms: Callable[[], int],
    at_a_start: AtAStart,
    doing: Doing,
) -> Examination:
    """``seconds``: how long the flow is looked on. ``at_a_start`` tells the configuration where no collector runs, and
    ``doing`` is told what is being done.
    """
    evidence = _Evidence()
    doing("asking the collector")
    await _ask_before(settings, evidence)
    configuration = evidence.before.configuration if evidence.before else await at_a_start(settings)
    market = _market(configuration, evidence.before, now_ms())
    doing("looking at the table")
    await _look(settings, evidence)
    doing(f"looking on for {seconds:g} s")
    due = bool(market.open_for(STREAM_QUIET_SECONDS, now_ms()))
    flow = await _look_on(settings, evidence, seconds=seconds, due=due)
    doing("looking at the table")
    await _look(settings, evidence)
    await _ask_after(settings, evidence)
    doing("announcing")
    reloaded = await reload(settings.nats, evidence.after, partial(ask_state, settings.http))
    items = [*_judged(evidence, configuration, market, flow, now_ms()), reloaded]
    refused = False
    if dial:
        doing("dialling Polygon")
        alive, proven = _alive(settings, evidence), evidence.before is not None
        dialled = await login(settings.ws_urls, settings.api_key, alive, proven=proven)
        items.append(dialled.item)
        refused = dialled.refused
    return Examination(now_ms(), settings.collector_id, tuple(items), refused)


async def _ask_before(settings: Settings, evidence: _Evidence) -> None:
    try:
        evidence.before = await ask_state(settings.http)
    except CollectorError as why:
        evidence.no_state, evidence.away = str(why), isinstance(why, CollectorAway)
    if evidence.before is not None and evidence.before.collector != settings.collector_id:
        other = evidence.before.collector
        evidence.no_state = (
            f"what answers is the collector {other}, and POLYGON_LIVE_COLLECTOR_ID is {settings.collector_id}"
        )
        evidence.before = None


async def _ask_after(settings: Settings, evidence: _Evidence) -> None:
    if evidence.before is None:
        return
    try:
        evidence.after = await ask_state(settings.http)
    except CollectorError as why:
        evidence.no_state, evidence.away = f"it answered at first, but then: {why}", isinstance(why, CollectorAway)


async def _look(settings: Settings, evidence: _Evidence) -> None:
    try:
        evidence.found, evidence.no_table = (
            await look_at(settings.timescale_dsn, settings.collector_id, span=SPAN),
            None,
        )
    except StoreError as why:
        evidence.found, evidence.no_table = None, str(why)


async def _look_on(settings: Settings, evidence: _Evidence, *, seconds: float, due: bool) -> Flow:
    async def mark() -> int | None:
        """The last number that was given. Asked when NATS is listened to: what comes later is heard there."""
        if evidence.before is None:
            return None
        with suppress(CollectorError):
            evidence.before = await ask_state(settings.http)
            return newest_of(evidence.before)
        return None

    stores = Stores(settings.timescale_dsn, settings.nats, settings.kafka, settings.collector_id)
    return await look_on(stores, mark, seconds=seconds, due=due)


def _market(configuration: ConfigurationSnapshot, state: State | None, now_ms: int) -> Market:
    named = configuration.values[SYMBOLS]
    symbols: Sequence[str] = tuple(map(str, named)) if isinstance(named, list | tuple) else ()
    return Market.of_running(state, symbols) if state else Market.by_calendar(symbols, now_ms)


def _judged(
    evidence: _Evidence, configuration: ConfigurationSnapshot, market: Market, flow: Flow, now_ms: int
) -> list[Item]:
    state = evidence.after
    found, why = evidence.found, evidence.no_table
    if found is not None:
        kept_item = kept.retention(found, state)
    else:
        kept_item = skipped(kept.RETENTION, "the table could not be looked at")
    return [
        running.collector(state, evidence.no_state, away=evidence.away),
        arrived.table(found, why, market, now_ms),
        arrived.nats(flow, market, now_ms),
        arrived.kafka(flow, market, state, now_ms),
        arrived.symbols(found, why, market, now_ms),
        running.connection(evidence.before, state, market_open=bool(market.open_for(0, now_ms))),
        kept_item,
        running.limits(state),
        running.hub(state.configuration if state else configuration, running=state is not None),
    ]


def _alive(settings: Settings, evidence: _Evidence) -> str | None:
    """Why it is not dialled, if a collector may live."""
    if evidence.before is not None:
        return "a collector runs"
    if not evidence.away:
        return f"whether a collector runs is not known ({evidence.no_state})"
    try:
        held = holder(settings.journal_dir)
    except JournalError as why:
        return f"whether a collector runs is not known ({why})"
    if held is not None:
        return f"a collector has the journal in {settings.journal_dir}: {held}"
    if evidence.no_table is not None:
        return f"whether a collector runs elsewhere is not known, for the database does not tell ({evidence.no_table})"
    for mark in evidence.found.marks if evidence.found else ():
        if mark.seconds_ago < ALIVE_SECONDS:
            return f"the collector {mark.collector} on {mark.host} gave a sign of life {mark.seconds_ago:.0f} s ago"
    return None
