"""The way back: what committed readers see of the topic."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from kafka import KafkaConsumer, TopicPartition, errors
from kafka.admin import KafkaAdminClient, OffsetSpec

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import settings_of
from polygon_live.engines.kafka.connections import connected
from polygon_live.engines.kafka.topic import offsets
from polygon_live.errors import StoreUnavailable
from polygon_live.sink import MOST_HELD

POLL_MS: Final = 200
FETCH_MS: Final = 15_000
"""Nobody is kept waiting by it, and a broker may have to fetch from its disk."""
BLOCK: Final = 5000
"""Records at most in one go."""
LOOK_BACK: Final = (2_000, 20_000, 200_000)
"""Offsets of each partition, the marks of transactions included: how far the way back is gone, in steps."""


@contextmanager
def committed(access: KafkaAccess, *, name: str) -> Iterator[KafkaConsumer]:
    """A consumer of its own, in no group, who sees no record of a transaction that is not committed."""
    settings = settings_of(access, name=name) | {
        "group_id": None,
        "request_timeout_ms": FETCH_MS,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "isolation_level": "read_committed",
        "metrics_enabled": False,
    }
    consumer = connected(KafkaConsumer, settings)
    try:
        yield consumer
    finally:
        consumer.close(autocommit=False)


def decided_ends(admin: KafkaAdminClient, topic: str, *, patience: float) -> dict[int, int]:
    """Where the partitions end now, returned when every transaction that was open there has been committed or aborted,
    and its marks are written: what was committed before is before the ends. Blocks.

    Raises kafka.errors.KafkaError; KafkaTimeoutError when one stays open for as long as the patience lasts, in seconds.
    """
    deadline = time.monotonic() + patience
    ends = offsets(admin, topic, OffsetSpec.LATEST)
    while True:
        decided = offsets(admin, topic, OffsetSpec.LATEST, committed=True)
        undecided = [p for p, end in ends.items() if decided.get(p, end) < end]
        if not undecided:
            return ends
        if time.monotonic() > deadline:
            raise errors.KafkaTimeoutError(f"a transaction stays open in partition {undecided[0]} of {topic}")
        time.sleep(0.05)


class Stretch:
    """A stretch of each partition with nothing undecided in it, read to its end."""

    def __init__(
        self,
        consumer: KafkaConsumer,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int],
        *,
        patience: float,
        most: int = BLOCK,
    ) -> None:
        """``patience`` is in seconds, ``most`` how many records a block may have."""
        self._consumer = consumer
        self._most = most
        self._patience = patience
        self._at = {p: starts[p] for p, end in ends.items() if starts[p] < end}
        self._ends = {TopicPartition(topic, p): ends[p] for p in self._at}
        self.total = sum(self._ends.values()) - sum(self._at.values())
        """In offsets: transactions leave marks among the records."""
        self.read = 0
        self.stopped = False
        consumer.assign(list(self._ends))
        consumer.resume(*self._ends)  # it remembers what was paused in the stretch before
        for partition in self._ends:
            consumer.seek(partition, starts[partition.partition])

    def block(self) -> list[Any]:
        """The next records, in order within each partition; none: the end, or ``stopped``. Blocks.

        Raises kafka.errors.KafkaError; KafkaTimeoutError when nothing comes for as long as the patience lasts.
        """
        deadline = time.monotonic() + self._patience
        while self._ends and not self.stopped:
            before = self.read
            found = self._consumer.poll(timeout_ms=POLL_MS, max_records=self._most)
            records = [r for partition, part in found.items() for r in part if r.offset < self._ends.get(partition, 0)]
            self._look()
            if records:
                return records
            if self.read > before:
                deadline = time.monotonic() + self._patience
            elif time.monotonic() > deadline:
                stuck = next(iter(self._ends))
                raise errors.KafkaTimeoutError(
                    f"partition {stuck.partition} of {stuck.topic} can't be read to its end: nothing came for "
                    f"{self._patience:g} s"
                )
        return []

    def _look(self) -> None:
        """How far it is. A record need not stand at the end: what stood there may have been aborted, or be a mark."""
        for partition, end in list(self._ends.items()):
            position = min(self._consumer.position(partition, POLL_MS) or 0, end)
            self.read += max(0, position - self._at[partition.partition])
            self._at[partition.partition] = max(position, self._at[partition.partition])
            if position >= end:
                del self._ends[partition]
                self._consumer.pause(partition)


def collector_of(record: Any) -> tuple[str, int] | None:
    """Who wrote it, and under which ``seq``; None: somebody else did."""
    headers = dict(record.headers)
    try:
        return headers["collector"].decode(), int(headers["seq"])
    except (KeyError, ValueError, AttributeError):
        return None


class Newest(NamedTuple):
    """Of one collector's records, those at the archive's end."""

    records: list[tuple[int, bytes]]
    """``seq`` and value, in ``seq`` order."""
    certain: bool
    """No partition was left before its newest was found, or its beginning reached: there is none above them."""


def newest_of(
    admin: KafkaAdminClient, consumer: KafkaConsumer, topic: str, collector: str, *, beyond: int | None, patience: float
) -> Newest:
    """This collector's records at the archive's end: in each partition all that are there beyond the given ``seq``, or
    at least its newest. Read back as far as ``LOOK_BACK`` says, and no farther. Blocks.

    A collector's records stand in ``seq`` order in each partition, so one that is not beyond ends the search.

    Raises kafka.errors.KafkaError; StoreUnavailable if there may be more beyond ``seq``: a part is worse than none.
    """
    ends = decided_ends(admin, topic, patience=patience)
    begins = offsets(admin, topic, OffsetSpec.EARLIEST)
    found: dict[int, list[tuple[int, bytes]]] = {}
    for reach in LOOK_BACK:
        starts = {p: max(begins[p], end - reach) for p, end in ends.items()}
        found |= {p: [] for p in ends}
        stretch = Stretch(consumer, topic, starts, ends, patience=patience)
        while block := stretch.block():
            for record in block:
                if (told := collector_of(record)) is not None and told[0] == collector:
                    found[record.partition].append((told[1], record.value))
        ends = {p: end for p, end in ends.items() if starts[p] > begins[p] and not _enough(found[p], beyond)}
        if not ends:
            break
    every = [one for part in found.values() for one in part if beyond is None or one[0] > beyond]
    if beyond is not None and (ends or len(every) > MOST_HELD):
        raise StoreUnavailable(f"the archive holds more beyond seq {beyond} than can be copied back")
    return Newest(sorted(every, key=lambda one: one[0]), certain=not ends)


def _enough(found: list[tuple[int, bytes]], beyond: int | None) -> bool:
    return bool(found) and (beyond is None or found[0][0] <= beyond)
