"""The pages' share of the loop, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from polygon_live.web.share import MOST_REST_SECONDS, REST, Share, Shared, Turn


@asynccontextmanager
async def turn_of(share: Share) -> AsyncIterator[Turn]:
    turn = Turn(share)
    await turn.take()
    try:
        yield turn
    finally:
        turn.give()


async def test_after_each_turn_the_loop_is_left_alone_for_three_times_as_long(autojump_clock: MockClock) -> None:
    share, begun = Share(), []

    async def work(seconds: float) -> None:
        async with turn_of(share):
            begun.append(round(trio.current_time(), 6))
            await trio.sleep(seconds)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for seconds in (0.01, 0.02, 1.0, 0.0):
            nursery.start_soon(work, seconds)
            await trio.testing.wait_all_tasks_blocked()
    passed = [round(at - start, 6) for at in begun]
    assert passed == [0, 0.01 * (1 + REST), 0.03 * (1 + REST), round(0.03 * (1 + REST) + 1 + MOST_REST_SECONDS, 6)]


async def test_a_turn_is_given_back_by_whoever_leaves_and_may_be_given_back_early(autojump_clock: MockClock) -> None:
    share = Share()
    with pytest.raises(ZeroDivisionError):
        async with turn_of(share):
            raise ZeroDivisionError
    with trio.move_on_after(1):
        async with turn_of(share):
            await trio.sleep_forever()
    with trio.move_on_after(0.1) as impatient:
        async with turn_of(share):  # has to wait until the loop was left alone
            raise AssertionError
    assert impatient.cancelled_caught
    async with turn_of(share) as turn:
        turn.give()
        async with turn_of(share):
            pass
        await turn.take()
        turn.give()
        turn.give()
    other = Turn(share)
    await other.take()
    other.give()


async def test_an_answer_is_shared_by_all_who_asked_before_it_was_begun(autojump_clock: MockClock) -> None:
    made: list[float] = []

    async def make() -> int:
        made.append(trio.current_time())
        await trio.sleep(1)
        if len(made) == 3:
            raise ZeroDivisionError
        return len(made)

    shared, got = Shared(make, every=5.0), []

    async def ask() -> None:
        got.append(await shared.get(trio.current_time()))

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(0.5)
        for _ in range(20):
            nursery.start_soon(ask)
    assert got == [1] + [2] * 20
    assert [at - start for at in made] == [0, 5]
    with pytest.raises(ZeroDivisionError):
        await shared.get(trio.current_time())
    assert await shared.get(trio.current_time()) == 4
    assert [at - start for at in made] == [0, 5, 10, 15]
