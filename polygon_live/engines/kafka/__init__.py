"""Kafka: the only part of the collector that knows kafka-python and librdkafka.

``client`` owns the writer's transactions and its thread, ``producing`` says what it needs of a producer, ``producer``
is the one of kafka-python (with ``records``, the batches that it sends) and ``confluent`` the one of librdkafka, and
``kinds`` chooses. Everything else is done by kafka-python, whichever writes: ``cursor`` is what the archive remembers
of who wrote how far, ``topic`` the set-up and the verification, ``reading`` the way back, ``archive`` that way for
everybody else, ``matching`` the question what the archive has, ``counting`` how often, ``access`` the settings of the
library, ``connections`` what it lacks there, and ``errors`` what its errors mean.
"""

from polygon_live.engines.kafka.archive import Archive, Archived
from polygon_live.engines.kafka.client import KafkaClient
from polygon_live.engines.kafka.counting import ArchiveNumbers, Numbers, Place
from polygon_live.engines.kafka.matching import ArchiveHolder
from polygon_live.engines.kafka.topic import TOPIC, trim_topic

__all__ = [
    "TOPIC",
    "Archive",
    "ArchiveHolder",
    "ArchiveNumbers",
    "Archived",
    "KafkaClient",
    "Numbers",
    "Place",
    "trim_topic",
]
