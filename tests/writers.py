"""The two libraries that can write to Kafka: what holds for one must hold for the other.

``POLYGON_LIVE_KAFKA_CLIENT`` says which one is meant, here as in life, so that it reaches the processes that a test
starts, and a whole file can be run with either.
"""

import os
from typing import Final

from polygon_live.config import KafkaAccess

VARIABLE: Final = "POLYGON_LIVE_KAFKA_CLIENT"
PYTHON: Final = "kafka-python"
CONFLUENT: Final = "confluent"


def library() -> str:
    """The one that is meant now."""
    return os.environ.get(VARIABLE, PYTHON)


def access(address: str) -> KafkaAccess:
    """To these brokers, a comma list, by that library."""
    return KafkaAccess(tuple(address.split(",")), client=library())
