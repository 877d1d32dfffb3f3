"""What a store refuses, and how somebody who looks for it finds it: ``/quarantine`` and ``polygon-live quarantine``."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from polygon_live.commands import cli
from polygon_live.journal import Aside, Ledger
from polygon_live.standin import StandIn
from tests.collecting import KEY
from tests.place import Flow, Place
from tests.waiting import in_thread

NOON = 1_780_401_600_000  # 2026-06-02 12:00 UTC
LARGE = Aside("kafka", 5, "EURUSD", "MessageSizeTooLarge:\n2001 bytes", b'{"symbol":"EURUSD","seq":5}', NOON)
ODD = Aside("timescale", 1_780_401_600_000_007, "XAUUSD", 'violates "sane"', b'{"symbol":"XAUUSD","seq":7}', NOON + 1)


@pytest.fixture
def environment(clean_environment: Mapping[str, str], tmp_path: Path) -> Mapping[str, str]:
    return {**clean_environment, "POLYGON_LIVE_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    folder = tmp_path / "data" / "journal" / "polygon-live-1"
    folder.mkdir(parents=True)
    ledger = Ledger.open(folder)
    for aside in (LARGE, ODD):
        ledger.set_aside(aside)
    yield ledger
    ledger.close()


def ask(environment: Mapping[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["quarantine", *arguments], env=environment)


def run(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a process: exit codes and the end of pipes."""
    command = [sys.executable, "-m", "polygon_live", "quarantine", *arguments]
    return subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False, timeout=60)


def test_a_table_with_the_ticks_below_their_reasons(ledger: Ledger, environment: Mapping[str, str]) -> None:
    done = run(environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "SINK       SEQ               SYMBOL  WHEN (UTC)               WHY\n"
        "kafka      5                 EURUSD  2026-06-02 12:00:00.000  MessageSizeTooLarge: 2001 bytes\n"
        '    {"symbol":"EURUSD","seq":5}\n'
        'timescale  1780401600000007  XAUUSD  2026-06-02 12:00:00.001  violates "sane"\n'
        '    {"symbol":"XAUUSD","seq":7}\n'
    )
    ledger.close()
    assert ask(environment).stdout == done.stdout


def test_json_has_the_tick_byte_by_byte(ledger: Ledger, environment: Mapping[str, str]) -> None:
    first, _ = ask(environment, "--json").stdout.splitlines()
    told = json.loads(first)
    assert told.pop("tick").encode() == LARGE.payload
    assert told == {
        "sink": "kafka",
        "seq": 5,
        "symbol": "EURUSD",
        "at": "2026-06-02T12:00:00.000Z",
        "why": LARGE.why,
        "at_ms": NOON,
    }


def test_bytes_that_are_no_text_are_told_all_the_same(ledger: Ledger, environment: Mapping[str, str]) -> None:
    ledger.set_aside(Aside("nats", 9, "EURUSD", "why", b"\xff{", NOON))
    for arguments in ((), ("--json",)):
        assert "xff{" in ask(environment, "--sink", "nats", *arguments).stdout


def test_the_latest_are_the_last_and_how_many_there_ever_were_is_told(
    ledger: Ledger, environment: Mapping[str, str]
) -> None:
    def told(*arguments: str) -> tuple[list[int], str]:
        done = ask(environment, "--json", *arguments)
        return [json.loads(line)["seq"] for line in done.stdout.splitlines()], done.stderr

    for seq in range(10, 70):
        ledger.set_aside(Aside("kafka", seq, "EURUSD", "why", b"{}", NOON))
    latest = "these are the latest {}; ever set aside: {}; --limit shows more\n"
    assert told() == (list(range(20, 70)), latest.format(50, "kafka 61, timescale 1"))
    assert told("--sink", "kafka", "--limit", "2") == ([68, 69], latest.format(2, "kafka 61"))
    assert told("--sink", "timescale") == ([ODD.seq], "")
    assert told("--limit", "100") == ([5, ODD.seq, *range(10, 70)], "")
    assert ask(environment, "--sink", "nats").output == "no tick was set aside\n"


def test_what_can_not_be_asked_for_is_refused(environment: Mapping[str, str]) -> None:
    for arguments, words in ((("--sink", "redis"), "'timescale', 'nats', 'kafka'"), (("--limit", "0"), "x>=1")):
        wrong = ask(environment, *arguments)
        assert wrong.exit_code == 2
        assert words in wrong.stderr
    alone = run(environment)
    assert alone.returncode == 74
    assert "no collector has run here" in alone.stderr


@pytest.mark.engine
async def test_a_row_that_the_database_refuses_is_found_on_the_page_and_by_the_command_in_the_next_run_too(
    place: Place,
) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    environment = {**place.base, "POLYGON_LIVE_DATA_DIR": str(place.journal_dir.parents[1])}
    async with place.collecting(standin) as running:
        flow.send(20)
        await running.until_delivered(20)
        with psycopg.connect(place.postgres.dsn) as connection:
            named = f'alter table market_ticks add constraint "not {KEY}"'  # a store that repeats the secret
            connection.execute(f"{named} check (round(bid::numeric, 5) <> 1.10025)".encode())
        flow.send(40)
        await running.until_delivered(60, "nats", "kafka")
        state = await running.until_state(lambda state: state["sinks"][0]["delivered"] == 59)
        page = (await running.get("/quarantine")).json()
        metrics = (await running.get("/metrics")).text
        health = (await running.get("/health")).json()
    assert [(s["set_aside"], s["set_aside_ever"]) for s in state["sinks"]] == [(1, 1), (0, 0), (0, 0)]
    (aside,) = page["ticks"]
    assert page["ever"] == {"timescale": 1, "nats": 0, "kafka": 0}
    assert 'violates check constraint "not ***"' in aside["why"]
    (refused,) = [r for r in await in_thread(place.records) if round(json.loads(r.value)["bid"], 5) == 1.10025]
    assert aside["tick"].encode() == refused.value
    assert (aside["sink"], aside["seq"]) == ("timescale", json.loads(refused.value)["seq"])
    assert 'polygon_live_sink_quarantined_ticks{sink="timescale"} 1.0' in metrics
    assert any("timescale" in reason and "/quarantine" in reason for reason in health["reasons"])

    async with place.collecting(standin) as running:  # a run in which nothing was set aside
        again: dict[str, Any] = (await running.get("/quarantine")).json()
        (found,) = map(json.loads, (await in_thread(lambda: run(environment, "--json"))).stdout.splitlines())
        first = (await running.state())["sinks"][0]
    assert found == aside
    assert again["ticks"] == page["ticks"]
    assert (first["set_aside"], first["set_aside_ever"]) == (0, 1)
