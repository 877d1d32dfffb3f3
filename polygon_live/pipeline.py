"""From the feed to the stores: what is accepted, in which order, and what is known of what is not.

::

     feed ══frames══► judge ─► journal ─► backlog ══► pump ─► store       ══  bounded channel, closed by its sender
      (interruptions      ▲
       among them)        └─ backfilled quotes, from the filler

One place numbers ticks, be they live or backfilled: ``_accept``, under one lock. The gap book hears of every
interruption at its exact place among the frames. Everything that touches the world is handed in, so that a simulation
runs this very code in virtual time: the stores, the way to Polygon, the clocks, and how the journal's work is run.
"""

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Final

import attrs
import structlog
import trio

from polygon_live import wire
from polygon_live.backlog import Backlog
from polygon_live.blocks import Blocks
from polygon_live.books import PumpBooks
from polygon_live.calendar import Sessions, Stretches
from polygon_live.calling import CountedCall
from polygon_live.channels import WeightedReceiver
from polygon_live.config import Secret
from polygon_live.dial import Dial
from polygon_live.errors import InternalFault
from polygon_live.feed import Feed
from polygon_live.frames import Heard, open_frames, parted
from polygon_live.gaps import GapBook
from polygon_live.journal import Journal
from polygon_live.keeper import RESERVED_AHEAD, Keeper
from polygon_live.limits import Turns
from polygon_live.model import EVENT_QUOTE, Batch, Interruption, Reject, Tick, encode
from polygon_live.mutex import Mutex
from polygon_live.operational import Operational
from polygon_live.pump import Pump
from polygon_live.recovery import Recovery
from polygon_live.rejects import RejectBook
from polygon_live.sink import Sink
from polygon_live.status import NO_FEED, FeedSnapshot, GapsSnapshot
from polygon_live.supervise import Watcher
from polygon_live.validate import Validator

JUDGED_AT_ONCE: Final = 256 * 1024
"""Characters of frames, about 3,000 ticks: some 10 ms in which nothing else runs."""
FAULT_GRACE_SECONDS: Final = 5.0
"""How long a bug leaves for delivering what was accepted before it."""

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class Upstream:
    """The way to Polygon. ``market``: as ``Feed`` has it."""

    urls: Sequence[str]
    key: Secret
    dial: Dial
    turns: Turns
    frames_max_bytes: int
    market: Callable[[], Awaitable[str]] | None = None


@attrs.frozen
class Accepted:
    """What became of backfilled quotes."""

    ticks: int
    rejected: int
    last_seq: int
    """Everything accepted so far: a store whose cursor is here has them."""


class Pipeline:
    """One run. ``upstream`` None: no feed, only backfill, until ``stop``. Raises JournalError: it can't be written."""

    def __init__(
        self,
        *,
        journal: Journal,
        call: CountedCall,
        sinks: Sequence[Sink],
        operational: Operational,
        upstream: Upstream | None,
        sessions: Sessions,
        stretches: Stretches,
        wall_ms: Callable[[], int],
        rng: random.Random,
        queue_ticks: int,
        sync_seconds: float,
        rejects: RejectBook | None = None,
    ) -> None:
        self._journal = journal
        self._operational = operational
        self._wall_ms = wall_ms
        self._accepting = Mutex()
        self._begun = trio.Event()
        """Nothing new is accepted before."""
        self._closed = False
        self._frames: WeightedReceiver[Heard] | None = None
        self._last = journal.tail
        ledger = journal.ledger
        self.rejects = rejects or RejectBook()
        self.blocks = Blocks()
        self.validator = Validator(
            operational.symbols,
            operational.limits,
            now_ms=wall_ms,
            first_seq=max(ledger.mark, journal.tail, wall_ms() * 1000) + 1,
        )
        lasting = [gap for gap in ledger.gaps(states=("open",)) if gap.to_ms is None]
        self._before = ledger.newest()
        """The newest tick of each symbol before this run."""
        self.book = GapBook({s: n.timestamp_ms for s, n in self._before.items()}, lasting, stretches)
        self.keeper = Keeper(
            journal,
            call,
            sync_seconds=sync_seconds,
            wall_ms=wall_ms,
            cursors=lambda: {pump.sink.name: pump.cursor for pump in self.pumps},
            remembered=lambda: {p.sink.name: p.remembered for p in self.pumps if p.remembered is not None},
        )
        self._recovery = Recovery.of(journal, sinks, wall_ms)
        books = PumpBooks(
            keeper=self.keeper,
            validator=self.validator,
            recovery=self._recovery,
            rejects=self.rejects,
            numbering=self._accepting,
            beginning=journal.beginning,
            cursor_of=lambda sink: next(pump.cursor for pump in self.pumps if pump.sink is sink),
            wall_ms=wall_ms,
        )
        self.pumps = [
            Pump(
                sink,
                Backlog(queue_ticks, self.keeper.read, beginning=journal.beginning, head=journal.tail),
                cursor=ledger.cursors().get(sink.name),
                books=books,
                wall_ms=wall_ms,
                rng=rng,
            )
            for sink in sinks
        ]
        # Now or not at all: if the disk fails later, no number may be used that a run after this one could use again.
        journal.reserve(self.validator.last_seq + RESERVED_AHEAD)
        self.feed: Feed | None = None
        if upstream is not None:
            frames_in, self._frames = open_frames(upstream.frames_max_bytes)
            self.feed = Feed(
                urls=upstream.urls,
                key=upstream.key,
                symbols=operational.symbols,
                reconnect_delay=operational.websocket_reconnect_delay,
                turns=upstream.turns,
                frames=frames_in,
                heard=self.validator.heard,
                usual=self.validator.usual,
                market=upstream.market,
                wall_ms=wall_ms,
                rng=rng,
                dial=upstream.dial,
                sessions=sessions,
            )
        self._pumping = [Watcher(f"{pump.sink.name} pump", pump.run, rng) for pump in self.pumps]
        self._keeping = Watcher("journal keeper", self.keeper.run, rng)
        self.watchers = [*self._pumping, self._keeping]
        self._stopped = trio.Event()
        self._drain = trio.CancelScope()
        self._fault: Exception | None = None
        self.stopping = False

    @property
    def last_accepted(self) -> int:
        """The last ``seq`` that was accepted, in this run or before; 0 if none ever was."""
        return self._last

    # From the beginning to the end ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until stopped, and empty or out of time. Raises InternalFault if a bug ended it."""
        try:
            async with trio.open_nursery() as keeping:
                keeping.start_soon(self._keeping.keep_running)
                with self._drain:
                    async with trio.open_nursery() as nursery:
                        if self.feed is not None:
                            nursery.start_soon(self._essential, self.feed.run)
                        nursery.start_soon(self._essential, self._judge)
                        for watcher in self._pumping:
                            nursery.start_soon(watcher.keep_running)
                keeping.cancel_scope.cancel()
        finally:
            self._closed = True
            with trio.CancelScope(shield=True):  # bounded: a journal that hangs is left
                await self.keeper.finish()
        if self._fault is not None:
            raise InternalFault(f"{type(self._fault).__name__}: {self._fault}") from self._fault

    def stop(self, grace_seconds: float) -> None:
        """End in order, within so long: what is not delivered then is in the journal."""
        self.stopping = True
        self._drain.deadline = trio.current_time() + grace_seconds
        self._stopped.set()
        if self.feed is not None:
            self.feed.stop()

    def cut(self) -> None:
        """End at once."""
        self._drain.cancel()

    async def _essential(self, run: Callable[[], Awaitable[None]]) -> None:
        """Without this task there is no collector: its fault ends the process, but what was accepted is delivered."""
        try:
            await run()
        except Exception as why:
            log.exception("internal fault, the collector ends after delivering what it holds")
            self._fault = self._fault or why
            if not self.stopping:
                self.stop(FAULT_GRACE_SECONDS)

    @property
    def collected(self) -> Collection[str]:
        """The symbols; if all pairs are collected, those that ever ticked."""
        return self.book.known if self._operational.all_pairs else self._operational.symbols

    async def reconfigure(self, operational: Operational) -> None:
        """From the next batch on. Nothing changes for symbols that stay."""
        async with self._accepting:  # a batch is judged and entered in the book by one configuration
            self._operational = operational
            self.validator.collect(operational.symbols, operational.limits)
            if self.feed is not None:
                self.feed.reconfigure(operational)
            await self._leave_the_others()

    async def _leave_the_others(self) -> None:
        """Nobody waits for a tick of a symbol that is not collected."""
        collected = self.collected
        if left := self.book.no_longer(collected, self._wall_ms()):
            await self.keeper.note(left)
        await self.keeper.forget(collected)

    # What is accepted -----------------------------------------------------------------------------------------------

    async def _judge(self) -> None:
        """Frames in, batches out. Whatever arrived while the last frames were judged is judged next."""
        async with AsyncExitStack() as closing:
            for pump in self.pumps:
                await closing.enter_async_context(aclosing(pump.backlog))
            closing.push_async_callback(self._close)
            await self._begin()
            self._begun.set()
            if self._frames is None:
                await self._stopped.wait()
                return
            await closing.enter_async_context(self._frames)
            while True:
                try:
                    items = await self._frames.receive_some(JUDGED_AT_ONCE)
                except trio.EndOfChannel:
                    return
                for some in parted(items):
                    await (self._interrupted(some) if isinstance(some, Interruption) else self._hear(some))

    async def _begin(self) -> None:
        """What has to be known before anything new is accepted."""
        await self.keeper.note(self.book.overtaken({symbol: tick.seq for symbol, tick in self._before.items()}))
        regained = await self._recovery.batch()
        if regained is not None:
            log.warning("power was lost: what a store had is copied back into the journal", ticks=len(regained))
            await self._journal_and_offer(regained)
            self.book.regained([tick for tick in regained.ticks if tick.event_type == EVENT_QUOTE])
        self._recovery.over()
        await self._leave_the_others()
        await self._interrupted(Interruption("downtime", "no collector ran"))

    async def _hear(self, frames: Sequence[wire.Frame]) -> None:
        ticks, _refused = await self._accept(lambda: self.validator.judge(frames, trio.current_time()))
        if ended := self.book.accepted(ticks):
            await self.keeper.note(ended)
        if (untimely := self.validator.untimely()) is not None:
            await self._interrupted(untimely)

    async def accept_backfill(
        self, symbol: str, quotes: Sequence[wire.Quote | wire.Undecodable], received_ms: int
    ) -> Accepted:
        """Number, keep and deliver what was fetched. Raises trio.ClosedResourceError after the end, and JournalError if
        the journal fails: the stores may get it all the same, and who asks again sees what they have.
        """
        await self._begun.wait()
        ticks, refused = await self._accept(lambda: self.validator.judge_backfill(symbol, quotes, received_ms))
        self.keeper.check()
        return Accepted(len(ticks), len(refused), self._last)

    async def _accept(
        self, judge: Callable[[], tuple[Sequence[Tick], Sequence[Reject]]]
    ) -> tuple[Sequence[Tick], Sequence[Reject]]:
        async with self._accepting:
            if self._closed:
                raise trio.ClosedResourceError
            await self.keeper.reserve(self.validator.last_seq)
            # Whoever is cancelled between a number and its batch would leave a hole that nothing explains.
            with trio.CancelScope(shield=True):
                ticks, refused = judge()
                self.rejects.enter(refused)
                if ticks:
                    await self._journal_and_offer(Batch(self._last, ticks, [encode(tick) for tick in ticks]))
        return ticks, refused

    async def _journal_and_offer(self, batch: Batch) -> None:
        await self.keeper.append(batch)
        self._last = batch.last
        self.blocks.add(batch)
        for pump in self.pumps:
            pump.backlog.offer(batch)

    async def _close(self) -> None:
        self._closed = True
        async with self._accepting:
            pass  # what was accepted last is on its way to the pumps

    async def _interrupted(self, interruption: Interruption) -> None:
        if interruption.cause != "mute":  # then somebody did listen
            self.validator.missed()
        if new := self.book.interrupted(interruption, self.collected, self._wall_ms()):
            self.book.entered(await self.keeper.note(new))

    def confirmed(self, store: str) -> int | None:
        """How far this store is by its own word, given in this run; None if it has not been asked yet."""
        return next(pump.confirmed for pump in self.pumps if pump.sink.name == store)

    def feed_snapshot(self) -> FeedSnapshot:
        """As of now."""
        return NO_FEED if self.feed is None else self.feed.snapshot()

    def gaps(self) -> GapsSnapshot:
        """As of now."""
        counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (cause, state), count in self.keeper.entries.counts.items():
            counts[cause][state] = count
        lasting = tuple(sorted(gap.symbol for gap in self.book.lasting))
        return GapsSnapshot(lasting, counts, self.keeper.entries.unsettled_since_ms)
