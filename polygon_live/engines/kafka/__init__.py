"""Kafka: the only part of the collector that knows kafka-python.

``client`` owns the writer's transactions and its thread, ``cursor`` what the archive remembers of who wrote how far,
``topic`` the set-up and the verification, ``reading`` the way back, ``archive`` that way for everybody else,
``matching`` the question what the archive has, ``access`` the settings of the library, ``connections`` and ``producer``
what it lacks there, and ``errors`` what its errors mean.
"""

from polygon_live.engines.kafka.archive import Archive, Archived
from polygon_live.engines.kafka.client import KafkaClient, Record
from polygon_live.engines.kafka.matching import ArchiveHolder
from polygon_live.engines.kafka.topic import TOPIC, trim_topic

__all__ = ["TOPIC", "Archive", "ArchiveHolder", "Archived", "KafkaClient", "Record", "trim_topic"]
