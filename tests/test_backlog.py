"""A pump and its backlog against chance: what is accepted comes to the store once and in order, or is told as lost; and
nothing is told as lost that is not.
"""

import random
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from polygon_live.errors import StoreUnavailable
from polygon_live.journal import Journal
from polygon_live.model import Batch, encode
from polygon_live.pump import Pump
from tests import journaling
from tests.pumping import Desk, pump_on
from tests.test_pump import ScriptedSink, tick

SEEDS = 20


@attrs.define
class Chance:
    """One seed's story. ``last`` is the last ``seq`` that was accepted, in this run or before."""

    rng: random.Random
    journal: Journal
    sink: ScriptedSink
    desk: Desk
    pump: Pump | None = None
    last: int = 0
    number: int = 0
    """The last that was given."""
    failing: bool = False
    """The journal."""
    calm: bool = False
    """Nothing goes wrong any more."""
    journaled: set[int] = attrs.Factory(set)
    removed: set[int] = attrs.Factory(set)

    def accept(self) -> None:
        assert self.pump is not None
        seqs = range(self.number + 1, self.number + 1 + self.rng.choice((1, 1, 2, 5, 12)))
        ticks = [tick(seq) for seq in seqs]
        batch = Batch(self.last, ticks, [encode(t) for t in ticks])
        self.last = self.number = batch.last
        self.failing = not self.calm and self.rng.random() < (0.7 if self.failing else 0.15)
        if not self.failing:
            self.journal.append(batch)
            self.journaled.update(seqs)
        if self.rng.random() < 0.05:
            self.journal._shelf.retire()
        self.pump.backlog.offer(batch)

    def trouble(self) -> None:
        """At the store, at the next calls, or in the past."""
        if self.calm:
            return
        kind = self.rng.randrange(8)
        if kind == 0:
            self.sink.writes.append(lost)
        elif kind == 1:
            self.sink.writes.append(answer_lost)
        elif kind == 2:
            self.sink.writes.append(self.fallen_behind)
        elif kind == 3:
            self.sink.opens.append(StoreUnavailable("away"))
        elif kind == 4:
            self.sink.poison |= {self.last + self.rng.randrange(1, 4)}
        elif kind == 5:
            self.give_up()
        elif self.sink.gate is None:
            self.sink.gate = trio.Event()  # it takes its time
        else:
            self.sink.gate.set()
            self.sink.gate = None

    def fallen_behind(self, sink: ScriptedSink, part: Batch) -> None:
        del part
        sink.restored(self.rng.choice([0, *sink.stored]))
        raise StoreUnavailable("another server answers now")

    def give_up(self) -> None:
        if (oldest := self.journal._shelf.oldest_sealed()) is not None:
            self.journal._drop(oldest, ())
            self.removed |= {seq for seq in self.journaled if seq <= oldest.last}

    async def run(self, steps: int) -> None:
        """One run of the collector, to its end or to a kill."""
        orderly = self.calm or self.rng.random() < 0.5
        self.number += self.rng.choice((0, 1000))
        self.last = self.journal.tail
        cursor = None if self.pump is None else self.pump.remembered
        self.pump = pump_on(
            self.sink,
            self.desk,
            wall_ms=lambda: round(trio.current_time() * 1000),
            rng=self.rng,
            limit=self.rng.choice((1, 6, 30)),
            cursor=cursor,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pump.run)
            for _ in range(steps):
                self.rng.choice((self.accept, self.accept, self.accept, self.trouble))()
                await trio.sleep(self.rng.choice((0, 0, 0.001, 1, 30)))
            if self.sink.gate is not None:
                self.sink.gate.set()
                self.sink.gate = None
            if orderly:
                await self.pump.backlog.aclose()
            else:
                nursery.cancel_scope.cancel()


def lost(_sink: ScriptedSink, _part: Batch) -> None:
    raise StoreUnavailable("the write did not happen")


def answer_lost(sink: ScriptedSink, part: Batch) -> None:
    sink.store(part)
    raise StoreUnavailable("the write happened, its answer was lost")


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_nothing_is_lost_doubled_or_told_as_lost_without_being_so(
    seed: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    rng = random.Random(seed)
    with journaling.journal(tmp_path / "journal", segment_bytes=2**14, sync=lambda _: None) as journal:
        story = Chance(rng, journal, ScriptedSink(), Desk(journal))
        for _ in range(rng.choice((1, 2, 3))):
            await story.run(rng.randrange(5, 40))
        story.sink.writes, story.sink.opens, story.calm = [], [], True
        await story.run(3)

        stored, aside = story.sink.stored, {reject.seq for reject in story.desk.aside}
        told = story.desk.holes
        assert stored == sorted(set(stored))
        there = story.journaled - story.removed
        for seq in there:
            assert seq in stored or seq in aside, f"{seq} is in the journal and not in the store"
        for hole in told:
            wrong = [seq for seq in {*there, *stored} if hole.first <= seq <= hole.last]
            assert not wrong, f"{hole} was told, and {wrong} are in the journal or in the store"
        for seq in story.removed:
            known = seq in stored or seq in aside or any(hole.first <= seq <= hole.last for hole in told)
            assert known, f"{seq} was removed, and nobody knows"
