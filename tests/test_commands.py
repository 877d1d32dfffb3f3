"""The commands together: each has its help, and who only reads the ledger does not wait for three stores' libraries."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest
import trio
from click.testing import CliRunner

from polygon_live.commands import COMMANDS, cli
from polygon_live.embedded.server import free_port
from tests.waiting import PATIENCE_SECONDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_and_a_line_in_the_list(name: str) -> None:
    assert f"Usage: cli {name} " in CliRunner().invoke(cli, [name, "--help"]).stdout
    assert f"\n  {name} " in CliRunner().invoke(cli, ["--help"]).stdout


def test_a_command_that_is_not_there_is_named() -> None:
    wrong = CliRunner().invoke(cli, ["holes"])
    assert (wrong.exit_code, "'holes'" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ("check", "--seconds", "nan"),
        ("simulate", "--fault", "cut", "--every", "nan"),
        ("simulate", "--ticks-per-second", "inf"),
        ("demo", "--ticks-per-second", "nan"),
    ],
)
def test_a_number_is_finite(words: tuple[str, ...]) -> None:
    wrong = CliRunner().invoke(cli, words)
    assert (wrong.exit_code, "is not a finite number in the range" in wrong.stderr) == (2, True)


async def test_it_runs_with_standard_error_closed(clean_environment: dict[str, str]) -> None:
    port = free_port()
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "polygon_live", "simulate"]
    with trio.fail_after(PATIENCE_SECONDS):
        running = await trio.lowlevel.open_process([*command, "--port", str(port)], env=clean_environment)
        while running.poll() is None:
            with suppress(OSError):
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                break
            await trio.sleep(0.05)
        running.terminate()
        assert await running.wait() == 0


def test_a_host_that_can_not_be_looked_up_is_named() -> None:
    wrong = CliRunner().invoke(cli, ["simulate", "--host", "a..b"])
    assert (wrong.exit_code, "Invalid value for '--host': 'a..b'" in wrong.stderr) == (2, True)


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
