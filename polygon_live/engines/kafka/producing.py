"""What the writer needs of a producer, whichever library it is made with."""

from typing import Final, Protocol

import attrs

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.cursor import Cursor
from polygon_live.model import Batch

TRANSACTION_MS: Final = 30_000
"""After that, and up to ten seconds more, the brokers end what a dead collector left open, and its readers go on. A
batch takes less: it is given up before.
"""
REQUEST_MOST_BYTES: Final = 100 * 2**20
"""Never reached: the topic's limit is what is kept, before anything is sent."""
CHUNK_BYTES: Final = 700_000
"""Of a partition's records in one request, if the topic takes so much."""


@attrs.frozen
class Purpose:
    """What a producer is for."""

    access: KafkaAccess
    name: str
    """Of the client, for the brokers' logs."""
    collector: str
    group: str
    """Of the cursor; the transactional id has the same name."""
    topic: str
    most_bytes: int
    """The topic's limit for a request."""
    seconds: float
    """How long a batch may take."""

    @property
    def chunk_bytes(self) -> int:
        """The most that goes to a partition in one request."""
        return min(CHUNK_BYTES, self.most_bytes)


class Producer(Protocol):
    """One transaction after the other. After the first failure it must be left: its successor's ``initialize`` ends
    what it began.

    A symbol's ticks go to one partition, and every producer chooses the same: murmur2 of the symbol, without its sign,
    modulo the number of partitions. Every method but ``close`` blocks, and raises kafka.errors.KafkaError; at most
    ``seconds`` later it is a KafkaTimeoutError.
    """

    @property
    def complaint(self) -> str:
        """Why the records are not taken, as far as that is known, for the end of a sentence; or nothing."""

    def initialize(self, seconds: float) -> None:
        """Fence whoever had the same transactional id, and see the end of what it began."""

    def append(self, batch: Batch | None, seconds: float) -> None:
        """Begin a transaction with these ticks in it; return when the brokers have acknowledged all of them."""

    def commit(self, cursor: Cursor, seconds: float) -> None:
        """The transaction, with the cursor. After an error nobody knows whether it came about."""

    def close(self) -> None:
        """At once, whatever the brokers do, and from any thread."""
