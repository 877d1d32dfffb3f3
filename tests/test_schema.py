"""Setting up a database, and adopting a table that the platform made."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polygon_live.config import Secret
from polygon_live.engines.postgres import connection as engine
from polygon_live.engines.postgres import set_up
from polygon_live.engines.postgres.partitions import NativePartitions, uncovered
from polygon_live.engines.postgres.storage import HOUR
from polygon_live.errors import StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch, Tick
from polygon_live.sink import Identity
from polygon_live.sinks.timescale import TimescaleSink
from tests import hypertables
from tests.reading import in_database

pytestmark = pytest.mark.engine

NOW = datetime(2023, 11, 14, 22, 15, 23, 456000, tzinfo=UTC)
NOW_MS = 1_700_000_123_456

PLATFORM = hypertables.PLATFORM + " partition by range (time)"
"""The columns of the platform's table, in types that such tables have."""
A_DAY = """
    create table ticks_of_the_14th partition of market_ticks
    for values from ('2023-11-14 00:00+00') to ('2023-11-15 00:00+00')"""
FOR_EVER = "create table for_ever partition of market_ticks for values from (minvalue) to (maxvalue)"
"""Then no hour is made: for tests of something else."""
A_ROW = """
    insert into market_ticks (time, symbol, bid, ask, mid, spread, timestamp_ms, source)
    values ('2023-11-14 10:00+00', 'EUR/USD', 1.08, 1.09, 1.085, 0.01, 1699956000000, 'before')"""


def do(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run these as somebody else; the rows of the last."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            done = connection.execute(statement.encode())
        return done.fetchall() if done.description else []


def a_sink(dsn: str) -> TimescaleSink:
    return TimescaleSink(Secret(dsn), Identity("c1", "journal-1", "host-1"), "acme", now_ms=lambda: NOW_MS)


def a_batch(*seqs: int, **values: Any) -> Batch:
    quote = {"symbol": "EURUSD", "bid": 1.1212, "ask": 1.1213, "mid": 1.12125, "spread": 0.0001, "exchange": 48}
    ticks = [
        Tick(
            timestamp_ms=NOW_MS,
            timestamp=NOW_MS,
            source="polygon_websocket",
            event_type="quote",
            seq=seq,
            received_ms=NOW_MS + 17,
            **{**quote, **values},
        )
        for seq in seqs
    ]
    return Batch(seqs[0] - 1, ticks, [b"{}"] * len(ticks))


async def opened_and_closed(dsn: str) -> TimescaleSink:
    sink = a_sink(dsn)
    try:
        await sink.open()
    finally:
        await sink.aclose()
    return sink


async def written(dsn: str, batch: Batch) -> TimescaleSink:
    sink = a_sink(dsn)
    await sink.open()
    await sink.write(batch)
    await sink.aclose()
    return sink


def everything_there(dsn: str) -> list[tuple[Any, ...]]:
    """Every table and index, and when each was made: the number is not used again."""
    return do(
        dsn,
        "select oid, relname, relkind from pg_class where relnamespace = 'public'::regnamespace order by oid",
    )


# Set-up


async def test_an_empty_database_gets_everything(database: str) -> None:
    sink = await opened_and_closed(database)
    columns = do(
        database,
        "select column_name, data_type, is_nullable from information_schema.columns "
        "where table_name = 'market_ticks' order by ordinal_position",
    )
    assert columns == [
        ("time", "timestamp with time zone", "NO"),
        ("symbol", "text", "NO"),
        ("bid", "double precision", "NO"),
        ("ask", "double precision", "NO"),
        ("mid", "double precision", "NO"),
        ("spread", "double precision", "NO"),
        ("timestamp_ms", "bigint", "NO"),
        ("exchange", "integer", "YES"),
        ("source", "text", "NO"),
        ("event_type", "text", "NO"),
        ("tenant_id", "text", "NO"),
        ("collector", "text", "NO"),
        ("seq", "bigint", "NO"),
        ("received_ms", "bigint", "NO"),
        ("late", "boolean", "NO"),
        ("suspect", "boolean", "NO"),
        ("ingested_at", "timestamp with time zone", "NO"),
    ]
    indexes = do(database, "select indexdef from pg_indexes where tablename = 'market_ticks' order by 1")
    assert [definition.partition(" USING ")[2] for (definition,) in indexes] == [
        'btree (symbol, "time" DESC)',
        'btree ("time", collector, seq)',
    ]
    assert do(database, "select version from polygon_live_schema") == [(1,)]
    assert do(database, "select count(*) from tick_rejects") == [(0,)]
    assert do(database, "select collector, seq from tick_cursors") == [("c1", None)]
    assert sink.facts().about["columns"] == "as polygon-live makes them"
    assert not sink.facts().complaints


async def test_hours_are_there_from_the_edge_to_a_day_ahead_before_the_first_tick(database: str) -> None:
    await opened_and_closed(database)
    names = [name for (name,) in do(database, "select relid::regclass::text from pg_partition_tree('market_ticks')")]
    first = NOW - timedelta(hours=72)
    hours = [first + HOUR * n for n in range(72 + 24 + 1)]
    assert sorted(names) == ["market_ticks", *(f"market_ticks_{hour:%Y%m%d_%H}" for hour in hours)]


async def test_a_second_set_up_changes_nothing(database: str) -> None:
    await opened_and_closed(database)
    made = everything_there(database)
    await opened_and_closed(database)
    assert everything_there(database) == made


async def test_two_set_ups_at_once_take_turns(database: str) -> None:
    both = threading.Barrier(2, timeout=60)

    def one() -> str:
        with psycopg.connect(database, autocommit=True, options="-c TimeZone=UTC -c DateStyle=ISO") as connection:
            both.wait()
            return str(set_up(connection, NOW).table)

    with ThreadPoolExecutor(2) as threads:
        assert [f.result() for f in [threads.submit(one), threads.submit(one)]] == ["public.market_ticks"] * 2
    assert do(database, "select version from polygon_live_schema") == [(1,)]
    assert do(database, "select count(*) from pg_partition_tree('market_ticks') where isleaf") == [(97,)]


async def test_a_database_of_a_newer_version_is_left_alone(database: str) -> None:
    await opened_and_closed(database)
    do(database, "insert into polygon_live_schema (version) values (2)", "drop table tick_rejects")
    made = everything_there(database)
    with pytest.raises(StoreMisconfigured, match=r"newer polygon-live \(schema version 2, this one knows 1\)"):
        await opened_and_closed(database)
    assert everything_there(database) == made


async def test_missing_rights_are_named_with_what_to_grant(database: str) -> None:
    name = database.rpartition("/")[2]
    role = f"visitor_{name}"
    theirs = database.replace("postgres@", f"{role}@")
    do(database, f"create role {role} login")
    try:
        with pytest.raises(StoreMisconfigured, match=r"permission denied for schema public.*grant usage, create on"):
            await opened_and_closed(theirs)
        do(database, f"grant create on schema public to {role}", PLATFORM)
        with pytest.raises(StoreMisconfigured, match=r"must be owner of table market_ticks.*let it own the table"):
            await opened_and_closed(theirs)
        do(database, f"alter table market_ticks owner to {role}")
        await written(theirs, a_batch(1))
    finally:
        do(database, f"drop owned by {role}", f"drop role {role}")


async def test_a_set_up_that_somebody_holds_up_says_so(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_SERVER", {**engine._SERVER, "lock_timeout": "200ms"})
    lock = int.from_bytes(b"polygonl", "big")
    with psycopg.connect(database) as other:
        other.execute("select pg_advisory_lock(%s)", [lock])
        with pytest.raises(StoreUnavailable, match=r"lock timeout.*sets it up.*pg_stat_activity"):
            await opened_and_closed(database)
    await opened_and_closed(database)


# Adoption


async def test_a_table_of_the_platform_is_adopted_with_its_rows(database: str) -> None:
    do(database, PLATFORM, A_DAY, A_ROW)
    sink = await written(database, a_batch(1, 2, late=True))
    await written(database, a_batch(3, exchange=None, bid=0.1 + 0.2))
    old, first, _, third = sorted(in_database(database), key=lambda row: row["seq"] or 0)
    assert {k: v for k, v in old.items() if v is not None and k not in {"tick_id", "ingested_at"}} == {
        "time": datetime(2023, 11, 14, 10, tzinfo=UTC),
        "tenant_id": "system",
        "symbol": "EUR/USD",
        "bid": Decimal("1.08"),
        "ask": Decimal("1.09"),
        "mid": Decimal("1.085"),
        "spread": Decimal("0.01"),
        "timestamp_ms": 1699956000000,
        "source": "before",
        "late": False,
        "suspect": False,
    }
    assert {k: str(v) for k, v in first.items() if k != "tick_id"} == {
        "time": "2023-11-14 22:15:23.456000+00:00",
        "tenant_id": "acme",
        "symbol": "EURUSD",
        "bid": "1.12120",
        "ask": "1.12130",
        "mid": "1.121250",
        "spread": "0.00010",
        "timestamp_ms": str(NOW_MS),
        "exchange": "48",
        "source": "polygon_websocket",
        "event_type": "quote",
        "ingested_at": "2023-11-14 22:15:23.473000+00:00",
        "collector": "c1",
        "seq": "1",
        "received_ms": str(NOW_MS + 17),
        "late": "True",
        "suspect": "False",
    }
    assert (third["exchange"], str(third["bid"])) == (None, "0.30000")
    assert first["tick_id"] != third["tick_id"]
    assert not sink.facts().complaints
    about = str(sink.facts().about["columns"])
    assert about.startswith("adopted: tick_id (not ours), tenant_id character varying(50), symbol")
    assert "bid numeric(18,5)" in about


async def test_hours_that_others_cover_are_not_made_again(database: str) -> None:
    do(database, PLATFORM, A_DAY)
    await written(database, a_batch(1))
    assert do(database, "select tableoid::regclass::text from market_ticks") == [("ticks_of_the_14th",)]
    hours = "select count(*) from pg_partition_tree('market_ticks') where isleaf"
    assert do(database, hours) == [(97 - 24 + 1,)]


@pytest.mark.parametrize(
    ("change", "values", "column", "expected"),
    [
        ("alter column bid type real, alter column ask type real", {"bid": 1.5}, "bid", "1.5"),
        ("alter column bid type numeric", {"bid": 0.1 + 0.2}, "bid", "0.30000000000000004"),
        ("alter column bid type double precision", {"bid": 0.1 + 0.2}, "bid", "0.30000000000000004"),
        ("alter column exchange type integer using null", {}, "exchange", "48"),
        ("alter column exchange type smallint using null", {}, "exchange", "48"),
        ("alter column timestamp_ms type numeric", {}, "timestamp_ms", str(NOW_MS)),
        ("alter column symbol type char(8)", {}, "symbol", "EURUSD  "),
        (
            "alter column ingested_at type timestamp without time zone",
            {},
            "ingested_at",
            "2023-11-14 22:15:23.473000",
        ),
        ("drop column mid, add column mid double precision generated always as (bid + ask) stored", {}, "spread", None),
        ("drop column tick_id cascade, add column tick_id bigint generated always as identity", {}, "tick_id", "1"),
        ("drop column tick_id cascade, add column tick_id bigserial not null", {}, "tick_id", "1"),
    ],
)
async def test_columns_keep_the_types_they_have(
    database: str, change: str, values: dict[str, Any], column: str, expected: str | None
) -> None:
    do(database, PLATFORM, FOR_EVER, f"alter table market_ticks {change}")
    await written(database, a_batch(1, **values))
    (row,) = in_database(database)
    assert expected is None or str(row[column]) == expected


async def test_a_time_without_zone_is_utc(database: str) -> None:
    do(database, PLATFORM.replace("time timestamp with time zone not null", "time timestamp not null"))
    sink = a_sink(database)
    await sink.open()
    await sink.write(a_batch(1, 2))
    await sink.aclose()
    rows = do(database, "select time::text, tableoid::regclass::text from market_ticks limit 1")
    assert rows == [("2023-11-14 22:15:23.456", "market_ticks_20231114_22")]
    await opened_and_closed(database)  # reads the bounds that it made


async def test_a_table_of_enums_and_domains(database: str) -> None:
    do(
        database,
        "create type pair as enum ('EURUSD')",
        "create domain price as double precision check (value > 0)",
        PLATFORM.replace("symbol varchar(20)", "symbol pair").replace("bid numeric(18,5)", "bid price"),
        FOR_EVER,
    )
    await written(database, a_batch(1))
    assert [(row["symbol"], row["bid"]) for row in in_database(database)] == [("EURUSD", 1.1212)]


@pytest.mark.parametrize("type_name", ["real", "numeric(10,2)", "numeric(10)"])
async def test_a_type_that_rounds_prices_is_a_complaint(database: str, type_name: str) -> None:
    do(database, PLATFORM.replace("numeric(18,5)", type_name), FOR_EVER)
    sink = await opened_and_closed(database)
    (complaint,) = sink.facts().complaints
    assert "rounds prices: make it double precision" in complaint


async def test_a_table_that_already_has_doubled_rows_is_adopted_with_a_complaint(database: str) -> None:
    do(
        database,
        PLATFORM,
        FOR_EVER,
        "alter table market_ticks add column collector text default 'c1', add column seq bigint default 7",
        A_ROW,
        A_ROW,
    )
    sink = await written(database, a_batch(8))
    (complaint,) = sink.facts().complaints
    assert "no unique index on (time, collector, seq)" in complaint
    assert sink.facts().about["unique_index"] is False
    do(database, "delete from market_ticks where source = 'before'")
    do(database, "create unique index on market_ticks (time, collector, seq)")
    assert not (await opened_and_closed(database)).facts().complaints


# What is refused


async def refusal(dsn: str) -> str:
    made = everything_there(dsn)
    with pytest.raises(StoreMisconfigured) as caught:
        await opened_and_closed(dsn)
    assert everything_there(dsn) == made, "a refused table must not be touched"
    return str(caught.value)


async def test_everything_in_the_way_is_named_at_once(database: str) -> None:
    do(
        database,
        PLATFORM,
        "alter table market_ticks drop column ask, alter column timestamp_ms type integer, "
        "add column venue text not null, alter column exchange set not null, add unique (symbol, time)",
        "create unique index by_lower on market_ticks (time, lower(symbol))",
        "create table everything_else partition of market_ticks default",
    )
    refused = await refusal(database)
    for fault in (
        "public.market_ticks has no column ask, which its readers use",
        "column timestamp_ms of public.market_ticks is integer, which can't take what belongs there: make it bigint",
        "column venue of public.market_ticks is NOT NULL without a default",
        "column exchange of public.market_ticks is NOT NULL, but some ticks have none",
        "unique key market_ticks_symbol_time_key (symbol, time) of public.market_ticks would refuse good ticks",
        "unique key by_lower (time, an expression) of public.market_ticks would refuse good ticks",
        "default partition everything_else: ticks in it would never expire",
        "alter table public.market_ticks detach partition everything_else",
    ):
        assert fault in refused
    assert refused.count(";") == 6, "and nothing else"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (PLATFORM.replace("partition by range (time)", ""), "is not partitioned, so old ticks could not be dropped"),
        (
            PLATFORM.replace("range (time)", "list (symbol)").replace("primary key (time, tick_id)", "check (true)"),
            "is not partitioned by range of the column time alone",
        ),
        (
            PLATFORM.replace("by range (time)", "by range (time, tick_id)"),
            "is not partitioned by range of the column time alone",
        ),
        (PLATFORM.replace("time timestamp with", "time timestamp(0) with"), "cuts off milliseconds"),
        ("create view market_ticks as select 1 as one", "is not partitioned"),
        (PLATFORM.replace("market_ticks", "kept_elsewhere") + "; create table market_ticks (id int)", "no column ask"),
    ],
)
async def test_a_table_that_cant_be_kept_is_refused(database: str, table: str, says: str) -> None:
    do(database, *table.split(";"))
    assert says in await refusal(database)


# Partitions


def instants() -> st.SearchStrategy[datetime]:
    return st.integers(0, 12 * 60).map(lambda minutes: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes))


def ranges() -> st.SearchStrategy[list[tuple[datetime, datetime]]]:
    pair = st.tuples(instants(), instants()).filter(lambda p: p[0] < p[1])
    return st.lists(pair, max_size=6).map(apart)


def apart(pairs: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Those that don't overlap the ones before, as partitions never do."""
    kept: list[tuple[datetime, datetime]] = []
    for start, end in pairs:
        if all(end <= s or e <= start for s, e in kept):
            kept.append((start, end))
    return kept


@given(ranges(), instants(), instants())
def test_what_is_missing_fits_exactly_between_what_is_there(
    there: list[tuple[datetime, datetime]], one: datetime, other: datetime
) -> None:
    first, last = sorted((one, other))
    pieces = uncovered(there, first, last)
    assert all(start < end and end - start <= HOUR for start, end in pieces)
    assert apart([*there, *pieces]) == [*there, *pieces]
    at = first.replace(minute=0)
    for start, end in sorted([*there, *pieces]):
        if start <= at < end:
            at = end
    assert at > last
    assert not uncovered([*there, *pieces], first, last)


async def test_partitions_of_any_bounds_are_read_and_completed(database: str) -> None:
    do(
        database,
        PLATFORM,
        "create table ancient partition of market_ticks for values from (minvalue) to ('2023-11-12 00:00+00')",
        "create table odd partition of market_ticks for values from ('2023-11-14 22:10+00') to ('2023-11-14 22:40+00')",
        "create table far partition of market_ticks for values from ('2023-11-15 20:30+00') to (maxvalue)",
    )
    await written(database, a_batch(1))
    with psycopg.connect(database, options="-c TimeZone=UTC -c DateStyle=ISO") as connection:
        found = NativePartitions(set_up(connection, NOW).table).partitions(connection)
    assert [p.end for p in found[:-1]] == [p.start for p in found[1:]], "no gap and no overlap"
    assert {"market_ticks_20231114_22", "market_ticks_20231114_224000"} < {p.table.name for p in found}
    assert found[-1].table.name == "far"
