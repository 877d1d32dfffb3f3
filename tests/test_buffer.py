import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from polygon_live.buffer import TickBuffer
from polygon_live.errors import StreamOverflow
from polygon_live.model import Tick


def ticks(first: int, count: int) -> list[Tick]:
    return [
        Tick("EURUSD", 1.1, 1.2, 1.15, 0.1, 1, 1, 48, "polygon_websocket", "quote", seq, 1)
        for seq in range(first, first + count)
    ]


async def read(buffer: TickBuffer, count: int) -> list[int]:
    return [(await anext(buffer)).seq for _ in range(count)]


async def test_they_come_in_order_and_end_with_the_close(autojump_clock: MockClock) -> None:
    buffer = TickBuffer(10, "fail")
    assert buffer.put(ticks(1, 10))
    assert await read(buffer, 4) == [1, 2, 3, 4]
    assert buffer.put(ticks(11, 4))
    buffer.close()
    assert [tick.seq async for tick in buffer] == list(range(5, 15))
    assert [tick async for tick in buffer] == []


async def test_who_reads_waits_and_may_stop_waiting_without_losing_any(autojump_clock: MockClock) -> None:
    buffer = TickBuffer(10, "fail")
    with trio.move_on_after(5) as impatient:
        await anext(buffer)
    assert impatient.cancelled_caught
    with trio.CancelScope() as cancelled:
        cancelled.cancel()
        buffer.put(ticks(1, 1))
        await anext(buffer)
    assert await read(buffer, 1) == [1]


async def test_of_several_readers_each_tick_goes_to_one(autojump_clock: MockClock) -> None:
    buffer = TickBuffer(100, "fail")
    read_by: dict[int, list[int]] = {1: [], 2: []}

    async def reader(name: int) -> None:
        async for tick in buffer:
            read_by[name].append(tick.seq)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader, 1)
        nursery.start_soon(reader, 2)
        await trio.testing.wait_all_tasks_blocked()
        buffer.put(ticks(1, 50))
        await trio.testing.wait_all_tasks_blocked()
        buffer.put(ticks(51, 50))
        buffer.close()
    assert sorted(read_by[1] + read_by[2]) == list(range(1, 101))
    assert all(len(each) > 10 for each in read_by.values())


async def test_the_oldest_make_room_counted_and_told_once_a_storm(autojump_clock: MockClock) -> None:
    buffer = TickBuffer(10, "drop_oldest")
    with capture_logs() as logs:
        assert buffer.put(ticks(1, 12))
        assert buffer.put(ticks(13, 1))
        assert buffer.dropped == 3
        assert await read(buffer, 4) == [4, 5, 6, 7]
        assert buffer.put(ticks(14, 5))
        assert buffer.dropped == 4
        assert len(logs) == 1, "the same storm"
        assert await read(buffer, 5) == [9, 10, 11, 12, 13]
        assert buffer.put(ticks(19, 6))
        assert buffer.dropped == 5
    assert [(line["log_level"], line["room"], line["dropped"]) for line in logs] == [
        ("error", 10, 0),
        ("error", 10, 4),
    ]


async def test_more_at_once_than_there_is_room_for_leaves_the_youngest(autojump_clock: MockClock) -> None:
    buffer = TickBuffer(3, "drop_oldest")
    buffer.put(ticks(1, 2))
    buffer.put(ticks(3, 100))
    assert buffer.dropped == 99
    assert await read(buffer, 3) == [100, 101, 102]


async def test_or_whoever_reads_is_told_behind_the_last_that_fitted(autojump_clock: MockClock) -> None:
    buffer = TickBuffer(10, "fail")
    assert buffer.put(ticks(1, 8))
    assert not buffer.put(ticks(9, 3))
    assert await read(buffer, 5) == [1, 2, 3, 4, 5]
    assert not buffer.put(ticks(12, 1)), "there is room again, but not for what comes behind a hole"
    buffer.close()
    assert await read(buffer, 5) == [6, 7, 8, 9, 10]
    for _ in range(2):
        with pytest.raises(StreamOverflow, match="10 ticks waited to be read"):
            await anext(buffer)
    assert buffer.dropped == 0


async def test_a_reader_that_never_waits_lets_others_run(autojump_clock: MockClock) -> None:
    buffer = TickBuffer(1000, "fail")
    buffer.put(ticks(1, 1000))
    buffer.close()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async for _ in buffer:
            pass
        nursery.cancel_scope.cancel()
    assert turns > 500


@pytest.mark.parametrize(("most", "overflow"), [(0, "fail"), (-1, "drop_oldest"), (10, "wait")])
def test_nonsense_is_refused(most: int, overflow: str) -> None:
    with pytest.raises(ValueError, match=r"at least 1|'drop_oldest' or 'fail'"):
        TickBuffer(most, overflow)  # type: ignore[arg-type]
