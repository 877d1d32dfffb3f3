"""Ticks as Kafka keeps them: record batches of the format that the protocol calls version 2.

The library's own builder takes five times as long for a record, and its accumulator makes a future, a lock and four
lists for each: together they were the greatest part of what a tick costs the collector. Here a record is one ``join``
of parts that are the same for all records of a symbol and few that are not. The header and the checksum are the
library's own.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import calc_crc32c

from polygon_live.model import Tick

MAGIC: Final = 2
MOST_KNOWN: Final = 2**14
MOST_OVERHEAD: Final = 50
"""What a record has besides key, payload and the headers that are the same for all: eight numbers and its ``seq``."""
HEADER: Final = DefaultRecordBatch.HEADER_STRUCT


class _Varints(dict[int, bytes]):
    """Numbers as the format writes them: zigzag, seven bits a byte. The small ones are kept."""

    def __missing__(self, number: int) -> bytes:
        rest = (number << 1) ^ (number >> 63)
        out = bytearray()
        while rest > 0x7F:
            out.append(0x80 | (rest & 0x7F))
            rest >>= 7
        out.append(rest)
        if 0 <= number < MOST_KNOWN:
            self[number] = bytes(out)
        return bytes(out)


_varint = _Varints()


class Records:
    """One record batch, as the library's producer carries it: it gives the batch its numbers and closes it."""

    def __init__(self, body: bytes, count: int, first_ms: int, newest_ms: int) -> None:
        self._body = body
        self._count = count
        self._first_ms = first_ms
        self._newest_ms = newest_ms
        self._buffer: bytearray | None = None
        self.producer_id = -1
        self.producer_epoch = -1
        self.base_sequence = -1

    def set_producer_state(
        self,
        producer_id: int,
        producer_epoch: int,
        base_sequence: int,
        is_transactional: bool,  # noqa: FBT001  # theirs
    ) -> None:
        """Before it is closed. It is always part of a transaction."""
        del is_transactional
        self.producer_id, self.producer_epoch, self.base_sequence = producer_id, producer_epoch, base_sequence

    def close(self) -> None:
        """From now on it is as it will be sent, the first time and every time."""
        if self._buffer is None:
            self._buffer = self._built()
            self._body = b""

    def _built(self) -> bytearray:
        size = HEADER.size + len(self._body)
        head = (
            *(0, size - DefaultRecordBatch.AFTER_LEN_OFFSET, 0, MAGIC),
            0,  # the checksum's place
            DefaultRecordBatch.TRANSACTIONAL_MASK,
            *(self._count - 1, self._first_ms, self._newest_ms),
            *(self.producer_id, self.producer_epoch, self.base_sequence, self._count),
        )
        built = bytearray(HEADER.pack(*head))
        built += self._body
        checksum = calc_crc32c(memoryview(built)[DefaultRecordBatch.ATTRIBUTES_OFFSET :])
        at = DefaultRecordBatch.CRC_OFFSET
        built[at : at + 4] = checksum.to_bytes(4, "big")
        return built

    def buffer(self) -> bytearray:
        """What is sent. It must be closed."""
        if self._buffer is None:
            raise ValueError("the batch is not closed")
        return self._buffer

    def size_in_bytes(self) -> int:
        """With the header."""
        return len(self._buffer) if self._buffer is not None else HEADER.size + len(self._body)

    def is_full(self) -> bool:
        """If it were, it would be sent before the batches of the other partitions are there."""
        return False

    def next_offset(self) -> int:
        """How many records."""
        return self._count


class Encoder:
    """Of one collector's ticks."""

    def __init__(self, collector: str, most_bytes: int) -> None:
        """No batch of more than one record gets larger than ``most_bytes``."""
        self._headers = b"".join((_varint[2], _sized(b"collector"), _sized(collector.encode()), _sized(b"seq")))
        self._room = most_bytes - HEADER.size
        self._keys: dict[str, bytes] = {}

    def batches(self, ticks: Sequence[Tick], payloads: Sequence[bytes]) -> Iterator[Records]:
        """Of one partition, in order."""
        varint, join, headers, keys = _varint, b"".join, self._headers, self._keys
        room = self._room - len(headers) - MOST_OVERHEAD
        parts: list[bytes] = []
        size = count = first_ms = newest_ms = 0
        for tick, payload in zip(ticks, payloads, strict=True):
            time_ms, seq = tick.timestamp_ms, b"%d" % tick.seq
            key = keys.get(tick.symbol) or keys.setdefault(tick.symbol, _sized(tick.symbol.encode()))
            if count and size + len(key) + len(payload) > room:
                yield Records(join(parts), count, first_ms, newest_ms)
                parts = []
                size = count = 0
            if not count:
                first_ms = newest_ms = time_ms
            delta, number, length, digits = (
                varint[time_ms - first_ms],
                varint[count],
                varint[len(payload)],
                varint[len(seq)],
            )
            record = join((b"\0", delta, number, key, length, payload, headers, digits, seq))
            head = varint[len(record)]
            parts += (head, record)
            size += len(head) + len(record)
            count += 1
            newest_ms = max(newest_ms, time_ms)
        if count:
            yield Records(join(parts), count, first_ms, newest_ms)


def _sized(value: bytes) -> bytes:
    return _varint[len(value)] + value
