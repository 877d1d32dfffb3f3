import json
from pathlib import Path

import pytest
import structlog

from polygon_live import logs


@pytest.fixture(autouse=True)
def _restore() -> object:
    yield
    structlog.reset_defaults()


def test_json_lines_without_secrets_even_inside_tracebacks(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", ["s3cr3t-key", "pa55word"])
    log = structlog.get_logger()
    log.info("dialling", url="wss://x", key="s3cr3t-key")
    try:
        raise OSError("connection to postgresql://u:pa55word@db failed")  # noqa: TRY301
    except OSError:
        log.exception("task failed", nested={"deep": ["s3cr3t-key"]})
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert not any("s3cr3t" in line or "pa55word" in line for line in lines)
    first, second = map(json.loads, lines)
    assert (first["event"], first["level"], first["key"]) == ("dialling", "info", "***")
    assert "Traceback" in second["exception"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_is_blanked_however_a_library_spells_it(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    secret = "s3cr3t\n\\k\u00e9y"
    logs.configure("info", form, [secret])
    text = f"Illegal header value {f'Bearer {secret}'.encode()!r}"
    structlog.get_logger().info("odd", why=text, error=repr(ValueError(secret)), nested=[secret])
    said = capfd.readouterr().err
    assert "Bearer ***" in said
    assert "ValueError(" in said
    assert "s3cr3t" not in said


def test_console_form_is_blanked_too(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "console", ["s3cr3t-key"])
    structlog.get_logger().warning("odd", value="has s3cr3t-key inside")
    said = capfd.readouterr().err
    assert "has *** inside" in said


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variables(
    form: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    secret = "".join(chr(ord("A") + n % 26) for n in range(60))
    logs.configure("info", form, [secret])
    dsn = f"postgresql://collector:{secret}@database/ticks"
    try:
        raise RuntimeError(str(len(dsn)))  # noqa: TRY301
    except RuntimeError:
        structlog.get_logger().exception("task failed")
    said = capfd.readouterr().err
    assert "RuntimeError" in said
    assert "ABCD" not in said


def test_the_level_is_heeded(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "json", [])
    structlog.get_logger().info("not this")
    structlog.get_logger().warning("this")
    assert [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()] == ["this"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_full_disk_under_the_log_costs_lines_and_nothing_else(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patched:
        patched.setattr("sys.stderr", full)
        logs.configure("info", form, [])
        structlog.get_logger().info("nobody reads this")
