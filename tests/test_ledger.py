"""The ledger: gaps, quarantine, cursors, marks; after a crash, a power cut, and with a second writer."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polygon_live.errors import JournalError
from polygon_live.gap import Gap, State
from polygon_live.journal import Aside, Hole, Ledger, Newest, ledger
from polygon_live.journal.holes import between
from tests.journaling import Power, in_memory

ROOT = Path(__file__).parent.parent
DAY_MS = 24 * 3_600_000


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path)
    yield opened
    opened.close()


def gap(symbol: str = "EURUSD", **fields: Any) -> Gap:
    return attrs.evolve(Gap(0, symbol, "disconnect", 1000, None), **fields)


def test_the_id_is_made_once(tmp_path: Path) -> None:
    ids = []
    for folder in (tmp_path, tmp_path, tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        opened = Ledger.open(folder)
        ids.append(opened.journal_id)
        opened.close()
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 16


def test_the_mark_only_rises(book: Ledger) -> None:
    assert book.mark == 0
    book.reserve(100)
    book.reserve(50)
    assert book.mark == 100


def test_cursors_and_newest_ticks_are_remembered_one_by_one(book: Ledger) -> None:
    book.remember({"nats": 1, "kafka": 2}, {"EURUSD": Newest(10, 1)})
    book.remember({"nats": 3}, {"USDJPY": Newest(20, 3)})
    book.remember({}, {})
    assert book.cursors() == {"nats": 3, "kafka": 2}
    assert book.newest() == {"EURUSD": Newest(10, 1), "USDJPY": Newest(20, 3)}


def test_up_to_where_stores_were_compared_is_no_cursor(book: Ledger) -> None:
    book.remember({"nats": 1}, {})
    book.remember_verified({"nats": 1, "kafka": 2})
    book.remember_verified({"kafka": 3})
    assert book.verified() == {"nats": 1, "kafka": 3}
    assert book.cursors() == {"nats": 1}


def test_which_of_some_numbers_were_set_aside(book: Ledger) -> None:
    for sink, seq in (("nats", 3), ("kafka", 4), ("kafka", 9), ("kafka", 6)):
        book.set_aside(Aside(sink, seq, "EURUSD", "why", b"{}", 5))
    assert book.set_aside_between("kafka", 4, 8) == [4, 6]


# Gaps


def test_an_entry_gets_its_id_and_is_found_as_it_was_entered(book: Ledger) -> None:
    whole = Gap(
        0, "USDJPY", "given_up", 5, 9, "kafka", "unfillable", "the bound", 100, 200, ticks=7, filled=3, opened_ms=1
    )
    first, second = book.enter([gap(), whole], now_ms=50)
    assert first == gap(id=first.id, opened_ms=50, changed=first.changed)
    assert second == attrs.evolve(whole, id=second.id, opened_ms=50, changed=second.changed)
    assert first.id != second.id
    assert second.changed > first.changed > 0
    assert book.gaps() == [first, second]
    assert book.enter([], now_ms=60) == []


def test_a_change_is_seen_by_who_copies_the_ledger(book: Ledger) -> None:
    first, second = book.enter([gap(), gap("USDJPY")], now_ms=0)
    seen = second.changed
    assert book.gaps(after_change=seen) == []
    closed = book.update(attrs.evolve(first, to_ms=2000, state="filled", filled=3))
    assert closed.changed > seen
    assert book.gaps(after_change=seen) == [closed]
    assert book.gaps() == [second, closed], "in the order of their changes"
    assert book.gaps(limit=1) == [second]


def test_what_is_asked_for_is_what_comes(book: Ledger) -> None:
    feed, mine, other = book.enter([gap(), gap("USDJPY", store="kafka", state="filled"), gap(store="nats")], now_ms=0)
    assert book.gaps(store=None) == [feed]
    assert book.gaps(store="kafka") == [mine]
    assert book.gaps(symbol="EURUSD") == [feed, other]
    assert book.gaps(states=["filled", "empty"]) == [mine]
    assert book.gaps(states=[]) == []
    assert book.gap_counts() == {("disconnect", "open"): 2, ("disconnect", "filled"): 1}


def test_the_oldest_entry_that_is_not_settled_is_known(book: Ledger) -> None:
    assert book.unsettled_since_ms() is None
    (first,) = book.enter([gap(to_ms=500)], now_ms=1000)
    (second,) = book.enter([gap("USDJPY", to_ms=500, state="filling")], now_ms=2000)
    assert book.unsettled_since_ms() == 1000
    book.update(attrs.evolve(first, state="filled"))
    assert book.unsettled_since_ms() == 2000
    book.update(attrs.evolve(second, state="unfillable"))
    assert book.unsettled_since_ms() is None


def test_an_entry_that_lasts_is_not_waited_for_before_it_ends(book: Ledger) -> None:
    (lasting,) = book.enter([gap()], now_ms=1000)
    assert book.unsettled_since_ms() is None
    book.update(attrs.evolve(lasting, to_ms=170_000_000))
    assert book.unsettled_since_ms() == 170_000_000


def test_an_entry_that_is_not_there_can_not_be_changed(book: Ledger) -> None:
    with pytest.raises(JournalError, match="no gap 7"):
        book.update(gap(id=7))
    assert book.gaps() == []


def test_closed_entries_go_when_they_are_old_and_open_ones_stay(book: Ledger) -> None:
    states: list[State] = ["open", "filling", "filled", "empty", "unfillable"]
    entered = book.enter([gap(state=state) for state in states], now_ms=0)
    book.enter([gap("USDJPY")], now_ms=30 * DAY_MS)
    assert book.gaps(symbol="EURUSD") == entered
    book.enter([gap("USDJPY")], now_ms=30 * DAY_MS + 1)
    assert book.gaps(symbol="EURUSD") == entered[:2]


def test_closed_entries_go_when_they_are_many(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST_CLOSED", 10)
    (open_,) = book.enter([gap()], now_ms=0)
    entered = book.enter([gap(state="filled") for _ in range(15)], now_ms=0)
    assert book.gaps() == [open_, *entered[-10:]]


# Quarantine


def test_a_tick_that_is_set_aside_again_is_counted_once(book: Ledger) -> None:
    kafka = Aside("kafka", 5, "EURUSD", "too large", b'{"seq":5}', 100)
    table = Aside("timescale", 5, "EURUSD", "no such partition", b'{"seq":5}', 101)
    for _ in range(2):
        book.set_aside(kafka)
    book.set_aside(table)
    assert book.set_aside_counts() == {"kafka": 1, "timescale": 1}
    assert book.quarantine() == [table, kafka]
    assert book.quarantine("kafka") == [kafka]
    assert book.quarantine(limit=1) == [table]


def test_the_quarantine_is_bounded_and_what_went_stays_counted(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST_ASIDE", 3)
    for seq in range(10):
        book.set_aside(Aside("kafka", seq, "EURUSD", "why", b"", 0))
    assert [aside.seq for aside in book.quarantine()] == [9, 8, 7]
    assert book.set_aside_counts() == {"kafka": 10}


# What is gone


def test_what_was_removed_is_remembered_and_bounded(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST_KNOWN", 3)
    holes = [Hole(n * 10 + 1, n * 10 + 10, "given_up", 10, n, n + 1) for n in range(5)]
    for hole in holes:
        book.enter_gone(hole)
        book.enter_gone(hole)
    assert book.gone() == holes[-3:]
    assert book.removed_to == 50
    book.enter_gone(Hole(61, 70, "corrupt"))
    assert book.removed_to == 50, "a damaged file is still there"


def test_a_file_that_can_not_be_removed_at_once_is_told_once(book: Ledger) -> None:
    for _ in range(2):
        for hole in (Hole(1, 10, "given_up", 10, 1, 2), Hole(11, 20, "given_up", 10, 3, 4)):
            book.enter_gone(hole, [hole.gap("kafka", 5), hole.gap("nats", 5)])
    told = [(g.store, g.cause, g.from_ms, g.to_ms, g.first_seq, g.last_seq, g.ticks, g.opened_ms) for g in book.gaps()]
    assert told == [
        ("kafka", "given_up", 1, 2, 1, 10, 10, 5),
        ("nats", "given_up", 1, 2, 1, 10, 10, 5),
        ("kafka", "given_up", 3, 4, 11, 20, 10, 5),
        ("nats", "given_up", 3, 4, 11, 20, 10, 5),
    ]


@given(
    first=st.integers(1, 60),
    length=st.integers(0, 60),
    removed=st.integers(0, 4),
    damaged=st.sets(st.integers(4, 8), max_size=3),
)
def test_what_no_row_has_is_told_without_overlap_and_without_rest(
    first: int, length: int, removed: int, damaged: set[int]
) -> None:
    """Files of ten numbers: the first ones removed, of the others some damaged."""
    known = [Hole(n * 10 + 1, n * 10 + 10, "given_up", 10, n, n) for n in range(removed)]
    known += [Hole(n * 10 + 1, n * 10 + 10, "corrupt") for n in sorted(damaged)]
    last = first + length
    holes = between(first, last, removed_to=removed * 10, known=known)
    assert holes[0].first == first
    assert holes[-1].last == last
    assert all(b.first == a.last + 1 for a, b in pairwise(holes))
    for hole in holes:
        for number in range(hole.first, hole.last + 1):
            file = (number - 1) // 10
            assert hole.cause == ("given_up" if file < removed else "corrupt" if file in damaged else "unjournaled")
        assert hole.ticks == (hole.last - hole.first + 1 if hole.cause == "given_up" else None)


# Crashes


OPERATIONS = st.lists(st.sampled_from(["enter", "update", "aside", "reserve", "remember", "gone"]), max_size=12)


@settings(deadline=None, max_examples=30)
@given(operations=OPERATIONS)
def test_what_is_durable_is_there_after_a_power_cut(operations: list[str]) -> None:
    with in_memory() as here:
        cut_power_after(operations, Path(here))


def cut_power_after(operations: list[str], here: Path) -> None:
    (here / "before").mkdir()
    power = Power(here / "images")
    book = Ledger.open(here / "before", sync=power.sync)
    for number, operation in enumerate(operations, 1):
        if operation == "enter":
            book.enter([gap(first_seq=number)], now_ms=0)
        elif operation == "update" and (known := book.gaps()):
            book.update(attrs.evolve(known[0], filled=number))
        elif operation == "aside":
            book.set_aside(Aside("kafka", number, "EURUSD", "why", b"", 0))
        elif operation == "reserve":
            book.reserve(number)
        elif operation == "gone":
            book.enter_gone(Hole(number, number, "given_up"))
        else:
            book.remember({"nats": number}, {})
    power.cut(here / "after")
    found = Ledger.open(here / "after")
    assert found.journal_id == book.journal_id
    assert found.gaps() == book.gaps()
    assert found.quarantine() == book.quarantine()
    assert (found.mark, found.removed_to, found.gone()) == (book.mark, book.removed_to, book.gone())
    # Cursors may be older ones.
    assert set(found.cursors().values()) <= set(range(len(operations) + 1))
    found.close()
    book.close()


# A second process


WRITER = """
import sys
from pathlib import Path
from typing import Any
from polygon_live.gap import Gap
from polygon_live.journal import Ledger
book = Ledger.open_existing(Path(sys.argv[1]))
for n in range(100):
    (entered,) = book.enter([Gap(0, "USDJPY", "manual", n, n + 1)], n)
    book.update(entered)
book.close()
"""


def test_two_processes_write_one_ledger(memory: Path) -> None:
    book = Ledger.open(memory)
    other = subprocess.Popen([sys.executable, "-c", WRITER, str(memory)], cwd=ROOT)
    mine: list[Gap] = []
    while other.poll() is None or len(mine) < 100:
        mine += book.enter([gap(from_ms=len(mine))], now_ms=0)
    assert other.wait() == 0
    gaps = book.gaps()
    assert [each for each in gaps if each.symbol == "EURUSD"] == mine
    theirs = [each for each in gaps if each.symbol == "USDJPY"]
    assert [each.from_ms for each in theirs] == list(range(100))
    assert len({each.id for each in gaps}) == len(mine) + 100
    changes = [each.changed for each in gaps]
    assert changes == sorted(set(changes))
    book.close()


def test_a_writer_that_hangs_is_told_and_does_not_hang_the_other(book: Ledger, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="another process is writing"):
            book.reserve(5)
        other.execute("ROLLBACK")
    other.close()
    book.reserve(5)
    assert book.mark == 5


def test_a_command_finds_a_ledger_or_says_that_no_collector_has_run(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"no collector has run here: .*ledger\.db is missing"):
        Ledger.open_existing(tmp_path)
    assert not list(tmp_path.iterdir())
    Ledger.open(tmp_path).close()
    opened = Ledger.open_existing(tmp_path)
    assert opened.gaps() == []
    opened.close()


# Formats


def test_an_older_one_is_migrated_by_the_collector_and_not_by_a_command(tmp_path: Path) -> None:
    """Version 1, made by hand, and a version 2 as it might come."""
    with sqlite3.connect(tmp_path / "ledger.db") as made:
        made.execute("PRAGMA journal_mode = WAL")
        for statement in ledger.FORMAT.steps[0]:
            made.execute(statement)
        made.execute("INSERT INTO cursors VALUES ('nats', 7)")
        made.execute(f"PRAGMA application_id = {ledger.FORMAT.application_id}")
        made.execute("PRAGMA user_version = 1")
    made.close()
    second = ("ALTER TABLE cursors ADD COLUMN host TEXT", "UPDATE cursors SET seq = seq + 1")
    newer = attrs.evolve(ledger.FORMAT, steps=(*ledger.FORMAT.steps, second))
    with pytest.raises(JournalError, match="has an older format; start this version's collector once"):
        Ledger.open_existing(tmp_path, form=newer)
    for _ in range(2):
        opened = Ledger.open(tmp_path, form=newer)
        assert opened._database.execute("SELECT * FROM cursors") == [("nats", 8, None)]
        opened.close()
    with pytest.raises(JournalError) as refused:
        Ledger.open(tmp_path)
    told = f"{tmp_path / 'ledger.db'} is a ledger of format 2, and this version of polygon-live knows formats up to 1"
    assert told in str(refused.value)


def test_somebody_elses_ledger_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as made:
        made.execute("CREATE TABLE accounts (id)")
    made.close()
    before = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(JournalError, match="is no ledger of polygon-live; move it away"):
        Ledger.open(tmp_path)
    assert (tmp_path / "ledger.db").read_bytes() == before
