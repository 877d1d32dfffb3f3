"""The sink that keeps everything for ever: topic ``tick_archive``, keyed by symbol."""

from collections.abc import Sequence
from typing import ClassVar

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka import TOPIC, KafkaClient
from polygon_live.model import Batch
from polygon_live.sink import Identity, Opened, StoreFacts, Written


class KafkaSink:
    """Appends each batch with its cursor in one transaction: who reads committed records sees each tick once."""

    name = "kafka"
    keeps_cursor: ClassVar = True
    few_pause_seconds: ClassVar = 0.5
    """At twenty ticks a second transactions would cost more than all the rest, and an archive has time."""
    OPEN_SECONDS: ClassVar = 15.0
    APPEND_SECONDS: ClassVar = 15.0
    WATCH_SECONDS: ClassVar = 30.0
    """Three signs of life that did not come."""

    def __init__(self, access: KafkaAccess, identity: Identity, *, topic: str = TOPIC) -> None:
        self._client = KafkaClient(
            access,
            identity,
            topic=topic,
            open_seconds=self.OPEN_SECONDS,
            append_seconds=self.APPEND_SECONDS,
            watch_seconds=self.WATCH_SECONDS,
        )

    @property
    def pause_seconds(self) -> float:
        """As the library's transactions are dear."""
        return self._client.pause_seconds

    async def open(self) -> Opened:
        """Raises StoreUnavailable, StoreMisconfigured, StoreContested."""
        return await self._client.open()

    async def write(self, batch: Batch) -> Written:
        """Raises StoreUnavailable, StoreMisconfigured, StoreContested, RowsRefused."""
        await self._client.append(batch)
        return Written(len(batch))

    async def check(self) -> None:
        """Looks at the topic again, too. Raises StoreUnavailable, StoreMisconfigured, StoreContested."""
        await self._client.beat()

    async def held_after(self, seq: int) -> Sequence[bytes]:
        """Read back from the end of the archive. Raises StoreUnavailable, StoreMisconfigured."""
        return await self._client.held_after(seq)

    async def aclose(self) -> None:
        """Never waits for a broker."""
        self._client.close()

    def facts(self) -> StoreFacts:
        """As found when last opened or checked."""
        return self._client.facts
