"""Work in a thread: one piece at a time, its result and its error, and what becomes of it when nobody waits."""

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from polygon_live.calling import InThread
from polygon_live.config import KafkaAccess, Secret
from polygon_live.engines.kafka import KafkaClient
from polygon_live.engines.postgres import Session
from polygon_live.errors import JournalError, StoreUnavailable
from polygon_live.keeper import Keeper
from polygon_live.sink import Identity
from tests import journaling
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


@pytest.fixture
def exhausted(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No thread can be started; ``undo`` ends that."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", refuse)
    return monkeypatch


async def test_who_gets_no_thread_is_told_and_locks_nobody_out(exhausted: pytest.MonkeyPatch) -> None:
    call = InThread()
    for _ in range(2):
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(JournalError, match="can't start new thread"):
            await call(lambda: 1)
    assert (call.done, call.busy) == (0, False)
    exhausted.undo()
    with trio.fail_after(PATIENCE_SECONDS):
        assert await call(lambda: 1) == 1


async def test_a_journal_without_a_thread_fails_and_is_back(exhausted: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with journaling.journal(tmp_path / "journal") as journal:
        keeper = Keeper(
            journal, InThread(), sync_seconds=1.0, wall_ms=journaling.Clock(), cursors=dict, remembered=dict
        )
        assert not await keeper.append(journaling.batch(0, 1, 1))
        assert "no thread" in str(keeper.failing)
        exhausted.undo()
        assert await keeper.append(journaling.batch(1, 2, 1))
        assert keeper.failing is None


def database() -> Callable[[], Awaitable[object]]:
    return Session(Secret("host=127.0.0.1 port=1"), "test").connect


def archive() -> Callable[[], Awaitable[object]]:
    return KafkaClient(
        KafkaAccess(("127.0.0.1:1",)),
        Identity("test", "journal", "here"),
        topic="ticks",
        open_seconds=5,
        append_seconds=5,
        watch_seconds=5,
    ).open


@pytest.mark.usefixtures("exhausted")
@pytest.mark.parametrize("store", [database, archive])
async def test_a_store_without_a_thread_is_away(store: Callable[[], Callable[[], Awaitable[object]]]) -> None:
    connect = store()
    for _ in range(2):
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(StoreUnavailable, match="can't start new thread"):
            await connect()
