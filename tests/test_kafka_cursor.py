"""Whose archive it is, how far it is, and what readers see: on a broker of the embedded kind and on Apache Kafka."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from polygon_live.config import KafkaAccess
from polygon_live.embedded import Broker
from polygon_live.engines.kafka import Archive, Archived, reading
from polygon_live.engines.kafka.access import administration
from polygon_live.engines.kafka.cursor import read_cursor
from polygon_live.engines.kafka.topic import FOR_EVER
from polygon_live.errors import StoreContested, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch, Tick, encode
from polygon_live.sink import Identity, Opened
from polygon_live.sinks.kafka import KafkaSink
from tests import servers
from tests.engines.kafka import Kafka
from tests.reading import in_archive
from tests.waiting import PATIENCE_SECONDS, in_thread
from tests.writers import CONFLUENT, VARIABLE, access

pytestmark = pytest.mark.engine
NOW_MS = 1_780_401_600_000
SYMBOLS = ("EURUSD", "XAUUSD", "GBPUSD", "USDJPY", "AUDUSD")
_names = (f"cursor-{n}" for n in itertools.count())


class Impatient(KafkaSink):
    OPEN_SECONDS = 8.0
    APPEND_SECONDS = 4.0
    WATCH_SECONDS = 1.0


@pytest.fixture(scope="module", params=["embedded", pytest.param("apache", marks=pytest.mark.fetched)])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One broker for all, never to be stopped: every test has a topic and a collector of its own."""
    kind: Any = Kafka if request.param == "apache" else Broker
    with servers.servers(kind, tmp_path_factory.mktemp(request.param)) as make:
        yield make().address


@pytest.fixture
def name() -> str:
    """Of the topic and of the collector."""
    return next(_names)


def sink_of(address: str, name: str, *, journal: str = "journal-1", host: str = "host-1") -> Impatient:
    return Impatient(access(address), Identity(name, journal, host), topic=name)


@asynccontextmanager
async def opened(sink: KafkaSink) -> AsyncIterator[Opened]:
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            yield await sink.open()
        finally:
            with trio.CancelScope(shield=True):
                await sink.aclose()


@asynccontextmanager
async def opened_later(sink: KafkaSink) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await sink.aclose()


def batch(first: int, count: int, *, time_ms: int = NOW_MS) -> Batch:
    ticks = [
        Tick(SYMBOLS[n % 5], 1.1, 1.2, 1.15, 0.1, time_ms, time_ms, 48, "polygon_websocket", "quote", n, NOW_MS)
        for n in range(first, first + count)
    ]
    return Batch(first - 1, ticks, [encode(t) for t in ticks])


async def seqs_in(address: str, topic: str) -> list[int]:
    return sorted(json.loads(r.value)["seq"] for r in await in_thread(lambda: in_archive(address, topic)))


def settle(address: str, name: str) -> None:
    """A commit that was answered may not have left its mark yet: until then the cursor looks as before."""
    read_cursor(access(address), name, name, name="test", stable=True)


def committed(address: str, name: str) -> tuple[int, dict[str, Any]] | None:
    """The group's offset, and its metadata."""
    settle(address, name)
    place = TopicPartition(name, 0)
    with administration(access(address), name="test") as admin:
        found = admin.list_group_offsets({f"polygon-live.{name}": [place]})[f"polygon-live.{name}"].get(place)
    return None if found is None or found.offset < 0 else (found.offset, json.loads(found.metadata.rstrip("\0")))


def make_topic(address: str, name: str, partitions: int = 3) -> None:
    with administration(access(address), name="test") as admin:
        wanted = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(FOR_EVER)}
        admin.create_topics({name: wanted}, wait_for_metadata=True)


def set_cursor(address: str, name: str, seq: int) -> None:
    with administration(access(address), name="test") as admin:
        admin.alter_group_offsets(f"polygon-live.{name}", {TopicPartition(name, 0): OffsetAndMetadata(seq, "", -1)})


def forget_cursor(address: str, name: str) -> None:
    with administration(access(address), name="test") as admin:
        admin.delete_groups([f"polygon-live.{name}"])


# How far it is ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either")
async def test_the_cursor_moves_with_the_batch_and_says_whose_it_is(address: str, name: str) -> None:
    async with opened(sink_of(address, name)) as first:
        assert first == Opened(None)
    sink = sink_of(address, name)
    async with opened(sink) as again:
        assert again == Opened(None)
        await sink.write(batch(1, 100))
        await sink.write(batch(1_780_401_600_000_000, 7))
        found = await in_thread(lambda: committed(address, name))
        assert found == (1_780_401_600_000_006, {"journal": "journal-1", "host": "host-1", "beat": 1})
    async with opened(sink_of(address, name)) as after:
        assert after == Opened(1_780_401_600_000_006)


async def test_a_sign_of_life_moves_the_beat_alone(address: str, name: str) -> None:
    sink = sink_of(address, name)
    async with opened(sink):
        for _ in range(2):
            await sink.check()
        assert await in_thread(lambda: committed(address, name)) == (
            0,
            {"journal": "journal-1", "host": "host-1", "beat": 2},
        )
        await sink.write(batch(1, 10))
        await sink.check()
        assert await in_thread(lambda: committed(address, name)) == (
            10,
            {"journal": "journal-1", "host": "host-1", "beat": 3},
        )


async def test_without_a_cursor_the_newest_record_of_this_collector_says_how_far_it_is(address: str, name: str) -> None:
    await in_thread(lambda: make_topic(address, name, partitions=1))
    sink, other = sink_of(address, name), Impatient(access(address), Identity(f"{name}-b", "b", "b"), topic=name)
    async with opened(sink), opened(other):
        await sink.write(batch(1, 250))
        await other.write(batch(1, 3000))  # farther than one look back
    await in_thread(lambda: forget_cursor(address, name))
    async with opened(sink_of(address, name)) as found:
        assert found == Opened(250)
        assert await in_thread(lambda: committed(address, name)) == (
            250,
            {"journal": "journal-1", "host": "host-1", "beat": 0},
        )


async def test_a_cursor_behind_too_much_of_others_is_not_certain_until_the_next_batch(
    address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LOOK_BACK", (10, 100))
    await in_thread(lambda: make_topic(address, name, partitions=1))
    sink, other = sink_of(address, name), Impatient(access(address), Identity(f"{name}-b", "b", "b"), topic=name)
    async with opened(sink), opened(other):
        await sink.write(batch(1, 250))
        await other.write(batch(1, 200))
        await in_thread(lambda: forget_cursor(address, name))
        assert await sink.open() == Opened(None, certain=False)
        await sink.check()
        mark = {"journal": "journal-1", "host": "host-1", "beat": 1, "certain": False}
        assert await in_thread(lambda: committed(address, name)) == (0, mark)
        assert await sink.open() == Opened(None, certain=False)
        await sink.write(batch(251, 5))
        assert await sink.open() == Opened(255)


async def test_a_cursor_found_in_some_partitions_is_not_certain(
    address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others may hold something newer."""
    monkeypatch.setattr(reading, "LOOK_BACK", (10, 100))
    await in_thread(lambda: make_topic(address, name, partitions=2))
    sink, other = sink_of(address, name), Impatient(access(address), Identity(f"{name}-b", "b", "b"), topic=name)
    async with opened(sink), opened(other):
        await sink.write(batch(1, 250))
        await in_thread(lambda: forget_cursor(address, name))
        assert await sink.open() == Opened(250)
        over_the_newest = batch(1, 1000).ticks[4::5]
        await other.write(Batch(0, over_the_newest, [encode(t) for t in over_the_newest]))
        await in_thread(lambda: forget_cursor(address, name))
        partly = await sink.open()
        assert partly.cursor is not None
        assert 240 < partly.cursor < 250
        assert not partly.certain


async def test_a_cursor_set_back_by_hand_is_believed(address: str, name: str) -> None:
    sink = sink_of(address, name)
    async with opened(sink):
        await sink.write(batch(1, 100))
        await in_thread(lambda: set_cursor(address, name, 40))
        with pytest.raises(StoreUnavailable, match="is not as we left it"):
            await sink.check()
        assert await sink.open() == Opened(40)


async def test_what_is_held_beyond_a_seq_comes_back_in_order(address: str, name: str) -> None:
    sink, other = sink_of(address, name), Impatient(access(address), Identity(f"{name}-b", "b", "b"), topic=name)
    every = batch(1, 6000)
    async with opened(sink), opened(other):
        for first in range(1, 6000, 1500):
            await sink.write(batch(first, 1500))
            await other.write(batch(first, 300))
        await sink.open()
        assert await sink.held_after(5990) == every.payloads[5990:]
        assert await sink.held_after(17) == every.payloads[17:]
        assert await sink.held_after(0) == every.payloads
        assert await sink.held_after(6000) == []


async def test_more_than_fits_into_memory_is_not_read_back(
    address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that was restored from yesterday's backup is no power cut."""
    sink = sink_of(address, name)
    every = batch(1, 3000)
    async with opened(sink):
        await sink.write(every)
        with monkeypatch.context() as patch:
            patch.setattr(reading, "MOST_HELD", 2999)
            assert len(await sink.held_after(1)) == 2999
            with pytest.raises(StoreUnavailable, match="more beyond seq 0 than can be copied back"):
                await sink.held_after(0)
        monkeypatch.setattr(reading, "LOOK_BACK", (10, 100))
        assert await sink.held_after(2990) == every.payloads[2990:]
        with pytest.raises(StoreUnavailable, match="more beyond seq 17 than can be copied back"):
            await sink.held_after(17)


# Whose it is --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either")
async def test_who_lives_is_left_alone_and_who_is_dead_is_taken_over(address: str, name: str) -> None:
    one, two = sink_of(address, name), sink_of(address, name, journal="journal-2", host="host-2")
    async with opened(one), opened_later(two):
        await one.write(batch(1, 100))
        with pytest.raises(StoreContested, match=r"belongs to another journal \(journal-1, host host-1\): it is taken"):
            await two.open()
        for _ in range(8):
            await trio.sleep(Impatient.WATCH_SECONDS / 4)
            await one.check()
            await in_thread(lambda: settle(address, name))
            with pytest.raises(StoreContested, match=r"is alive on host host-1 \(journal journal-1\): stop one of"):
                await two.open()
        await one.write(batch(101, 10))  # nobody has fenced it
        await in_thread(lambda: settle(address, name))
        with pytest.raises(StoreContested):
            await two.open()
        await trio.sleep(Impatient.WATCH_SECONDS)
        taken = await two.open()
        assert taken.cursor == 110
        assert taken.took_over is not None
        assert "journal-1 on host host-1, at 110, had not moved for 1 s" in taken.took_over
        await in_thread(lambda: settle(address, name))
        assert await two.open() == Opened(110)  # once
        with pytest.raises(StoreContested, match="journal-2, host host-2"):
            await one.write(batch(111, 10))
        await two.write(batch(200, 10))
        with pytest.raises(StoreContested, match="host-2"):
            await one.open()
        await two.write(batch(210, 10))
    assert await seqs_in(address, name) == [*range(1, 111), *range(200, 220)]


@pytest.mark.usefixtures("either")
async def test_a_copy_of_its_journal_on_another_host_is_another_collector(address: str, name: str) -> None:
    """But whoever comes first in his run: a container that was made anew has another host name."""
    first, copy = sink_of(address, name), sink_of(address, name, host="host-2")
    async with opened(first), opened_later(copy):
        await first.write(batch(1, 10))
        await in_thread(lambda: settle(address, name))
        assert await copy.open() == Opened(10)
        await copy.write(batch(11, 10))
        await in_thread(lambda: settle(address, name))
        with pytest.raises(
            StoreContested, match=r"a copy of this one's journal \(journal-1, host host-2\): it is taken"
        ):
            await first.check()
        for words in ("belongs to a copy of this one's journal", "with a copy of this one's data folder is alive on"):
            with pytest.raises(StoreContested, match=f"{words}.*host-2"):
                await first.open()
            await copy.check()
            await in_thread(lambda: settle(address, name))
        await copy.write(batch(21, 10))  # nobody has fenced it
        await in_thread(lambda: settle(address, name))
        with pytest.raises(StoreContested):
            await first.open()
        await trio.sleep(Impatient.WATCH_SECONDS)
        taken = await first.open()
        assert taken.cursor == 30
        assert "journal-1 on host host-2, at 30, had not moved for 1 s" in str(taken.took_over)
        await in_thread(lambda: settle(address, name))
        with pytest.raises(StoreContested, match="host-1"):
            await copy.write(batch(31, 10))
        await first.write(batch(31, 10))
    assert await seqs_in(address, name) == list(range(1, 41))


async def test_time_in_which_the_brokers_were_away_is_no_sign_of_death(
    address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lives could not move his cursor either."""
    one, two = sink_of(address, name), sink_of(address, name, journal="journal-2", host="host-2")
    async with opened(one), opened_later(two):
        await one.write(batch(1, 10))
        with pytest.raises(StoreContested, match="is taken over"):
            await two.open()
        with monkeypatch.context() as patch:
            patch.setattr(two._client, "_access", KafkaAccess(("127.0.0.1:9",)))
            with pytest.raises(StoreUnavailable):
                await two.open()
            await trio.sleep(2 * Impatient.WATCH_SECONDS)
        with pytest.raises(StoreContested):
            await two.open()
        await one.write(batch(11, 10))


async def test_a_claim_whose_answer_was_lost_is_told_all_the_same(
    address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = sink_of(address, name), sink_of(address, name, journal="journal-2", host="host-2")
    async with opened(one), opened_later(two):
        await one.write(batch(1, 10))
        await in_thread(lambda: settle(address, name))
        with pytest.raises(StoreContested):
            await two.open()
        await trio.sleep(2 * Impatient.WATCH_SECONDS)
        claim = two._client._claim

        def answer_lost(*given: Any, **named: Any) -> None:
            claim(*given, **named)
            raise StoreUnavailable("the answer was lost")

        with monkeypatch.context() as patch:
            patch.setattr(two._client, "_claim", answer_lost)
            with pytest.raises(StoreUnavailable, match="the answer was lost"):
                await two.open()
        await in_thread(lambda: settle(address, name))
        taken = await two.open()
        assert taken.cursor == 10
        assert "journal-1 on host host-1" in str(taken.took_over)
        await in_thread(lambda: settle(address, name))
        assert await two.open() == Opened(10)  # once


async def test_an_archive_without_a_tick_has_its_collector_too(address: str, name: str) -> None:
    one, two = sink_of(address, name), sink_of(address, name, journal="journal-2", host="host-2")
    async with opened(one):
        with pytest.raises(StoreContested, match="host-1"):
            await two.open()  # nothing is written yet, and the archive is taken
        await one.write(batch(1, 10))
    await two.aclose()


@pytest.mark.usefixtures("either")
async def test_a_predecessor_that_did_not_die_is_fenced(address: str, name: str) -> None:
    zombie, successor = sink_of(address, name), sink_of(address, name)
    async with opened(zombie), opened(successor):
        with pytest.raises(StoreUnavailable, match=r"has ended the transaction .*a copy of this one's data folder"):
            await zombie.write(batch(1, 100))
        await successor.write(batch(1, 100))
        with pytest.raises(StoreUnavailable, match="is not as we left it"):
            await zombie.check()
        with pytest.raises(StoreUnavailable, match="is not as we left it"):
            await zombie.write(batch(1, 100))
    assert await seqs_in(address, name) == list(range(1, 101))


async def test_who_is_fenced_while_a_batch_is_handed_over_says_so_too(
    address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka hears of it from the brokers meanwhile, and takes no further record: "fatal" is all that it says."""
    monkeypatch.setenv(VARIABLE, CONFLUENT)

    class Slow(list[Tick]):
        def __iter__(self) -> Iterator[Tick]:
            for n in range(len(self)):
                time.sleep(0.5 * (n == 1))
                yield self[n]

    zombie, successor = sink_of(address, name), sink_of(address, name)
    async with opened(zombie), opened(successor):
        whole = batch(1, 100)
        with pytest.raises(StoreUnavailable, match=r"has ended the transaction .*a copy of this one's data folder"):
            await zombie.write(Batch(0, Slow(whole.ticks), whole.payloads))


KILLED = """
import os, signal, sys, threading, time, trio
from tests.test_kafka_cursor import batch, sink_of
address, name, how = sys.argv[1:]

async def main():
    sink = sink_of(address, name)
    await sink.open()
    await sink.write(batch(1, 100))
    producer = type(sink._client._producer)
    commit = producer.commit

    def killed(*given):
        if how == "sent":
            threading.Thread(target=commit, args=given, daemon=True).start()
            time.sleep(float(os.environ["MOMENT"]))
        os.kill(os.getpid(), signal.SIGKILL)

    producer.commit = killed
    await sink.write(batch(101, 1000))
trio.run(main)
"""


@pytest.mark.parametrize(("how", "moment"), [("flushed", 0.0), ("sent", 0.002), ("sent", 0.5)])
@pytest.mark.usefixtures("either")
async def test_a_process_killed_at_its_commit_leaves_all_or_nothing(
    address: str, name: str, how: str, moment: float
) -> None:
    await in_thread(
        lambda: subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", KILLED, address, name, how],
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, servers.SESSION_VARIABLE: servers.SESSION, "MOMENT": str(moment)},
        )
    )
    sink = sink_of(address, name)
    async with opened(sink) as found:
        assert found.cursor in ({100, 1100} if how == "sent" else {100})
        assert found.cursor == 1100 or moment < 0.5
        assert await seqs_in(address, name) == list(range(1, found.cursor + 1))
        await sink.write(batch(found.cursor + 1, 1200 - found.cursor))
    assert await seqs_in(address, name) == list(range(1, 1201))


# What its readers see -----------------------------------------------------------------------------------------------


async def read(archive: Archive) -> list[Archived]:
    records: list[Archived] = []
    async with archive:
        async for block in archive:
            records += block
            assert len(records) <= archive.total
        assert archive.read == archive.total
    return records


class Transactions:
    """Somebody else's, on one partition of the archive."""

    def __init__(self, address: str, topic: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=address, transactional_id=f"somebody-at-{topic}")
        self._producer.init_transactions()
        self._topic = topic

    def add(self, count: int, time_ms: int = NOW_MS) -> None:
        self._producer.begin_transaction()
        for _ in range(count):
            self._producer.send(self._topic, b"{}", key=b"k", partition=0, timestamp_ms=time_ms)
        self._producer.flush()

    def commit(self) -> None:
        self._producer.commit_transaction()

    def abort(self) -> None:
        self._producer.abort_transaction()

    def close(self) -> None:
        self._producer.close()


async def test_a_reader_gets_all_from_a_time_on_and_nothing_that_was_aborted(address: str, name: str) -> None:
    await in_thread(lambda: make_topic(address, name, partitions=20))  # most of them empty
    sink = sink_of(address, name)
    async with opened(sink):
        await sink.write(batch(1, 100, time_ms=NOW_MS - 60_000))
        await sink.write(batch(101, 100, time_ms=NOW_MS))
        await sink.write(batch(201, 50, time_ms=NOW_MS - 3_600_000))  # fetched afterwards
        await sink.write(batch(251, 50, time_ms=NOW_MS + 1))

    def others() -> None:
        somebody = Transactions(address, name)
        for end in (somebody.commit, somebody.abort, somebody.abort):
            somebody.add(30)
            end()
        somebody.close()

    await in_thread(others)
    records = await read(Archive(access(address), since_ms=NOW_MS, topic=name))
    ours = [r for r in records if r.collector is not None]
    assert [r.value for r in records if r.collector is None] == [b"{}"] * 30
    assert {r.collector for r in ours} == {name}
    assert sorted(r.seq or 0 for r in ours) == list(range(101, 301))
    by_seq = {r.seq: r for r in ours}
    for part in (batch(101, 100), batch(201, 50, time_ms=NOW_MS - 3_600_000), batch(251, 50, time_ms=NOW_MS + 1)):
        for tick, payload in zip(part.ticks, part.payloads, strict=True):
            assert by_seq[tick.seq] == (tick.symbol.encode(), payload, tick.timestamp_ms, name, tick.seq)
    for symbol in SYMBOLS:
        seqs = [r.seq or 0 for r in ours if r.key == symbol.encode()]
        assert seqs == sorted(seqs)
    assert await read(Archive(access(address), since_ms=9_999_999_999_999, topic=name)) == []
    assert len(await read(Archive(access(address), since_ms=0, topic=name))) == 330


@pytest.mark.parametrize(("end", "expected"), [("commit", 10), ("abort", 0)])
async def test_a_reader_waits_for_the_end_of_what_is_open(address: str, name: str, end: str, expected: int) -> None:
    await in_thread(lambda: make_topic(address, name))
    somebody = await in_thread(lambda: Transactions(address, name))
    await in_thread(lambda: somebody.add(10))
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(0.3)
            await in_thread(getattr(somebody, end))

        nursery.start_soon(later)
        async with Archive(access(address), since_ms=0, topic=name) as archive:
            assert sum([len(block) async for block in archive]) == expected
            assert archive.read == archive.total == 10
    await in_thread(somebody.close)


async def test_a_reader_is_told_how_far_the_archive_is(address: str, name: str) -> None:
    archive = Archive(access(address), since_ms=0, topic=name)
    with pytest.raises(StoreMisconfigured, match=f"has no topic {name}: no collector has written there"):
        await read(archive)
    assert await archive.cursor_of(name) is None
    sink = sink_of(address, name)
    async with opened(sink):
        assert await archive.cursor_of(name) is None
        await sink.write(batch(1, 100))
        assert await archive.cursor_of(name) == 100
        assert len(await read(archive)) == 100


async def test_a_reader_that_leaves_in_the_middle_leaves_nothing_behind(address: str, name: str) -> None:
    sink = sink_of(address, name)
    async with opened(sink):
        await sink.write(batch(1, 20_000))
    archive = Archive(access(address), since_ms=0, topic=name)
    async with archive:
        async for block in archive:
            assert 0 < len(block) <= 5000
            break
        assert 0 < archive.read < archive.total
    somebody = await in_thread(lambda: Transactions(address, name))
    await in_thread(lambda: somebody.add(10))
    with trio.move_on_after(1.0) as waiting:
        await read(Archive(access(address), since_ms=0, topic=name))
    assert waiting.cancelled_caught
    await in_thread(somebody.abort)
    await in_thread(somebody.close)
