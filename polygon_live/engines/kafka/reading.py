"""The way back: what is in the topic behind an offset."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition, errors
from kafka.admin import KafkaAdminClient

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import administration, settings_of
from polygon_live.engines.kafka.connections import connected
from polygon_live.engines.kafka.topic import ends

POLL_MS = 200
A_REPLICA: Final = -2
"""Whoever asks as a replica that is none (Kafka keeps the number for debugging) is told where the leader's log ends."""


def records_behind(
    access: KafkaAccess, topic: str, offsets: Mapping[int, int], *, name: str, seconds: float
) -> Iterator[Any]:
    """Every record of the topic from these offsets (a partition without one: from its beginning) to what is the end of
    the leaders' logs now. Blocks; in no consumer group.

    The end is that of the log, not the one that consumers are told: what a leader has appended while too few replicas
    were in sync is shown to nobody, and comes out when they return. It is waited for.

    Raises kafka.errors.KafkaError; KafkaTimeoutError if all of it could not be read in time.
    """
    deadline = time.monotonic() + seconds
    with administration(access, name=name, kind=_AsAReplica) as admin:
        until = {TopicPartition(topic, number): end for number, end in ends(admin, topic).items()}
    settings = settings_of(access, name=name) | {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "metrics_enabled": False,
    }
    consumer = connected(KafkaConsumer, settings)
    try:
        consumer.assign(list(until))
        for partition, end in until.items():
            offset = offsets.get(partition.partition, 0)
            consumer.seek(partition, offset if offset <= end else 0)  # beyond the end: it was deleted and made again
        while left := [p for p, end in until.items() if (consumer.position(p, POLL_MS) or 0) < end]:
            if time.monotonic() > deadline:
                raise errors.KafkaTimeoutError(
                    f"partition {left[0].partition} of {topic} can't be read to its end: without a leader, or with too "
                    "few replicas in sync"
                )
            for found in consumer.poll(timeout_ms=POLL_MS).values():
                yield from found
    finally:
        consumer.close(autocommit=False)


class _AsAReplica(KafkaAdminClient):  # type: ignore[misc]
    @staticmethod
    def _list_partition_offsets_request(*arguments: Any) -> Any:
        request = KafkaAdminClient._list_partition_offsets_request(*arguments)  # noqa: SLF001
        request.replica_id = A_REPLICA
        return request
