"""Columns that get other types under an open connection: no wrong value is written, and no good tick set aside."""

from collections.abc import Callable
from functools import partial

import psycopg
import pytest
import trio

from polygon_live.engines.postgres import claim, instant, set_up
from polygon_live.errors import StoreMisconfigured, StoreUnavailable
from polygon_live.sink import Identity, Opened, Written
from tests.hypertables import wall_ms
from tests.test_replay_rows import a_table, chosen
from tests.test_timescale import NOW_MS, a_batch, a_sink, a_tick, as_batch, cursor_in, do, make_table, opened, seqs_in
from tests.waiting import PATIENCE_SECONDS, in_thread, until

pytestmark = pytest.mark.engine

REFUSED = (
    ("timestamp_ms", "bigint", "timestamptz using to_timestamp(timestamp_ms / 1000.0)"),
    ("timestamp_ms", "bigint", "double precision"),
    ("received_ms", "bigint", "double precision"),
    ("seq", "bigint", "double precision"),
    ("bid", "double precision", "bigint"),
    ("bid", "double precision", "text"),
    ("late", "boolean", "text"),
)
"""Column, its type, and one that can't take what belongs there."""
TAKEN = (
    ("bid", "double precision", "numeric"),
    ("bid", "double precision", "numeric(12, 3)"),
    ("exchange", "integer", "bigint"),
    ("symbol", "text", "varchar(20)"),
    ("ingested_at", "timestamp with time zone", "timestamptz(0)"),
    ("ingested_at", "timestamp with time zone", "timestamp"),
)
"""Column, its type, and one that takes it in another way, or not all of it."""


@pytest.fixture
def table(database: str) -> str:
    return make_table(database)


def alter(dsn: str, column: str, becomes: str) -> None:
    if column == "late":
        do(dsn, "alter table market_ticks alter late drop default")
    do(dsn, f"alter table market_ticks alter {column} type {becomes}")


@pytest.mark.parametrize(("column", "was", "becomes"), REFUSED)
async def test_what_can_not_take_it_any_more_gets_nothing_and_the_next_connection_says_what_to_do(
    table: str, column: str, was: str, becomes: str
) -> None:
    sink = a_sink(table)
    await sink.open()
    await sink.write(a_batch(1))
    alter(table, column, becomes)
    with pytest.raises(
        StoreUnavailable, match=rf"public\.market_ticks were changed .*: {column} \(was {was}\); nothing"
    ):
        await sink.write(a_batch(2))
    with pytest.raises(StoreMisconfigured, match=rf"column {column} .* can't take what belongs there: make it {was}"):
        await sink.open()
    await sink.aclose()
    assert (seqs_in(table), cursor_in(table)) == ([1], 1)


@pytest.mark.parametrize(("column", "was", "becomes"), TAKEN)
async def test_what_takes_it_in_another_way_gets_it_by_the_next_connection(
    table: str, column: str, was: str, becomes: str
) -> None:
    sink = a_sink(table)
    await sink.open()
    await sink.write(a_batch(1))
    alter(table, column, becomes)
    with pytest.raises(StoreUnavailable, match=rf"{column} \(was {was}\); nothing was written"):
        await sink.write(a_batch(2))
    assert await sink.open() == Opened(1)
    assert await sink.write(a_batch(2)) == Written(1)
    await sink.aclose()
    kept = do(table, f"select count(distinct {column}) from market_ticks")
    assert (kept, seqs_in(table)) == ([(1,)], [1, 2])


async def test_it_is_noticed_without_a_tick(table: str) -> None:
    async with opened(table) as sink:
        await sink.check()
        alter(table, "seq", "double precision")
        with pytest.raises(StoreUnavailable, match=r"seq \(was bigint\)"):
            await sink.check()


async def test_a_sign_of_life_waits_for_nobody_who_locks_the_table(table: str) -> None:
    async with opened(table) as sink:
        await sink.check()
        with psycopg.connect(table) as other, trio.fail_after(PATIENCE_SECONDS):
            other.execute("lock table market_ticks")
            await sink.check()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_a_change_that_is_committed_while_a_batch_waits_for_it_is_seen(table: str, isolation: str) -> None:
    name = table.rpartition("/")[2]
    do(table, f"alter database {name} set default_transaction_isolation = '{isolation}'")
    async with opened(table) as sink:
        await sink.write(a_batch(1))
        with psycopg.connect(table) as other:
            other.execute("alter table market_ticks alter received_ms type double precision")
            waits = "select count(*) from pg_stat_activity where application_name = 'polygon-live/c1'"
            waits += " and wait_event_type = 'Lock'"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_unavailable, partial(sink.write, a_batch(2)))
                await until(lambda: do(table, waits) == [(1,)])
                other.commit()
    assert seqs_in(table) == [1]


async def expect_unavailable(write: Callable[[], object]) -> None:
    with pytest.raises(StoreUnavailable, match=r"received_ms \(was bigint\)"):
        await write()  # type: ignore[misc]


async def test_no_change_gets_between_the_cursor_and_the_copy(table: str) -> None:
    def moved() -> None:
        identity = Identity("c1", "journal-1", "host-1")
        with psycopg.connect(table, autocommit=True) as connection:
            layout = set_up(connection, instant(NOW_MS))
            cursor = claim(connection, identity, None, dead=None, highest=lambda _: None, unchanged=layout.unchanged)
            with connection.transaction():
                cursor.move(connection, 1)
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    do(table, "set lock_timeout = '100ms'", "alter table market_ticks alter bid type bigint")

    await in_thread(moved)


async def test_a_table_of_this_name_in_another_schema_is_another(table: str) -> None:
    async with opened(table) as sink:
        await sink.write(a_batch(1))
        do(table, "create schema other", "create table other.market_ticks (bid text, seq text)")
        assert await sink.write(a_batch(2)) == Written(1)
    assert seqs_in(table) == [1, 2]


async def test_an_adopted_tables_own_types_are_no_change(table: str) -> None:
    do(
        table,
        "create domain price as numeric(12, 5) check (value > 0)",
        "create type pair as enum ('EURUSD')",
        "alter table market_ticks alter bid type price, alter ask type real, alter symbol type pair using symbol::pair",
        "alter table market_ticks add exchange varchar(10), add tenant_id char(8), add received_ms numeric(20)",
        "alter table market_ticks add mid numeric generated always as ((bid + 1) / 2) stored, add ours timestamp(3)",
    )
    async with opened(table) as sink:
        assert await sink.write(a_batch(1)) == Written(1)
        do(table, "alter table market_ticks drop ours", "alter table market_ticks add theirs text")
        assert await sink.write(a_batch(2)) == Written(1)
        await sink.check()
        do(table, "alter table market_ticks alter ask type numeric(12, 5)")
        with pytest.raises(StoreUnavailable, match=r"ask \(was real\)"):
            await sink.check()


async def test_a_hypertables_columns_are_watched_likewise(hyper_database: str) -> None:
    now = wall_ms()
    sink = a_sink(hyper_database, wall_ms)
    await sink.open()
    await sink.write(as_batch([a_tick(1, now), a_tick(2, now - 3_600_000)]))
    do(hyper_database, "alter table market_ticks set (timescaledb.compress = false)")
    await sink.write(a_batch(3, at_ms=now))
    alter(hyper_database, "received_ms", "double precision")
    with pytest.raises(StoreUnavailable, match=r"received_ms \(was bigint\)"):
        await sink.write(a_batch(4, at_ms=now))
    with pytest.raises(StoreMisconfigured, match=r"received_ms .* can't take what belongs there"):
        await sink.open()
    await sink.aclose()
    assert seqs_in(hyper_database) == [1, 2, 3]


@pytest.mark.parametrize(("column", "was", "becomes"), REFUSED)
async def test_a_replay_writes_no_wrong_value_either(database: str, column: str, was: str, becomes: str) -> None:
    """It copies into a table of its own, and from there the server converts, or refuses to."""
    async with a_table(database, lambda: NOW_MS) as replayed:
        await replayed.put(chosen(a_tick(1, bid=2.0)))
        alter(database, column, becomes)
        try:
            await replayed.put(chosen(a_tick(2, bid=2.0)))
        except StoreMisconfigured as why:
            assert f'column "{column}" is of type' in str(why)  # noqa: PT017
            assert seqs_in(database) == [1]
        else:
            assert do(database, f"select distinct {column}::{was} from market_ticks") != []
            expected = {"timestamp_ms": NOW_MS, "received_ms": NOW_MS + 17, "bid": 2.0, "late": False}
            rows = do(database, f"select {column}::{was} from market_ticks order by market_ticks.seq")
            assert [value for (value,) in rows] == ([1, 2] if column == "seq" else [expected[column]] * 2)
