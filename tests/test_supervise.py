import random

import pytest
import trio
from trio.testing import MockClock

from polygon_live.supervise import Watcher


class Upper(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


async def test_a_fault_is_told_counted_and_tried_again_ever_later(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    starts: list[float] = []

    async def fail() -> None:
        starts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if len(starts) < 9:
            raise ZeroDivisionError("by zero")

    watcher = Watcher("odd job", fail, Upper())
    began = trio.current_time()
    await watcher.keep_running()
    assert [round(s - began) for s in starts] == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert watcher.snapshot().restarts == 8
    assert watcher.snapshot().running
    assert watcher.snapshot().last_error == "ZeroDivisionError: by zero"
    said = capsys.readouterr()
    assert "odd job" in said.out + said.err


async def test_a_minute_without_a_fault_starts_the_waits_afresh(autojump_clock: MockClock) -> None:
    starts: list[float] = []

    async def fail_after_a_while() -> None:
        starts.append(trio.current_time())
        if len(starts) == 5:
            return
        await trio.sleep(100 if len(starts) == 3 else 0)
        raise ZeroDivisionError

    began = trio.current_time()
    await Watcher("odd job", fail_after_a_while, Upper()).keep_running()
    assert [round(s - began) for s in starts] == [0, 1, 3, 104, 106]


async def test_it_is_seen_as_failing_while_it_waits(autojump_clock: MockClock) -> None:
    async def fail() -> None:
        await trio.sleep(0.5)
        raise OSError("disk")

    watcher = Watcher("odd job", fail, Upper())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.keep_running)
        await trio.sleep(0.4)
        assert watcher.snapshot().running
        await trio.sleep(0.2)
        assert not watcher.snapshot().running
        await trio.sleep(1)
        assert watcher.snapshot().running
        nursery.cancel_scope.cancel()
