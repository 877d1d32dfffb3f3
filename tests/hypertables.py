"""Databases with TimescaleDB in them: on the build in WebAssembly, and on a full server where one is named."""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg import sql

from polygon_live.config import Secret
from polygon_live.model import Batch, Tick
from polygon_live.retention import Retention
from polygon_live.sink import Identity
from polygon_live.sinks.timescale import TimescaleSink
from tests.engines.timescale import Edition, Timescale
from tests.reading import in_database

SERVER: Final = os.environ.get("POLYGON_LIVE_TEST_TIMESCALE_DSN")
"""The address of a full server, for a superuser: each test makes a database of its own there."""
HOUR_MS: Final = 3_600_000
ELSEWHERE: Final = "elsewhere"
"""The schema of the extension on the shared build: it need not be on the search path."""

JOBS: Final = """
    select proc_name, (config ->> 'drop_after')::interval, schedule_interval, scheduled
    from timescaledb_information.jobs where hypertable_name = 'market_ticks' order by 1"""
RETENTION: Final = ("policy_retention", timedelta(hours=72), timedelta(minutes=15), True)
COMPRESSION: Final = ("policy_compression", None, timedelta(hours=1), True)
CHUNKS: Final = """
    select range_end - range_start, is_compressed from timescaledb_information.chunks
    where hypertable_name = 'market_ticks' order by range_start"""
NEVER: Final = """
    select alter_job(job_id, next_start => 'infinity') from timescaledb_information.jobs
    where hypertable_name = 'market_ticks'"""
"""Of the policies: where there are background workers, they would be first."""
HOUR: Final = timedelta(hours=1)

PLATFORM: Final = """
    create table market_ticks (
        tick_id uuid not null default gen_random_uuid(),
        time timestamp with time zone not null,
        tenant_id varchar(50) not null default 'system',
        symbol varchar(20) not null,
        bid numeric(18,5) not null,
        ask numeric(18,5) not null,
        mid numeric(18,6) not null,
        spread numeric(10,5) not null,
        timestamp_ms bigint not null,
        exchange varchar(10),
        source varchar(50) not null,
        event_type varchar(20),
        ingested_at timestamp with time zone not null default now(),
        primary key (time, tick_id)
    )"""
BY_DAY: Final = "select create_hypertable('market_ticks', 'time', chunk_time_interval => interval '1 day')"
TWO_DAYS_OF_ROWS: Final = """
    insert into market_ticks (time, symbol, bid, ask, mid, spread, timestamp_ms, source)
    select t, 'EUR/USD', 1.08, 1.09, 1.085, 0.01, extract(epoch from t) * 1000, 'before'
    from generate_series(now() - interval '48 hours', now(), interval '10 minutes') t"""


def places(edition: Edition) -> list[str]:
    """Where to run tests of this edition."""
    return ["wasm", "server"] if SERVER and _edition_of(SERVER) == edition else ["wasm"]


def _edition_of(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select coalesce(current_setting('timescaledb.license', true), 'timescale')"
        ).fetchone()
    return str(row[0]) if row else "unknown"


def emptied(server: Timescale) -> str:
    """The address of its only database, with nothing but the extension in it, and the machine's time."""
    server.set_clock(timedelta())
    do(server.dsn, "drop schema public cascade", "create schema public")
    if not do(server.dsn, "select 1 from pg_extension where extname = 'timescaledb'"):
        do(server.dsn, f"create schema {ELSEWHERE}", f"create extension timescaledb schema {ELSEWHERE}")
    return server.dsn


@contextlib.contextmanager
def new_database(name: str) -> Iterator[str]:
    """The address of a database on the full server, with the extension in it; dropped afterwards."""
    assert SERVER is not None
    with psycopg.connect(SERVER, autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            dsn = psycopg.conninfo.make_conninfo(SERVER, dbname=name)
            do(dsn, "create extension timescaledb")
            yield dsn
        finally:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def do(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run these as somebody else, who has the extension on his search path; the rows of the last."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"set search_path = public, {ELSEWHERE}".encode())
        try:
            for statement in statements:
                done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []
        finally:
            connection.execute("set search_path = public")  # one session for all, on the build in WebAssembly


def seqs_in(dsn: str) -> list[int]:
    """Of all ticks that are there, in order."""
    return [row["seq"] for row in in_database(dsn)]


def run_policy(dsn: str, procedure: str) -> None:
    """What a background worker does, now."""
    ((job,),) = do(dsn, f"select job_id from timescaledb_information.jobs where proc_name = '{procedure}'")
    do(dsn, f"call run_job({job})")


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Clock:
    """The collector's clock, set by hand."""

    def __init__(self, ms: int | None = None) -> None:
        self.ms = wall_ms() if ms is None else ms

    def __call__(self) -> int:
        return self.ms


def a_tick(seq: int, at_ms: int, symbol: str = "EURUSD", **changes: Any) -> Tick:
    values = {"bid": 1.1212, "ask": 1.1213, "mid": 1.12125, "spread": 0.0001, "exchange": 48, **changes}
    return Tick(
        symbol=symbol,
        timestamp_ms=at_ms,
        timestamp=at_ms,
        source="polygon_websocket",
        event_type="quote",
        seq=seq,
        received_ms=at_ms + 17,
        **values,
    )


def as_batch(*ticks: Tick) -> Batch:
    return Batch(ticks[0].seq - 1, list(ticks), [b"{}"] * len(ticks))


def a_retention(dsn: str, clock: Callable[[], int] = wall_ms) -> Retention:
    return Retention(Secret(dsn), "c1", now_ms=clock)


def a_sink(dsn: str, clock: Callable[[], int] = wall_ms) -> TimescaleSink:
    return TimescaleSink(Secret(dsn), Identity("c1", "journal-1", "host-1"), "acme", now_ms=clock)


@contextlib.asynccontextmanager
async def opened(dsn: str, clock: Callable[[], int] = wall_ms) -> AsyncIterator[TimescaleSink]:
    """A sink that is open during the block."""
    sink = a_sink(dsn, clock)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()
