"""``polygon-live retention`` as a program: what the table holds, and by hand what is due."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from polygon_live.config import Secret
from polygon_live.embedded import Postgres
from polygon_live.engines.postgres import connected, drop_by_hand, instant, survey
from tests.engines.timescale import Timescale
from tests.hypertables import (
    BY_DAY,
    HOUR_MS,
    NEVER,
    PLATFORM,
    TWO_DAYS_OF_ROWS,
    Clock,
    a_retention,
    a_tick,
    as_batch,
    do,
    emptied,
    opened,
    seqs_in,
    wall_ms,
)
from tests.waiting import in_thread

pytestmark = pytest.mark.engine
PAST, DAY_OLD, EDGE, NEW = 1, 2, 3, 4
"""``seq`` of four ticks: 80 h, 30 h, 71 h old and of now."""


@pytest.fixture
def command(clean_environment: Mapping[str, str]) -> Callable[..., Any]:
    """Runs it, off Trio's thread."""

    def run(dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "polygon_live", "retention", *arguments]
        env = {**clean_environment, "POLYGON_LIVE_TIMESCALE_DSN": dsn}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)

    return lambda dsn, *arguments: in_thread(partial(run, dsn, *arguments))


async def fill(dsn: str) -> None:
    """A table with one hour that is past, and three that are not."""
    now = wall_ms()
    past = Clock(now - 30 * HOUR_MS)  # a writer of then, for one of now takes nothing so old
    async with opened(dsn, past) as sink:
        await sink.write(as_batch(a_tick(PAST, now - 80 * HOUR_MS), a_tick(DAY_OLD, now - 30 * HOUR_MS)))
    async with opened(dsn) as sink:
        await sink.write(as_batch(a_tick(EDGE, now - 71 * HOUR_MS), a_tick(NEW, now)))


def everything(dsn: str) -> list[tuple[Any, ...]]:
    """What there is in the database, and in the table."""
    of_database = "select oid, relname, relfilenode from pg_class where relnamespace <> 'pg_toast'::regnamespace"
    return do(dsn, f"select * from ({of_database}) x order by 1") + do(dsn, "select seq from market_ticks order by 1")


async def test_it_shows_what_there_is_and_changes_nothing(database: str, command: Callable[..., Any]) -> None:
    await fill(database)
    before = everything(database)
    done = await command(database)
    assert (done.returncode, done.stderr) == (0, "")
    head, count, *lines = done.stdout.splitlines()
    assert head.startswith("public.market_ticks: PostgreSQL, native partitions; PostgreSQL ")
    assert f"database {psycopg.conninfo.conninfo_to_dict(database)['dbname']}" in head
    pieces = len(do(database, "select 1 from pg_inherits where inhparent = 'market_ticks'::regclass"))
    assert count.startswith(f"{pieces} partitions, ")
    assert ", 80.0 h ago, to 20" in count
    assert "policy: none: a running collector drops what is past at every half and full hour" in lines
    assert "compression: none: PostgreSQL has none for tables" in lines
    begun = instant(wall_ms() // HOUR_MS * HOUR_MS)
    rows = {cells[0]: cells for line in lines if len(cells := line.split()) >= 7 and line.startswith("market_ticks_2")}
    past = f"{begun - timedelta(hours=80):market_ticks_%Y%m%d_%H}"
    assert rows[past][-1] == "past"
    assert len(rows) == pieces - 24
    assert [line for line in lines if line.startswith("and 24 partitions for the hours to come, until 20")]
    (due,) = [line for line in lines if line.startswith("past, would be dropped: ")]
    assert past in due
    for arguments in (["--dry-run"], ["--now", "--dry-run"]):
        again = await command(database, *arguments)
        assert (again.returncode, again.stdout.splitlines()[-1]) == (0, due)
    assert everything(database) == before


async def test_by_hand_goes_what_is_past_and_nothing_else(database: str, command: Callable[..., Any]) -> None:
    await fill(database)
    shown = json.loads((await command(database, "--json")).stdout)
    assert (shown["complete"], shown["dropped"], shown["undone"]) == (True, [], [])
    done = await command(database, "--now", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["dropped"] == shown["due"]
    assert told["due"] == told["compressed"] == told["to_compress"] == []
    assert {p["name"] for p in shown["pieces"]} - {p["name"] for p in told["pieces"]} == set(shown["due"])
    assert {p["end"] for p in shown["pieces"] if p["name"] in shown["due"]} == {
        p["end"] for p in shown["pieces"] if p["end"] <= shown["edge"]
    }
    assert seqs_in(database) == [DAY_OLD, EDGE, NEW]
    assert told["bytes"] == sum(piece["bytes"] for piece in told["pieces"])
    assert told["free_bytes"] > 0, "this server runs here, and says where"
    again = await command(database, "--now")
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "nothing is due")


async def test_what_somebody_reads_is_left_and_said(database: str, command: Callable[..., Any]) -> None:
    await fill(database)
    with psycopg.connect(database) as notebook:
        notebook.execute("select count(*) from market_ticks")
        done = await command(database, "--now")
    assert done.returncode == 1
    assert "can't be dropped while somebody holds the table in an open transaction" in done.stderr
    assert "pg_stat_activity" in done.stderr
    assert seqs_in(database) == [PAST, DAY_OLD, EDGE, NEW]
    assert (await command(database, "--now")).returncode == 0


async def test_no_clock_alone_makes_anything_old(database: str) -> None:
    await fill(database)
    async with connected(Secret(database), "test") as session:
        for ahead in (1000 * HOUR_MS, 0):
            found = await session.run(60, "look", partial(survey, now=instant(wall_ms() + ahead)))
            assert found.edge <= instant(wall_ms() - 72 * HOUR_MS)
        in_the_past = instant(wall_ms() - 1000 * HOUR_MS)
        assert (await session.run(60, "look", lambda c: survey(c, in_the_past))).due == ()
        assert await session.run(60, "drop", lambda c: drop_by_hand(c, in_the_past)) == ()
        await session.run(60, "drop", lambda c: drop_by_hand(c, instant(wall_ms() + 1000 * HOUR_MS)))
    assert seqs_in(database) == [DAY_OLD, EDGE, NEW]


@pytest.mark.parametrize("arguments", [[], ["--now"]])
async def test_without_a_table_it_says_so_and_makes_none(
    database: str, command: Callable[..., Any], arguments: list[str]
) -> None:
    done = await command(database, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no table market_ticks in the database" in done.stderr
    assert do(database, "select to_regclass('market_ticks'), to_regclass('tick_cursors')") == [(None, None)]


async def test_a_table_that_is_not_partitioned_is_refused(database: str, command: Callable[..., Any]) -> None:
    do(database, PLATFORM)
    done = await command(database, "--now", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["complete"] is False
    assert "is not partitioned, so old ticks could not be dropped" in done.stderr


async def test_a_server_that_is_away_and_one_that_was_not_named(
    own_postgres: Callable[..., Postgres], command: Callable[..., Any]
) -> None:
    away = await command(own_postgres(start=False).dsn)
    assert (away.returncode, "Traceback" in away.stderr) == (1, False)
    assert "not done: " in away.stderr
    unnamed = await command("")
    assert unnamed.returncode == 78
    assert "POLYGON_LIVE_TIMESCALE_DSN" in unnamed.stderr


@pytest.mark.fetched
async def test_a_hypertable_is_cleaned_and_compressed_by_hand(hyper_database: str, command: Callable[..., Any]) -> None:
    await a_retention(hyper_database).once()  # both policies
    do(hyper_database, NEVER)
    await fill(hyper_database)
    before = seqs_in(hyper_database)
    shown = json.loads((await command(hyper_database, "--json")).stdout)
    assert seqs_in(hyper_database) == before
    assert shown["called"] == "chunks"
    assert "drops after 72 h, every 0:15:00" in shown["settings"]["policy"]
    assert "compresses after 24 h, every 1:00:00" in shown["settings"]["compression_policy"]
    assert "segmented by symbol" in shown["settings"]["compression"]
    done = await command(hyper_database, "--now")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"compressed: {', '.join(shown['to_compress'])}" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing is due"
    assert seqs_in(hyper_database) == [DAY_OLD, EDGE, NEW]
    after = json.loads((await command(hyper_database, "--json")).stdout)
    pieces = {piece["name"]: piece for piece in after["pieces"]}
    assert len(shown["to_compress"]) == 2
    for name in shown["to_compress"]:
        assert pieces[name]["compressed"]
        assert pieces[name]["bytes_before"] > 0
        assert pieces[name]["bytes"] > 0
    assert sum(piece["compressed"] for piece in after["pieces"]) == 2


@pytest.mark.fetched
async def test_a_policy_that_keeps_longer_is_respected_by_hand_too(
    timescale: Timescale, command: Callable[..., Any]
) -> None:
    dsn = emptied(timescale)
    do(
        dsn,
        PLATFORM,
        BY_DAY,
        TWO_DAYS_OF_ROWS.replace("48 hours", "10 days"),
        "select add_retention_policy('market_ticks', interval '30 days')",
    )
    ((count,),) = do(dsn, "select count(*) from market_ticks")
    done = await command(dsn, "--now")
    assert done.returncode == 1
    assert "keeps 30 days" in done.stderr
    assert "past, kept by its policy" in done.stdout
    assert do(dsn, "select count(*) from market_ticks") == [(count,)]


@pytest.mark.fetched
async def test_a_job_that_failed_is_told_with_its_own_words(timescale: Timescale, command: Callable[..., Any]) -> None:
    dsn = emptied(timescale)
    await a_retention(dsn).once()
    ((job,),) = do(dsn, "select job_id from timescaledb_information.jobs where proc_name = 'policy_retention'")
    do(
        dsn,
        "insert into _timescaledb_internal.bgw_job_stat values "
        f"({job}, now(), now(), now(), '-infinity', false, 1, interval '1 s', interval '0', 0, 7, 0, 1, 0)",
        "insert into _timescaledb_internal.bgw_job_stat_history "
        "(job_id, execution_start, execution_finish, succeeded, data) values "
        f"({job}, now(), now(), false, "
        """'{"job": {}, "error_data": {"sqlerrcode": "55P03", "message": "canceling due to lock timeout"}}')""",
    )
    told = json.loads((await command(dsn, "--json")).stdout)["settings"]
    assert (told["policy_last_result"], told["policy_last_success"]) == ("Failed", None)
    assert told["policy_failures"] == 7
    assert str(told["policy_last_failure"]).endswith("UTC: canceling due to lock timeout")
    assert f"{datetime.now(tz=UTC):%Y-%m-%d}" in str(told["policy_last_failure"])


@pytest.mark.fetched
async def test_the_edition_without_compression_is_cleaned_all_the_same(
    apache_database: str, command: Callable[..., Any]
) -> None:
    await fill(apache_database)
    done = await command(apache_database, "--now")
    assert (done.returncode, done.stderr) == (0, "")
    assert "compression: none: not in this edition" in done.stdout
    assert "policy: not in this edition: a running collector drops what is past" in done.stdout
    assert "\ndropped: _hyper_" in done.stdout
    assert seqs_in(apache_database) == [DAY_OLD, EDGE, NEW]
