"""What the clients' errors mean to the collector, in kafka-python's words for them."""

from typing import Final

from kafka import errors

from polygon_live.errors import RowsRefused, StoreError, StoreMisconfigured, StoreUnavailable

REFUSALS: Final = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidRecordError,
    errors.InvalidTimestampError,
)
"""Of a record, whatever is done about the rest."""
LOGIN: Final = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)
FENCED: Final = (errors.ProducerFencedError, errors.InvalidProducerEpochError)
"""A newer producer of the same transactional id is there, or the broker has ended a transaction that took too long."""
UNSYNCED: Final = (errors.NotEnoughReplicasError, errors.NotEnoughReplicasAfterAppendError)


class CertificateRefused(errors.KafkaConnectionError):  # type: ignore[misc]
    """We don't trust the broker's certificate."""


class NotUnderstood(errors.KafkaConnectionError):  # type: ignore[misc]
    """The other end speaks something else: TLS or not, Kafka or not."""


VERDICTS: Final = (*LOGIN, CertificateRefused, NotUnderstood)
"""What a broker has let us know: more than that it can't be reached just now."""


def reason(objection: type[errors.KafkaError] | None) -> str:
    """What stood in the way last, for the end of a sentence; nothing if that is not known."""
    if objection is None:
        return ""
    words = "too few replicas are in sync" if issubclass(objection, UNSYNCED) else "the last try ended"
    return f": {words} ({objection.__name__})"


def translated(why: BaseException, where: str) -> StoreError:  # noqa: C901, PLR0911  # a table
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
                "the topic, describe and write on the transactional id and describe and read on the group, both of "
                "them named polygon-live. and the collector's id"
            )
        case errors.KafkaError() if isinstance(why, FENCED):
            return StoreUnavailable(
                f"Kafka {where} has ended the transaction ({said}): it took too long, or another collector of this "
                "name has come, with a copy of this one's data folder"
            )
        case errors.KafkaError() if "InvalidTransactionTimeout" in said:
            return StoreMisconfigured(
                f"Kafka {where} allows shorter transactions only ({said}): raise transaction.max.timeout.ms of the "
                "brokers to 30000 at least"
            )
        case errors.KafkaError() if isinstance(why, UNSYNCED):
            return StoreUnavailable(f"Kafka {where} has too few replicas in sync to promise anything: {said}")
        case CertificateRefused():
            return StoreMisconfigured(
                f"Kafka {where} shows a certificate that is not trusted ({why}): POLYGON_LIVE_KAFKA_CA_FILE must "
                "name the certificate of the authority that signed it, and POLYGON_LIVE_KAFKA_BROKERS the hosts as it "
                "names them"
            )
        case NotUnderstood():
            return StoreUnavailable(
                f"Kafka {where} is not understood ({said}): if that stays so, POLYGON_LIVE_KAFKA_SECURITY_PROTOCOL is "
                "not what this port speaks"
            )
        case errors.KafkaConfigurationError() | errors.UnsupportedVersionError():
            return StoreMisconfigured(f"Kafka {where} can't be used: {said}")
        case errors.KafkaTimeoutError() | errors.RequestTimedOutError() | TimeoutError():
            return StoreUnavailable(f"Kafka {where} does not answer: {said}")
        case errors.KafkaError() | OSError():
            return StoreUnavailable(f"Kafka {where}: {said}")
    # A client's own faults, which it has when connections come and go. The text could hold what it was given: a secret.
    return StoreUnavailable(f"Kafka {where}: {type(why).__name__} inside the client")


def _short(why: BaseException) -> str:
    """The library quotes whole requests and responses: the error's name and its first words are enough."""
    name = type(why).__name__
    said = str(why).removeprefix(f"{name}: ")
    return name if not said or said.startswith("Request '") else f"{name}: {said[:200]}"
