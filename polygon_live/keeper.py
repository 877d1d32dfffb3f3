"""The journal as the pipeline meets it: what is accepted goes in, and what goes wrong with it stays here.

The journal is synchronous. ``Call`` is how its methods are run: in a worker thread, one at a time, in the collector;
directly in the simulation. A write that fails, or takes longer than ``STALL_SECONDS``, lets its batch go on to the
stores unjournaled: that stretch is remembered, and entered in the ledger as soon as the journal takes a batch again.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import attrs
import structlog
import trio

from polygon_live.calling import CountedCall
from polygon_live.entries import Entries
from polygon_live.errors import JournalError
from polygon_live.gap import EVERY_SYMBOL, SETTLED, UNSETTLED, Gap
from polygon_live.gaps import AHEAD_MS
from polygon_live.journal import Aside, GivenUp, Journal, Newest, Portion
from polygon_live.model import EVENT_BACKFILL, EVENT_QUOTE, Batch, Tick
from polygon_live.room import Room
from polygon_live.status import JournalSnapshot

STALL_SECONDS: Final = 2.0
KEEP_SECONDS: Final = 1.0
"""How often cursors are remembered, and what may go is let go."""
RATE_SECONDS: Final = 60.0
"""Over how long the rate of ticks is averaged."""
RESERVED_AHEAD: Final = 60_000_000
"""Numbers, which is a minute of the clock that runs start from: hours of ticks, if the ledger can't be written."""

MOST_SHOWN: Final = 20

T = TypeVar("T")
log = structlog.get_logger()


class Keeper:
    """``cursors`` tells how far the pumps are; ``remembered`` is what the next run must know of the stores."""

    def __init__(
        self,
        journal: Journal,
        call: CountedCall,
        *,
        sync_seconds: float,
        wall_ms: Callable[[], int],
        cursors: Callable[[], Mapping[str, int]],
        remembered: Callable[[], Mapping[str, int]],
    ) -> None:
        self._journal = journal
        self._call = call
        self._sync_seconds = sync_seconds
        self._wall_ms = wall_ms
        self._cursors = cursors
        self._remembered = remembered
        self._newest = journal.ledger.newest()
        """Of each symbol, by what is in the journal."""
        self._durable = dict(self._newest)
        """The same of what is on its disk: who remembered more would, after a power cut, forget what was lost."""
        self._to_forget: set[str] = set()
        """Symbols that the ledger may still know."""
        self._stalled_at: int | None = None
        """``done`` of the calls when a write took too long; None if the last one did not."""
        self._faults: dict[str, str] = {}
        """Why the last attempt at a kind of work failed. It is gone when the same has been done again."""
        self._unjournaled: Gap | None = None
        """What was accepted since the journal failed."""
        self._seen_missed: Gap | None = None
        """The same as of a moment ago."""
        self._given_up = 0
        self._given_up_ms: int | None = None
        self._rate = 0.0
        """Ticks a second."""
        self._counted: tuple[float, int] = (trio.current_time(), 0)
        self._appended = 0
        self._room = Room()
        self.entries = Entries(journal.ledger, call, wall_ms)
        if damaged := journal.snapshot().damaged:
            log.error("files of the journal were damaged: what was in them is lost", set_aside=damaged)

    # Batches --------------------------------------------------------------------------------------------------------

    async def reserve(self, last_seq: int) -> None:
        """See that the numbers after this one may be used: none of them is ever used again, whatever happens."""
        if self._journal.ledger.mark - last_seq < RESERVED_AHEAD // 2:
            await self._write("reserve numbers", partial(self._journal.reserve, last_seq + RESERVED_AHEAD))

    async def append(self, batch: Batch) -> bool:
        """Whether it is in the journal. If not, the fault is told and the stretch remembered."""
        done = await self._write("append", partial(self._append, batch))
        if done:
            self._appended += len(batch)
            self._newest.update({s: Newest(t.timestamp_ms, t.seq) for s, t in self._newer(batch.ticks).items()})
            if self._sync_seconds == 0:
                self._durable = dict(self._newest)
            await self._enter_missed()
        else:
            self._missed(batch)
        return done

    def _newer(self, ticks: Sequence[Tick]) -> Mapping[str, Tick]:
        """Which of them is its symbol's newest now. After a start nobody knows that an old one is late. One far ahead
        of the clock is doubted: it would hide what is missed until then.
        """
        newer: dict[str, Tick] = {}
        for tick in ticks:
            if tick.late or tick.event_type != EVENT_QUOTE:
                continue
            known = newer.get(tick.symbol) or self._newest.get(tick.symbol)
            if known is None or not tick.timestamp_ms < known.timestamp_ms <= tick.received_ms + AHEAD_MS:
                newer[tick.symbol] = tick
        return newer

    def _append(self, batch: Batch) -> None:
        self._journal.append(batch)
        if self._sync_seconds == 0:
            self._journal.sync()

    async def _write(self, what: str, work: Callable[[], object]) -> bool:
        if self._stalled_at == self._call.done and self._call.busy:
            return False  # not again so long a wait for the same
        try:
            with trio.move_on_after(STALL_SECONDS) as limit:
                await self._call(work)
        except JournalError as why:
            self._failed(what, str(why))
            return False
        self._stalled_at = self._call.done if limit.cancelled_caught else None
        if limit.cancelled_caught:
            self._failed(what, f"a write has taken more than {STALL_SECONDS:g} s and is not done: look at the disk")
        elif self._faults.pop(what, None) is not None and not self._faults:
            log.info("the journal is back")
        return not limit.cancelled_caught

    def _failed(self, what: str, why: str) -> None:
        if why not in self._faults.values():
            log.error(
                "the journal fails: as long as batches do, they go on to the stores at most once", at=what, why=why
            )
        self._faults[what] = why

    @property
    def failing(self) -> str | None:
        """Why batches go to the stores unjournaled, or are not sure to be durable in time; None: all is well."""
        return next(iter(self._faults.values()), None)

    def check(self) -> None:
        """Raises JournalError if something fails at present."""
        if (why := self.failing) is not None:
            raise JournalError(why)

    def _missed(self, batch: Batch) -> None:
        stamps = _times(batch)
        so_far = self._unjournaled or Gap(
            0,
            EVERY_SYMBOL,
            "unjournaled",
            min(stamps),
            None,
            detail=self.failing or "",
            first_seq=batch.first,
            ticks=0,
            opened_ms=self._wall_ms(),
        )
        self._unjournaled = attrs.evolve(
            so_far,
            from_ms=min(so_far.from_ms, *stamps),
            to_ms=max(so_far.to_ms or 0, *stamps),
            last_seq=batch.last,
            ticks=(so_far.ticks or 0) + len(batch),
        )

    async def _enter_missed(self) -> None:
        missed, self._unjournaled = self._unjournaled, None
        if missed is not None:
            log.warning(
                "a stretch is not in the journal", ticks=missed.ticks, first=missed.first_seq, last=missed.last_seq
            )
            await self.note([missed])

    async def read(self, after: int, most: int) -> Portion | None:
        """``Journal.read``. Raises JournalError."""
        return await self._call(partial(self._journal.read, after, most))

    def pending(self, after: int) -> tuple[int, float | None]:
        """How many ticks there are behind this ``seq``, and how many seconds until the first of them would have to make
        room at the present rate.
        """
        ticks, size = self._journal.pending(after)
        facts = self._journal.snapshot()
        growth = self._rate * facts.bytes_per_tick
        return ticks, max(0.0, (facts.most_bytes - size) / growth) if growth > 0 else None

    # The ledger -----------------------------------------------------------------------------------------------------

    async def note(self, gaps: Sequence[Gap]) -> Sequence[Gap]:
        """As ``Entries.note``."""
        return await self.entries.note(gaps)

    async def changes(self, after: int, most: int) -> Sequence[Gap]:
        """Entries of the ledger that changed after this change, in that order. Raises JournalError."""
        return await self._ask(lambda: self._journal.ledger.gaps(after_change=after, limit=most))

    async def gaps(self, most: int) -> Sequence[Gap]:
        """The latest entries of the ledger, so many that are settled and so many that are not, and what it could not
        take yet. Raises JournalError.
        """
        ledger = self._journal.ledger
        unsettled = await self._ask(lambda: ledger.gaps(states=UNSETTLED, latest=most))
        return [*unsettled, *await self._ask(lambda: ledger.gaps(states=SETTLED, latest=most)), *self.unentered()]

    async def quarantine(self, most: int) -> Sequence[Aside]:
        """The latest ticks that stores refused, the very latest last; also what the ledger could not take yet.
        Raises JournalError.
        """
        kept = await self._ask(lambda: self._journal.ledger.quarantine(limit=most))
        return [*reversed(kept), *(aside for aside in self.entries.unkept if aside not in kept)][-most:]

    async def is_settled(self, gap: int) -> bool:
        """Whether this entry of the ledger has come to its end. Raises JournalError."""
        return gap not in {g.id for g in await self._ask(lambda: self._journal.ledger.gaps(states=UNSETTLED))}

    async def ask(self, work: Callable[[Journal], T]) -> T:
        """Something of the journal, in its thread. Raises JournalError, also if no answer comes."""
        return await self._ask(partial(work, self._journal))

    async def _ask(self, work: Callable[[], T]) -> T:
        """Raises JournalError, also if no answer comes."""
        with trio.move_on_after(STALL_SECONDS):
            return await self._call(work)
        raise JournalError(f"the ledger has not answered for {STALL_SECONDS:g} s: look at the disk")

    def unentered(self) -> Sequence[Gap]:
        """What the ledger could not take yet, and the stretch that is not in the journal."""
        return [*self.entries.unwritten, *([self._unjournaled] if self._unjournaled else [])]

    # Upkeep ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: make durable, remember how far everybody is, let go of what all have."""
        synced = trio.current_time()
        pause = min(KEEP_SECONDS, self._sync_seconds or KEEP_SECONDS)
        kept = -KEEP_SECONDS
        while True:
            await trio.sleep(pause)
            now = trio.current_time()
            due = now - kept >= KEEP_SECONDS
            if now - synced >= self._sync_seconds:
                synced = now
                await self._sync()
            if due:
                kept = now
                self._measure(now)
                await self._keep()
                self._look_for_room(now)

    async def forget(self, kept: Collection[str]) -> None:
        """When symbols other than these ticked last. What can't be written now is tried again."""
        for symbol in [symbol for symbol in self._newest if symbol not in kept]:
            del self._newest[symbol]
            self._durable.pop(symbol, None)
            self._to_forget.add(symbol)
        await self._forget()

    async def _forget(self) -> None:
        gone = frozenset(self._to_forget)
        if gone and await self._write("forget", partial(self._journal.ledger.forget, gone)):
            self._to_forget -= gone

    async def finish(self) -> None:
        """The last word of a run. Raises nothing."""
        await self._sync()
        await self._keep()
        await self._enter_missed()
        await self._write("close", self._journal.close)

    async def _sync(self) -> None:
        newest = dict(self._newest)
        if await self._write("sync", self._journal.sync):
            self._durable = {symbol: tick for symbol, tick in newest.items() if symbol in self._newest}

    async def _keep(self) -> None:
        await self._forget()  # before the rest, for one of them may have ticked again
        cursors, remembered, newest = dict(self._cursors()), dict(self._remembered()), dict(self._durable)
        told = await self._write("remember", partial(self._journal.ledger.remember, remembered, newest))
        if told and self._unjournaled is self._seen_missed:  # it may be days until the next tick
            await self._enter_missed()
        self._seen_missed = self._unjournaled
        given_up: list[GivenUp] = []
        await self._write("trim", lambda: given_up.extend(self._journal.trim(cursors)))
        await self.entries.write()  # what could not be written before
        for entry in given_up:
            self._given_up += entry.hole.ticks or 0
            self._given_up_ms = self._wall_ms()
            log.error(
                "the journal is full: the oldest ticks that only this store still needs are given up",
                store=entry.sink,
                ticks=entry.hole.ticks,
            )

    def _measure(self, now: float) -> None:
        before, counted = self._counted
        rate = (self._appended - counted) / max(now - before, 1e-3)
        weight = min(1.0, (now - before) / RATE_SECONDS)
        self._rate = rate if self._rate == 0 else self._rate + (rate - self._rate) * weight
        self._counted = (now, self._appended)

    def _look_for_room(self, now: float) -> None:
        facts = self._journal.snapshot()
        if (left := self._room.see(now, facts.free_bytes)) is not None:
            log.warning(
                "the disk of the journal's folder is filling up: make room before it is full",
                folder=str(facts.folder),
                free_mib=facts.free_bytes >> 20,
                full_in_minutes=round(left / 60, 1),
            )

    def snapshot(self) -> JournalSnapshot:
        """As of now."""
        facts = self._journal.snapshot()
        ledger = self._journal.ledger
        missed = self._unjournaled
        return JournalSnapshot(
            id=self._journal.id,
            folder=str(facts.folder),
            bytes=facts.bytes,
            most_bytes=facts.most_bytes,
            segments=facts.segments,
            oldest_ms=facts.oldest_ms,
            tail=facts.tail,
            mark=ledger.mark,
            bytes_per_second=self._rate * facts.bytes_per_tick,
            sync_seconds=self._sync_seconds,
            failing=self.failing,
            unjournaled_ticks=(missed.ticks or 0) if missed else 0,
            given_up_ticks=self._given_up,
            last_given_up_ms=self._given_up_ms,
            unwritten_gaps=len(self.entries.unwritten),
            corrupt=tuple((hole.first, hole.last) for hole in facts.corrupt[-MOST_SHOWN:]),
            damaged=facts.damaged,
            room=self._room.snapshot(),
        )


def _times(batch: Batch) -> list[int]:
    """When nobody may have it. What was fetched of the past belongs to a gap that stays open, and is fetched again."""
    return [tick.received_ms if tick.event_type == EVENT_BACKFILL else tick.timestamp_ms for tick in batch.ticks]
