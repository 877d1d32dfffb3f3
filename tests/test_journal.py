"""The journal: what was appended is read again, whole and in order, or is a hole that is told."""

import errno
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polygon_live.errors import JournalError, JournalHeld
from polygon_live.journal import GivenUp, Hole, Journal, Newest
from polygon_live.journal.database import make_durable
from polygon_live.journal.segment import FORMAT, Segment
from polygon_live.model import Batch
from tests.bench import journal as bench
from tests.journaling import HOUR_MS, Clock, MiB, Power, batch, everything, grow, in_memory, journal, opened

ROOT = Path(__file__).parent.parent


@pytest.fixture
def clock() -> Clock:
    return Clock()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("journal-*.db"))


# What is read


def test_what_was_appended_is_read_again_byte_for_byte(tmp_path: Path) -> None:
    with journal(tmp_path) as j:
        first, second = batch(0, 1, 3), batch(3, 4, 2)
        j.append(first)
        j.append(second)
        portion = j.read(0, 100)
        assert portion is not None
        assert portion.batch == Batch.joined([first, second])
        assert (portion.holes, portion.last) == ((), 5)
        assert j.read(5, 100) is None
        assert j.tail == 5


def test_a_portion_is_about_as_large_as_asked_for(tmp_path: Path) -> None:
    with journal(tmp_path) as j:
        grow(j, 10, ticks=3)
        portion = j.read(0, 7)
        assert portion is not None
        assert portion.last == 9


def test_a_reader_in_the_midst_of_a_batch_gets_the_rest_of_it(tmp_path: Path) -> None:
    with journal(tmp_path) as j:
        grow(j, 2, ticks=4)
        portion = j.read(2, 1)
        assert portion is not None
        assert portion.batch is not None
        assert portion.batch.after == 2
        assert [tick.seq for tick in portion.batch.ticks] == [3, 4]


def test_a_new_run_jumps_ahead_and_that_is_no_hole(tmp_path: Path) -> None:
    with journal(tmp_path) as j:
        grow(j, 2)
    with journal(tmp_path) as j:
        assert j.tail == 2
        j.append(batch(2, 1000, 2))
        assert everything(j) == ([1, 2, 1000, 1001], [])
        assert len(segments(tmp_path)) == 2


def test_what_was_accepted_and_not_journaled_is_a_hole(tmp_path: Path) -> None:
    with journal(tmp_path) as j:
        grow(j, 2)
        j.append(batch(7, 8, 2))
        portion = j.read(0, 100)
        assert portion is not None
        assert portion.last == 2, "a portion stops before a hole"
        assert everything(j) == ([1, 2, 8, 9], [Hole(3, 7, "unjournaled")])
        assert everything(j, after=5) == ([8, 9], [Hole(6, 7, "unjournaled")])


def test_a_store_that_has_more_than_the_journal_is_told_no_hole(tmp_path: Path) -> None:
    """Power was lost: the store has up to 5, the journal up to 2."""
    with journal(tmp_path) as j:
        grow(j, 2)
        assert j.read(5, 100) is None
        j.append(batch(2, 1000, 1))
        assert everything(j, after=5) == ([1000], [])


def test_a_batch_that_does_not_follow_is_refused(tmp_path: Path) -> None:
    with journal(tmp_path) as j:
        grow(j, 3)
        for wrong in (batch(2, 4, 1), batch(3, 3, 1), batch(4, 4, 1)):
            with pytest.raises(ValueError, match="does not follow 3"):
                j.append(wrong)


def test_the_facts_and_what_is_pending_can_be_asked_for_from_another_thread(tmp_path: Path, clock: Clock) -> None:
    with journal(tmp_path, clock, segment_bytes=MiB // 4) as j:
        stop = threading.Event()
        faults: list[Exception] = []

        def ask() -> None:
            while not stop.is_set():
                try:
                    facts = j.snapshot()
                    assert facts.ticks == facts.batches
                    assert j.pending(facts.tail)[0] >= 0
                except Exception as fault:  # noqa: BLE001  # told below
                    faults.append(fault)
                    return

        asker = threading.Thread(target=ask)
        asker.start()
        grow(j, 500)
        j.trim({"nats": j.tail})
        stop.set()
        asker.join()
        assert not faults
        facts = j.snapshot()
        on_disk = sum(path.stat().st_size for path in tmp_path.glob("journal-*"))
        assert attrs.asdict(facts) == {
            "folder": tmp_path,
            "id": j.ledger.journal_id,
            "bytes": on_disk,
            "most_bytes": 64 * MiB,
            "free_bytes": facts.free_bytes,
            "segments": len(segments(tmp_path)),
            "batches": 500,
            "ticks": 500,
            "bytes_per_tick": facts.bytes_per_tick,
            "oldest_ms": clock.ms,
            "tail": 500,
            "removed_to": 0,
            "corrupt": (),
            "damaged": (),
        }
        assert len(segments(tmp_path)) > 3
        assert j.pending(500) == (0, 0)
        assert j.pending(375)[0] == 125
        ticks, size = j.pending(0)
        assert ticks == 500
        assert on_disk - len(segments(tmp_path)) <= size <= on_disk


# Segments, their removal


def test_a_segment_ends_by_its_size_by_its_age_and_with_its_run(tmp_path: Path, clock: Clock) -> None:
    with journal(tmp_path, clock, segment_bytes=MiB // 4) as j:
        grow(j, 1)
        clock.ms += HOUR_MS - 1
        grow(j, 1)
        assert len(segments(tmp_path)) == 1
        clock.ms += 1
        grow(j, 1)
        assert len(segments(tmp_path)) == 2
        grow(j, 100, ticks=20)
        assert len(segments(tmp_path)) > 3
        made = len(segments(tmp_path))
    with journal(tmp_path, clock) as j:
        assert len(segments(tmp_path)) == made, "a run that accepts nothing makes no file"
        grow(j, 1)
        assert len(segments(tmp_path)) == made + 1
        assert everything(j) == (list(range(1, j.tail + 1)), [])
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "ledger.db", *(p.name for p in segments(tmp_path))}


def test_what_all_have_and_is_old_goes_and_the_tail_stays_known(tmp_path: Path, clock: Clock) -> None:
    with journal(tmp_path, clock) as j:
        grow(j, 3)
        clock.ms += 2 * HOUR_MS
        grow(j, 3)
        clock.ms += 23 * HOUR_MS
        assert j.trim({"nats": 6, "kafka": 2}) == []
        assert j.snapshot().segments == 2, "kafka still needs it"
        assert j.trim({"nats": 6, "kafka": 3}) == []
        assert j.snapshot().segments == 1, "the other is not old enough"
        assert j.beginning == 3
    clock.ms += 24 * HOUR_MS
    with journal(tmp_path, clock) as j:
        assert j.trim({"nats": 6, "kafka": 6}) == []
        assert j.snapshot().segments == 0
        assert (j.tail, j.beginning) == (6, 6)
    with journal(tmp_path, clock) as j:
        assert j.tail == 6
        assert j.read(6, 10) is None
        assert everything(j, after=1) == ([], [Hole(2, 6, "given_up", 5, 1, 6)])


def test_at_the_bound_the_oldest_goes_whoever_needs_it(tmp_path: Path) -> None:
    with journal(tmp_path, most_bytes=MiB, segment_bytes=MiB // 8) as j:
        given_up: list[GivenUp] = []
        while len(given_up) < 3:
            grow(j, 5, ticks=100)
            given_up += j.trim({"nats": j.tail, "kafka": 10})
            assert j.snapshot().bytes <= MiB
        assert {each.sink for each in given_up} == {"kafka"}
        holes = [each.hole for each in given_up]
        assert holes[0].first == 11
        assert [hole.first for hole in holes[1:]] == [hole.last + 1 for hole in holes[:-1]]
        assert all(hole.ticks == hole.last - hole.first + 1 for hole in holes)
        assert holes[1].from_ms == holes[1].first
        assert holes[2].to_ms == holes[2].last == j.snapshot().removed_to == j.beginning
        numbers, missing = everything(j, after=10)
        assert numbers == list(range(holes[2].last + 1, j.tail + 1))
        assert missing == [Hole(11, holes[2].last, "given_up", holes[2].last - 10, 1, holes[2].last)]


def test_who_is_killed_right_after_he_gave_something_up_has_told_of_it(tmp_path: Path) -> None:
    """Nobody else knows what a store lacks that was never there: at the next start it is new."""
    folder, killed = tmp_path / "journal", tmp_path / "killed"
    with journal(folder, most_bytes=MiB, segment_bytes=MiB // 8) as j:
        given_up: list[GivenUp] = []
        while not given_up:
            grow(j, 5, ticks=100)
            given_up += j.trim({"nats": 0, "kafka": 10, "table": j.tail})
        shutil.copytree(folder, killed)
    with journal(killed, most_bytes=MiB) as j:
        told = {(g.store, g.cause, g.first_seq, g.last_seq, g.ticks) for g in j.ledger.gaps()}
        assert told == {(e.sink, "given_up", e.hole.first, e.hole.last, e.hole.ticks) for e in given_up}
        assert {e.sink for e in given_up} == {"nats", "kafka"}


def test_the_active_segment_is_never_removed(tmp_path: Path) -> None:
    with journal(tmp_path, most_bytes=64 * 1024, segment_bytes=MiB) as j:
        grow(j, 3, ticks=200)
        assert j.trim({"nats": 0}) == []
        assert everything(j)[0] == list(range(1, 601))


# Against a model

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 6)),
        st.tuples(st.just("append"), st.integers(1, 6)),
        st.tuples(st.just("unjournaled"), st.integers(1, 4)),
        st.tuples(st.just("hour"), st.just(0)),
        st.tuples(st.just("sync"), st.just(0)),
        st.tuples(st.just("trim"), st.integers(0, 60)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("kill"), st.just(0)),
        st.tuples(st.just("power"), st.just(0)),
    ),
    max_size=40,
)
"""Each with a number: how many ticks; for ``trim``, a cursor's place."""


class Model:
    """What the journal must have: a plain list of numbers, and what became of each."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        self.journaled: set[int] = set()
        self.durable: set[int] = set()
        self.removed_to = 0

    def check(self, j: Journal, after: int) -> None:
        numbers, holes = everything(j, after, most=7)
        wanted = [n for n in self.accepted if n in self.journaled and n > max(after, self.removed_to)]
        assert numbers == wanted
        for hole in holes:
            assert not any(hole.first <= n <= hole.last for n in numbers)
            assert (hole.cause == "given_up") == (hole.last <= self.removed_to)
        for n in self.accepted:
            if after < n <= j.tail:
                assert (n in wanted) != any(hole.first <= n <= hole.last for hole in holes)


@settings(deadline=None, max_examples=100)
@given(steps=STEPS, places=st.lists(st.integers(0, 100), min_size=3, max_size=3))
def test_any_history_is_read_or_told_as_a_hole(steps: list[tuple[str, int]], places: list[int]) -> None:  # noqa: PLR0912
    with in_memory() as scratch:
        here, clock, model = Path(scratch), Clock(), Model()
        power = Power(here / "images")
        folder = here / "0"

        def start() -> Journal:
            made = opened(
                folder, clock, most_bytes=40 * 1024, segment_bytes=16 * 1024, keep_ms=HOUR_MS, sync=power.sync
            )
            made.reserve(made.tail + 10_000)
            return made

        j = start()
        last = 0  # accepted
        for number, (step, count) in enumerate(steps, 1):
            if step == "append":
                j.append(batch(last, last + 1, count))
                model.accepted += range(last + 1, last + count + 1)
                model.journaled |= set(model.accepted[-count:])
                last += count
            elif step == "unjournaled":
                model.accepted += range(last + 1, last + count + 1)
                last += count
            elif step == "hour":
                clock.ms += HOUR_MS + 1
            elif step == "sync":
                j.sync()
                model.durable = set(model.journaled)
            elif step == "trim":
                cursor = model.accepted[count * len(model.accepted) // 60 - 1] if count and model.accepted else 0
                was = [n for n in model.accepted if n in model.journaled and n > model.removed_to]
                given_up = j.trim({"table": cursor, "nats": j.tail})
                model.removed_to = j.snapshot().removed_to
                lost = [n for n in was if cursor < n <= model.removed_to]
                told = [(each.hole.first, each.hole.last) for each in given_up]
                assert {each.sink for each in given_up} <= {"table"}
                assert all(any(a <= n <= b for a, b in told) for n in lost)
                assert sum(each.hole.ticks or 0 for each in given_up) == len(lost)
            else:
                old, new = folder, here / str(number)
                if step == "restart":
                    j.close()
                    folder = old
                else:
                    if step == "kill":
                        shutil.copytree(old, new)
                    else:
                        power.cut(new)
                        known = set(model.durable)
                    power = Power(here / f"images{number}")
                    j.close()
                    folder = new
                j = start()
                if step == "power":
                    # A change of segments makes durable what was before, so there may be more than at the last sync.
                    assert known <= model.journaled
                    assert j.tail >= max(known, default=0)
                    lost_tail = [n for n in model.journaled if n > j.tail]
                    assert not known & set(lost_tail)
                    model.journaled -= set(lost_tail)
                    model.removed_to = j.snapshot().removed_to
                for path in (folder / "ledger.db", *segments(folder)):
                    power.sync(path)
                model.durable = set(model.journaled)
                model.accepted = [n for n in model.accepted if n <= j.tail]
                last = j.tail + 1000
                # A run's first batch names the tail.
                j.append(batch(j.tail, last, 1))
                model.accepted.append(last)
                model.journaled.add(last)
        for place in (0, *places):
            model.check(j, (place * last) // 100)
        j.close()


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


# Newest ticks


def test_newest_ticks_are_brought_up_to_date_from_the_batches(tmp_path: Path) -> None:
    symbols = ("EURUSD", "USDJPY")
    with journal(tmp_path) as j:
        j.append(batch(0, 1, 4, symbols))
        j.ledger.remember({"nats": 4}, {"EURUSD": Newest(4, 4), "USDJPY": Newest(3, 3)})
        j.append(batch(4, 5, 3, ("EURUSD",)))
    with journal(tmp_path) as j:
        assert j.ledger.newest() == {"EURUSD": Newest(7, 7), "USDJPY": Newest(3, 3)}
        assert j.ledger.cursors() == {"nats": 4}


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


# What it costs


def test_the_bench_fills_its_table(capsys: pytest.CaptureFixture[str], memory: Path) -> None:
    bench.main(0.01, str(memory))
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if re.match(r" +(1|20|500) ", line)]) == 9
    assert not list(memory.iterdir())


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
