"""The library's producer, which ends at once and can say why it has to try again."""

from typing import Any

from kafka import KafkaProducer, errors


class Producer(KafkaProducer):  # type: ignore[misc]
    """``complaint`` is the brokers' last objection to what is being tried again and again."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.complaint: type[errors.KafkaError] | None = None
        can_retry = self._sender._can_retry  # noqa: SLF001  # it tells its own log and nobody else

        def noting(batch: Any, error: type[errors.KafkaError]) -> bool:
            self.complaint = error
            return bool(can_retry(batch, error))

        self._sender._can_retry = noting  # noqa: SLF001

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:  # noqa: FBT001, FBT002  # theirs
        """Close the sockets and fail what is on its way: the library's own waits, at exit and even when it is
        collected, for brokers that don't answer.
        """
        del timeout, null_logger
        self._unregister_cleanup()
        if getattr(self, "_sender", None) is not None:
            self._sender.force_close()
