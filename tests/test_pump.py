"""The loop that all sinks share, between a real journal and a sink whose answers are scripted, in virtual time."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from polygon_live.backlog import MOST_TICKS, READ_TICKS
from polygon_live.errors import JournalError, RowsRefused, StoreMisconfigured, StoreUnavailable
from polygon_live.journal import Hole, Journal, Portion
from polygon_live.model import Batch, Tick, encode
from polygon_live.pump import (
    ENOUGH_TICKS,
    FEW_TICKS,
    MISCONFIGURED_WAIT_SECONDS,
    REFUSED_IN_A_ROW,
    SAY_AGAIN_SECONDS,
    Pump,
)
from polygon_live.sink import Opened, StoreFacts, Written
from polygon_live.stride import LEAST_TICKS
from tests.pumping import Desk, pump_on

START_MS = 1_700_000_000_000


def tick(seq: int, received_ms: int = START_MS) -> Tick:
    return Tick(
        "EURUSD", 1.1, 1.2, 1.15, 0.1, received_ms, received_ms, 48, "polygon_websocket", "quote", seq, received_ms
    )


@attrs.define
class ScriptedSink:
    """A store with a cursor. It holds what it is given, after doing to each call what the script says.

    A step is None (all well) or a function that is called with the batch and may raise, before or after storing it.
    """

    keeps_cursor: ClassVar[bool] = True
    pause_seconds: ClassVar[float] = 0.0
    few_pause_seconds: ClassVar[float] = 0.0

    name: str = "scripted"
    opens: list[Exception | None] = attrs.Factory(list)
    writes: list[Callable[["ScriptedSink", Batch], None] | None] = attrs.Factory(list)
    stored: list[int] = attrs.Factory(list)
    cursor: int | None = None
    certain: bool = True
    sizes: list[int] = attrs.Factory(list)
    checks: list[Exception | None] = attrs.Factory(list)
    checked: list[float] = attrs.Factory(list)
    hangs: float = 0.0
    opened: int = 0
    closed: bool = False
    gate: trio.Event | None = None
    poison: frozenset[int] = frozenset()

    async def open(self) -> Opened:
        await trio.sleep(self.hangs)
        self.opened += 1
        if self.opens and (error := self.opens.pop(0)) is not None:
            raise error
        return Opened(self.cursor if self.keeps_cursor else None, certain=self.certain)

    async def write(self, part: Batch) -> Written:
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if bad := self.poison & {t.seq for t in part.ticks}:
            raise RowsRefused(f"value too long (one of {len(bad)})")
        if self.writes and (step := self.writes.pop(0)) is not None:
            step(self, part)
        else:
            self.store(part)
        return Written(len(part))

    def store(self, part: Batch) -> None:
        self.sizes.append(len(part))
        self.stored += [t.seq for t in part.ticks]
        self.cursor = part.last

    def restored(self, cursor: int) -> None:
        """A backup of some time ago."""
        self.stored = [seq for seq in self.stored if seq <= cursor]
        self.cursor = cursor

    async def check(self) -> None:
        self.checked.append(trio.current_time())
        await trio.sleep(self.hangs)
        if self.checks and (error := self.checks.pop(0)) is not None:
            raise error

    async def held_after(self, seq: int) -> Sequence[bytes]:
        await trio.lowlevel.checkpoint()
        return [encode(tick(held)) for held in self.stored if held > seq]

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True

    def facts(self) -> StoreFacts:
        return StoreFacts()


class Forgetful(ScriptedSink):
    """A store that remembers no cursor."""

    keeps_cursor = False


def lost(_sink: ScriptedSink, _part: Batch) -> None:
    raise StoreUnavailable("the write did not happen")


def answer_lost(sink: ScriptedSink, part: Batch) -> None:
    sink.store(part)
    raise StoreUnavailable("the write happened, its answer was lost")


class Upper(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


@attrs.define
class Bench:
    """``last`` is the last ``seq`` accepted."""

    journal: Journal
    sink: ScriptedSink
    pump: Pump
    desk: Desk
    last: int = 0

    def accept(self, *seqs: int, received_ms: int = START_MS, journaled: bool = True) -> None:
        ticks = [tick(seq, received_ms) for seq in seqs]
        one = Batch(self.last, ticks, [encode(t) for t in ticks])
        self.last = one.last
        if journaled:
            self.journal.append(one)
        self.pump.backlog.offer(one)

    async def run_to_the_end(self) -> None:
        await self.pump.backlog.aclose()
        await self.pump.run()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(tmp_path / "journal", most_bytes=2**30, keep_ms=2**40, now_ms=lambda: START_MS)
    yield journal
    journal.close()


Make = Callable[..., Bench]


@pytest.fixture
def bench(journal: Journal) -> Make:
    """Call it for a pump from ``cursor`` on, with a queue of ``limit`` ticks; a second one is a second run."""

    def make(limit: int = 1000, *, cursor: int | None = None, sink: ScriptedSink | None = None) -> Bench:
        start = trio.current_time()

        def wall_ms() -> int:
            return START_MS + round((trio.current_time() - start) * 1000)

        sink, desk = sink or ScriptedSink(), Desk(journal)
        pump = pump_on(sink, desk, wall_ms=wall_ms, rng=Upper(), limit=limit, cursor=cursor)
        return Bench(journal, sink, pump, desk, journal.tail)

    return make


@contextmanager
def running(nursery: trio.Nursery, pump: Pump) -> Iterator[None]:
    nursery.start_soon(pump.run)
    yield
    nursery.cancel_scope.cancel()


async def test_what_waited_is_one_batch_and_closing_ends_it(bench: Make, autojump_clock: MockClock) -> None:
    b = bench()
    for n in range(1, 31, 3):
        b.accept(n, n + 1, n + 2)
    await b.run_to_the_end()
    assert b.sink.stored == list(range(1, 31))
    assert b.sink.sizes == [30]
    assert b.sink.closed
    assert (b.pump.snapshot().delivered, b.pump.snapshot().waiting_ticks) == (30, 0)


async def test_batches_are_bounded(bench: Make, autojump_clock: MockClock) -> None:
    b = bench(10 * MOST_TICKS)
    for n in range(1, 2 * MOST_TICKS, 100):
        b.accept(*range(n, n + 100))
    await b.run_to_the_end()
    assert b.sink.sizes == [MOST_TICKS, MOST_TICKS]


@attrs.define
class Unhurried(ScriptedSink):
    """A store with a pause. ``times``: when it was written to."""

    pause_seconds = 0.02
    few_pause_seconds = 0.02
    times: list[float] = attrs.Factory(list)

    def store(self, part: Batch) -> None:
        self.times.append(trio.current_time())
        ScriptedSink.store(self, part)


async def test_a_store_with_a_pause_gets_the_first_tick_at_once_and_what_follows_in_turns(
    bench: Make, autojump_clock: MockClock
) -> None:
    sink = Unhurried()
    b = bench(10 * MOST_TICKS, sink=sink)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            for seq in (1, 2, 3, 4):
                b.accept(seq)
                await trio.sleep(0.009)
            await trio.sleep_until(began + 1)
            b.accept(5)
            await trio.sleep(0.001)
            b.accept(*range(6, 6 + ENOUGH_TICKS))
            await trio.sleep(0.001)
    assert sink.sizes == [1, 2, 1, 1, ENOUGH_TICKS]
    assert [round(at - began, 3) for at in sink.times] == [0, 0.02, 0.04, 1, 1.001]


class Leisurely(Unhurried):
    """The same, and for a few ticks a longer one."""

    few_pause_seconds = 0.2


async def test_a_few_ticks_wait_longer_until_they_are_more(bench: Make, autojump_clock: MockClock) -> None:
    sink = Leisurely()
    b = bench(10 * MOST_TICKS, sink=sink)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            for seq in (1, 2, 3):
                b.accept(seq)
                await trio.sleep(0.05)
            await trio.sleep_until(began + 1)
            b.accept(4)
            await trio.sleep(0.01)
            b.accept(5)
            await trio.sleep(0.035)
            b.accept(*range(6, 5 + FEW_TICKS))
            await trio.sleep(0.1)
    assert sink.sizes == [1, 2, 1, FEW_TICKS]
    assert [round(at - began, 3) for at in sink.times] == [0, 0.2, 1, 1.045]


@pytest.mark.parametrize("outcome", [lost, answer_lost])
async def test_after_an_unclear_outcome_the_stores_cursor_tells_and_nothing_is_lost_or_doubled(
    outcome: Callable[[ScriptedSink, Batch], None], bench: Make, autojump_clock: MockClock
) -> None:
    b = bench()
    b.sink.writes = [outcome, outcome, None]
    b.accept(1, 2, 3, 4, 5)
    await b.run_to_the_end()
    assert b.sink.stored == [1, 2, 3, 4, 5]
    snapshot = b.pump.snapshot()
    assert (snapshot.delivered, snapshot.lost, snapshot.waiting_ticks) == (5, 0, 0)
    assert (snapshot.cursor, snapshot.fell_behind) == (5, 0)
    assert sum(snapshot.delay.counts) == 5


async def test_how_long_a_tick_took_and_how_large_batches_are_is_counted(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench()
    b.sink.opens = [StoreUnavailable("refused")]
    b.accept(1, 2)
    b.accept(3, received_ms=START_MS - 2000)
    await b.run_to_the_end()
    snapshot = b.pump.snapshot()
    delays = dict(zip(snapshot.delay.bounds, snapshot.delay.counts, strict=False))
    assert {bound: count for bound, count in delays.items() if count} == {0.25: 2, 2.5: 1}
    assert snapshot.delay.total == pytest.approx(0.25 + 0.25 + 2.25)
    assert snapshot.delay.p99 is not None
    assert 1.0 < snapshot.delay.p99 <= 2.5
    assert (sum(snapshot.batches.counts), snapshot.batches.total) == (1, 3)


async def test_waits_double_up_to_five_seconds_and_start_afresh(bench: Make, autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.opens = [StoreUnavailable("refused")] * 7
    b.accept(1)
    began = trio.current_time()
    await b.run_to_the_end()
    assert trio.current_time() - began == 0.25 + 0.5 + 1 + 2 + 4 + 5 + 5
    assert b.sink.stored == [1]


async def test_a_misconfigured_store_is_tried_slowly_and_named(bench: Make, autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.opens = [StoreMisconfigured("password authentication failed")] * 2
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            with capture_logs() as logs:
                await trio.testing.wait_all_tasks_blocked()
            assert [line["log_level"] for line in logs] == ["error"]
            snapshot = b.pump.snapshot()
            assert snapshot.needs_operator
            assert snapshot.last_error == "password authentication failed"
            await trio.sleep(2 * MISCONFIGURED_WAIT_SECONDS + 0.1)
            assert b.pump.snapshot().connected
            assert not b.pump.snapshot().needs_operator


async def test_a_store_that_connects_and_takes_nothing_does_not_fill_the_log(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench()
    b.sink.writes = [lost] * 1000
    b.accept(1)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            with running(nursery, b.pump):
                await trio.sleep(SAY_AGAIN_SECONDS - 1)
    assert [line["event"] for line in logs] == [
        "connected to the store",
        "store not available, trying again",
        "connected to the store",
    ]


@attrs.define
class Tedious(ScriptedSink):
    """Takes so long over each tick, and has ten seconds for all. ``stubborn``: it goes on when they are over."""

    seconds_each: float = 0.005
    stubborn: bool = False
    tried: list[int] = attrs.Factory(list)

    async def write(self, part: Batch) -> Written:
        self.tried.append(len(part))
        await trio.sleep(min(10, self.seconds_each * len(part)))
        if (late := self.seconds_each * len(part) > 10) and not self.stubborn:
            raise StoreUnavailable("took more than 10 s")
        written = await super().write(part)
        if late:
            raise StoreUnavailable("took more than 10 s, and did it")
        return written


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_store_that_takes_long_over_each_tick_is_handed_fewer_until_it_answers_in_time(
    stubborn: bool, bench: Make, autojump_clock: MockClock
) -> None:
    sink = Tedious(stubborn=stubborn)
    b = bench(10 * MOST_TICKS, sink=sink)
    b.accept(*range(1, MOST_TICKS + 1))
    with trio.fail_after(200):
        await b.run_to_the_end()
    assert b.sink.stored == [*range(1, MOST_TICKS + 1)]
    assert (b.pump.snapshot().delivered, b.pump.snapshot().set_aside) == (MOST_TICKS, 0)
    if not stubborn:
        assert sink.tried == [5000, 2500, 1250, 1250, 2500, 1250, 1250]


async def test_a_store_that_was_slow_is_handed_as_many_as_ever_once_it_is_not(
    bench: Make, autojump_clock: MockClock
) -> None:
    sink = Tedious(seconds_each=0.15)
    b = bench(20 * MOST_TICKS, sink=sink)
    b.accept(*range(1, MOST_TICKS + 1))
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.sleep(200)
            assert sink.stored
            assert LEAST_TICKS // 2 < min(sink.tried) < LEAST_TICKS
            sink.seconds_each = 0
            for first in range(MOST_TICKS + 1, 6 * MOST_TICKS + 1, MOST_TICKS):
                b.accept(*range(first, first + MOST_TICKS))
            await trio.sleep(20)
    assert sink.stored == [*range(1, 6 * MOST_TICKS + 1)]
    assert sink.sizes[-1] == MOST_TICKS


async def test_a_poison_tick_is_set_aside_and_its_neighbours_go_on_in_order(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench()
    b.sink.poison = frozenset({7, 8, 100})
    b.accept(*range(1, 101))
    await b.run_to_the_end()
    assert b.sink.stored == [n for n in range(1, 100) if n not in {7, 8}]
    assert [(r.stage, r.reason, r.seq) for r in b.desk.aside] == [
        ("scripted", "refused_by_store", 7),
        ("scripted", "refused_by_store", 8),
        ("scripted", "refused_by_store", 100),
    ]
    assert "value too long" in b.desk.aside[0].detail
    assert b.pump.snapshot().set_aside == 3
    assert b.pump.snapshot().delivered == 97


async def test_a_store_that_refuses_everything_is_down_and_not_fed_with_rejects(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench()
    b.sink.poison = frozenset(range(1, 101))
    b.accept(*range(1, 201))
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.sleep(2 * MISCONFIGURED_WAIT_SECONDS - 1)
            after = b.pump.snapshot()
            assert after.state == "down"
            assert after.last_error == "it refused the last 40 ticks and took none: value too long (one of 1)"
            assert after.set_aside == 2 * REFUSED_IN_A_ROW
            b.sink.poison = frozenset()  # somebody mended it
            await trio.sleep(2)
            assert b.pump.snapshot().state == "good"
    assert b.sink.stored == list(range(41, 201))


async def test_a_store_that_refuses_everything_is_given_signs_of_life(bench: Make, autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.poison = frozenset(range(1, 201))
    b.sink.checks = [None, StoreUnavailable("gone")]
    b.accept(*range(1, 201))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.sleep(2 * MISCONFIGURED_WAIT_SECONDS - 1)
            assert [at - began for at in b.sink.checked] == [MISCONFIGURED_WAIT_SECONDS]
            assert (b.sink.opened, b.pump.snapshot().state) == (1, "down")
            await trio.sleep(1.1)
            assert b.pump.snapshot().last_error == "gone"
            await trio.sleep(1)
            assert (b.sink.opened, b.pump.snapshot().connected) == (2, True)
            assert b.pump.snapshot().set_aside == 3 * REFUSED_IN_A_ROW, "no tick twice"
            b.sink.poison = frozenset()
            await trio.sleep(2 * MISCONFIGURED_WAIT_SECONDS)
    assert b.sink.stored == list(range(61, 201))


async def test_a_store_that_fails_while_a_poison_tick_is_sought_loses_and_doubles_nothing(
    bench: Make,
    autojump_clock: MockClock,
) -> None:
    b = bench()
    b.sink.poison = frozenset({5})
    b.sink.writes = [answer_lost, lost, answer_lost, None, lost]
    b.accept(*range(1, 17))
    await b.run_to_the_end()
    assert b.sink.stored == [n for n in range(1, 17) if n != 5]


async def test_what_finds_no_room_is_read_from_the_journal_in_order(bench: Make, autojump_clock: MockClock) -> None:
    b = bench(limit=10)
    b.sink.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            b.accept(1)
            await trio.testing.wait_all_tasks_blocked()  # 1 is in hand
            b.accept(*range(2, 10))
            b.accept(10, 11, 12)
            b.accept(13, 14)
            assert b.pump.backlog.queue.held == 10  # 13 and 14 found room
            assert b.pump.snapshot().waiting_ticks == 14
            b.sink.gate.set()
            await trio.testing.wait_all_tasks_blocked()
    assert b.sink.stored == [*range(1, 15)]
    assert (b.pump.snapshot().lost, b.desk.holes) == (0, [])


class Slow(Unhurried):
    """Each write takes 10 ms."""

    pause_seconds = few_pause_seconds = 0.0

    async def write(self, part: Batch) -> Written:
        await trio.sleep(0.01)
        return await super().write(part)


async def test_who_catches_up_from_the_journal_rests_as_long_as_a_write_took(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench(limit=10)
    for first in range(1, 3 * READ_TICKS, 500):
        b.accept(*range(first, first + 500))
    b = bench(sink=Slow(), cursor=0)
    began = trio.current_time()
    await b.run_to_the_end()
    assert b.sink.sizes == [READ_TICKS] * 3
    assert isinstance(b.sink, Slow)
    assert [round(at - began, 3) for at in b.sink.times] == [0.01, 0.03, 0.05]


async def test_who_falls_further_behind_does_not_rest_until_he_is_nearer(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench(limit=10)
    for first in range(1, 4001, 400):
        b.accept(*range(first, first + 400))
    b = bench(sink=Slow(), limit=10, cursor=0)
    began = trio.current_time()

    async def flood() -> None:
        """1,500 ticks in the time that a write takes, for 60 ms."""
        for first in range(4001, 13_001, 150):
            b.accept(*range(first, first + 150))
            await trio.sleep(0.001)
        await b.pump.backlog.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.pump.run)
        nursery.start_soon(flood)
    assert b.sink.stored == [*range(1, 13_001)]
    assert isinstance(b.sink, Slow)
    times = [round(at - began, 3) for at in b.sink.times]
    assert times[:8] == [0.01, 0.03, *(n / 100 for n in range(4, 10))], "once, and not again until the flood was over"
    assert times[8] == 0.11, "nearer again"


async def test_what_neither_memory_nor_the_journal_has_is_told_and_passed(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench(limit=4)
    b.accept(1, 2)
    b.accept(3, 4, journaled=False)
    b.accept(5, 6, 7, journaled=False)  # no room, and not in the journal
    b.accept(8, 9)
    await b.run_to_the_end()
    assert b.sink.stored == [1, 2, 3, 4, 8, 9]
    assert [(hole.first, hole.last, hole.cause) for hole in b.desk.holes] == [(5, 7, "unjournaled")]
    assert b.pump.snapshot().lost == 3


async def test_the_last_ones_may_be_the_hole(bench: Make, autojump_clock: MockClock) -> None:
    b = bench(limit=2)
    b.accept(1, 2)
    b.accept(3, 4, 5, journaled=False)
    await b.run_to_the_end()
    assert b.sink.stored == [1, 2]
    assert [(hole.first, hole.last) for hole in b.desk.holes] == [(3, 5)]


async def test_another_run_goes_on_from_the_stores_cursor(bench: Make, autojump_clock: MockClock) -> None:
    first = bench()
    first.accept(1, 2)
    first.accept(*range(3, 6))
    first.sink.gate = trio.Event()
    with trio.move_on_after(1):
        await first.pump.run()
    assert first.sink.stored == []
    first.sink.gate = None
    second = bench(sink=first.sink)
    second.accept(100, 101)
    await second.run_to_the_end()
    third = bench(sink=first.sink, cursor=second.pump.cursor - 1)  # remembered a moment before
    third.accept(200)
    await third.run_to_the_end()
    assert first.sink.stored == [1, 2, 3, 4, 5, 100, 101, 200]
    assert third.pump.snapshot().fell_behind == 0


async def test_a_store_without_a_cursor_goes_on_from_what_is_remembered(bench: Make, autojump_clock: MockClock) -> None:
    sink = Forgetful()
    first = bench(sink=sink)
    first.accept(1, 2)
    first.accept(3)
    first.sink.writes = [answer_lost]
    await first.run_to_the_end()
    assert sink.stored == [1, 2, 3, 1, 2, 3]  # at least once
    second = bench(sink=sink, cursor=2)
    second.accept(4)
    await second.run_to_the_end()
    assert sink.stored == [1, 2, 3, 1, 2, 3, 3, 4]


async def test_a_new_store_begins_with_the_oldest_that_is_there_and_an_emptied_one_lacks_the_rest(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    journal = Journal.open(tmp_path, most_bytes=2**20, keep_ms=-1, now_ms=lambda: START_MS, segment_ms=0)
    for seq in range(1, 9):
        journal.append(Batch(seq - 1, [tick(seq)], [encode(tick(seq))]))
    journal.trim({"scripted": 4})
    new, emptied = Desk(journal), Desk(journal)
    assert journal.beginning > 0
    for desk, cursor in ((new, None), (emptied, 8)):
        sink = ScriptedSink()
        pump = pump_on(sink, desk, wall_ms=lambda: START_MS, rng=Upper(), cursor=cursor)
        await pump.backlog.aclose()
        await pump.run()
        assert sink.stored == list(range(journal.beginning + 1, 9))
    assert new.holes == []
    assert [(hole.first, hole.last) for hole in emptied.holes] == [(1, journal.beginning)]
    journal.close()


@pytest.mark.parametrize("moment", ["between two runs", "under way"])
async def test_a_store_that_has_fallen_behind_is_caught_up(moment: str, bench: Make, autojump_clock: MockClock) -> None:
    b = bench()
    b.accept(*range(1, 9))
    if moment == "under way":

        def failed_over(sink: ScriptedSink, _part: Batch) -> None:
            sink.restored(3)
            raise StoreUnavailable("another server answers now")

        b.sink.writes = [None, failed_over]
        async with trio.open_nursery() as nursery:
            with running(nursery, b.pump):
                await trio.testing.wait_all_tasks_blocked()
                b.accept(9, 10)
                await trio.sleep(5)
    else:
        await b.run_to_the_end()
        b.sink.restored(3)
        b = bench(sink=b.sink, cursor=8)
        b.accept(9, 10)
        await b.run_to_the_end()
    assert b.sink.stored == [*range(1, 11)]
    assert b.pump.snapshot().fell_behind == 1
    assert b.desk.opens[-1]


async def test_a_poison_tick_at_the_end_is_not_tried_again_on_the_same_day(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench()
    b.sink.poison = frozenset({3})
    b.sink.checks = [StoreUnavailable("gone")]
    b.accept(1, 2, 3)
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.sleep(20)  # the store's cursor is at 2 when it is opened again
            b.accept(4)
            await trio.testing.wait_all_tasks_blocked()
    assert b.sink.stored == [1, 2, 4]
    assert b.pump.snapshot().set_aside == 1
    assert b.pump.snapshot().fell_behind == 0


async def test_the_age_of_the_oldest_tick_tells_late_and_down(bench: Make, autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            b.accept(1)
            for seconds, state in ((1.5, "good"), (1.0, "late"), (7.0, "late"), (1.0, "down")):
                await trio.sleep(seconds)
                assert b.pump.snapshot().state == state
            b.sink.gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert b.pump.snapshot().state == "good"


async def test_a_store_that_is_away_is_down_though_no_tick_waits(bench: Make, autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.opens = [StoreUnavailable("refused")] * 9
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.sleep(11)
            assert b.pump.snapshot().state == "down"
            await trio.sleep(60)
            assert b.pump.snapshot().state == "good"


async def test_a_store_that_hangs_when_it_is_opened_or_asked_is_down(bench: Make, autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.hangs = 30
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            b.accept(1)
            for seconds, behind in ((11, 11), (20, 0), (20, 11)):  # opened at 30, asked at 40
                await trio.sleep(seconds)
                assert b.pump.snapshot().behind_seconds == pytest.approx(behind, abs=0.1)
            await trio.sleep(20)
            assert b.pump.snapshot().behind_seconds == 0


async def test_a_crashed_pump_goes_on_where_it_fell(bench: Make, autojump_clock: MockClock) -> None:
    def bug(sink: ScriptedSink, part: Batch) -> None:
        raise ZeroDivisionError

    b = bench()
    b.sink.writes = [bug]
    b.accept(1, 2, 3, 4)
    with pytest.raises(ZeroDivisionError):
        await b.pump.run()
    assert b.pump.snapshot().waiting_ticks == 4
    await b.run_to_the_end()
    assert b.sink.stored == [1, 2, 3, 4]


async def test_cancelled_it_closes_the_sink_and_tells_what_is_left(bench: Make, autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.gate = trio.Event()
    b.accept(1, 2)
    await b.pump.backlog.aclose()
    with trio.move_on_after(5) as scope:
        await b.pump.run()
    assert scope.cancelled_caught
    assert b.sink.closed
    assert b.pump.snapshot().waiting_ticks == 2


async def test_while_nothing_comes_the_store_is_asked_for_a_sign_of_life(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench()
    b.sink.checks = [None, None, StoreUnavailable("gone")]
    b.sink.opens = [None, StoreUnavailable("still gone"), StoreUnavailable("still gone")]
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.sleep(25)
            b.accept(1)  # puts it off
            await trio.sleep(10.1)
            assert [at - began for at in b.sink.checked] == [10, 20, 35]
            assert not b.pump.snapshot().connected
            assert b.pump.snapshot().last_error == "gone"
            b.accept(2)
            await trio.sleep(10)
            assert b.sink.opened == 4
            assert b.pump.snapshot().connected
    assert b.sink.stored == [1, 2]


async def test_a_poison_tick_at_the_end_makes_no_false_alarm_after_a_restart(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench()
    b.sink.poison = frozenset({3})
    b.accept(1, 2, 3)
    await b.run_to_the_end()
    b = bench(sink=b.sink, cursor=b.pump.remembered)
    b.accept(4)
    await b.run_to_the_end()
    assert b.sink.stored == [1, 2, 4]
    assert b.pump.snapshot().fell_behind == 0
    assert b.desk.opens == [False]


async def test_a_store_that_is_new_gets_what_the_journal_has_and_lacks_nothing(
    bench: Make, autojump_clock: MockClock, journal: Journal
) -> None:
    b = bench()
    b.accept(1, 2, 3)
    journal._shelf.retire()
    journal._keep_ms = -1
    b.accept(4, 5)
    journal.trim({"scripted": 3})  # as it does after a day
    b = bench(sink=ScriptedSink(), cursor=None)
    b.accept(6)
    await b.run_to_the_end()
    assert b.sink.stored == [4, 5, 6]
    assert b.desk.holes == []
    assert (b.pump.snapshot().lost, b.pump.snapshot().fell_behind) == (0, 0)


async def test_a_store_that_lost_everything_is_told_what_the_journal_has_not_any_more(
    bench: Make, autojump_clock: MockClock, journal: Journal
) -> None:
    b = bench()
    b.accept(1, 2, 3)
    journal._shelf.retire()
    journal._keep_ms = -1
    b.accept(4, 5)
    journal.trim({"scripted": 3})
    b = bench(sink=ScriptedSink(), cursor=5)
    await b.run_to_the_end()
    assert b.sink.stored == [4, 5]
    assert [(hole.last, hole.cause, hole.ticks) for hole in b.desk.holes] == [(3, "given_up", 3)]
    assert (b.pump.snapshot().lost, b.pump.snapshot().fell_behind) == (3, 1)


async def test_a_stretch_of_unknown_size_is_not_counted_by_its_numbers(
    bench: Make, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers jump by microseconds from run to run."""
    b = bench(limit=1)
    b.accept(1)
    b.accept(10**15)
    hole = Hole(2, 10**15, "corrupt")
    monkeypatch.setattr(b.journal, "read", lambda after, _: Portion(None, (hole,), 10**15) if after else None)
    await b.run_to_the_end()
    assert b.desk.holes == [hole]
    assert b.pump.snapshot().lost == 1


async def test_a_journal_that_can_not_be_read_keeps_nobody_from_giving_signs_of_life(
    bench: Make, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench(limit=1)
    b.accept(1)
    b.accept(2)

    def failing(*_: object) -> None:
        raise JournalError("input/output error")

    monkeypatch.setattr(b.journal, "read", failing)
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.sleep(61)
            assert len(b.sink.checked) >= 5
            assert (b.pump.snapshot().state, b.pump.snapshot().last_error) == ("down", "input/output error")
            monkeypatch.undo()
            await trio.sleep(20)
            assert b.pump.snapshot().state == "good"
    assert b.sink.stored == [1, 2]


async def test_a_journal_that_hangs_at_the_first_read_is_seen(bench: Make, autojump_clock: MockClock) -> None:
    async def hanging(_after: int, _most: int) -> Portion | None:
        await trio.sleep_forever()

    b = bench()
    b.accept(1)
    b = bench(sink=b.sink)
    b.pump.backlog._read = hanging
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.sleep(61)
            assert b.pump.snapshot().state == "down"


async def test_what_is_in_memory_is_no_hole_though_the_journal_goes_on_behind_it(
    bench: Make, autojump_clock: MockClock
) -> None:
    b = bench(limit=4)
    b.sink.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            b.accept(1)
            await trio.testing.wait_all_tasks_blocked()  # 1 is in hand
            b.accept(2, 3, journaled=False)
            b.accept(4, 5, 6, journaled=False)  # no room
            b.accept(7, journaled=False)
            b.accept(8, 9)  # no room, and in the journal
            b.sink.gate.set()
            await trio.testing.wait_all_tasks_blocked()
    assert b.sink.stored == [1, 2, 3, 7, 8, 9]
    assert [(hole.first, hole.last) for hole in b.desk.holes] == [(4, 6)]


@pytest.mark.parametrize(
    ("found", "remembered", "sent"),
    [(None, 3, [4, 5]), (2, 3, [4, 5]), (4, 3, [5]), (None, None, [1, 2, 3, 4, 5]), (2, None, [3, 4, 5])],
)
async def test_a_store_that_may_hold_more_than_was_found_gets_nothing_that_is_remembered_to_be_there(
    found: int | None, remembered: int | None, sent: list[int], bench: Make, autojump_clock: MockClock
) -> None:
    bench().accept(1, 2, 3, 4, 5)
    sink = ScriptedSink(cursor=found, certain=False, writes=[lost])
    b = bench(sink=sink, cursor=remembered)
    await b.run_to_the_end()
    assert sink.stored == sent
    assert b.pump.remembered == 5
    assert (b.desk.holes, b.pump.snapshot().fell_behind) == ([], 0)


async def test_a_store_that_is_new_is_so_until_it_has_taken_something(
    bench: Make, autojump_clock: MockClock, journal: Journal
) -> None:
    b = bench()
    b.accept(1, 2, 3)
    journal._shelf.retire()
    journal._keep_ms = -1
    b.accept(4, 5)
    journal.trim({"scripted": 3})  # as it does after a day
    sink = ScriptedSink(writes=[lost, lost])
    b = bench(sink=sink, cursor=None)
    with trio.move_on_after(0.1):
        await b.pump.run()
    assert sink.stored == []
    assert b.pump.remembered is None
    b = bench(sink=sink, cursor=b.pump.remembered)
    await b.run_to_the_end()
    assert sink.stored == [4, 5]
    assert b.pump.remembered == 5
    assert (b.desk.holes, b.pump.snapshot().fell_behind) == ([], 0)
