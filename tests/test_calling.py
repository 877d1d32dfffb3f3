"""Work in a thread: one piece at a time, its result and its error, and what becomes of it when nobody waits."""

import threading

import pytest
import trio

from polygon_live.calling import InThread
from tests.waiting import until

PATIENCE_SECONDS = 60


async def test_it_is_done_in_another_thread_and_its_result_and_its_error_come_back() -> None:
    call = InThread()
    assert await call(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await call(lambda: 1 // 0)
    assert (call.done, call.busy) == (2, False)


async def test_who_is_cancelled_leaves_at_once_and_the_next_waits_until_the_thread_is_free() -> None:
    call, let = InThread(), threading.Event()
    done: list[str] = []

    def hang() -> None:
        assert let.wait(PATIENCE_SECONDS)
        done.append("first")

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, hang)
            await until(lambda: call.busy)
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, lambda: done.append("second"))
            with trio.CancelScope() as never:
                never.cancel()
                await call(lambda: done.append("never"))
            assert call.busy
            let.set()
    assert done == ["first", "second"]
    assert (call.done, call.busy) == (2, False)
