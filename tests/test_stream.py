"""The validated stream in one's own program, on a stand-in Polygon in memory, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Never

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from polygon_live.buffer import Overflow, TickBuffer
from polygon_live.calendar import always_open
from polygon_live.config import KafkaAccess, NatsAccess, Secret, Settings
from polygon_live.dial import Dial
from polygon_live.errors import InternalFault, StreamOverflow
from polygon_live.model import Tick, pair_of
from polygon_live.operational import Operational
from polygon_live.standin import Script, StandIn
from polygon_live.standin.faults import bad_frames
from polygon_live.stream import Stream
from polygon_live.wire import Quote
from tests.feeding import KEY, PRICES, TUESDAY_MS, URL, Upper

SETTINGS = Settings(
    api_key=Secret(KEY), timescale_dsn=Secret(""), nats=NatsAccess(()), kafka=KafkaAccess(()), ws_urls=(URL,)
)


class World:
    """A stand-in Polygon, and streams of it, one after the other."""

    def __init__(self, standin: StandIn, dial: Dial) -> None:
        self.standin = standin
        self.ticks: TickBuffer
        self.stream: Stream
        self._dial = dial
        self._began = trio.current_time()

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return trio.current_time() - self._began

    def wall_ms(self) -> int:
        return TUESDAY_MS + round(self.now * 1000)

    @asynccontextmanager
    async def streaming(
        self, overflow: Overflow = "fail", room: int = 1000, *, subscribed: bool = True
    ) -> AsyncIterator[None]:
        self.ticks = TickBuffer(room, overflow)
        self.stream = Stream(
            SETTINGS,
            Operational(symbols=tuple(PRICES)),
            self.ticks,
            dial=self._dial,
            sessions=always_open,
            wall_ms=self.wall_ms,
            rng=Upper(),
        )
        async with self.stream.running():
            if subscribed:
                await self.subscribed(1)
            yield

    async def subscribed(self, connections: int) -> None:
        await self.standin.subscribed(connections, len(PRICES))
        await trio.testing.wait_all_tasks_blocked()

    async def send(self, seconds: int) -> list[int]:
        """A quote of each symbol every second, and their times, one for each."""
        times = []
        for _ in range(seconds):
            now = self.wall_ms()
            self.standin.send([Quote(pair_of(s), round(p * 1.0001, 5), p, now, 48) for s, p in PRICES.items()])
            times += [now] * len(PRICES)
            await trio.sleep(1)
        return times

    async def read(self, count: int) -> list[Tick]:
        return [await anext(self.ticks) for _ in range(count)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """The clock must be named by each test itself: pytest-trio looks nowhere else for it."""
    standin = StandIn(key=KEY)
    async with standin.in_memory() as dial:
        yield World(standin, dial)


async def test_ticks_come_as_they_are_sent_and_are_numbered(autojump_clock: MockClock, world: World) -> None:
    async with world.streaming():
        sent = await world.send(10)
        ticks = await world.read(20)
    assert [tick.timestamp_ms for tick in ticks] == sent
    assert [tick.symbol for tick in ticks] == [*PRICES] * 10
    assert {tick.bid for tick in ticks} == set(PRICES.values())
    assert [tick.seq for tick in ticks] == list(range(ticks[0].seq, ticks[0].seq + 20))
    assert ticks[0].seq > TUESDAY_MS * 1000
    assert world.standin.latest.goodbye == 1000
    assert [tick async for tick in world.ticks] == [], "the block is over"


async def test_a_dropped_connection_is_made_anew_and_the_loop_goes_on(autojump_clock: MockClock, world: World) -> None:
    async with world.streaming():
        sent = await world.send(2)
        world.standin.latest.reset()
        await world.subscribed(2)
        sent += await world.send(2)
        ticks = await world.read(8)
    assert [tick.timestamp_ms for tick in ticks] == sent
    assert [tick.seq for tick in ticks] == sorted({tick.seq for tick in ticks})


async def test_what_is_no_tick_is_counted_and_does_not_come(autojump_clock: MockClock, world: World) -> None:
    async with world.streaming():
        good = Quote("EUR/USD", 1.1001, 1.1, world.wall_ms(), 48)
        for name in ("garbage", "crossed", "zero", "negative", "unknown-pair"):
            world.standin.latest.send(bad_frames(good)[name])
        world.standin.send([good])
        (tick,) = await world.read(1)
    assert (tick.bid, tick.ask) == (1.1, 1.1001)
    reasons = ("bad_frame", "crossed", "price_zero", "price_negative", "unknown_pair")
    assert world.stream.rejected == dict.fromkeys(reasons, 1)


async def test_who_reads_too_slowly_loses_the_oldest(autojump_clock: MockClock, world: World) -> None:
    with capture_logs() as logs:
        async with world.streaming("drop_oldest", 20):
            sent = await world.send(50)
            assert world.ticks.dropped == 80
            assert [tick.timestamp_ms for tick in await world.read(20)] == sent[-20:]
    assert len(world.standin.connections) == 1
    assert [line["log_level"] for line in logs if "too slowly" in line["event"]] == ["error"]


async def test_or_is_told_so_behind_what_fitted_and_polygon_is_left(autojump_clock: MockClock, world: World) -> None:
    sent: list[int] = []
    read: list[Tick] = []

    async def read_late() -> None:
        async with world.streaming("fail", 20):
            sent.extend(await world.send(50))
            assert world.standin.latest.goodbye == 1000, "nobody has any use for the connection"
            async for tick in world.ticks:
                read.append(tick)  # noqa: PERF401  # what was read before the error counts

    with pytest.raises(StreamOverflow, match="20 ticks waited"):
        await read_late()
    assert [tick.timestamp_ms for tick in read] == sent[:20]


async def test_a_loop_may_be_left_and_taken_up_again(autojump_clock: MockClock, world: World) -> None:
    read = []
    async with world.streaming():
        sent = await world.send(5)
        for _ in range(10):
            async for tick in world.ticks:
                read.append(tick.timestamp_ms)
                break
    assert read == sent
    assert world.standin.latest.goodbye == 1000


async def test_an_exception_in_the_block_comes_out_as_it_is_after_a_goodbye(
    autojump_clock: MockClock, world: World
) -> None:
    odd = ZeroDivisionError()

    async def fails() -> None:
        async with world.streaming():
            await world.send(1)
            raise odd

    with pytest.raises(ZeroDivisionError) as raised:
        await fails()
    assert raised.value is odd
    assert world.standin.latest.goodbye == 1000


async def test_a_group_of_the_block_s_own_stays_a_group(autojump_clock: MockClock, world: World) -> None:
    odd = ExceptionGroup("its own", [ZeroDivisionError()])

    async def fails() -> None:
        async with world.streaming():
            raise odd

    with pytest.raises(ExceptionGroup) as raised:
        await fails()
    assert (raised.value.message, raised.value.exceptions) == (odd.message, odd.exceptions)


async def test_a_cancellation_says_goodbye(autojump_clock: MockClock, world: World) -> None:
    with trio.move_on_after(10) as limit:
        async with world.streaming():
            async for _tick in world.ticks:
                raise AssertionError
    assert limit.cancelled_caught
    assert world.now == 10
    assert world.standin.latest.goodbye == 1000


async def test_a_cancellation_of_a_half_open_connection_takes_only_the_time_of_a_goodbye(
    autojump_clock: MockClock, world: World
) -> None:
    with trio.move_on_after(10):
        async with world.streaming():
            world.standin.latest.hush()
            await trio.sleep_forever()
    assert world.now == 12


@pytest.mark.parametrize("script", [Script(greeting=None), Script(login="ignore"), Script(login="refuse")])
async def test_a_block_that_ends_before_there_is_a_stream(
    autojump_clock: MockClock, world: World, script: Script
) -> None:
    world.standin.script = script
    async with world.streaming(subscribed=False):
        await trio.sleep(3)
    assert 3 <= world.now <= 5


async def test_a_block_that_ends_at_once(autojump_clock: MockClock, world: World) -> None:
    async with world.streaming(subscribed=False):
        pass
    assert world.now == 0


def broken(*_: object) -> Never:
    raise LookupError("a bug")


@pytest.mark.parametrize("place", ["validate.Validator.judge", "frames.Intake.take"])
@pytest.mark.parametrize("reading", [True, False])
async def test_a_bug_ends_the_block_and_is_told(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch, place: str, reading: bool
) -> None:
    async def meets_it() -> None:
        async with world.streaming():
            monkeypatch.setattr(f"polygon_live.{place}", broken)
            await world.send(1)
            if reading:
                async for _tick in world.ticks:
                    raise AssertionError
            await trio.sleep_forever()

    with pytest.raises(InternalFault, match="LookupError: a bug") as raised:
        await meets_it()
    assert isinstance(raised.value.__cause__, LookupError)
    assert world.standin.latest.goodbye == 1000
