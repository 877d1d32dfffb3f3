"""Replay into the table: it is afterwards what it was before, whatever happens meanwhile."""

import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from kafka import KafkaProducer

from polygon_live.embedded import Broker, Postgres
from polygon_live.journal import Ledger
from polygon_live.model import Tick, encode
from tests.engines.kafka import Kafka
from tests.hypertables import HOUR_MS, a_tick, do, run_policy
from tests.replaying import (
    COLLECTORS,
    Days,
    batches,
    collecting,
    drop_between,
    drop_partitions,
    environment,
    fill,
    middle,
    numbered,
    replay,
    replayed,
    replaying,
    rows_of,
    ruined,
    span,
    two_days,
)
from tests.servers import servers
from tests.test_replay import a_gap
from tests.waiting import in_thread, until

pytestmark = pytest.mark.engine
FIRST, SECOND = COLLECTORS


@pytest.fixture
def days(real_ticks: tuple[Path, ...]) -> Days:
    """A few."""
    return two_days(real_ticks, every=6)


@pytest.fixture
def whole_days(real_ticks: tuple[Path, ...]) -> Days:
    return two_days(real_ticks)


async def test_the_ledger_is_told_what_was_filled(
    days: Days, database: str, broker: Broker, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    found = await ruined(days, database, broker.address, clean_environment)
    from_ms, to_ms = middle(days)
    lacking = [t for t in days.ticks[FIRST] if from_ms <= t.timestamp_ms < to_ms and t.event_type == "quote"]
    seqs = {"first_seq": lacking[0].seq, "last_seq": lacking[-1].seq}
    folder = tmp_path / "data" / "journal" / FIRST
    folder.mkdir(parents=True)
    ledger = Ledger.open(folder)
    whole, beyond, nats = ledger.enter(
        [
            a_gap(from_ms=from_ms, to_ms=to_ms - 1, ticks=len(lacking), **seqs),
            a_gap(from_ms=from_ms, to_ms=to_ms, **seqs),
            a_gap(from_ms=from_ms, to_ms=to_ms - 1, store="nats", **seqs),
        ],
        days.now_ms,
    )
    env = {**found.env, "POLYGON_LIVE_DATA_DIR": str(tmp_path / "data")}
    few = await replayed(env, *found.asked, "--symbol", "EUR/USD")
    assert few["gaps"] == []
    rehearsed = await replayed(env, *found.asked, "--dry-run")
    assert rehearsed["gaps"] == []
    summary = await replayed(env, *found.asked)
    assert summary["gaps"] == [{"id": whole.id, "state": "filled", "filled": len(lacking)}]
    assert found.rows() == found.before
    assert {gap.id: gap.state for gap in ledger.gaps()} == {whole.id: "filled", beyond.id: "open", nats.id: "open"}
    ledger.close()


# Into the table


@pytest.mark.parametrize("how", ["rows", "partitions"])
async def test_a_lost_day_is_what_it_was_before(
    how: str, whole_days: Days, database: str, broker: Broker, clean_environment: dict[str, str]
) -> None:
    await fill(whole_days, brokers=broker.address, dsn=database, tenant="acme")
    before = rows_of(database)
    assert len(before) == len(whole_days.all) - 40
    assert {row["tenant_id"] for row in before} == {"acme"}
    from_ms, to_ms = middle(whole_days)
    if how == "partitions":
        assert drop_partitions(database, from_ms, to_ms) == 23
    drop_between(database, from_ms, to_ms)
    lost = len(before) - len(rows_of(database))
    assert lost > 5000
    env = environment(clean_environment, KAFKA_BROKERS=broker.address, TIMESCALE_DSN=database, TENANT_ID="acme")
    rehearsed = await replayed(env, *span(from_ms, to_ms), "--into", "timescale", "--dry-run")
    assert (rehearsed["written"], rehearsed["there"]) == (lost, 0)
    assert len(rows_of(database)) == len(before) - lost
    summary = await replayed(env, *span(from_ms, to_ms), "--into", "timescale")
    assert (summary["written"], summary["there"], summary["in_range"]) == (lost, 0, lost)
    assert rows_of(database) == before
    again = await replayed(env, *span(from_ms, to_ms), "--into", "timescale")
    assert (again["written"], again["there"]) == (0, lost)
    assert rows_of(database) == before


@pytest.mark.fetched
async def test_a_lost_day_of_a_hypertable_is_what_it_was_before(
    whole_days: Days, hyper_database: str, broker: Broker, clean_environment: dict[str, str]
) -> None:
    """Part of it from compressed chunks, of which half the rows are left, and part from dropped ones."""
    await fill(whole_days, brokers=broker.address, dsn=hyper_database)
    run_policy(hyper_database, "policy_compression")
    before = rows_of(hyper_database)
    from_ms, to_ms = middle(whole_days)
    do(
        hyper_database,
        f"delete from market_ticks where timestamp_ms >= {from_ms} and timestamp_ms < {to_ms} and seq % 2 = 0",
        f"select drop_chunks('market_ticks', older_than => to_timestamp({(from_ms + 14 * HOUR_MS) / 1000}), "
        f"newer_than => to_timestamp({from_ms / 1000}))",
    )
    lost = len(before) - len(rows_of(hyper_database))
    assert lost > 3000
    env = environment(clean_environment, KAFKA_BROKERS=broker.address, TIMESCALE_DSN=hyper_database)
    rehearsed = await replayed(env, *span(from_ms, to_ms), "--into", "timescale", "--dry-run")
    summary = await replayed(env, *span(from_ms, to_ms), "--into", "timescale")
    assert summary["written"] == rehearsed["written"] == lost
    assert rows_of(hyper_database) == before
    again = await replayed(env, *span(from_ms, to_ms), "--into", "timescale")
    assert (again["written"], again["there"]) == (0, summary["in_range"])
    assert rows_of(hyper_database) == before


@pytest.mark.fetched
async def test_from_the_real_kafka_with_transactions_that_were_given_up(
    days: Days, database: str, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    with servers(Kafka, tmp_path) as make:
        found = await ruined(days, database, (broker := make()).address, clean_environment)
        await in_thread(lambda: given_up_transaction(broker.address, days))
        summary = await replayed(found.env, *found.asked)
    assert summary["written"] == found.lost
    assert found.rows() == found.before


def given_up_transaction(brokers: str, days: Days) -> None:
    """Aborted ticks in the archive, which no committed reader may see."""
    producer = KafkaProducer(bootstrap_servers=[brokers], transactional_id="given-up", enable_idempotence=True)
    producer.init_transactions()
    producer.begin_transaction()
    for tick in numbered([a_tick(0, middle(days)[0] + n) for n in range(100)], first=1):
        headers = [("collector", FIRST.encode()), ("seq", str(tick.seq).encode())]
        producer.send("tick_archive", encode(tick), key=b"EURUSD", headers=headers, timestamp_ms=tick.timestamp_ms)
    producer.flush()
    producer.abort_transaction()
    producer.close()


async def test_an_empty_database_is_filled_and_a_rehearsal_leaves_it_empty(
    days: Days, database: str, broker: Broker, clean_environment: dict[str, str]
) -> None:
    await fill(days, brokers=broker.address)
    env = environment(clean_environment, KAFKA_BROKERS=broker.address, TIMESCALE_DSN=database)
    everything = [*span(days.now_ms - 100 * HOUR_MS, days.now_ms + HOUR_MS), "--into", "timescale"]
    rehearsed = await replayed(env, *everything, "--dry-run")
    assert (rehearsed["written"], rehearsed["expired"]) == (len(days.all) - 40, 40)
    assert do(database, "select count(*) from pg_class where relnamespace = 'public'::regnamespace") == [(0,)]
    few = await replayed(env, *everything, "--symbol", "NZDJPY", "--symbol", "XAU/USD")
    assert few["written"] == few["in_range"] == 3000
    summary = await replayed(env, *everything)
    assert (summary["written"], summary["there"], summary["expired"]) == (len(days.all) - 3040, 3000, 40)
    assert Counter((row["collector"], row["seq"]) for row in rows_of(database)) == Counter(
        (c, t.seq) for c, t in days.all if t.timestamp_ms > days.now_ms - 72 * HOUR_MS
    )


async def test_a_collector_takes_up_what_was_replayed_before_it_came(
    days: Days, database: str, broker: Broker, clean_environment: dict[str, str]
) -> None:
    await fill(days, brokers=broker.address)
    env = environment(clean_environment, KAFKA_BROKERS=broker.address, TIMESCALE_DSN=database)
    await replayed(env, *span(days.now_ms - 71 * HOUR_MS, days.now_ms), "--into", "timescale")
    before = rows_of(database)
    last = days.ticks[FIRST][-1].seq
    async with collecting(FIRST, days.now_ms, brokers=None, dsn=database) as write:
        assert do(database, f"select seq from tick_cursors where collector = '{FIRST}'") == [(last,)]
        for batch in batches(numbered([a_tick(0, days.now_ms - 100 + n) for n in range(50)], last + 1)):
            await write(batch)
    assert len(rows_of(database)) == len(before) + 50


async def test_what_the_collector_is_bringing_is_left_to_it(
    days: Days, database: str, broker: Broker, clean_environment: dict[str, str]
) -> None:
    found = await ruined(days, database, broker.address, clean_environment)
    coming = numbered([a_tick(0, middle(days)[1] - 1000 + n) for n in range(500)], days.ticks[FIRST][-1].seq + 1)
    async with collecting(FIRST, days.now_ms, brokers=broker.address, dsn=None) as write:
        for batch in batches(coming):
            await write(batch)
    summary = await replayed(found.env, *found.asked)
    assert (summary["written"], summary["above_cursor"]) == (found.lost, 500)
    assert found.rows() == found.before
    async with collecting(FIRST, days.now_ms, brokers=None, dsn=database) as write:
        for batch in batches(coming):
            await write(batch)
    assert len(rows_of(database)) == len(found.before) + 500


async def test_beside_a_writer_nothing_is_doubled_or_lost(
    days: Days, database: str, broker: Broker, clean_environment: dict[str, str]
) -> None:
    """The writer brings ticks of the very hours that are replayed, first to the archive and then to the table."""
    found = await ruined(days, database, broker.address, clean_environment)
    (from_ms, _), first = middle(days), days.ticks[FIRST][-1].seq + 1
    written: list[Tick] = []
    ended = trio.Event()

    async def write() -> None:
        async with collecting(FIRST, days.now_ms, brokers=broker.address, dsn=database) as take:
            started.set()
            while not ended.is_set():
                stamps = [from_ms + 17 * (len(written) + n) for n in range(200)]
                ticks = numbered([a_tick(0, at, "GBPUSD") for at in stamps], first + len(written))
                await take(batches(ticks)[0])
                written.extend(ticks)
                await trio.sleep(0.05)  # at full speed it would bury the broker, which holds everything in memory

    started = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await started.wait()
        for _ in range(3):
            await replayed(found.env, *found.asked, patch="replay.AT_ONCE = 1000")
        ended.set()
    assert len(written) > 500
    rows = rows_of(database)
    assert [row for row in rows if row["symbol"] != "GBPUSD"] == found.before
    assert [row["seq"] for row in rows if row["symbol"] == "GBPUSD"] == [tick.seq for tick in written]


async def test_killed_at_any_moment_the_next_one_makes_it_whole(
    days: Days, database: str, broker: Broker, clean_environment: dict[str, str], chance: random.Random
) -> None:
    found = await ruined(days, database, broker.address, clean_environment)
    killed = 0
    for _ in range(4):
        left = found.count()
        async with replaying(found.env, *found.asked, patch="replay.AT_ONCE = 300") as running:
            await until(lambda: found.count() > left or running.ended)  # noqa: B023  # used in this round only
            await trio.sleep(chance.random() * 0.2)
        killed += running.code == -signal.SIGKILL
        rows = found.rows()
        assert left <= len(rows) == len({(row["collector"], row["seq"]) for row in rows})
    assert killed
    summary = await replayed(found.env, *found.asked)
    assert summary["written"] + summary["there"] == found.lost
    assert summary["there"] > 0
    assert found.rows() == found.before


HELD = """
import os, trio
replay.AT_ONCE = 100
put, blocks = replay.Table.put, []
async def held(self, ticks):
    blocks.append(ticks)
    if len(blocks) == 3:
        open({held!r}, "x").close()
        {until}
    return await put(self, ticks)
replay.Table.put = held"""
"""Patches a replay: its third block is held, and a file says so."""


async def test_interrupted_it_says_how_far_it_came(
    days: Days, database: str, broker: Broker, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    found = await ruined(days, database, broker.address, clean_environment)
    left, held = found.count(), tmp_path / "held"
    patch = HELD.format(held=str(held), until="await trio.sleep_forever()")
    async with replaying(found.env, *found.asked, patch=patch) as running:
        await until(held.exists)
        running.process.send_signal(signal.SIGINT)
        await running.end()
    assert running.code == 1
    assert f"{found.count() - left} written, 0 already there" in running.told
    said = "it was interrupted; what was written (whether 100 more were is not known) stays, and the same command"
    assert f"the replay is not complete: {said} does the rest" in running.noted
    await replayed(found.env, *found.asked)
    assert found.rows() == found.before


async def test_a_rehearsal_that_is_interrupted_leaves_no_rest(
    days: Days, database: str, broker: Broker, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    found = await ruined(days, database, broker.address, clean_environment)
    left, held = found.count(), tmp_path / "held"
    patch = HELD.format(held=str(held), until="await trio.sleep_forever()")
    async with replaying(found.env, *found.asked, "--dry-run", patch=patch) as running:
        await until(held.exists)
        running.process.send_signal(signal.SIGINT)
        await running.end()
    assert running.code == 1
    assert "it was interrupted; nothing was written: give the same command once more" in running.noted
    assert found.count() == left


@pytest.mark.parametrize("comes_back", [True, False])
async def test_the_database_killed(
    comes_back: bool,
    days: Days,
    own_postgres: Callable[..., Postgres],
    broker: Broker,
    clean_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    postgres = own_postgres()
    found = await ruined(days, postgres.dsn, broker.address, clean_environment)
    held, killed = tmp_path / "held", tmp_path / "killed"
    patch = HELD.format(held=str(held), until=f"while not os.path.exists({str(killed)!r}): await trio.sleep(0.01)")
    if not comes_back:
        patch += "\nreplay.WAITS_SECONDS = (0.1,)"
    async with replaying(found.env, *found.asked, patch=patch) as running:
        await until(held.exists)
        postgres.kill()
        killed.touch()
        if comes_back:
            await in_thread(postgres.start)
        await running.end()
    assert running.code == (0 if comes_back else 1), running.noted
    if comes_back:
        assert "trying again" in running.noted
    else:
        assert "the replay is not complete: " in running.noted
        assert "the same command does the rest" in running.noted
        await in_thread(postgres.start)
        await replayed(found.env, *found.asked)
    assert found.rows() == found.before


async def test_no_broker_there(
    database: str, own_broker: Callable[..., Broker], clean_environment: dict[str, str]
) -> None:
    address = own_broker(start=False).address
    env = environment(clean_environment, KAFKA_BROKERS=address, TIMESCALE_DSN=database)
    done = await replay(env, *span(0, 1), "--into", "timescale")
    assert done.returncode == 1
    assert address in done.stderr.decode()


async def test_no_archive_there(database: str, broker: Broker, clean_environment: dict[str, str]) -> None:
    env = environment(clean_environment, KAFKA_BROKERS=broker.address, TIMESCALE_DSN=database)
    done = await replay(env, *span(0, 1), "--into", "timescale")
    assert done.returncode == 1
    assert "has no topic tick_archive: no collector has written there" in done.stderr.decode()
