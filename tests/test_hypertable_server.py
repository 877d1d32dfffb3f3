"""What only a full TimescaleDB server shows: background workers, locks, several sessions, rights.

Collected only where POLYGON_LIVE_TEST_TIMESCALE_DSN names one with the community edition.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from threading import Barrier

import psycopg
import pytest
import trio
from psycopg import sql

from polygon_live.engines.postgres import set_up
from polygon_live.retention import Retention
from polygon_live.sink import Opened
from tests.hypertables import (
    COMPRESSION,
    HOUR_MS,
    JOBS,
    NEVER,
    RETENTION,
    SERVER,
    Clock,
    a_retention,
    a_sink,
    a_tick,
    as_batch,
    do,
    new_database,
    opened,
    seqs_in,
    wall_ms,
)

pytestmark = pytest.mark.fetched

if SERVER is None:
    pytest.skip("POLYGON_LIVE_TEST_TIMESCALE_DSN names no server", allow_module_level=True)

PATIENCE_SECONDS = 60.0
NOW = """
    select alter_job(job_id, next_start => now()) from timescaledb_information.jobs
    where hypertable_name = 'market_ticks' and proc_name = """
RUN_BOTH = """
    select count(last_run_status) = 2 from timescaledb_information.job_stats where hypertable_name = 'market_ticks'"""
_numbers = count()


@pytest.fixture
def database_on_server() -> Iterator[str]:
    """One with the extension, that is this test's alone."""
    with new_database(f"server_test_{next(_numbers)}") as dsn:
        yield dsn


async def until(dsn: str, asked: str) -> None:
    """Wait for what a background worker does."""
    with trio.fail_after(PATIENCE_SECONDS):
        while do(dsn, asked) != [(True,)]:  # noqa: ASYNC110  # another process can't set an event
            await trio.sleep(0.1)


async def five_days_of_ticks(dsn: str) -> int:
    """One every half hour, written as they came; the end of the last hour that is past."""
    now = wall_ms()
    for days_ago in range(5, 0, -1):
        clock = Clock(now - (days_ago - 1) * 24 * HOUR_MS)
        async with opened(dsn, clock) as sink:
            begins = clock.ms - 24 * HOUR_MS
            ticks = [a_tick((6 - days_ago) * 1000 + n, begins + n * HOUR_MS // 2) for n in range(48)]
            await sink.write(as_batch(*ticks))
    return now


async def test_background_workers_keep_the_three_days(database_on_server: str) -> None:
    dsn = database_on_server
    await a_retention(dsn).once()
    assert do(dsn, JOBS) == [COMPRESSION, RETENTION]
    do(dsn, NEVER)
    now = await five_days_of_ticks(dsn)
    assert len(seqs_in(dsn)) == 240
    do(dsn, NOW + "'policy_retention'")
    await until(dsn, f"select min(timestamp_ms) > {now - 74 * HOUR_MS} from market_ticks")
    do(dsn, NOW + "'policy_compression'")  # not at once: on chunks that are both past and not compressed they deadlock
    await until(dsn, "select count(*) >= 47 from timescaledb_information.chunks where is_compressed")
    await until(dsn, RUN_BOTH)
    held = [ms for (ms,) in do(dsn, "select timestamp_ms from market_ticks order by 1")]
    assert now - 73 * HOUR_MS <= held[0] < now - 71 * HOUR_MS
    assert len(held) in {144, 145, 146}
    retention = a_retention(dsn)
    await retention.once()
    after = retention.snapshot()
    assert after.verified
    assert after.about["dropped"] == 0
    assert int(str(after.about["chunks_compressed"])) >= 47
    says = {  # PostgreSQL 15.20 with TimescaleDB 2.28.3 records every job as failed although its work is done
        "Success": "none overdue",
        "Failed": "is recorded as failed, but what is past is gone: see timescaledb_information.job_errors",
    }
    assert after.detail.endswith(says[str(after.about["policy_last_result"])])


async def test_a_chunk_that_somebody_reads_is_overdue_and_dropped_afterwards(database_on_server: str) -> None:
    dsn = database_on_server
    retention = a_retention(dsn)
    await retention.once()
    do(dsn, NEVER)
    now = await five_days_of_ticks(dsn)
    with psycopg.connect(dsn) as notebook:
        notebook.execute("select count(*) from market_ticks")
        with trio.fail_after(8):  # the server's own limit is 10 s: who writes would wait behind the drop as long
            assert await retention.once() == Retention.AGAIN_SECONDS
        assert "_chunk can't be dropped while somebody holds the table" in retention.snapshot().detail
        async with opened(dsn) as sink:
            await sink.write(as_batch(a_tick(9000, now)))
    await retention.once()
    assert retention.snapshot().verified
    assert len(seqs_in(dsn)) in {145, 146, 147}


async def test_two_set_ups_at_once_take_turns(database_on_server: str) -> None:
    dsn = database_on_server
    both = Barrier(2, timeout=60)

    def one() -> str:
        with psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC -c DateStyle=ISO") as connection:
            both.wait()
            return set_up(connection, datetime.now(tz=UTC)).storage.edition

    with ThreadPoolExecutor(2) as threads:
        editions = [f.result() for f in [threads.submit(one), threads.submit(one)]]
    assert len(set(editions)) == 1
    assert do(dsn, "select count(*) from timescaledb_information.hypertables") == [(1,)]
    assert do(dsn, JOBS) == [COMPRESSION]


async def test_a_terminated_writer_doubles_nothing(database_on_server: str) -> None:
    dsn = database_on_server
    now = wall_ms()
    sink = a_sink(dsn)
    await sink.open()
    await sink.write(as_batch(a_tick(1, now)))
    do(dsn, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'polygon-live/c1'")
    assert await sink.open() == Opened(1)
    await sink.write(as_batch(a_tick(2, now)))
    await sink.aclose()
    assert seqs_in(dsn) == [1, 2]


@pytest.mark.parametrize("may_create", [True, False])
async def test_the_extension_is_added_where_the_role_may(may_create: bool) -> None:
    assert SERVER is not None
    name = f"server_test_{next(_numbers)}"
    role = f"writer_of_{name}"
    with psycopg.connect(SERVER, autocommit=True) as admin:
        owner = role if may_create else "default"
        admin.execute(f"create role {role} login password '{role}'".encode())
        admin.execute(f"create database {name} owner {owner}".encode())
        try:
            theirs = psycopg.conninfo.make_conninfo(SERVER, dbname=name, user=role, password=role)
            if not may_create:
                do(psycopg.conninfo.make_conninfo(SERVER, dbname=name), f"grant create on schema public to {role}")
            async with opened(theirs) as sink:
                about = sink.facts().about
                await sink.write(as_batch(a_tick(1, wall_ms())))
            await a_retention(theirs).once()
            if may_create:
                assert str(about["edition"]).endswith("community edition")
                assert do(theirs, JOBS) == [COMPRESSION, RETENTION]
            else:
                assert about["edition"] == "PostgreSQL, native partitions"
                assert "can't be added to this database, and now plain partitions are used" in str(about["timescaledb"])
                assert "permission denied" in str(about["timescaledb"])
        finally:
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
            admin.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
