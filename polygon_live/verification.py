"""The watcher that compares what was accepted with what each store holds, block by block. It mends nothing.

A block is compared with a store when the store's cursor has passed it: one that is late is not verified yet, and told
of elsewhere. What a store lacks and is told of already is no difference: ticks that it refused (quarantine), that the
journal could not give it (ledger of gaps), that are older than the table keeps. Whatever else is missing is, and so is
what is there twice. A difference is looked at again every minute, so that the alarm ends when somebody has mended it.

- The table is counted, the archive is read, of NATS there is what it acknowledged.
- The archive is read from where it ended before the block was accepted. That place is asked for just before a block is
  closed, so that a minute of ticks costs about a minute of records.
- Reading is what costs. It has a budget; where that is not enough, only some blocks are read, and that is said. What
  the blocks themselves cost (0.1 µs a tick) is not counted.
- Up to where each store is compared is remembered in the ledger, never beyond a difference that lasts until it is
  mended. So a restart goes on there, and finds it again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import ClassVar, Final, Protocol, Self

import attrs
import structlog
import trio

from polygon_live.blocks import Block, Blocks, Listed
from polygon_live.budget import Budget
from polygon_live.compared import Difference, StoreCompared, VerificationSnapshot, compared
from polygon_live.config import Settings
from polygon_live.engines.kafka import ArchiveNumbers
from polygon_live.engines.postgres import TableNumbers
from polygon_live.errors import JournalError, StoreError
from polygon_live.holdings import Acknowledged, Holding, InArchive, InTable
from polygon_live.journal import Journal
from polygon_live.judging import Judge
from polygon_live.keeper import Keeper
from polygon_live.pump import Pump

AT_ONCE: Final = 100
"""Blocks of one round, each asked for by itself."""
LISTED: Final = 2000
"""Rows of the journal in one go: a few ms of its thread."""

log = structlog.get_logger()


class Accepting(Protocol):
    """The pipeline, as far as it is needed."""

    blocks: Blocks
    keeper: Keeper
    pumps: list[Pump]

    @property
    def last_accepted(self) -> int:
        """The last ``seq`` that was accepted, in this run or before."""


@attrs.define
class _Store:
    pump: Pump
    holding: Holding
    position: int
    """Compared up to this ``seq``."""
    cursor: int = 0
    """The store's own, as seen last."""
    falls: int = 0
    """How many of its falls are known."""
    up_to_ms: int | None = None
    compared: int = 0
    skipped: int = 0
    differing: list[tuple[Block, Difference]] = attrs.Factory(list)
    cannot: str | None = None
    worked_ms: int | None = None
    again_at: float = 0.0

    @property
    def name(self) -> str:
        return self.pump.sink.name

    @property
    def mark(self) -> int:
        """What the next run may take for compared."""
        return min([self.position, *(block.first - 1 for block, found in self.differing if found.lasts)])


class Verification:
    """To be made before the pipeline runs."""

    LOOK_SECONDS: ClassVar = 5.0
    AGAIN_SECONDS: ClassVar = 60.0
    DOUBT_SECONDS: ClassVar = 15.0
    """Before a difference is believed: by then it is known of a store that it was restarted and has fallen behind."""
    MARK_SECONDS: ClassVar = 2.0
    SHARE: ClassVar = 0.02
    """Of a core, over time."""
    SAVED_SECONDS: ClassVar = 60.0
    MOST_DIFFERENCES: ClassVar = 20
    """Of one store, that alarm at a time. Beyond that it is not compared further."""

    def __init__(
        self,
        pipeline: Accepting,
        holdings: Mapping[str, Holding],
        budget: Budget,
        collector: str,
        now_ms: Callable[[], int],
    ) -> None:
        """``holdings`` by the names of the sinks, ``now_ms`` gives Unix milliseconds."""
        self._pipeline = pipeline
        self._blocks = pipeline.blocks
        self._keeper = pipeline.keeper
        self._budget = budget
        self._now_ms = now_ms
        self._judge = Judge(pipeline.keeper, collector, now_ms)
        self._head = pipeline.last_accepted
        self._stores = [
            _Store(pump, holdings[pump.sink.name], self._head) for pump in pipeline.pumps if pump.sink.name in holdings
        ]
        self._begun = False
        self._marked = 0
        self._remembered: Mapping[str, int] = {}

    @classmethod
    def on(cls, settings: Settings, pipeline: Accepting, now_ms: Callable[[], int]) -> Self:
        """Of the three stores of these settings."""
        budget = Budget(cls.SHARE, saved_seconds=cls.SAVED_SECONDS, now=trio.current_time())
        collector = settings.collector_id
        nats = next(pump for pump in pipeline.pumps if pump.sink.name == "nats")
        holdings: Mapping[str, Holding] = {
            "timescale": InTable(TableNumbers(settings.timescale_dsn, collector, budget.spend)),
            "nats": Acknowledged(nats.answered, nats.cursor),
            "kafka": InArchive(ArchiveNumbers(settings.kafka, collector, budget.spend), lambda: budget.spent),
        }
        return cls(pipeline, holdings, budget, collector, now_ms)

    async def run(self) -> None:
        """For ever."""
        while not self._begun:
            try:
                await self._begin()
            except JournalError as why:
                log.warning("where verification stood can't be read, trying again", why=str(why))
                await trio.sleep(self.LOOK_SECONDS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_blocks)
            for store in self._stores:
                nursery.start_soon(self._keep_comparing, store)

    async def _begin(self) -> None:
        """Where an earlier run stood. A store that is not known begins with what is accepted from now on."""
        marks = await self._keeper.ask(lambda journal: journal.ledger.verified())
        for store in self._stores:
            store.position = min(marks.get(store.name, self._head), self._head)
        oldest = min(store.position for store in self._stores)
        if oldest < self._head:
            await self._list_again(oldest)
        self._begun = True

    async def _list_again(self, after: int) -> None:
        """Blocks of what is in the journal behind this ``seq``, before those that there are."""
        until = (self._blocks.begins or self._pipeline.last_accepted + 1) - 1
        older, position = Blocks(), after
        while rows := await self._keeper.ask(partial(_listed, after=position)):
            for row in rows:
                position = row.last
                if row.last > until:
                    break
                if row.ticks == row.last - row.first + 1:
                    older.add_listed(row)
                elif (portion := await self._keeper.read(row.first - 1, 1)) and portion.batch:
                    older.add(portion.batch)
            if position > until:
                break
        older.close()
        self._blocks.put_before(older.closed)
        if older.closed and older.closed[0].first > after + 1:
            log.info("verification goes on", after=after, first=older.closed[0].first)

    async def _close_blocks(self) -> None:
        """A block that has lasted is closed; before that it is looked where the archive ends, for the next one."""
        while True:
            closed = self._blocks.closed[-1].last if self._blocks.closed else 0
            due = self._blocks.is_due(self._now_ms())
            if due or closed > self._marked:
                self._marked = closed
                for store in self._stores:
                    if isinstance(store.holding, InArchive):
                        with suppress(StoreError), trio.move_on_after(self.MARK_SECONDS):
                            await store.holding.mark(lambda: self._pipeline.last_accepted)
            if due:
                self._blocks.close()
                self._marked = self._blocks.closed[-1].last if self._blocks.closed else 0
            await trio.sleep(self.LOOK_SECONDS)

    async def _keep_comparing(self, store: _Store) -> None:
        while True:
            await trio.sleep(self.LOOK_SECONDS)
            try:
                await self._compare(store)
                await self._look_again(store)
            except (StoreError, JournalError) as why:
                store.cannot = str(why)
            with suppress(JournalError):
                await self._remember()

    async def _compare(self, store: _Store) -> None:
        await self._follow(store)
        ready = [b for b in self._blocks.closed if store.position < b.last <= store.cursor]
        if not ready:
            return
        differing = sum(found.alarms(self._now_ms()) for _, found in store.differing)
        if differing >= self.MOST_DIFFERENCES:
            store.cannot = f"it differs in {differing} blocks: what comes after them waits for that"
            return
        chosen: Sequence[Block] = ready[:AT_ONCE]
        if store.holding.sampling is not None:
            chosen = store.holding.sampling.affordable(ready, self._budget, trio.current_time())
            if not chosen:
                return
            for block in ready[: -len(chosen)]:
                self._pass(store, block, looked=False)
        verdicts = await store.holding.equal(chosen)
        store.cannot, store.worked_ms = None, self._now_ms()
        for block, equal in zip(chosen, verdicts, strict=True):
            if equal is False and not await self._differ(store, block):
                return
            self._pass(store, block, looked=equal is not None)

    async def _follow(self, store: _Store) -> None:
        """A store that has fallen behind since is compared again from there."""
        store.cursor = store.pump.cursor
        falls = store.pump.falls[store.falls :]
        if not falls:
            return
        behind = min(falls)
        store.holding.forget()
        store.differing = [(block, found) for block, found in store.differing if block.last <= behind]
        if behind < store.position:
            store.position = behind
            await self._list_again(behind)
        store.falls += len(falls)

    def _pass(self, store: _Store, block: Block, *, looked: bool) -> None:
        store.position, store.up_to_ms = block.last, block.to_ms
        store.compared += block.count if looked else 0
        store.skipped += 0 if looked else block.count
        if store.holding.sampling is not None:
            store.holding.sampling.done([block], looked=looked)
        store.pump.answered.forget(min([block.last, *(differing.first - 1 for differing, _ in store.differing)]))
        self._blocks.forget(min(other.position for other in self._stores))

    # A difference ---------------------------------------------------------------------------------------------------

    async def _differ(self, store: _Store, block: Block) -> bool:
        """Look at it one by one, and again; False: the store is not what it was when it was asked."""
        found = await self._judge.judge(store.name, store.holding, block)
        if found is not None:
            await trio.sleep(self.DOUBT_SECONDS)
            if store.pump.cursor < block.last or not store.pump.snapshot().connected:
                return False
            found = await self._judge.judge(store.name, store.holding, block)
        if found is None:
            return True
        log.error("a store differs from what was accepted", store=store.name, what=found.sentence, mend=found.mend)
        store.differing = [one for one in store.differing if one[1].alarms(self._now_ms())]
        store.differing.append((block, found))
        store.again_at = trio.current_time() + self.AGAIN_SECONDS
        return True

    async def _look_again(self, store: _Store) -> None:
        if not store.differing or trio.current_time() < store.again_at:
            return
        if store.holding.sampling is not None and self._budget.left(trio.current_time()) <= 0:
            return
        store.again_at = trio.current_time() + self.AGAIN_SECONDS
        for block, before in list(store.differing):
            if not before.alarms(self._now_ms()) or store.pump.cursor < block.last:
                continue
            found = await self._judge.judge(store.name, store.holding, block)
            store.differing.remove((block, before))
            if found is None:
                log.info("a store does not differ any more", store=store.name, first=block.first, last=block.last)
            else:
                store.differing.append((block, attrs.evolve(found, found_ms=before.found_ms)))
        store.cannot, store.worked_ms = None, self._now_ms()

    async def _remember(self) -> None:
        marks = {store.name: store.mark for store in self._stores}
        if marks != self._remembered:
            await self._keeper.ask(lambda journal: journal.ledger.remember_verified(marks))
            self._remembered = marks

    def snapshot(self) -> VerificationSnapshot:
        """As of now."""
        return compared([self._compared(store) for store in self._stores], self._budget.used_share(trio.current_time()))

    def _compared(self, store: _Store) -> StoreCompared:
        waiting = [b.from_ms for b in self._blocks.closed if b.last > store.position][:1]
        since = waiting[0] if waiting else self._blocks.waiting_since_ms
        sampling = store.holding.sampling
        return StoreCompared(
            name=store.name,
            up_to_ms=store.up_to_ms,
            behind_seconds=0.0 if since is None else max(0.0, (self._now_ms() - since) / 1000),
            one_in=sampling.one_in if sampling else 1.0,
            whole_share=sampling.whole_share if sampling else 0.0,
            compared=store.compared,
            skipped=store.skipped,
            differences=tuple(found for _, found in store.differing),
            cannot=store.cannot,
            worked_ms=store.worked_ms,
        )


def _listed(journal: Journal, *, after: int) -> list[Listed]:
    return journal.listed(after, LISTED)
