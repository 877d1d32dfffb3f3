"""The producer of librdkafka, by confluent-kafka: the extra ``fast``.

Rules of this file's state:

- librdkafka calls Python only while ``flush`` runs, and only for its log, whose last words are kept. It would call for
  each delivery and each error too, but not after a fatal one: then it raises, and what is called while an exception
  waits fails in a way of its own. Nothing is lost by that: a record that is not delivered fails its transaction, and
  the next call says why.
- It does not keep the time limit of ``send_offsets_to_transaction``: when the broker that keeps the cursor is gone from
  the cluster, it waits for that one for ever (librdkafka issues 5456 and 5511, open in 2.16). So that wait is left to a
  thread of its own, which is abandoned with its producer; what it may still send then, the successor's epoch fences.
- What it says is put into kafka-python's words, of which ``errors`` knows the meaning: the brokers' own numbers are
  the same for both.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from kafka import errors

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import REQUEST_MS
from polygon_live.engines.kafka.connections import HANDSHAKE_SECONDS
from polygon_live.engines.kafka.cursor import Cursor
from polygon_live.engines.kafka.producing import REQUEST_MOST_BYTES, TRANSACTION_MS, Purpose
from polygon_live.model import Batch

VERSION: Final = f"confluent-kafka {confluent_kafka.version()}, librdkafka {confluent_kafka.libversion()[0]}"
LINGER_MS: Final = 20_000
"""Never reached: the producer waits for the end of the batch, so that it is not torn apart by a sender that is faster.
It must be less than a transaction may take.
"""
FATAL_SECONDS: Final = 0.5
"""At once it may not know yet why it is dead."""
LATE_SECONDS: Final = 1.0
"""After its own time limit it has said something, or never will."""
WORDS: Final[Mapping[str, type[errors.KafkaError]]] = {
    "_TIMED_OUT": errors.KafkaTimeoutError,
    "_TIMED_OUT_QUEUE": errors.KafkaTimeoutError,
    "_MSG_TIMED_OUT": errors.KafkaTimeoutError,
    "_TRANSPORT": errors.KafkaConnectionError,
    "_AUTHENTICATION": errors.SaslAuthenticationFailedError,
    "_FENCED": errors.ProducerFencedError,
    "_UNKNOWN_TOPIC": errors.UnknownTopicOrPartitionError,
    "_UNKNOWN_PARTITION": errors.UnknownTopicOrPartitionError,
    "_UNSUPPORTED_FEATURE": errors.UnsupportedVersionError,
    "_INVALID_ARG": errors.KafkaConfigurationError,
}
"""For what librdkafka says by itself; the brokers' numbers are positive."""


def confluent_producer(purpose: Purpose) -> "ConfluentProducer":
    """Raises kafka.errors.KafkaError."""
    return ConfluentProducer(purpose)


class ConfluentProducer:
    """As ``Producer`` says."""

    def __init__(self, purpose: Purpose) -> None:
        self._topic = purpose.topic
        self._collector = ("collector", purpose.collector.encode())
        self._words = _Words()
        log = logging.Logger("librdkafka")  # noqa: LOG001  # nobody else's, and not for standard error
        log.addHandler(self._words)
        settings = _settings_of(purpose.access) | {
            "client.id": purpose.name,
            "transactional.id": purpose.group,
            "transaction.timeout.ms": TRANSACTION_MS,
            "partitioner": "murmur2",
            "linger.ms": LINGER_MS,
            "batch.size": purpose.chunk_bytes,
            "message.max.bytes": REQUEST_MOST_BYTES,
            "enable.metrics.push": False,
            "logger": log,
        }
        with _in_our_words():
            self._group = _group_metadata(purpose.group)
            self._held = [confluent_kafka.Producer(settings)]

    @property
    def complaint(self) -> str:
        """What it logged last: a connection that failed, but not why brokers that answer do not take the records."""
        return f": {self._words.last}" if self._words.last else ""

    def initialize(self, seconds: float) -> None:
        """Raises kafka.errors.KafkaError."""
        producer = self._producer
        try:
            with _in_our_words():
                producer.init_transactions(max(0.0, seconds))
        except errors.KafkaTimeoutError:
            with suppress(KafkaException, SystemError):
                producer.poll(0)  # what it has logged meanwhile
            raise

    def append(self, batch: Batch | None, seconds: float) -> None:
        """Raises kafka.errors.KafkaError."""
        deadline = time.monotonic() + seconds
        self._words.last = ""
        producer = self._producer
        with _in_our_words():
            producer.begin_transaction()
            if batch is None:
                return
            produce: Callable[..., None] = producer.produce
            topic, collector = self._topic, self._collector
            try:
                for tick, payload in zip(batch.ticks, batch.payloads, strict=True):
                    headers = [collector, ("seq", b"%d" % tick.seq)]
                    produce(topic, payload, tick.symbol, timestamp=tick.timestamp_ms, headers=headers)
            except KafkaException:
                _say_what_is_fatal(producer)
                raise
            left = 0
            with suppress(SystemError):  # the log was called while an exception waited: the commit says which
                left = producer.flush(max(0.0, deadline - time.monotonic()))
        if left:
            with _in_our_words():
                _say_what_is_fatal(producer)
            raise errors.KafkaTimeoutError(f"{left} records are not acknowledged")

    def commit(self, cursor: Cursor, seconds: float) -> None:
        """Raises kafka.errors.KafkaError."""
        deadline = time.monotonic() + seconds
        producer = self._producer
        offsets = [TopicPartition(self._topic, 0, cursor.seq, metadata=cursor.metadata)]
        with _in_our_words():
            limit = max(0.0, seconds)
            _within(limit + LATE_SECONDS, lambda: producer.send_offsets_to_transaction(offsets, self._group, limit))
            producer.commit_transaction(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Its end waits for its threads, and one of these may wait for a name server: that is seen by a thread of its
        own, the last to hold it.
        """
        if self._held:
            self._held[0].purge(blocking=False)  # who waits for it in another thread goes on
        threading.Thread(target=self._held.clear, daemon=True).start()

    @property
    def _producer(self) -> confluent_kafka.Producer:
        if not self._held:
            raise errors.KafkaConnectionError("the producer is closed")
        return self._held[0]


class _Words(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage().rpartition("]: ")[2]


def _settings_of(access: KafkaAccess) -> dict[str, Any]:
    """Addresses and credentials as librdkafka takes them."""
    settings: dict[str, Any] = {
        "bootstrap.servers": ",".join(access.brokers),
        "socket.timeout.ms": REQUEST_MS,
        "socket.connection.setup.timeout.ms": int(HANDSHAKE_SECONDS * 1000),
        "reconnect.backoff.max.ms": 1000,
        "security.protocol": access.security_protocol,
    }
    if access.ca_file is not None:
        settings["ssl.ca.location"] = str(access.ca_file)
    if access.security_protocol.startswith("SASL"):
        settings["sasl.mechanism"] = access.sasl_mechanism
        settings["sasl.username"] = access.sasl_username
        settings["sasl.password"] = access.sasl_password.reveal() if access.sasl_password else None
    return settings


def _say_what_is_fatal(producer: confluent_kafka.Producer) -> None:
    """After a failed transaction. Who takes no record any more, or never sends those that he took, does not say why; he
    says it when he is told to abort. Raises KafkaException.
    """
    try:
        producer.abort_transaction(FATAL_SECONDS)
    except KafkaException as why:
        if why.args[0].fatal():
            raise


def _group_metadata(group: str) -> Any:
    """The group as a member of it would name it: only a consumer can tell. This one knows no brokers, and ends here."""
    consumer = Consumer({"group.id": group, "log_level": 0})
    try:
        return consumer.consumer_group_metadata()
    finally:
        consumer.close()


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except KafkaException as why:
        raise words_for(why.args[0]) from None


def _within(seconds: float, work: Callable[[], None]) -> None:
    """What it raises is raised here. If it does not return, its thread is left to itself, and KafkaTimeoutError."""
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            work()
        except BaseException as why:  # noqa: BLE001  # raised where it is waited for
            ended.put(why)
        else:
            ended.put(None)

    threading.Thread(target=run, name="librdkafka commit", daemon=True).start()
    try:
        failure = ended.get(timeout=seconds)
    except Empty:
        raise errors.KafkaTimeoutError("librdkafka does not return from writing the cursor: it is left") from None
    if failure is not None:
        raise failure


def words_for(why: KafkaError) -> errors.KafkaError:
    """As kafka-python would say it."""
    if why.code() >= 0:
        return errors.for_code(why.code())(why.str())
    kind = WORDS.get(why.name(), errors.KafkaError)
    timeout = kind is errors.KafkaTimeoutError
    return kind("the brokers have not answered for the transaction" if timeout else f"{why.name()}: {why.str()}")
