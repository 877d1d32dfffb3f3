"""``polygon-live config``: beside a collector and without one, with a Hub and without, in a terminal and elsewhere."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from click.testing import CliRunner, Result

from polygon_live.commands import cli
from polygon_live.document import SYMBOLS, VALIDATION, digest, document, flat
from polygon_live.inforce import ConfigurationSnapshot, HubSnapshot, Refusal
from polygon_live.model import FOURTEEN_SYMBOLS, encode
from polygon_live.operational import Limits, Operational
from tests.pages import Answer, Pages, collector, serving
from tests.test_status import WELL
from tests.test_web import Shown, served

NOON = 1_780_401_600_000  # 2026-06-02 12:00 UTC
SECRET = "hunter2-5up3r"
SPREAD = f"{VALIDATION}.max_spread_bps"
HUB = HubSnapshot(
    url="http://hub:7000",
    source="hub",
    version="7",
    updated_by="ops",
    copied_ms=None,
    fetched_ms=NOON,
    fetches=3,
    failures=0,
    last_error=None,
    refused=0,
    last_refusal=None,
)
RUNNING = Operational(symbols=("EURUSD", "XAUUSD", "GBPUSD"), limits=Limits(max_spread_bps=50))


def configuration(operational: Operational = RUNNING, hub: HubSnapshot = HUB, **more: Any) -> ConfigurationSnapshot:
    values = flat(document(operational))
    named = {SYMBOLS, SPREAD}
    snapshot = ConfigurationSnapshot(
        3,
        digest(operational),
        NOON,
        values,
        {name: hub.source if name in named else "safe defaults" for name in values},
        (),
        hub,
        None,
    )
    return attrs.evolve(snapshot, **more)


def state(snapshot: ConfigurationSnapshot | None = None) -> bytes:
    return encode({"version": "1", "configuration": snapshot or configuration()})


Config = Callable[..., Result]


@pytest.fixture
def config(clean_environment: dict[str, str], tmp_path: Path) -> Config:
    """The command with this data folder, at port 1, where nobody listens, unless told otherwise."""

    def run(*arguments: str, given: str | bytes | None = None, **environ: str) -> Result:
        variables = {"DATA_DIR": str(tmp_path / "data"), "HTTP_PORT": "1", **environ}
        named = {f"POLYGON_LIVE_{name}": value for name, value in variables.items()}
        result = CliRunner().invoke(cli, ["config", *arguments], input=given, env={**clean_environment, **named})
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.fixture
def file(tmp_path: Path) -> Callable[[object], str]:
    """The path of a file with this in it."""

    def write(content: object) -> str:
        path = tmp_path / "new.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def hub(config: object, code: int = 200) -> Pages:
    """A Hub with one configuration and no history."""

    def pages(path: str, _headers: Mapping[str, str]) -> Answer:
        if path != "/api/v1/config/polygon-live-collector":
            return 404, b'{"detail": "Not Found"}'
        return code, json.dumps({"config": config, "version": "7", "updated_by": "ops"}).encode()

    return pages


def columns(told: str) -> dict[str, list[str]]:
    """The cells of each row behind its name."""
    rows = [re.split(" {2,}", line) for line in told.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 2}


# show ---------------------------------------------------------------------------------------------------------------


def test_show_tells_what_the_running_collector_goes_by(config: Config) -> None:
    with serving(collector(state(), SECRET)) as port:
        done = config("show", HTTP_PORT=str(port), HTTP_TOKEN=SECRET)
        assert (done.exit_code, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0] == (
            f"{digest(RUNNING)} from hub, version 7, posted by ops; in force since 2026-06-02T12:00:00.000Z"
        )
        assert lines[1] == f"generation 3 of the collector at http://127.0.0.1:{port}"
        rows = columns(done.stdout)
        assert rows[SYMBOLS] == ["EURUSD XAUUSD GBPUSD", "hub"]
        assert rows[SPREAD] == ["50", "hub"]
        assert rows["operational.rate_limit_per_second"] == ["5", "safe defaults"]
        assert set(rows) == {"NAME", *flat(document(RUNNING))}
        told = json.loads(config("show", "--json", HTTP_PORT=str(port), HTTP_TOKEN=SECRET).stdout)
        assert told["collector"] == f"http://127.0.0.1:{port}"
        assert told["configuration"] == json.loads(state())["configuration"]


async def test_show_reads_the_page_of_the_status_server(config: Config) -> None:
    async with served(Shown(attrs.evolve(WELL, configuration=configuration())), SECRET) as client:
        ask = partial(config, "show", "--json", HTTP_PORT=str(client.base_url.port), HTTP_TOKEN=SECRET)
        done = await trio.to_thread.run_sync(ask)
    assert json.loads(done.stdout)["configuration"] == json.loads(state())["configuration"]


def test_show_tells_what_is_wrong(config: Config) -> None:
    refusal = Refusal(NOON, "hub", "8", "bob\x1b[2J", "0123456789ab", ("rate is 0", "symbols is empty"))
    troubled = attrs.evolve(HUB, last_refusal=refusal, refused=1, last_error="Central Hub at hub:7000: it failed (500)")
    snapshot = configuration(hub=troubled, ignored=("nats.url", "api_key"), unheard="NATS is away")
    with serving(collector(state(snapshot))) as port:
        told = config("show", HTTP_PORT=str(port)).stdout.splitlines()
    assert told[-6:] == [
        "ignored, for addresses and secrets come from the environment: nats.url, api_key",
        "REFUSED at 2026-06-02T12:00:00.000Z: what hub has posted by bob\\x1b[2J, 0123456789ab",
        "  - rate is 0",
        "  - symbols is empty",
        "no answer when it was asked last: Central Hub at hub:7000: it failed (500)",
        "announcements can't be heard, so a change is seen only by asking: NATS is away",
    ]


def test_show_without_a_collector_asks_the_hub(config: Config, tmp_path: Path) -> None:
    posted = {"operational": {"symbols": ["eur/usd"], "rate_limit_per_second": 5}, "broker_password": SECRET}
    with serving(hub(posted)) as port:
        done = config("show", HUB_URL=f"http://127.0.0.1:{port}")
        as_json = json.loads(config("show", "--json", HUB_URL=f"http://127.0.0.1:{port}").stdout)
    assert done.exit_code == 0
    assert done.stderr.startswith("no collector answers at http://127.0.0.1:1; if one runs elsewhere, ")
    assert done.stderr.endswith("What follows is what a start would find\n")
    rows = columns(done.stdout)
    assert rows[SYMBOLS] == ["EURUSD", "hub"]
    assert rows["operational.rate_limit_per_second"] == ["5", "hub"]
    assert rows[SPREAD] == ["1000", "safe defaults"]
    assert done.stdout.splitlines()[0] == f"{digest(Operational(('EURUSD',)))} from hub, version 7, posted by ops"
    assert "come from the environment: broker_password" in done.stdout
    assert SECRET not in done.output
    assert as_json["collector"] is None
    assert as_json["configuration"]["origins"][SYMBOLS] == "hub"
    assert not (tmp_path / "data").exists()


def test_show_without_a_collector_tells_what_the_hub_has_that_would_be_refused(config: Config) -> None:
    with serving(hub({"operational": {"symbols": [], "rate_limit_per_second": 0}})) as port:
        told = config("show", HUB_URL=f"http://127.0.0.1:{port}").stdout
    assert columns(told)[SYMBOLS] == [" ".join(FOURTEEN_SYMBOLS), "safe defaults"]
    assert len(re.findall(r"^  - operational\.(symbols is empty|rate_limit_per_second is 0)", told, re.MULTILINE)) == 2


def test_show_without_a_collector_and_without_the_hub_takes_the_last_good_copy_and_leaves_it_alone(
    config: Config, tmp_path: Path
) -> None:
    copy = tmp_path / "data" / "hub" / "polygon-live-1.json"
    copy.parent.mkdir(parents=True)
    kept = {"service_name": "polygon-live-collector", "fetched_ms": NOON, "version": "6", "updated_by": "ops"}
    copy.write_text(json.dumps({**kept, "config": {"operational": {"symbols": ["EURJPY"]}, "dsn": SECRET}}))
    before = identity(copy)
    done = config("show", HUB_URL="http://127.0.0.1:1")
    assert done.stdout.splitlines()[0].endswith(
        "from last good copy, version 6, posted by ops, fetched 2026-06-02T12:00:00.000Z"
    )
    assert columns(done.stdout)[SYMBOLS] == ["EURJPY", "last good copy"]
    assert "come from the environment: dsn\n" in done.stdout
    assert SECRET not in done.output
    assert "no answer when it was asked last: Central Hub at 127.0.0.1:1" in done.stdout
    with serving(hub({"operational": {"symbols": ["USDJPY"]}})) as port:
        assert columns(config("show", HUB_URL=f"http://127.0.0.1:{port}").stdout)[SYMBOLS] == ["USDJPY", "hub"]
    with serving(lambda _path, _headers: (404, b'{"detail": "Configuration not found"}')) as port:
        assert columns(config("show", HUB_URL=f"http://127.0.0.1:{port}").stdout)[SYMBOLS][1] == "safe defaults"
    assert identity(copy) == before
    assert list(copy.parent.iterdir()) == [copy]


def identity(file: Path) -> tuple[int, int, int]:
    """What changes when a file is written."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_mode


def test_show_without_anything(config: Config) -> None:
    told = config("show").stdout
    assert columns(told)[SYMBOLS] == [" ".join(FOURTEEN_SYMBOLS), "safe defaults"]
    assert told.splitlines()[-1] == "there is no Central Hub: POLYGON_LIVE_HUB_URL is not set"


def test_who_answers_otherwise_is_no_reason_to_guess(config: Config) -> None:
    for pages, words in (
        (collector(state(), SECRET), "asks for a token"),
        (lambda _path, _headers: (200, b"hello"), "does not answer as polygon-live does"),
        (lambda _path, _headers: (200, b'{"configuration": {}}'), "is of another version"),
        (collector(state(configuration(values={SYMBOLS: []}))), "is of another version: operational.symbols is empty"),
    ):
        with serving(pages) as port:
            done = config("diff", "-", given="{}", HTTP_PORT=str(port))
        assert done.exit_code == 1
        assert words in done.stderr
        assert done.stdout == ""


def test_a_setting_that_is_wrong_is_named(config: Config, clean_environment: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "polygon_live", "config", "show"]
    done = subprocess.run(
        command,
        env={**clean_environment, "POLYGON_LIVE_HUB_URL": "hub"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 78
    assert "POLYGON_LIVE_HUB_URL" in done.stderr


# validate -----------------------------------------------------------------------------------------------------------


def test_validate_shows_what_would_be_in_force(config: Config, file: Callable[[object], str]) -> None:
    content = {
        "operational": {"symbols": ["eur/usd", "C:EURAUD"], "validation": {"max_spread_bps": 20.5}},
        "x_token": SECRET,
    }
    name = file(content)
    done = config("validate", name)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [
        f"{name} is good",
        "ignored, for addresses and secrets come from the environment: x_token",
    ]
    rows = columns(done.stdout)
    assert rows[SYMBOLS] == ["EURUSD EURAUD", "the file"]
    assert rows[SPREAD] == ["20.5", "the file"]
    assert rows["operational.rate_limit_per_second"] == ["5", "left out: safe defaults"]
    assert SECRET not in done.output
    expected = Operational(("EURUSD", "EURAUD"), limits=Limits(20.5))
    assert json.loads(config("validate", "-", "--json", given=json.dumps(content)).stdout) == {
        "good": True,
        "faults": [],
        "ignored": ["x_token"],
        "doubled": [],
        "configuration": document(expected),
        "digest": digest(expected),
    }


def test_validate_names_every_fault(config: Config, file: Callable[[object], str]) -> None:
    content = {"operational": {"symbols": ["EUR", "*"], "rate_limit": SECRET, "websocket_reconnect_delay": True}}
    for content_, name in ((json.dumps(content), "-"), (None, file(content))):
        done = config("validate", name, given=content_)
        assert done.exit_code == 1
        lines = done.stdout.splitlines()
        assert lines[0].endswith("would be refused as a whole:")
        assert [line.split(" is ")[0] for line in lines[1:]] == [
            "  - operational.rate_limit",
            "  - operational.symbols[0]",
            "  - operational.websocket_reconnect_delay",
        ]
        assert SECRET not in done.output
        told = config("validate", name, "--json", given=content_)
        assert told.exit_code == 1
        assert len(json.loads(told.stdout)["faults"]) == 3
        assert json.loads(told.stdout)["configuration"] is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"", "standard input is no JSON: Expecting value in line 1, column 1"),
        (b'{\n "operational": {"symbols": [1 2]}}', "Expecting ',' delimiter in line 2, column 32"),
        (b'{"a": "\xff"}', "it is not UTF-8"),
        (b'{"a":' * 100_000, "too deep"),
        (b'{"a":' + b"9" * 5000 + b"}", "thousands of digits"),
    ],
)
def test_what_can_not_be_read_ends_with_2(config: Config, given: bytes, words: str) -> None:
    for command in ("validate", "diff"):
        done = config(command, "-", given=given)
        assert (done.exit_code, done.stdout) == (2, "")
        assert words in done.stderr


def test_a_file_that_is_not_there_ends_with_2(config: Config, tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.json", "No such file"), (tmp_path, "Is a directory")):
        done = config("validate", str(path))
        assert done.exit_code == 2
        assert str(path) in done.stderr
        assert words in done.stderr


@pytest.mark.parametrize("given", ["[]", "null", '"{}"', "5", '{"operational": null}', '{"operational": NaN}'])
def test_json_that_is_no_configuration_is_refused(config: Config, given: str) -> None:
    done = config("validate", "-", given=given)
    assert done.exit_code == 1
    assert "it must be an object" in done.stdout


def test_an_empty_object_is_the_safe_defaults_and_a_megabyte_is_too_much(config: Config) -> None:
    assert config("validate", "-", given="\ufeff{}").exit_code == 0
    done = config("validate", "-", given=b" " * 2**20 + b"{}")
    assert done.exit_code == 1
    assert "more than 1 MiB" in done.stdout
    assert config("validate", "/dev/zero").exit_code == 1


def test_a_key_that_stands_twice_is_told(config: Config) -> None:
    done = config("validate", "-", given='{"operational": {"symbols": ["EURUSD"], "symbols": ["XAUUSD"]}}')
    assert done.exit_code == 0
    assert "only the last one counts: symbols\n" in done.stdout


# diff ---------------------------------------------------------------------------------------------------------------


def test_diff_tells_first_and_loudly_who_goes_away(config: Config, file: Callable[[object], str]) -> None:
    name = file({"operational": {"symbols": ["EURUSD", "EURAUD"], "rate_limit_per_second": 3}})
    with serving(collector(state())) as port:
        done = config("diff", name, HTTP_PORT=str(port))
        told = json.loads(config("diff", name, "--json", HTTP_PORT=str(port)).stdout)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[:2] == ["GOING AWAY, not collected any more: XAUUSD GBPUSD.", "added: EURAUD"]
    assert lines[-1] == f"{name} is good"
    rows = columns(done.stdout)
    del rows["NAME"]
    assert rows == {
        "operational.rate_limit_per_second": ["5", "3", "the file"],
        SPREAD: ["50", "1000", "left out: safe defaults"],
    }
    new = Operational(("EURUSD", "EURAUD"), rate_limit_per_second=3)
    assert told == {
        "good": True,
        "faults": [],
        "ignored": [],
        "doubled": [],
        "collector": f"http://127.0.0.1:{port}",
        "going": ["XAUUSD", "GBPUSD"],
        "subscribe": ["EURAUD"],
        "unsubscribe": ["XAUUSD", "GBPUSD"],
        "changed": {
            "operational.rate_limit_per_second": {"now": 5, "then": 3, "from": "the file"},
            SPREAD: {"now": 50, "then": 1000, "from": "left out: safe defaults"},
        },
        "digest": {"now": digest(RUNNING), "then": digest(new)},
    }


def test_diff_says_if_symbols_go_for_being_left_out(config: Config) -> None:
    running = Operational(symbols=("EURAUD", *FOURTEEN_SYMBOLS))
    with serving(collector(state(configuration(running)))) as port:
        told = config("diff", "-", given='{"operational": {"rate_limit_per_second": 9}}', HTTP_PORT=str(port)).stdout
    assert told.splitlines()[0] == (
        "GOING AWAY, not collected any more: EURAUD. The file leaves symbols out, so those of the safe defaults hold."
    )


def test_of_many_symbols_few_are_shown_but_all_that_go_away(config: Config) -> None:
    many = [f"{chr(65 + n // 26)}{chr(65 + n % 26)}XUSD" for n in range(100)]
    given = json.dumps({"operational": {"symbols": many}})
    assert columns(config("validate", "-", given=given).stdout)[SYMBOLS] == [
        f"{' '.join(many[:40])} and 60 more",
        "the file",
    ]
    with serving(collector(state(configuration(Operational(symbols=tuple(many)))))) as port:
        told = config("diff", "-", given='{"operational": {"symbols": ["EURUSD"]}}', HTTP_PORT=str(port)).stdout
    assert told.splitlines()[0] == f"GOING AWAY, not collected any more: {' '.join(many)}."


def test_diff_with_all_pairs(config: Config) -> None:
    with serving(collector(state())) as port:
        told = config("diff", "-", given='{"operational": {"symbols": ["*"]}}', HTTP_PORT=str(port)).stdout
    assert "GOING" not in told
    assert told.splitlines()[0] == "added: all pairs (*)"
    with serving(collector(state(configuration(Operational(symbols=("*",)))))) as port:
        told = config("diff", "-", given='{"operational": {"symbols": ["EURUSD"]}}', HTTP_PORT=str(port)).stdout
    assert told.splitlines()[0] == "GOING AWAY, not collected any more: every pair but these: EURUSD."


def test_diff_of_what_is_in_force_already(config: Config) -> None:
    with serving(collector(state())) as port:
        same = json.dumps(document(RUNNING))
        told = config("diff", "-", given=same, HTTP_PORT=str(port)).stdout
    assert told.splitlines() == [f"nothing would change: {digest(RUNNING)} is in force", "standard input is good"]


def test_diff_leaves_the_symbols_that_a_caller_named(config: Config) -> None:
    snapshot = configuration(origins=dict.fromkeys(flat(document(RUNNING)), "hub") | {SYMBOLS: "caller"})
    with serving(collector(state(snapshot))) as port:
        told = config("diff", "-", given="{}", HTTP_PORT=str(port)).stdout
    assert "GOING" not in told
    assert SPREAD in told
    assert "the symbols of this run were named by whoever started it" in told


def test_diff_of_what_would_be_refused_asks_nobody(config: Config) -> None:
    done = config("diff", "-", given='{"operational": {"symbols": []}}')
    assert (done.exit_code, done.stderr) == (1, "")
    assert "operational.symbols is empty" in done.stdout
    told = config("diff", "-", "--json", given='{"operational": {"symbols": []}}')
    assert (told.exit_code, json.loads(told.stdout)["good"]) == (1, False)


def test_diff_without_a_collector_is_against_what_a_start_would_find(config: Config) -> None:
    with serving(hub({"operational": {"symbols": ["EURUSD", "USDJPY"]}})) as port:
        done = config("diff", "-", given='{"operational": {"symbols": ["EURUSD"]}}', HUB_URL=f"http://127.0.0.1:{port}")
    assert "no collector answers" in done.stderr
    assert done.stdout.splitlines()[0] == "GOING AWAY, not collected any more: USDJPY."


# In a terminal ------------------------------------------------------------------------------------------------------


def test_in_a_terminal_there_are_colours_and_lines(
    clean_environment: Mapping[str, str], file: Callable[[object], str]
) -> None:
    name = file({"operational": {"symbols": ["EURUSD"], "rate_limit_per_second": 3}})
    with serving(collector(state())) as port:
        ours, theirs = pty.openpty()
        environ = {**clean_environment, "POLYGON_LIVE_HTTP_PORT": str(port), "TERM": "xterm", "COLUMNS": "100"}
        with subprocess.Popen(
            [sys.executable, "-m", "polygon_live", "config", "diff", name], stdout=theirs, env=environ
        ) as process:
            os.close(theirs)
            shown = bytearray()
            try:
                while part := os.read(ours, 4096):
                    shown += part
            except OSError:  # how Linux says that the other end is closed
                pass
            os.close(ours)
    assert process.returncode == 0
    told = shown.decode()
    assert "\x1b[1;31mGOING AWAY" in told
    assert "─" in told
    assert "operational.rate_limit_per_second" in told
