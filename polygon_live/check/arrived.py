"""What follows from what arrived in the stores. Pure."""

from typing import Final

from polygon_live.check.flow import Flow, Side
from polygon_live.check.items import Item, fails, holds, not_applicable, skipped
from polygon_live.check.market import Market
from polygon_live.engines.kafka import TOPIC
from polygon_live.engines.postgres import Looked
from polygon_live.gap import instant_text
from polygon_live.habit import MUTE_SECONDS
from polygon_live.health import STREAM_QUIET_SECONDS
from polygon_live.status import State

TABLE: Final = "ticks flow into market_ticks"
NATS: Final = "NATS publishing"
KAFKA: Final = "Kafka archiving"
SYMBOLS: Final = "all symbols active"
SHOWN: Final = 20
"""Symbols that are named; of more, how many there are."""
CLOSED: Final = "the market is closed, no ticks are due"
_DATABASE: Final = "check that the database runs, and POLYGON_LIVE_TIMESCALE_DSN"
_NATS: Final = "check the cluster's health and POLYGON_LIVE_NATS_URLS; try nats sub 'ticks.*'"
_KAFKA: Final = "check the brokers and POLYGON_LIVE_KAFKA_BROKERS; try kafka-console-consumer on tick_archive"


def table(found: Looked | None, why: str | None, market: Market, now_ms: int) -> Item:
    """Something is there that is as young as it must be while a market is open."""
    if why is not None:
        return fails(TABLE, why, _DATABASE)
    if found is None:
        return fails(TABLE, "there is no table market_ticks", "start the collector, which makes it")
    count = sum(row.ticks for row in found.symbols)
    newest = max((row.newest_ms for row in found.symbols), default=None)
    facts = {
        "last_hour": {row.symbol: {"ticks": row.ticks, "newest_ms": row.newest_ms} for row in found.symbols},
        "newest_ms": newest,
    }
    told = f"{count} ticks of {len(found.symbols)} symbols in the last hour"
    if newest is not None:
        told += f", the newest of {instant_text(newest)}, {(now_ms - newest) / 1000:.1f} s old"
    if not market.open_for(STREAM_QUIET_SECONDS, now_ms):
        return not_applicable(TABLE, f"{CLOSED}; {told}", **facts)
    if newest is None or now_ms - newest > STREAM_QUIET_SECONDS * 1000:
        todo = "look for 'Connected to Polygon.io' in the collector's log, and at timescale in polygon-live state"
        return fails(TABLE, f"nothing of the last minute, though the market is open; {told}", todo, **facts)
    return holds(TABLE, told, **facts)


def symbols(found: Looked | None, why: str | None, market: Market, now_ms: int) -> Item:
    """Each that is collected has ticks in the table, as its market's hours let expect."""
    if why is not None or found is None:
        return skipped(SYMBOLS, "the table could not be read")
    newest = {row.symbol: row.newest_ms for row in found.symbols}
    if market.all_pairs:
        if not market.open_for(MUTE_SECONDS, now_ms):
            return not_applicable(SYMBOLS, CLOSED)
        fresh = [s for s, at in newest.items() if now_ms - at <= MUTE_SECONDS * 1000]
        told = f"all pairs are collected, and {len(fresh)} had ticks in the last {MUTE_SECONDS / 60:g} min"
        return holds(SYMBOLS, told) if fresh else fails(SYMBOLS, told, "see connection and table")
    due = market.open_for(MUTE_SECONDS, now_ms)
    quiet = [s for s in due if now_ms - newest.get(s, 0) > market.due_after(s) * 1000]
    rest = len(market.opened) - len(due)
    others = f"; of {rest} no ticks are due: {_some(market.closed)} closed" if market.closed else ""
    others = others or (f"; {rest} opened just now" if rest else "")
    facts = {"due": due, "missing": quiet, "closed": market.closed}
    if not due:
        return not_applicable(SYMBOLS, f"{CLOSED}{others}", **facts)
    told = f"{len(due) - len(quiet)} of {len(due)} had ticks in the time in which each is due{others}"
    if not quiet:
        return holds(SYMBOLS, told, **facts)
    ages = [f"{s} ({_age(newest.get(s), now_ms)}, due within {market.due_after(s):.0f} s)" for s in quiet[:SHOWN]]
    more = f" and {len(quiet) - SHOWN} more" if len(quiet) > SHOWN else ""
    todo = (
        "see that it is spelt right in symbols (polygon-live config show), that the key's plan has it, and whether it "
        "is traded now; fill what is missing with polygon-live backfill"
    )
    return fails(SYMBOLS, f"missing: {', '.join(ages)}{more}; {told}", todo, **facts)


def nats(flow: Flow, market: Market, now_ms: int) -> Item:
    """Whoever listens hears what the table gets."""
    heard = _new(flow.nats, flow.since)
    late = f", {flow.nats.late} of them under ticks.SYMBOL.late" if flow.nats.late else ""
    return _delivered(NATS, flow, flow.nats, market, now_ms, f"a subscriber of ticks.> heard {heard}{late}", _NATS)


def kafka(flow: Flow, market: Market, state: State | None, now_ms: int) -> Item:
    """The archive, read as committed readers do, has what the table got; and is kept as an archive must be."""
    read = _new(flow.kafka, flow.since)
    newest = max((row.timestamp_ms for row in flow.kafka.rows.values()), default=None)
    last = f", the newest of {instant_text(newest)}" if newest is not None else ""
    complaints = [c for s in state.sinks if s.name == "kafka" for c in s.complaints] if state else []
    item = _delivered(KAFKA, flow, flow.kafka, market, now_ms, f"{TOPIC} has {read}, committed{last}", _KAFKA)
    if complaints and item.status != "fails":
        return fails(KAFKA, f"{'; '.join(complaints)}; {item.evidence}", "mend the topic, or agree to what is said")
    return item


def _delivered(name: str, flow: Flow, side: Side, market: Market, now_ms: int, told: str, todo: str) -> Item:
    rows = flow.table.rows
    facts = {"seconds": round(flow.seconds, 1), "seen": _new(side, flow.since), "in_table": len(rows)}
    told = f"{told} in {flow.seconds:.0f} s"
    if side.why is not None:
        return fails(name, f"{side.why}; {told}", todo, **facts)
    if lacking := side.lacks(rows):
        numbers = f"the first of them seq {lacking[0]}, {rows[lacking[0]].symbol}"
        return fails(
            name,
            f"{len(lacking)} of {len(rows)} ticks that the table got did not come: {numbers}; {told}",
            f"see its part of polygon-live state; {todo}",
            **facts,
        )
    if rows:
        return holds(name, f"{told}, among them all {len(rows)} that the table got", **facts)
    if _new(side, flow.since):
        return holds(name, f"{told}; the table gave nothing to compare with", **facts)
    if not market.open_for(STREAM_QUIET_SECONDS, now_ms):
        return not_applicable(name, f"it answers; {CLOSED}", **facts)
    if flow.since is None:
        return skipped(name, f"it answers, but no collector was asked, and nothing came in {flow.seconds:.0f} s")
    return fails(name, f"nothing came in {flow.seconds:.0f} s, and the table got nothing either", "see connection")


def _new(side: Side, since: int | None) -> int:
    return sum(seq > (since or 0) for seq in side.rows)


def _age(newest_ms: int | None, now_ms: int) -> str:
    return "none in the last hour" if newest_ms is None else f"the last one {(now_ms - newest_ms) / 1000:.0f} s ago"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more are" if len(names) > SHOWN else " is" if len(names) == 1 else " are"
    return ", ".join(names[:SHOWN]) + more
