"""Blocks of a replay put into tables of every kind: adopted, without a unique index, refusing, compressed."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
import trio

from polygon_live import replay
from polygon_live.config import Secret
from polygon_live.engines.kafka import Archived
from polygon_live.engines.postgres import Put
from polygon_live.errors import RowsRefused, StoreMisconfigured
from polygon_live.model import Tick, encode
from polygon_live.replay import Choice, Chosen, Table, Tally, into_table
from polygon_live.sink import Identity
from polygon_live.sinks.timescale import TimescaleSink
from tests.hypertables import HOUR_MS, PLATFORM, a_tick, as_batch, do, run_policy, seqs_in, wall_ms
from tests.replaying import at, rows_of
from tests.test_replay import Records
from tests.test_timescale import from_csv
from tests.waiting import until

pytestmark = pytest.mark.engine
EVERYTHING = Choice(0, 10**15)
REFUSE = """
    create function refuse() returns trigger language plpgsql as $$
    begin if {when} then {what}; end if; return new; end $$"""
ON_INSERT = "create trigger refuse before insert on market_ticks for each row execute function refuse()"
WAITING = """
    select count(*) from pg_locks
    where not granted and locktype = 'advisory' and database = (
        select oid from pg_database where datname = current_database())"""
HELD = "select 1 from pg_locks where granted and mode = 'ShareLock' and relation = 'tick_cursors'::regclass"


@asynccontextmanager
async def a_table(dsn: str, now_ms: Callable[[], int] = wall_ms, *, rehearsal: bool = False) -> AsyncIterator[Table]:
    table = Table(Secret(dsn), "acme", now_ms=now_ms, rehearsal=rehearsal)
    try:
        yield table
    finally:
        table.close()


def chosen(*ticks: Tick, collector: str = "c1") -> list[Chosen]:
    return [Chosen(collector, tick, encode(tick)) for tick in ticks]


async def put(dsn: str, *ticks: Tick, rehearsal: bool = False) -> Put:
    async with a_table(dsn, rehearsal=rehearsal) as table:
        return await table.put(chosen(*ticks))


async def sink_wrote(dsn: str, *ticks: Tick, collector: str = "c1") -> None:
    """None: it has claimed its cursor, and that is all."""
    sink = TimescaleSink(Secret(dsn), Identity(collector, "j", "test"), "acme", now_ms=wall_ms)
    await sink.open()
    if ticks:
        await sink.write(as_batch(*ticks))
    await sink.aclose()


def adopted(dsn: str) -> str:
    """The platform's own table, natively partitioned."""
    do(dsn, PLATFORM + " partition by range (time)")
    return dsn


async def without_index(dsn: str) -> str:
    await sink_wrote(adopted(dsn), collector="other")
    ((name,),) = do(
        dsn, "select indexname from pg_indexes where tablename = 'market_ticks' and indexdef like '%, seq)'"
    )
    do(dsn, f"drop index {name}")
    return dsn


async def test_an_adopted_table_gets_what_the_sink_would_write(database: str, real_ticks: tuple[Path, ...]) -> None:
    adopted(database)
    now = wall_ms()
    read = from_csv(real_ticks[0], range(1, 2001))[:900]
    ticks = [at(tick, tick.timestamp_ms + now - 1000 - read[-1].timestamp_ms) for tick in read]
    await sink_wrote(database, *ticks)
    before = rows_of(database)
    do(database, "delete from market_ticks where seq % 3 = 0")
    assert await put(database, *ticks) == Put(written=300, there=600)
    assert rows_of(database) == before


async def test_without_a_unique_index_nothing_is_doubled(database: str) -> None:
    now = wall_ms()
    await without_index(database)
    first, second = [a_tick(n, now + n) for n in range(1, 1001)], [a_tick(n, now + n) for n in range(501, 1501)]
    assert await put(database, *first, first[0]) == Put(written=1000, there=1)
    assert await put(database, *second) == Put(written=500, there=500)
    assert seqs_in(database) == list(range(1, 1501))


@pytest.mark.parametrize("keyed", [True, False])
async def test_two_replays_at_once_double_nothing(database: str, keyed: bool) -> None:
    """The first is held in the middle of its block until the second waits too."""
    if keyed:
        await sink_wrote(adopted(database), collector="other")
    else:
        await without_index(database)
    do(database, REFUSE.format(when="true", what="perform pg_advisory_xact_lock_shared(42)"), ON_INSERT)
    ticks = [a_tick(n, wall_ms() + n) for n in range(100)]
    puts: list[Put] = []

    async def one(*some: Tick) -> None:
        puts.append(await put(database, *some))

    with psycopg.connect(database, autocommit=True) as holder:
        holder.execute("select pg_advisory_lock(42)")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, *ticks)
            await until(lambda: do(database, WAITING) == [(1,)])
            nursery.start_soon(one, *ticks[::-1])
            await until(lambda: do(database, WAITING) == [(2,)])
            holder.execute("select pg_advisory_unlock(42)")
    assert puts == [Put(written=100), Put(there=100)]
    assert seqs_in(database) == list(range(100))


async def test_what_is_above_a_cursor_is_left_out(database: str) -> None:
    now = wall_ms()
    ticks = [a_tick(n, now + n) for n in range(1, 11)]
    await sink_wrote(database, *ticks[:4])
    do(database, "delete from market_ticks where seq = 2")
    assert await put(database, *ticks, rehearsal=True) == Put(written=1, there=3, above=6)
    assert await put(database, *ticks) == Put(written=1, there=3, above=6)
    assert seqs_in(database) == [1, 2, 3, 4]


async def test_a_collector_that_has_written_nothing_yet_brings_all_of_it(database: str) -> None:
    await sink_wrote(database)
    assert await put(database, a_tick(1, wall_ms())) == Put(above=1)


async def test_a_collector_can_not_begin_while_its_ticks_are_replayed(database: str) -> None:
    """Else both could bring the same tick."""
    async with a_table(database) as table:
        await table.put(chosen(a_tick(1, wall_ms())))
        do(database, REFUSE.format(when="true", what="perform pg_sleep(2)"), ON_INSERT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(table.put, chosen(a_tick(2, wall_ms())))
            await until(lambda: do(database, HELD))
            await sink_wrote(database)
            assert seqs_in(database) == [1, 2]


async def test_older_than_the_table_keeps_is_told_and_not_written(database: str) -> None:
    now = wall_ms()
    old, kept = a_tick(1, now - 72 * HOUR_MS - 1), a_tick(2, now - 72 * HOUR_MS)
    async with a_table(database, lambda: now) as table:
        assert await table.put(chosen(old, kept)) == Put(written=1, expired=1)
        assert await table.put(chosen(old)) == Put(expired=1)
    assert seqs_in(database) == [2]


async def test_a_partition_that_was_dropped_meanwhile_is_made_again(database: str) -> None:
    now = wall_ms()
    async with a_table(database) as table:
        await table.put(chosen(a_tick(1, now)))
        ((name,),) = do(database, "select tableoid::regclass::text from market_ticks")
        do(database, f"drop table {name}")
        assert await table.put(chosen(a_tick(1, now), a_tick(2, now + 50 * HOUR_MS))) == Put(written=2)
    assert seqs_in(database) == [1, 2]


async def run(dsn: str, *ticks: Tick) -> Tally:
    tally = Tally()
    archive = Records([[Archived(None, encode(t), t.timestamp_ms, "c1", t.seq) for t in ticks]])
    async with a_table(dsn) as table:
        await into_table(archive, EVERYTHING, table, tally, lambda *_: None, lambda _: None)
    return tally


async def test_a_tick_that_the_table_refuses_is_found_and_the_others_are_written(database: str) -> None:
    now = wall_ms()
    await sink_wrote(database, collector="other")
    do(database, REFUSE.format(when="new.seq % 40 = 7", what="raise 'unlucky'"), ON_INSERT)
    tally = await run(database, *(a_tick(n, now + n) for n in range(100)))
    assert (tally.written, tally.refused) == (97, 3)
    assert "EURUSD, seq 7: unlucky" in str(tally.refusal)
    assert seqs_in(database) == [n for n in range(100) if n % 40 != 7]


async def test_a_table_that_refuses_everything_ends_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await sink_wrote(database, collector="other")
    do(database, REFUSE.format(when="true", what="raise 'closed'"), ON_INSERT)
    monkeypatch.setattr(replay, "MOST_REFUSED", 5)
    with pytest.raises(StoreMisconfigured, match=r"refused 5 ticks, the first EURUSD, seq 0: closed"):
        await run(database, *(a_tick(n, wall_ms()) for n in range(20)))


async def test_a_table_that_says_nothing_of_what_it_leaves_out_is_named(database: str) -> None:
    await sink_wrote(database, collector="other")
    do(database, REFUSE.format(when="new.seq = 3", what="return null"), ON_INSERT)
    with pytest.raises(StoreMisconfigured, match=r"took 9 of 10 ticks and says nothing of the others: a trigger"):
        await put(database, *(a_tick(n, wall_ms()) for n in range(10)))
    assert seqs_in(database) == []


async def test_after_a_refusal_the_connection_is_good(database: str) -> None:
    now = wall_ms()
    await sink_wrote(database, collector="other")
    do(database, "alter table market_ticks add constraint sane check (bid < 100)")
    async with a_table(database) as table:
        with pytest.raises(RowsRefused, match='violates check constraint "sane"'):
            await table.put(chosen(a_tick(1, now), a_tick(2, now, bid=200.0)))
        assert await table.put(chosen(a_tick(1, now))) == Put(written=1)


@pytest.mark.fetched
async def test_compressed_chunks_of_any_size_are_compared_and_completed(hyper_database: str) -> None:
    """TimescaleDB refuses to unpack more than 100,000 rows in one transaction; here it need not."""
    at = wall_ms() // HOUR_MS * HOUR_MS - 30 * HOUR_MS
    ticks = [a_tick(n, at + n // 8) for n in range(150_000)]
    async with a_table(hyper_database) as table:
        for n in range(0, len(ticks), 20_000):
            await table.put(chosen(*(t for t in ticks[n : n + 20_000] if t.seq % 5)))
        run_policy(hyper_database, "policy_compression")
        for n in range(0, len(ticks), 20_000):
            part = ticks[n : n + 20_000]
            assert await table.put(chosen(*part)) == Put(written=len(part) // 5, there=len(part) * 4 // 5)
    assert do(hyper_database, "select count(*), count(distinct seq) from market_ticks") == [(150_000, 150_000)]
