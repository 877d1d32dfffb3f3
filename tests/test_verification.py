"""What was accepted is compared with three real stores: what differs is told, and what mends it, until it is mended."""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from kafka import KafkaProducer

from polygon_live.budget import Budget
from polygon_live.config import KafkaAccess, Secret
from polygon_live.embedded import Broker, Nats, Postgres
from polygon_live.engines.kafka import TOPIC
from polygon_live.engines.postgres import instant, set_up
from polygon_live.model import Batch, Tick, encode
from polygon_live.sink import Identity
from polygon_live.sinks.kafka import KafkaSink
from tests.replaying import replay
from tests.verifying import COLLECTOR, Rig, wall_ms
from tests.waiting import in_thread, until

pytestmark = pytest.mark.engine
HOUR_MS = 3_600_000
COLUMNS = (
    "symbol, bid, ask, mid, spread, timestamp_ms, source, event_type, tenant_id, collector, seq, received_ms, "
    "ingested_at"
)


@pytest.fixture(scope="module")
def made(postgres: Postgres) -> Iterator[str]:
    """A database with an empty table: making that takes longer than these tests."""
    name = f"made_{os.getpid()}"
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
        with psycopg.connect(postgres.dsn_of(name), autocommit=True) as connection:
            set_up(connection, instant(wall_ms()))
        yield name
        admin.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
def rig(
    made: str,
    postgres: Postgres,
    own_nats: Callable[..., Nats],
    own_broker: Callable[..., Broker],
    clean_environment: dict[str, str],
    tmp_path: Path,
) -> Iterator[Rig]:
    name = f"of_{made}"
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(f"create database {name} template {made}".encode())
        yield Rig(postgres.dsn_of(name), own_nats(), own_broker(), tmp_path / "data", clean_environment)
        admin.execute(f"drop database {name} with (force)".encode())


def produce(broker: str, ticks: list[Tick], *, aborted: bool = False) -> None:
    """Records as somebody else writes them; or takes back."""
    producer = KafkaProducer(bootstrap_servers=broker, transactional_id="somebody" if aborted else None)
    if aborted:
        producer.init_transactions()
        producer.begin_transaction()
    for tick in ticks:
        headers = [("collector", COLLECTOR.encode()), ("seq", str(tick.seq).encode())]
        producer.send(TOPIC, encode(tick), tick.symbol.encode(), headers, timestamp_ms=tick.timestamp_ms)
    producer.flush()
    if aborted:
        producer.abort_transaction()
    producer.close()


async def test_what_every_store_holds_is_verified_and_one_by_one_it_goes_on(rig: Rig) -> None:
    async with rig.running():
        assert rig.verification.snapshot().told.startswith("nothing is verified yet")
        for _ in range(3):
            ticks = await rig.flow(500)
            await rig.verified()
        found = rig.verification.snapshot()
        assert [(s.name, s.compared, s.skipped, s.one_in) for s in found.stores] == [
            (name, 1500, 0, 1.0) for name in ("timescale", "nats", "kafka")
        ]
        assert found.up_to_ms == ticks[-1].received_ms
        assert found.told.startswith("verified complete up to ")
        assert found.told.endswith(" UTC (of NATS what it acknowledged)")
        assert not found.differences
        assert rig.pipeline.blocks.closed == []


async def test_old_and_unordered_times_within_a_block_are_all_counted(rig: Rig) -> None:
    async with rig.running():
        now = rig.now_ms()
        await rig.accept([now, now - 5000, now - 2000, now], close=False)
        await rig.accept([now - 30 * HOUR_MS - n for n in range(50)], close=False)
        await rig.flow(20)
        await rig.verified()
        assert not rig.verification.snapshot().differences
        assert [store.compared for store in rig.verification.snapshot().stores] == [74] * 3


async def test_a_row_that_is_missing_is_told_with_the_command_that_brings_it_back(
    rig: Rig, capfd: pytest.CaptureFixture[str]
) -> None:
    async with rig.running(verifying=False):
        ticks = await rig.flow(600)
        await rig.delivered()
        gone = ticks[100:103]
        assert rig.do("delete from market_ticks where seq between %s and %s", gone[0].seq, gone[-1].seq) == 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.verification.run)
            found = await rig.differs("timescale")
            assert (found.missing, found.doubled, found.accepted) == (3, 0, 600)
            assert (found.first, found.last) == (ticks[0].seq, ticks[-1].seq)
            assert (found.from_ms, found.to_ms) == (gone[0].timestamp_ms, gone[-1].timestamp_ms + 1)
            assert "timescale lacks 3 of 600 ticks that were accepted" in found.sentence
            await rig.verified()
            assert " but for a difference" in rig.verification.snapshot().told
            assert "complete" not in rig.verification.snapshot().told
            assert not rig.told("nats").differences + rig.told("kafka").differences
            program, command, *arguments = shlex.split(found.mend)
            assert (program, command) == ("polygon-live", "replay")
            done = await replay(rig.env, *arguments)
            assert done.returncode == 0, done.stderr.decode()
            assert re.search(r"\b3 written", done.stdout.decode())
            await rig.agrees("timescale")
            assert rig.verification.snapshot().told.startswith("verified complete up to")
            nursery.cancel_scope.cancel()
    said = capfd.readouterr().out
    assert said.count("a store differs from what was accepted") == 1
    assert said.count("a store does not differ any more") == 1


async def test_a_row_that_is_there_twice_is_told_until_one_is_deleted(rig: Rig) -> None:
    async with rig.running(verifying=False):
        ticks = await rig.flow(60)
        await rig.delivered()
        rig.do(
            f"insert into market_ticks (time, {COLUMNS}) select time + interval '1 ms', {COLUMNS} from market_ticks "
            "where seq = %s",
            ticks[7].seq,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.verification.run)
            found = await rig.differs("timescale")
            assert (found.missing, found.doubled) == (0, 1)
            shows = found.mend.partition("psql shows them: ")[2]
            assert rig.do(shows.replace("array_agg(ctid)", "array_agg(ctid::text)")) == 1
            assert (
                rig.do(
                    "delete from market_ticks where seq = %s and timestamp_ms <> extract(epoch from time) * 1000",
                    ticks[7].seq,
                )
                == 1
            )
            await rig.agrees("timescale")
            nursery.cancel_scope.cancel()


async def test_a_record_that_is_doubled_and_none_that_is_another_collectors_or_was_taken_back(rig: Rig) -> None:
    async with rig.running(verifying=False):
        ticks = await rig.flow(90)
        await rig.delivered()
        other = KafkaSink(KafkaAccess((rig.broker.address,)), Identity("another", "j", "there"))
        await other.open()
        await other.write(Batch(0, ticks, [encode(tick) for tick in ticks]))
        await other.aclose()
        await in_thread(lambda: produce(rig.broker.address, ticks[3:5]))
        await in_thread(lambda: produce(rig.broker.address, ticks, aborted=True))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.verification.run)
            found = await rig.differs("kafka")
            assert (found.missing, found.doubled, found.accepted) == (0, 2, 90)
            assert "kafka has 2 too many of 90 ticks" in found.sentence
            assert "nothing takes a record out of the archive" in found.mend
            assert found.alarms(found.found_ms)
            assert not found.alarms(found.found_ms + 600_000)
            nursery.cancel_scope.cancel()


async def test_records_that_the_archive_lacks_are_told_and_what_brings_them_back(rig: Rig) -> None:
    """A consumer group that was moved by hand is how it comes to that."""
    async with rig.running(verifying=False) as pipeline:
        await until(lambda: pipeline.pumps[2].snapshot().connected)
        kafka = pipeline.pumps[2].sink

        async def forgets_the_last(batch: Batch) -> Any:
            return await written(Batch(batch.after, batch.ticks[:-2], batch.payloads[:-2]))

        written, kafka.write = kafka.write, forgets_the_last  # type: ignore[method-assign]
        await rig.flow(30)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.verification.run)
            found = await rig.differs("kafka")
            assert (found.missing, found.doubled) == (2, 0)
            assert found.symbols == ("USDJPY", "XAUUSD")
            assert found.mend.count("polygon-live backfill --symbol ") == 2
            await rig.verified()
            nursery.cancel_scope.cancel()


async def test_what_was_refused_or_is_too_old_is_no_difference(rig: Rig) -> None:
    async with rig.running() as pipeline:
        await rig.flow(10)
        await rig.verified()
        rig.do("alter table market_ticks add constraint odd check (symbol <> 'XAUUSD') not valid")
        now = rig.now_ms()
        await rig.accept([now, now - 500 * HOUR_MS, now, now - 480 * HOUR_MS, now, now])
        await rig.verified()
        table = pipeline.pumps[0].snapshot()
        assert table.set_aside == 1
        assert table.expired == 2
        assert not rig.verification.snapshot().differences
        assert rig.told("timescale").compared == 16


async def test_a_store_that_is_away_is_not_verified_and_the_others_are(
    rig: Rig, own_broker: Callable[..., Broker]
) -> None:
    rig.broker = own_broker(start=False)
    async with rig.running():
        await rig.flow(40)
        await rig.verified("timescale", "nats")
        told = rig.told("kafka")
        assert (told.compared, told.up_to_ms, told.differences) == (0, None, ())
        await in_thread(rig.broker.start)
        await rig.verified()
        assert rig.told("kafka").compared == 40


async def test_what_may_not_be_read_is_said_and_is_no_difference(rig: Rig) -> None:
    async with rig.running():
        await rig.flow(5)
        await rig.verified()
        numbers = rig.verification._stores[0].holding._numbers  # type: ignore[attr-defined]
        numbers._dsn = Secret(rig.dsn + ("&" if "?" in rig.dsn else "?") + "options=-c%20role%3Dpg_signal_backend")
        await rig.flow(5)
        await rig.verified("nats", "kafka")
        await until(lambda: rig.told("timescale").cannot)
        found = rig.verification.snapshot()
        assert "timescale can't be compared now, last at " in found.told
        assert "permission denied for table market_ticks" in found.told
        assert not found.differences


async def test_a_restart_goes_on_where_it_stood(rig: Rig) -> None:
    async with rig.running():
        await rig.flow(30)
        await rig.verified()
    async with rig.running(verifying=False):
        ticks = await rig.flow(50)
        await rig.accept([rig.now_ms() - 20 * HOUR_MS] * 5)
        await rig.delivered()
    assert rig.do("delete from market_ticks where seq = %s", ticks[0].seq) == 1
    async with rig.running():
        await rig.flow(20)
        found = await rig.differs("timescale")
        assert (found.missing, found.accepted) == (1, 55)
        await rig.verified()
        assert {store.compared for store in rig.verification.snapshot().stores} == {75}
    async with rig.running():
        again = await rig.differs("timescale")
        assert (again.first, again.missing) == (found.first, 1)


async def test_a_new_collector_begins_at_its_journals_end(rig: Rig) -> None:
    async with rig.running(verifying=False):
        await rig.flow(30)
    async with rig.running():
        await rig.flow(20)
        await rig.verified()
        assert {store.compared for store in rig.verification.snapshot().stores} == {20}


async def test_a_table_that_falls_behind_is_compared_again(rig: Rig) -> None:
    async with rig.running() as pipeline:
        ticks = await rig.flow(100)
        await rig.verified()
        # As a backup that is restored leaves it: cursor and ticks of the past.
        rig.do("update tick_cursors set seq = %s", ticks[39].seq)
        rig.do("delete from market_ticks where seq > %s", ticks[39].seq)
        rig.do(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and "
            "datname = current_database()"
        )
        await rig.flow(10)
        await rig.verified()
        assert pipeline.pumps[0].snapshot().fell_behind == 1
        assert not rig.verification.snapshot().differences
        await until(lambda: rig.told("timescale").compared == 100 + 100 + 10)


async def test_where_reading_costs_too_much_some_blocks_are_read_and_that_is_said(rig: Rig) -> None:
    async with rig.running(verifying=False):
        for _ in range(8):
            await rig.flow(100)
        await rig.delivered()
        rig.verification._budget = Budget(0.03, saved_seconds=100, now=trio.current_time())
        sampling = rig.verification._stores[2].holding.sampling
        assert sampling is not None
        sampling.tick_seconds = 0.015  # two blocks are what three seconds of a core can buy
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.verification.run)
            await rig.verified()
            nursery.cancel_scope.cancel()
        told = rig.told("kafka")
        assert (told.compared, told.skipped, told.one_in) == (200, 600, 4.0)
        assert rig.told("timescale").compared == 800
        said = rig.verification.snapshot().told
        assert said.startswith("verified up to ")
        assert re.search(r"kafka: one block in 4: all would cost \d+% of a core", said)


async def test_it_ends_at_once_though_a_broker_hangs(rig: Rig) -> None:
    async with rig.running() as pipeline:
        await rig.flow(10)
        await rig.verified()
        await rig.flow(10, close=False)
        await rig.delivered()
        await in_thread(rig.broker.pause)
        pipeline.blocks.close()
        await rig.verified("timescale")
    await in_thread(rig.broker.resume)
