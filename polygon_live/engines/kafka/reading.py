"""The way back: what is in the topic behind an offset."""

from collections.abc import Iterator, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import settings_of

POLL_MS = 200


def records_behind(access: KafkaAccess, topic: str, offsets: Mapping[int, int], *, name: str) -> Iterator[Any]:
    """Every record of these partitions from these offsets to what is the end now. Blocks; in no consumer group.

    Raises kafka.errors.KafkaError.
    """
    consumer = KafkaConsumer(
        **settings_of(access, name=name), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        partitions = [TopicPartition(topic, number) for number in offsets]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, offsets[partition.partition])
        while any(consumer.position(p) < ends[p] for p in partitions):
            for found in consumer.poll(timeout_ms=POLL_MS).values():
                yield from found
    finally:
        consumer.close(autocommit=False)
