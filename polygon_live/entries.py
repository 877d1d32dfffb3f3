"""The ledger as the pipeline meets it: what can't be written now is written as soon as it can, and once.

A write may fail, or take so long that nobody waits for it any more and be done all the same. So whoever writes looks
first at what was written behind his back; and a gap that ends is found again though its id never came back.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from polygon_live.calling import Call
from polygon_live.errors import JournalError
from polygon_live.gap import EVERY_SYMBOL, Cause, Gap, State
from polygon_live.journal import Aside, Hole, Ledger
from polygon_live.model import Reject

PATIENCE_SECONDS: Final = 2.0
MOST_UNKEPT: Final = 10_000
"""Ticks for the quarantine that wait in memory for a ledger that can't be written."""

log = structlog.get_logger()


class Entries:
    """``unwritten`` and ``unkept`` are the gaps and the ticks set aside that the ledger could not take yet."""

    def __init__(self, ledger: Ledger, call: Call, wall_ms: Callable[[], int]) -> None:
        self._ledger = ledger
        self._call = call
        self._wall_ms = wall_ms
        self.unwritten: tuple[Gap, ...] = ()
        self.unkept: deque[Aside] = deque(maxlen=MOST_UNKEPT)
        self._done: dict[Gap, Gap] = {}
        """Of what was unwritten a moment ago: as it is in the ledger. Touched by the journal's thread only."""
        self._lasting: dict[tuple[str, str, int], int] = {}
        """The ids of entries that last, by what does not change when they end. Touched by the journal's thread only."""
        self.counts: Mapping[tuple[Cause, State], int] = ledger.gap_counts()
        """As of a moment ago; so are the next two."""
        self.unsettled_since_ms = ledger.unsettled_since_ms()
        self.set_aside_counts: Mapping[str, int] = ledger.set_aside_counts()

    async def note(self, gaps: Sequence[Gap]) -> Sequence[Gap]:
        """Enter these, or change those that have an id; as they are then. What can't be written is kept and tried
        again, and comes back as it was.
        """
        newer = {gap.symbol for gap in gaps if gap.store is None}
        self.unwritten = (*(g for g in self.unwritten if g.to_ms is not None or g.symbol not in newer), *gaps)
        written = await self.write()
        return [written.get(gap, gap) for gap in gaps]

    async def write(self) -> Mapping[Gap, Gap]:
        """Try again what could not be written; what it became."""
        written: Mapping[Gap, Gap] = {}
        with trio.move_on_after(PATIENCE_SECONDS):
            try:
                written = await self._call(partial(self._write, self.unwritten))
                self.unwritten = tuple(gap for gap in self.unwritten if gap not in written)
                while self.unkept:
                    aside = self.unkept[0]
                    await self._call(partial(self._keep, aside))
                    if self.unkept and self.unkept[0] is aside:  # nobody else was faster
                        self.unkept.popleft()
            except JournalError as why:
                self._complain("gaps", len(self.unwritten), str(why))
        return written

    def _write(self, todo: Sequence[Gap]) -> Mapping[Gap, Gap]:
        ledger, done = self._ledger, {gap: entry for gap, entry in self._done.items() if gap in todo}
        self._done = done
        ids: dict[Gap, int] = {}
        for gap in todo:
            if gap not in done:
                number = gap.id or self._lasting.get(_which(gap), 0)
                ids[gap] = 0 if number in ids.values() else number  # the first part of it; the others are new
        if ids:  # together: who is killed between the parts of one that ends would lose the later ones
            entries = ledger.write([attrs.evolve(gap, id=number) for gap, number in ids.items()], self._wall_ms())
            done.update(zip(ids, entries, strict=True))
            known = {number for number in ids.values() if number}
            self._lasting = {which: number for which, number in self._lasting.items() if number not in known}
            self._lasting.update({_which(gap): done[gap].id for gap in ids if gap.to_ms is None})
        self.counts, self.unsettled_since_ms = ledger.gap_counts(), ledger.unsettled_since_ms()
        return dict(done)

    async def untold(self, store: str, holes: Sequence[Hole]) -> Sequence[Hole]:
        """What of these the ledger does not tell of this store yet."""
        told: list[Gap] = []
        with trio.move_on_after(PATIENCE_SECONDS), suppress(JournalError):
            told += await self._call(partial(self._ledger.gaps, store=store))
        told += [gap for gap in self.unwritten if gap.store == store]
        rest = list(holes)
        for gap in told:
            if gap.first_seq is not None and gap.last_seq is not None:
                before, behind = gap.first_seq - 1, gap.last_seq + 1
                parts = [part for hole in rest for part in (hole.part(0, before), hole.part(behind, hole.last))]
                rest = [part for part in parts if part is not None]
        return rest

    async def set_aside(self, reject: Reject, payload: bytes) -> None:
        """Keep a tick that a store refuses; in memory, if the ledger can't take it now."""
        sink, seq, symbol = reject.stage, reject.seq or 0, reject.symbol or ""
        aside = Aside(sink, seq, symbol, reject.detail, payload, reject.received_ms)
        why = f"it has not answered for {PATIENCE_SECONDS:g} s"
        try:
            with trio.move_on_after(PATIENCE_SECONDS):
                await self._call(partial(self._keep, aside))
                return
        except JournalError as error:
            why = str(error)
        if len(self.unkept) == MOST_UNKEPT:
            oldest = self.unkept[0]
            log.error("a tick set aside is forgotten: too many wait", store=oldest.sink, seq=oldest.seq)
        self.unkept.append(aside)
        self._complain("ticks set aside", len(self.unkept), why)

    def _keep(self, aside: Aside) -> None:
        self._ledger.set_aside(aside)
        self.set_aside_counts = self._ledger.set_aside_counts()

    def _complain(self, what: str, waiting: int, why: str) -> None:
        log.error("the ledger can't be written, trying again", of=what, waiting=waiting, why=why)


def _which(gap: Gap) -> tuple[str, str, int]:
    return gap.symbol, gap.cause, gap.opened_ms


def taken_over(store: str, whose: str, passed: tuple[int, int], now_ms: int) -> Gap:
    """``passed``: from which of our own numbers to which that cursor has passed, as if they were in the store."""
    detail = f"the cursor of {whose}: what that one had not delivered is in its own journal"
    first, last = passed if passed[0] <= passed[1] else (None, None)
    return Gap(
        0,
        EVERY_SYMBOL,
        "taken_over",
        now_ms,
        now_ms,
        store=store,
        state="unfillable",
        detail=detail,
        first_seq=first,
        last_seq=last,
        opened_ms=now_ms,
    )
