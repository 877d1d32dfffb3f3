"""Whether the table keeps three days, judged by what is on the engine. Pure."""

from datetime import UTC
from typing import Final

from polygon_live.check.items import Item, fails, holds
from polygon_live.engines.postgres import BOUND, KEPT, Looked, Pieces
from polygon_live.status import State

RETENTION: Final = "three-day retention"
_START: Final = "start the collector, and see what it says of retention"
_SEE: Final = (
    "see the collector's log for 'retention', and retention in /state; it runs at each half and full hour, and a "
    "minute after a failure; polygon-live retention --now drops what is past at once"
)


def retention(found: Looked, state: State | None) -> Item:
    """Somebody drops what is past, nothing is older than the bound, and each piece is an hour."""
    pieces = found.pieces
    oldest = pieces.oldest_row
    facts = {
        "edition": pieces.edition,
        pieces.called: pieces.count,
        "oldest_row": oldest.isoformat() if oldest else None,
        "policy": pieces.policy.name if pieces.policy else None,
    }
    age = f"the oldest row {(found.clock - oldest).total_seconds() / 3600:.1f} h old" if oldest else "no row"
    who, faults = _who_drops(found, state)
    told = f"{pieces.edition}: {pieces.count} {pieces.called}, {age}; {who}"
    if oldest is not None and found.clock - oldest > BOUND:
        faults.append(f"its oldest row is of {oldest.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {_hours(found, pieces)}")
    elif pieces.past:
        faults.append(f"{', '.join(pieces.past)} should be gone")
    if pieces.too_long:
        faults.append(f"an hour is what a piece should hold, and there are longer ones: {', '.join(pieces.too_long)}")
    if not pieces.covered:
        faults.append("ticks of the next hour have no partition to go to")
    if not faults:
        return holds(RETENTION, told, **facts)
    return fails(RETENTION, f"{'; '.join(faults)}; {told}", _SEE if state else _START, **facts)


def _hours(found: Looked, pieces: Pieces) -> str:
    assert pieces.oldest_row is not None  # noqa: S101  # who asks has looked
    return (
        f"{(found.clock - pieces.oldest_row).total_seconds() / 3600:.0f} h old, over {BOUND.total_seconds() / 3600:g} h"
    )


def _who_drops(found: Looked, state: State | None) -> tuple[str, list[str]]:
    """In words; and what is wrong with it."""
    pieces, policy = found.pieces, found.pieces.policy
    by_us, faults = _by_us(state)
    if not pieces.has_policies:
        return f"the collector drops: {by_us}", faults
    if policy is None:
        return f"no policy; the collector: {by_us}", [
            "the table has no retention policy, which this edition could have"
        ]
    told = f"{policy.name} drops after {policy.after.total_seconds() / 3600:g} h, every {policy.every}"
    if policy.after > KEPT:
        return told, [policy.keeps_longer(found.table)]
    if not policy.right:
        paused = "" if policy.scheduled else ", and it is paused"
        return told, [f"the policy is not what it should be (after 72 h, every 15 min at most){paused}"]
    if not policy.runs:
        return f"{told}; {policy.silence}; the collector: {by_us}", faults
    last = f", last run {policy.last_run.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if policy.last_run else ""
    return told + last, []


def _by_us(state: State | None) -> tuple[str, list[str]]:
    if state is None:
        return "none was asked", ["nobody is known to drop what is past: no collector was asked"]
    if not state.retention.verified:
        return state.retention.detail, ["the collector has not verified it"]
    return state.retention.detail, []
