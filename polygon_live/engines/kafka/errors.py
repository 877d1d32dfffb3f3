"""What kafka-python's errors mean to the collector."""

from typing import Final

from kafka import errors

from polygon_live.errors import RowsRefused, StoreError, StoreMisconfigured, StoreUnavailable

REFUSALS: Final = (errors.MessageSizeTooLargeError, errors.InvalidRecordError, errors.InvalidTimestampError)
"""Of a record, whatever is done about the rest."""
LOGIN: Final = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)


def translated(why: BaseException, where: str) -> StoreError:
    """``where`` names the brokers."""
    said = _short(why)
    match why:
        case StoreError():
            return why
        case errors.KafkaError() if isinstance(why, REFUSALS):
            return RowsRefused(f"Kafka {where}: {said}")
        case errors.KafkaError() if isinstance(why, LOGIN):
            return StoreMisconfigured(
                f"Kafka {where} refuses the login ({said}): check POLYGON_LIVE_KAFKA_SASL_USERNAME, _SASL_PASSWORD and "
                "_SASL_MECHANISM"
            )
        case errors.AuthorizationError():
            return StoreMisconfigured(
                f"Kafka {where} refuses ({said}): grant the user create, describe, describe configs, read and write on "
                "the topic, and idempotent write on the cluster"
            )
        case errors.NotEnoughReplicasError() | errors.NotEnoughReplicasAfterAppendError():
            return StoreUnavailable(f"Kafka {where} has too few replicas in sync to promise anything: {said}")
        case errors.KafkaConfigurationError() | errors.UnsupportedVersionError():
            return StoreMisconfigured(f"Kafka {where} can't be used: {said}")
        case errors.KafkaTimeoutError() | errors.RequestTimedOutError() | TimeoutError():
            return StoreUnavailable(f"Kafka {where} does not answer: {said}")
        case errors.KafkaError() | OSError():
            return StoreUnavailable(f"Kafka {where}: {said}")
    # Its own faults, which it has when connections come and go. The text could hold what it was given: a secret.
    return StoreUnavailable(f"Kafka {where}: {type(why).__name__} inside kafka-python")


def _short(why: BaseException) -> str:
    """The library quotes whole requests and responses: the error's name and its first words are enough."""
    name = type(why).__name__
    said = str(why)
    return name if not said or said.startswith("Request '") else f"{name}: {said[:200]}"
