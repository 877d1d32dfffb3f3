"""The copy of the gap ledger in the database, from a real ledger into a real PostgreSQL."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
import trio
from psycopg.rows import dict_row

from polygon_live.config import Secret
from polygon_live.embedded import Postgres
from polygon_live.engines.postgres import connected, set_up
from polygon_live.engines.postgres import gaps as side_table
from polygon_live.errors import JournalError
from polygon_live.gap import Gap
from polygon_live.journal import Ledger
from polygon_live.mirror import AT_ONCE, AWAY_SECONDS, PAUSE_SECONDS, Mirror
from tests.waiting import until

pytestmark = pytest.mark.engine

NOW_MS = time.time_ns() // 1_000_000
CUT = Gap(0, "EURUSD", "disconnect", NOW_MS - 5000, None, detail="reset", opened_ms=NOW_MS)


def instant(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path)
    yield ledger
    ledger.close()


class Copy:
    """A mirror of this ledger, and what it made."""

    def __init__(self, dsn: str, ledger: Ledger, *, started_ms: int = NOW_MS) -> None:
        self.dsn = dsn
        self.ledger = ledger
        self.asked: list[int] = []
        self.unentered: list[Gap] = []
        self.broken = False
        self.mirror = Mirror(
            Secret(dsn),
            "c1",
            ledger.journal_id,
            changes=self._changes,
            unentered=lambda: self.unentered,
            started_ms=started_ms,
        )

    async def _changes(self, after: int, most: int) -> Sequence[Gap]:
        await trio.lowlevel.checkpoint()
        self.asked.append(after)
        if self.broken:
            raise JournalError("ledger.db can't be read: the disk failed")
        return self.ledger.gaps(after_change=after, limit=most)

    async def once(self) -> float:
        return await self.mirror.once()

    def rows(self) -> list[dict[str, Any]]:
        with psycopg.connect(self.dsn, row_factory=dict_row) as connection:
            return connection.execute("select * from tick_gaps order by id").fetchall()

    def told(self, *columns: str) -> list[tuple[Any, ...]]:
        return [tuple(row[c] for c in columns) for row in self.rows()]


async def made(dsn: str) -> None:
    """The set-up of the database, as a sink or the retention does it."""
    async with connected(Secret(dsn), "test") as session:
        await session.run(60, "set up", lambda c: set_up(c, instant(NOW_MS)) and None)


@pytest.fixture
async def copy(database: str, ledger: Ledger) -> Copy:
    await made(database)
    return Copy(database, ledger)


async def test_an_entry_is_copied_with_all_its_columns_and_again_when_it_changes(copy: Copy) -> None:
    (cut,) = copy.ledger.enter([CUT], NOW_MS)
    assert await copy.once() == PAUSE_SECONDS
    (row,) = copy.rows()
    assert row.pop("updated_at") >= row["opened_at"]
    assert row == {
        "collector": "c1",
        "journal_id": copy.ledger.journal_id,
        "id": cut.id,
        "symbol": "EURUSD",
        "cause": "disconnect",
        "store": None,
        "from_time": instant(NOW_MS - 5000),
        "to_time": None,
        "state": "open",
        "detail": "reset",
        "first_seq": None,
        "last_seq": None,
        "ticks": None,
        "filled": 0,
        "opened_at": instant(NOW_MS),
    }
    copy.ledger.update(attrs.evolve(cut, to_ms=NOW_MS + 7, last_seq=2**62))
    given_up = Gap(0, "*", "given_up", 1, 2, store="nats", state="unfillable", first_seq=3, last_seq=9, ticks=7)
    copy.ledger.enter([given_up], NOW_MS)
    await copy.once()
    assert copy.told("symbol", "store", "to_time", "state", "first_seq", "last_seq", "ticks") == [
        ("EURUSD", None, instant(NOW_MS + 7), "open", None, 2**62, None),
        ("*", "nats", instant(2), "unfillable", 3, 9, 7),
    ]


async def test_nothing_is_written_while_nothing_changes(copy: Copy) -> None:
    copy.ledger.enter([CUT], NOW_MS)
    await copy.once()
    with psycopg.connect(copy.dsn, autocommit=True) as connection:
        connection.execute("drop table tick_gaps")
    assert await copy.once() == PAUSE_SECONDS
    copy.ledger.enter([CUT], NOW_MS)
    assert await copy.once() == AWAY_SECONDS


async def test_many_are_copied_in_pieces(copy: Copy) -> None:
    copy.ledger.enter([CUT] * (AT_ONCE + 3), NOW_MS)
    assert await copy.once() == 0
    assert len(copy.rows()) == AT_ONCE
    assert await copy.once() == PAUSE_SECONDS
    assert len(copy.rows()) == AT_ONCE + 3


async def test_a_database_that_was_away_is_told_what_changed_meanwhile(
    own_postgres: Callable[..., Postgres], ledger: Ledger
) -> None:
    server = own_postgres()
    await made(server.dsn)
    copy = Copy(server.dsn, ledger)
    first, second = ledger.enter([CUT, attrs.evolve(CUT, symbol="USDJPY")], NOW_MS)
    await copy.once()
    await trio.to_thread.run_sync(server.stop)
    ledger.update(attrs.evolve(first, to_ms=NOW_MS, state="filled", filled=3))
    ledger.enter([attrs.evolve(CUT, symbol="XAUUSD")], NOW_MS)
    assert await copy.once() == AWAY_SECONDS
    ledger.update(attrs.evolve(first, to_ms=NOW_MS, state="filled", filled=4))
    assert await copy.once() == AWAY_SECONDS
    await trio.to_thread.run_sync(server.start)
    assert await copy.once() == PAUSE_SECONDS
    assert copy.told("symbol", "state", "filled") == [
        ("EURUSD", "filled", 4),
        ("USDJPY", "open", 0),
        ("XAUUSD", "open", 0),
    ]
    assert copy.asked == [0, second.changed, second.changed, second.changed]


async def test_a_table_that_is_not_there_yet_is_waited_for(database: str, ledger: Ledger) -> None:
    copy = Copy(database, ledger)
    ledger.enter([CUT], NOW_MS)
    assert await copy.once() == AWAY_SECONDS
    await made(database)
    await made(database)
    await copy.once()
    assert len(copy.rows()) == 1


async def test_a_start_copies_everything_again_and_touches_only_what_differs(copy: Copy) -> None:
    first, second = copy.ledger.enter([CUT, attrs.evolve(CUT, symbol="USDJPY")], NOW_MS)
    await copy.once()
    before = copy.told("id", "updated_at")
    copy.ledger.update(attrs.evolve(second, to_ms=NOW_MS))
    again = Copy(copy.dsn, copy.ledger, started_ms=NOW_MS + 1)
    await again.once()
    assert again.asked == [0]
    after = copy.told("id", "updated_at")
    assert after[0] == before[0]
    assert after[1][0] == second.id != first.id
    assert after[1][1] > before[1][1]


async def test_what_the_ledger_can_not_take_is_shown_until_it_can(copy: Copy) -> None:
    copy.broken = True
    waiting = [attrs.evolve(CUT, cause="unjournaled", symbol="*"), attrs.evolve(CUT, symbol="USDJPY")]
    copy.unentered = list(waiting)
    await copy.once()
    assert copy.told("symbol", "cause") == [("USDJPY", "disconnect"), ("*", "unjournaled")]
    assert all(id_ < 0 for (id_,) in copy.told("id"))
    copy.unentered = [attrs.evolve(waiting[1], to_ms=NOW_MS)]
    await copy.once()
    assert copy.told("symbol", "to_time") == [("USDJPY", instant(NOW_MS))]
    copy.broken = False
    copy.ledger.enter(copy.unentered, NOW_MS)
    copy.unentered = []
    await copy.once()
    assert copy.told("id", "symbol") == [(1, "USDJPY")]


async def test_what_never_came_into_the_ledger_outlives_the_run(copy: Copy) -> None:
    copy.unentered = [attrs.evolve(CUT, cause="unjournaled", symbol="*")]
    await copy.once()
    again = Copy(copy.dsn, copy.ledger, started_ms=NOW_MS + 60_000)
    again.unentered = [attrs.evolve(CUT, symbol="USDJPY")]
    await again.once()
    again.unentered = []
    await again.once()
    assert copy.told("cause", "symbol") == [("unjournaled", "*")]


async def test_one_that_the_table_refuses_does_not_keep_the_others_from_it(copy: Copy) -> None:
    with psycopg.connect(copy.dsn, autocommit=True) as connection:
        connection.execute("alter table tick_gaps add check (symbol <> 'GBPUSD')")
    symbols = ("EURUSD", "GBPUSD", "USDJPY")
    copy.ledger.enter(
        [attrs.evolve(CUT, symbol=s, detail="a\0b\ud800".encode("utf-8", "replace").decode()) for s in symbols], NOW_MS
    )
    assert await copy.once() == PAUSE_SECONDS
    assert copy.told("symbol", "detail") == [("EURUSD", "a\\x00b?"), ("USDJPY", "a\\x00b?")]
    assert await copy.once() == PAUSE_SECONDS
    assert copy.asked == [0, 3]


async def test_rows_are_bounded_in_age_and_number_and_what_lasts_stays(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_table, "MOST", 10)
    old_ms = NOW_MS - 31 * 24 * 3600 * 1000
    settled = attrs.evolve(CUT, to_ms=NOW_MS, state="filled")
    copy.unentered = [attrs.evolve(CUT, symbol="GBPUSD", opened_ms=old_ms)]
    copy.ledger.enter([CUT, settled], old_ms)
    await copy.once()
    assert copy.told("id", "state") == [(1, "open")]
    copy.ledger.enter([settled] * 30, NOW_MS)
    await copy.once()
    assert [id_ for (id_,) in copy.told("id")] == [1, *range(23, 33)]


async def test_another_journals_rows_are_left_until_they_are_old(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Ledger.open(tmp_path / "other")
    for opened_ms in (NOW_MS, NOW_MS - 31 * 24 * 3600 * 1000):
        other.enter([CUT], opened_ms)
    await Copy(copy.dsn, other).once()
    other.close()
    copy.ledger.enter([attrs.evolve(CUT, symbol="USDJPY")], NOW_MS)
    await copy.once()
    assert copy.told("id", "symbol") == [(1, "EURUSD"), (1, "USDJPY")]


async def test_it_runs(copy: Copy) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy.mirror.run)
        for n in (1, 2):
            copy.ledger.enter([CUT], NOW_MS)
            await until(lambda n=n: len(copy.rows()) == n)  # type: ignore[misc]
        nursery.cancel_scope.cancel()
