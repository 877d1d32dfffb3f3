"""Looking at the table and at how it keeps three days, on both kinds of storage; nothing is changed by it."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from polygon_live.check.kept import retention
from polygon_live.config import Secret
from polygon_live.engines.postgres import Looked, Row, look_at, rows_after
from polygon_live.status import RetentionSnapshot
from tests.engines.timescale import Timescale
from tests.hypertables import BY_DAY, HOUR_MS, PLATFORM, a_retention, a_tick, as_batch, do, emptied, opened, wall_ms
from tests.test_status import WELL

SPAN = timedelta(hours=1)
NATIVE = "database"
HYPER = pytest.param("timescale", marks=pytest.mark.fetched)


async def looking(dsn: str) -> Looked:
    found = await look_at(Secret(dsn), "c1", span=SPAN)
    assert found is not None
    return found


@pytest.fixture(params=[NATIVE, HYPER])
def dsn(request: pytest.FixtureRequest) -> str:
    """Of an empty database."""
    found = request.getfixturevalue(request.param)
    return emptied(found) if isinstance(found, Timescale) else str(found)


@pytest.mark.engine
async def test_no_table_is_no_error_and_none_is_made(dsn: str) -> None:
    assert await look_at(Secret(dsn), "c1", span=SPAN) is None
    assert await rows_after(Secret(dsn), "c1", 0, span=SPAN) == ()
    assert do(dsn, "select to_regclass('market_ticks')") == [(None,)]


@pytest.mark.engine
async def test_what_is_there(dsn: str) -> None:
    now = wall_ms()
    kept = a_retention(dsn)
    async with opened(dsn) as sink:
        await sink.write(
            as_batch(a_tick(1, now - 2 * HOUR_MS), a_tick(2, now - 1000), a_tick(3, now, "XAUUSD"), a_tick(4, now))
        )
    await kept.once()
    found = await looking(dsn)
    assert [(row.symbol, row.ticks, row.newest_ms) for row in found.symbols] == [("EURUSD", 2, now), ("XAUUSD", 1, now)]
    assert found.last_seq == 4
    assert [(mark.collector, mark.host) for mark in found.marks] == [("c1", "host-1")]
    assert 0 <= found.marks[0].seconds_ago < 600
    assert found.pieces.oldest_row == datetime.fromtimestamp((now - 2 * HOUR_MS) / 1000, UTC)
    assert (found.pieces.past, found.pieces.too_long, found.pieces.covered) == ((), (), True)
    assert found.pieces.has_policies is (found.pieces.policy is not None) is ("TimescaleDB" in found.pieces.edition)
    rows = await rows_after(Secret(dsn), "c1", 2, span=SPAN)
    assert rows == [Row(3, "XAUUSD", now), Row(4, "EURUSD", now)]
    verified = RetentionSnapshot(kept.snapshot().verified, kept.snapshot().detail, {})
    state = WELL if verified.verified else None
    assert retention(found, state).status == "holds"
    others = await look_at(Secret(dsn), "c2", span=SPAN)
    assert others is not None
    assert others.symbols == ()


@pytest.mark.engine
async def test_a_user_who_may_only_read_can_look(database: str) -> None:
    async with opened(database) as sink:
        await sink.write(as_batch(a_tick(1, wall_ms())))
    role = "reader_of_ticks"
    do(database, f"create role {role} login password 'r'", f"grant select on all tables in schema public to {role}")
    try:
        theirs = psycopg.conninfo.make_conninfo(database, user=role, password="r")
        assert (await looking(theirs)).symbols[0].ticks == 1
    finally:
        do(database, f"drop owned by {role}", f"drop role {role}")


@pytest.mark.engine
async def test_old_and_missing_partitions(database: str) -> None:
    await a_retention(database).once()
    now = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)
    old = now - timedelta(hours=90)
    do(database, f"create table old_hour partition of market_ticks for values from ('{old}') to ('{old + SPAN}')")
    name = f"market_ticks_{now + SPAN:%Y%m%d_%H}"
    do(database, f"drop table {name}")
    found = await looking(database)
    assert found.pieces.past == ("old_hour",)
    assert not found.pieces.covered
    do(
        database,
        f"create table half_day partition of market_ticks for values from ('{now + timedelta(hours=48)}') "
        f"to ('{now + timedelta(hours=60)}')",
    )
    assert (await looking(database)).pieces.too_long == ("half_day",)


@pytest.mark.fetched
@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        ("select remove_retention_policy('market_ticks')", "the table has no retention policy"),
        ("select alter_job({job}, scheduled => false)", "and it is paused"),
        (
            """select alter_job({job}, config => config || '{{"drop_after": "100:00:00"}}') {jobs}""",
            "to have three days",
        ),
        ("select set_chunk_time_interval('market_ticks', interval '1 day')", "new chunks, of 1 day"),
    ],
)
async def test_a_policy_that_was_spoilt_is_seen_and_left(hyper_database: str, spoilt: str, says: str) -> None:
    dsn = hyper_database
    await a_retention(dsn).once()
    assert retention(await looking(dsn), WELL).status == "holds"
    job = "select job_id from timescaledb_information.jobs where proc_name = 'policy_retention'"
    ((number,),) = do(dsn, job)
    jobs = f"from timescaledb_information.jobs where job_id = {number}"
    do(dsn, spoilt.format(job=number, jobs=jobs))
    for _ in range(2):  # the first look has not mended it
        item = retention(await looking(dsn), WELL)
        assert item.status == "fails"
        assert says in item.evidence


@pytest.mark.fetched
async def test_an_old_row_in_a_chunk_of_a_day(hyper_database: str) -> None:
    row = """
        insert into market_ticks (time, symbol, bid, ask, mid, spread, timestamp_ms, source)
        values (now() - interval '99 hours', 'EUR/USD', 1, 1, 1, 0, 0, 'before')"""
    do(hyper_database, PLATFORM, BY_DAY, row)
    item = retention(await looking(hyper_database), WELL)
    assert item.status == "fails"
    assert "99 h old, over 74 h" in item.evidence
    assert "new chunks, of 1 day" in item.evidence
    assert do(hyper_database, "select count(*) from market_ticks") == [(1,)]


@pytest.mark.fetched
async def test_the_apache_edition_has_no_policies(apache_database: str) -> None:
    await a_retention(apache_database).once()
    found = await looking(apache_database)
    assert not found.pieces.has_policies
    assert retention(found, WELL).status == "holds"
    assert retention(found, None).status == "fails"
