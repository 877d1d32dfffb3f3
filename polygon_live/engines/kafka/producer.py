"""The library's transactional producer, which keeps time limits, ends at once, can say why it has to try again, and
does nothing by itself that its owner must know of.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from kafka import KafkaProducer, TopicPartition, errors
from kafka.structs import OffsetAndMetadata

TRANSACTION_RETRY_MS = 10
"""A commit is answered before its marks are written, and until they are the next transaction is told to come again: in
a moment, not after the library's 100 ms.
"""


class Producer(KafkaProducer):  # type: ignore[misc]
    """One transaction after the other. ``complaint`` is the brokers' last objection to records that are being tried
    again and again.

    After the first failure it must be left: its successor's ``initialize`` ends what it began.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.complaint: type[errors.KafkaError] | None = None
        self._places: dict[bytes, TopicPartition] = {}
        sender = self._sender
        can_retry = sender._can_retry  # noqa: SLF001  # it tells its own log and nobody else

        def noting(batch: Any, error: type[errors.KafkaError]) -> bool:
            self.complaint = error
            return bool(can_retry(batch, error))

        sender._can_retry = noting  # noqa: SLF001
        # It loses track of the futures of a request that it splits: what is too large is refused.
        sender._can_split = lambda _batch, _error: False  # noqa: SLF001
        sender.config["retry_backoff_ms"] = TRANSACTION_RETRY_MS  # of transactions only: batches have their own
        # One that was fenced would ask for a new epoch, and fence its successor.
        self._transaction_manager._supports_epoch_bump = lambda: False  # noqa: SLF001

    @property
    def verdict(self) -> BaseException | None:
        """What ended the transaction, or the producer: its methods raise other words for it."""
        why: BaseException | None = self._transaction_manager.last_error
        return why

    def initialize(self, seconds: float) -> None:
        """Fence whoever had the same transactional id, and see the end of what it began.

        Raises kafka.errors.KafkaError; KafkaTimeoutError if that did not come about in time.
        """
        self._see_done(self._transaction_manager.initialize_transactions, seconds)

    def begin(self, topic: str, keys: Iterable[bytes]) -> None:
        """A transaction; the partitions of these keys come to it in one request. Raises kafka.errors.KafkaError."""
        self.begin_transaction()
        for key in keys:
            if key not in self._places:
                self._wait_on_metadata(topic, self.config["max_block_ms"])
                self._places[key] = TopicPartition(topic, self._partition(topic, None, key, None, key, None))
            self._transaction_manager.maybe_add_partition_to_transaction(self._places[key])

    def add(self, value: bytes, *, key: bytes, headers: list[tuple[str, bytes]], timestamp_ms: int) -> Any:
        """A record to the transaction; its future. In half the time of the library's ``send``, which looks everything
        up and over for each record. Raises kafka.errors.KafkaError.
        """
        place = self._places[key]
        future, full, new, _ = self._accumulator.append(place, timestamp_ms, key, value, headers)
        if full or new:
            self._sender.wakeup()
        return future

    def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata], group: str, seconds: float) -> None:
        """All that was added, and these offsets of the group. What was added must have been answered.

        Raises kafka.errors.KafkaError: then nobody knows whether it came about.
        """
        deadline = time.monotonic() + seconds
        manager = self._transaction_manager
        self._see_done(lambda: manager.send_offsets_to_transaction(offsets, group), seconds)
        self._see_done(manager.begin_commit, deadline - time.monotonic())

    def _see_done(self, begin: Callable[[], Any], seconds: float) -> None:
        """The library's own methods wait for ever."""
        result = begin()
        self._sender.wakeup()
        if not result.wait(max(0.0, seconds) * 1000):
            raise errors.KafkaTimeoutError("the brokers have not answered for the transaction")

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:  # noqa: FBT001, FBT002  # theirs
        """Close the sockets and fail what is on its way: the library's own waits, at exit and even when it is
        collected, for brokers that don't answer.
        """
        del timeout, null_logger
        self._unregister_cleanup()
        if getattr(self, "_sender", None) is not None:
            self._sender.force_close()
