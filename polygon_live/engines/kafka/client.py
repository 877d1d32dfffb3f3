"""The producer, as a Trio task sees it: a batch goes in, and every single record has been answered when it comes out.

Rules of this file's state:

- kafka-python blocks, so every operation runs in a worker thread, one at a time (``_one``). A task that stops waiting
  abandons the thread, which is a daemon and ends by itself within the library's own limits.
- A chunk of records is on its way until each of its futures is settled, and nothing is sent beside it: the idempotent
  producer sends it again by itself, under the same sequence numbers, until the broker has it exactly once. That holds
  over lost connections, slow brokers and elections, as long as the producer lives. One exception is Kafka's own: a
  broker that is killed forgets the numbers of records whose time is more than ``producer.id.expiration.ms`` (a day)
  back, so a tick as old as that, taken and not acknowledged at that very moment, is there twice.
- A producer is given up when one of its futures has failed, or after ``GIVE_UP_SECONDS``. What the brokers hold is then
  read back from behind the last offsets that were acknowledged, up to the very end of the leaders' logs and until
  nothing of ours is added any more, before anything is sent again. A request that the broker took from a connection
  that is gone could in theory be appended still later; fencing, which rules it out, takes transactions.
- When a broker refuses a request, the library gives up everything else that is on its way, be it appended or not. So a
  refusal is believed only of a chunk that was one request: all of it of one key.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import attrs
import trio
from kafka import errors

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import administration, settings_of, where
from polygon_live.engines.kafka.connections import connected
from polygon_live.engines.kafka.errors import reason, translated
from polygon_live.engines.kafka.producer import Producer
from polygon_live.engines.kafka.reading import records_behind
from polygon_live.engines.kafka.topic import DEFAULT_MOST_BYTES, ends, set_up
from polygon_live.errors import AlreadyHeld, RowsRefused, StoreError, StoreUnavailable
from polygon_live.sink import StoreFacts

GIVE_UP_SECONDS: Final = 60.0
"""How long one producer may go on trying with one chunk: longer than an election, and than most restarts."""
DELIVERY_MS: Final = 3_600_000
"""Never reached: when the library gives up by itself, some futures never hear of it."""
SETTLE_SECONDS: Final = 1.0
"""Before each reading back: what a broker has read from a connection that ended is appended by then."""
CHUNK_BYTES: Final = 700_000
"""Of records in one go: below the brokers' default limit of 1 MiB even if all are of one symbol, so that a partition
gets one request, and none can overtake another that failed. A topic with a lower limit gets smaller chunks: the library
loses track of the futures when it has to split a request."""
REACH: Final = 20_000
"""Records: more than two batches."""
REQUEST_BYTES: Final = 100 * 2**20
"""Never reached: the topic's limit is what is kept, before anything is sent."""
LINGER_MS: Final = 60_000
"""The producer waits for ``flush``, so that a chunk is not torn apart by a sender that is faster than the caller."""
GRACE_SECONDS: Final = 2.0
"""For the thread to say by itself that it takes too long."""

T = TypeVar("T")


@attrs.frozen
class Record:
    """One tick on its way."""

    key: bytes
    value: bytes
    timestamp_ms: int
    seq: int


class KafkaClient:
    """Appends records to one topic, with the headers ``collector`` and ``seq``."""

    def __init__(
        self, access: KafkaAccess, collector: str, *, topic: str, open_seconds: float, append_seconds: float
    ) -> None:
        self._access = access
        self._collector = collector
        self._name = f"polygon-live-{collector}"
        self._topic = topic
        self._open_seconds = open_seconds
        self._append_seconds = append_seconds
        self._one = trio.CapacityLimiter(1)
        self._producer: Producer | None = None
        self._on_its_way: list[tuple[Record, Any]] = []
        self._sent_at = 0.0
        self._acknowledged: set[int] = set()
        """The ``seq`` acknowledged since the last batch began."""
        self._ends: dict[int, int] | None = None
        """For each partition, the offset after the last record known to be there."""
        self._unclear = False
        self._apart = False
        """Chunks are of one key each: after a refusal in a chunk of several, until a batch went through."""
        self._most_bytes = DEFAULT_MOST_BYTES
        self.facts = StoreFacts()

    async def open(self) -> None:
        """Connect, see to the topic, and wait for what is still on its way. Raises StoreUnavailable,
        StoreMisconfigured.
        """
        await self._run(self._open, seconds=self._open_seconds, doing="opening")

    async def append(self, records: Sequence[Record]) -> None:
        """All of them, in order. Raises StoreUnavailable, StoreMisconfigured, RowsRefused (then none was taken), and
        AlreadyHeld if some were taken and another was refused.
        """
        await self._run(lambda: self._append(records), seconds=self._append_seconds, doing="a batch")

    async def held(self, seqs: Collection[int]) -> frozenset[int]:
        """Which of these the topic holds. Raises StoreUnavailable, StoreMisconfigured."""
        found = await self._run(self._held, seconds=self._append_seconds, doing="reading back")
        return frozenset(found.intersection(seqs))

    def close(self) -> None:
        """At once, whatever the brokers do."""
        if self._producer is not None:
            self._producer.close()

    async def _run(self, work: Callable[[], T], *, seconds: float, doing: str) -> T:
        try:
            with trio.fail_after(seconds + GRACE_SECONDS):
                return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._one)
        except trio.TooSlowError:
            raise StoreUnavailable(
                f"Kafka {where(self._access)} did not answer within {seconds:g} s of {doing}"
            ) from None
        except Exception as why:  # noqa: BLE001  # everything is translated
            raise translated(why, where(self._access)) from None

    # In the thread --------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._settle(self._open_seconds)
        self._new_producer()
        with administration(self._access, name=self._name) as admin:
            self.facts, self._most_bytes = set_up(admin, self._topic)
            there = ends(admin, self._topic)
            known = self._ends if self._unclear and self._ends is not None else there
            self._ends = {p: _known(known.get(p, 0), end) for p, end in there.items()}

    def _new_producer(self) -> Producer:
        if self._producer is None:
            settings = settings_of(self._access, name=self._name) | {
                "acks": "all",
                "enable_idempotence": True,
                "allow_auto_create_topics": False,
                "max_in_flight_requests_per_connection": 1,
                "delivery_timeout_ms": DELIVERY_MS,
                "max_block_ms": self._append_seconds * 1000,
                "max_request_size": REQUEST_BYTES,
                "linger_ms": LINGER_MS,
                "batch_size": 2 * CHUNK_BYTES,
                "metrics_enabled": False,
            }
            self._producer = connected(Producer, settings)
        return self._producer

    def _append(self, records: Sequence[Record]) -> None:
        if self._on_its_way:
            raise StoreUnavailable("an earlier batch is still on its way to Kafka")
        self._acknowledged.clear()
        largest = max(len(record.key) + len(record.value) for record in records)
        if largest > self._most_bytes:
            raise errors.MessageSizeTooLargeError(f"{largest} bytes, and {self._topic} takes {self._most_bytes}")
        for chunk in _chunks(records, min(CHUNK_BYTES, int(self._most_bytes * 0.9)), apart=self._apart):
            producer = self._new_producer()
            producer.complaint = None
            self._sent_at = time.monotonic()
            for record in chunk:
                headers = [("collector", self._collector.encode()), ("seq", str(record.seq).encode())]
                future = producer.send(
                    self._topic, record.value, key=record.key, headers=headers, timestamp_ms=record.timestamp_ms
                )
                self._on_its_way.append((record, future))
            self._settle(self._append_seconds)
        self._apart = False

    def _settle(self, seconds: float) -> None:
        """Wait until every future of what is on its way has its answer. ``flush`` raises nothing for single records:
        each is looked at.
        """
        if not self._on_its_way or self._producer is None:
            return
        with contextlib.suppress(errors.KafkaTimeoutError):
            self._producer.flush(seconds)
        count = len(self._on_its_way)
        settled = all(future.is_done for _record, future in self._on_its_way)
        patience = GIVE_UP_SECONDS - (time.monotonic() - self._sent_at)
        if not settled and patience > 0:
            raise StoreUnavailable(
                f"Kafka {where(self._access)} has not acknowledged {count} ticks in {seconds:g} s"
                + reason(self._producer.complaint)
            )
        failures: list[StoreError] = []
        for record, future in self._on_its_way:
            if future.succeeded():
                self._acknowledged.add(record.seq)
                if self._ends is not None:
                    partition, offset = future.value.partition, future.value.offset
                    self._ends[partition] = max(self._ends.get(partition, 0), offset + 1)
            elif future.is_done:
                failures.append(translated(future.exception, where(self._access)))
        keys = {record.key for record, _future in self._on_its_way}
        self._on_its_way.clear()
        if settled and not failures:
            return
        self._producer.close()
        self._producer = None
        refusal = next((why for why in failures if isinstance(why, RowsRefused)), None)
        self._unclear = not (settled and refusal and len(keys) == 1)
        if refusal and (self._unclear or self._acknowledged):
            self._apart = True
            raise AlreadyHeld(f"some of these ticks may be in {self._topic}, another is refused: {refusal}")
        late = translated(errors.KafkaTimeoutError(f"no answer for {count} ticks"), where(self._access))
        raise refusal or next(iter(failures), late)

    def _held(self) -> set[int]:
        self._settle(self._append_seconds)
        while self._unclear:
            time.sleep(SETTLE_SECONDS)
            self._unclear = self._read_back()
        return set(self._acknowledged)

    def _read_back(self) -> bool:
        """Whether there was anything of ours behind what is known. What others write meanwhile is no matter."""
        known = self._ends or {}
        ours = False
        for record in records_behind(
            self._access, self._topic, dict(known), name=self._name, seconds=self._append_seconds
        ):
            headers = dict(record.headers)
            if headers.get("collector") == self._collector.encode():
                ours = True
                self._acknowledged.add(int(headers["seq"]))
            known[record.partition] = record.offset + 1
        return ours


def _known(offset: int, end: int) -> int:
    """From where to read a partition back. A topic that was deleted and made again, or a log that was cut off, ends
    before the offset that we know: then it is a stretch before its end, or all of it if that is less.
    """
    return offset if offset <= end else max(0, end - REACH)


def _chunks(records: Sequence[Record], most: int, *, apart: bool) -> Iterator[Sequence[Record]]:
    """In order, as far as that can be kept: ``apart`` keeps it for each key."""
    groups: Iterable[Sequence[Record]] = [records]
    if apart:
        by_key: dict[bytes, list[Record]] = defaultdict(list)
        for record in records:
            by_key[record.key].append(record)
        groups = by_key.values()
    for group in groups:
        start = size = 0
        for n, record in enumerate(group):
            weight = len(record.value) + len(record.key) + 100  # headers and the record's own frame
            if size and size + weight > most:
                yield group[start:n]
                start, size = n, 0
            size += weight
        if start < len(group):
            yield group[start:]
