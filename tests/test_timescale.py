"""The table as a sink, on real servers: every value, what is held, and what each fault costs."""

import contextlib
import csv
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import trio
from structlog.testing import capture_logs

from polygon_live.config import Secret
from polygon_live.embedded import Postgres
from polygon_live.errors import ConfigurationError, RowsRefused, StoreError, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch, Tick, canonical_symbol
from polygon_live.sink import Identity, Opened, Written
from polygon_live.sinks.timescale import TimescaleSink
from tests.reading import in_database
from tests.servers import servers
from tests.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.engine

NOW_MS = 1_700_000_123_456
"""The collector's clock in tests that need no other: 22:15:23 UTC."""
HOUR_MS = 3_600_000
KEPT_MS = 72 * HOUR_MS

EXAMPLE_4 = """
-- Check recent ticks
SELECT
    symbol,
    COUNT(*) as tick_count,
    MIN(timestamp_ms) as oldest_tick,
    MAX(timestamp_ms) as newest_tick
FROM market_ticks
WHERE timestamp_ms > (EXTRACT(EPOCH FROM NOW()) * 1000 - 3600000)  -- Last hour
GROUP BY symbol
ORDER BY tick_count DESC;
"""


class Impatient(TimescaleSink):
    """So that a server that does not answer is given up soon."""

    WRITE_SECONDS = 1.0


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def a_tick(seq: int, at_ms: int = NOW_MS, **changes: Any) -> Tick:
    quote = Tick(
        "EURUSD", 1.1212, 1.1213, 1.12125, 0.0001, at_ms, at_ms, 48, "polygon_websocket", "quote", seq, at_ms + 17
    )
    return msgspec.structs.replace(quote, **changes)


def as_batch(ticks: Iterable[Tick]) -> Batch:
    held = list(ticks)
    return Batch(held[0].seq - 1, held, [b"{}"] * len(held))


def a_batch(*seqs: int, at_ms: int = NOW_MS) -> Batch:
    return as_batch(a_tick(seq, at_ms) for seq in seqs)


def a_sink(
    dsn: str, now_ms: Callable[[], int] = lambda: NOW_MS, kind: type[TimescaleSink] = TimescaleSink
) -> TimescaleSink:
    return kind(Secret(dsn), Identity("c1", "journal-1", "host-1"), "acme", now_ms=now_ms)


@contextlib.asynccontextmanager
async def opened(dsn: str, now_ms: Callable[[], int] = lambda: NOW_MS) -> AsyncIterator[TimescaleSink]:
    sink = a_sink(dsn, now_ms)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


async def halved(sink: TimescaleSink, batch: Batch) -> dict[int, str]:
    """Write what can be written, in order; why each of the others can't, by ``seq``."""
    try:
        await sink.write(batch)
    except RowsRefused as why:
        if len(batch) == 1:
            return {batch.first: str(why)}
        left, right = batch.halves()
        return {**await halved(sink, left), **await halved(sink, right)}
    return {}


def do(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run these as somebody else; the rows of the last."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            done = connection.execute(statement.encode())
        return done.fetchall() if done.description else []


def make_table(dsn: str) -> str:
    """A table with one partition for all times: no hour is made, which is faster."""
    do(
        dsn,
        "create table market_ticks (time timestamptz, symbol text, bid float8, ask float8, timestamp_ms bigint) "
        "partition by range (time)",
        "create table for_ever partition of market_ticks for values from (minvalue) to (maxvalue)",
    )
    return dsn


@pytest.fixture
def table(database: str) -> str:
    return make_table(database)


def seqs_in(dsn: str) -> list[int]:
    return [row["seq"] for row in in_database(dsn)]


def cursor_in(dsn: str) -> int | None:
    """Where the collector's cursor is."""
    ((seq,),) = do(dsn, "select seq from tick_cursors where collector = 'c1'")
    return None if seq is None else int(seq)


def from_csv(path: Path, seqs: Iterable[int]) -> list[Tick]:
    with path.open() as lines:
        rows = list(csv.DictReader(lines))
    return [
        Tick(
            symbol=canonical_symbol(row["pair"]),
            bid=float(row["bid"]),
            ask=float(row["ask"]),
            mid=round((float(row["bid"]) + float(row["ask"])) / 2, 9),
            spread=round(float(row["ask"]) - float(row["bid"]), 9),
            timestamp_ms=int(row["timestamp_ms"]),
            timestamp=int(row["timestamp_ms"]),
            exchange=None if seq % 5 == 0 else seq % 300,
            source="polygon_websocket",
            event_type="quote",
            seq=seq,
            received_ms=int(row["timestamp_ms"]) + seq % 1000,
            late=seq % 7 == 0,
            suspect=seq % 11 == 0,
        )
        for seq, row in zip(seqs, rows, strict=False)
    ]


def at(unix_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)


def as_row(tick: Tick) -> dict[str, Any]:
    row = {name: getattr(tick, name) for name in tick.__struct_fields__ if name != "timestamp"}
    return {
        **row,
        "time": at(tick.timestamp_ms),
        "ingested_at": at(tick.received_ms),
        "collector": "c1",
        "tenant_id": "acme",
    }


# Writing


async def test_every_value_of_real_ticks_arrives_as_it_is(database: str, real_ticks: tuple[Path, ...]) -> None:
    seqs = count(1_700_000_000_000_000)
    sent: list[Tick] = []
    for path in real_ticks:
        ticks = from_csv(path, seqs)
        newest = ticks[-1].timestamp_ms
        async with opened(database, lambda newest=newest: newest) as sink:  # type: ignore[misc]
            for n in range(0, len(ticks), 4000):
                part = ticks[n : n + 4000]
                assert await sink.write(as_batch(part)) == Written(len(part))
        sent += ticks
    assert len(sent) > 5000
    assert in_database(database) == [as_row(tick) for tick in sorted(sent, key=lambda tick: tick.seq)]


async def test_doubles_are_kept_to_the_last_bit(table: str) -> None:
    draw = random.Random(3)
    prices = [5e-324, 0.1 + 0.2, 1.7976931348623157e308, *(draw.uniform(0, 4000) for _ in range(200))]
    async with opened(table) as sink:
        await sink.write(as_batch(a_tick(n, bid=price, ask=price) for n, price in enumerate(prices)))
    assert [(row["bid"], row["ask"]) for row in in_database(table)] == [(price, price) for price in prices]


async def test_example_4_of_the_description_runs_as_written(database: str) -> None:
    now = wall_ms()
    ticks = [a_tick(n, now - 1000 + n) for n in range(5)]
    ticks += [a_tick(10 + n, now - 500 + n, symbol="XAUUSD") for n in range(3)]
    ticks += [a_tick(20, now - 2 * HOUR_MS)]
    async with opened(database, wall_ms) as sink:
        await sink.write(as_batch(ticks))
    assert do(database, EXAMPLE_4) == [("EURUSD", 5, now - 1000, now - 996), ("XAUUSD", 3, now - 500, now - 498)]


async def test_older_ticks_than_the_table_keeps_are_passed_over(database: str) -> None:
    async with opened(database) as sink:
        old, kept = a_tick(1, NOW_MS - KEPT_MS - 1), a_tick(2, NOW_MS - KEPT_MS)
        assert await sink.write(as_batch([old, kept, a_tick(3)])) == Written(2, expired=1)
        assert await sink.write(as_batch([msgspec.structs.replace(old, seq=4)])) == Written(0, expired=1)
        assert await sink.open() == Opened(4)
    assert seqs_in(database) == [2, 3]


async def test_a_clock_set_forward_passes_nothing_over(database: str) -> None:
    """What is too old is so by the database's clock, too: what waited while it was away is not lost to the table."""
    days, now = 4 * 24 * HOUR_MS, wall_ms()
    async with opened(database, lambda: now + days) as sink:
        waited, old = a_tick(2, now - HOUR_MS // 2), a_tick(1, now - KEPT_MS - days)
        assert await sink.write(as_batch([old, waited, a_tick(3, now + days)])) == Written(2, expired=1)
    assert seqs_in(database) == [2, 3]


async def test_an_hour_without_partition_gets_one_and_the_tick_is_delivered(database: str) -> None:
    async with opened(database) as sink:
        do(database, "drop table market_ticks_20231114_22, market_ticks_20231114_20")
        ticks = [a_tick(1, NOW_MS - 2 * HOUR_MS), a_tick(2, NOW_MS - HOUR_MS), a_tick(3)]
        assert await sink.write(as_batch(ticks)) == Written(3)
        assert await sink.write(a_batch(4, at_ms=NOW_MS + 30 * HOUR_MS)) == Written(1)
    rows = do(database, "select seq, tableoid::regclass::text from market_ticks order by seq")
    assert rows == [
        (1, "market_ticks_20231114_20"),
        (2, "market_ticks_20231114_21"),
        (3, "market_ticks_20231114_22"),
        (4, "market_ticks_20231116_04"),
    ]


async def test_a_trigger_that_swallows_ticks_is_told(table: str) -> None:
    async with opened(table) as sink:
        do(
            table,
            "create function swallow() returns trigger language plpgsql as 'begin return null; end'",
            "create trigger swallow before insert on market_ticks for each row when (new.seq = 2) "
            "execute function swallow()",
        )
        with pytest.raises(StoreMisconfigured, match=r"took 2 of 3 ticks.*trigger"):
            await sink.write(a_batch(1, 2, 3))
    assert seqs_in(table) == []


async def test_a_table_dropped_under_an_open_connection_is_made_again(database: str) -> None:
    sink = a_sink(database)
    await sink.open()
    do(database, "drop table market_ticks")
    with pytest.raises(StoreMisconfigured, match=r'relation "public\.market_ticks" does not exist'):
        await sink.write(a_batch(1))
    await sink.open()
    await sink.write(a_batch(1))
    await sink.aclose()
    assert seqs_in(database) == [1]


# What is there already


async def test_ticks_above_the_cursor_that_are_there_are_not_doubled(table: str) -> None:
    async with opened(table) as sink:
        await sink.write(a_batch(1, 2, 3, 4, 5, 6))
    do(table, "delete from market_ticks where seq in (1, 4)", "update tick_cursors set seq = 1")
    sink = a_sink(table)
    assert await sink.open() == Opened(1)
    assert await sink.write(a_batch(2, 3)) == Written(2)
    assert await sink.write(a_batch(4, 5, 6, 7)) == Written(4)
    await sink.aclose()
    assert seqs_in(table) == [2, 3, 4, 5, 6, 7]
    assert cursor_in(table) == 7


async def test_ticks_that_are_there_may_lie_in_hours_that_are_not(database: str) -> None:
    """What is there is found, then the hour is made, and both in one write."""
    async with opened(database) as sink:
        await sink.write(a_batch(1, 2))
        do(database, "update tick_cursors set seq = 0", "drop table market_ticks_20231114_20")
    async with opened(database) as sink:
        ticks = [a_tick(1), a_tick(2), a_tick(3, NOW_MS - 2 * HOUR_MS)]
        assert await sink.write(as_batch(ticks)) == Written(3)
    assert seqs_in(database) == [1, 2, 3]


async def test_other_collectors_ticks_are_not_ours(table: str) -> None:
    other = TimescaleSink(Secret(table), Identity("c2", "journal-2", "host-1"), "acme", now_ms=lambda: NOW_MS)
    async with opened(table) as sink:
        await sink.write(a_batch(1, 2))
        assert await other.open() == Opened(None)
        await other.write(a_batch(1, 2))
        assert len(await other.held_after(0)) == 2
        await other.aclose()
    assert seqs_in(table) == [1, 1, 2, 2]


# Rows that the engine refuses


async def test_a_refused_value_is_said_in_the_engines_words(table: str) -> None:
    refusals: Sequence[tuple[str, dict[str, Any], str]] = [
        ("add constraint sane check (bid < ask * 2)", {"bid": 7.0}, 'violates check constraint "sane"'),
        ("alter column symbol type varchar(6)", {"symbol": "EURUSDX"}, "value too long for type character varying"),
        ("alter column mid type numeric(8,5)", {"mid": 1234.5}, "numeric field overflow"),
        ("alter column exchange type smallint", {"exchange": 2**15}, "32768 does not fit .* 16 bits"),
        ("alter column exchange type integer", {"exchange": -(2**31) - 1}, "does not fit .* 32 bits"),
        ("alter column exchange type bigint", {"exchange": 2**63}, "a value can't be sent"),
        ("alter column symbol type text", {"symbol": "EUR\0USD"}, "invalid byte sequence .* 0x00"),
        ("alter column symbol type text", {"symbol": "EUR\ud800"}, "a value can't be sent"),
    ]
    async with opened(table):
        pass
    for n, (change, bad, says) in enumerate(refusals):
        do(table, f"alter table market_ticks {change}")
        async with opened(table) as sink:
            with pytest.raises(RowsRefused, match=says):
                await sink.write(as_batch([a_tick(100), a_tick(101, **bad), a_tick(102)]))
            await sink.write(a_batch(n))  # the connection is good
    assert seqs_in(table) == list(range(len(refusals)))


async def test_of_a_poisoned_batch_only_that_tick_is_refused(table: str) -> None:
    async with opened(table) as sink:
        do(table, "alter table market_ticks add constraint sane check (bid < 100)")
        refused = await halved(sink, as_batch(a_tick(n, bid=200.0 if n == 613 else 1.0) for n in range(1000)))
        assert list(refused) == [613]
        assert 'violates check constraint "sane"' in refused[613]
        await sink.write(a_batch(1000, 1001))
    assert seqs_in(table) == [n for n in range(1002) if n != 613]


async def test_a_trigger_may_refuse_a_single_tick(table: str) -> None:
    async with opened(table) as sink:
        refuse = "if new.seq = 5 then raise 'not this one'; end if; return new"
        do(table, f"create function refuse() returns trigger language plpgsql as $$ begin {refuse}; end $$")
        do(table, "create trigger refuse before insert on market_ticks for each row execute function refuse()")
        refused = await halved(sink, a_batch(*range(10)))
        assert list(refused) == [5]
        assert "not this one" in refused[5]
    assert seqs_in(table) == [n for n in range(10) if n != 5]


async def test_a_refused_batch_leaves_the_cursor_where_it_was(table: str) -> None:
    async with opened(table) as sink:
        await sink.write(a_batch(1))
        do(table, "alter table market_ticks add constraint sane check (bid < 100)")
        with pytest.raises(RowsRefused):
            await sink.write(as_batch([a_tick(2), a_tick(3, bid=200.0)]))
        assert cursor_in(table) == 1
        await sink.check()
    assert seqs_in(table) == [1]


async def test_a_key_is_never_a_reason_to_set_ticks_aside(table: str) -> None:
    async with opened(table) as sink:
        do(table, "create unique index too_narrow on market_ticks (symbol, time)")
        with pytest.raises(StoreMisconfigured, match=r"duplicate key .* drop it"):
            await sink.write(a_batch(1, 2))
        with pytest.raises(StoreMisconfigured, match=r"too_narrow \(symbol, time\)"):
            await sink.open()
    assert seqs_in(table) == []


async def test_a_column_made_mandatory_is_never_a_reason_to_set_ticks_aside(table: str) -> None:
    async with opened(table) as sink:
        do(table, "alter table market_ticks add column venue text not null")
        with pytest.raises(StoreMisconfigured, match='null value in column "venue"'):
            await sink.write(a_batch(1))
        with pytest.raises(StoreMisconfigured, match=r"column venue of public\.market_ticks is NOT NULL"):
            await sink.open()


# Faults


BACKENDS = "select pid from pg_stat_activity where application_name = 'polygon-live/c1'"


class Flow:
    """Batches without end into a sink, as fast as it takes them: from where its cursor is, whenever it is opened."""

    def __init__(self, sink: TimescaleSink) -> None:
        self.sink = sink
        self.sent = 0
        """Ticks that were given to the sink, at least once."""
        self.delivered = 0
        self.errors: list[StoreError] = []
        self._ending = False

    async def run(self) -> None:
        """Until ``end``, and everything that was sent is there."""
        try:
            while not self._ending or self.delivered < self.sent:
                try:
                    await self._carry()
                except StoreError as why:
                    self.errors.append(why)
                    await trio.sleep(0.05)
        finally:
            with trio.CancelScope(shield=True):
                await self.sink.aclose()

    async def _carry(self) -> None:
        cursor = (await self.sink.open()).cursor
        held = 0 if cursor is None else cursor + 1
        assert held in {self.delivered, self.sent}, "part of a batch, or less than was answered"
        self.delivered = held
        while not self._ending or self.delivered < self.sent:
            self.sent = max(self.sent, self.delivered + 250)
            await self.sink.write(a_batch(*range(self.delivered, self.sent)))
            self.delivered = self.sent

    def end(self) -> None:
        self._ending = True

    async def goes_on(self) -> None:
        """Wait until ticks that were not delivered yet have been."""
        wanted = self.delivered + 1000
        await until(lambda: self.delivered >= wanted)

    async def fails(self) -> StoreError:
        """Wait for the next error."""
        before = len(self.errors)
        await until(lambda: len(self.errors) > before)
        return self.errors[-1]


@contextlib.asynccontextmanager
async def flowing(dsn: str, kind: type[TimescaleSink] = TimescaleSink, *, by: str | None = None) -> AsyncIterator[Flow]:
    """Ticks stream into the table during the block; after it each is there, once. ``by``: the address that the
    collector has of it, if it is another.
    """
    flow = Flow(a_sink(by or dsn, kind=kind))
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flow.run)
            await flow.goes_on()
            yield flow
            flow.end()
    seqs = [seq for (seq,) in do(dsn, "select seq from market_ticks order by seq")]
    assert all(later == seq + 1 for seq, later in pairwise(seqs)), "ticks are lost or doubled"
    assert (seqs[0], len(seqs)) == (0, flow.sent)
    assert cursor_in(dsn) == flow.sent - 1


async def test_a_server_killed_in_the_middle_of_writing_costs_nothing(own_postgres: Callable[..., Postgres]) -> None:
    server = own_postgres()
    make_table(server.dsn)
    async with flowing(server.dsn) as flow:
        for _ in range(3):
            await trio.to_thread.run_sync(server.kill)
            await flow.fails()
            await trio.to_thread.run_sync(server.start)
            await flow.goes_on()


async def test_a_terminated_backend_costs_nothing(table: str) -> None:
    terminate = f"select pg_terminate_backend(pid, 5000) from ({BACKENDS}) as ours"
    async with flowing(table) as flow:
        for n in range(6):
            await trio.to_thread.run_sync(do, table, terminate)
            await until(lambda n=n: len(flow.errors) > n)  # type: ignore[misc]
            await flow.goes_on()


async def test_a_stopped_server_is_given_up_in_time_and_costs_nothing(own_postgres: Callable[..., Postgres]) -> None:
    server = own_postgres()
    make_table(server.dsn)
    async with flowing(server.dsn, Impatient) as flow:
        await trio.to_thread.run_sync(server.pause)
        assert "took more than 1 s" in str(await flow.fails())
        await trio.to_thread.run_sync(server.resume)
        await flow.goes_on()


async def test_letting_go_of_a_stopped_server_does_not_wait(own_postgres: Callable[..., Postgres]) -> None:
    server = own_postgres()
    make_table(server.dsn)
    sink = a_sink(server.dsn)
    await sink.open()
    await trio.to_thread.run_sync(server.pause)
    with trio.fail_after(sink.WRITE_SECONDS / 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_unavailable, sink)
            await trio.testing.wait_all_tasks_blocked()
            await sink.aclose()  # in the middle of the write, as no pump does
    await sink.aclose()


async def expect_unavailable(sink: TimescaleSink) -> None:
    with pytest.raises(StoreUnavailable):
        await sink.write(a_batch(1))


async def test_the_next_connection_ends_what_the_last_one_left(table: str) -> None:
    sink = a_sink(table, kind=Impatient)
    await sink.open()
    with psycopg.connect(table) as reader:
        reader.execute("lock table market_ticks in share mode")
        with pytest.raises(StoreUnavailable, match="took more than 1 s to write a batch"):
            await sink.write(a_batch(1, 2))
        ((zombie,),) = do(table, BACKENDS)  # it would commit as soon as the lock is gone
        await sink.open()
        ((successor,),) = do(table, BACKENDS)
        assert successor != zombie
        assert sink.facts().about["lost_connections_ended"] == 1
    await sink.write(a_batch(1, 2))
    await sink.aclose()
    assert seqs_in(table) == [1, 2]


async def test_unreachable_at_start(own_postgres: Callable[..., Postgres]) -> None:
    server = own_postgres(start=False)
    sink = a_sink(server.dsn)
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        await sink.open()
    with pytest.raises(StoreUnavailable, match="not open"):
        await sink.write(a_batch(1))
    await trio.to_thread.run_sync(server.start)
    await sink.open()
    await sink.write(a_batch(1, 2))
    await sink.aclose()
    assert seqs_in(server.dsn) == [1, 2]


@pytest.mark.parametrize("whose", ["database", "role"])
async def test_who_may_only_read_is_told_how_to_write_again(database: str, whose: str) -> None:
    name = database.rpartition("/")[2]
    dsn, subject = database, f"database {name}"
    do(database, f"create role reader_{name} login", f"grant all on schema public to reader_{name}")
    if whose == "role":
        dsn, subject = database.replace("postgres@", f"reader_{name}@"), f"role reader_{name}"
    try:
        async with opened(dsn) as sink:
            await sink.write(a_batch(1))
            do(database, f"alter {subject} set default_transaction_read_only = on")
            says = rf"read-only transaction: .*alter {whose} .*name the primary in POLYGON_LIVE_TIMESCALE_DSN"
            with pytest.raises(StoreUnavailable, match=says):
                await sink.open()
            with psycopg.connect(database, options="-c default_transaction_read_only=off") as admin:
                admin.execute(f"alter {subject} set default_transaction_read_only = off".encode())
            assert await sink.open() == Opened(1)
    finally:
        do(database, f"drop owned by reader_{name}", f"drop role reader_{name}")


# Secrets


def everything_said(error: BaseException) -> str:
    said = f"{error} {error!r} {error.args!r}"
    return said + "".join(everything_said(e) for e in (error.__cause__, error.__context__) if e is not None)


PASSWORD = "s3same:open/now@x"


def unsynced(folder: Path) -> Postgres:
    return Postgres(folder, fsync=False)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Postgres]:
    """A server that asks for a password: role ``writer``."""
    with servers(unsynced, tmp_path_factory.mktemp("guarded")) as make:
        server = make()
        do(server.dsn, f"create role writer login password '{PASSWORD}'", "create database ticks owner writer")
        rules = server.data / "pg_hba.conf"
        rules.write_text("host all writer all scram-sha-256\n" + rules.read_text())
        do(server.dsn, "select pg_reload_conf()")
        yield server


def addresses(server: Postgres, user: str, password: str, database: str) -> Sequence[str]:
    escaped = password.replace(":", "%3A").replace("/", "%2F").replace("@", "%40")
    return (
        f"postgresql://{user}:{escaped}@127.0.0.1:{server.port}/{database}",
        f"host=127.0.0.1 port={server.port} user={user} password='{password}' dbname={database}",
    )


@pytest.mark.parametrize("form", [0, 1], ids=["uri", "key=value"])
@pytest.mark.parametrize(
    ("user", "password", "name", "says"),
    [
        ("writer", "wr0ng:/@s3same", "ticks", 'password authentication failed for user "writer"'),
        ("writer", PASSWORD, "nowhere", 'database "nowhere" does not exist'),
        ("nobody_here", "s3same-nobody", "ticks", 'role "nobody_here" does not exist'),
    ],
)
async def test_a_wrong_address_is_told_without_the_password(
    guarded: Postgres, form: int, user: str, password: str, name: str, says: str
) -> None:
    with capture_logs() as logs:
        sink = a_sink(addresses(guarded, user, password, name)[form])
        with pytest.raises(StoreMisconfigured, match=says) as caught:
            await sink.open()
    assert "POLYGON_LIVE_TIMESCALE_DSN" in str(caught.value)
    assert "s3same" not in everything_said(caught.value)
    assert "s3same" not in f"{logs} {sink.facts()}"


async def test_the_right_password_opens(guarded: Postgres) -> None:
    for address in addresses(guarded, "writer", PASSWORD, "ticks"):
        async with opened(address) as sink:
            assert "s3same" not in str(sink.facts())
            assert sink.facts().about["database"] == "ticks"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://writer:s3same@x@127.0.0.1/ticks",
        "postgresql://writer:s3/same@127.0.0.1/ticks",
        "postgresql://writer:s3same%zz@127.0.0.1/ticks",
        "host=127.0.0.1 password=s3same open dbname=ticks",
        "host=127.0.0.1 pasword=s3same dbname=ticks",
        "s3same",
    ],
)
def test_an_address_that_cant_be_read_is_told_without_any_part_of_it(address: str) -> None:
    with pytest.raises(ConfigurationError, match="write it like postgresql://user:password@host") as caught:
        a_sink(address)
    assert "s3" not in everything_said(caught.value)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("sslmode=sometimes", "invalid sslmode value"),
        ("sslmode=require", "server does not support SSL"),
        ("connect_timeout=soon", "connect_timeout"),
        ("keepalives=perhaps", "keepalives"),
        ("options='-c no_such=1'", "no_such"),
        ("host=a..b", "host's name"),
    ],
)
async def test_a_senseless_setting_is_somebodys_to_correct(postgres: Postgres, setting: str, says: str) -> None:
    with pytest.raises(StoreMisconfigured, match=says):
        await a_sink(f"host=127.0.0.1 port={postgres.port} user=postgres {setting}").open()


# The end


CHILD = """
import sys, trio
from polygon_live import logs
from polygon_live.config import Secret
from polygon_live.errors import StoreError
from polygon_live.model import Batch, Tick
from polygon_live.sink import Identity
from polygon_live.sinks.timescale import TimescaleSink

logs.configure("warning", "json", ())

async def main():
    identity = Identity("c1", "journal-1", "host-1")
    sink = TimescaleSink(Secret(sys.argv[1]), identity, "acme", now_ms=lambda: 1_700_000_123_456)
    await sink.open()
    print("open", flush=True)
    await trio.to_thread.run_sync(sys.stdin.readline)
    tick = Tick("EURUSD", 1.1, 1.2, 1.15, 0.1, 1_700_000_000_000, 1_700_000_000_000, 1, "s", "e", 1, 1_700_000_000_000)
    with trio.move_on_after(0.2):
        if sys.argv[2] == "writing":
            await sink.write(Batch(0, [tick], [b""]))
        else:
            await sink.open()
    await sink.aclose()

trio.run(main)
"""


@pytest.mark.parametrize("doing", ["writing", "dialling"])
async def test_a_process_ends_although_the_server_is_stopped(
    own_postgres: Callable[..., Postgres], clean_environment: dict[str, str], doing: str
) -> None:
    server = own_postgres()
    make_table(server.dsn)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-X", "dev", "-c", CHILD, server.dsn, doing],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=clean_environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await process.stdout.receive_some() == b"open\n"
        await trio.to_thread.run_sync(server.pause)
        with trio.fail_after(20):  # less than any limit of the sink
            await process.stdin.send_all(b"\n")
            assert await process.stdout.receive_some() == b""
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


async def test_every_error_of_a_closed_sink_is_a_store_error(table: str) -> None:
    sink = a_sink(table)
    await sink.open()
    await sink.aclose()
    await sink.aclose()
    for asked in (partial(sink.write, a_batch(1)), sink.check, partial(sink.held_after, -1)):
        with pytest.raises(StoreError, match="not open"):
            await asked()
    await sink.open()
    await sink.write(a_batch(1))
    await sink.aclose()
