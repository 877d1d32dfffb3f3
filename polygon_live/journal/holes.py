"""What was accepted once and can't be read from the journal any more: which ``seq``, why, and of what time."""

from collections.abc import Sequence
from typing import Final, Literal

import attrs

from polygon_live.gap import EVERY_SYMBOL, Gap, of_store

MOST_KNOWN: Final = 10_000
"""Removed and damaged files that are remembered one by one: more than a year of hours."""

HoleCause = Literal["given_up", "corrupt", "unjournaled"]
"""Some of ``gap.Cause``. ``given_up``: its file was removed, for its age or for the journal's bound."""


@attrs.frozen
class Hole:
    """A stretch of ``seq``, both ends included. Not every number in it need have been given to a tick."""

    first: int
    last: int
    cause: HoleCause
    ticks: int | None = None
    """How many, if that is known."""
    from_ms: int | None = None
    """The oldest of Polygon's timestamps in what it is a part of, if that is known; ``to_ms`` the newest."""
    to_ms: int | None = None

    @property
    def least(self) -> int:
        """How many ticks at least. Numbers jump from run to run, so they do not tell; but within one they don't, and
        what is ``unjournaled`` lies within one.
        """
        if self.ticks is not None:
            return self.ticks
        return self.last - self.first + 1 if self.cause == "unjournaled" else 1

    def part(self, first: int, last: int) -> "Hole | None":
        """What of it lies between these two."""
        first, last = max(first, self.first), min(last, self.last)
        if first > last:
            return None
        ticks = self.ticks if self.ticks is None else min(self.ticks, last - first + 1)
        return attrs.evolve(self, first=first, last=last, ticks=ticks)

    def gap(self, store: str, now_ms: int) -> Gap:
        """As an entry of the ledger: what this store lacks."""
        state, mend = of_store(store)
        return Gap(
            0,
            EVERY_SYMBOL,
            self.cause,
            now_ms if self.from_ms is None else self.from_ms,
            now_ms if self.to_ms is None else self.to_ms,
            store=store,
            state=state,
            detail=f"this store lacks what was accepted; {mend}",
            first_seq=self.first,
            last_seq=self.last,
            ticks=self.ticks,
            opened_ms=now_ms,
        )


def joined(holes: Sequence[Hole]) -> Hole:
    """One from several of one cause, in order."""
    ticks = [hole.ticks for hole in holes]
    starts = [hole.from_ms for hole in holes if hole.from_ms is not None]
    ends = [hole.to_ms for hole in holes if hole.to_ms is not None]
    return Hole(
        holes[0].first,
        holes[-1].last,
        holes[0].cause,
        None if None in ticks else sum(n for n in ticks if n is not None),
        min(starts, default=None),
        max(ends, default=None),
    )


def between(first: int, last: int, *, removed_to: int, known: Sequence[Hole]) -> list[Hole]:
    """What these numbers, which no row has, are: removed, in a damaged file, or never written.

    ``removed_to``: everything up to there was removed. ``known``: what is known of removed and damaged files, in order.
    """
    holes = []
    if first <= removed_to:
        end = min(last, removed_to)
        removed = [part for hole in known if hole.cause == "given_up" and (part := hole.part(first, end))]
        whole = joined(removed) if removed else Hole(first, end, "given_up")
        holes.append(attrs.evolve(whole, first=first, last=end))
        first = end + 1
    for hole in known:
        if hole.cause == "corrupt" and (part := hole.part(first, last)):
            if part.first > first:
                holes.append(Hole(first, part.first - 1, "unjournaled"))
            holes.append(part)
            first = part.last + 1
    if first <= last:
        holes.append(Hole(first, last, "unjournaled"))
    return holes
