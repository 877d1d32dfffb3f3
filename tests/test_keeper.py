"""What goes wrong with the journal stays with the keeper: in virtual time, and with the real thread."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from polygon_live.calling import CountedCall, InThread
from polygon_live.errors import JournalError
from polygon_live.gap import Gap
from polygon_live.journal import Journal, Ledger, Newest
from polygon_live.keeper import STALL_SECONDS, Keeper
from polygon_live.model import Batch, encode
from tests import journaling
from tests.journaling import MiB, Power, batch
from tests.pipelines import Directly
from tests.test_pump import START_MS, tick
from tests.waiting import until


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with journaling.journal(tmp_path / "journal") as made:
        yield made


@pytest.fixture
def call() -> Directly:
    return Directly()


class Thread(InThread):
    """The real one, with pieces of work that hang until they are let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def hang(self) -> None:
        assert self.let.wait(60)


def keeping(
    journal: Journal,
    call: CountedCall,
    *,
    sync_seconds: float = 1.0,
    cursors: Callable[[], Mapping[str, int]] = dict,
) -> Keeper:
    return Keeper(
        journal,
        call,
        sync_seconds=sync_seconds,
        wall_ms=journaling.Clock(),
        cursors=cursors,
        remembered=dict,
    )


async def test_a_ledger_that_hangs_in_a_write_stops_nobody_who_asks_for_the_state(journal: Journal) -> None:
    keeper = keeping(journal, InThread())
    begun, let = threading.Event(), threading.Event()

    def hang() -> int:
        begun.set()
        return let.wait(60)

    journal.ledger._database._connection.create_function("hang", 0, hang)
    writing = threading.Thread(target=lambda: journal.ledger._database.execute("SELECT hang()"))
    asking = threading.Thread(target=keeper.snapshot, daemon=True)
    writing.start()
    begun.wait()
    asking.start()
    asking.join(10)
    answered = not asking.is_alive()
    let.set()
    writing.join()
    assert answered


async def test_after_a_stall_nothing_is_skipped_because_others_read(journal: Journal) -> None:
    call = Thread()
    keeper = keeping(journal, call)
    with trio.move_on_after(0.1):
        await call(call.hang)
    with trio.fail_after(60):
        assert not await keeper.append(batch(0, 1, 1))
    assert "has taken more than 2 s" in str(keeper.snapshot().failing)
    began = trio.current_time()
    assert not await keeper.append(batch(1, 2, 1))
    assert trio.current_time() - began < STALL_SECONDS  # not so long a wait for the same again
    call.let.set()
    await call(lambda: None)
    call.let.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, call.hang)  # a pump that reads
        await until(lambda: call.busy)
        trio.lowlevel.current_trio_token().run_sync_soon(call.let.set)
        assert await keeper.append(batch(2, 3, 1))
    assert journal.tail == 3


async def test_a_fault_lasts_until_the_same_work_is_done_and_is_told_once(
    journal: Journal, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, call: Directly
) -> None:
    keeper = keeping(journal, call)

    def failing(*_: object) -> None:
        raise JournalError("no space left on device")

    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            with monkeypatch.context() as patch:
                patch.setattr(journal.ledger, "remember", failing)
                for _ in range(5):
                    await trio.sleep(1.1)
                    await keeper.append(batch(journal.tail, journal.tail + 1, 1))
                    assert keeper.snapshot().failing == "no space left on device"
            await trio.sleep(2)  # the market is closed: no tick comes
            assert keeper.snapshot().failing is None
            nursery.cancel_scope.cancel()
    assert [line["log_level"] for line in logs] == ["error", "info"]


async def test_symbols_that_could_not_be_forgotten_are_forgotten_once_the_ledger_can_be_written(
    journal: Journal, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, call: Directly
) -> None:
    keeper = keeping(journal, call, sync_seconds=0.0)
    await keeper.append(batch(0, 1, 2, ("EURUSD", "XAUUSD")))

    def failing(*_: object) -> None:
        raise JournalError("no space left on device")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(1.1)
        assert set(journal.ledger.newest()) == {"EURUSD", "XAUUSD"}
        with monkeypatch.context() as patch:
            patch.setattr(journal.ledger, "forget", failing)
            await keeper.forget({"EURUSD"})
            await trio.sleep(5)
            with pytest.raises(JournalError):
                keeper.check()
        await trio.sleep(2)
        keeper.check()
        nursery.cancel_scope.cancel()
    assert set(journal.ledger.newest()) == {"EURUSD"}


async def test_one_who_ticks_again_before_it_could_be_forgotten_is_remembered(
    journal: Journal, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, call: Directly
) -> None:
    keeper = keeping(journal, call, sync_seconds=0.0)
    await keeper.append(batch(0, 1, 1))

    def failing(*_: object) -> None:
        raise JournalError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.ledger, "forget", failing)
        await keeper.forget(())
    await keeper.append(batch(1, 2, 1))
    await keeper._keep()
    assert journal.ledger.newest() == {"EURUSD": Newest(2, 2)}


async def test_a_symbol_may_be_forgotten_while_the_ledger_writes_when_it_ticked(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = keeping(journal, InThread(), sync_seconds=0.0)
    await keeper.append(batch(0, 1, 2, ("EURUSD", "XAUUSD")))
    begun, let = threading.Event(), threading.Event()
    remember = journal.ledger.remember

    def slowly(cursors: Mapping[str, int], newest: Mapping[str, Newest]) -> None:
        ones = iter(newest.items())
        first = next(ones)
        begun.set()
        assert let.wait(60)
        remember(cursors, dict([first, *ones]))

    monkeypatch.setattr(journal.ledger, "remember", slowly)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper._keep)
        await until(begun.is_set)
        nursery.start_soon(keeper.forget, {"EURUSD"})
        await until(lambda: set(keeper._newest) == {"EURUSD"})
        let.set()
    assert set(journal.ledger.newest()) == {"EURUSD"}


async def test_a_stretch_that_is_not_in_the_journal_is_entered_at_the_end_at_the_latest(
    journal: Journal, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, call: Directly, tmp_path: Path
) -> None:
    keeper = keeping(journal, call)

    def failing(*_: object) -> None:
        raise JournalError("no space left on device")

    monkeypatch.setattr(journal, "append", failing)
    await keeper.append(batch(0, 1, 3))
    await keeper.finish()
    ledger = Ledger.open_existing(tmp_path / "journal")
    (gap,) = ledger.gaps()
    assert (gap.cause, gap.first_seq, gap.last_seq, gap.ticks) == ("unjournaled", 1, 3, 3)
    ledger.close()


async def test_what_is_remembered_of_symbols_is_durable_in_the_journal(
    autojump_clock: MockClock, tmp_path: Path, call: Directly
) -> None:
    """Else a power cut would take ticks that the ledger counts as received, and nobody would fetch them again."""
    power = Power(tmp_path / "images")
    journal = journaling.opened(tmp_path / "journal", sync=power.sync)
    keeper = keeping(journal, call, sync_seconds=60.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        for seq in range(1, 4):
            await keeper.append(batch(seq - 1, seq, 1))
            await trio.sleep(2)
        await keeper.note([Gap(0, "EURUSD", "disconnect", 3, None)])  # makes the ledger durable, not the batches
        nursery.cancel_scope.cancel()
    power.cut(tmp_path / "left")
    journal.close()
    with journaling.journal(tmp_path / "left") as left:
        assert left.tail == 0
        assert left.ledger.newest() == {}


@pytest.mark.parametrize(
    ("stamps", "newest"),
    [
        ([0, 300], 1),
        ([0, -4000], 0),  # after a start nobody knows that it is late
        ([0, 0], 1),
        ([3_600_000, 300], 1),  # nobody believes the first, and what is missed until then is missed
        ([4000, 300], 0),
    ],
)
async def test_the_newest_tick_of_a_symbol_is_no_older_one_and_none_of_the_future(
    autojump_clock: MockClock, journal: Journal, call: Directly, stamps: Sequence[int], newest: int
) -> None:
    keeper = keeping(journal, call, sync_seconds=0.0)
    ticks = [msgspec.structs.replace(tick(n), timestamp_ms=START_MS + stamp) for n, stamp in enumerate(stamps, start=1)]
    for each in ticks:
        await keeper.append(Batch(each.seq - 1, [each], [encode(each)]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert journal.ledger.newest() == {"EURUSD": Newest(ticks[newest].timestamp_ms, ticks[newest].seq)}


@pytest.mark.parametrize("ticks", [1, 50])
async def test_the_time_until_loss_is_right_but_for_a_segment(
    autojump_clock: MockClock, tmp_path: Path, call: Directly, ticks: int
) -> None:
    with journaling.journal(tmp_path / "journal", most_bytes=2 * MiB) as journal:
        keeper = keeping(journal, call, cursors=lambda: {"away": 0})
        promised: list[tuple[float, float | None]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            while not keeper.snapshot().given_up_ticks:
                await keeper.append(batch(journal.tail, journal.tail + 1, ticks))
                await trio.sleep(0.1)
                if keeper.snapshot().segments > 1:
                    promised.append((trio.current_time(), keeper.pending(0)[1]))
            nursery.cancel_scope.cancel()
        came = trio.current_time()
        assert promised
        for at, seconds in promised:
            assert seconds is not None
            assert abs(seconds - (came - at)) <= came / 8  # a segment, which goes as a whole


async def test_a_damaged_file_is_told_at_every_start_until_it_is_removed(
    autojump_clock: MockClock, tmp_path: Path, call: Directly
) -> None:
    with journaling.journal(tmp_path / "journal") as journal:
        journal.append(batch(0, 1, 1))
    (tmp_path / "journal" / "ledger.db").write_bytes(b"\0" * 8192)
    for _ in range(2):
        with journaling.journal(tmp_path / "journal") as journal, capture_logs() as logs:
            assert keeping(journal, call).snapshot().damaged == ("ledger.db.damaged",)
        assert [line["log_level"] for line in logs] == ["error"]
