"""What the archive has of a symbol and a range of seconds: for what the table keeps no longer."""

from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.archive import Archive
from polygon_live.matching import Held, Key
from polygon_live.model import UNREADABLE


class _Quoted(msgspec.Struct, frozen=True, gc=False):
    bid: float
    ask: float
    timestamp_ms: int


_quoted: Final = msgspec.json.Decoder(_Quoted)


class ArchiveHolder:
    """The archive as committed readers see it. ``cursor`` tells how far it is, from who writes to it.

    Each question reads everything from the range's beginning to the end, for what was fetched later lies late.
    """

    name: ClassVar = "the archive"
    keeps_ms: ClassVar = None
    window_ms: ClassVar = 6 * 3_600_000

    def __init__(self, access: KafkaAccess, cursor: Callable[[], int | None]) -> None:
        self._access = access
        self.cursor = cursor

    async def held(self, symbol: str, from_ms: int, until_ms: int) -> Held:
        """Of all collectors, and of whoever else writes there. Raises StoreError."""
        counts: Counter[Key] = Counter()
        key = symbol.encode()
        async with Archive(self._access, since_ms=from_ms) as archive:
            async for records in archive:
                for record in records:
                    # A late record may have any time; that of the record is the tick's own.
                    if record.key == key and from_ms <= record.timestamp_ms < until_ms:
                        try:
                            tick = _quoted.decode(record.value)
                        except UNREADABLE:  # somebody else's
                            continue
                        counts[tick.timestamp_ms // 1000, tick.bid, tick.ask] += 1
        return Held(counts)
