"""Which gaps of one store a replay closes, and what it found for each. Plain logic: the ledger is read and written by
who asks.
"""

from collections.abc import Iterable, Sequence

import attrs

from polygon_live.gap import EVERY_SYMBOL, Gap
from polygon_live.model import Tick


class Mending:
    """The open gaps of a store inside a span that is replayed for all symbols."""

    def __init__(self, gaps: Iterable[Gap], *, store: str, from_ms: int, to_ms: int) -> None:
        """``to_ms`` is not part of the span."""
        self._found = {
            gap: 0
            for gap in gaps
            if gap.store == store
            and gap.state == "open"
            and gap.to_ms is not None
            and from_ms <= gap.from_ms
            and gap.to_ms < to_ms
        }

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._found)

    def see(self, ticks: Sequence[Tick]) -> None:
        """Of the collector whose ledger it is; the store has them now, or will have them at the end."""
        for gap in self._found:
            self._found[gap] += sum(_lacks(gap, tick) for tick in ticks)

    def results(self, archive_cursor: int | None) -> list[Gap]:
        """The gaps as they are after a complete replay. ``archive_cursor``: up to this ``seq`` the archive had all."""
        return [_after(gap, found, archive_cursor) for gap, found in self._found.items()]


def _lacks(gap: Gap, tick: Tick) -> bool:
    if gap.symbol not in {tick.symbol, EVERY_SYMBOL}:
        return False
    if gap.first_seq is not None and gap.last_seq is not None:
        return gap.first_seq <= tick.seq <= gap.last_seq
    return gap.to_ms is not None and gap.from_ms <= tick.timestamp_ms <= gap.to_ms


def _after(gap: Gap, found: int, archive_cursor: int | None) -> Gap:
    if gap.ticks is None:
        whole = gap.last_seq is None or (archive_cursor is not None and gap.last_seq <= archive_cursor)
        lacking = "the archive does not reach its end yet"
    else:
        whole = found >= gap.ticks
        lacking = f"the archive has {found} of its {gap.ticks} ticks"
    filled = max(gap.filled, found)
    if whole:
        return attrs.evolve(gap, state="filled", filled=filled)
    return attrs.evolve(gap, filled=filled, detail=f"{gap.detail}; replayed, but {lacking}".removeprefix("; "))
