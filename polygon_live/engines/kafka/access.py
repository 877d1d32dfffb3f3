"""The library's settings, the same for every kind of client."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka.admin import KafkaAdminClient

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.connections import connected

REQUEST_MS = 5000
"""One request's answer; the producer sends again, under the same number, until the batch's own limit."""


def settings_of(access: KafkaAccess, *, name: str) -> dict[str, Any]:
    """Addresses and credentials as kafka-python takes them."""
    settings: dict[str, Any] = {
        "bootstrap_servers": list(access.brokers),
        "bootstrap_timeout_ms": REQUEST_MS,
        "client_id": name,
        "request_timeout_ms": REQUEST_MS,
        "reconnect_backoff_max_ms": 1000,
        "security_protocol": access.security_protocol,
    }
    if access.ca_file is not None:
        settings["ssl_cafile"] = str(access.ca_file)
    if access.security_protocol.startswith("SASL"):
        settings["sasl_mechanism"] = access.sasl_mechanism
        settings["sasl_plain_username"] = access.sasl_username
        settings["sasl_plain_password"] = access.sasl_password.reveal() if access.sasl_password else None
    return settings


@contextmanager
def administration(
    access: KafkaAccess, *, name: str, kind: type[KafkaAdminClient] = KafkaAdminClient
) -> Iterator[KafkaAdminClient]:
    """An admin client for a moment. Blocks; raises kafka.errors.KafkaError."""
    admin = connected(kind, settings_of(access, name=name))
    try:
        yield admin
    finally:
        admin.close()


def where(access: KafkaAccess) -> str:
    """The brokers' addresses, for people."""
    return ", ".join(access.brokers)
