"""What the two producers are made of: the bytes that are sent, and what errors become."""

import sys
from collections.abc import Sequence

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st
from kafka import errors
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.confluent import words_for
from polygon_live.engines.kafka.errors import translated
from polygon_live.engines.kafka.kinds import kind_of
from polygon_live.engines.kafka.records import Encoder, Records
from polygon_live.errors import ConfigurationError, RowsRefused, StoreError, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Tick

PRODUCER = (7_000_000_001, 12, 4711)
"""Its id, its epoch, and the number of the first record."""

ticks = st.builds(
    Tick,
    symbol=st.sampled_from(["EURUSD", "XAUUSD", "", "äöü" * 30]),
    bid=st.just(1.1),
    ask=st.just(1.2),
    mid=st.just(1.15),
    spread=st.just(0.1),
    timestamp_ms=st.integers(0, 2**62) | st.integers(1_780_401_600_000, 1_780_401_600_300),
    timestamp=st.just(0),
    exchange=st.none(),
    source=st.just("p"),
    event_type=st.just("q"),
    seq=st.integers(1, 2**63 - 1),
    received_ms=st.just(0),
)
rows = st.lists(st.tuples(ticks, st.binary(max_size=300)), min_size=1, max_size=150)


def encoded(given_rows: Sequence[tuple[Tick, bytes]], most_bytes: int) -> list[Records]:
    found = list(Encoder("test-1", most_bytes).batches([t for t, _ in given_rows], [p for _, p in given_rows]))
    for records in found:
        records.set_producer_state(*PRODUCER, True)
        records.close()
    return found


def by_the_library(given_rows: Sequence[tuple[Tick, bytes]]) -> bytes:
    builder = MemoryRecordsBuilder(2, 0, 10**9)
    for tick, payload in given_rows:
        headers = [("collector", b"test-1"), ("seq", str(tick.seq).encode())]
        builder.append(tick.timestamp_ms, tick.symbol.encode(), payload, headers)
    builder.set_producer_state(*PRODUCER, True)
    builder.close()
    return bytes(builder.buffer())


@given(rows)
def test_a_batch_is_what_the_library_would_make_of_it(given_rows: list[tuple[Tick, bytes]]) -> None:
    (records,) = encoded(given_rows, 10**9)
    assert bytes(records.buffer()) == by_the_library(given_rows)
    assert records.size_in_bytes() == len(records.buffer())
    assert records.next_offset() == len(given_rows)
    assert (records.producer_id, records.producer_epoch, records.base_sequence) == PRODUCER


@given(rows, st.integers(1, 3000))
def test_no_batch_of_several_records_is_larger_than_the_topic_takes(
    given_rows: list[tuple[Tick, bytes]], most_bytes: int
) -> None:
    found = encoded(given_rows, most_bytes)
    assert all(records.size_in_bytes() <= most_bytes or records.next_offset() == 1 for records in found)
    read = [record for records in found for batch in MemoryRecords(records.buffer()) for record in batch]
    assert [(r.key.decode(), r.value, r.timestamp, dict(r.headers)["seq"]) for r in read] == [
        (t.symbol, p, t.timestamp_ms, str(t.seq).encode()) for t, p in given_rows
    ]


def test_before_it_is_closed_its_size_is_known_and_its_bytes_are_not() -> None:
    tick = Tick("EURUSD", 1, 2, 1.5, 1, 5, 5, None, "p", "q", 1, 1)
    (records,) = Encoder("test-1", 1000).batches([tick], [b"{}"])
    size = records.size_in_bytes()
    with pytest.raises(ValueError, match="not closed"):
        records.buffer()
    records.close()
    first = bytes(records.buffer())
    assert len(first) == size
    records.close()  # it may be tried again
    assert bytes(records.buffer()) == first


@pytest.mark.parametrize(
    ("code", "meant", "kind", "says"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, errors.MessageSizeTooLargeError, RowsRefused, "MessageSizeTooLargeError: no"),
        (KafkaError.INVALID_TIMESTAMP, errors.InvalidTimestampError, RowsRefused, "InvalidTimestampError: no"),
        (KafkaError.INVALID_RECORD, errors.InvalidRecordError, RowsRefused, "InvalidRecordError: no"),
        (KafkaError._AUTHENTICATION, errors.SaslAuthenticationFailedError, StoreMisconfigured, "refuses the login"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, errors.TopicAuthorizationFailedError, StoreMisconfigured, "grant the"),
        (
            KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            errors.TransactionalIdAuthorizationFailedError,
            StoreMisconfigured,
            "grant the",
        ),
        (
            KafkaError.INVALID_TRANSACTION_TIMEOUT,
            errors.InvalidTransactionTimeoutError,
            StoreMisconfigured,
            "raise transaction.max.timeout.ms",
        ),
        (KafkaError._FENCED, errors.ProducerFencedError, StoreUnavailable, "has ended the transaction"),
        (KafkaError.PRODUCER_FENCED, errors.ProducerFencedError, StoreUnavailable, "has ended the transaction"),
        (KafkaError.INVALID_PRODUCER_EPOCH, errors.InvalidProducerEpochError, StoreUnavailable, "has ended the"),
        (KafkaError.NOT_ENOUGH_REPLICAS, errors.NotEnoughReplicasError, StoreUnavailable, "too few replicas in sync"),
        (KafkaError._TIMED_OUT, errors.KafkaTimeoutError, StoreUnavailable, "have not answered for the transaction"),
        (KafkaError._TRANSPORT, errors.KafkaConnectionError, StoreUnavailable, "_TRANSPORT: no"),
        (KafkaError._INVALID_ARG, errors.KafkaConfigurationError, StoreMisconfigured, "can't be used"),
        (KafkaError._UNSUPPORTED_FEATURE, errors.UnsupportedVersionError, StoreMisconfigured, "can't be used"),
        (KafkaError._STATE, errors.KafkaError, StoreUnavailable, "_STATE: no"),
        (12345, errors.UnknownError, StoreUnavailable, "no"),
    ],
)
def test_what_librdkafka_says_means_the_same(
    code: int, meant: type[errors.KafkaError], kind: type[StoreError], says: str
) -> None:
    words = words_for(KafkaError(code, "no"))
    assert isinstance(words, meant)
    told = translated(words, "k:9092")
    assert type(told) is kind
    assert says in str(told)
    assert "Kafka k:9092" in str(told)


def test_each_library_is_named_with_its_version() -> None:
    assert kind_of(KafkaAccess(("k:1",))).version.startswith("kafka-python ")
    assert kind_of(KafkaAccess(("k:1",), client="confluent")).version.startswith("confluent-kafka ")


def test_a_library_that_cannot_be_loaded_is_a_fault_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, and yet of no use: built for another system."""
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "polygon_live.engines.kafka.confluent", raising=False)
    with pytest.raises(ConfigurationError, match=r"can't be loaded .*pip install 'polygon-live\[fast\]'"):
        kind_of(KafkaAccess(("k:1",), client="confluent"))
    assert kind_of(KafkaAccess(("k:1",))).version.startswith("kafka-python ")
