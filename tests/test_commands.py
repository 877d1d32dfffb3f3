"""The commands together: each has its help, and who only reads the ledger does not wait for three stores' libraries."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from polygon_live.commands import COMMANDS, cli


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_and_a_line_in_the_list(name: str) -> None:
    assert f"Usage: cli {name} " in CliRunner().invoke(cli, [name, "--help"]).stdout
    assert f"\n  {name} " in CliRunner().invoke(cli, ["--help"]).stdout


def test_a_command_that_is_not_there_is_named() -> None:
    wrong = CliRunner().invoke(cli, ["holes"])
    assert (wrong.exit_code, "'holes'" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("name", ["gaps", "quarantine"])
def test_reading_the_ledger_needs_no_library_of_a_store(name: str) -> None:
    program = f"import sys, polygon_live.commands.{name}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not {"kafka", "nats", "psycopg", "quart", "trio"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("polygon-live ch", ["check"]),
        ("polygon-live check --se", ["--seconds"]),
        ("polygon-live tail eu", ["EURUSD", "EURGBP", "EURJPY"]),
        ("polygon-live config va", ["validate"]),
    ],
)
def test_the_shell_completes(words: str, offered: list[str]) -> None:
    environ = {"_POLYGON_LIVE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "polygon_live"],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == offered
