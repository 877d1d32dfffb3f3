"""The archive's topic: made if it is not there, verified whoever made it."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import trio
from kafka import TopicPartition, errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, OffsetSpec

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import administration, where
from polygon_live.engines.kafka.errors import translated
from polygon_live.errors import StoreMisconfigured
from polygon_live.sink import StoreFacts

TOPIC: Final = "tick_archive"
PARTITIONS: Final = 6
MOST_COPIES: Final = 3
FOR_EVER: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
    "unclean.leader.election.enable": "false",
}
"""What makes the topic an archive: nothing in it expires, is compacted, gets the broker's time for its own, or is lost
to a replica that lags.
"""
UNKNOWN_TOPIC: Final = 3
DEFAULT_MOST_BYTES: Final = 1_048_588
"""The brokers' own default of ``max.message.bytes``."""
ASK_ANOTHER: Final = (
    errors.UnknownTopicOrPartitionError,
    errors.LeaderNotAvailableError,
    errors.NotLeaderForPartitionError,
    errors.KafkaConnectionError,
    errors.NodeNotReadyError,
)
"""Each question may go to another broker: one that has not heard of a new topic yet, or one that has just died."""
PATIENCE_SECONDS: Final = 3.0

T = TypeVar("T")


class TopicAdmin(KafkaAdminClient):  # type: ignore[misc]
    """Raises what a broker answers instead of a configuration: the library takes it for one without entries."""

    @classmethod
    def _describe_configs_process_responses(cls, responses: Sequence[Any], *given: Any) -> Any:
        for result in (result for response in responses for result in response.results):
            if result.error_code:
                raise errors.for_code(result.error_code)(result.error_message)
        return super()._describe_configs_process_responses(responses, *given)


def set_up(admin: TopicAdmin, topic: str) -> tuple[StoreFacts, int]:
    """Make the topic unless it is there, and look at what is there then: also how many bytes it takes in one request.
    Safe to be done by two at once.

    Raises kafka.errors.KafkaError, StoreMisconfigured.
    """
    found = _describe(admin, topic)
    if found is None:
        _create(admin, topic)
        found = _patiently(lambda: _known(admin, topic))
    copies = min(len(partition["replica_nodes"]) for partition in found["partitions"])
    # describe_cluster knows no brokers before Kafka 3.7.
    brokers = admin._manager.cluster.brokers()  # noqa: SLF001
    about: dict[str, str | int | float | bool | None] = {
        "servers_known": ", ".join(sorted(f"{broker.host}:{broker.port}" for broker in brokers)),
        "topic": topic,
        "partitions": len(found["partitions"]),
        "copies": "single copy" if copies == 1 else copies,
    }
    try:
        config = configuration(admin, topic)
    except errors.KafkaError as why:
        todo = "grant describe configs on it" if isinstance(why, errors.AuthorizationError) else "it is asked for again"
        complaint = (
            f"what {topic} keeps is not verified, it does not tell its configuration ({type(why).__name__}): {todo}"
        )
        return StoreFacts(about=about | {"verified": False}, complaints=(complaint,)), DEFAULT_MOST_BYTES
    if "compact" in config.get("cleanup.policy", ""):
        raise StoreMisconfigured(
            f"{topic} is compacted, so it would keep one tick a symbol: kafka-configs --alter --entity-type topics "
            f"--entity-name {topic} --add-config cleanup.policy=delete"
        )
    wanted = dict(FOR_EVER) | ({"min.insync.replicas": "2"} if copies >= MOST_COPIES else {})
    wrong = [
        f"{name} is {config.get(name)}, not {value}" for name, value in wanted.items() if config.get(name) != value
    ]
    complaints = (
        [f"{topic} is not the archive it should be: {'; '.join(wrong)}: kafka-configs --alter"] if wrong else []
    )
    possible = min(MOST_COPIES, len(brokers))
    if copies < possible:
        complaints.append(
            f"{topic} has {copies} of the {possible} copies that {len(brokers)} brokers could hold: "
            "kafka-reassign-partitions"
        )
    about |= {"verified": not complaints}
    needed = int(config.get("min.insync.replicas", 1))
    if short := [p for p in found["partitions"] if len(p["isr_nodes"]) < needed]:
        complaints.append(
            f"{len(short)} of {len(found['partitions'])} partitions of {topic} have too few replicas in sync to be "
            f"written to: {needed} are needed, bring the brokers back"
        )
    about |= {"min_insync_replicas": config.get("min.insync.replicas")}
    return StoreFacts(about, tuple(complaints)), int(config.get("max.message.bytes", DEFAULT_MOST_BYTES))


def configuration(admin: TopicAdmin, topic: str) -> dict[str, str]:
    """Every setting that holds for the topic. Raises kafka.errors.KafkaError."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    answer = _patiently(lambda: admin.describe_configs([resource], config_filter="all"))
    return {name: entry["value"] for name, entry in answer["topic"][topic].items()}


def offsets(admin: KafkaAdminClient, topic: str, spec: Any, *, committed: bool = False) -> dict[int, int]:
    """Of each partition, as an uncommitted reader sees it, or a committed one. ``spec`` is an OffsetSpec, or a time in
    Unix ms: then the first offset with that time or a later one, -1 if there is none.

    Raises kafka.errors.KafkaError.
    """
    found = _patiently(lambda: _known(admin, topic))
    partitions = [TopicPartition(topic, partition["partition_index"]) for partition in found["partitions"]]
    isolation = "read_committed" if committed else "read_uncommitted"
    answer = _patiently(lambda: admin.list_partition_offsets(dict.fromkeys(partitions, spec), isolation))
    return {partition.partition: answer[partition].offset for partition in partitions}


async def trim_topic(access: KafkaAccess, keep: int) -> None:
    """Delete the oldest records until about ``keep`` remain. Only for a broker that can't keep an archive.

    Raises StoreUnavailable, StoreMisconfigured.
    """
    await trio.to_thread.run_sync(_trim, access, keep, abandon_on_cancel=True)


def _trim(access: KafkaAccess, keep: int) -> None:
    try:
        with administration(access, name="polygon-live/trim") as admin:
            if _describe(admin, TOPIC) is None:
                return
            first, after = (offsets(admin, TOPIC, spec) for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST))
            total = sum(after[p] - first[p] for p in after)
            if total <= keep:
                return
            share = keep / total
            admin.delete_records(
                {TopicPartition(TOPIC, p): after[p] - round((after[p] - first[p]) * share) for p in after}
            )
    except Exception as why:  # noqa: BLE001  # everything is translated
        raise translated(why, where(access)) from None


def _create(admin: KafkaAdminClient, topic: str) -> None:
    for copies in range(MOST_COPIES, 0, -1):
        configs = dict(FOR_EVER) | ({"min.insync.replicas": "2"} if copies == MOST_COPIES else {})
        wanted = {"num_partitions": PARTITIONS, "replication_factor": copies, "configs": configs}
        try:
            admin.create_topics({topic: wanted}, wait_for_metadata=True)
        except errors.InvalidReplicationFactorError:
            if copies == 1:
                raise
        except errors.TopicAlreadyExistsError:
            return
        else:
            return


def _describe(admin: KafkaAdminClient, topic: str) -> Any:
    (found,) = _patiently(lambda: admin.describe_topics([topic]))
    if found["error_code"] == UNKNOWN_TOPIC:
        return None
    if found["error_code"]:
        raise errors.for_code(found["error_code"])
    return found


def _patiently(ask: Callable[[], T]) -> T:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return ask()
        except ASK_ANOTHER:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _known(admin: KafkaAdminClient, topic: str) -> Any:
    if (found := _describe(admin, topic)) is None:
        raise errors.UnknownTopicOrPartitionError(topic)
    return found
