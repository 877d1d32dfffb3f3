"""The journal and its disk: what is durable when, and what damage costs."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from polygon_live.errors import JournalError
from polygon_live.journal import Hole
from tests.journaling import HOUR_MS, Clock, Power, batch, everything, grow, journal


@pytest.fixture
def clock() -> Clock:
    return Clock()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("journal-*.db"))


# What is durable when


def test_a_change_of_segments_makes_the_older_one_durable_first(tmp_path: Path, clock: Clock) -> None:
    power = Power(tmp_path / "images")
    with journal(tmp_path / "before", clock, sync=power.sync) as j:
        grow(j, 2)
        clock.ms += HOUR_MS
        grow(j, 2)
        power.cut(tmp_path / "unsynced")
        j.sync()
        power.cut(tmp_path / "synced")
    with journal(tmp_path / "unsynced", clock) as j:
        assert everything(j) == ([1, 2], [])
        assert j.tail == 2
    with journal(tmp_path / "synced", clock) as j:
        assert everything(j) == ([1, 2, 3, 4], [])


def test_a_segment_whose_removal_a_power_cut_undid_is_removed_again(tmp_path: Path, clock: Clock) -> None:
    power = Power(tmp_path / "images")
    with journal(tmp_path / "before", clock, keep_ms=HOUR_MS, sync=power.sync) as j:
        j.reserve(100)
        grow(j, 2)
        clock.ms += 2 * HOUR_MS
        grow(j, 2)
        j.sync()
        assert j.trim({"nats": 4}) == []
        power.cut(tmp_path / "after")
    assert len(segments(tmp_path / "after")) == 2
    with journal(tmp_path / "after", clock) as j:
        assert len(segments(tmp_path / "after")) == 1
        assert everything(j) == ([3, 4], [Hole(1, 2, "given_up", 2, 1, 2)])


def test_a_segment_that_could_not_be_made_durable_is_asked_for_until_it_is(tmp_path: Path, clock: Clock) -> None:
    works = True
    synced = []

    def sync(path: Path) -> None:
        if not works:
            raise OSError(errno.EIO, "Input/output error")
        synced.append(path.name)

    with journal(tmp_path, clock, sync=sync) as j:
        j.reserve(100)
        grow(j, 2)
        works = False
        with pytest.raises(JournalError, match=r"journal-0+1\.db can't be made durable: Input/output error"):
            j.sync()
        grow(j, 2)
        assert len(segments(tmp_path)) == 2, "what failed once is not written again"
        with pytest.raises(JournalError, match=r"journal-0+1\.db"):
            j.sync()
        works = True
        synced.clear()
        grow(j, 2)
        j.sync()
        assert synced == [path.name for path in segments(tmp_path)]
        assert everything(j) == ([1, 2, 3, 4, 5, 6], [])


def test_the_log_and_then_the_names_in_the_folder_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def noted(descriptor: int, real: Callable[[int], None] = real) -> None:
            synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            real(descriptor)

        monkeypatch.setattr(os, name, noted)
    with journal(tmp_path) as j:
        synced.clear()
        j.reserve(5)
        assert synced == [f"{tmp_path}/ledger.db-wal", str(tmp_path)]
        grow(j, 2)
        synced.clear()
        j.sync()
        assert synced == [f"{tmp_path}/journal-{1:020}.db-wal", str(tmp_path)]


# What is damaged costs itself


def payload_at(path: Path, seq: int) -> int:
    place = path.read_bytes().index(f'"seq":{seq},'.encode())
    assert place > 0
    return place


def spoil(path: Path, place: int, length: int = 4, content: bytes = b"\xff") -> None:
    """Bytes that the disk gave back wrong."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content * length)


@pytest.mark.parametrize("content", [b"\xff", b"9"], ids=["no JSON", "another number"])
def test_a_corrupt_batch_costs_that_batch(tmp_path: Path, content: bytes) -> None:
    with journal(tmp_path) as j:
        grow(j, 5, ticks=3)
    (path,) = segments(tmp_path)
    spoil(path, payload_at(path, 8) - 3, 1, content)
    with journal(tmp_path) as j:
        hole = Hole(7, 9, "corrupt", 3, 7, 9)
        assert everything(j) == ([1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15], [hole])
        assert everything(j, after=7) == ([10, 11, 12, 13, 14, 15], [Hole(8, 9, "corrupt", 2, 7, 9)])
        assert everything(j) == ([1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15], [hole])
        assert j.snapshot().corrupt == (hole,), "told once, though found three times"


@pytest.mark.parametrize(
    "damage",
    ["ticks = 'many'", "first = NULL", "payloads = NULL", "after = 900, oldest_ms = 5.5", "ticks = 4", "crc = 0"],
)
def test_a_corrupt_row_may_say_anything(tmp_path: Path, damage: str) -> None:
    with journal(tmp_path) as j:
        grow(j, 3, ticks=3)
    with sqlite3.connect(segments(tmp_path)[0]) as other:
        other.execute("CREATE TABLE loose AS SELECT * FROM batches")  # without the constraints
        other.execute(f"UPDATE loose SET {damage} WHERE last = 6")
        other.execute("DROP TABLE batches")
        other.execute(
            "CREATE TABLE batches (last INTEGER PRIMARY KEY, after, first, ticks, "
            "oldest_ms, newest_ms, written_ms, crc, payloads)"
        )
        other.execute("INSERT INTO batches SELECT * FROM loose")
    other.close()
    with journal(tmp_path) as j:
        numbers, (hole,) = everything(j)
        assert numbers == [1, 2, 3, 7, 8, 9]
        assert (hole.first, hole.last, hole.cause) == (4, 6, "corrupt")
        assert hole.ticks in (None, 3)


def test_the_last_batch_can_be_corrupt_and_so_can_the_first(tmp_path: Path) -> None:
    with journal(tmp_path) as j:
        grow(j, 3, ticks=2)
    (path,) = segments(tmp_path)
    spoil(path, payload_at(path, 1))
    spoil(path, payload_at(path, 6))
    with journal(tmp_path) as j:
        assert everything(j) == ([3, 4], [Hole(1, 2, "corrupt", 2, 1, 2), Hole(5, 6, "corrupt", 2, 5, 6)])
        j.append(batch(6, 1000, 1))
        assert everything(j) == ([3, 4, 1000], [Hole(1, 2, "corrupt", 2, 1, 2), Hole(5, 6, "corrupt", 2, 5, 6)])


def test_a_segment_that_sqlite_calls_malformed_costs_what_can_not_be_read_of_it(tmp_path: Path, clock: Clock) -> None:
    for _ in range(3):
        with journal(tmp_path, clock) as j:
            grow(j, 40, ticks=20)
    path = segments(tmp_path)[1]
    spoil(path, 4096, 4096)  # the root of its batches
    with journal(tmp_path, clock) as j:
        numbers, holes = everything(j)
        assert numbers == [*range(1, 801), *range(1601, 2401)]
        assert holes == [Hole(801, 1600, "corrupt", 800, 801, 1600)]
        assert everything(j, after=1000)[1] == [Hole(1001, 1600, "corrupt", 600, 801, 1600)]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_damaged_segment_is_set_aside_and_the_collector_starts(tmp_path: Path, which: int) -> None:
    ends = []
    for run in range(3):
        with journal(tmp_path) as j:
            j.reserve(run * 1000 + 500)
            j.append(batch(j.tail, run * 1000 + 1, 3))
            grow(j, 2, ticks=3)
            ends.append(j.tail)
    path = segments(tmp_path)[which]
    spoil(path, 0, 100)
    hole = Hole([0, *ends][which] + 1, [*ends[:2], 2500][which], "corrupt")
    numbers = [run * 1000 + n for run in range(3) if run != which for n in range(1, 10)]
    with journal(tmp_path) as j:
        assert j.snapshot().damaged == (path.name + ".damaged",)
        assert (tmp_path / (path.name + ".damaged")).exists()
        assert j.tail == (2500 if which == 2 else ends[2])
        j.reserve(9000)
        j.append(batch(j.tail, 5000, 1))
        assert everything(j) == ([*numbers, 5000], [hole])
    with journal(tmp_path) as j:
        assert everything(j) == ([*numbers, 5000], [hole]), "it is remembered"
        assert j.snapshot().damaged == (path.name + ".damaged",)


def test_a_segment_that_somebody_removes_is_a_hole(tmp_path: Path) -> None:
    for _ in range(3):
        with journal(tmp_path) as j:
            grow(j, 3)
    with journal(tmp_path) as j:
        segments(tmp_path)[1].unlink()
        assert everything(j) == ([1, 2, 3, 7, 8, 9], [Hole(4, 6, "corrupt", 3, 4, 6)])


def test_files_that_are_removed_while_they_are_written_are_noticed(tmp_path: Path) -> None:
    with journal(tmp_path) as j:
        grow(j, 3)
        for path in tmp_path.glob("journal-*"):
            path.unlink()
        with pytest.raises(JournalError, match=r"journal-0+1\.db can't be found: No such file"):
            j.sync()
        j.append(batch(3, 4, 2))
        j.sync()
        assert everything(j) == ([4, 5], [Hole(1, 3, "corrupt", 3, 1, 3)])


def test_a_damaged_ledger_is_set_aside_and_the_segments_tell_what_they_can(tmp_path: Path, clock: Clock) -> None:
    for _ in range(2):
        with journal(tmp_path, clock) as j:
            j.reserve(10_000)
            grow(j, 3)
    clock.ms += 25 * HOUR_MS
    with journal(tmp_path, clock) as j:
        grow(j, 1)
        j.trim({"nats": 3})
        was = j.id
    spoil(tmp_path / "ledger.db", 4096, 4096)
    with journal(tmp_path, clock) as j:
        assert j.snapshot().damaged == ("ledger.db.damaged",)
        assert j.id != was
        assert j.ledger.mark == 7
        assert everything(j) == ([4, 5, 6, 7], [Hole(1, 3, "given_up")])
