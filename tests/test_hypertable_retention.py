"""Three days in a hypertable: by the policy where it runs, by the collector where it does not; judged by the effect."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import trio
from structlog.testing import capture_logs

from polygon_live.embedded import Postgres
from polygon_live.engines.postgres import instant
from polygon_live.retention import Retention
from tests.engines.timescale import Timescale
from tests.hypertables import (
    BY_DAY,
    COMPRESSION,
    HOUR_MS,
    JOBS,
    PLATFORM,
    RETENTION,
    TWO_DAYS_OF_ROWS,
    Clock,
    a_retention,
    a_tick,
    as_batch,
    do,
    emptied,
    opened,
    run_policy,
    seqs_in,
    wall_ms,
)
from tests.reading import in_database

pytestmark = pytest.mark.fetched


async def test_the_policy_is_made_and_what_it_does_is_verified(hyper_database: str) -> None:
    retention = a_retention(hyper_database)
    await retention.once()
    assert do(hyper_database, JOBS) == [COMPRESSION, RETENTION]
    async with opened(hyper_database) as sink:
        await sink.write(as_batch(a_tick(1, wall_ms() - HOUR_MS)))
    await retention.once()
    after = retention.snapshot()
    assert after.verified
    assert "1 chunks, the oldest from" in after.detail
    assert str(after.about["policy"]).endswith("drops after 72 h, every 0:15:00")
    assert after.about["oldest_row"] == instant(in_database(hyper_database)[0]["timestamp_ms"]).isoformat()
    assert after.about["chunks_over_an_hour"] == 0


@pytest.mark.parametrize(
    "spoilt",
    [
        "remove_retention_policy('market_ticks')",
        "alter_job({job}, scheduled => false)",
        "alter_job({job}, schedule_interval => interval '1 day')",
        """alter_job({job}, config => config || '{{"drop_after": "10:00:00"}}')""",
    ],
)
async def test_a_policy_that_was_spoilt_is_repaired(hyper_database: str, spoilt: str) -> None:
    retention = a_retention(hyper_database)
    await retention.once()
    job = "select job_id from timescaledb_information.jobs where proc_name = 'policy_retention'"
    ((number,),) = do(hyper_database, job)
    do(hyper_database, f"select {spoilt.format(job=number)} from timescaledb_information.jobs where job_id = {number}")
    assert RETENTION not in do(hyper_database, JOBS)
    with capture_logs() as logs:
        await retention.once()
    assert do(hyper_database, JOBS) == [COMPRESSION, RETENTION]
    assert retention.snapshot().verified
    assert {"retention policy added", "retention policy set right"} & {log["event"] for log in logs}


async def test_a_policy_that_keeps_longer_is_left_and_told(hyper_database: str) -> None:
    do(
        hyper_database,
        PLATFORM,
        BY_DAY,
        TWO_DAYS_OF_ROWS.replace("48 hours", "10 days"),
        "select add_retention_policy('market_ticks', interval '30 days')",
    )
    retention = a_retention(hyper_database)
    assert await retention.once() == Retention.AGAIN_SECONDS
    assert not retention.snapshot().verified
    assert "keeps 30 days" in retention.snapshot().detail
    assert len(in_database(hyper_database)) == 1441, "what somebody wants to keep is not destroyed"
    mend = retention.snapshot().detail.partition("to have three days: ")[2]
    do(hyper_database, mend)
    with trio.fail_after(60):
        while await retention.once() == Retention.AGAIN_SECONDS:
            pass  # where there are background workers, the policy is at it this very moment
    assert retention.snapshot().verified
    assert min(row["time"] for row in in_database(hyper_database)) > datetime.now(tz=UTC) - timedelta(hours=96)


async def test_a_policy_that_never_runs_is_noticed_by_what_is_left(timescale: Timescale) -> None:
    dsn = emptied(timescale)
    retention = a_retention(dsn)
    await retention.once()
    clock = Clock(wall_ms() - 30 * HOUR_MS)
    async with opened(dsn, clock) as sink:
        await sink.write(as_batch(a_tick(1, clock.ms - 50 * HOUR_MS), a_tick(2, clock.ms)))
    await retention.once()
    assert seqs_in(dsn) == [2]
    after = retention.snapshot()
    assert after.verified
    assert after.about["dropped"] == 1
    assert "what is past is dropped by the collector: the retention policy (job" in after.detail
    assert "has not run yet; if it never does: are there background workers" in after.detail


async def test_without_policies_the_collector_drops(apache_database: str) -> None:
    clock = Clock(wall_ms() - 30 * HOUR_MS)
    async with opened(apache_database, clock) as sink:
        assert str(sink.facts().about["edition"]).endswith(", Apache edition")
        assert sink.facts().about["compression"] == "none: not in this edition"
        await sink.write(as_batch(a_tick(1, clock.ms - 50 * HOUR_MS), a_tick(2, clock.ms)))
    retention = a_retention(apache_database)
    await retention.once()
    assert seqs_in(apache_database) == [2]
    assert retention.snapshot().verified
    assert retention.snapshot().detail.endswith(
        "; what is past is dropped by the collector: this edition has no policies"
    )
    assert do(apache_database, JOBS) == []


async def test_a_clock_of_ours_set_wrong_costs_no_tick(hyper_database: str) -> None:
    now = wall_ms()
    async with opened(hyper_database) as sink:
        await sink.write(as_batch(a_tick(1, now - 71 * HOUR_MS), a_tick(2, now)))
    retention = a_retention(hyper_database, Clock(now + 30 * 24 * HOUR_MS))
    await retention.once()
    assert seqs_in(hyper_database) == [1, 2]


async def test_a_clock_of_the_database_that_is_ahead_is_told(timescale: Timescale) -> None:
    dsn = emptied(timescale)
    retention = a_retention(dsn)
    timescale.set_clock(timedelta(hours=3))
    assert await retention.once() == Retention.AGAIN_SECONDS
    assert "the database's clock is 3:00:0" in retention.snapshot().detail
    assert "set the clocks right" in retention.snapshot().detail
    timescale.set_clock(timedelta())
    await retention.once()
    assert retention.snapshot().verified


START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
HOURS = 90


@pytest.mark.parametrize("way", ["policy", "no background workers", "apache"])
async def test_nearly_four_days_hour_by_hour(request: pytest.FixtureRequest, way: str) -> None:
    """Nothing younger than 72 h goes, and nothing older than 74 h stays, by the database's own clock."""
    server: Timescale = request.getfixturevalue("apache_timescale" if way == "apache" else "timescale")
    dsn = emptied(server)
    clock = Clock(START_MS)
    move(server, clock, START_MS)
    retention = a_retention(dsn, clock)
    await retention.once()
    sent: list[int] = []
    async with opened(dsn, clock) as sink:
        for begun in range(START_MS, START_MS + HOURS * HOUR_MS, HOUR_MS):
            move(server, clock, begun + HOUR_MS - 1)
            instants = [begun, begun + 1, begun + HOUR_MS // 2, begun + HOUR_MS - 1]
            await sink.write(as_batch(*(a_tick(len(sent) + n, at_ms) for n, at_ms in enumerate(instants))))
            sent += instants
            move(server, clock, begun + HOUR_MS + 2000)
            if way == "policy":
                run_policy(dsn, "policy_retention")
                run_policy(dsn, "policy_compression")
            await retention.once()
            held = [ms for (ms,) in do(dsn, "select timestamp_ms from market_ticks order by 1")]
            assert held[0] >= clock.ms - 73 * HOUR_MS
            young = [ms for ms in sent if ms >= clock.ms - 72 * HOUR_MS]
            assert held[-len(young) :] == young
    after = retention.snapshot()
    assert after.verified
    assert after.about["chunks"] == 72
    assert after.about["dropped"] == (0 if way == "policy" else HOURS - 72)
    assert after.about["chunks_compressed"] == (48 if way == "policy" else 0)


def move(server: Timescale, clock: Clock, to_ms: int) -> None:
    """Set both clocks."""
    clock.ms = to_ms
    server.set_clock(timedelta(milliseconds=to_ms - wall_ms()))


async def test_what_the_policy_leaves_is_given_its_time_first(timescale: Timescale) -> None:
    """At the full hour it is the policy's, half an hour later ours."""
    dsn = emptied(timescale)
    clock = Clock(START_MS)
    move(timescale, clock, START_MS)
    retention = a_retention(dsn, clock)
    await retention.once()
    async with opened(dsn, clock) as sink:
        await sink.write(as_batch(a_tick(1, START_MS), a_tick(2, START_MS + HOUR_MS)))
    for minutes, left in ((60, [1, 2]), (90, [2])):
        move(timescale, clock, START_MS + 72 * HOUR_MS + minutes * 60_000 + 2000)
        do(
            dsn,
            "insert into _timescaledb_internal.bgw_job_stat select job_id, now(), now(), now(), now(), false, "
            "1, interval '1 s', interval '0', 0, 1, 0, 1, 0 from timescaledb_information.jobs "
            "where proc_name = 'policy_retention' on conflict (job_id) do update set last_start = now()",
        )
        await retention.once()
        assert seqs_in(dsn) == left
        assert retention.snapshot().verified
    assert "ran and left _hyper_" in retention.snapshot().detail
    await retention.once()
    assert "is recorded as failed, but what is past is gone" in retention.snapshot().detail


async def test_a_plain_server_still_keeps_its_partitions(own_postgres: Callable[..., Postgres]) -> None:
    """The other way, through the same door."""
    retention = a_retention(own_postgres().dsn)
    await retention.once()
    assert retention.snapshot().about["partitions"] == 97
