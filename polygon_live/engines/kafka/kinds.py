"""Which library writes. The two do the same in the same way; only the operator's word chooses, never what happens to be
installed.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Final

import attrs

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.producer import python_producer
from polygon_live.engines.kafka.producing import Producer, Purpose
from polygon_live.errors import ConfigurationError

PYTHON_PAUSE_SECONDS: Final = 0.1
"""A transaction is five requests: some 5 ms of CPU, in Python, which holds up all other threads."""
CONFLUENT_PAUSE_SECONDS: Final = 0.025
"""The same in C: some 1 ms."""


@attrs.frozen
class Kind:
    """A library."""

    version: str
    """With its name, for people."""
    make: Callable[[Purpose], Producer]
    """Blocks. Raises kafka.errors.KafkaError."""
    pause_seconds: float
    """From the beginning of one transaction to that of the next, so that they take a few percent of a core."""


def kind_of(access: KafkaAccess) -> Kind:
    """Raises ConfigurationError if the library can't be loaded."""
    return _KINDS[access.client]()


def _python() -> Kind:
    return Kind(f"kafka-python {version('kafka-python')}", python_producer, PYTHON_PAUSE_SECONDS)


def _confluent() -> Kind:
    try:
        found = import_module("polygon_live.engines.kafka.confluent")  # an extra: it need not be there
    except ImportError as why:
        raise ConfigurationError(
            f"POLYGON_LIVE_KAFKA_CLIENT is confluent, and that library can't be loaded ({why}): "
            "pip install 'polygon-live[fast]'"
        ) from None
    return Kind(found.VERSION, found.confluent_producer, CONFLUENT_PAUSE_SECONDS)


_KINDS: Final = {"kafka-python": _python, "confluent": _confluent}
