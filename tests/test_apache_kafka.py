"""The Kafka sink against the real Apache Kafka: brokers killed under load, too few replicas, TLS and logins."""

import gc
import itertools
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trustme
from kafka import KafkaConsumer, errors
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)
from kafka.protocol.metadata import CoordinatorType

from polygon_live.config import KafkaAccess, settings_from
from polygon_live.engines.kafka import Archive
from polygon_live.engines.kafka import access as access_module
from polygon_live.engines.kafka import client as client_module
from polygon_live.engines.kafka import topic as topic_module
from polygon_live.engines.kafka.access import administration
from polygon_live.engines.kafka.confluent import ConfluentProducer
from polygon_live.engines.kafka.connections import connected
from polygon_live.engines.kafka.cursor import Cursor, name_of
from polygon_live.engines.kafka.producer import PythonProducer
from polygon_live.engines.kafka.producing import Purpose
from polygon_live.engines.kafka.topic import DEFAULT_MOST_BYTES, TopicAdmin
from polygon_live.errors import RowsRefused, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch, Tick, encode
from polygon_live.sink import Identity
from polygon_live.sinks.kafka import KafkaSink
from polygon_live.standin import market
from tests import servers
from tests.comparing import archived_as_written
from tests.delivering import Delivery
from tests.engines.kafka import Cluster, Kafka, Lock, cluster
from tests.reading import in_archive
from tests.waiting import PATIENCE_SECONDS, in_thread, until
from tests.writers import CONFLUENT, PYTHON, access, library

pytestmark = pytest.mark.fetched
NOW_MS = int(time.time() * 1000)
"""The real time: a broker that is killed forgets whose records it took if they are more than a day old."""
SYMBOLS = ("EURUSD", "XAUUSD", "GBPUSD", "USDJPY", "AUDUSD", "NZDUSD", "USDCHF", "USDCAD")
ALICE, BOB, DORA, ERIN = "alice-77-secret", "bob-88-secret", "dora-66-secret", "erin-55-secret"
_topics = (f"archive-{n}" for n in itertools.count())


class Impatient(KafkaSink):
    """On a topic of its own; gives up waiting sooner."""

    OPEN_SECONDS = 8.0
    APPEND_SECONDS = 4.0

    def __init__(self, access: KafkaAccess, topic: str, collector: str = "test-1") -> None:
        super().__init__(access, Identity(collector, "journal-1", "host-1"), topic=topic)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One broker for all: never to be stopped, paused or killed."""
    with servers.servers(Kafka, tmp_path_factory.mktemp("apache")) as make:
        yield make()


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[Callable[..., Kafka]]:
    with servers.servers(Kafka, tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def _three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("three")) as made:
        yield servers.running(made)


@pytest.fixture
def three(_three: Cluster) -> Cluster:
    """Three brokers, all of them up, whatever the last test did to them."""
    _three.resume()
    _three.start()
    return _three


@pytest.fixture
def topic() -> str:
    """A name that no other test uses."""
    return next(_topics)


def batch(first: int, count: int) -> Batch:
    ticks = [
        Tick(SYMBOLS[n % 8], 1.1, 1.2, 1.15, 0.1, NOW_MS + n, NOW_MS + n, 48, "polygon_websocket", "quote", n, NOW_MS)
        for n in range(first, first + count)
    ]
    return Batch(first - 1, ticks, [encode(t) for t in ticks])


@asynccontextmanager
async def opened(sink: KafkaSink) -> AsyncIterator[KafkaSink]:
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            await sink.open()
            yield sink
        finally:
            with trio.CancelScope(shield=True):
                await sink.aclose()


async def under_load(address: str, topic: str, what: Callable[[Delivery], Awaitable[None]]) -> None:
    """Do ``what`` while ticks come without a pause; then all must be there, once each and in order."""
    delivery = Delivery(Impatient(access(address), topic, f"collector-of-{topic}"), batch)

    async def offer() -> None:
        while True:
            delivery.offered += 20
            await trio.sleep(0.02)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delivery.run)
            async with trio.open_nursery() as feed:
                feed.start_soon(offer)
                await delivery.reaches(300)
                await what(delivery)
                await delivery.reaches(delivery.offered)
                feed.cancel_scope.cancel()
            delivery.ended = True
        await delivery.sink.aclose()
    assert not delivery.set_aside
    once_each_and_in_order(await in_thread(lambda: in_archive(address, topic)), range(1, delivery.offered + 1))


def once_each_and_in_order(records: list[Any], seqs: range) -> None:
    found: dict[str, list[int]] = defaultdict(list)
    for record in records:
        found[record.key.decode()].append(json.loads(record.value)["seq"])
    assert sum(map(len, found.values())) == len(seqs)
    for n, symbol in enumerate(SYMBOLS):
        assert found[symbol] == [seq for seq in seqs if seq % 8 == n]


def make_topic(address: str, topic: str, *, partitions: int = 2, copies: int = 1, config: Mapping[str, str]) -> None:
    with administration(access(address), name="test") as admin:
        wanted = {"num_partitions": partitions, "replication_factor": copies, "configs": dict(config)}
        admin.create_topics({topic: wanted}, wait_for_metadata=True)


def configuration(address: str, topic: str) -> dict[str, str]:
    with administration(access(address), name="test", kind=TopicAdmin) as admin:
        return topic_module.configuration(admin, topic)


def leaders(address: str, topic: str) -> list[int]:
    with administration(access(address), name="test") as admin:
        return [p["leader_id"] for p in admin.describe_topics([topic])[0]["partitions"]]


# One broker ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either")
async def test_real_ticks_arrive_byte_for_byte_in_order_per_symbol(
    node: Kafka, topic: str, real_ticks: tuple[Path, ...]
) -> None:
    quotes = [q for path in real_ticks for q in market.real_ticks(path, NOW_MS - 2 * 86_400_000)][-7000:]
    ticks = [
        Tick(q.p.replace("/", ""), q.b, q.a, q.b, q.a - q.b, q.t, q.t, 48, "p", "q", n, NOW_MS)
        for n, q in enumerate(quotes, 1)
    ]
    whole = Batch(0, ticks, [encode(t) for t in ticks])
    async with opened(Impatient(access(node.address), topic)) as sink:
        assert (await sink.write(whole)).delivered == len(ticks)
        assert (await sink.open()).cursor == len(ticks)
    records = await in_thread(lambda: in_archive(node.address, topic))
    archived_as_written(records, whole)


async def test_the_topic_is_made_as_an_archive_by_two_at_once(node: Kafka, topic: str) -> None:
    sinks = [Impatient(access(node.address), topic, f"test-{n}") for n in range(2)]
    async with trio.open_nursery() as nursery:
        for sink in sinks:
            nursery.start_soon(sink.open)
    for sink in sinks:
        assert sink.facts().complaints == ()
        assert sink.facts().about == {
            "client": f"kafka-python {version('kafka-python')}",
            "servers_known": node.address,
            "topic": topic,
            "partitions": 6,
            "copies": "single copy",
            "verified": True,
            "min_insync_replicas": "1",
        }
        await sink.aclose()
    found = await in_thread(lambda: configuration(node.address, topic))
    wanted = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "message.timestamp.type": "CreateTime",
        "unclean.leader.election.enable": "false",
    }
    assert {name: found[name] for name in wanted} == wanted


async def test_a_broker_that_has_not_heard_of_a_new_topic_is_asked_again(node: Kafka, topic: str) -> None:
    class Early(TopicAdmin):
        def describe_configs(self, *given: Any, **named: Any) -> Any:
            try:
                return super().describe_configs(*given, **named)
            except errors.UnknownTopicOrPartitionError:
                make_topic(node.address, topic, config={"retention.ms": "-1"})
                raise

    def found() -> Mapping[str, str]:
        with administration(access(node.address), name="test", kind=Early) as admin:
            return topic_module.configuration(admin, topic)

    assert (await in_thread(found))["retention.ms"] == "-1"


async def test_a_topic_that_is_no_archive_is_used_and_complained_about(node: Kafka, topic: str) -> None:
    config = {"retention.ms": "604800000", "message.timestamp.type": "LogAppendTime"}
    await in_thread(lambda: make_topic(node.address, topic, config=config))
    async with opened(Impatient(access(node.address), topic)) as sink:
        (complaint,) = sink.facts().complaints
        assert complaint == (
            f"{topic} is not the archive it should be: retention.ms is 604800000, not -1; message.timestamp.type is "
            "LogAppendTime, not CreateTime: kafka-configs --alter"
        )
        await sink.write(batch(1, 10))


async def test_a_topic_that_becomes_no_archive_while_ticks_flow_is_complained_about(
    node: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "LOOK_SECONDS", 0.0)
    seqs = itertools.count(1)

    def alter(**config: str) -> None:
        with administration(access(node.address), name="test") as admin:
            names = {name.replace("_", "."): value for name, value in config.items()}
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, names)])

    async with opened(Impatient(access(node.address), topic)) as sink:
        await sink.write(batch(next(seqs), 1))
        assert sink.facts().complaints == ()
        await in_thread(lambda: alter(retention_ms="3600000"))
        while not sink.facts().complaints:
            await sink.write(batch(next(seqs), 1))
        assert "retention.ms is 3600000, not -1" in sink.facts().complaints[0]
        await in_thread(lambda: alter(cleanup_policy="compact"))

        async def go_on() -> None:
            while True:
                await sink.write(batch(next(seqs), 1))

        with pytest.raises(StoreMisconfigured, match=f"{topic} is compacted"):
            await go_on()


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
async def test_a_compacted_topic_is_refused(node: Kafka, topic: str, policy: str) -> None:
    await in_thread(lambda: make_topic(node.address, topic, config={"cleanup.policy": policy}))
    with pytest.raises(StoreMisconfigured, match=f"{topic} is compacted, so it would keep one tick a symbol"):
        async with opened(Impatient(access(node.address), topic)):
            pass


@pytest.mark.usefixtures("either")
async def test_a_broker_killed_under_load_and_returned(own_node: Callable[..., Kafka], topic: str) -> None:
    broker = own_node()

    async def lose(delivery: Delivery) -> None:
        await in_thread(broker.kill)
        await delivery.fails()
        await in_thread(broker.start)

    await under_load(broker.address, topic, lose)


async def test_a_broker_that_hangs_under_load(own_node: Callable[..., Kafka], topic: str) -> None:
    broker = own_node()

    async def hang(delivery: Delivery) -> None:
        await in_thread(broker.pause)
        await delivery.fails()  # with the words of the step that hangs
        await in_thread(broker.resume)

    await under_load(broker.address, topic, hang)


@pytest.mark.parametrize(
    ("either", "how"), [(PYTHON, "request"), (PYTHON, "answer"), (CONFLUENT, "request")], indirect=["either"]
)
@pytest.mark.usefixtures("either")
async def test_a_commit_of_which_nobody_knows(
    own_node: Callable[..., Kafka], topic: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The broker hangs before the commit reaches it, or before its answer leaves: it is completed later, or never."""
    broker = own_node()
    real = PythonProducer._see_done
    hang = threading.Event()

    def caught(self: PythonProducer, begin: Callable[[], Any], seconds: float) -> None:
        if begin == self._transaction_manager.begin_commit and hang.is_set():
            hang.clear()
            if how == "request":
                broker.pause()
            else:
                begin_commit = begin

                def begin() -> Any:
                    begin_commit()
                    self._sender.wakeup()
                    time.sleep(0.003)  # it is under way, somewhere
                    broker.pause()
                    return Unheard()

        real(self, begin, seconds)

    class Unheard:
        """An answer that does not come, though the broker may have given it."""

        def wait(self, milliseconds: float) -> bool:
            time.sleep(milliseconds / 1000)
            return False

    class Caught:
        """The producer of librdkafka, which can't be changed itself."""

        def __init__(self, producer: Any) -> None:
            self._producer = producer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._producer, name)

        def commit_transaction(self, timeout: float) -> None:
            if hang.is_set():
                hang.clear()
                broker.pause()
            self._producer.commit_transaction(timeout)

    monkeypatch.setattr(PythonProducer, "_see_done", caught)
    monkeypatch.setattr(ConfluentProducer, "_producer", property(lambda self: Caught(self._held[0])))

    async def unclear(delivery: Delivery) -> None:
        for _ in range(2):
            hang.set()
            await delivery.fails("have not answered for the transaction")
            await in_thread(broker.resume)
            await delivery.reaches(delivery.offered)

    await under_load(broker.address, topic, unclear)


def altered(seq: int, change: Callable[[Tick, bytes], tuple[Tick, bytes]]) -> Callable[[int, int], Batch]:
    """Batches in which one tick is not as the others."""

    def ticks(first: int, count: int) -> Batch:
        plain = batch(first, count)
        pairs = [change(t, p) if t.seq == seq else (t, p) for t, p in zip(plain.ticks, plain.payloads, strict=True)]
        return Batch(plain.after, [t for t, _ in pairs], [p for _, p in pairs])

    return ticks


async def delivered(address: str, topic: str, ticks: Callable[[int, int], Batch]) -> Delivery:
    """Forty of them."""
    delivery = Delivery(Impatient(access(address), topic, f"collector-of-{topic}"), ticks)
    delivery.offered, delivery.ended = 40, True
    with trio.fail_after(PATIENCE_SECONDS):
        await delivery.run()
        await delivery.sink.aclose()
    return delivery


@pytest.mark.parametrize(
    ("either", "size"),
    [*((PYTHON, size) for size in (1500, 1870, 1900, 5000, 2**20 + 2000)), (CONFLUENT, 1500), (CONFLUENT, 1900)],
    indirect=["either"],
)
@pytest.mark.usefixtures("either")
async def test_a_record_too_large_is_set_aside_alone(node: Kafka, topic: str, size: int) -> None:
    """1870 bytes and more are under the topic's limit by themselves, and over it with what a request adds."""
    await in_thread(lambda: make_topic(node.address, topic, partitions=6, config={"max.message.bytes": "1950"}))
    ticks = altered(18, lambda tick, payload: (tick, payload + b" " * (size - len(payload))))
    delivery = await delivered(node.address, topic, ticks)
    fits = size < 1850
    assert list(delivery.set_aside) == ([] if fits else [18])
    assert delivery.errors == []
    seqs = [json.loads(record.value)["seq"] for record in await in_thread(lambda: in_archive(node.address, topic))]
    assert sorted(seqs) == [seq for seq in range(1, 41) if fits or seq != 18]


@pytest.mark.usefixtures("either")
async def test_a_limit_that_is_lowered_while_running_is_met_by_smaller_batches(node: Kafka, topic: str) -> None:
    """What was too large for the broker leaves nothing behind for committed readers, and the cursor where it was."""
    async with opened(Impatient(access(node.address), topic)) as sink:
        await sink.write(batch(1, 10))

        def lower() -> None:
            with administration(access(node.address), name="test") as admin:
                admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "1950"})])

        await in_thread(lower)
        with pytest.raises(RowsRefused, match="MessageSizeTooLarge"):
            await sink.write(batch(11, 200))
        await sink.write(batch(11, 20))
        assert (await sink.open()).cursor == 30
        await sink.write(batch(31, 200))
    once_each_and_in_order(await in_thread(lambda: in_archive(node.address, topic)), range(1, 231))


@pytest.mark.usefixtures("either")
async def test_a_time_that_the_broker_refuses_is_set_aside_alone(node: Kafka, topic: str) -> None:
    """Apache Kafka takes no record from more than an hour ahead of its own clock."""
    ahead_ms = int(time.time() * 1000) + 86_400_000
    ticks = altered(9, lambda tick, payload: (msgspec.structs.replace(tick, timestamp_ms=ahead_ms), payload))
    delivery = await delivered(node.address, topic, ticks)
    assert list(delivery.set_aside) == [9]
    assert "InvalidTimestampError" in delivery.set_aside[9]
    assert delivery.errors == []
    seqs = [json.loads(record.value)["seq"] for record in await in_thread(lambda: in_archive(node.address, topic))]
    assert sorted(seqs) == sorted(set(range(1, 41)) - {9})


def test_failed_attempts_leave_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "kafka")  # a record that is kept keeps an error, and that a socket
    monkeypatch.setattr(access_module, "REQUEST_MS", 600)
    nowhere = access(Kafka(tmp_path).address)
    settings = access_module.settings_of(nowhere, name="test")
    purpose = Purpose(nowhere, "test", "test-1", "polygon-live.test-1", "t", DEFAULT_MOST_BYTES, 1.0)

    def opened() -> int:
        gc.collect()  # what the library leaves to it
        return len(list(Path("/proc/self/fd").iterdir()))

    before, threads = opened(), threading.active_count()
    for make in (KafkaAdminClient, KafkaConsumer, partial(PythonProducer, purpose)):
        with pytest.raises(errors.KafkaConnectionError, match="ECONNREFUSED"):
            connected(make, settings)
    fast = ConfluentProducer(purpose)
    with pytest.raises(errors.KafkaTimeoutError, match="have not answered for the transaction"):
        fast.initialize(0.3)
    assert "Connection refused" in fast.complaint
    fast.close()
    patience = time.monotonic() + PATIENCE_SECONDS
    while (opened() > before or threading.active_count() > threads) and time.monotonic() < patience:
        time.sleep(0.1)  # what an earlier test left may be on its way out, or ours
    assert opened() <= before
    assert threading.active_count() <= threads


# Three brokers ------------------------------------------------------------------------------------------------------


async def test_three_brokers_get_three_copies_and_promise_two(three: Cluster, topic: str) -> None:
    async with opened(Impatient(access(three.address), topic)) as sink:
        assert sink.facts().complaints == ()
        assert sink.facts().about["copies"] == 3
        assert sink.facts().about["min_insync_replicas"] == "2"
    found = await in_thread(lambda: configuration(three.address, topic))
    assert (found["min.insync.replicas"], found["unclean.leader.election.enable"]) == ("2", "false")


async def test_fewer_copies_than_brokers_are_complained_about(three: Cluster, topic: str) -> None:
    archive = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    await in_thread(lambda: make_topic(three.address, topic, copies=1, config=archive))
    async with opened(Impatient(access(three.address), topic)) as sink:
        (complaint,) = sink.facts().complaints
        assert complaint.startswith(f"{topic} has 1 of the 3 copies that 3 brokers could hold")


@pytest.mark.parametrize(
    ("either", "how"),
    [(PYTHON, "kill"), (PYTHON, "pause"), (CONFLUENT, "kill"), (CONFLUENT, "pause")],
    indirect=["either"],
)
@pytest.mark.usefixtures("either")
async def test_the_leader_lost_under_load_costs_nothing(three: Cluster, topic: str, how: str) -> None:
    async def lose(delivery: Delivery) -> None:
        leader = three[(await in_thread(lambda: leaders(three.address, topic)))[0]]
        await in_thread(leader.kill if how == "kill" else leader.pause)
        await delivery.reaches(delivery.offered + 600)  # by the others
        assert not leader.running or how == "pause"
        await in_thread(leader.start if how == "kill" else leader.resume)

    await under_load(three.address, topic, lose)


async def test_too_few_replicas_are_named_and_nothing_is_lost_when_they_return(three: Cluster, topic: str) -> None:
    """The topic asks for all three, so that one lost broker is too many: its controllers still are a majority."""
    archive = {"retention.ms": "-1", "min.insync.replicas": "3"}
    await in_thread(lambda: make_topic(three.address, topic, partitions=6, copies=3, config=archive))

    async def lose(delivery: Delivery) -> None:
        await in_thread(three[2].kill)
        await delivery.fails("6 of 6 partitions of " + topic + " have too few replicas in sync to be written to: 3 are")
        await in_thread(three[2].start)

    await under_load(three.address, topic, lose)


async def test_two_of_three_lost_and_returned(three: Cluster, topic: str) -> None:
    async def lose(delivery: Delivery) -> None:
        await both(three[1].kill, three[3].kill)
        await delivery.fails("has not acknowledged")
        await both(three[1].start, three[3].start)

    await under_load(three.address, topic, lose)


async def test_the_one_that_keeps_the_transactions_lost_at_a_commit(
    three: Cluster, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one ends what it had begun, or had decided and not yet done."""
    real = PythonProducer.commit
    strike = threading.Event()

    def struck(self: PythonProducer, cursor: Cursor, seconds: float) -> None:
        if strike.is_set():
            strike.clear()
            coordinator = self._transaction_manager.coordinator(CoordinatorType.TRANSACTION)
            three[int(str(coordinator).rpartition("-")[2])].kill()
        real(self, cursor, seconds)

    monkeypatch.setattr(PythonProducer, "commit", struck)

    async def lose(delivery: Delivery) -> None:
        strike.set()
        await until(lambda: not strike.is_set())
        await delivery.reaches(delivery.offered + 600)
        await in_thread(three.start)

    await under_load(three.address, topic, lose)


@pytest.mark.parametrize("either", [CONFLUENT], indirect=True)
@pytest.mark.usefixtures("either")
async def test_the_one_that_keeps_the_cursors_lost_and_forgotten_before_a_commit(
    three: Cluster, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka waits for that one for ever, whatever limit it is given."""
    real = ConfluentProducer.commit
    strike = threading.Event()

    def struck(self: ConfluentProducer, cursor: Cursor, seconds: float) -> None:
        if strike.is_set():
            strike.clear()
            keeper = keeper_of(three.address, name_of(f"collector-of-{topic}"))
            three[keeper].kill()
            while keeper in self._producer.list_topics(timeout=5).brokers:
                time.sleep(0.1)
        real(self, cursor, seconds)

    monkeypatch.setattr(ConfluentProducer, "commit", struck)

    async def lose(delivery: Delivery) -> None:
        strike.set()
        await until(lambda: not strike.is_set())
        await delivery.reaches(delivery.offered + 600)
        await in_thread(three.start)

    await under_load(three.address, topic, lose)


def keeper_of(address: str, group: str) -> int:
    """The broker that keeps what this group has committed."""
    with administration(access(address), name="test") as admin:
        found: Mapping[str, int] = admin._manager.run(admin._find_coordinator_ids, [group])
        return found[group]


async def both(*what: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        for one in what:
            nursery.start_soon(in_thread, one)


# TLS and logins -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Kafka]:
    users = {"alice": ALICE, "bob": BOB, "dora": DORA, "erin": ERIN}
    lock = Lock(authority.issue_cert("127.0.0.1"), users, powerful="alice")

    def locked_kafka(folder: Path) -> Kafka:
        return Kafka(folder, lock=lock)

    with servers.servers(locked_kafka, tmp_path_factory.mktemp("locked")) as make:
        yield make()


@contextmanager
def environment(broker: Kafka, authority: trustme.CA, **changes: str) -> Iterator[KafkaAccess]:
    """What ``settings_from`` makes of these variables; alice's, unless changed."""
    with authority.cert_pem.tempfile() as ca_file:
        names = {
            "KAFKA_BROKERS": broker.address,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": "alice",
            "KAFKA_SASL_PASSWORD": ALICE,
            "KAFKA_CA_FILE": ca_file,
            "KAFKA_CLIENT": library(),
            "TIMESCALE_DSN": "postgresql://x",
            "NATS_URLS": "nats://x",
            **changes,
        }
        variables = {f"POLYGON_LIVE_{name}": value for name, value in names.items()}
        yield settings_from({"POLYGON_API_KEY": "k", **variables}).kafka


async def refusal(broker: Kafka, authority: trustme.CA, kind: type[Exception], **changes: str) -> str:
    with environment(broker, authority, **changes) as login, pytest.MonkeyPatch.context() as patch:
        patch.setattr(access_module, "REQUEST_MS", 2500)
        sink = Impatient(login, "tick_archive")
        with pytest.raises(kind) as why, trio.fail_after(PATIENCE_SECONDS):
            await sink.open()
        await sink.aclose()
    for secret in (ALICE, BOB, DORA, ERIN, "wrong-99-secret"):
        assert secret not in str(why.value)
    return str(why.value)


@pytest.mark.usefixtures("either")
async def test_over_tls_with_a_scram_login(locked: Kafka, authority: trustme.CA, topic: str) -> None:
    with environment(locked, authority) as login:
        async with opened(Impatient(login, topic)) as sink:
            assert sink.facts().complaints == ()
            await sink.write(batch(1, 4000))
            assert len(await sink.held_after(3000)) == 1000
    once_each_and_in_order(await in_thread(lambda: in_archive(locked.back_door, topic)), range(1, 4001))


@pytest.mark.parametrize(
    "changes",
    [
        {"KAFKA_SASL_PASSWORD": "wrong-99-secret"},
        {"KAFKA_SASL_USERNAME": "carol"},
        {"KAFKA_SASL_MECHANISM": "PLAIN"},
    ],
)
async def test_a_refused_login_names_the_variables(
    locked: Kafka, authority: trustme.CA, changes: dict[str, str]
) -> None:
    said = await refusal(locked, authority, StoreMisconfigured, **changes)
    assert "refuses the login" in said
    assert "check POLYGON_LIVE_KAFKA_SASL_USERNAME, _SASL_PASSWORD and _SASL_MECHANISM" in said


async def test_an_unknown_authority_says_what_to_do(locked: Kafka, authority: trustme.CA) -> None:
    said = await refusal(locked, trustme.CA(), StoreMisconfigured)
    assert (
        "shows a certificate that is not trusted (CertificateRefused: unable to get local issuer certificate)" in said
    )
    assert "POLYGON_LIVE_KAFKA_CA_FILE must name the certificate of the authority that signed it" in said


async def test_a_certificate_for_another_host_says_what_to_do(locked: Kafka, authority: trustme.CA) -> None:
    there = locked.address.replace("127.0.0.1", "localhost")
    said = await refusal(locked, authority, StoreMisconfigured, KAFKA_BROKERS=there)
    assert "Hostname mismatch" in said
    assert "POLYGON_LIVE_KAFKA_BROKERS the hosts as it names them" in said


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
async def test_no_tls_where_the_broker_wants_it(locked: Kafka, authority: trustme.CA, protocol: str) -> None:
    said = await refusal(locked, authority, StoreUnavailable, KAFKA_SECURITY_PROTOCOL=protocol)
    assert "POLYGON_LIVE_KAFKA_SECURITY_PROTOCOL is not what this port speaks" in said


async def test_tls_where_the_broker_has_none(locked: Kafka, authority: trustme.CA) -> None:
    said = await refusal(locked, authority, StoreUnavailable, KAFKA_BROKERS=locked.back_door)
    assert "POLYGON_LIVE_KAFKA_SECURITY_PROTOCOL is not what this port speaks" in said


async def test_missing_rights_are_named(locked: Kafka, authority: trustme.CA) -> None:
    said = await refusal(locked, authority, StoreMisconfigured, KAFKA_SASL_USERNAME="bob", KAFKA_SASL_PASSWORD=BOB)
    assert "grant the user create, describe, describe configs, read and write on the topic" in said
    assert "describe and write on the transactional id and describe and read on the group" in said


def grant(broker: Kafka, user: str, kind: ResourceType, *operations: ACLOperation) -> None:
    """On everything of this kind that is named as ours."""
    prefix = "tick_" if kind is ResourceType.TOPIC else "polygon-live."
    pattern = ResourcePattern(kind, prefix, ACLResourcePatternType.PREFIXED)
    acls = [ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, pattern) for operation in operations]
    with administration(access(broker.back_door), name="test") as admin:
        admin.create_acls(acls)


async def test_the_rights_that_are_named_are_enough(locked: Kafka, authority: trustme.CA) -> None:
    dora = {"KAFKA_SASL_USERNAME": "dora", "KAFKA_SASL_PASSWORD": DORA}
    op = ACLOperation
    topic = (op.CREATE, op.DESCRIBE, op.DESCRIBE_CONFIGS, op.READ, op.WRITE)
    for kind, operations, missing in (
        (ResourceType.TOPIC, topic, "GroupAuthorizationFailedError"),
        (ResourceType.GROUP, (op.DESCRIBE, op.READ), "TransactionalIdAuthorizationFailedError"),
    ):
        await in_thread(partial(grant, locked, "dora", kind, *operations))
        said = await refusal(locked, authority, StoreMisconfigured, **dora)
        assert f"refuses ({missing}" in said
    await in_thread(partial(grant, locked, "dora", ResourceType.TRANSACTIONAL_ID, op.DESCRIBE, op.WRITE))
    with environment(locked, authority, **dora) as login:
        async with opened(Impatient(login, "tick_archive", "dora-1")) as sink:
            assert sink.facts().complaints == ()
            await sink.write(batch(1, 100))
            await sink.check()
            assert len(await sink.held_after(40)) == 60
        async with Archive(login, since_ms=0) as archive:
            assert await archive.cursor_of("dora-1") == 100
            assert sum([len(block) async for block in archive]) == 100


async def test_who_may_not_see_the_configuration_says_that_it_is_not_verified(
    locked: Kafka, authority: trustme.CA
) -> None:
    op = ACLOperation
    for kind, operations in (
        (ResourceType.TOPIC, (op.CREATE, op.DESCRIBE, op.READ, op.WRITE)),
        (ResourceType.GROUP, (op.DESCRIBE, op.READ)),
        (ResourceType.TRANSACTIONAL_ID, (op.DESCRIBE, op.WRITE)),
    ):
        await in_thread(partial(grant, locked, "erin", kind, *operations))
    with environment(locked, authority, KAFKA_SASL_USERNAME="erin", KAFKA_SASL_PASSWORD=ERIN) as login:
        async with opened(Impatient(login, "tick_archive", "erin-1")) as sink:
            (complaint,) = sink.facts().complaints
            assert complaint.startswith("what tick_archive keeps is not verified")
            assert "(TopicAuthorizationFailedError): grant describe configs on it" in complaint
            assert sink.facts().about["verified"] is False
            await sink.write(batch(1, 10))


async def test_a_broker_that_hangs_in_the_handshake_is_given_up(locked: Kafka, authority: trustme.CA) -> None:
    await in_thread(locked.pause)
    try:
        assert "does not answer" in await refusal(locked, authority, StoreUnavailable)
    finally:
        locked.resume()
    with environment(locked, authority) as login:
        async with opened(Impatient(login, next(_topics))) as sink:
            await sink.write(batch(1, 10))
