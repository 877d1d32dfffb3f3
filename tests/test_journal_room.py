"""The journal's place: one collector in it, with room and rights; and older formats of it."""

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import pytest

from polygon_live.errors import JournalError, JournalHeld
from polygon_live.journal import Hole, Journal
from polygon_live.journal.database import make_durable
from polygon_live.journal.segment import FORMAT, Segment
from tests.journaling import Clock, MiB, batch, everything, grow, journal, opened

ROOT = Path(__file__).parent.parent


@pytest.fixture
def clock() -> Clock:
    return Clock()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("journal-*.db"))


# One collector


def child(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Another process that appends to this folder."""
    command = [sys.executable, "-m", "tests.journaling", str(folder), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def appending(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with child(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        yield process
        process.kill()


def test_the_second_is_told_who_holds_the_journal(tmp_path: Path, appending: subprocess.Popen[str]) -> None:
    with pytest.raises(JournalHeld) as held:
        opened(tmp_path)
    assert f"process {appending.pid} on {os.uname().nodename} since " in str(held.value)
    assert str(tmp_path) in str(held.value)
    appending.kill()
    appending.wait()
    opened(tmp_path).close()


def test_what_stands_in_the_lock_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\xff{")
    with journal(tmp_path):
        (tmp_path / "lock").write_bytes(b"\xff{")
        with pytest.raises(JournalHeld, match="held by another process"):
            opened(tmp_path)


def test_kill_9_loses_nothing_that_was_committed(memory: Path) -> None:
    chance = random.Random(4)
    for _ in range(6):
        process = child(memory)
        assert process.stdout is not None
        told = 0
        for _ in range(chance.randrange(1, 300)):
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split("\n")[:-1]
        told = int(rest[-1]) if rest else told
        with journal(memory) as j:
            assert j.tail >= told
            numbers, holes = everything(j)
            removed = j.snapshot().removed_to
            assert numbers == list(range(removed + 1, j.tail + 1))
            assert holes == ([Hole(1, removed, "given_up", removed, 1, removed)] if removed else [])
            assert j.ledger.mark >= removed
    assert removed > 0, "the bound was not met: what a kill does to removals was not tried"


# No room, no right


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))
    assert shutil.disk_usage(disk).free == 0
    return ballast


def grow_until_it_fails(j: Journal) -> str:
    with pytest.raises(JournalError) as failed:
        grow(j, 1000, ticks=100)
    return str(failed.value)


def test_a_full_disk_is_told_and_appending_goes_on_when_there_is_room(small_disk: Path) -> None:
    folder = small_disk / "journal"
    with journal(folder, most_bytes=2 * MiB) as j:
        grow(j, 20, ticks=100)
        ballast = fill(small_disk)
        told = grow_until_it_fails(j)
        assert "disk is full; make room on that disk" in told
        assert str(folder) in told
        tail = j.tail
        for _ in range(3):
            with pytest.raises(JournalError, match="full"):
                j.append(batch(tail, tail + 1, 100))
        numbers = list(range(1, tail + 1))
        assert everything(j) == (numbers, [])
        ballast.unlink()
        j.append(batch(tail + 7, tail + 8, 3))
        j.sync()
        numbers += range(tail + 8, tail + 11)
        assert everything(j) == (numbers, [Hole(tail + 1, tail + 7, "unjournaled")])
        assert j.snapshot().segments == len(segments(folder))
    with journal(folder, most_bytes=MiB) as j:
        assert everything(j) == (numbers, [Hole(tail + 1, tail + 7, "unjournaled")])


def test_on_a_full_disk_the_bound_makes_room(small_disk: Path) -> None:
    folder = small_disk / "journal"
    with journal(folder, most_bytes=3 * MiB, segment_bytes=MiB // 4) as j:
        j.reserve(100_000)
        while j.snapshot().bytes < 2 * MiB:
            grow(j, 1, ticks=100)
    with journal(folder, most_bytes=MiB, segment_bytes=MiB // 4) as j:
        fill(small_disk)
        assert grow_until_it_fails(j)
        given_up = j.trim({"nats": 0})
        assert given_up
        assert j.snapshot().bytes <= MiB
        j.append(batch(j.tail, j.tail + 1, 100))
        assert everything(j)[1] == [Hole(1, given_up[-1].hole.last, "given_up", given_up[-1].hole.last, 1, j.beginning)]


def test_without_room_it_does_not_start_and_says_how_much_is_needed(small_disk: Path) -> None:
    with pytest.raises(JournalError, match=r"has 3 MiB left, and 64 MiB are needed to start; make room"):
        opened(small_disk / "journal")
    opened(small_disk / "journal", most_bytes=MiB).close()
    fill(small_disk)
    with pytest.raises(JournalError, match=r"has 0 MiB left, and 1 MiB are needed to start; make room"):
        opened(small_disk / "journal", most_bytes=MiB)


def test_a_limit_on_the_size_of_files_is_told(tmp_path: Path) -> None:
    """Without root too: the write fails, and a new, smaller file is begun."""
    with journal(tmp_path) as j:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            told = grow_until_it_fails(j)
            tail = j.tail
            j.append(batch(tail, tail + 1, 100))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "look at the kernel's log" in told
        assert len(segments(tmp_path)) == 2
        assert everything(j) == (list(range(1, tail + 101)), [])


@pytest.fixture
def seen_by_all() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_folder_without_the_right_to_write_is_told(seen_by_all: Path) -> None:
    folder = seen_by_all / "journal"
    folder.mkdir(mode=0o755)
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(65534)
    else:
        folder.chmod(0o555)
    try:
        with pytest.raises(JournalError, match=r"lock can't be locked: Permission denied; look at its owner"):
            opened(folder)
    finally:
        if as_root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    with pytest.raises(JournalError, match="journal is no folder, and the journal needs one"):
        opened(tmp_path / "journal")


# Formats


def test_an_older_segment_is_migrated_in_place(tmp_path: Path, clock: Clock) -> None:
    with journal(tmp_path, clock) as j:
        grow(j, 3)
    (path,) = segments(tmp_path)
    newer = attrs.evolve(FORMAT, steps=(*FORMAT.steps, ("ALTER TABLE batches ADD COLUMN note TEXT DEFAULT 'old'",)))
    Segment.open(path, sync=make_durable, form=newer).close()
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT last, note FROM batches").fetchall() == [(1, "old"), (2, "old"), (3, "old")]
        assert reader.execute("PRAGMA user_version").fetchone() == (2,)
    reader.close()
    with pytest.raises(JournalError) as refused:
        opened(tmp_path, clock)
    assert f"{path} is a segment of format 2, and this version of polygon-live knows formats up to 1" in str(
        refused.value
    )


def test_a_migration_that_is_cut_short_is_done_again(tmp_path: Path, clock: Clock) -> None:
    with journal(tmp_path, clock) as j:
        grow(j, 1)
    (path,) = segments(tmp_path)
    step = "ALTER TABLE batches ADD COLUMN note TEXT"
    with pytest.raises(JournalError, match="no such table: nowhere"):
        Segment.open(
            path, sync=make_durable, form=attrs.evolve(FORMAT, steps=(*FORMAT.steps, (step, "DROP TABLE nowhere")))
        )
    Segment.open(path, sync=make_durable, form=attrs.evolve(FORMAT, steps=(*FORMAT.steps, (step,)))).close()


def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / f"journal-{1:020}.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE accounts (id)")
    other.close()
    with pytest.raises(JournalError, match="is no segment of polygon-live; move it away"):
        opened(tmp_path)
    assert path.exists()


def test_an_empty_file_is_what_a_power_cut_leaves_of_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / f"journal-{1:020}.db"
    path.touch()
    (tmp_path / "ledger.db").touch()
    with journal(tmp_path) as j:
        assert not path.exists()
        assert j.snapshot().damaged == ()
        grow(j, 1)
