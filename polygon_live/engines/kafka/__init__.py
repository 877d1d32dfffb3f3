"""Kafka: the only part of the collector that knows kafka-python.

``client`` owns the producer, its thread and what became of each record, ``topic`` the set-up and the verification,
``reading`` the way back, ``access`` the settings of the library, ``connections`` and ``producer`` what it lacks there,
and ``errors`` what its errors mean.
"""

from polygon_live.engines.kafka.client import KafkaClient, Record
from polygon_live.engines.kafka.topic import TOPIC, trim_topic

__all__ = ["TOPIC", "KafkaClient", "Record", "trim_topic"]
