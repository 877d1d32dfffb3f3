"""What is told to a ledger that fails or hangs, in virtual time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import attrs
import pytest
import trio
from trio.testing import MockClock

from polygon_live.entries import PATIENCE_SECONDS, Entries
from polygon_live.errors import JournalError
from polygon_live.gap import Gap
from polygon_live.journal import Hole, Ledger
from polygon_live.model import Reject
from tests.pipelines import Directly

T = TypeVar("T")
NOW = 1_700_000_000_000
REJECT = Reject("kafka", "refused_by_store", "too large", "{}", NOW, "EURUSD", 7)


@attrs.define
class Desk:
    ledger: Ledger
    call: Directly
    entries: Entries


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    ledger = Ledger.open(tmp_path)
    call = Directly()
    yield Desk(ledger, call, Entries(ledger, call, lambda: NOW))
    ledger.close()


async def test_nobody_waits_long_for_a_ledger_that_hangs_and_it_is_told_when_it_answers(
    desk: Desk, autojump_clock: MockClock
) -> None:
    desk.call.pause = 3600
    began = trio.current_time()
    await desk.entries.set_aside(REJECT, b"{}")
    hole = Hole(5, 9, "given_up")
    assert list(await desk.entries.untold("kafka", [hole])) == [hole]
    await desk.entries.note([Gap(0, "*", "given_up", NOW, NOW, store="kafka", first_seq=5, last_seq=9)])
    assert trio.current_time() - began == 3 * PATIENCE_SECONDS
    desk.call.pause = 0
    await desk.entries.write()
    assert [aside.seq for aside in desk.ledger.quarantine()] == [7]
    assert [gap.first_seq for gap in desk.ledger.gaps()] == [5]


async def test_the_parts_of_an_entry_that_ends_come_together_or_not_at_all(
    desk: Desk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between them would lose those that come later, for the entry does not last any more."""
    (lasting,) = await desk.entries.note([Gap(0, "EURUSD", "disconnect", NOW, None)])
    parts = [attrs.evolve(lasting, to_ms=NOW + 10), attrs.evolve(lasting, id=0, from_ms=NOW + 50, to_ms=NOW + 60)]
    real = desk.ledger._database.execute

    def killed(sql: str, *parameters: object) -> object:
        if sql.startswith("INSERT INTO gaps"):
            raise JournalError("as good as a kill")
        return real(sql, *parameters)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(desk.ledger._database, "execute", killed)
        await desk.entries.note(parts)
    assert [(gap.from_ms, gap.to_ms) for gap in desk.ledger.gaps()] == [(NOW, None)]
    await desk.entries.write()
    assert [(gap.from_ms, gap.to_ms) for gap in desk.ledger.gaps()] == [(NOW, NOW + 10), (NOW + 50, NOW + 60)]
    assert desk.entries.unwritten == ()


async def test_what_ends_for_many_symbols_is_made_durable_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next frames wait meanwhile, and a disk may take 50 ms each time."""
    synced: list[Path] = []
    ledger = Ledger.open(tmp_path, sync=synced.append)
    entries = Entries(ledger, Directly(), lambda: NOW)
    lasting = await entries.note([Gap(0, f"EUR{n}", "disconnect", NOW, None) for n in range(100, 114)])
    synced.clear()
    await entries.note([attrs.evolve(gap, to_ms=NOW + 10) for gap in lasting])
    assert len(synced) == 1
    ledger.close()


LASTING = Gap(0, "EURUSD", "disconnect", 1000, None, opened_ms=1500)
ENDED = attrs.evolve(LASTING, to_ms=2000, last_seq=7)


class Disk:
    """Runs the work at once, or fails, or lets nobody wait for it: then it is done when nobody does."""

    busy = False
    done = 0

    def __init__(self) -> None:
        self.full = False
        self.slow = False
        self._late: list[Callable[[], object]] = []

    async def __call__(self, work: Callable[[], T], /) -> T:
        await trio.lowlevel.checkpoint()
        if self.full:
            raise JournalError("the disk is full")
        if self.slow:
            self._late.append(work)
            await trio.sleep_forever()
        return work()

    def catch_up(self) -> None:
        self.slow = False
        for work in self._late:
            work()


class Room:
    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger.open(folder)
        self.disk = Disk()
        self.entries = Entries(self.ledger, self.disk, lambda: NOW)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path)
    yield room
    room.ledger.close()


async def test_what_is_noted_is_entered_and_then_changed(room: Room) -> None:
    (entered,) = await room.entries.note([LASTING])
    assert entered.id == 1
    await room.entries.note([attrs.evolve(entered, to_ms=2000)])
    assert [(g.id, g.to_ms) for g in room.ledger.gaps()] == [(1, 2000)]
    assert room.entries.counts == {("disconnect", "open"): 1}
    assert room.entries.unsettled_since_ms == entered.opened_ms


async def test_a_full_disk_makes_one_entry_in_the_end(room: Room) -> None:
    room.disk.full = True
    assert await room.entries.note([LASTING]) == [LASTING]
    assert await room.entries.note([ENDED]) == [ENDED]
    assert list(room.entries.unwritten) == [ENDED]
    room.disk.full = False
    await room.entries.write()
    assert [(g.from_ms, g.to_ms, g.last_seq) for g in room.ledger.gaps()] == [(1000, 2000, 7)]
    assert not room.entries.unwritten


async def test_what_was_entered_when_nobody_waited_any_more_is_not_entered_again(
    room: Room, autojump_clock: MockClock
) -> None:
    room.disk.slow = True
    assert await room.entries.note([LASTING]) == [LASTING]  # its number does not come back
    room.disk.catch_up()
    assert [g.id for g in room.ledger.gaps()] == [1]
    await room.entries.write()
    assert [g.id for g in room.ledger.gaps()] == [1]
    await room.entries.note([ENDED])
    assert [(g.id, g.to_ms) for g in room.ledger.gaps()] == [(1, 2000)]


async def test_of_an_entry_that_ends_in_parts_the_first_is_the_one_that_lasted(
    room: Room, autojump_clock: MockClock
) -> None:
    room.disk.slow = True
    await room.entries.note([LASTING])
    room.disk.catch_up()
    await room.entries.note([attrs.evolve(ENDED, to_ms=1200), attrs.evolve(ENDED, from_ms=1800)])
    assert [(g.id, g.from_ms, g.to_ms) for g in room.ledger.gaps()] == [(1, 1000, 1200), (2, 1800, 2000)]


async def test_a_new_entry_is_not_taken_for_the_one_before(room: Room, autojump_clock: MockClock) -> None:
    room.disk.slow = True
    await room.entries.note([LASTING])
    room.disk.catch_up()
    room.disk.full = True
    await room.entries.note([ENDED])
    await room.entries.note([attrs.evolve(LASTING, cause="overflow", from_ms=2000, opened_ms=2100)])
    room.disk.full = False
    await room.entries.write()
    assert [(g.cause, g.from_ms, g.to_ms) for g in room.ledger.gaps()] == [
        ("disconnect", 1000, 2000),
        ("overflow", 2000, None),
    ]


async def test_what_is_told_of_a_store_is_not_told_again(room: Room) -> None:
    told = Gap(0, "*", "given_up", 0, 1, store="kafka", first_seq=10, last_seq=20)
    await room.entries.note([told, attrs.evolve(told, store="nats", first_seq=1, last_seq=100)])
    room.disk.full = True
    await room.entries.note([attrs.evolve(told, first_seq=30, last_seq=30)])
    room.disk.full = False
    assert await room.entries.untold("kafka", [Hole(5, 40, "given_up")]) == [
        Hole(5, 9, "given_up"),
        Hole(21, 29, "given_up"),
        Hole(31, 40, "given_up"),
    ]
    assert await room.entries.untold("kafka", [Hole(12, 13, "given_up")]) == []


async def test_a_tick_that_was_set_aside_is_kept_as_soon_as_it_can_be(room: Room) -> None:
    room.disk.full = True
    for seq in (1, 2):
        await room.entries.set_aside(Reject("kafka", "refused_by_store", "why", "raw", 1, "EURUSD", seq), b"{}")
    assert [aside.seq for aside in room.entries.unkept] == [1, 2]
    assert room.entries.set_aside_counts == {}
    room.disk.full = False
    await room.entries.write()
    assert sorted(aside.seq for aside in room.ledger.quarantine()) == [1, 2]
    assert list(room.entries.unkept) == []
    assert room.entries.set_aside_counts == {"kafka": 2}
