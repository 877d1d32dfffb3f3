"""The producer of kafka-python: the library's transactional one, which keeps time limits, ends at once, can say why it
has to try again, takes whole batches, and does nothing by itself that its owner must know of.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from kafka import KafkaProducer, TopicPartition, errors
from kafka.producer.producer_batch import ProducerBatch
from kafka.structs import OffsetAndMetadata

from polygon_live.engines.kafka.access import settings_of
from polygon_live.engines.kafka.connections import connected
from polygon_live.engines.kafka.cursor import Cursor
from polygon_live.engines.kafka.errors import REFUSALS, reason
from polygon_live.engines.kafka.producing import REQUEST_MOST_BYTES, TRANSACTION_MS, Purpose
from polygon_live.engines.kafka.records import Encoder
from polygon_live.model import Batch, Tick

DELIVERY_MS: Final = 3_600_000
"""Never reached: when the library gives up by itself, some futures never hear of it."""
LINGER_MS: Final = 60_000
"""Never reached: the thread that sends waits for the whole batch, and takes it in one request."""
TRANSACTION_RETRY_MS: Final = 10
"""A commit is answered before its marks are written, and until they are the next transaction is told to come again: in
a moment, not after the library's 100 ms.
"""


def python_producer(purpose: Purpose) -> "PythonProducer":
    """Raises kafka.errors.KafkaError."""
    settings = settings_of(purpose.access, name=purpose.name) | {
        "acks": "all",
        "transactional_id": purpose.group,
        "transaction_timeout_ms": TRANSACTION_MS,
        "allow_auto_create_topics": False,
        "max_in_flight_requests_per_connection": 1,
        "delivery_timeout_ms": DELIVERY_MS,
        "max_block_ms": purpose.seconds * 1000,
        "max_request_size": REQUEST_MOST_BYTES,
        "linger_ms": LINGER_MS,
        "metrics_enabled": False,
    }
    return connected(partial(PythonProducer, purpose), settings)


class PythonProducer(KafkaProducer):  # type: ignore[misc]
    """As ``Producer`` says."""

    def __init__(self, purpose: Purpose, **settings: Any) -> None:
        super().__init__(**settings)
        self._purpose = purpose
        self._encoder = Encoder(purpose.collector, purpose.chunk_bytes)
        self._objection: type[errors.KafkaError] | None = None
        self._places: dict[str, TopicPartition] = {}
        sender = self._sender
        can_retry = sender._can_retry  # noqa: SLF001  # it tells its own log and nobody else

        def noting(batch: Any, error: type[errors.KafkaError]) -> bool:
            self._objection = error
            return bool(can_retry(batch, error))

        sender._can_retry = noting  # noqa: SLF001
        # What is too large is refused, not split: its ticks may be another's fault.
        sender._can_split = lambda _batch, _error: False  # noqa: SLF001
        sender.config["retry_backoff_ms"] = TRANSACTION_RETRY_MS  # of transactions only: batches have their own
        # One that was fenced would ask for a new epoch, and fence its successor.
        self._transaction_manager._supports_epoch_bump = lambda: False  # noqa: SLF001

    @property
    def complaint(self) -> str:
        """The brokers' last objection to what is tried again and again."""
        return reason(self._objection)

    def initialize(self, seconds: float) -> None:
        """Raises kafka.errors.KafkaError."""
        self._see_done(self._transaction_manager.initialize_transactions, seconds)

    def append(self, batch: Batch | None, seconds: float) -> None:
        """Raises kafka.errors.KafkaError."""
        deadline = time.monotonic() + seconds
        self._objection = None
        with self._said_why():
            self.begin_transaction()
            if batch is not None:
                sent = self._handed_over(batch)
                self.flush(deadline - time.monotonic())
                if failures := [why for one in sent for why in _failures(one)]:
                    raise next((why for why in failures if isinstance(why, REFUSALS)), failures[0])

    def _handed_over(self, batch: Batch) -> list[ProducerBatch]:
        """To the thread that sends, past the library's ``send``, which has twenty times as much to do for a record."""
        parts: defaultdict[TopicPartition, tuple[list[Tick], list[bytes]]] = defaultdict(lambda: ([], []))
        places = self._places
        for tick, payload in zip(batch.ticks, batch.payloads, strict=True):
            ticks, payloads = parts[places.get(tick.symbol) or self._place_of(tick.symbol)]
            ticks.append(tick)
            payloads.append(payload)
        for place in parts:  # all of them in one request
            self._transaction_manager.maybe_add_partition_to_transaction(place)
        sent = []
        queue = self._accumulator
        for place, part in parts.items():
            for records in self._encoder.batches(*part):
                one = ProducerBatch(place, records)
                with queue._tp_lock(place):  # noqa: SLF001
                    queue._batches[place].append(one)  # noqa: SLF001
                    queue._incomplete.add(one)  # noqa: SLF001
                sent.append(one)
        return sent

    def _place_of(self, symbol: str) -> TopicPartition:
        topic, key = self._purpose.topic, symbol.encode()
        self._wait_on_metadata(topic, self.config["max_block_ms"])
        place = TopicPartition(topic, self._partition(topic, None, key, None, key, None))
        return self._places.setdefault(symbol, place)

    def commit(self, cursor: Cursor, seconds: float) -> None:
        """Raises kafka.errors.KafkaError."""
        deadline = time.monotonic() + seconds
        manager = self._transaction_manager
        offsets = {TopicPartition(self._purpose.topic, 0): OffsetAndMetadata(cursor.seq, cursor.metadata, -1)}
        with self._said_why():
            self._see_done(lambda: manager.send_offsets_to_transaction(offsets, self._purpose.group), seconds)
            self._see_done(manager.begin_commit, deadline - time.monotonic())

    @contextmanager
    def _said_why(self) -> Iterator[None]:
        """What ended the transaction, or the producer: the library raises KafkaError for it, and that says no more."""
        try:
            yield
        except errors.KafkaError as why:
            if type(why) is errors.KafkaError and self._transaction_manager.last_error is not None:
                raise self._transaction_manager.last_error from None
            raise

    def _see_done(self, begin: Callable[[], Any], seconds: float) -> None:
        """The library's own methods wait for ever."""
        result = begin()
        self._sender.wakeup()
        if not result.wait(max(0.0, seconds) * 1000):
            raise errors.KafkaTimeoutError("the brokers have not answered for the transaction")

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:  # noqa: FBT001, FBT002  # theirs
        """Close the sockets and fail what is on its way: the library's own waits, at exit and even when it is
        collected, for brokers that don't answer.
        """
        del timeout, null_logger
        self._unregister_cleanup()
        if getattr(self, "_sender", None) is not None:
            self._sender.force_close()


def _failures(sent: ProducerBatch) -> list[BaseException]:
    """Of a batch that is done: what became of each record, if not all is well."""
    why_of = sent.produce_future.value[2]
    return [why_of(n) for n in range(sent.record_count)] if why_of else []
