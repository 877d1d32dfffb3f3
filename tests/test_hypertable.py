"""The table as a hypertable: set up, written, compressed, adopted.

On TimescaleDB 2.23 in WebAssembly, whose clock can be set, and on a full server where one is named.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from polygon_live.engines.postgres.extension import Extension
from polygon_live.errors import RowsRefused, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Tick, encode
from polygon_live.sink import Opened, Written
from tests.engines.timescale import Timescale
from tests.hypertables import (
    BY_DAY,
    CHUNKS,
    HOUR,
    HOUR_MS,
    PLATFORM,
    TWO_DAYS_OF_ROWS,
    Clock,
    a_retention,
    a_tick,
    as_batch,
    do,
    opened,
    run_policy,
    seqs_in,
    wall_ms,
)
from tests.reading import in_database
from tests.test_timescale import as_row, from_csv

pytestmark = pytest.mark.fetched


async def set_up(dsn: str) -> dict[str, object]:
    """Open and close; what there is to say of it."""
    async with opened(dsn) as sink:
        return {**sink.facts().about, "complaints": sink.facts().complaints}


def everything_there(dsn: str) -> list[tuple[object, ...]]:
    """Every relation, index and policy, and when each was made: the number is not used again."""
    asked = """
        select oid::bigint, relname from pg_class
        where relkind in ('r', 'p', 'i') and relnamespace = 'public'::regnamespace
        union all select job_id, application_name from timescaledb_information.jobs order by 1"""
    return do(dsn, asked)


# Set-up


async def test_a_database_with_the_extension_gets_a_hypertable_of_hours(hyper_database: str) -> None:
    about = await set_up(hyper_database)
    ((version,),) = do(hyper_database, "select extversion from pg_extension where extname = 'timescaledb'")
    assert about["edition"] == f"TimescaleDB {version}, community edition"
    assert (about["columns"], about["unique_index"]) == ("as polygon-live makes them", True)
    assert about["compression"] == "by policy"
    assert not about["complaints"]
    assert do(
        hyper_database,
        "select column_name, time_interval from timescaledb_information.dimensions",
    ) == [("time", HOUR)]
    indexes = do(hyper_database, "select indexdef from pg_indexes where tablename = 'market_ticks' order by 1")
    assert [definition.partition(" USING ")[2] for (definition,) in indexes] == [
        'btree (symbol, "time" DESC)',
        'btree ("time", collector, seq)',
    ]
    assert do(hyper_database, "select count(*) from tick_rejects") == [(0,)]


async def test_a_second_set_up_changes_nothing(hyper_database: str) -> None:
    await set_up(hyper_database)
    await a_retention(hyper_database).once()
    made = everything_there(hyper_database)
    await set_up(hyper_database)
    await a_retention(hyper_database).once()
    assert everything_there(hyper_database) == made


async def test_the_extension_is_added_where_it_can_be(own_timescale: Callable[..., Timescale]) -> None:
    dsn = own_timescale().dsn
    about = await set_up(dsn)
    assert str(about["edition"]).startswith("TimescaleDB 2.23")
    assert do(dsn, "select count(*) from timescaledb_information.hypertables") == [(1,)]


async def test_a_server_without_it_says_so(database: str) -> None:
    about = await set_up(database)
    assert about["edition"] == "PostgreSQL, native partitions"
    assert about["timescaledb"] == "not used: not on this server"
    again = await set_up(database)
    assert again["timescaledb"] == "not used: not in this database"


async def test_a_natively_partitioned_table_stays_so_where_the_extension_is(hyper_database: str) -> None:
    do(hyper_database, PLATFORM + " partition by range (time)")
    async with opened(hyper_database) as sink:
        await sink.write(as_batch(a_tick(1, wall_ms())))
        assert sink.facts().about["edition"] == "PostgreSQL, native partitions"
        assert sink.facts().about["timescaledb"] == "not used: this table is natively partitioned"
    assert seqs_in(hyper_database) == [1]


def test_versions_are_compared_as_numbers() -> None:
    assert Extension("2.9.3", "public", community=True).too_old
    assert Extension("1.7.5", "public", community=True).too_old
    assert not Extension("2.16.0", "public", community=True).too_old
    assert not Extension("2.23.0-dev", "public", community=True).too_old


# Writing


async def test_every_value_of_real_ticks_arrives_as_it_is(hyper_database: str, real_ticks: tuple[Path, ...]) -> None:
    sent: list[Tick] = []
    for path in real_ticks:
        ticks = from_csv(path, range(len(sent) + 1, 1_000_000))
        async with opened(hyper_database, lambda ticks=ticks: ticks[-1].timestamp_ms) as sink:  # type: ignore[misc]
            for n in range(0, len(ticks), 4000):
                part = ticks[n : n + 4000]
                assert await sink.write(as_batch(*part)) == Written(len(part))
        sent += ticks
    assert len(sent) > 5000
    assert in_database(hyper_database) == [as_row(tick) for tick in sent]
    assert {span for span, _ in do(hyper_database, CHUNKS)} == {HOUR}


async def test_a_batch_is_there_as_a_whole_or_not_at_all(hyper_database: str) -> None:
    now = wall_ms()
    async with opened(hyper_database) as sink:
        do(hyper_database, "alter table market_ticks add constraint sane check (bid < 100)")
        with pytest.raises(RowsRefused, match='violates check constraint "sane"'):
            await sink.write(as_batch(a_tick(1, now), a_tick(2, now, bid=200.0), a_tick(3, now - HOUR_MS)))
        assert seqs_in(hyper_database) == []
        assert await sink.write(as_batch(a_tick(4, now), a_tick(5, now - HOUR_MS))) == Written(2)
    assert seqs_in(hyper_database) == [4, 5]


async def test_ticks_above_the_cursor_that_are_there_are_not_doubled(hyper_database: str) -> None:
    now = wall_ms()
    async with opened(hyper_database) as sink:
        await sink.write(as_batch(*(a_tick(n, now) for n in (1, 3, 5))))
        do(hyper_database, "update tick_cursors set seq = 2")
        assert await sink.open() == Opened(2)
        assert await sink.write(as_batch(*(a_tick(n, now) for n in (3, 4, 5, 6)))) == Written(4)
    assert seqs_in(hyper_database) == [1, 3, 4, 5, 6]


async def test_a_sink_that_was_overtaken_doubles_nothing(hyper_database: str) -> None:
    now = wall_ms()
    async with opened(hyper_database) as older:
        await older.write(as_batch(a_tick(1, now)))
        do(hyper_database, "update tick_cursors set backend_pid = null")  # on a full server it would be ended
        async with opened(hyper_database) as newer:
            await newer.write(as_batch(a_tick(2, now)))
            with pytest.raises(StoreUnavailable, match="is at 2, and was left at 1"):
                await older.write(as_batch(a_tick(2, now)))
    assert seqs_in(hyper_database) == [1, 2]


async def test_older_ticks_than_the_table_keeps_are_passed_over(hyper_database: str) -> None:
    clock = Clock()
    async with opened(hyper_database, clock) as sink:
        old, kept = a_tick(1, clock.ms - 72 * HOUR_MS - 1), a_tick(2, clock.ms - 72 * HOUR_MS)
        assert await sink.write(as_batch(old, kept)) == Written(1, expired=1)
    assert seqs_in(hyper_database) == [2]


# Compression


async def test_chunks_older_than_a_day_are_compressed(hyper_database: str) -> None:
    now = wall_ms()
    async with opened(hyper_database) as sink:
        await sink.write(as_batch(*(a_tick(n, now - n * HOUR_MS) for n in range(1, 71))))
    before = in_database(hyper_database)
    run_policy(hyper_database, "policy_compression")
    flags = [compressed for _, compressed in do(hyper_database, CHUNKS)]
    assert flags == [True] * 46 + [False] * 24
    assert in_database(hyper_database) == before
    async with opened(hyper_database) as sink:
        assert await sink.held_after(8) == [encode(a_tick(n, now - n * HOUR_MS)) for n in range(9, 71)]
        do(hyper_database, "delete from tick_cursors")
        assert await sink.open() == Opened(70)
    retention = a_retention(hyper_database)
    await retention.once()
    assert retention.snapshot().about["chunks_compressed"] == 46
    settings = (
        "select segmentby, replace(orderby, '\"', '') from timescaledb_information.hypertable_compression_settings"
    )
    assert do(hyper_database, settings) == [("symbol", "time DESC,seq DESC")]


async def test_late_ticks_go_into_compressed_chunks_once(hyper_database: str) -> None:
    at = wall_ms() // HOUR_MS * HOUR_MS - 30 * HOUR_MS
    async with opened(hyper_database) as sink:
        await sink.write(as_batch(*(a_tick(n, at + n) for n in range(0, 2000, 2))))
        run_policy(hyper_database, "policy_compression")
        assert do(hyper_database, CHUNKS) == [(HOUR, True)]
        late = as_batch(*(a_tick(n, at + n, late=True) for n in range(1, 2000, 2)))
        assert await sink.write(late) == Written(1000)
        again = [a_tick(8, at + 8), a_tick(9, at + 9, late=True), a_tick(2000, at + 8)]
        assert await sink.write(as_batch(*again)) == Written(3)
    assert seqs_in(hyper_database) == list(range(2001))
    run_policy(hyper_database, "policy_compression")
    assert seqs_in(hyper_database) == list(range(2001))


async def test_a_late_batch_may_touch_any_number_of_compressed_rows(hyper_database: str) -> None:
    """TimescaleDB refuses to unpack more than 100,000 rows in one transaction; for ticks that are new it need not."""
    at = wall_ms() // HOUR_MS * HOUR_MS - 30 * HOUR_MS
    async with opened(hyper_database) as sink:
        for begin in range(0, 120_000, 20_000):
            await sink.write(as_batch(*(a_tick(2 * n, at + n // 8) for n in range(begin, begin + 20_000))))
        run_policy(hyper_database, "policy_compression")
        late = [a_tick(240 * n + 1, at + 15 * n) for n in range(1000)]
        assert await sink.write(as_batch(*late)) == Written(1000)
    assert do(hyper_database, "select count(*), count(distinct seq) from market_ticks") == [(121_000, 121_000)]


# Adoption


async def test_a_hypertable_of_the_platform_is_adopted_with_its_rows(hyper_database: str) -> None:
    do(
        hyper_database,
        PLATFORM,
        BY_DAY,
        TWO_DAYS_OF_ROWS,
        "alter table market_ticks set (timescaledb.compress, timescaledb.compress_segmentby = 'symbol')",
        "select compress_chunk(c) from show_chunks('market_ticks', older_than => interval '20 hours') c",
    )
    compressed = [flag for _, flag in do(hyper_database, CHUNKS)].count(True)
    assert compressed
    now = wall_ms()
    async with opened(hyper_database) as sink:
        late = a_tick(1, now - 47 * HOUR_MS, late=True)
        assert await sink.write(as_batch(late, a_tick(2, now), a_tick(3, now + 30 * HOUR_MS))) == Written(3)
        assert not sink.facts().complaints
        assert str(sink.facts().about["columns"]).startswith("adopted: tick_id (not ours), tenant_id")
        assert sink.facts().about["unique_index"] is True
    rows = in_database(hyper_database)
    assert len(rows) == 289 + 3
    assert {row["tenant_id"] for row in rows} == {"system", "acme"}
    assert {(row["late"], row["suspect"]) for row in rows if row["source"] == "before"} == {(False, False)}
    assert [(row["bid"], row["late"]) for row in rows[:3]] == [
        (Decimal("1.12120"), late) for late in (True, False, False)
    ]
    spans = [span for span, _ in do(hyper_database, CHUNKS)]
    assert spans == [timedelta(days=1)] * (len(spans) - 1) + [HOUR], "new chunks hold an hour"
    retention = a_retention(hyper_database)
    await retention.once()
    assert retention.snapshot().verified
    assert retention.snapshot().about["chunks_over_an_hour"] == len(spans) - 1


async def test_the_platforms_own_compression_is_left_as_it_is(hyper_database: str) -> None:
    do(
        hyper_database,
        PLATFORM,
        BY_DAY,
        "alter table market_ticks set (timescaledb.compress, timescaledb.compress_segmentby = 'tenant_id')",
        "select add_compression_policy('market_ticks', interval '7 days')",
    )
    await set_up(hyper_database)
    assert do(
        hyper_database,
        "select config ->> 'compress_after' from timescaledb_information.jobs where proc_name = 'policy_compression'",
    ) == [("7 days",)]


async def test_what_cant_be_added_is_named(hyper_database: str) -> None:
    """A table that is also cut by symbol: no unique index without it."""
    do(
        hyper_database,
        PLATFORM.replace("primary key (time, tick_id)", "check (true)"),
        "select create_hypertable('market_ticks', 'time', 'symbol', 2, chunk_time_interval => interval '1 hour')",
    )
    now = wall_ms()
    async with opened(hyper_database) as sink:
        (complaint,) = sink.facts().complaints
        assert "no unique index on (time, collector, seq)" in complaint
        assert sink.facts().about["unique_index"] is False
        await sink.write(as_batch(a_tick(1, now), a_tick(2, now, symbol="XAUUSD")))
    assert seqs_in(hyper_database) == [1, 2]


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (
            (PLATFORM,),
            r"is not partitioned.*make it a hypertable \(select \w+\.create_hypertable\(.*\)\), or rename it",
        ),
        (
            (
                PLATFORM.replace("primary key (time, tick_id)", "primary key (ingested_at, tick_id)"),
                "select create_hypertable('market_ticks', 'ingested_at')",
            ),
            "is a hypertable, but not by the column time",
        ),
        (
            (PLATFORM.replace("(time, tick_id)", "(time, symbol)"), BY_DAY),
            r"unique key market_ticks_pkey \(time, symbol\).*would refuse good ticks",
        ),
    ],
)
async def test_a_table_that_cant_be_kept_is_refused_untouched(
    hyper_database: str, statements: tuple[str, ...], says: str
) -> None:
    do(hyper_database, *statements, TWO_DAYS_OF_ROWS)
    made = everything_there(hyper_database)
    with pytest.raises(StoreMisconfigured, match=says):
        await set_up(hyper_database)
    assert everything_there(hyper_database) == made


async def test_a_plain_table_can_be_made_a_hypertable_as_the_refusal_says(hyper_database: str) -> None:
    do(hyper_database, PLATFORM, TWO_DAYS_OF_ROWS)
    with pytest.raises(StoreMisconfigured) as refusal:
        await set_up(hyper_database)
    do(hyper_database, str(refusal.value).partition("hypertable (")[2].partition("), or rename")[0])
    assert not (await set_up(hyper_database))["complaints"]
    assert len(in_database(hyper_database)) == 289
