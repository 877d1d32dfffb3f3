"""After a power cut: what a store had, and the journal had not, comes back before anything new; in virtual time."""

from collections.abc import Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock

from polygon_live.errors import StoreUnavailable
from polygon_live.gap import Gap
from polygon_live.journal import Hole
from polygon_live.model import encode
from polygon_live.recovery import PATIENCE_SECONDS, Recovery
from tests.test_pump import START_MS, ScriptedSink, tick


def store(name: str, *held: int) -> ScriptedSink:
    return ScriptedSink(name=name, stored=list(held), cursor=max(held, default=0))


@attrs.define
class Start:
    """One start with the journal's tail at 10."""

    recovery: Recovery = attrs.field(init=False)
    tail: int = 10
    told: dict[str, Sequence[Gap]] = attrs.Factory(dict)
    regained: list[int] = attrs.Factory(list)

    async def opens(self, sink: ScriptedSink, after: float = 0.0) -> None:
        await trio.sleep(after)
        self.told[sink.name] = await self.recovery.heard(sink, sink.cursor or 0)

    async def judge(self) -> None:
        batch = await self.recovery.batch()
        assert batch is None or batch.after == 10
        if batch:
            self.regained, self.tail = [t.seq for t in batch.ticks], batch.last
        self.recovery.over()

    def unheard_of(self, seq: int) -> Hole | None:
        return Hole(self.tail + 1, seq, "unjournaled", None, START_MS) if seq > self.tail else None


def start_with(kept: Sequence[bytes] = ()) -> Start:
    start = Start()
    start.recovery = Recovery(10, ["first", "second"], start.unheard_of, lambda: START_MS + 60_000, kept)
    return start


async def started(*opens: tuple[ScriptedSink, float], kept: Sequence[bytes] = ()) -> Start:
    start = start_with(kept)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start.judge)
        for sink, after in opens:
            nursery.start_soon(start.opens, sink, after)
    return start


async def test_nothing_was_lost_and_nobody_waits(autojump_clock: MockClock) -> None:
    start = await started((store("first", 9, 10), 0.0), (store("second", 7), 1.0))
    assert trio.current_time() == 1.0
    assert (start.regained, start.told) == ([], {"first": [], "second": []})


async def test_what_any_store_had_comes_back(autojump_clock: MockClock) -> None:
    start = await started((store("first", 9, 10, 11, 12), 0.0), (store("second", 10, 12, 13), 0.0))
    assert start.regained == [11, 12, 13]
    assert start.told == {"first": [], "second": []}


async def test_a_store_that_stays_away_is_not_waited_for(autojump_clock: MockClock) -> None:
    start = await started((store("first", 11), 0.0), (store("second", 8), 100.0))
    assert start.regained == [11]
    assert start.told["second"] == []


async def test_a_store_that_comes_too_late_is_told_as_a_gap_of_the_others(autojump_clock: MockClock) -> None:
    start = await started((store("first", 8), 0.0), (store("second", 9, 14), PATIENCE_SECONDS + 1))
    assert start.regained == []
    (gap,) = start.told["second"]
    assert (gap.store, gap.cause, gap.first_seq, gap.last_seq) == ("first", "journal_tail_lost", 11, 14)
    assert (gap.from_ms, gap.to_ms) == (START_MS, START_MS + 60_000)


async def test_who_comes_last_and_lacks_it_is_told_of_himself(autojump_clock: MockClock) -> None:
    start = await started((store("first", 14), PATIENCE_SECONDS + 1), (store("second", 12), PATIENCE_SECONDS + 2))
    (gap,) = start.told["second"]
    assert (gap.store, gap.first_seq, gap.last_seq) == ("second", 13, 14)


async def test_what_can_not_be_read_costs_itself(autojump_clock: MockClock) -> None:
    """A collector that ends on it would end at every start."""

    class Spoiled(ScriptedSink):
        async def held_after(self, seq: int) -> Sequence[bytes]:
            good = await super().held_after(seq)
            return [good[0], b'{"seq": 12}', b"\xff", *(await super().held_after(0))]

    sink = Spoiled(name="first", stored=[9, 11, 13], cursor=13)
    start = await started((sink, 0.0), (store("second", 8), 0.0))
    assert start.regained == [11, 13]


@pytest.mark.parametrize(
    ("refused", "back"),
    [
        ([12], [11, 12, 13]),  # another store may lack it
        ([14, 15], [11, 13, 14, 15]),
        ([12, 14, 16, 17, 99], [11, 12, 13, 14]),
        ([11], [11, 13]),
    ],
)
async def test_a_tick_of_the_quarantine_comes_back_if_nothing_is_lost_before_it(
    refused: list[int], back: list[int], autojump_clock: MockClock
) -> None:
    kept = [encode(tick(seq)) for seq in refused]
    start = await started((store("first", 9, 11, 13), 0.0), (store("second", 8), 0.0), kept=kept)
    assert start.regained == back


async def test_without_a_store_nobody_knows_what_is_lost_before_a_refused_tick(autojump_clock: MockClock) -> None:
    start = await started((store("first", 8), 0.0), kept=[encode(tick(12))])
    assert start.regained == []
    start = await started((store("first", 8), 0.0), kept=[encode(tick(11)), encode(tick(13))])
    assert start.regained == [11]


async def test_a_store_that_can_not_say_what_it_has_is_told_of_when_it_is_too_late(autojump_clock: MockClock) -> None:
    class Mute(ScriptedSink):
        async def held_after(self, seq: int) -> Sequence[bytes]:
            raise StoreUnavailable(f"more beyond {seq} than can be copied back")

    sink = Mute(name="first", stored=[9, 14], cursor=14)
    start = start_with()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start.judge)
        nursery.start_soon(start.opens, store("second", 8))
        with pytest.raises(StoreUnavailable):
            await start.opens(sink)
        await start.opens(sink, PATIENCE_SECONDS + 1)
    assert start.regained == []
    (gap,) = start.told["first"]
    assert (gap.store, gap.first_seq, gap.last_seq) == ("second", 11, 14)


async def test_a_store_that_answers_in_a_later_run_is_told_as_a_gap_of_who_has_gone_on(
    autojump_clock: MockClock,
) -> None:
    """It had 11 to 14 when the power went; the run after that began at 20, and never heard of it."""
    start = Start(tail=30)
    lost = Hole(11, 14, "unjournaled", None, START_MS, START_MS + 5000)
    stores = ["first", "second", "third"]
    recovery = Recovery(30, stores, lambda seq: lost if 10 < seq < 20 else None, lambda: START_MS + 60_000)
    start.recovery = recovery
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recovery.batch)
        for sink in (store("first", 14), store("second", 30), store("third", 8)):
            nursery.start_soon(start.opens, sink)
        await trio.sleep(1)
        recovery.over()
    told = [gap for gaps in start.told.values() for gap in gaps]
    assert sorted((g.store, g.first_seq, g.last_seq, g.from_ms, g.to_ms) for g in told) == [
        ("second", 11, 14, START_MS, START_MS + 5000),
        ("third", 11, 14, START_MS, START_MS + 5000),
    ]
    assert "and first has more" in told[0].detail
