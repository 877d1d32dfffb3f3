"""One entry of the gap ledger: what was not received, or did not reach a store, by symbol and time."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import attrs

Cause = Literal[
    "disconnect",
    "mute",
    "downtime",
    "overflow",
    "clock",
    "unjournaled",
    "manual",
    "given_up",
    "corrupt",
    "journal_tail_lost",
    "taken_over",
]
"""Not received: ``disconnect`` (the connection ended), ``mute`` (a symbol was silent in market hours), ``downtime`` (no
collector ran), ``overflow`` (no memory for a frame), ``clock`` (rejected for their time: this machine's clock was
wrong). To be looked at: ``unjournaled`` (the journal failed: what was accepted was in memory only), ``manual``
(somebody asked for it). Accepted, and not in one store: ``given_up`` (the journal's bound), ``corrupt`` (a batch of the
journal can't be read), ``journal_tail_lost`` (power was lost), ``taken_over`` (the store's cursor was another
journal's)."""
State = Literal["open", "filling", "filled", "empty", "unfillable"]

UNSETTLED: Final[tuple[State, ...]] = ("open", "filling")
SETTLED: Final[tuple[State, ...]] = ("filled", "empty", "unfillable")
EVERY_SYMBOL: Final = "*"


@attrs.frozen
class Gap:
    """An entry. Times are Unix milliseconds of Polygon's timestamps, both ends included."""

    id: int
    """Of the ledger that it is in; 0 until it is entered."""
    symbol: str
    """``*``: all of them."""
    cause: Cause
    from_ms: int
    to_ms: int | None
    """None while it lasts."""
    store: str | None = None
    """The one store that lacks what was accepted; None: Polygon's ticks were not received."""
    state: State = "open"
    detail: str = ""
    """Why, in words; for ``unfillable`` the reason."""
    first_seq: int | None = None
    """Where a store lacks ticks, the first and the last of them."""
    last_seq: int | None = None
    """Of a gap in the feed: the tick that ended it. Before the table has it, nothing can be matched."""
    ticks: int | None = None
    """How many are missing, as far as that is known."""
    filled: int = 0
    """How many were delivered since."""
    opened_ms: int = 0
    """When it was entered, the collector's clock."""
    changed: int = 0
    """Rises with each change in the ledger: who copies it knows from where to go on."""

    @property
    def missing(self) -> int | None:
        """How many are still missing, as far as that is known."""
        if self.state in {"filled", "empty"}:
            return 0
        return None if self.ticks is None else max(0, self.ticks - self.filled)


def of_store(store: str) -> tuple[State, str]:
    """How the entry of what this store lacks begins, and what mends it. The archive can't be mended from itself."""
    if store == "kafka":
        return "unfillable", (
            "the archive gets nothing a second time under its number: keep what the table has of it (three days); when "
            "the table has it no longer, polygon-live backfill fetches it from Polygon"
        )
    return "open", f"where the archive has it: polygon-live replay --into {store}"


def shown(gap: Gap) -> dict[str, Any]:
    """An entry as programs outside read it. Instants are ISO 8601, UTC."""
    return {
        "id": gap.id,
        "symbol": gap.symbol,
        "cause": gap.cause,
        "store": gap.store,
        "from": instant_text(gap.from_ms),
        "to": None if gap.to_ms is None else instant_text(gap.to_ms),
        "state": gap.state,
        "ticks": gap.ticks,
        "filled": gap.filled,
        "missing": gap.missing,
        "detail": gap.detail,
        "from_ms": gap.from_ms,
        "to_ms": gap.to_ms,
        "first_seq": gap.first_seq,
        "last_seq": gap.last_seq,
        "opened_ms": gap.opened_ms,
    }


def instant_text(at_ms: int) -> str:
    """Unix milliseconds as 2026-06-02T12:00:00.000Z."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
