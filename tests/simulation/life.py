"""One life of the collector: the real ``Pipeline`` with everything that it touches, from its start to its end.

When it is killed, at a step between any two awaits, its folder is copied as it is (or, if the power went, as far as it
was on the disk) and from then on its hands pass through everything: its finally blocks run, and change nothing.
"""

import random
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import attrs
import trio

from polygon_live import wire
from polygon_live.calendar import open_since, open_stretches
from polygon_live.config import Secret
from polygon_live.errors import JournalError
from polygon_live.journal import Journal
from polygon_live.limits import Turns
from polygon_live.model import Batch, Reject, Tick, canonical_symbol
from polygon_live.operational import Operational
from polygon_live.pipeline import Pipeline, Upstream
from polygon_live.sink import Identity, Sink
from polygon_live.standin import Connection, StandIn
from polygon_live.standin.faults import ENDINGS
from tests.simulation.keeping import Call, Kept
from tests.simulation.log import LogSink
from tests.simulation.plan import End, FeedFault
from tests.simulation.seeded import run_seeded
from tests.simulation.stream import StreamSink
from tests.simulation.table import TableSink
from tests.simulation.world import World

KEY: Final = "test-key-77aa"
URL: Final = "ws://polygon.example/forex"
GRACE_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 1500.0
LOOK_SECONDS: Final = 7.0
SPIN_STEPS: Final = 60_000
"""No life needs so many."""
QUOTE_SECONDS: Final = 5.0
LARGEST_BATCH: Final = 400
MOST_FETCHED: Final = 7


class Life(trio.abc.Instrument):
    """``end`` None: the last one, which is stopped when everything is settled."""

    def __init__(self, world: World, number: int, end: End | None) -> None:
        self.number = number
        self.alive = True
        self._world = world
        self._end = end
        self._left: int | None = None
        """Steps until it dies, when that is near."""
        self._scope = trio.CancelScope()
        self._standin = StandIn(key=KEY)
        self._standin.scripts = world.scripts
        self._pipeline: Pipeline
        self._steps = 0
        self.astray = False
        """It did not end by itself, and nothing can be said of what follows."""
        self._fallen: set[str] = set()
        self._ended = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Between any two awaits."""
        del task
        self._world.steps += 1
        self._steps += 1
        if self._steps == SPIN_STEPS and self.alive:
            self._world.broken(f"it takes {SPIN_STEPS} steps and does not end")
            self.astray, self.alive = True, False
            self._scope.cancel()
        if self._left is not None and self.alive:
            self._left -= 1
            if self._left < 0:
                try:
                    self._die()
                except Exception:  # noqa: BLE001  # Trio would let go of this instrument, and the life would never end
                    self._world.broken(f"the simulation itself fell: {traceback.format_exc()}")
                    self.astray, self.alive = True, False
                    self._scope.cancel()

    def live(self) -> None:
        """All of it."""
        world = self._world
        world.life = self.number
        world.running = True
        fault: BaseException | None = None
        try:
            run_seeded(self._run, world.plan.seed * 64 + self.number, self)
        except KeyboardInterrupt:
            raise
        except BaseException as why:  # noqa: BLE001  # what a dead one still raises is nobody's business
            fault = why
        if self.alive:
            world.before, world.running = self._ended, False
            if fault is not None:
                told = "".join(traceback.format_exception(fault))
                world.broken(f"the collector fell: {fault!r}\n{told}")
                self.astray = True
        if self._end is not None and not self.astray:
            if self.alive:
                world.after(self._end)
            world.before += self._end.down

    def _die(self) -> None:
        world, end = self._world, self._end
        assert end is not None
        world.happened(f"dies: {end.how}")
        for store in world.stores:
            store.died(self)
        world.after(end)
        world.before, world.running = world.now, False
        self.alive = False
        self._scope.cancel()

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._collect()
        finally:
            self._ended = self._world.now

    async def _collect(self) -> None:
        world = self._world
        plan = world.plan
        while left := world.disk_trouble("fails"):  # noqa: ASYNC110  # exit 74, until one of the next tries succeeds
            await trio.sleep(left)
        journal = self._open_journal()
        identity = Identity("polygon-live-1", journal.id, "host")
        sinks: Sequence[Sink] = (
            TableSink(world.table, identity, self),
            StreamSink(world.stream, identity, self),
            LogSink(world.log, identity, self),
        )
        async with trio.open_nursery() as work, self._standin.in_memory() as dial, trio.open_nursery() as outside:
            kept: Any = Kept(journal, world, self)
            pipeline = self._pipeline = Pipeline(
                journal=kept,
                call=Call(world, self, work),
                sinks=sinks,
                operational=Operational(symbols=plan.symbols),
                upstream=Upstream(
                    urls=(URL,),
                    key=Secret(KEY),
                    dial=dial,
                    frames_max_bytes=plan.frames_max_bytes,
                    turns=Turns(Operational().rate_limit_per_second, wall_ms=world.wall_ms),
                ),
                sessions=open_since,
                stretches=open_stretches,
                wall_ms=world.wall_ms,
                rng=random.Random(f"collector {plan.seed} {self.number}"),
                queue_ticks=plan.queue_ticks,
                sync_seconds=plan.sync_seconds,
            )
            self._listen(pipeline)
            outside.start_soon(self._polygon)
            for fault in plan.feed:
                if fault.at >= world.now:
                    outside.start_soon(self._feed_fails, fault)
            outside.start_soon(self._look)
            outside.start_soon(self._backfill)
            outside.start_soon(self._until_its_end)
            await pipeline.run()
            self._watch_tasks()
            outside.cancel_scope.cancel()
            work.cancel_scope.cancel()

    def _open_journal(self) -> Journal:
        world = self._world
        plan = world.plan
        journal = Journal.open(
            world.disk.folder,
            most_bytes=plan.most_bytes,
            keep_ms=plan.keep_ms,
            now_ms=world.wall_ms,
            sync=world.disk.sync,
            segment_bytes=plan.segment_bytes,
        )
        lost = world.reopened(journal.tail)
        world.happened(f"starts with a journal up to {journal.tail}, {lost} lost")
        return journal

    def _listen(self, pipeline: Pipeline) -> None:
        """See what is refused, and what is taken in without the journal."""
        world = self._world
        judge = pipeline.validator.judge

        def judged(frames: Sequence[wire.Frame], heard: float) -> tuple[list[Tick], list[Reject]]:
            ticks, refused = judge(frames, heard)
            if self.alive:
                world.record.reject(reject.raw for reject in refused)
            return ticks, refused

        def offered(offer: Callable[[Batch], None], batch: Batch) -> None:
            if self.alive and batch.first not in world.record.accepted:
                if not world.disk_suffers:
                    world.broken(f"{batch.first} goes to the stores unjournaled, and the disk is in order")
                world.record.accept(batch, world.now, journaled=False)
                world.happened(f"unjournaled {batch.after} {batch.first}..{batch.last}")
            offer(batch)

        pipeline.validator.judge = judged  # type: ignore[method-assign]
        for pump in pipeline.pumps:
            pump.backlog.offer = partial(offered, pump.backlog.offer)  # type: ignore[method-assign]

    # Beside it ------------------------------------------------------------------------------------------------------

    async def _polygon(self) -> None:
        """Send what there is to send; in the end one more of each symbol, again and again."""
        world = self._world
        while world.frames and world.frames[0].at < world.now:
            missed = world.frames.popleft()  # nobody was there
            world.record.offer(missed.quotes, missed.at, frozenset())
        while world.frames:
            await trio.sleep(max(0.0, world.frames[0].at - world.now))
            if self.alive:
                self._send(world.frames.popleft().quotes)
        await trio.sleep(max(0.0, world.plan.seconds - world.now))
        while True:
            self._send(world.next_quotes())
            await trio.sleep(QUOTE_SECONDS)

    def _send(self, quotes: Sequence[wire.Quote]) -> None:
        if self.alive and not (self._end is None and self._pipeline.stopping):
            self._world.record.offer(quotes, self._world.now, self._standin.script.mute)
            self._standin.send(quotes)

    async def _feed_fails(self, fault: FeedFault) -> None:
        world = self._world
        await trio.sleep(fault.at - world.now)
        connections = [c for c in self._standin.connections if c.open]
        if fault.name != "mute":
            for connection in connections:
                ENDINGS[fault.name](connection)
            return
        self._mute(connections, fault.pairs)
        await trio.sleep(min(fault.seconds, world.plan.seconds - world.now))
        self._mute([c for c in self._standin.connections if c.open], frozenset())

    def _mute(self, connections: Sequence[Connection], pairs: frozenset[str]) -> None:
        self._standin.script = attrs.evolve(self._standin.script, mute=pairs)
        for connection in connections:
            connection.script = attrs.evolve(connection.script, mute=pairs)

    async def _backfill(self) -> None:
        """Some of what no life before this one received is fetched. A pipeline that ends takes no more."""
        world = self._world
        for moment in world.plan.backfills:
            if moment >= world.now:
                await trio.sleep(moment - world.now)
                missed = world.record.missed(MOST_FETCHED, world.before)
                if self.alive and missed:
                    symbol = canonical_symbol(missed[0].p)
                    with suppress(trio.ClosedResourceError, JournalError):
                        await self._pipeline.accept_backfill(symbol, missed, world.wall_ms())

    async def _look(self) -> None:
        """At everything that people look at, and at what waits in memory."""
        world, pipeline = self._world, self._pipeline
        plan = world.plan
        while True:
            await trio.sleep(LOOK_SECONDS)
            for pump in pipeline.pumps:
                pump.snapshot()
                waiting = pump.backlog.queue.held
                if waiting > plan.queue_ticks + LARGEST_BATCH:
                    world.broken(f"{waiting} ticks wait in memory for {pump.sink.name}, at most {plan.queue_ticks}")
            pipeline.keeper.snapshot()
            pipeline.feed_snapshot()
            pipeline.gaps()
            pipeline.validator.snapshot(open_since)
            self._watch_tasks()

    def _watch_tasks(self) -> None:
        """A task of the pipeline that falls is started anew, and still no fault may make it fall."""
        for watcher in self._pipeline.watchers:
            told = watcher.snapshot()
            if told.restarts and told.name not in self._fallen:
                self._fallen.add(told.name)
                self._world.broken(f"the task {told.name} fell: {told.last_error}")

    async def _until_its_end(self) -> None:
        world, end = self._world, self._end
        if end is None:
            await self._settle()
        else:
            await trio.sleep(max(0.0, end.at - world.now))
        if end is None or end.how == "stop":
            world.happened("is stopped")
            if end is None:
                world.stopped_at = world.now
            self._pipeline.stop(GRACE_SECONDS)
        else:
            self._left = end.steps

    async def _settle(self) -> None:
        """Until every store has everything and nothing lasts any more."""
        world, pipeline = self._world, self._pipeline
        await trio.sleep(max(0.0, world.plan.seconds - world.now))
        with trio.move_on_after(SETTLE_SECONDS) as patience:
            while not self._settled():  # noqa: ASYNC110  # nobody tells when it is
                await trio.sleep(1.0)
        if patience.cancelled_caught:
            snapshots = [pump.snapshot() for pump in pipeline.pumps]
            told = [f"{s.name} at {s.cursor}, {s.waiting_ticks} wait, {s.last_error}" for s in snapshots]
            world.broken(
                f"nothing goes wrong for {SETTLE_SECONDS:g} s and it does not settle: {told}, the feed is "
                f"{pipeline.feed_snapshot().state}, lasting gaps {pipeline.book.lasting}"
            )

    def _settled(self) -> bool:
        pipeline = self._pipeline
        return (
            pipeline.feed_snapshot().state == "streaming"
            and not pipeline.book.lasting
            and pipeline.keeper.snapshot().failing is None
            and all(pump.cursor >= pipeline.last_accepted for pump in pipeline.pumps)
            and self._world.now > self._world.plan.seconds + QUOTE_SECONDS
            and self._world.record.last_is_in(self._world.now - 1.0)
        )
