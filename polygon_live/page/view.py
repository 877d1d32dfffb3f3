"""Everything on the page but the rows of symbols, in parts that are sent when they have changed."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import msgspec

from polygon_live.gap import Gap, shown
from polygon_live.health import guarantee, health
from polygon_live.model import Reject
from polygon_live.page.memory import History, Pace
from polygon_live.status import SinkSnapshot, State

MOST_REJECTS: Final = 10
MOST_RAW: Final = 400
"""Characters of a raw event: the whole of it is on /rejects."""
MOST_LISTED: Final = 20
"""Elements of a configured list."""
ABOUT: Final = ("version", "edition", "table", "mode", "stream", "topic", "partitions", "copies")
"""What is shown of a store besides its address: all of it is on /state."""
SELF_EVIDENT: Final = ("edition", "copies")

Ledger = Sequence[Gap] | str | None
"""The latest entries, why they can't be read, or not read yet."""


def parts(state: State, ledger: Ledger, history: History, rates: Pace) -> Mapping[str, Any]:
    """By name, what each part of the page shows. All of it is made of plain values."""
    verdict = health(state)
    return {
        "collector": {
            "name": state.collector,
            "version": state.version,
            "simulated": state.simulated,
            "started_ms": state.started_ms,
        },
        "verdict": {
            "healthy": verdict.healthy,
            "reasons": verdict.reasons,
            "notes": verdict.notes,
            "guarantee": guarantee(state),
        },
        "totals": {
            "accepted": state.validator.accepted,
            "per_second": round(rates.per_second("accepted"), 1),
            "skew_ms": None if state.validator.skew_ms is None else round(state.validator.skew_ms),
        },
        "stores": [_store(sink, rates) for sink in state.sinks],
        "feed": _feed(state, history),
        "gaps": _gaps(state, ledger),
        "rejects": _rejects(state),
        "journal": _journal(state),
        "configuration": _configuration(state),
    }


def _store(sink: SinkSnapshot, rates: Pace) -> dict[str, Any]:
    about = sink.about
    return {
        "name": sink.name,
        "state": sink.state,
        "connected": sink.connected,
        "behind_seconds": round(sink.behind_seconds, 1),
        "waiting": sink.waiting_ticks,
        "delivered": sink.delivered,
        "per_second": round(rates.per_second(sink.name), 1),
        "delays_ms": _delays(sink),
        "until_loss_seconds": None if sink.state == "good" else sink.seconds_until_loss,
        "expired": sink.expired,
        "set_aside": sink.set_aside,
        "lost": sink.lost,
        "retries": sink.retries,
        "error": sink.last_error,
        "error_ms": sink.last_error_ms,
        "needs_operator": sink.needs_operator,
        "server": about.get("address") or about.get("server"),
        "servers_known": about.get("servers_known"),
        "about": [_told(name, about[name]) for name in ABOUT if about.get(name) is not None],
        "complaints": sink.complaints,
    }


def _delays(sink: SinkSnapshot) -> list[float] | None:
    """From receipt to the store's word in the last minutes: the median, and what 95 and 99 of 100 ticks keep to."""
    found = [s for s in (sink.delay.p50, sink.delay.p95, sink.delay.p99) if s is not None]
    return [float(f"{seconds * 1000:.2g}") for seconds in found] or None


def _told(name: str, value: object) -> str:
    return str(value) if name in SELF_EVIDENT and isinstance(value, str) else f"{name} {value}"


def _feed(state: State, history: History) -> dict[str, Any]:
    feed = state.feed
    return {
        "state": feed.state,
        "address": feed.address,
        "since_ms": feed.connected_since_ms,
        "retry_at_ms": feed.retry_at_ms,
        "connections": feed.connections,
        "endings": feed.endings,
        "error": feed.last_error,
        "error_ms": feed.last_error_ms,
        "refusals": feed.refusals,
        "dropped_frames": feed.dropped_frames,
        "limits": attrs.asdict(state.limits),
        "history": [attrs.asdict(event) for event in history.events],
    }


def _gaps(state: State, ledger: Ledger) -> dict[str, Any]:
    filler = state.filler
    return {
        "lasting": len(state.gaps.lasting),
        "counts": state.gaps.counts,
        "filling": None if filler.gap is None else shown(filler.gap) | {"reached_ms": filler.reached_ms},
        "waiting": filler.waiting,
        "error": filler.last_error,
        "error_ms": filler.last_error_ms,
        "entries": None if isinstance(ledger, str) or ledger is None else [shown(gap) for gap in reversed(ledger)],
        "unreadable": ledger if isinstance(ledger, str) else None,
    }


def _rejects(state: State) -> dict[str, Any]:
    latest = list(state.rejects.latest[-MOST_REJECTS:])
    return {"counts": state.rejects.counts, "latest": [_reject(one) for one in reversed(latest)]}


def _reject(one: Reject) -> dict[str, Any]:
    raw = one.raw if len(one.raw) <= MOST_RAW else one.raw[:MOST_RAW] + " …"
    return {**msgspec.structs.asdict(one), "raw": raw}


def _journal(state: State) -> dict[str, Any]:
    journal, retention = state.journal, state.retention
    return {
        "bytes": journal.bytes,
        "most_bytes": journal.most_bytes,
        "oldest_ms": journal.oldest_ms,
        "failing": journal.failing,
        "room": attrs.asdict(journal.room),
        "verification": {"told": state.verification.told, "differs": bool(state.verification.differences)},
        "retention": {"verified": retention.verified, "detail": retention.detail},
        "table_bytes": retention.table_bytes,
        "table_room": attrs.asdict(retention.room),
    }


def _configuration(state: State) -> dict[str, Any]:
    configuration = state.configuration
    told = attrs.asdict(configuration)
    told["values"] = {
        name: {"value": _short(value), "origin": configuration.origins.get(name)}
        for name, value in configuration.values.items()
    }
    return told


def _short(value: object) -> str:
    if not isinstance(value, list | tuple):
        return str(value)
    more = f" and {len(value) - MOST_LISTED} more" if len(value) > MOST_LISTED else ""
    return f"{len(value)}: {', '.join(map(str, value[:MOST_LISTED]))}{more}"
