"""The journal: what was appended is read again, whole and in order, or is a hole that is told."""

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polygon_live.blocks import Listed
from polygon_live.journal import GivenUp, Hole, Journal, Newest
from polygon_live.model import Batch
from tests.journaling import HOUR_MS, Clock, MiB, Power, batch, everything, grow, in_memory, journal, opened


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


def test_its_batches_are_listed_without_their_ticks_across_segments_and_runs(tmp_path: Path, clock: Clock) -> None:
    with journal(tmp_path, clock, segment_ms=1000) as j:
        for _ in range(3):
            grow(j, 2, 5)
            clock.ms += 1000
        first, *rest = j.listed(0, 100)
        assert first == Listed(1, 5, 5, 1, 5, clock.ms - 3000)
        assert [row.first for row in rest] == [6]  # of one file at a time
        assert [row.first for row in j.listed(10, 1)] == [11]
        assert [row.first for row in j.listed(12, 9)] == [11, 16]
        assert j.listed(30, 9) == []
    with journal(tmp_path, clock) as j:
        assert [row.last for row in j.listed(20, 9)] == [25, 30]


@pytest.mark.parametrize(
    "damage", ["ticks = 'x'", "ticks = 99", "first = 10000", "oldest_ms = x'00'", "written_ms = ''"]
)
def test_what_a_damaged_row_says_of_itself_is_not_listed(tmp_path: Path, damage: str) -> None:
    with journal(tmp_path) as j:
        grow(j, 3, 5)
    (segment,) = tmp_path.glob("journal-*.db")
    with closing(sqlite3.connect(segment)) as connection:
        connection.execute(f"UPDATE batches SET {damage} WHERE first = 6")
        connection.commit()
    with journal(tmp_path) as j:
        assert [row.first for row in j.listed(0, 9)] == [1, 11]


def test_a_new_run_jumps_ahead_and_that_is_no_hole(tmp_path: Path) -> None:
    with journal(tmp_path) as j:
        grow(j, 2)
    with journal(tmp_path) as j:
        assert j.tail == 2
        j.append(batch(2, 1000, 2))
        assert everything(j) == ([1, 2, 1000, 1001], [])
        assert len(segments(tmp_path)) == 2


def test_numbers_between_two_runs_are_unheard_of(tmp_path: Path, clock: Clock) -> None:
    """A store that has one of them has what a power cut took."""
    with journal(tmp_path, clock) as j:
        assert j.unheard_of(0) is None
        assert j.unheard_of(4) == Hole(1, 4, "unjournaled")
        j.append(batch(0, 1, 2))
        j.append(batch(5, 6, 1))  # 3 to 5 were accepted, and could not be journaled
    clock.ms += 5000
    with journal(tmp_path, clock) as j:
        j.append(batch(6, 100, 2))
        assert [seq for seq in range(102) if j.unheard_of(seq)] == list(range(7, 100))
        assert j.unheard_of(20) == Hole(7, 20, "unjournaled", None, 6, clock.ms)
        assert j.unheard_of(103) == Hole(102, 103, "unjournaled", None, 101)


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
