"""The loop that all sinks share, against a sink whose answers are scripted, in virtual time."""

import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from polygon_live.channels import open_weighted_channel
from polygon_live.errors import AlreadyHeld, RowsRefused, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch, Tick, encode
from polygon_live.pump import MISCONFIGURED_WAIT_SECONDS, MOST_TICKS, REFUSED_IN_A_ROW, SAY_AGAIN_SECONDS, Pump
from polygon_live.rejects import RejectBook
from polygon_live.sink import StoreFacts, Written

START_MS = 1_700_000_000_000


def tick(seq: int, received_ms: int = START_MS) -> Tick:
    return Tick(
        "EURUSD", 1.1, 1.2, 1.15, 0.1, received_ms, received_ms, 48, "polygon_websocket", "quote", seq, received_ms
    )


def batch(*seqs: int, received_ms: int = START_MS) -> Batch:
    ticks = [tick(seq, received_ms) for seq in seqs]
    return Batch(seqs[0] - 1, ticks, [encode(t) for t in ticks])


@attrs.define
class ScriptedSink:
    """Holds what it is given, after doing to each call what the script says.

    A step is None (all well) or a function that is called with the batch and may raise, before or after storing it.
    """

    name: str = "scripted"
    opens: list[Exception | None] = attrs.Factory(list)
    writes: list[Callable[["ScriptedSink", Batch], None] | None] = attrs.Factory(list)
    stored: list[int] = attrs.Factory(list)
    sizes: list[int] = attrs.Factory(list)
    checks: list[Exception | None] = attrs.Factory(list)
    checked: list[float] = attrs.Factory(list)
    hangs: float = 0.0
    opened: int = 0
    asked: int = 0
    closed: bool = False
    gate: trio.Event | None = None
    poison: frozenset[int] = frozenset()

    async def open(self) -> None:
        await trio.sleep(self.hangs)
        self.opened += 1
        if self.opens and (error := self.opens.pop(0)) is not None:
            raise error

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

    async def held(self, part: Batch) -> Collection[int]:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return {t.seq for t in part.ticks} & set(self.stored)

    async def check(self) -> None:
        self.checked.append(trio.current_time())
        await trio.sleep(self.hangs)
        if self.checks and (error := self.checks.pop(0)) is not None:
            raise error

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True

    def facts(self) -> StoreFacts:
        return StoreFacts()


def lost(_sink: ScriptedSink, _part: Batch) -> None:
    raise StoreUnavailable("the write did not happen")


def answer_lost(sink: ScriptedSink, part: Batch) -> None:
    sink.store(part)
    raise StoreUnavailable("the write happened, its answer was lost")


def half_happened(sink: ScriptedSink, part: Batch) -> None:
    sink.store(part.halves()[0] if len(part) > 1 else part)
    raise StoreUnavailable("half of it happened")


def already(_sink: ScriptedSink, _part: Batch) -> None:
    raise AlreadyHeld("duplicate key")


class Upper(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


@attrs.define
class Bench:
    sink: ScriptedSink
    pump: Pump
    book: RejectBook

    async def run_to_the_end(self) -> None:
        await self.pump.queue.aclose()
        await self.pump.run()


def bench(limit: int = 1000) -> Bench:
    sink, book = ScriptedSink(), RejectBook()
    queue, batches = open_weighted_channel(limit, Batch)
    start = trio.current_time()

    def wall_ms() -> int:
        return START_MS + round((trio.current_time() - start) * 1000)

    return Bench(sink, Pump(sink, batches, queue, rejects=book, wall_ms=wall_ms, rng=Upper()), book)


@contextmanager
def running(nursery: trio.Nursery, pump: Pump) -> Iterator[None]:
    nursery.start_soon(pump.run)
    yield
    nursery.cancel_scope.cancel()


async def test_what_waited_is_one_batch_and_closing_ends_it(autojump_clock: MockClock) -> None:
    b = bench()
    for n in range(0, 30, 3):
        b.pump.offer(batch(n, n + 1, n + 2))
    await b.run_to_the_end()
    assert b.sink.stored == list(range(30))
    assert b.sink.sizes == [30]
    assert b.sink.closed
    assert (b.pump.snapshot().delivered, b.pump.snapshot().waiting_ticks) == (30, 0)


async def test_batches_are_bounded(autojump_clock: MockClock) -> None:
    b = bench(10 * MOST_TICKS)
    for n in range(0, 2 * MOST_TICKS, 100):
        b.pump.offer(batch(*range(n, n + 100)))
    await b.run_to_the_end()
    assert b.sink.sizes == [MOST_TICKS, MOST_TICKS]


@pytest.mark.parametrize("outcome", [lost, answer_lost, half_happened])
async def test_after_an_unclear_outcome_the_store_is_asked_and_nothing_is_lost_or_doubled(
    outcome: Callable[[ScriptedSink, Batch], None], autojump_clock: MockClock
) -> None:
    b = bench()
    b.sink.writes = [outcome, outcome, None]
    b.pump.offer(batch(1, 2, 3, 4, 5))
    await b.run_to_the_end()
    assert b.sink.stored == [1, 2, 3, 4, 5]
    assert b.sink.asked >= 1
    snapshot = b.pump.snapshot()
    assert (snapshot.delivered, snapshot.dropped, snapshot.waiting_ticks) == (5, 0, 0)
    assert snapshot.last_seq == 5


async def test_already_held_is_looked_up_without_a_new_connection(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.stored = [1, 2]
    b.sink.writes = [already]
    b.pump.offer(batch(1, 2, 3))
    await b.run_to_the_end()
    assert b.sink.stored == [1, 2, 3]
    assert b.sink.opened == 1


async def test_waits_double_up_to_five_seconds_and_start_afresh(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.opens = [StoreUnavailable("refused")] * 7
    b.pump.offer(batch(1))
    began = trio.current_time()
    await b.run_to_the_end()
    assert trio.current_time() - began == 0.25 + 0.5 + 1 + 2 + 4 + 5 + 5
    assert b.sink.stored == [1]


async def test_a_misconfigured_store_is_tried_slowly_and_named(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.opens = [StoreMisconfigured("password authentication failed")] * 2
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.testing.wait_all_tasks_blocked()
            snapshot = b.pump.snapshot()
            assert snapshot.needs_operator
            assert snapshot.last_error == "password authentication failed"
            await trio.sleep(2 * MISCONFIGURED_WAIT_SECONDS + 0.1)
            assert b.pump.snapshot().connected
            assert not b.pump.snapshot().needs_operator


async def test_a_store_that_connects_and_takes_nothing_does_not_fill_the_log(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.writes = [lost] * 1000
    b.pump.offer(batch(1))
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            with running(nursery, b.pump):
                await trio.sleep(SAY_AGAIN_SECONDS - 1)
    assert [line["event"] for line in logs] == [
        "connected to the store",
        "store not available, trying again",
        "connected to the store",
    ]


async def test_a_poison_tick_is_set_aside_and_its_neighbours_go_on_in_order(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.poison = frozenset({7, 8, 100})
    b.pump.offer(batch(*range(1, 101)))
    await b.run_to_the_end()
    assert b.sink.stored == [n for n in range(1, 100) if n not in {7, 8}]
    rejects = b.book.snapshot()
    assert rejects.counts == {"scripted": {"refused_by_store": 3}}
    assert [r.seq for r in rejects.latest] == [7, 8, 100]
    assert "value too long" in rejects.latest[0].detail
    assert b.pump.snapshot().set_aside == 3
    assert b.pump.snapshot().delivered == 97


async def test_a_store_that_refuses_everything_is_down_and_not_fed_with_rejects(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.poison = frozenset(range(1, 101))
    b.pump.offer(batch(*range(1, 201)))
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


async def test_a_store_that_fails_while_a_poison_tick_is_sought_loses_and_doubles_nothing(
    autojump_clock: MockClock,
) -> None:
    b = bench()
    b.sink.poison = frozenset({5})
    b.sink.writes = [answer_lost, lost, half_happened, None, lost]
    b.pump.offer(batch(*range(1, 17)))
    await b.run_to_the_end()
    assert b.sink.stored == [n for n in range(1, 17) if n != 5]


async def test_a_full_queue_drops_what_does_not_fit_counts_it_and_never_waits(autojump_clock: MockClock) -> None:
    b = bench(limit=10)
    b.sink.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            b.pump.offer(batch(1))
            await trio.testing.wait_all_tasks_blocked()  # 1 is in hand
            b.pump.offer(batch(*range(2, 10)))
            b.pump.offer(batch(10, 11, 12))
            b.pump.offer(batch(13, 14))
            assert b.pump.snapshot().dropped == 3
            assert b.pump.snapshot().waiting_ticks == 11
            b.sink.gate.set()
            await trio.testing.wait_all_tasks_blocked()
    assert b.sink.stored == [*range(1, 10), 13, 14]


async def test_the_age_of_the_oldest_tick_tells_late_and_down(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            b.pump.offer(batch(1))
            for seconds, state in ((1.5, "good"), (1.0, "late"), (7.0, "late"), (1.0, "down")):
                await trio.sleep(seconds)
                assert b.pump.snapshot().state == state
            b.sink.gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert b.pump.snapshot().state == "good"


async def test_a_store_that_is_away_is_down_though_no_tick_waits(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.opens = [StoreUnavailable("refused")] * 9
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.sleep(11)
            assert b.pump.snapshot().state == "down"
            await trio.sleep(60)
            assert b.pump.snapshot().state == "good"


async def test_a_store_that_hangs_when_it_is_opened_or_asked_is_down(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.hangs = 30
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            b.pump.offer(batch(1))
            for seconds, behind in ((11, 11), (20, 0), (20, 11)):  # opened at 30, asked at 40
                await trio.sleep(seconds)
                assert b.pump.snapshot().behind_seconds == pytest.approx(behind, abs=0.1)
            await trio.sleep(20)
            assert b.pump.snapshot().behind_seconds == 0


async def test_a_crashed_pump_goes_on_where_it_fell(autojump_clock: MockClock) -> None:
    def bug(sink: ScriptedSink, part: Batch) -> None:
        sink.store(part.halves()[0] if len(part) > 1 else part)
        raise ZeroDivisionError

    b = bench()
    b.sink.writes = [bug]
    b.pump.offer(batch(1, 2, 3, 4))
    with pytest.raises(ZeroDivisionError):
        await b.pump.run()
    assert b.pump.snapshot().waiting_ticks == 4
    await b.run_to_the_end()
    assert b.sink.stored == [1, 2, 3, 4]


async def test_cancelled_it_closes_the_sink_and_tells_what_is_left(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.gate = trio.Event()
    b.pump.offer(batch(1, 2))
    await b.pump.queue.aclose()
    with trio.move_on_after(5) as scope:
        await b.pump.run()
    assert scope.cancelled_caught
    assert b.sink.closed
    assert b.pump.snapshot().waiting_ticks == 2


async def test_while_nothing_comes_the_store_is_asked_for_a_sign_of_life(autojump_clock: MockClock) -> None:
    b = bench()
    b.sink.checks = [None, None, StoreUnavailable("gone")]
    b.sink.opens = [None, StoreUnavailable("still gone"), StoreUnavailable("still gone")]
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        with running(nursery, b.pump):
            await trio.sleep(25)
            b.pump.offer(batch(1))  # puts it off
            await trio.sleep(10.1)
            assert [at - began for at in b.sink.checked] == [10, 20, 35]
            assert not b.pump.snapshot().connected
            assert b.pump.snapshot().last_error == "gone"
            b.pump.offer(batch(2))
            await trio.sleep(10)
            assert b.sink.opened == 4
            assert b.pump.snapshot().connected
    assert b.sink.stored == [1, 2]
