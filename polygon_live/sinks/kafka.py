"""The sink that keeps everything for ever: topic ``tick_archive``, keyed by symbol."""

from collections.abc import Collection
from typing import ClassVar

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka import TOPIC, KafkaClient, Record
from polygon_live.model import Batch
from polygon_live.sink import StoreFacts, Written


class KafkaSink:
    """Appends each batch, and waits until the brokers have acknowledged every tick of it."""

    name = "kafka"

    OPEN_SECONDS: ClassVar = 15.0
    APPEND_SECONDS: ClassVar = 15.0

    def __init__(self, access: KafkaAccess, collector: str) -> None:
        self._client = KafkaClient(
            access,
            collector,
            topic=TOPIC,
            open_seconds=self.OPEN_SECONDS,
            append_seconds=self.APPEND_SECONDS,
        )

    async def open(self) -> None:
        """Raises StoreUnavailable, StoreMisconfigured."""
        await self._client.open()

    async def write(self, batch: Batch) -> Written:
        """Raises StoreUnavailable, StoreMisconfigured, AlreadyHeld, RowsRefused."""
        records = [
            Record(tick.symbol.encode(), payload, tick.timestamp_ms, tick.seq)
            for tick, payload in zip(batch.ticks, batch.payloads, strict=True)
        ]
        await self._client.append(records)
        return Written(len(batch))

    async def held(self, batch: Batch) -> Collection[int]:
        """By what was acknowledged and, where that is not known, by reading the topic back."""
        return await self._client.held({tick.seq for tick in batch.ticks})

    async def check(self) -> None:
        """Looks at the topic again. Raises StoreUnavailable, StoreMisconfigured."""
        await self._client.open()

    async def aclose(self) -> None:
        """Never waits for a broker."""
        self._client.close()

    def facts(self) -> StoreFacts:
        """As found when last opened."""
        return self._client.facts
