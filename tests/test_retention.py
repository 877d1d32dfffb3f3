"""Three days are kept, no more and no less; and the table of rejects."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import psycopg
import pytest
import trio

from polygon_live.config import Secret
from polygon_live.embedded import Postgres
from polygon_live.engines.postgres import instant
from polygon_live.engines.postgres import rejects as side_table
from polygon_live.engines.postgres.storage import Kept
from polygon_live.engines.postgres.upkeep import judged
from polygon_live.errors import StoreError, StoreMisconfigured
from polygon_live.model import RAW_LIMIT, Batch, Reject, Tick
from polygon_live.retention import Retention
from polygon_live.room import UNSEEN, free_bytes
from polygon_live.sink import Identity
from polygon_live.sinks.timescale import TimescaleSink
from polygon_live.status import RetentionSnapshot
from tests.waiting import until

pytestmark = pytest.mark.engine

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
"""A full hour: 2023-11-14 22:00 UTC."""


TABLE = """
    create table market_ticks (time timestamptz, symbol text, bid float8, ask float8, timestamp_ms bigint)
    partition by range (time)"""


class Clock:
    """The collector's clock, set by hand."""

    def __init__(self, ms: int = START_MS) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_retention(dsn: str, clock: Clock) -> Retention:
    return Retention(Secret(dsn), "c1", now_ms=clock)


def do(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run these as somebody else; the rows of the last."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            done = connection.execute(statement.encode())
        return done.fetchall() if done.description else []


@pytest.fixture
def table(database: str) -> str:
    """A table with one partition for all times: no hour is made, which is faster."""
    do(database, TABLE, "create table for_ever partition of market_ticks for values from (minvalue) to (maxvalue)")
    return database


def a_tick(seq: int, at_ms: int) -> Tick:
    return Tick("EURUSD", 1.1, 1.2, 1.15, 0.1, at_ms, at_ms, 48, "polygon_websocket", "quote", seq, at_ms)


async def put(dsn: str, clock: Clock, *instants: int, seqs: Iterator[int]) -> None:
    """Ticks of these instants, at ``clock``."""
    ticks = [a_tick(next(seqs), at_ms) for at_ms in instants]
    sink = TimescaleSink(Secret(dsn), Identity("c1", "journal-1", "host-1"), "acme", now_ms=clock)
    await sink.open()
    await sink.write(Batch(ticks[0].seq - 1, ticks, [b"{}"] * len(ticks)))
    await sink.aclose()


def instants_in(dsn: str) -> list[int]:
    return [ms for (ms,) in do(dsn, "select timestamp_ms from market_ticks order by 1")]


def ends_of_partitions(dsn: str) -> list[str]:
    asked = """
        select pg_get_expr(relpartbound, oid) from pg_class
        where relispartition and relkind = 'r' order by relname"""
    return [bound for (bound,) in do(dsn, asked)]


async def test_five_days_hour_by_hour(database: str, clock: Clock) -> None:
    """Nothing younger than 72 h goes, and nothing older than 74 h stays, even if every second run fails."""
    retention = a_retention(database, clock)
    sink = TimescaleSink(Secret(database), Identity("c1", "journal-1", "host-1"), "acme", now_ms=clock)
    await retention.once()
    await sink.open()
    sent: list[int] = []
    with psycopg.connect(database, autocommit=True) as reader:
        for begun in range(START_MS, START_MS + 120 * HOUR_MS, HOUR_MS):
            clock.ms = begun + HOUR_MS - 1
            instants = [begun, begun + 1, begun + HOUR_MS // 2, begun + HOUR_MS - 1]
            ticks = [a_tick(len(sent) + n, at_ms) for n, at_ms in enumerate(instants)]
            await sink.write(Batch(len(sent) - 1, ticks, [b"{}"] * 4))
            sent += instants
            clock.ms = begun + HOUR_MS + 2000
            held = [ms for (ms,) in reader.execute("select timestamp_ms from market_ticks order by 1")]
            assert held[0] >= clock.ms - 74 * HOUR_MS
            assert await retention.once() == 1800
            held = [ms for (ms,) in reader.execute("select timestamp_ms from market_ticks order by 1")]
            assert held[0] >= clock.ms - 73 * HOUR_MS
            young = [ms for ms in sent if ms >= clock.ms - 72 * HOUR_MS]
            assert held[-len(young) :] == young
    await sink.aclose()
    after = retention.snapshot()
    assert after.verified
    assert after.about["dropped"] == 120  # those of the three days before the start among them
    assert after.about["partitions"] == 72 + 24 + 1
    assert "97 partitions, the oldest from 2023-11-16 22:00 UTC, none overdue" in after.detail
    assert after.about["oldest"] == "2023-11-16T22:00:00+00:00"


async def test_after_an_outage_of_days_one_run_mends_everything(database: str, clock: Clock) -> None:
    retention = a_retention(database, clock)
    await retention.once()
    clock.ms += 40 * 24 * HOUR_MS
    await retention.once()
    assert retention.snapshot().about["partitions"] == 97
    assert retention.snapshot().about["dropped"] == 97
    first, last = ends_of_partitions(database)[0], ends_of_partitions(database)[-1]
    assert first == "FOR VALUES FROM ('2023-12-21 22:00:00+00') TO ('2023-12-21 23:00:00+00')"
    assert last == "FOR VALUES FROM ('2023-12-25 22:00:00+00') TO ('2023-12-25 23:00:00+00')"


async def test_a_clock_set_wrong_costs_no_tick(database: str) -> None:
    now = round(datetime.now(tz=UTC).timestamp() * 1000)
    clock = Clock(now)
    retention = a_retention(database, clock)
    await retention.once()
    await put(database, clock, now - 71 * HOUR_MS, now, seqs=iter((1, 2)))
    clock.ms += 30 * 24 * HOUR_MS
    await retention.once()
    assert retention.snapshot().about["dropped"] == 0
    assert instants_in(database) == [now - 71 * HOUR_MS, now]
    ahead = retention.snapshot().about["database_clock_ahead_seconds"]
    assert ahead == pytest.approx(-30 * 24 * 3600, abs=600)


async def test_a_partition_that_somebody_reads_is_overdue_and_dropped_afterwards(database: str, clock: Clock) -> None:
    retention = a_retention(database, clock)
    await put(database, clock, START_MS, seqs=iter((1,)))
    clock.ms += 73 * HOUR_MS
    with psycopg.connect(database) as notebook:
        notebook.execute("select count(*) from market_ticks")
        assert await retention.once() == Retention.AGAIN_SECONDS
        before = retention.snapshot()
        assert not before.verified
        with trio.fail_after(8):  # the server's own limit is 10 s: who writes would wait behind the drop as long
            assert await retention.once() == Retention.AGAIN_SECONDS
        assert "market_ticks_20231114_22 can't be dropped" in before.detail
        assert "pg_stat_activity" in before.detail
        await put(database, clock, clock.ms, seqs=iter((2,)))
    assert await retention.once() == 1802 - clock.ms % 1_800_000 / 1000
    assert retention.snapshot().verified
    assert instants_in(database) == [clock.ms]


async def test_partitions_of_a_day_go_when_the_day_is_past(database: str, clock: Clock) -> None:
    do(
        database,
        TABLE,
        "create table early partition of market_ticks for values from (minvalue) to ('2023-11-13')",
        "create table the_13th partition of market_ticks for values from ('2023-11-13') to ('2023-11-14')",
        "create table the_14th partition of market_ticks for values from ('2023-11-14') to ('2023-11-15')",
    )
    retention = a_retention(database, clock)
    tables = "select name from unnest(array['early', 'the_13th', 'the_14th']) name where to_regclass(name) is not null"
    await retention.once()
    assert do(database, tables) == [("early",), ("the_13th",), ("the_14th",)]
    assert retention.snapshot().about["partitions_over_an_hour"] == 3
    assert retention.snapshot().about["oldest"] is None
    assert "without a beginning" in retention.snapshot().detail
    for date, left in ((16, ["the_13th", "the_14th"]), (17, ["the_14th"]), (18, [])):
        midnight = datetime(2023, 11, date, tzinfo=UTC)
        clock.ms = round(midnight.timestamp() * 1000) - 1
        await retention.once()
        before = do(database, tables)
        clock.ms += 1
        await retention.once()
        assert do(database, tables) == [(name,) for name in left]
        assert len(before) == len(left) + 1
    assert retention.snapshot().about["partitions_over_an_hour"] == 0


async def test_what_was_removed_is_made_again(database: str, clock: Clock) -> None:
    retention = a_retention(database, clock)
    await retention.once()
    do(database, "drop table market_ticks_20231114_23", "drop table tick_rejects")
    await retention.once()
    assert do(database, "select to_regclass('market_ticks_20231114_23') is not null") == [(True,)]
    assert do(database, "select count(*) from tick_rejects") == [(0,)]


async def test_a_detached_partition_that_somebody_keeps_is_in_nobodys_way(database: str, clock: Clock) -> None:
    retention = a_retention(database, clock)
    await retention.once()
    hour = "market_ticks_20231114_23"
    do(database, f"alter table market_ticks detach partition {hour}")
    await retention.once()
    assert retention.snapshot().detail.endswith("none overdue")
    named = f"select relname, relispartition from pg_class where relname in ('{hour}', '{hour}_2') order by 1"
    assert do(database, named) == [(hour, False), (f"{hour}_2", True)]


async def test_a_verification_goes_stale(own_postgres: Callable[..., Postgres], clock: Clock) -> None:
    server = own_postgres(start=False)
    retention = a_retention(server.dsn, clock)
    assert not retention.snapshot().verified
    assert retention.snapshot().detail == "verified never: it has not run yet"
    assert await retention.once() == Retention.AGAIN_SECONDS
    assert "Connection refused" in retention.snapshot().detail
    await trio.to_thread.run_sync(server.start)
    await retention.once()
    assert retention.snapshot().verified
    await trio.to_thread.run_sync(server.stop)
    clock.ms += Retention.GOOD_FOR_MS
    await retention.once()
    assert retention.snapshot().verified, "a server that is restarting is no alarm"
    clock.ms += 1
    assert not retention.snapshot().verified
    assert "last at 2023-11-14 22:00 UTC: " in retention.snapshot().detail


async def test_what_somebody_must_change_is_said(database: str, clock: Clock) -> None:
    do(database, "create table market_ticks (id int)")
    retention = a_retention(database, clock)
    assert await retention.once() == Retention.AGAIN_SECONDS
    assert "public.market_ticks is not partitioned" in retention.snapshot().detail


async def test_it_runs_at_the_half_hours(database: str, clock: Clock) -> None:
    clock.ms += 7 * 60_000
    retention = a_retention(database, clock)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(retention.run)
            while retention.snapshot().about["next_run_ms"] is None:  # noqa: ASYNC110  # a snapshot tells nobody
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert retention.snapshot().about["next_run_ms"] == START_MS + 30 * 60_000 + 2000


# Rejects


def a_reject(n: int, **changes: Any) -> Reject:
    about = {"stage": "validate", "reason": "crossed", "detail": "bid 2 > ask 1", "raw": f'{{"n":{n}}}'}
    return Reject(**{**about, "received_ms": START_MS + n, **changes})


async def test_rejects_are_kept_with_their_evidence(table: str, clock: Clock) -> None:
    retention = a_retention(table, clock)
    with pytest.raises(StoreMisconfigured, match='"tick_rejects" does not exist'):
        await retention.save_rejects([a_reject(1)])
    await retention.once()
    await retention.save_rejects(
        [a_reject(1), a_reject(2, stage="timescale", symbol="EURUSD", seq=1_700_000_000_000_000)]
    )
    asked = "select received_at, stage, reason, detail, raw, symbol, seq, collector from tick_rejects order by id"
    start = datetime(2023, 11, 14, 22, tzinfo=UTC)
    millisecond = timedelta(milliseconds=1)
    assert do(table, asked) == [
        (start + millisecond, "validate", "crossed", "bid 2 > ask 1", '{"n":1}', None, None, "c1"),
        (
            start + 2 * millisecond,
            "timescale",
            "crossed",
            "bid 2 > ask 1",
            '{"n":2}',
            "EURUSD",
            1_700_000_000_000_000,
            "c1",
        ),
    ]


async def test_any_evidence_can_be_kept(table: str, clock: Clock) -> None:
    retention = a_retention(table, clock)
    await retention.once()
    nasty = "a\0b\ud800c€\U0001f4b1'\\;--%s"
    draw = random.Random(5)
    noise = "".join(chr(draw.randrange(0x110000)) for _ in range(3 * RAW_LIMIT))
    await retention.save_rejects([a_reject(1, raw=nasty, detail=nasty, symbol=nasty), a_reject(2, raw=noise)])
    (one, _) = do(table, "select raw, detail, symbol from tick_rejects order by id")
    assert one == ("a\\x00b\\ud800c€\U0001f4b1'\\;--%s",) * 3


async def test_rejects_are_bounded_in_number_and_age(table: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_table, "MOST", 10)
    retention = a_retention(table, clock)
    await retention.once()
    for n in range(0, 30, 5):
        await retention.save_rejects([a_reject(m) for m in range(n, n + 5)])
    rows = do(table, "select raw from tick_rejects order by id")
    assert rows == [(f'{{"n":{n}}}',) for n in range(20, 30)]
    clock.ms += 72 * HOUR_MS + 25
    await retention.once()
    assert do(table, "select count(*) from tick_rejects") == [(5,)]


async def test_rejects_without_a_server_are_a_store_error(own_postgres: Callable[..., Postgres], clock: Clock) -> None:
    with pytest.raises(StoreError, match="Connection refused"):
        await a_retention(own_postgres(start=False).dsn, clock).save_rejects([a_reject(1)])


async def test_the_oldest_row_the_size_and_what_failed_are_in_the_snapshot(database: str, clock: Clock) -> None:
    retention = a_retention(database, clock)
    assert retention.snapshot() == RetentionSnapshot(
        verified=False,
        detail="verified never: it has not run yet",
        about={"last_run_ms": None, "next_run_ms": None, "verified_ms": None},
    )
    await put(database, clock, START_MS + 5000, START_MS + 6000, seqs=iter((1, 2)))
    assert await retention.once() == 1802
    good = retention.snapshot()
    assert (good.last_run_ms, good.failures, good.last_failure, good.failing) == (START_MS, 0, None, False)
    assert good.oldest_row_ms == START_MS + 5000
    sizes = "select sum(pg_total_relation_size(inhrelid)) from pg_inherits where inhparent = 'market_ticks'::regclass"
    assert do(database, sizes) == [(good.table_bytes,)]
    do(database, "alter table market_ticks rename column bid to bit")
    clock.ms += HOUR_MS
    await retention.once()
    bad = retention.snapshot()
    assert (bad.verified, bad.failing, bad.failures, bad.last_failure_ms) == (True, True, 1, clock.ms)
    assert bad.last_failure is not None
    assert "bid" in bad.last_failure
    do(database, "alter table market_ticks rename column bit to bid")
    await retention.once()
    mended = retention.snapshot()
    assert (mended.failing, mended.failures, mended.last_failure) == (False, 1, bad.last_failure)


async def test_rows_that_are_too_old_whatever_their_partition_says_are_told(database: str, clock: Clock) -> None:
    """A partition of a day keeps its first ticks longer, and that is said, and why."""
    do(database, TABLE, "create table a_day partition of market_ticks for values from ('2023-11-14') to ('2023-11-15')")
    await put(database, clock, START_MS - 10 * HOUR_MS, seqs=iter((1,)))
    retention = a_retention(database, clock)
    await retention.once()
    assert retention.snapshot().detail.endswith("none overdue")
    clock.ms += 70 * HOUR_MS
    await retention.once()
    after = retention.snapshot()
    assert after.verified
    assert after.detail.endswith("1 partitions of more than an hour keep their first ticks for longer than three days")


def test_a_row_that_should_be_gone_is_no_matter_of_opinion() -> None:
    edge = instant(START_MS)
    kept = Kept("chunks", (), (), 1, 0, edge, edge - timedelta(hours=2), 8192)
    assert judged(kept, edge) == kept
    wrong = judged(attrs.evolve(kept, oldest_row=edge - timedelta(hours=2, seconds=1)), edge).wrong
    assert wrong is not None
    assert wrong.startswith("the oldest row is of 2023-11-14 19:59 UTC, which is over 74 h ago")


async def test_the_disk_of_a_server_that_runs_here_is_watched(database: str, postgres: Postgres, clock: Clock) -> None:
    retention = a_retention(database, clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(retention.run)
        await until(lambda: retention.snapshot().room.free_bytes is not None)
        nursery.cancel_scope.cancel()
    free = retention.snapshot().room.free_bytes
    assert free == pytest.approx(free_bytes(postgres.data), rel=0.2)


async def test_a_role_that_may_not_know_where_the_files_are_sees_no_disk(database: str, clock: Clock) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    do(
        database,
        f"create role {name}_role login",
        f"grant all on schema public to {name}_role",
    )
    try:
        retention = a_retention(psycopg.conninfo.make_conninfo(database, user=f"{name}_role"), clock)
        await retention.once()
        with trio.move_on_after(0):
            await retention.watch_room()
        assert retention.snapshot().verified
        assert retention.snapshot().room == UNSEEN
        do(database, f"grant pg_read_all_settings to {name}_role")
        await retention.once()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(retention.watch_room)
            await until(lambda: retention.snapshot().room.free_bytes)
            nursery.cancel_scope.cancel()
    finally:
        do(database, f"drop owned by {name}_role cascade", f"drop role {name}_role")
