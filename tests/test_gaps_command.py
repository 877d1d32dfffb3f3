"""``polygon-live gaps`` as a program, on the ledgers of collectors that run and that do not."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner, Result

from polygon_live.commands import cli
from polygon_live.errors import JournalError
from polygon_live.gap import Gap
from polygon_live.journal import Ledger

NOON = 1_780_401_600_000  # 2026-06-02 12:00 UTC
CUT = Gap(0, "EURUSD", "disconnect", NOON, NOON + 4321, detail="the connection\nwas reset")
GAPS = (
    CUT,
    Gap(0, "*", "given_up", NOON, NOON + 1, store="nats", state="unfillable", ticks=12, detail="the journal's bound"),
    attrs.evolve(CUT, symbol="XAUUSD", state="filled", filled=7, ticks=7),
    Gap(0, "EURUSD", "mute", NOON + 9000, None, detail="no tick"),
)


@pytest.fixture
def folder(clean_environment: Mapping[str, str], tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "journal" / "polygon-live-1"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(folder)
    ledger.enter(GAPS, NOON)
    yield ledger
    ledger.close()


@pytest.fixture
def environment(clean_environment: Mapping[str, str], tmp_path: Path) -> Mapping[str, str]:
    return {**clean_environment, "POLYGON_LIVE_DATA_DIR": str(tmp_path / "data")}


def run(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a process: exit codes and the end of pipes."""
    command = [sys.executable, "-m", "polygon_live", "gaps", *arguments]
    return subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False, timeout=60)


def ask(environment: Mapping[str, str], *arguments: str) -> Result:
    """The same in this process, which is faster."""
    return CliRunner().invoke(cli, ["gaps", *arguments], env=environment)


def test_a_table_of_what_is_and_was_missing_beside_a_running_collector(
    ledger: Ledger, environment: Mapping[str, str]
) -> None:
    done = run(environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    noon, later = "2026-06-02 12:00:00.000", "2026-06-02 12:00:04.321"
    assert [re.split(" {2,}", line) for line in lines] == [
        ["SYMBOL", "FROM (UTC)", "TO (UTC)", "CAUSE", "STORE", "STATE", "FILLED", "MISSING", "DETAIL"],
        ["EURUSD", noon, later, "disconnect", "all", "open", "0", "?", "the connection was reset"],
        ["*", noon, "2026-06-02 12:00:00.001", "given_up", "nats", "unfillable", "0", "12", "the journal's bound"],
        ["XAUUSD", noon, later, "disconnect", "all", "filled", "7", "0", "the connection was reset"],
        ["EURUSD", "2026-06-02 12:00:09.000", "lasts", "mute", "all", "open", "0", "?", "no tick"],
    ]
    assert {
        line.index(cell) for line, cell in zip(lines, ("STATE", "open", "unfil", "filled", "open"), strict=True)
    } == {lines[0].index("STATE")}


def test_without_a_running_collector_it_reads_the_same(ledger: Ledger, environment: Mapping[str, str]) -> None:
    beside = ask(environment)
    ledger.close()
    alone = ask(environment)
    assert beside.output == alone.output
    assert alone.output.count("\n") == 5


def test_what_is_asked_for_is_told(ledger: Ledger, environment: Mapping[str, str]) -> None:
    def told(*arguments: str) -> list[tuple[str, str]]:
        lines = ask(environment, "--json", *arguments).stdout.splitlines()
        return [(gap["symbol"], gap["cause"]) for gap in map(json.loads, lines)]

    assert told("--symbol", "eur/usd") == [("EURUSD", "disconnect"), ("EURUSD", "mute")]
    assert told("--state", "filled", "--state", "unfillable") == [("*", "given_up"), ("XAUUSD", "disconnect")]
    assert told("--symbol", "GBPUSD") == []
    assert ask(environment, "--symbol", "GBPUSD").stdout == "no such gap is known\n"
    for arguments, words in ((("--symbol", "EUR"), "not a currency pair"), (("--state", "lost"), "'open', 'filling'")):
        wrong = ask(environment, *arguments)
        assert wrong.exit_code == 2
        assert words in wrong.stderr


def test_json_has_everything_and_the_instants_in_both_forms(ledger: Ledger, environment: Mapping[str, str]) -> None:
    first, *_ = ask(environment, "--json").stdout.splitlines()
    assert json.loads(first) == {
        "id": 1,
        "symbol": "EURUSD",
        "cause": "disconnect",
        "store": None,
        "from": "2026-06-02T12:00:00.000Z",
        "to": "2026-06-02T12:00:04.321Z",
        "state": "open",
        "ticks": None,
        "filled": 0,
        "missing": None,
        "detail": "the connection\nwas reset",
        "from_ms": NOON,
        "to_ms": NOON + 4321,
        "first_seq": None,
        "last_seq": None,
        "opened_ms": NOON,
    }


def test_the_latest_are_shown_and_how_many_there_are(ledger: Ledger, environment: Mapping[str, str]) -> None:
    ledger.enter([attrs.evolve(CUT, symbol="USDJPY")] * 60, NOON)
    done = ask(environment)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["SYMBOL", *["USDJPY"] * 50]
    assert done.stderr == "these are the latest 50; --all shows all\n"
    assert len(ask(environment, "--all").stdout.splitlines()) == 1 + 64
    assert len(ask(environment, "--all", "--state", "open").stdout.splitlines()) == 1 + 62
    opened = [json.loads(line)["id"] for line in ask(environment, "--json", "--state", "open").stdout.splitlines()]
    assert opened == list(range(15, 65))


def test_a_reader_who_has_seen_enough_ends_it_quietly(ledger: Ledger, environment: Mapping[str, str]) -> None:
    ledger.enter([CUT] * 3000, NOON)
    command = f"{sys.executable} -m polygon_live gaps --all | head -1"
    done = subprocess.run(
        command, shell=True, env=dict(environment), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_where_no_collector_has_run_it_says_so_and_makes_nothing(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    done = run(environment)
    assert done.returncode == 74
    assert "no collector has run here" in done.stderr
    assert str(tmp_path / "data" / "journal" / "polygon-live-1" / "ledger.db") in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["gaps"],
        ["quarantine"],
        ["backfill", "--symbol", "EURUSD", "--from", "2026-06-01", "--to", "2026-06-02", "--no-wait"],
    ],
    ids=lambda command: command[0],
)
def test_who_may_not_look_into_the_folder_is_told_so(
    command: list[str], environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.exists

    def exists(path: Path) -> bool:  # the tests may run as root, who may look everywhere
        if path.name == "ledger.db":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    done = CliRunner().invoke(cli, command, env=dict(environment))
    assert isinstance(done.exception, JournalError)
    assert "ledger.db can't be looked for: Permission denied; look at its owner" in str(done.exception)


def test_a_folder_that_can_not_be_made_is_named(environment: Mapping[str, str]) -> None:
    span = ["--symbol", "EURUSD", "--from", "2026-06-01", "--to", "2026-06-02", "--no-wait"]
    nowhere = {**environment, "POLYGON_LIVE_DATA_DIR": "/dev/null"}
    done = CliRunner().invoke(cli, ["backfill", *span], env=nowhere)
    assert isinstance(done.exception, JournalError)
    assert "/dev/null" in str(done.exception)


def test_a_file_that_is_no_ledger_is_named(folder: Path, environment: Mapping[str, str]) -> None:
    (folder / "ledger.db").write_bytes(os.urandom(20_000))
    done = run(environment)
    assert done.returncode == 74
    assert str(folder / "ledger.db") in done.stderr
    assert "Traceback" not in done.stderr


def test_another_collectors_ledger_is_named_by_its_variable(ledger: Ledger, environment: Mapping[str, str]) -> None:
    assert "polygon-live-2" in run({**environment, "POLYGON_LIVE_COLLECTOR_ID": "polygon-live-2"}).stderr
    wrong = run({**environment, "POLYGON_LIVE_COLLECTOR_ID": "../polygon-live-1"})
    assert wrong.returncode == 78
    assert "POLYGON_LIVE_COLLECTOR_ID" in wrong.stderr
