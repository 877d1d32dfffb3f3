"""``demo`` and ``simulate`` as their users run them."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from polygon_live import wire
from polygon_live.commands.demo import _running
from polygon_live.dial import dial_websocket
from polygon_live.embedded import Nats, ServerFailed
from polygon_live.model import FOURTEEN_SYMBOLS, pair_of
from tests import reading
from tests.collecting import Running, collector
from tests.waiting import until

pytestmark = pytest.mark.engine

EXAMPLE_4 = """
-- Check recent ticks
SELECT
    symbol,
    COUNT(*) as tick_count,
    MIN(timestamp_ms) as oldest_tick,
    MAX(timestamp_ms) as newest_tick
FROM market_ticks
WHERE timestamp_ms > (EXTRACT(EPOCH FROM NOW()) * 1000 - 3600000)  -- Last hour
GROUP BY symbol
ORDER BY tick_count DESC;
"""

EXAMPLE_3 = """
# Update config via Central Hub API
curl -X POST http://suho-central-hub:7000/api/v1/config/polygon-live-collector \\
  -H "Content-Type: application/json" \\
  -d '{
    "operational": {
      "symbols": ["EURUSD", "XAUUSD", "GBPUSD", "EURAUD"]
    }
  }'
"""


@pytest.fixture
def env(clean_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return {
        **clean_environment,
        "POLYGON_LIVE_DATA_DIR": str(tmp_path / "data"),
        "POLYGON_LIVE_HTTP_PORT": "0",
        "POLYGON_LIVE_LOG_FORMAT": "json",
    }


async def found(running: Running, pattern: str) -> str:
    """The first group of what it said, as soon as it says so."""
    await until(lambda: re.search(pattern, running.said) or running.process.poll() is not None)
    match = re.search(pattern, running.said)
    assert match, running.said
    return match[1]


async def test_the_demo_works_as_it_says_and_leaves_nothing_running(env: dict[str, str], tmp_path: Path) -> None:
    log_path = tmp_path / "log"
    async with collector(env, log_path, "demo", "--ticks-per-second", "200") as running:
        dsn = await found(running, r"database +(\S+)")
        nats = await found(running, r"NATS +(\S+)")
        broker = await found(running, r"Kafka +(\S+)")
        body = await running.until_health(200)
        assert (body["status"], body["mode"]) == ("healthy", "SIMULATED")
        assert (await running.state())["mode"] == "SIMULATED"
        async with reading.listening(nats) as listener:
            before = (await running.state())["validator"]["accepted"]
            state = await running.until_delivered(before + 1000)
            upto = min(sink["cursor"] for sink in state["sinks"])
            await until(lambda: listener.heard and listener.heard[-1][1]["seq"] >= upto)
            heard = {tick["seq"]: tick for _, tick in listener.heard if tick["seq"] <= upto}
        rows = await trio.to_thread.run_sync(reading.in_database, dsn)
        records = await trio.to_thread.run_sync(reading.in_archive, broker)
        archived = {tick["seq"]: tick for tick in (json.loads(r.value) for r in records)}
        since = min(heard)
        stored = {row["seq"]: row for row in rows if since <= row["seq"] <= upto}
        assert len(stored) >= 900
        assert list(heard) == sorted(stored)
        for seq, tick in heard.items():
            assert archived[seq] == tick
            assert all(stored[seq][name] == tick[name] for name in ("symbol", "bid", "ask", "mid", "spread"))
        table = await trio.to_thread.run_sync(query, dsn, EXAMPLE_4)
        assert {row[0] for row in table} == set(FOURTEEN_SYMBOLS)
        asked = f"{await found(running, 'commands +in another terminal: (.+)')} && polygon-live check --json"
        done = await trio.run_process(["/bin/sh", "-c", asked], env={}, check=False, capture_stdout=True)
        assert done.returncode == 0, done.stdout
        assert not [item for item in json.loads(done.stdout)["items"] if item["status"] in {"fails", "skipped"}]

        async with collector(env, tmp_path / "second", "demo") as second:
            assert await second.ended() == 70
            assert f"is in use by process {running.process.pid}" in second.said
        other = env | {"POLYGON_LIVE_DATA_DIR": str(tmp_path / "other")}
        other["POLYGON_LIVE_HTTP_PORT"] = running.events("collector started")[0]["status"].rsplit(":", 1)[1]
        async with collector(other, tmp_path / "third", "demo") as third:
            assert await third.ended() == 78
            assert "Is another collector running?" in third.said

        running.signal(signal.SIGINT)
        assert await running.ended() == 0
        assert "Traceback" not in running.said
        accepted = running.events("collector stopped")[0]["accepted"]
    # The last fixture of the session fails if a server is still there.

    async with collector(env, log_path, "demo") as again:
        assert await found(again, r"database +(\S+)") == dsn
        await again.until_delivered(20)
        assert len(await trio.to_thread.run_sync(reading.in_database, dsn)) >= accepted + 20
        again.signal(signal.SIGTERM)
        assert await again.ended() == 0


def query(dsn: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(text).fetchall()


async def test_the_third_example_of_the_description(env: dict[str, str], tmp_path: Path) -> None:
    """Word for word, but for the host."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl: apt install curl")
    async with collector(env, tmp_path / "log", "demo", "--ticks-per-second", "200") as running:
        hub = await found(running, r"Hub +(\S+)")
        dsn = await found(running, r"database +(\S+)")
        await running.until_delivered(100)
        posted = await trio.run_process(
            ["bash", "-c", EXAMPLE_3.replace("http://suho-central-hub:7000", hub)],
            capture_stdout=True,
            capture_stderr=True,
        )
        assert json.loads(posted.stdout)["broadcast"] == "sent"
        state = await running.until_state(lambda state: state["configuration"]["generation"] == 2)
        assert state["configuration"]["values"]["operational.symbols"] == ["EURUSD", "XAUUSD", "GBPUSD", "EURAUD"]
        await running.until_state(
            lambda state: [s for s in state["validator"]["symbols"] if s["symbol"] == "EURAUD" and s["accepted"] > 10]
        )
        await until(lambda: {"EURAUD"} <= {row["symbol"] for row in reading.in_database(dsn)})
        assert (await running.state())["feed"]["connections"] == 1
        running.signal(signal.SIGINT)
        assert await running.ended() == 0


async def test_a_demo_ended_while_it_starts_leaves_nothing_running(env: dict[str, str], tmp_path: Path) -> None:
    async with collector(env, tmp_path / "log", "demo") as running:
        await until((tmp_path / "data" / "demo" / "postgres" / "server.pid").exists)
        running.signal(signal.SIGINT)
        assert await running.ended() == 0
        assert "Traceback" not in running.said


async def test_no_further_signal_keeps_the_demo_from_ending_its_servers(env: dict[str, str], tmp_path: Path) -> None:
    async with collector(env, tmp_path / "log", "demo") as running:
        await until((tmp_path / "data" / "demo" / "postgres" / "server.pid").exists)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):  # making the database takes longer
            running.signal(number)
            await trio.sleep(0.1)  # or they would be one
        assert await running.ended() == 0
        assert "Traceback" not in running.said


async def test_a_server_that_can_not_be_ended_does_not_keep_the_others_running(tmp_path: Path) -> None:
    class Reluctant(Nats):
        def stop(self) -> None:
            super().stop()
            if self.port in begun:
                raise ServerFailed("it can't be ended")

    async def run() -> None:
        async with _running(first, second):
            begun.append(first.port)
            assert second.running

    begun: list[int] = []
    first, second = Reluctant(tmp_path / "first"), Nats(tmp_path / "second")
    with pytest.raises(ServerFailed, match="it can't be ended"):
        await run()
    assert not second.running


async def test_a_closed_terminal_ends_the_demo_in_order(env: dict[str, str], tmp_path: Path) -> None:
    async with collector(env, tmp_path / "log", "demo") as running:
        await running.until_delivered(1)
        running.signal(signal.SIGHUP)
        assert await running.ended() == 0
        assert "Traceback" not in running.said


async def test_nohup_is_heeded(env: dict[str, str], tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited by what is started
    async with collector(env, tmp_path / "log", "demo") as running:
        signal.signal(signal.SIGHUP, before)
        await running.until_delivered(1)
        running.signal(signal.SIGHUP)
        await running.until_delivered((await running.sink("nats"))["delivered"] + 20)
        assert not running.events("stopping")
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0


async def test_what_is_meant_for_real_servers_does_not_keep_the_demo_from_its_own(
    env: dict[str, str], tmp_path: Path
) -> None:
    theirs = tmp_path / "ca.pem"
    theirs.write_text("not a certificate, and not to be looked at")
    env |= {
        "POLYGON_LIVE_NATS_CA_FILE": str(theirs),
        "POLYGON_LIVE_NATS_CREDS_FILE": str(theirs),
        "POLYGON_LIVE_KAFKA_SECURITY_PROTOCOL": "SSL",
        "POLYGON_LIVE_KAFKA_CA_FILE": str(theirs),
    }
    async with collector(env, tmp_path / "log", "demo") as running:
        await running.until_delivered(1)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0


async def test_a_data_folder_that_cannot_be_used_is_named(env: dict[str, str], tmp_path: Path) -> None:
    env["POLYGON_LIVE_DATA_DIR"] = "/dev/null"
    async with collector(env, tmp_path / "log", "demo") as running:
        assert await running.ended() == 78
        assert "the data folder /dev/null/demo can't be used: Not a directory" in running.said


async def test_a_wrong_setting_is_told_before_any_server_is_started(env: dict[str, str], tmp_path: Path) -> None:
    async with collector(env | {"POLYGON_LIVE_LOG_LEVEL": "loud"}, tmp_path / "log", "demo") as running:
        assert await running.ended() == 78
        assert "POLYGON_LIVE_LOG_LEVEL is 'loud'" in running.said
        assert not list((tmp_path / "data").rglob("server.log"))


async def test_just_changes_nothing_about_signals(env: dict[str, str], tmp_path: Path) -> None:
    just = Path(sys.executable).with_name("just")
    justfile = Path(__file__).parents[1] / "justfile"
    log_path = tmp_path / "log"
    with log_path.open("ab") as log:
        process = await trio.lowlevel.open_process(
            [just, "--justfile", justfile, "simulate", "--port", "0"],
            env=env | {"NOHUP": "yes"},  # as ops/just says it
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    running = Running(process, log_path, 0)
    try:
        address = await found(running, r"SIMULATED market at (\S+),")
        os.killpg(process.pid, signal.SIGHUP)
        received: list[wire.Event | wire.Undecodable] = []
        with trio.fail_after(60):
            await subscribed(address, received, enough=15)
        os.killpg(process.pid, signal.SIGINT)  # the terminal's way
        assert await running.ended() == 0
        assert "error" not in running.said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


async def subscribed(address: str, received: list[wire.Event | wire.Undecodable], *, enough: int) -> None:
    """What a client hears, until it is so much or the other side ends it."""
    async with dial_websocket(address) as ws:
        await ws.get_message()
        await ws.send_message(wire.authenticate("made-up-key"))
        await ws.get_message()
        await ws.send_message(wire.subscribe([pair_of(s) for s in FOURTEEN_SYMBOLS]))
        while len(received) < enough:
            received += wire.decode(await ws.get_message())


async def test_simulate_is_a_polygon_to_dial(env: dict[str, str], tmp_path: Path) -> None:
    arguments = ("simulate", "--port", "0", "--ticks-per-second", "500", "--fault", "crossed", "--every", "0.2")
    async with collector(env, tmp_path / "log", *arguments) as running:
        address = await found(running, r"SIMULATED market at (\S+),")
        received: list[wire.Event | wire.Undecodable] = []
        with trio.fail_after(60):
            await subscribed(address, received, enough=500)
        quotes = [e for e in received if isinstance(e, wire.Quote)]
        assert {q.p for q in quotes} == {pair_of(s) for s in FOURTEEN_SYMBOLS}
        assert any(q.b > q.a for q in quotes)
        running.signal(signal.SIGINT)
        assert await running.ended() == 0
        assert "Traceback" not in running.said


async def test_simulate_replays_a_file(env: dict[str, str], tmp_path: Path, real_ticks: tuple[Path, ...]) -> None:
    head = real_ticks[0].read_text().splitlines()[:101]
    file = tmp_path / "ticks.csv"
    file.write_text("\n".join(head))
    arguments = ("simulate", "--port", "0", "--ticks-per-second", "1000", "--replay", str(file))
    async with collector(env, tmp_path / "log", *arguments) as running:
        address = await found(running, r"SIMULATED market at (\S+),")
        received: list[wire.Event | wire.Undecodable] = []
        with trio.fail_after(60):
            await subscribed(address, received, enough=14 + 100)
        assert [q.b for q in received if isinstance(q, wire.Quote)] == [float(line.split(",")[2]) for line in head[1:]]
        await found(running, "(all 100 ticks were sent)")
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0


async def test_bad_arguments_and_files_are_named(env: dict[str, str], tmp_path: Path) -> None:
    async with collector(env, tmp_path / "a", "simulate", "--replay", str(tmp_path / "nowhere.csv")) as running:
        assert await running.ended() == 78
        assert "nowhere.csv can't be read" in running.said
    async with collector(env, tmp_path / "b", "simulate", "--fault", "earthquake") as running:
        assert await running.ended() == 2
