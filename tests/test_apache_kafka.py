"""The Kafka sink against the real Apache Kafka: brokers killed under load, too few replicas, TLS and logins."""

import gc
import itertools
import json
import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trustme
from kafka import KafkaConsumer, KafkaProducer, errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from polygon_live.channels import WeightedSender, open_weighted_channel
from polygon_live.config import KafkaAccess, settings_from
from polygon_live.engines.kafka import KafkaClient, client
from polygon_live.engines.kafka import access as access_module
from polygon_live.engines.kafka.access import administration
from polygon_live.engines.kafka.connections import connected
from polygon_live.engines.kafka.producer import Producer
from polygon_live.errors import RowsRefused, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch, Tick, encode
from polygon_live.pump import Pump
from polygon_live.rejects import RejectBook
from polygon_live.sinks.kafka import KafkaSink
from polygon_live.standin import market
from tests import servers
from tests.comparing import archived_as_written
from tests.engines.kafka import Cluster, Kafka, Lock, cluster
from tests.reading import in_archive
from tests.waiting import PATIENCE_SECONDS, in_thread, until

pytestmark = pytest.mark.fetched
NOW_MS = int(time.time() * 1000)
"""The real time: a broker that is killed forgets whose records it took if they are more than a day old."""
SYMBOLS = ("EURUSD", "XAUUSD", "GBPUSD", "USDJPY", "AUDUSD", "NZDUSD", "USDCHF", "USDCAD")
ALICE, BOB = "alice-77-secret", "bob-88-secret"
_topics = (f"archive-{n}" for n in itertools.count())


class Impatient(KafkaSink):
    """On a topic of its own; gives up waiting sooner."""

    def __init__(self, access: KafkaAccess, topic: str, collector: str = "test-1") -> None:
        self._client = KafkaClient(access, collector, topic=topic, open_seconds=8.0, append_seconds=4.0)


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


def access(address: str) -> KafkaAccess:
    return KafkaAccess(tuple(address.split(",")))


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


class Pumping:
    """A pump at work on a topic."""

    def __init__(self, address: str, topic: str) -> None:
        self.queue, batches = self._channel()
        self.sink = Impatient(access(address), topic)
        self.rejects = RejectBook()
        self.pump = Pump(
            self.sink, batches, self.queue, rejects=self.rejects, wall_ms=lambda: NOW_MS, rng=random.Random(1)
        )
        self.offered = 0

    @staticmethod
    def _channel() -> tuple[WeightedSender[Batch], Any]:
        return open_weighted_channel(10**6, Batch)

    @property
    def delivered(self) -> int:
        return self.pump.snapshot().delivered

    @property
    def error(self) -> str:
        return self.pump.snapshot().last_error or ""

    async def offer_for_ever(self) -> None:
        """20 ticks every 20 ms."""
        while True:
            self.pump.offer(batch(self.offered + 1, 20))
            self.offered += 20
            await trio.sleep(0.02)

    async def more(self, ticks: int) -> None:
        goal = self.delivered + ticks
        await until(lambda: self.delivered >= goal)


async def under_load(address: str, topic: str, what: Callable[[Pumping], Awaitable[None]]) -> None:
    """Do ``what`` while ticks come without a pause; then all must be there, once each and in order."""
    p = Pumping(address, topic)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(p.pump.run)
            async with trio.open_nursery() as feed:
                feed.start_soon(p.offer_for_ever)
                await p.more(300)
                await what(p)
                await p.more(300)
                feed.cancel_scope.cancel()
            await p.queue.aclose()
    assert p.delivered == p.offered
    assert p.pump.snapshot().dropped == p.pump.snapshot().set_aside == 0
    once_each_and_in_order(await in_thread(lambda: in_archive(address, topic)), range(1, p.offered + 1))


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
    with administration(access(address), name="test") as admin:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        found = admin.describe_configs([resource], config_filter="all")["topic"][topic]
        return {name: entry["value"] for name, entry in found.items()}


def leaders(address: str, topic: str) -> list[int]:
    with administration(access(address), name="test") as admin:
        return [p["leader_id"] for p in admin.describe_topics([topic])[0]["partitions"]]


# One broker ---------------------------------------------------------------------------------------------------------


async def test_real_ticks_arrive_byte_for_byte_in_order_per_symbol(
    node: Kafka, topic: str, real_ticks: tuple[Path, ...]
) -> None:
    quotes = [q for path in real_ticks for q in market.real_ticks(path, NOW_MS - 2 * 86_400_000)][-7000:]
    ticks = [
        Tick(q.p.replace("/", ""), q.b, q.a, q.b, q.a - q.b, q.t, q.t, 48, "p", "q", n, NOW_MS)
        for n, q in enumerate(quotes)
    ]
    whole = Batch(-1, ticks, [encode(t) for t in ticks])
    async with opened(Impatient(access(node.address), topic)) as sink:
        assert (await sink.write(whole)).delivered == len(ticks)
        assert await sink.held(whole) == set(range(len(ticks)))
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


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
async def test_a_compacted_topic_is_refused(node: Kafka, topic: str, policy: str) -> None:
    await in_thread(lambda: make_topic(node.address, topic, config={"cleanup.policy": policy}))
    with pytest.raises(StoreMisconfigured, match=f"{topic} is compacted, so it would keep one tick a symbol"):
        async with opened(Impatient(access(node.address), topic)):
            pass


async def test_a_broker_killed_under_load_and_returned(own_node: Callable[..., Kafka], topic: str) -> None:
    broker = own_node()

    async def lose(p: Pumping) -> None:
        await in_thread(broker.kill)
        await until(lambda: bool(p.error))
        await in_thread(broker.start)

    await under_load(broker.address, topic, lose)


async def test_a_broker_that_hangs_under_load(own_node: Callable[..., Kafka], topic: str) -> None:
    broker = own_node()

    async def hang(p: Pumping) -> None:
        await in_thread(broker.pause)
        await until(lambda: "has not acknowledged" in p.error)
        await in_thread(broker.resume)

    await under_load(broker.address, topic, hang)


async def test_after_the_producer_was_given_up_the_topic_is_read_back(
    own_node: Callable[..., Kafka], topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "GIVE_UP_SECONDS", 3.0)
    broker = own_node()

    async def give_up(p: Pumping) -> None:
        await in_thread(broker.pause)
        await until(lambda: p.sink._client._unclear)
        await in_thread(broker.resume)

    await under_load(broker.address, topic, give_up)


async def test_reading_back_ends_though_another_writes_on(node: Kafka, topic: str) -> None:
    whole = batch(1, 400)
    left, _right = whole.halves()
    async with (
        opened(Impatient(access(node.address), topic)) as sink,
        opened(Impatient(access(node.address), topic, "another")) as other,
        trio.open_nursery() as nursery,
    ):

        async def write_on() -> None:
            for first in itertools.count(1, 50):
                await other.write(batch(first, 50))

        await sink.write(left)
        unanswered(sink)
        nursery.start_soon(write_on)
        assert await sink.held(whole) == {t.seq for t in left.ticks}
        nursery.cancel_scope.cancel()


async def test_reading_back_passes_the_marks_that_transactions_leave(node: Kafka, topic: str) -> None:
    async with opened(Impatient(access(node.address), topic)) as sink:
        await sink.write(batch(1, 100))
        unanswered(sink)

        def transactions() -> None:
            producer = KafkaProducer(bootstrap_servers=node.address, transactional_id="somebody")
            producer.init_transactions()
            for end in (producer.commit_transaction, producer.abort_transaction):
                producer.begin_transaction()
                for partition in range(6):
                    producer.send(topic, b"{}", partition=partition)
                end()
            producer.close()

        await in_thread(transactions)
        assert await sink.held(batch(1, 200)) == set(range(1, 101))


async def test_reading_back_begins_anew_in_a_topic_that_was_made_anew(node: Kafka, topic: str) -> None:
    async with opened(Impatient(access(node.address), topic)) as sink:
        await sink.write(batch(1, 4000))
        ends = dict(sink._client._ends or {})

        def again() -> None:
            with administration(access(node.address), name="test") as admin:
                admin.delete_topics([topic])
            make_topic(node.address, topic, partitions=6, config={})

        await in_thread(again)
        async with opened(Impatient(access(node.address), topic)) as another:
            await another.write(batch(5001, 80))
        sink._client._ends = ends
        unanswered(sink, keep_ends=True)
        assert await sink.held(batch(5001, 80)) == set(range(5001, 5081))


def unanswered(sink: KafkaSink, *, keep_ends: bool = False) -> None:
    """As after a batch of which no answer came."""
    ours = sink._client
    assert ours._ends is not None
    if not keep_ends:
        ours._ends = dict.fromkeys(ours._ends, 0)
    ours._acknowledged.clear()
    ours._unclear = True


@pytest.mark.parametrize("size", [1500, 1900, 5000, 2**20 + 2000])
async def test_a_record_too_large_is_set_aside_alone(node: Kafka, topic: str, size: int) -> None:
    """1900 bytes are under the topic's limit by themselves, and over it with what a request adds."""
    await in_thread(lambda: make_topic(node.address, topic, partitions=6, config={"max.message.bytes": "1950"}))
    whole = batch(1, 40)
    payloads = [p if n != 17 else p + b" " * (size - len(p)) for n, p in enumerate(whole.payloads)]
    p = Pumping(node.address, topic)
    p.pump.offer(Batch(0, whole.ticks, payloads))
    with trio.fail_after(PATIENCE_SECONDS):
        await p.queue.aclose()
        await p.pump.run()
    fits = size < 1850
    assert (p.delivered, p.pump.snapshot().set_aside) == ((40, 0) if fits else (39, 1))
    seqs = [json.loads(record.value)["seq"] for record in await in_thread(lambda: in_archive(node.address, topic))]
    assert sorted(seqs) == [t.seq for n, t in enumerate(whole.ticks) if fits or n != 17]
    if not fits:
        async with opened(Impatient(access(node.address), topic)) as sink:
            with pytest.raises(RowsRefused, match="MessageSizeTooLarge"):
                await sink.write(Batch(0, whole.ticks[17:18], payloads[17:18]))


async def test_a_time_that_the_broker_refuses_is_set_aside_alone(node: Kafka, topic: str) -> None:
    """Apache Kafka takes no record from more than an hour ahead of its own clock."""
    ahead_ms = int(time.time() * 1000) + 86_400_000
    p = Pumping(node.address, topic)
    whole = batch(1, 40)
    ticks = [msgspec.structs.replace(t, timestamp_ms=ahead_ms) if t.seq == 9 else t for t in whole.ticks]
    p.pump.offer(Batch(0, ticks, whole.payloads))
    with trio.fail_after(PATIENCE_SECONDS):
        await p.queue.aclose()
        await p.pump.run()
    assert (p.delivered, p.pump.snapshot().set_aside) == (39, 1)
    (reject,) = p.rejects.snapshot().latest
    assert (reject.seq, reject.symbol) == (9, "XAUUSD")
    assert f"InvalidTimestampError: Timestamp {ahead_ms} of message" in str(reject)
    seqs = [json.loads(record.value)["seq"] for record in await in_thread(lambda: in_archive(node.address, topic))]
    assert sorted(seqs) == sorted(set(range(1, 41)) - {9})


def test_failed_attempts_leave_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "kafka")  # a record that is kept keeps an error, and that a socket
    monkeypatch.setattr(access_module, "REQUEST_MS", 600)
    nowhere = access(Kafka(tmp_path).address)
    settings = access_module.settings_of(nowhere, name="test")

    def opened() -> int:
        gc.collect()  # what the library leaves to it
        return len(list(Path("/proc/self/fd").iterdir()))

    before, threads = opened(), threading.active_count()
    for make in (KafkaAdminClient, KafkaConsumer, Producer):
        with pytest.raises(errors.KafkaConnectionError, match="ECONNREFUSED"):
            connected(make, settings)
    assert (opened(), threading.active_count()) == (before, threads)


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


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_the_leader_lost_under_load_costs_nothing(three: Cluster, topic: str, how: str) -> None:
    async def lose(p: Pumping) -> None:
        leader = three[(await in_thread(lambda: leaders(three.address, topic)))[0]]
        await in_thread(leader.kill if how == "kill" else leader.pause)
        await p.more(600)  # by the others
        assert not leader.running or how == "pause"
        await in_thread(leader.start if how == "kill" else leader.resume)

    await under_load(three.address, topic, lose)


async def test_too_few_replicas_are_named_and_nothing_is_lost_when_they_return(three: Cluster, topic: str) -> None:
    """The topic asks for all three, so that one lost broker is too many: its controllers still are a majority."""
    archive = {"retention.ms": "-1", "min.insync.replicas": "3"}
    await in_thread(lambda: make_topic(three.address, topic, partitions=6, copies=3, config=archive))

    async def lose(p: Pumping) -> None:
        await in_thread(three[2].kill)
        await until(lambda: "too few replicas are in sync (NotEnoughReplicas" in p.error)
        await in_thread(three[2].start)

    await under_load(three.address, topic, lose)


async def test_two_of_three_lost_and_returned(three: Cluster, topic: str) -> None:
    async def lose(p: Pumping) -> None:
        await both(three[1].kill, three[3].kill)
        await until(lambda: "has not acknowledged" in p.error)
        await both(three[1].start, three[3].start)

    await under_load(three.address, topic, lose)


async def test_what_is_appended_and_not_confirmed_is_not_sent_again(
    three: Cluster, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader without followers appends what it can't confirm, and shows it to nobody until they return."""
    monkeypatch.setattr(client, "GIVE_UP_SECONDS", 3.0)
    archive = {"retention.ms": "-1", "min.insync.replicas": "2"}
    await in_thread(lambda: make_topic(three.address, topic, partitions=1, copies=3, config=archive))
    leader = (await in_thread(lambda: leaders(three.address, topic)))[0]
    one, other = (node for node in three.nodes if node.number != leader)

    async def lose(p: Pumping) -> None:
        await both(one.kill, other.kill)
        await until(lambda: "can't be read to its end" in p.error)
        await both(one.start, other.start)

    await under_load(three.address, topic, lose)


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
    lock = Lock(authority.issue_cert("127.0.0.1"), {"alice": ALICE, "bob": BOB}, powerful="alice")

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
    for secret in (ALICE, BOB, "wrong-99-secret"):
        assert secret not in str(why.value)
    return str(why.value)


async def test_over_tls_with_a_scram_login(locked: Kafka, authority: trustme.CA, topic: str) -> None:
    with environment(locked, authority) as login:
        async with opened(Impatient(login, topic)) as sink:
            assert sink.facts().complaints == ()
            await sink.write(batch(1, 4000))
            unanswered(sink)
            assert await sink.held(batch(1, 5000)) == set(range(1, 4001))
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


async def test_a_broker_that_hangs_in_the_handshake_is_given_up(locked: Kafka, authority: trustme.CA) -> None:
    await in_thread(locked.pause)
    try:
        assert "does not answer" in await refusal(locked, authority, StoreUnavailable)
    finally:
        locked.resume()
    with environment(locked, authority) as login:
        async with opened(Impatient(login, next(_topics))) as sink:
            await sink.write(batch(1, 10))
