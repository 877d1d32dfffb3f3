"""Settings: secrets and addresses, from the environment. What operators may change is in ``operational.py``.

The two kinds never mix. Secrets are wrapped, so that a log line, a traceback or ``/state`` shows ``***``; any secret
``X`` may also be given as ``X_FILE``, the path of a file that holds it.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

import attrs
import platformdirs

from polygon_live import values
from polygon_live.errors import ConfigurationError

PREFIX: Final = "POLYGON_LIVE_"
REST_URL: Final = "https://api.massive.com"
WS_URLS: Final = ("wss://socket.massive.com/forex", "wss://socket.polygon.io/forex")
UNSENDABLE: Final = "(not shown here) has a space in it, or what no HTTP header can carry: use printable ASCII"

V = TypeVar("V")


class Secret:
    """A string that shows itself only to who asks by name."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        """Never the value."""
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        """By value."""
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        """By value."""
        return hash(self._value)


@attrs.frozen
class KafkaAccess:
    """How to reach Kafka."""

    brokers: tuple[str, ...]
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: Secret | None = None
    ca_file: Path | None = None
    client: str = "kafka-python"
    """The library that writes: this one, or ``confluent``, which is librdkafka and comes with the extra ``fast``."""


@attrs.frozen
class NatsAccess:
    """How to reach NATS. The URLs, each with its scheme, may carry credentials, so they are secrets too."""

    urls: tuple[Secret, ...]
    creds_file: Path | None = None
    ca_file: Path | None = None
    """The authority to trust in place of the machine's own. With it, nothing is said in the clear."""


@attrs.frozen
class HttpServer:
    """Where the status server listens. A port of 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: Secret | None = None
    """If set, everything but /health* and /metrics asks for ``Authorization: Bearer TOKEN``."""


@attrs.frozen
class HubAccess:
    """How to reach Central Hub. Without a URL there is none, and the safe defaults hold."""

    url: str | None = None
    api_key: Secret | None = None
    poll_seconds: float = 30.0
    """How often the configuration is asked for, whatever was announced."""


def default_data_dir() -> Path:
    """The platform's folder for state that must survive a restart."""
    return Path(platformdirs.user_state_dir("polygon-live"))


def data_dir_from(environ: Mapping[str, str]) -> Path:
    """The data folder alone, for who needs no other setting."""
    return _Environment(environ).get(PREFIX + "DATA_DIR", Path, default_data_dir())


def journal_dir_from(environ: Mapping[str, str]) -> Path:
    """The journal's folder alone, likewise. Raises ConfigurationError."""
    env = _Environment(environ)
    collector = env.get(PREFIX + "COLLECTOR_ID", values.identifier, "polygon-live-1")
    if env.faults:
        raise ConfigurationError(*env.faults)
    return journal_dir_in(data_dir_from(environ), collector)


def journal_dir_in(data_dir: Path, collector: str) -> Path:
    """Where a collector's journal is: two collectors with one data folder have each their own."""
    return data_dir / "journal" / collector


@attrs.frozen
class Settings:
    """Everything that a running collector must know and no operator changes while it runs."""

    api_key: Secret
    timescale_dsn: Secret
    nats: NatsAccess
    kafka: KafkaAccess
    ws_urls: tuple[str, ...] = WS_URLS
    rest_url: str = REST_URL
    """Where gaps are filled from."""
    hub: HubAccess = HubAccess()
    http: HttpServer = HttpServer()
    data_dir: Path = attrs.Factory(default_data_dir)
    collector_id: str = "polygon-live-1"
    tenant_id: str = "system"
    log_level: str = "info"
    log_format: str = "auto"
    grace_seconds: float = 5.0
    """How long a stop may take: the sinks write what they hold until then."""
    nats_live_max_age_seconds: float = 10.0
    """Older ticks go to ``ticks.SYMBOL.late``: readers of ``ticks.SYMBOL`` take what they get for now."""
    frames_max_bytes: int = 64 * 2**20
    """Received and not yet judged; what does not fit is dropped and counted."""
    sink_queue_ticks: int = 20_000
    """Accepted and not yet taken by one sink; what does not fit is read from the journal later."""
    journal_sync_ms: int = 1000
    """How often the journal is made safe against a power cut; 0: with every batch."""
    journal_max_bytes: int = 4 * 2**30
    """Beyond it the oldest goes, whoever still needs it."""
    journal_keep_hours: float = 24.0
    """What all stores have is kept so long, to catch up one that is restored from a backup."""
    simulated: bool = False
    """Set by ``demo``, never from the environment: the prices are not a market's, and every answer says so."""

    @property
    def journal_dir(self) -> Path:
        """This collector's."""
        return journal_dir_in(self.data_dir, self.collector_id)

    @property
    def last_good_file(self) -> Path:
        """The operational configuration that was in force last, for when the Hub is away."""
        return self.data_dir / "hub" / f"{self.collector_id}.json"

    def secrets(self) -> tuple[str, ...]:
        """Every value that must not appear in any output."""
        held = [self.api_key, self.timescale_dsn, *self.nats.urls, self.kafka.sasl_password]
        held += [self.hub.api_key, self.http.token]
        found = [s.reveal() for s in held if s is not None]
        for url in (self.timescale_dsn, *self.nats.urls):
            found += _passwords(url.reveal())
        return tuple(s for s in found if s)


OTHER_SIDES: Final[Mapping[str, tuple[str, ...]]] = {
    "polygon": ("POLYGON_API_KEY",),
    "timescale": (PREFIX + "TIMESCALE_",),
    "nats": (PREFIX + "NATS_",),
    "kafka": (PREFIX + "KAFKA_",),
}
"""Who is spoken to, and how the variables for that begin."""


def settings_from(environ: Mapping[str, str], needed: Collection[str] = OTHER_SIDES) -> Settings:
    """Read the settings. Raises ConfigurationError that names every missing and every wrong variable at once.

    Who speaks to few of ``OTHER_SIDES`` names those: the variables of the others are not looked at, and stay empty.
    """
    env = _Environment(environ, tuple(p for side, ps in OTHER_SIDES.items() if side not in needed for p in ps))
    settings = Settings(
        api_key=env.secret("POLYGON_API_KEY", "the key of your Polygon.io (Massive) account"),
        timescale_dsn=env.secret(PREFIX + "TIMESCALE_DSN", "e.g. postgresql://user:password@host:5432/database"),
        nats=NatsAccess(
            urls=env.nats_urls(PREFIX + "NATS_URLS", "e.g. nats://host:4222,nats://host2:4222"),
            creds_file=env.optional(PREFIX + "NATS_CREDS_FILE", values.file),
            ca_file=env.optional(PREFIX + "NATS_CA_FILE", values.file),
        ),
        kafka=KafkaAccess(
            brokers=env.required(PREFIX + "KAFKA_BROKERS", values.brokers, "e.g. host:9092,host2:9092"),
            security_protocol=env.get(
                PREFIX + "KAFKA_SECURITY_PROTOCOL",
                values.one_of("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
                "PLAINTEXT",
            ),
            sasl_mechanism=env.optional(
                PREFIX + "KAFKA_SASL_MECHANISM", values.one_of("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
            ),
            sasl_username=env.optional(PREFIX + "KAFKA_SASL_USERNAME", str),
            sasl_password=env.optional_secret(PREFIX + "KAFKA_SASL_PASSWORD"),
            ca_file=env.optional(PREFIX + "KAFKA_CA_FILE", values.file),
            client=env.get(PREFIX + "KAFKA_CLIENT", values.kafka_client, "kafka-python"),
        ),
        ws_urls=env.get(PREFIX + "WS_URLS", values.ws_urls, WS_URLS),
        rest_url=env.get(PREFIX + "REST_URL", values.http_url, REST_URL),
        hub=HubAccess(
            url=env.optional(PREFIX + "HUB_URL", values.http_url),
            api_key=env.optional_secret(PREFIX + "HUB_API_KEY"),
            poll_seconds=env.get(PREFIX + "HUB_POLL_SECONDS", values.positive, 30.0),
        ),
        http=HttpServer(
            host=env.get(PREFIX + "HTTP_HOST", values.host, "127.0.0.1"),
            port=env.get(PREFIX + "HTTP_PORT", values.port, 8000),
            token=env.optional_secret(PREFIX + "HTTP_TOKEN"),
        ),
        data_dir=data_dir_from(environ),
        collector_id=env.get(PREFIX + "COLLECTOR_ID", values.identifier, "polygon-live-1"),
        tenant_id=env.get(PREFIX + "TENANT_ID", values.identifier, "system"),
        log_level=env.get(PREFIX + "LOG_LEVEL", values.one_of("debug", "info", "warning", "error"), "info"),
        log_format=env.get(PREFIX + "LOG_FORMAT", values.one_of("auto", "console", "json"), "auto"),
        grace_seconds=env.get(PREFIX + "GRACE_SECONDS", values.positive, 5.0),
        nats_live_max_age_seconds=env.get(PREFIX + "NATS_LIVE_MAX_AGE_SECONDS", values.positive, 10.0),
        sink_queue_ticks=env.get(PREFIX + "SINK_QUEUE_TICKS", values.count, 20_000),
        journal_sync_ms=env.get(PREFIX + "JOURNAL_SYNC_MS", values.natural, 1000),
        journal_max_bytes=env.get(PREFIX + "JOURNAL_MAX_BYTES", values.journal_bytes, 4 * 2**30),
        journal_keep_hours=env.get(PREFIX + "JOURNAL_KEEP_HOURS", values.positive, 24.0),
    )
    if settings.kafka.security_protocol.startswith("SASL") and not (
        settings.kafka.sasl_mechanism and settings.kafka.sasl_username and settings.kafka.sasl_password
    ):
        env.faults.append(
            f"{PREFIX}KAFKA_SECURITY_PROTOCOL is {settings.kafka.security_protocol}, so {PREFIX}KAFKA_SASL_MECHANISM, "
            f"{PREFIX}KAFKA_SASL_USERNAME and {PREFIX}KAFKA_SASL_PASSWORD must be set too"
        )
    for name, secret in (("POLYGON_API_KEY", settings.api_key), (PREFIX + "HTTP_TOKEN", settings.http.token)):
        if secret and values.is_text(secret.reveal()) and not values.fits_header(secret.reveal()):
            env.faults.append(f"{name} {UNSENDABLE}")
    if env.faults:
        raise ConfigurationError(*env.faults)
    return settings


def wants_demo(environ: Mapping[str, str]) -> bool:
    """Whether none of the key and the three addresses is set, as a file or by value: then ``just run`` is the demo."""
    names = ("POLYGON_API_KEY", *(PREFIX + n for n in ("TIMESCALE_DSN", "NATS_URLS", "KAFKA_BROKERS")))
    return not any(environ.get(n) or environ.get(n + "_FILE") for n in names)


class _Environment:
    """Reads variables and gathers what is wrong with them, so that one start tells everything."""

    def __init__(self, environ: Mapping[str, str], unneeded: tuple[str, ...] = ()) -> None:
        """``unneeded`` are beginnings of names."""
        self._unneeded = unneeded
        self.environ = environ
        ours = (n for n in environ if n.startswith((PREFIX, "POLYGON_API_KEY")) and not self._is_unneeded(n))
        # What a value can't be written in, no page and no server can be told later.
        self.faults = [f"{name} is not UTF-8" for name in ours if not values.is_text(environ[name])]

    def required(self, name: str, read: Callable[[str], tuple[str, ...]], hint: str) -> tuple[str, ...]:
        if not self._given(name) and not self._is_unneeded(name):
            self.faults.append(f"{name} is not set: {hint}")
        return self.get(name, read, ())

    def nats_urls(self, name: str, hint: str) -> tuple[Secret, ...]:
        found = self.secret(name, hint).reveal()
        try:
            return tuple(map(Secret, values.nats_urls(found))) if found else ()
        except ValueError:
            self.faults.append(f"{name} holds something that is no address of a NATS server (not shown here): {hint}")
            return ()

    def secret(self, name: str, hint: str) -> Secret:
        found = self._secret(name)
        if not found and not self._is_unneeded(name):
            also = f" (or {name}_FILE, the path of a file that holds it)"
            if not any(f.startswith(f"{name}_FILE") for f in self.faults):
                self.faults.append(f"{name} is not set{also}: {hint}")
        return Secret(found)

    def optional_secret(self, name: str) -> Secret | None:
        found = self._secret(name)
        return Secret(found) if found else None

    def optional(self, name: str, read: Callable[[str], V]) -> V | None:
        return self.get(name, read, None)

    def get(self, name: str, read: Callable[[str], V], default: V) -> V:
        value = self._given(name)
        if not value:
            return default
        try:
            return read(value)
        except ValueError as why:
            if "@" in value or "?" in value:
                self.faults.append(f"{name} is no good; not shown here, for what has an @ or ? may hold a secret")
            else:
                self.faults.append(f"{name} is {value!r}: {why}")
            return default

    def _is_unneeded(self, name: str) -> bool:
        return name.startswith(self._unneeded)

    def _given(self, name: str) -> str:
        return "" if self._is_unneeded(name) else self.environ.get(name, "").strip()

    def _secret(self, name: str) -> str:
        value = self._given(name)
        path = self._given(f"{name}_FILE")
        if value and path:
            self.faults.append(f"{name}_FILE and {name} are both set: leave one of them out")
        if value or not path:
            return value
        try:
            value = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as why:
            reason = os.strerror(why.errno) if isinstance(why, OSError) and why.errno else "it is not text"
            self.faults.append(f"{name}_FILE is {path!r}, which can't be read: {reason}")
            return ""
        if not value:
            self.faults.append(f"{name}_FILE is {path!r}, and that file is empty")
        return value


def _passwords(address: str) -> list[str]:
    """The passwords inside a URL or a libpq key=value string, as they are written there and as they are meant."""
    if "://" not in address:
        found = re.search(r"password\s*=\s*('(?:[^'\\]|\\.)*'|\S+)", address)
        return [found[1].strip("'")] if found else []
    written = re.findall(r"[?&](?:ssl)?password=([^&#]+)", address)
    with suppress(ValueError):
        parts = urlsplit(address)
        # The token of a NATS server stands where others have the user.
        is_token = not parts.scheme.startswith("postgres")
        written += [one for one in (parts.password or (parts.username if is_token else None),) if one]
    return [*written, *map(unquote, written)]
