"""The producer, as a Trio task sees it: a batch goes in, and it is in the archive with its cursor, or not at all.

Rules of this file's state:

- kafka-python blocks, so every operation runs in a worker thread, one at a time (``_one``). A task that stops waiting
  abandons the thread, which is a daemon and ends by itself within its own limits; the next operation waits for that.
- A batch is one transaction, and the cursor is committed in it. After any failure, a refusal by the brokers included,
  the producer is left as it is, whatever it still has on its way: what comes next, be it a batch, makes another one, of
  the same transactional id, whose start ends or completes what hung and rules out that anything follows; the cursor
  that is read then is the truth.
- Nothing is written, and nobody fenced, before the cursor has been read and found to be ours, nobody's, or a dead
  one's.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import attrs
import trio
from kafka import errors

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import administration, settings_of, where
from polygon_live.engines.kafka.connections import connected
from polygon_live.engines.kafka.cursor import Cursor, Holder, Watch, name_of, read_cursor
from polygon_live.engines.kafka.errors import FENCED, REFUSALS, reason, translated
from polygon_live.engines.kafka.producer import Producer
from polygon_live.engines.kafka.reading import committed, newest_of
from polygon_live.engines.kafka.topic import DEFAULT_MOST_BYTES, set_up
from polygon_live.errors import StoreContested, StoreUnavailable
from polygon_live.sink import Identity, Opened, StoreFacts

TRANSACTION_MS: Final = 30_000
"""After that, and up to ten seconds more, the brokers end what a dead collector left open, and its readers go on. A
batch takes less: it is given up before.
"""
DELIVERY_MS: Final = 3_600_000
"""Never reached: when the library gives up by itself, some futures never hear of it."""
REQUEST_MOST_BYTES: Final = 100 * 2**20
"""Never reached: the topic's limit is what is kept, before anything is sent."""
CHUNK_BYTES: Final = 700_000
"""Of a partition's records in one request, if the topic takes so much."""
LINGER_MS: Final = 60_000
"""The producer waits for the end of the batch, so that it is not torn apart by a sender that is faster."""
FRAME_BYTES: Final = 84
"""What a request adds at least to one record, but for the headers' values."""
SEARCH_SECONDS: Final = 60.0
"""For reading back from the archive's end."""
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
        self,
        access: KafkaAccess,
        identity: Identity,
        *,
        topic: str,
        open_seconds: float,
        append_seconds: float,
        watch_seconds: float,
    ) -> None:
        self._access = access
        self._identity = identity
        self._group = name_of(identity.collector)
        self._name = f"polygon-live-{identity.collector}"
        self._topic = topic
        self._open_seconds = open_seconds
        self._append_seconds = append_seconds
        self._watch = Watch(identity, watch_seconds, where=where(access))
        self._one = trio.CapacityLimiter(1)
        self._producer: Producer | None = None
        self._cursor: Cursor | None = None
        """As we committed it last."""
        self._heir_of: str | None = None
        """Whose cursor we took, or may have, in words: the answer to the claim may be lost."""
        self._beat = 0
        self._most_bytes = DEFAULT_MOST_BYTES
        self.facts = StoreFacts()

    async def open(self) -> Opened:
        """Connect, see to the topic, end what was left, and say how far the archive is. Raises StoreUnavailable,
        StoreMisconfigured, StoreContested.
        """
        try:
            return await self._open()
        except StoreContested:
            self._heir_of = None
            raise
        except BaseException:
            self._watch.lose_sight()
            raise

    async def _open(self) -> Opened:
        found = await self._run(self._look, seconds=self._open_seconds, doing="reading the cursor")
        took_over = self._watch.look(found, trio.current_time())
        found = await self._run(self._begin, seconds=self._open_seconds, doing="opening")
        if took_over is None:
            self._watch.look(found, trio.current_time())  # somebody may have come meanwhile
        seq = found.seq if found else await self._run(self._search, seconds=SEARCH_SECONDS, doing="reading back")
        self._heir_of = took_over or self._heir_of
        await self._run(lambda: self._claim(seq, found), seconds=self._append_seconds, doing="writing the cursor")
        took_over, self._heir_of = self._heir_of, None
        return Opened(seq or None, took_over)

    async def append(self, records: Sequence[Record]) -> None:
        """All of them, in order, and the cursor to the last of them. Raises StoreUnavailable, StoreMisconfigured,
        StoreContested, and RowsRefused: then none was taken.
        """
        await self._run(lambda: self._append(records), seconds=self._append_seconds, doing="a batch")

    async def beat(self) -> None:
        """Look at the topic and the cursor again, and give a sign of life. Raises StoreUnavailable, StoreMisconfigured,
        StoreContested.
        """
        await self._run(self._renew, seconds=self._append_seconds, doing="a sign of life")

    async def held_after(self, seq: int) -> list[bytes]:
        """The values of our records behind this ``seq`` and up to the cursor, in ``seq`` order. Raises
        StoreUnavailable, StoreMisconfigured.
        """
        return await self._run(lambda: self._held_after(seq), seconds=SEARCH_SECONDS, doing="reading back")

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

    def _look(self) -> Cursor | None:
        self._leave()
        return self._read_cursor(stable=False)

    def _begin(self) -> Cursor | None:
        deadline = time.monotonic() + self._open_seconds
        with administration(self._access, name=self._name) as admin:
            self.facts, self._most_bytes = set_up(admin, self._topic)
        self._start(deadline)
        return self._read_cursor(stable=True)

    def _start(self, deadline: float) -> Producer:
        settings = settings_of(self._access, name=self._name) | {
            "acks": "all",
            "transactional_id": self._group,
            "transaction_timeout_ms": TRANSACTION_MS,
            "allow_auto_create_topics": False,
            "max_in_flight_requests_per_connection": 1,
            "delivery_timeout_ms": DELIVERY_MS,
            "max_block_ms": self._append_seconds * 1000,
            "max_request_size": REQUEST_MOST_BYTES,
            "linger_ms": LINGER_MS,
            "batch_size": min(CHUNK_BYTES, self._most_bytes),
            "metrics_enabled": False,
        }
        self._producer = producer = connected(Producer, settings)
        try:
            producer.initialize(deadline - time.monotonic())
        except errors.KafkaTimeoutError:
            raise StoreUnavailable(
                f"Kafka {where(self._access)} has not ended the last transaction within {self._open_seconds:g} s: "
                + ("; ".join(self.facts.complaints) or "are all of its brokers there?")
            ) from None
        return producer

    def _search(self) -> int:
        with administration(self._access, name=self._name) as admin, committed(self._access, name=self._name) as reader:
            ours = newest_of(admin, reader, self._topic, self._identity.collector, beyond=None, patience=SEARCH_SECONDS)
        return ours[-1][0] if ours else 0

    def _claim(self, seq: int, found: Cursor | None) -> None:
        self._beat = found.holder.beat + 1 if found and found.holder else 0
        self._transact([], seq)

    def _append(self, records: Sequence[Record]) -> None:
        size, seq = max((len(record.key) + len(record.value), record.seq) for record in records)
        size += FRAME_BYTES + len(self._identity.collector) + len(str(seq))
        if size > self._most_bytes:
            raise errors.MessageSizeTooLargeError(f"{size} bytes, and {self._topic} takes {self._most_bytes}")
        self._transact(records, records[-1].seq)

    def _renew(self) -> None:
        with administration(self._access, name=self._name) as admin:
            self.facts, self._most_bytes = set_up(admin, self._topic)
        cursor = self._as_we_left_it(stable=True)
        self._beat += 1
        self._transact([], cursor.seq)

    def _held_after(self, seq: int) -> list[bytes]:
        last = self._cursor.seq if self._cursor else 0
        with administration(self._access, name=self._name) as admin, committed(self._access, name=self._name) as reader:
            ours = newest_of(admin, reader, self._topic, self._identity.collector, beyond=seq, patience=SEARCH_SECONDS)
        return [value for number, value in ours if number <= last]

    def _transact(self, records: Sequence[Record], seq: int) -> None:
        deadline = time.monotonic() + self._append_seconds
        producer = self._producer or self._start_anew(deadline)
        cursor = Cursor(seq, Holder(self._identity.journal, self._identity.host, self._beat))
        try:
            if records:
                self._send(producer, records, deadline)
            else:
                producer.begin_transaction()
            producer.commit(cursor.commit(self._topic), self._group, deadline - time.monotonic())
        except Exception as why:  # noqa: BLE001  # it is raised again, or what was behind it
            self._leave()
            verdict = producer.verdict or why if type(why) is errors.KafkaError else why  # it says no more than that
            if isinstance(verdict, FENCED):
                self._contested(self._read_cursor(stable=False))
            raise verdict from None
        self._cursor = cursor

    def _start_anew(self, deadline: float) -> Producer:
        """After a refusal: the library has given numbers to records that the brokers did not take."""
        self._as_we_left_it(stable=False)
        producer = self._start(deadline)
        self._as_we_left_it(stable=True)
        return producer

    def _send(self, producer: Producer, records: Sequence[Record], deadline: float) -> None:
        producer.complaint = None
        collector = self._identity.collector.encode()
        producer.begin(self._topic, {record.key for record in records})
        futures: list[Any] = [
            producer.add(
                record.value,
                key=record.key,
                headers=[("collector", collector), ("seq", str(record.seq).encode())],
                timestamp_ms=record.timestamp_ms,
            )
            for record in records
        ]
        try:
            producer.flush(deadline - time.monotonic())
        except errors.KafkaTimeoutError:
            raise StoreUnavailable(
                f"Kafka {where(self._access)} has not acknowledged {len(records)} ticks in {self._append_seconds:g} s"
                + reason(producer.complaint)
            ) from None
        failures = [future.exception for future in futures if not future.succeeded()]  # ``flush`` raises none of them
        if failures:
            raise next((why for why in failures if isinstance(why, REFUSALS)), failures[0])

    def _read_cursor(self, *, stable: bool) -> Cursor | None:
        return read_cursor(self._access, self._identity.collector, self._topic, name=self._name, stable=stable)

    def _as_we_left_it(self, *, stable: bool) -> Cursor:
        found = self._read_cursor(stable=stable)
        if found is None or found != self._cursor:
            self._contested(found)
            raise StoreUnavailable(f"the cursor at Kafka {where(self._access)} is not as we left it: looked at anew")
        return found

    def _contested(self, found: Cursor | None) -> None:
        if found and found.holder and found.holder.journal != self._identity.journal:
            raise self._watch.contested(found.holder)

    def _leave(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None
