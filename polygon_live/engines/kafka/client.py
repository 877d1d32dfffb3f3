"""The producer, as a Trio task sees it: a batch goes in, and it is in the archive with its cursor, or not at all.

Rules of this file's state:

- Its libraries block, so every operation runs in a worker thread, one at a time (``_one``). A task that stops waiting
  abandons the thread, which is a daemon and ends by itself within its own limits; the next operation waits for that.
- A batch is one transaction, and the cursor is committed in it. After any failure, a refusal by the brokers included,
  the producer is left as it is, whatever it still has on its way: what comes next, be it a batch, makes another one, of
  the same transactional id, whose start ends or completes what hung and rules out that anything follows; the cursor
  that is read then is the truth.
- Nothing is written, and nobody fenced, before the cursor has been read and found to be ours, nobody's, or a dead
  one's.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

import attrs
import trio
from kafka import errors

from polygon_live.calling import InThread
from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import administration, where
from polygon_live.engines.kafka.cursor import Cursor, Holder, Watch, name_of, read_cursor
from polygon_live.engines.kafka.errors import FENCED, translated
from polygon_live.engines.kafka.kinds import kind_of
from polygon_live.engines.kafka.producing import Producer, Purpose
from polygon_live.engines.kafka.reading import committed, newest_of
from polygon_live.engines.kafka.topic import DEFAULT_MOST_BYTES, TopicAdmin, set_up
from polygon_live.errors import StoreContested, StoreUnavailable
from polygon_live.model import Batch
from polygon_live.sink import Identity, Opened, StoreFacts

FRAME_BYTES: Final = 84
"""What a request adds at least to one record, but for the headers' values."""
BACK_SECONDS: Final = 60.0
"""For reading back what lies behind a known number, at the archive's end."""
SEARCH_SECONDS: Final = 900.0
"""For finding the newest of ours where no cursor tells: a million records of others may have to be read, once."""
LOOK_SECONDS: Final = 60.0
"""While ticks flow, what the topic keeps is looked at again after so long."""
GRACE_SECONDS: Final = 2.0
"""For the thread to say by itself that it takes too long."""

T = TypeVar("T")


class KafkaClient:
    """Appends ticks to one topic: key symbol, headers ``collector`` and ``seq``."""

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
        self._one = InThread(StoreUnavailable)
        self._kind = kind_of(access)
        self._producer: Producer | None = None
        self._cursor: Cursor | None = None
        """As we committed it last."""
        self._heir_of: str | None = None
        """Whose cursor we took, or may have, in words: the answer to the claim may be lost."""
        self._beat = 0
        self._looked = 0.0
        self._most_bytes = DEFAULT_MOST_BYTES
        self.facts = StoreFacts({"client": self._kind.version})

    @property
    def pause_seconds(self) -> float:
        """As ``Kind`` has it."""
        return self._kind.pause_seconds

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
        if found is None:
            seq, certain = await self._run(self._search, seconds=SEARCH_SECONDS, doing="reading back")
        else:
            seq, certain = found.seq, found.certain
        self._heir_of = took_over or self._heir_of
        await self._run(
            lambda: self._claim(seq, found, certain=certain), seconds=self._append_seconds, doing="writing the cursor"
        )
        self._watch.claimed = True
        took_over, self._heir_of = self._heir_of, None
        return Opened(seq or None, took_over, certain=certain)

    async def append(self, batch: Batch) -> None:
        """All of them, in order, and the cursor to the last of them. Raises StoreUnavailable, StoreMisconfigured,
        StoreContested, and RowsRefused: then none was taken.
        """
        await self._run(lambda: self._append(batch), seconds=self._append_seconds, doing="a batch")

    async def beat(self) -> None:
        """Look at the topic and the cursor again, and give a sign of life. Raises StoreUnavailable, StoreMisconfigured,
        StoreContested.
        """
        await self._run(self._renew, seconds=self._append_seconds, doing="a sign of life")

    async def held_after(self, seq: int) -> list[bytes]:
        """The values of our records behind this ``seq`` and up to the cursor, in ``seq`` order. Raises
        StoreUnavailable, StoreMisconfigured.
        """
        return await self._run(lambda: self._held_after(seq), seconds=BACK_SECONDS, doing="reading back")

    def close(self) -> None:
        """At once, whatever the brokers do."""
        if self._producer is not None:
            self._producer.close()

    async def _run(self, work: Callable[[], T], *, seconds: float, doing: str) -> T:
        try:
            with trio.fail_after(seconds + GRACE_SECONDS):
                return await self._one(work)
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
        self._see_to_the_topic()
        self._start(deadline)
        return self._read_cursor(stable=True)

    def _see_to_the_topic(self) -> None:
        self._looked = time.monotonic()
        with administration(self._access, name=self._name, kind=TopicAdmin) as admin:
            facts, self._most_bytes = set_up(admin, self._topic)
        self.facts = attrs.evolve(facts, about={"client": self._kind.version, **facts.about})

    def _start(self, deadline: float) -> Producer:
        purpose = Purpose(
            access=self._access,
            name=self._name,
            collector=self._identity.collector,
            group=self._group,
            topic=self._topic,
            most_bytes=self._most_bytes,
            seconds=self._append_seconds,
        )
        self._producer = producer = self._kind.make(purpose)
        try:
            producer.initialize(deadline - time.monotonic())
        except errors.KafkaTimeoutError:
            raise StoreUnavailable(
                f"Kafka {where(self._access)} has not ended the last transaction within {self._open_seconds:g} s: "
                + ("; ".join(self.facts.complaints) or "are all of its brokers there?")
                + producer.complaint
            ) from None
        return producer

    def _search(self) -> tuple[int, bool]:
        with administration(self._access, name=self._name) as admin, committed(self._access, name=self._name) as reader:
            newest = newest_of(admin, reader, self._topic, self._identity.collector, beyond=None, patience=BACK_SECONDS)
        return newest.records[-1][0] if newest.records else 0, newest.certain

    def _claim(self, seq: int, found: Cursor | None, *, certain: bool) -> None:
        self._beat = found.holder.beat + 1 if found and found.holder else 0
        self._transact(None, seq, certain=certain)

    def _append(self, batch: Batch) -> None:
        key = max(len(tick.symbol) for tick in batch.ticks)
        size = max(map(len, batch.payloads)) + key
        size += FRAME_BYTES + len(self._identity.collector) + len(str(batch.last))
        if size > self._most_bytes:
            raise errors.MessageSizeTooLargeError(f"{size} bytes, and {self._topic} takes {self._most_bytes}")
        self._transact(batch, batch.last)
        if time.monotonic() - self._looked > LOOK_SECONDS:
            with suppress(errors.KafkaError):  # behind the batch, which is worth more than this look
                self._see_to_the_topic()

    def _renew(self) -> None:
        self._see_to_the_topic()
        cursor = self._as_we_left_it(stable=True)
        self._beat += 1
        self._transact(None, cursor.seq, certain=cursor.certain)

    def _held_after(self, seq: int) -> list[bytes]:
        last = self._cursor.seq if self._cursor else 0
        with administration(self._access, name=self._name) as admin, committed(self._access, name=self._name) as reader:
            newest = newest_of(admin, reader, self._topic, self._identity.collector, beyond=seq, patience=BACK_SECONDS)
        return [value for number, value in newest.records if number <= last]

    def _transact(self, batch: Batch | None, seq: int, *, certain: bool = True) -> None:
        deadline = time.monotonic() + self._append_seconds
        producer = self._producer or self._start_anew(deadline)
        cursor = Cursor(seq, Holder(self._identity.journal, self._identity.host, self._beat, certain))
        try:
            self._send(producer, batch, deadline)
            producer.commit(cursor, deadline - time.monotonic())
        except Exception as why:
            self._leave()
            if isinstance(why, FENCED):
                self._contested(self._read_cursor(stable=False))
            raise
        self._cursor = cursor

    def _start_anew(self, deadline: float) -> Producer:
        """After a refusal: the library has given numbers to records that the brokers did not take."""
        self._as_we_left_it(stable=False)
        producer = self._start(deadline)
        self._as_we_left_it(stable=True)
        return producer

    def _send(self, producer: Producer, batch: Batch | None, deadline: float) -> None:
        try:
            producer.append(batch, deadline - time.monotonic())
        except errors.KafkaTimeoutError:
            raise StoreUnavailable(
                f"Kafka {where(self._access)} has not acknowledged {len(batch or ())} ticks in "
                f"{self._append_seconds:g} s" + producer.complaint
            ) from None

    def _read_cursor(self, *, stable: bool) -> Cursor | None:
        return read_cursor(self._access, self._identity.collector, self._topic, name=self._name, stable=stable)

    def _as_we_left_it(self, *, stable: bool) -> Cursor:
        found = self._read_cursor(stable=stable)
        if found is None or found != self._cursor:
            self._contested(found)
            raise StoreUnavailable(f"the cursor at Kafka {where(self._access)} is not as we left it: looked at anew")
        return found

    def _contested(self, found: Cursor | None) -> None:
        if found and found.holder and self._watch.is_others(found.holder):
            raise self._watch.contested(found.holder)

    def _leave(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None
