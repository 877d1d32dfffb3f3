"""The Kafka sink against real brokers of the embedded kind: what it does, not how durable they are."""

import json
import os
import socket
import string
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType

from polygon_live.embedded import Broker
from polygon_live.embedded.server import free_port
from polygon_live.engines.kafka import TOPIC, connections, trim_topic
from polygon_live.engines.kafka import access as access_module
from polygon_live.engines.kafka.access import administration
from polygon_live.engines.kafka.topic import FOR_EVER
from polygon_live.errors import RowsRefused, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch, Tick, encode
from polygon_live.sink import Identity
from polygon_live.sinks.kafka import KafkaSink
from polygon_live.standin import market
from tests import servers, writers
from tests.comparing import archived_as_written
from tests.delivering import Delivery
from tests.reading import in_archive
from tests.waiting import PATIENCE_SECONDS, in_thread
from tests.wires import Ends, Wire
from tests.writers import access

pytestmark = pytest.mark.engine
NOW_MS = 1_780_401_600_000
SYMBOLS = ("EURUSD", "XAUUSD", "GBPUSD", "USDJPY", "AUDUSD")


class Impatient(KafkaSink):
    OPEN_SECONDS = 4.0
    APPEND_SECONDS = 2.0


def sink_of(address: str, collector: str = "test-1") -> KafkaSink:
    return Impatient(access(address), Identity(collector, "journal-1", "host-1"))


def batch(first: int, count: int) -> Batch:
    ticks = [
        Tick(SYMBOLS[n % 5], 1.1, 1.2, 1.15, 0.1, NOW_MS, NOW_MS, 48, "polygon_websocket", "quote", n, NOW_MS)
        for n in range(first, first + count)
    ]
    return Batch(first - 1, ticks, [encode(t) for t in ticks])


@asynccontextmanager
async def opened(address: str, collector: str = "test-1") -> AsyncIterator[KafkaSink]:
    sink = sink_of(address, collector)
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            await sink.open()
            yield sink
        finally:
            with trio.CancelScope(shield=True):
                await sink.aclose()


async def seqs_in(address: str) -> list[int]:
    records = await in_thread(lambda: in_archive(address))
    return [json.loads(record.value)["seq"] for record in records]


def make_topic(address: str, **config: str) -> None:
    with administration(access(address), name="test") as admin:
        configs = {**FOR_EVER, **config}
        admin.create_topics({TOPIC: {"num_partitions": 2, "replication_factor": 1, "configs": configs}})


@pytest.mark.usefixtures("either")
async def test_real_ticks_arrive_byte_for_byte_in_order_per_symbol(
    broker: Broker, real_ticks: tuple[Path, ...]
) -> None:
    quotes = [q for path in real_ticks for q in market.real_ticks(path, NOW_MS)][-7000:]
    ticks = [
        Tick(q.p.replace("/", ""), q.b, q.a, q.b, q.a - q.b, q.t, q.t, 48, "p", "q", n, NOW_MS)
        for n, q in enumerate(quotes, 1)
    ]
    whole = Batch(0, ticks, [encode(t) for t in ticks])
    async with opened(broker.address) as sink:
        written = await sink.write(whole)
        assert written.delivered == len(ticks)
        assert (await sink.open()).cursor == len(ticks)
    records = await in_thread(lambda: in_archive(broker.address))
    archived_as_written(records, whole)


async def test_a_broker_that_hangs_is_met_by_one_client_and_not_by_each(broker: Broker) -> None:
    """As the kernel of a frozen machine: it takes connections, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        both = f"127.0.0.1:{hanging.getsockname()[1]},{broker.address}"
        sinks = [sink_of(both, f"test-{n}") for n in range(3)]
        for sink in sinks:
            await sink.open()
            await sink.write(batch(1, 10))
            await sink.check()
            await sink.aclose()
        hanging.setblocking(False)
        dialled = 0
        with suppress(BlockingIOError):
            while True:
                hanging.accept()[0].close()
                dialled += 1
    assert dialled <= 1


class Slow(Wire):
    async def up(self, chunk: bytes, ends: Ends) -> None:
        await trio.sleep(0.3)
        await super().up(chunk, ends)


async def test_brokers_that_refuse_get_no_more_time_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "REQUEST_MS", 300)
    monkeypatch.setattr(connections._Connections, "_limit_ms", 100)
    nobody = ",".join(f"127.0.0.1:{free_port()}" for _ in range(2))

    def fails() -> None:
        with pytest.raises(errors.KafkaError), administration(access(nobody), name="test"):
            pass

    for _ in range(3):
        await in_thread(fails)
    assert connections._Connections._limit_ms == 100


async def test_where_every_broker_is_slow_they_get_more_time(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "REQUEST_MS", 1000)
    monkeypatch.setattr(connections._Connections, "_limit_ms", 100)
    async with Slow(broker.port).laid() as one, Slow(broker.port).laid() as two:

        def reached() -> bool:
            with suppress(errors.KafkaError), administration(access(f"127.0.0.1:{one},127.0.0.1:{two}"), name="test"):
                return True
            return False

        assert not await in_thread(reached)
        with trio.fail_after(PATIENCE_SECONDS):
            while not await in_thread(reached):
                pass


async def test_the_topic_is_made_as_an_archive_by_two_at_once(broker: Broker) -> None:
    async with trio.open_nursery() as nursery:
        sinks = [sink_of(broker.address, f"test-{n}") for n in range(2)]
        for sink in sinks:
            nursery.start_soon(sink.open)
    for sink in sinks:
        assert sink.facts().complaints == ()
        assert sink.facts().about["servers_known"] == broker.address
        assert sink.facts().about["partitions"] == 6
        assert sink.facts().about["copies"] == "single copy"
        assert sink.facts().about["verified"] is True
        await sink.aclose()

    def configuration() -> Any:
        with administration(access(broker.address), name="test") as admin:
            resource = ConfigResource(ConfigResourceType.TOPIC, TOPIC)
            return admin.describe_configs([resource], config_filter="all")["topic"][TOPIC]

    found = await in_thread(configuration)
    assert {name: found[name]["value"] for name in ("cleanup.policy", "retention.ms", "retention.bytes")} == {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
    }
    assert found["unclean.leader.election.enable"]["value"] == "false"


async def test_a_topic_that_expires_is_used_and_complained_about(broker: Broker) -> None:
    await in_thread(lambda: make_topic(broker.address, **{"retention.ms": "604800000"}))
    async with opened(broker.address) as sink:
        (complaint,) = sink.facts().complaints
        assert "tick_archive is not the archive it should be: retention.ms is 604800000, not -1" in complaint
        assert sink.facts().about["partitions"] == 2
        await sink.write(batch(1, 10))


async def test_a_compacted_topic_is_refused(broker: Broker) -> None:
    await in_thread(lambda: make_topic(broker.address, **{"cleanup.policy": "compact"}))
    with pytest.raises(StoreMisconfigured, match="tick_archive is compacted, so it would keep one tick a symbol"):
        async with opened(broker.address):
            pass


async def test_nobody_there(own_broker: Callable[..., Broker]) -> None:
    nowhere = own_broker(start=False)
    with pytest.raises(StoreUnavailable, match=f"Kafka {nowhere.address}"):
        async with opened(nowhere.address):
            pass
    await in_thread(nowhere.start)
    async with opened(nowhere.address) as sink:
        await sink.write(batch(1, 10))


@pytest.mark.usefixtures("either")
async def test_a_broker_that_hangs_loses_and_doubles_nothing(own_broker: Callable[..., Broker]) -> None:
    broker = own_broker()
    async with opened(broker.address) as sink:
        await sink.write(batch(1, 1000))
        await in_thread(broker.pause)
        with pytest.raises(StoreUnavailable, match="has not acknowledged 1000 ticks in 2 s"):
            await sink.write(batch(1001, 1000))
        with pytest.raises(StoreUnavailable):
            await sink.open()
        await in_thread(broker.resume)
        cursor = (await sink.open()).cursor
        assert cursor in {1000, 2000}
        await sink.write(batch(cursor + 1, 3000 - cursor))
    assert sorted(await seqs_in(broker.address)) == list(range(1, 3001))


@pytest.mark.usefixtures("either")
async def test_a_record_too_large_is_set_aside_alone(broker: Broker) -> None:
    await in_thread(lambda: make_topic(broker.address, **{"max.message.bytes": "2000"}))

    def ticks(first: int, count: int) -> Batch:
        plain = batch(first, count)
        payloads = [p + b" " * 5000 if t.seq == 17 else p for t, p in zip(plain.ticks, plain.payloads, strict=True)]
        return Batch(plain.after, plain.ticks, payloads)

    async with opened(broker.address) as sink:
        with pytest.raises(RowsRefused, match=r"MessageSizeTooLargeError: 5\d\d\d bytes, and tick_archive takes 2000"):
            await sink.write(ticks(1, 30))
        assert (await sink.open()).cursor is None
    delivery = Delivery(sink_of(broker.address), ticks)
    delivery.offered, delivery.ended = 30, True
    with trio.fail_after(PATIENCE_SECONDS):
        await delivery.run()
        await delivery.sink.aclose()
    assert list(delivery.set_aside) == [17]
    assert sorted(await seqs_in(broker.address)) == [seq for seq in range(1, 31) if seq != 17]


@pytest.mark.usefixtures("either")
async def test_every_tick_comes_through_hangs_once_and_in_order(own_broker: Callable[..., Broker]) -> None:
    broker = own_broker()
    delivery = Delivery(sink_of(broker.address), batch)
    most = 2000

    async def offer() -> None:
        while delivery.offered < 10_000:
            delivery.offered = min(delivery.offered + 100, most)
            await trio.sleep(0.01)
        delivery.ended = True

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delivery.run)
            nursery.start_soon(offer)
            for at, more in ((1000, 6000), (4000, 10_000)):
                await delivery.reaches(at)
                await in_thread(broker.pause)
                most = more  # something is left to be sent, however fast it is
                await delivery.fails()
                await in_thread(broker.resume)
        await delivery.sink.aclose()
    found: dict[str, list[int]] = defaultdict(list)
    for record in await in_thread(lambda: in_archive(broker.address)):
        found[record.key.decode()].append(json.loads(record.value)["seq"])
    assert sum(map(len, found.values())) == 10_000
    for n, symbol in enumerate(SYMBOLS):
        assert found[symbol] == [seq for seq in range(1, 10_001) if seq % 5 == n]


async def test_after_a_restart_of_the_broker_delivery_goes_on(own_broker: Callable[..., Broker]) -> None:
    """What this broker has acknowledged before it ended, it may forget: the cursor tells."""
    broker = own_broker()
    delivery = Delivery(sink_of(broker.address), batch)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delivery.run)
            for _ in range(2):
                delivery.offered += 1000
                await delivery.reaches(delivery.offered)
                await in_thread(broker.stop)
                delivery.offered += 1000
                await delivery.fails()
                await in_thread(broker.start)
            delivery.ended = True
        await delivery.sink.aclose()
    assert sorted(await seqs_in(broker.address)) == list(range(1, 4001))


async def test_trimming_keeps_the_newest(broker: Broker) -> None:
    await trim_topic(access(broker.address), 100)  # nothing there yet
    async with opened(broker.address) as sink:
        await sink.write(batch(1, 5000))
    await trim_topic(access(broker.address), 1000)
    left = await seqs_in(broker.address)
    assert 900 <= len(left) <= 1100
    assert max(left) == 5000
    await trim_topic(access(broker.address), 2000)
    assert await seqs_in(broker.address) == left


@pytest.mark.parametrize("first", [writers.PYTHON, writers.CONFLUENT])
async def test_both_libraries_choose_the_same_partition(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Or one symbol would lose its order on the day of the change."""
    letters = string.ascii_uppercase
    symbols = [a + b + c + "USD" for a in letters[:8] for b in letters for c in letters[:2]] + [
        "",
        "x",
        "äöü",
        "KEY" * 9,
    ]

    def of_symbols(after: int) -> Batch:
        plain = batch(after + 1, len(symbols))
        ticks = [msgspec.structs.replace(t, symbol=s) for t, s in zip(plain.ticks, symbols, strict=True)]
        return Batch(plain.after, ticks, plain.payloads)

    second = {writers.PYTHON: writers.CONFLUENT, writers.CONFLUENT: writers.PYTHON}[first]
    for n, library in enumerate((first, second)):
        monkeypatch.setenv(writers.VARIABLE, library)
        async with opened(broker.address) as sink:  # the second goes on where the first has stopped
            assert library.partition("-")[0] in str(sink.facts().about["client"])
            await sink.write(of_symbols(n * len(symbols)))
    found: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for record in await in_thread(lambda: in_archive(broker.address)):
        found[record.key].append((record.partition, json.loads(record.value)["seq"]))
    assert set(found) == {symbol.encode() for symbol in symbols}
    for places in found.values():
        (one, seq), (other, later) = places
        assert one == other
        assert later == seq + len(symbols)
    assert {place for places in found.values() for place, _ in places} == set(range(6))


LEAVES = """
import os, signal, sys, trio
from tests.test_kafka import batch, sink_of
async def main():
    sink = sink_of(sys.argv[1])
    await sink.open()
    await sink.write(batch(1, 100))
    os.kill(int(sys.argv[2]), signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.write, batch(101, 5000))
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    if sys.argv[3] == "close":
        await sink.aclose()
trio.run(main)
"""


@pytest.mark.parametrize("how", ["close", "abandon"])
@pytest.mark.usefixtures("either")
def test_a_process_ends_in_silence_beside_a_broker_that_hangs(own_broker: Callable[..., Broker], how: str) -> None:
    broker = own_broker()
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", LEAVES, broker.address, str(broker.pid), how],
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, servers.SESSION_VARIABLE: servers.SESSION},
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


@pytest.mark.usefixtures("either")
async def test_a_topic_deleted_while_a_batch_is_on_its_way_is_no_end(broker: Broker) -> None:
    def delete_and_make() -> None:
        with administration(access(broker.address), name="test") as admin:
            admin.delete_topics([TOPIC])
        make_topic(broker.address)  # with fewer partitions

    async with opened(broker.address) as sink:
        await sink.write(batch(1, 1000))
        await in_thread(delete_and_make)
        await sink.open()
        await sink.write(batch(1001, 100))
    assert sorted(await seqs_in(broker.address)) == list(range(1001, 1101))
