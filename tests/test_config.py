import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polygon_live import values
from polygon_live.config import Secret, Settings, settings_from, wants_demo
from polygon_live.errors import ConfigurationError

FULL = {
    "POLYGON_API_KEY": "s3cr3t-key",
    "POLYGON_LIVE_TIMESCALE_DSN": "postgresql://ticks:pa55word@db:5432/market",
    "POLYGON_LIVE_NATS_URLS": "nats://joe:n4tspass@n1:4222, nats://n2:4222",
    "POLYGON_LIVE_KAFKA_BROKERS": "k1:9092,k2:9092",
}


def faults(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as raised:
        settings_from(environ)
    return raised.value.faults


def test_defaults_are_the_designs() -> None:
    settings = settings_from(FULL)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8000)
    assert settings.collector_id == "polygon-live-1"
    assert settings.tenant_id == "system"
    assert settings.grace_seconds == 5
    assert settings.nats_live_max_age_seconds == 10
    assert settings.kafka.brokers == ("k1:9092", "k2:9092")
    assert [u.reveal() for u in settings.nats.urls] == ["nats://joe:n4tspass@n1:4222", "nats://n2:4222"]
    assert settings.ws_urls == ("wss://socket.massive.com/forex", "wss://socket.polygon.io/forex")
    assert not settings.simulated


def test_every_missing_variable_is_named_at_once() -> None:
    told = faults({})
    assert len(told) == 4
    for name in FULL:
        assert any(fault.startswith(f"{name} is not set") for fault in told)


def test_a_secret_may_come_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-a-file\n")
    environ = FULL | {"POLYGON_API_KEY": "", "POLYGON_API_KEY_FILE": str(file)}
    assert settings_from(environ).api_key.reveal() == "from-a-file"


def test_a_secret_file_that_fails_is_named_with_its_reason(tmp_path: Path) -> None:
    without = {k: v for k, v in FULL.items() if k != "POLYGON_API_KEY"}
    (missing,) = faults(without | {"POLYGON_API_KEY_FILE": str(tmp_path / "nowhere")})
    assert "POLYGON_API_KEY_FILE" in missing
    assert "No such file" in missing
    (tmp_path / "empty").touch()
    (empty,) = faults(without | {"POLYGON_API_KEY_FILE": str(tmp_path / "empty")})
    assert "is empty" in empty
    (tmp_path / "odd").write_bytes(b"\xff\xfe")
    (odd,) = faults(without | {"POLYGON_API_KEY_FILE": str(tmp_path / "odd")})
    assert "not text" in odd


def test_a_private_authority_is_a_file_that_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    for name in ("POLYGON_LIVE_NATS_CA_FILE", "POLYGON_LIVE_KAFKA_CA_FILE"):
        settings = settings_from(FULL | {name: str(tmp_path / "ca.pem")})
        assert tmp_path / "ca.pem" in {settings.nats.ca_file, settings.kafka.ca_file}
        (fault,) = faults(FULL | {name: str(tmp_path / "gone.pem")})
        assert name in fault
        assert "there is no such file" in fault


def test_a_name_may_have_dots() -> None:
    assert settings_from(FULL | {"POLYGON_LIVE_COLLECTOR_ID": ".eu.1"}).collector_id == ".eu.1"


def test_both_ways_at_once_is_a_fault_that_shows_neither(tmp_path: Path) -> None:
    (fault,) = faults(FULL | {"POLYGON_API_KEY_FILE": str(tmp_path / "key")})
    assert "leave one of them out" in fault
    assert "s3cr3t" not in fault


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("POLYGON_LIVE_HTTP_PORT", "70000", "0 to 65535"),
        ("POLYGON_LIVE_HTTP_PORT", "http", "0 to 65535"),
        ("POLYGON_LIVE_WS_URLS", "https://x/forex", "not a WebSocket address"),
        ("POLYGON_LIVE_WS_URLS", ",", "not a WebSocket address"),
        ("POLYGON_LIVE_WS_URLS", "wss://x:forex", "not a WebSocket address"),
        ("POLYGON_LIVE_KAFKA_BROKERS", ",", "host:9092,host2:9092"),
        ("POLYGON_LIVE_KAFKA_BROKERS", "k1:9092,k2:x", "host:9092,host2:9092"),
        ("POLYGON_LIVE_KAFKA_BROKERS", "PLAINTEXT://k1:9092", "host:9092,host2:9092"),
        ("POLYGON_LIVE_KAFKA_BROKERS", "a..b:9092", "host:9092,host2:9092"),
        ("POLYGON_LIVE_WS_URLS", "wss://a..b/forex", "not a WebSocket address"),
        ("POLYGON_LIVE_REST_URL", "https://a..b", "not the address of an HTTP service"),
        ("POLYGON_LIVE_HUB_URL", f"http://{'x' * 64}.example:7000", "not the address of an HTTP service"),
        ("POLYGON_LIVE_HTTP_HOST", "a..b", "1 to 63 characters"),
        ("POLYGON_LIVE_HTTP_HOST", "x" * 64, "1 to 63 characters"),
        ("POLYGON_LIVE_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("POLYGON_LIVE_LOG_FORMAT", "xml", "auto, console, json"),
        ("POLYGON_LIVE_GRACE_SECONDS", "-1", "above 0"),
        ("POLYGON_LIVE_GRACE_SECONDS", "nan", "above 0"),
        ("POLYGON_LIVE_COLLECTOR_ID", "a b", "letters, digits"),
        ("POLYGON_LIVE_COLLECTOR_ID", ".", "not dots alone"),
        ("POLYGON_LIVE_COLLECTOR_ID", "..", "not dots alone"),
        ("POLYGON_LIVE_TENANT_ID", "...", "not dots alone"),
        ("POLYGON_LIVE_SINK_QUEUE_TICKS", "0", "above 0"),
        ("POLYGON_LIVE_KAFKA_SECURITY_PROTOCOL", "TLS", "PLAINTEXT, SSL"),
        ("POLYGON_LIVE_KAFKA_CLIENT", "librdkafka", "kafka-python, confluent"),
        ("POLYGON_LIVE_NATS_CREDS_FILE", "/nowhere.creds", "no such file"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(name: str, value: str, says: str) -> None:
    (fault,) = faults(FULL | {name: value})
    assert fault.startswith(f"{name} is {value!r}")
    assert says in fault


def test_a_nats_address_may_lack_its_scheme() -> None:
    settings = settings_from(FULL | {"POLYGON_LIVE_NATS_URLS": "joe:n4tspass@n1:4222,t0ken@n2"})
    assert [u.reveal() for u in settings.nats.urls] == ["nats://joe:n4tspass@n1:4222", "nats://t0ken@n2"]
    assert {"n4tspass", "t0ken"} <= set(settings.secrets())
    assert "t0ken" in settings_from(FULL | {"POLYGON_LIVE_NATS_URLS": "wss://t0ken@n2"}).secrets()


@pytest.mark.parametrize("name", ["POLYGON_API_KEY", "POLYGON_LIVE_NATS_URLS", "POLYGON_LIVE_KAFKA_BROKERS"])
def test_what_is_no_text_is_named_for_no_page_could_show_it(name: str) -> None:
    assert faults(FULL | {name: os.fsdecode(b"\xff:4222")}) == (f"{name} is not UTF-8",)


@pytest.mark.parametrize("host", ["localhost", "::1", "0.0.0.0", "b\u00fccher.example", "ends.with.a.dot.", "a_b"])
def test_what_can_be_looked_up_is_a_host(host: str) -> None:
    assert settings_from(FULL | {"POLYGON_LIVE_HTTP_HOST": host}).http.host == host


@pytest.mark.parametrize("value", [",", "nats://a..b", "http://n1:4222", "nats://joe:n4tspass@n1:port", "nats://"])
def test_a_wrong_nats_address_is_named_and_not_shown(value: str) -> None:
    (fault,) = faults(FULL | {"POLYGON_LIVE_NATS_URLS": value})
    assert fault.startswith("POLYGON_LIVE_NATS_URLS holds something that is no address")
    assert "n4tspass" not in fault


@pytest.mark.parametrize("name", ["POLYGON_LIVE_REST_URL", "POLYGON_LIVE_WS_URLS", "POLYGON_LIVE_HUB_URL"])
@pytest.mark.parametrize("value", ["ftp://user:s3cret@host", "ftp://host/?apiKey=s3cret"])
def test_a_wrong_address_with_what_may_be_a_secret_is_not_shown(name: str, value: str) -> None:
    (fault,) = faults(FULL | {name: value})
    assert fault.startswith(f"{name} is no good; not shown here")
    assert "s3cret" not in fault


@pytest.mark.parametrize("value", ["s3cr3t\nkey", "s3cr3t key", "s3cr3t\x7f", "s3cr3té", "s3cr3t\tx"])
@pytest.mark.parametrize("name", ["POLYGON_API_KEY", "POLYGON_LIVE_HTTP_TOKEN"])
def test_what_no_header_can_carry_is_named_and_not_shown(name: str, value: str, tmp_path: Path) -> None:
    (fault,) = faults(FULL | {name: value})
    assert fault.startswith(f"{name} (not shown here) has a space in it, or what no HTTP header can carry")
    (tmp_path / "two lines").write_text(value + "\n")
    assert faults(FULL | {name: "", f"{name}_FILE": str(tmp_path / "two lines")}) == (fault,)
    assert "s3cr3t" not in fault


def test_sasl_needs_its_credentials() -> None:
    (fault,) = faults(FULL | {"POLYGON_LIVE_KAFKA_SECURITY_PROTOCOL": "sasl_ssl"})
    assert "POLYGON_LIVE_KAFKA_SASL_PASSWORD" in fault


def test_no_secret_shows_in_any_form_of_the_settings() -> None:
    settings = settings_from(FULL | {"POLYGON_LIVE_HTTP_TOKEN": "t0ken-value"})
    shown = repr(settings) + str(settings)
    for secret in ("s3cr3t-key", "pa55word", "n4tspass", "t0ken-value"):
        assert secret not in shown
        assert any(secret in held for held in settings.secrets())
    assert {"pa55word", "n4tspass"} <= set(settings.secrets()), (
        "the password alone too: errors quote it without the URL"
    )


@pytest.mark.parametrize(
    "dsn",
    [
        "host=db password=pa55word dbname=x",
        "host=db password='pa55word'",
        "password = pa55word",
        "postgresql://joe@db/x?password=pa55word",
        "postgresql://joe@db/x?sslmode=verify-full&sslpassword=pa55word#",
        "postgresql://joe:p%6155word@db/x",
    ],
)
def test_the_password_is_known_however_the_dsn_has_it(dsn: str) -> None:
    assert "pa55word" in settings_from(FULL | {"POLYGON_LIVE_TIMESCALE_DSN": dsn}).secrets()


def test_what_belongs_to_a_side_that_is_not_spoken_to_is_not_looked_at() -> None:
    wrong = {"POLYGON_API_KEY_FILE": "/nowhere", "POLYGON_LIVE_NATS_URLS": "?", "POLYGON_LIVE_NATS_CA_FILE": "/nowhere"}
    needed = {name: FULL[name] for name in ("POLYGON_LIVE_TIMESCALE_DSN", "POLYGON_LIVE_KAFKA_BROKERS")}
    settings = settings_from(needed | wrong, {"timescale", "kafka"})
    assert settings.timescale_dsn == settings_from(FULL).timescale_dsn
    assert settings.kafka == settings_from(FULL).kafka
    assert settings.secrets() == settings_from(FULL, {"timescale"}).secrets()
    with pytest.raises(ConfigurationError, match="POLYGON_LIVE_KAFKA_BROKERS is not set") as refused:
        settings_from({}, {"kafka"})
    assert len(refused.value.faults) == 1


def test_demo_only_when_nothing_at_all_is_set() -> None:
    assert wants_demo({"PATH": "/bin", "POLYGON_LIVE_HTTP_PORT": "9000"})
    for name in FULL:
        assert not wants_demo({name: "x"})
    assert not wants_demo({"POLYGON_API_KEY_FILE": "/run/secrets/key"})


@given(st.dictionaries(st.sampled_from([*FULL, "POLYGON_LIVE_HTTP_PORT", "POLYGON_LIVE_GRACE_SECONDS"]), st.text()))
def test_any_environment_gives_settings_or_faults(environ: dict[str, str]) -> None:
    try:
        assert isinstance(settings_from(environ), Settings)
    except ConfigurationError as why:
        assert why.faults  # noqa: PT017  # either outcome is right


def test_a_secret_compares_by_value() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1


def test_only_what_is_installed_can_write_to_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_from(FULL).kafka.client == "kafka-python"
    assert settings_from(FULL | {"POLYGON_LIVE_KAFKA_CLIENT": "Confluent"}).kafka.client == "confluent"
    monkeypatch.setattr(values, "find_spec", {"kafka": object()}.get)
    assert settings_from(FULL).kafka.client == "kafka-python"
    (fault,) = faults(FULL | {"POLYGON_LIVE_KAFKA_CLIENT": "confluent"})
    assert fault == ("POLYGON_LIVE_KAFKA_CLIENT is 'confluent': it is not installed: pip install 'polygon-live[fast]'")
