"""The pipeline over a real journal, in virtual time: what is accepted, in which order, what is known of the rest."""

from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from polygon_live.backlog import MOST_TICKS
from polygon_live.errors import InternalFault, JournalError
from polygon_live.keeper import STALL_SECONDS
from polygon_live.model import Batch, encode
from polygon_live.wire import Quote
from tests.feeding import PRICES, TUESDAY_MS
from tests.pipelines import World
from tests.test_pump import tick


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path / "journal")


async def test_what_is_accepted_is_in_the_journal_and_in_every_store_in_order(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.running() as pipeline:
        for _ in range(5):
            await world.tick()
            await trio.sleep(1)
        accepted = pipeline.validator.accepted
        assert pipeline.keeper.snapshot().tail == pipeline.validator.last_seq
    assert accepted == 10
    for sink in world.sinks:
        assert sink.stored == list(range(sink.stored[0], sink.stored[0] + 10))
        assert sink.closed
    journal = world.journal()
    portion = journal.read(0, 1000)
    assert portion is not None
    assert portion.batch is not None
    assert [t.seq for t in portion.batch.ticks] == world.sinks[0].stored
    assert journal.ledger.cursors() == dict.fromkeys(("first", "second", "third"), world.sinks[0].stored[-1])
    journal.close()


async def test_no_number_is_used_twice_though_the_clock_is_set_back(world: World, autojump_clock: MockClock) -> None:
    async with world.running():
        await world.tick()
    world._began += 86_400  # a day back
    async with world.running():
        await world.tick()
    stored = world.sinks[0].stored
    assert len(stored) == 4
    assert stored == sorted(set(stored))


async def test_a_disconnect_is_an_entry_from_the_last_tick_to_the_next(world: World, autojump_clock: MockClock) -> None:
    async with world.running():
        last = world.wall_ms()
        await world.tick()
        world.standin.latest.reset()
        await world.standin.subscribed(2, 2)
        assert [(g.symbol, g.cause, g.from_ms, g.to_ms) for g in world.ledger()] == [
            (symbol, "disconnect", last, None) for symbol in world.symbols
        ]
        assert world.pipeline.gaps().lasting == tuple(sorted(world.symbols))
        back = world.wall_ms()
        await world.tick("EURUSD")
        ended = {g.symbol: g for g in world.ledger()}
        assert ended["EURUSD"].to_ms == back
        assert ended["EURUSD"].last_seq == world.pipeline.validator.last_seq
        assert ended["XAUUSD"].to_ms is None
        assert world.pipeline.gaps().lasting == ("XAUUSD",)


@pytest.mark.parametrize("wrong_hours", [-2, 96])
async def test_what_a_wrong_clock_rejects_is_an_entry_that_ends_when_the_clock_is_right(
    world: World, autojump_clock: MockClock, wrong_hours: int
) -> None:
    async with world.running() as pipeline:
        last = world.true_ms()
        await world.tick()
        world.wrong_ms = wrong_hours * 3_600_000
        await world.tick("EURUSD")
        await world.tick("EURUSD")
        assert world.ledger() == [], "two wrong timestamps may be Polygon's"
        await world.tick()
        assert [(g.symbol, g.cause, g.from_ms, g.to_ms) for g in world.ledger()] == [
            (symbol, "clock", last, None) for symbol in sorted(world.symbols)
        ]
        await world.tick()
        assert len(world.ledger()) == len(world.symbols)
        world.wrong_ms = 0
        back = world.true_ms()
        await world.tick()
        assert {g.to_ms for g in world.ledger()} == {back}
        assert pipeline.gaps().lasting == ()


async def test_wrong_timestamps_among_right_ones_are_no_fault_of_the_clock(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.running():
        await world.tick()
        for _ in range(5):
            wrong = [msgspec.structs.replace(world.quote(s), t=world.true_ms() + 7_200_000) for s in world.symbols]
            world.standin.send([*wrong, *wrong, world.quote("EURUSD", PRICES["EURUSD"] * 1.0001)])
            await trio.sleep(0.1)
            await world.tick()
        assert world.ledger() == []


async def test_the_time_between_two_runs_is_an_entry(world: World, autojump_clock: MockClock) -> None:
    async with world.running():
        last = world.wall_ms()
        await world.tick()
        assert world.ledger() == []
    await trio.sleep(300)
    async with world.running():
        back = world.wall_ms()
        await world.tick("XAUUSD")
        found = {g.symbol: (g.cause, g.from_ms, g.to_ms) for g in world.ledger()}
    assert found == {"XAUUSD": ("downtime", last, back), "EURUSD": ("downtime", last, None)}


async def test_backfilled_quotes_are_numbered_and_delivered_among_the_live_ones(
    world: World, autojump_clock: MockClock
) -> None:
    old = Quote("EUR/USD", 1.2, 1.1, TUESDAY_MS - 3_600_000, 48)
    async with world.running() as pipeline:
        await world.tick("EURUSD")
        done = await pipeline.accept_backfill("EURUSD", [old, old], world.wall_ms())
        assert (done.ticks, done.rejected, done.last_seq) == (2, 0, pipeline.validator.last_seq)
        await world.tick("EURUSD")
    assert len(world.sinks[0].stored) == 4
    assert [sink.stored for sink in world.sinks] == [world.sinks[0].stored] * 3
    with pytest.raises(trio.ClosedResourceError):
        await pipeline.accept_backfill("EURUSD", [old], world.wall_ms())


def failing(batch: Batch) -> None:
    raise JournalError("no space left on device")


async def test_while_the_journal_fails_ticks_go_on_and_the_stretch_is_in_the_ledger_afterwards(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running() as pipeline:
        await world.tick()
        with monkeypatch.context() as patch:
            patch.setattr(pipeline._journal, "append", failing)
            since = world.wall_ms()
            await world.tick()
            await trio.sleep(1)
            until = world.wall_ms()
            await world.tick()
            snapshot = pipeline.keeper.snapshot()
            assert (snapshot.failing, snapshot.unjournaled_ticks) == ("no space left on device", 4)
        await world.tick()
        assert pipeline.keeper.snapshot().failing is None
    (gap,) = world.ledger()
    assert (gap.symbol, gap.cause, gap.from_ms, gap.to_ms, gap.ticks) == ("*", "unjournaled", since, until, 4)
    assert [len(sink.stored) for sink in world.sinks] == [8, 8, 8]


async def test_a_journal_that_hangs_is_not_waited_for(world: World, autojump_clock: MockClock) -> None:
    async with world.running() as pipeline:
        await world.tick()
        world.call.pause = 60
        await world.tick()
        await trio.sleep(3)
        assert "has taken more than 2 s" in str(pipeline.keeper.snapshot().failing)
        assert len(world.sinks[0].stored) == 4
        world.call.pause = 0
        await world.tick()
        await trio.sleep(70)
    assert [len(sink.stored) for sink in world.sinks] == [6, 6, 6]


async def test_a_bug_ends_it_after_delivering_what_was_accepted(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> object:
        raise ZeroDivisionError

    with pytest.RaisesGroup(InternalFault, flatten_subgroups=True):
        async with world.running() as pipeline:
            await world.tick()
            monkeypatch.setattr(pipeline.validator, "judge", bug)
            await world.tick()
    assert [len(sink.stored) for sink in world.sinks] == [2, 2, 2]


async def test_a_power_cut_that_took_the_journals_tail_is_mended_from_a_store(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.running():
        await world.tick()
    kept = world.journal()
    tail = kept.tail
    kept.close()
    # The power went when the first store had two ticks more than what the journal had on its disk.
    ticks = [tick(tail + 1, TUESDAY_MS), tick(tail + 2, TUESDAY_MS)]
    world.sinks[0].store(Batch(tail, ticks, [encode(t) for t in ticks]))
    async with world.running():
        await world.tick()
    assert world.sinks[0].stored == world.sinks[1].stored
    assert world.sinks[1].stored[2:4] == [tail + 1, tail + 2]
    assert [g.cause for g in world.ledger() if g.store] == []


async def test_a_keeper_that_fails_is_seen(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> object:
        raise ZeroDivisionError

    async with world.running() as pipeline:
        with monkeypatch.context() as patch:
            patch.setattr(pipeline._journal, "sync", bug)
            await trio.sleep(1.5)
            failing = [w.name for w in (watcher.snapshot() for watcher in pipeline.watchers) if not w.running]
            assert failing == ["journal keeper"]
        await trio.sleep(10)
        assert all(watcher.snapshot().running for watcher in pipeline.watchers)


async def test_what_the_disk_hides_is_told_to_the_mirror_all_the_same(world: World, autojump_clock: MockClock) -> None:
    """A disk that hangs is when it is needed."""
    async with world.running() as pipeline:
        await world.tick()
        world.call.pause = 3600
        await world.tick()
        await trio.sleep(3)
        began = trio.current_time()
        with pytest.raises(JournalError, match="look at the disk"):
            await pipeline.keeper.changes(0, 10)
        with pytest.raises(JournalError, match="look at the disk"):
            await pipeline.keeper.gaps(10)
        assert trio.current_time() - began <= 2 * STALL_SECONDS
        assert [gap.cause for gap in pipeline.keeper.unentered()] == ["unjournaled"]
        world.call.pause = 0


async def test_cancelled_from_outside_the_journal_is_closed_in_order(world: World, autojump_clock: MockClock) -> None:
    pipeline = world.make(world.journal(), None)
    with trio.move_on_after(1):
        await pipeline.run()
    world.journal().close()  # nobody holds it


async def test_nothing_is_accepted_after_a_stop_that_ran_out_of_time(world: World, autojump_clock: MockClock) -> None:
    old = Quote("EUR/USD", 1.2, 1.1, TUESDAY_MS - 3_600_000, 48)
    pipeline = world.make(world.journal(), None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipeline.run)
        await trio.sleep(1)
        pipeline.cut()
    with pytest.raises(trio.ClosedResourceError):
        await pipeline.accept_backfill("EURUSD", [old], world.wall_ms())
    assert pipeline.validator.accepted == 0
    assert not list(world.folder.glob("journal-*"))


async def test_what_was_fetched_while_the_journal_fails_is_to_be_fetched_again(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap is filled when what fills it is in the journal; and what is years old must not widen the stretch that is
    looked at again for all symbols. No live tick is needed to end the fault: the market may be closed.
    """
    old = Quote("EUR/USD", 1.2, 1.1, TUESDAY_MS - 30 * 86_400_000, 48)
    async with world.running() as pipeline:
        await world.tick()
        with monkeypatch.context() as patch:
            patch.setattr(pipeline._journal, "append", failing)
            with pytest.raises(JournalError, match="no space left on device"):
                await pipeline.accept_backfill("EURUSD", [old], world.wall_ms())
            with pytest.raises(JournalError, match="no space left on device"):
                await pipeline.accept_backfill("EURUSD", [old], world.wall_ms())
            await world.tick()
        assert (await pipeline.accept_backfill("EURUSD", [old], world.wall_ms())).ticks == 1
        assert pipeline.keeper.failing is None
    assert [gap.from_ms >= TUESDAY_MS for gap in world.ledger()] == [True]
    assert pipeline.validator.accepted == 7


@pytest.mark.parametrize("ticks", [12_345])
async def test_what_comes_back_after_a_power_cut_is_no_larger_than_other_batches(
    world: World, autojump_clock: MockClock, ticks: int
) -> None:
    async with world.running():
        await world.tick()
    kept = world.journal()
    tail = kept.tail
    kept.close()
    more = [tick(tail + n, TUESDAY_MS) for n in range(1, ticks + 1)]
    world.sinks[0].store(Batch(tail, more, [encode(t) for t in more]))
    async with world.running():
        await world.tick()
    assert world.sinks[0].stored == world.sinks[1].stored
    assert len(world.sinks[1].stored) == 2 + ticks + 2
    assert max(world.sinks[1].sizes) <= MOST_TICKS


async def test_nothing_is_backfilled_before_what_a_power_cut_took_is_back(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.running():
        await world.tick()
    kept = world.journal()
    tail = kept.tail
    kept.close()
    lost = tick(tail + 1, TUESDAY_MS)
    world.sinks[0].store(Batch(tail, [lost], [encode(lost)]))
    world.sinks[1].hangs = 5.0
    pipeline = world.make(world.journal(), None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipeline.run)
        old = Quote("EUR/USD", 1.2, 1.1, TUESDAY_MS - 3_600_000, 48)
        done = await pipeline.accept_backfill("EURUSD", [old], world.wall_ms())
        assert done.last_seq > lost.seq
        pipeline.stop(10)
    assert world.sinks[1].stored[-2:] == [lost.seq, done.last_seq]
