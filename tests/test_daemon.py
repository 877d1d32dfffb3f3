"""The whole collector as a process, between a stand-in Polygon on a real socket and three real stores."""

import json
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from polygon_live.blocks import MOST_TICKS
from polygon_live.config import settings_from
from polygon_live.daemon import Collector, steered
from polygon_live.embedded import Broker, Nats, Postgres
from polygon_live.errors import StoreUnavailable
from polygon_live.health import health
from polygon_live.standin import Script, StandIn
from polygon_live.standin.faults import bad_frames
from polygon_live.standin.market import real_ticks, replay
from polygon_live.supervise import Watcher
from polygon_live.wire import Quote
from tests import reading
from tests.collecting import KEY, collector, environment
from tests.comparing import archive_agrees, messages_agree, table_agrees, ticks_of
from tests.engines.nats import in_stream
from tests.place import STORES, Flow, Place, now_ms, with_stream
from tests.test_web_server import ALIVE, dial
from tests.waiting import in_thread, until

pytestmark = pytest.mark.engine


@pytest.fixture
def absent_place(
    own_postgres: Callable[..., Postgres],
    own_nats: Callable[..., Nats],
    own_broker: Callable[..., Broker],
    clean_environment: dict[str, str],
    tmp_path: Path,
) -> Place:
    """All three addresses are known, and nobody is there."""
    servers = own_postgres(start=False), own_nats(start=False), own_broker(start=False)
    return Place(*servers, clean_environment, tmp_path / "collector.log")


def seqs(records: list[Any]) -> list[int]:
    return sorted(json.loads(r.value)["seq"] for r in records)


async def test_real_ticks_arrive_complete_in_order_and_exact_in_all_three_stores(
    place: Place, real_ticks_paths: tuple[Path, ...]
) -> None:
    quotes = [q for path in real_ticks_paths for q in real_ticks(path, now_ms())]
    standin = StandIn(key=KEY)
    async with reading.listening(place.nats.url) as listener, place.collecting(standin) as running:
        await standin.play(replay(quotes, 20_000))
        state = await running.until_delivered(len(quotes))
        assert state["validator"]["accepted"] == len(quotes)
        await until(lambda: len(listener.heard) >= len(quotes))
        rows, records = await in_thread(place.rows), await in_thread(place.records)

    ticks = ticks_of(quotes, rows[0]["seq"])
    table_agrees(rows, ticks)
    messages_agree(listener.heard, ticks, rows)
    assert [tick["seq"] for _, tick in listener.heard] == [tick["seq"] for tick in ticks]
    archive_agrees(records, ticks, rows)


@pytest.fixture
def real_ticks_paths(real_ticks: tuple[Path, ...]) -> tuple[Path, ...]:
    return real_ticks


@pytest.mark.parametrize("name", STORES)
async def test_a_server_stopped_under_load_and_returned_costs_the_others_nothing(place: Place, name: str) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin) as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flow.run)
            await running.until_delivered(500)
            await running.until_health(200)
            # The broker's own kill loses what it has acknowledged: it gets an orderly stop.
            await in_thread(place.server(name).stop if name == "kafka" else place.server(name).kill)
            stopped = (await running.sink(name))["delivered"]
            others = [other for other in STORES if other != name]
            await running.until_delivered(stopped + 2000, *others)
            body = await running.until_health(503, name)
            assert not any(other in "\n".join(body["reasons"]) for other in others)
            await in_thread(place.server(name).start)
            await running.until_health(200)
            nursery.cancel_scope.cancel()
        state = await running.until_delivered(flow.sent)
        assert state["validator"]["accepted"] == flow.sent
        rows = await in_thread(place.rows)
        assert len(rows) == len({row["seq"] for row in rows}) == flow.sent
        if name != "kafka":
            assert seqs(await in_thread(place.records)) == [row["seq"] for row in rows]
        for sink in state["sinks"]:
            assert sink["lost"] == 0
            assert sink["waiting_ticks"] == 0


async def test_a_broker_that_hangs_and_goes_on_has_every_tick_once(place: Place) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin) as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flow.run)
            await running.until_delivered(500)
            await in_thread(place.broker.pause)
            await running.until_health(503, "kafka")
            await in_thread(place.broker.resume)
            await running.until_health(200)
            nursery.cancel_scope.cancel()
        await running.until_delivered(flow.sent)
        rows = await in_thread(place.rows)
        assert seqs(await in_thread(place.records)) == [row["seq"] for row in rows]


@pytest.mark.parametrize("name", STORES)
async def test_a_store_that_dies_while_the_market_is_silent_is_known_all_the_same(place: Place, name: str) -> None:
    async with place.collecting(StandIn(key=KEY)) as running:
        await running.until_state(lambda state: all(sink["connected"] for sink in state["sinks"]))
        await in_thread(place.server(name).stop)
        await running.until_health(503, f"{name} is down")
        await in_thread(place.server(name).start)
        await running.until_state(lambda state: all(sink["state"] == "good" for sink in state["sinks"]))


async def test_it_starts_without_any_store_says_so_and_delivers_when_they_come(absent_place: Place) -> None:
    place = absent_place
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin) as running:
        assert (await running.get("/health/live")).status_code == 200
        flow.send(700)
        await running.until_health(503, *STORES)
        state = await running.until_state(lambda state: all(s["last_error"] for s in state["sinks"]))
        assert {s["name"]: s["waiting_ticks"] for s in state["sinks"]} == dict.fromkeys(STORES, 700)
        for name in STORES:
            await in_thread(place.server(name).start)
        await running.until_delivered(700)
        await running.until_health(200)
        assert len(await in_thread(place.rows)) == 700
        assert len(await in_thread(place.records)) == 700


@pytest.mark.parametrize("name", STORES)
async def test_a_store_that_stays_away_for_longer_than_the_memory_lasts_misses_nothing(
    absent_place: Place, name: str
) -> None:
    place = absent_place
    others = [other for other in STORES if other != name]
    for other in others:
        await in_thread(place.server(other).start)
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin, POLYGON_LIVE_SINK_QUEUE_TICKS="1000") as running:
        for _ in range(50):
            flow.send(100)
            await running.until_delivered(flow.sent, *others)
        await running.until_health(503, f"{name} is down")
        assert (await running.sink(name))["waiting_ticks"] == 5000
        await in_thread(place.server(name).start)
        state = await running.until_delivered(5000)
        await running.until_health(200)
        assert not any(sink["lost"] for sink in state["sinks"])
        rows, records = await in_thread(place.rows), await in_thread(place.records)
    ticks = ticks_of(flow.quotes, rows[0]["seq"])
    table_agrees(rows, ticks)
    archive_agrees(records, ticks, rows)


async def test_what_the_journal_has_no_room_for_is_given_up_for_this_store_alone_and_told(absent_place: Place) -> None:
    place = absent_place
    for name in ("nats", "kafka"):
        await in_thread(place.server(name).start)
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    small = {"POLYGON_LIVE_SINK_QUEUE_TICKS": "1000", "POLYGON_LIVE_JOURNAL_MAX_BYTES": str(2**20)}
    async with place.collecting(standin, **small) as running:
        for _ in range(30):
            flow.send(300)
            await running.until_delivered(flow.sent, "nats", "kafka")
        body = await running.until_health(503, "gave up", "timescale is down")
        assert not any(name in "\n".join(body["reasons"]) for name in ("nats", "kafka"))
        await in_thread(place.postgres.start)
        state = await running.until_state(lambda state: told(state, "timescale")["waiting_ticks"] == 0)
        lost = told(state, "timescale")["lost"]
        assert lost > 0
        assert told(state, "timescale")["delivered"] + lost == flow.sent
        assert "timescale lacks" in "\n".join((await running.get("/health")).json()["reasons"])
        gaps = (await running.get("/gaps")).json()["gaps"]
        rows, records = await in_thread(place.rows), await in_thread(place.records)
    assert {(gap["cause"], gap["store"], gap["state"]) for gap in gaps} == {("given_up", "timescale", "open")}
    assert seqs(records) == [*range(seqs(records)[0], seqs(records)[0] + flow.sent)]
    missing = set(seqs(records)) - {row["seq"] for row in rows}
    assert len(missing) == lost
    # What was still in memory when the journal gave it up is told, and was delivered all the same.
    assert missing <= {seq for gap in gaps for seq in range(gap["first_seq"], gap["last_seq"] + 1)}


def told(state: dict[str, Any], store: str) -> dict[str, Any]:
    """This store's part of /state."""
    return next(sink for sink in state["sinks"] if sink["name"] == store)


async def test_sigterm_delivers_what_is_held_and_says_goodbye(place: Place) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with reading.listening(place.nats.url) as listener, place.collecting(standin) as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flow.run, 5000)
            await running.until_delivered(2000)
            running.signal(signal.SIGTERM)
            assert await running.ended() == 0
            nursery.cancel_scope.cancel()
        assert standin.latest.goodbye == 1000
        accepted = running.events("collector stopped")[0]["accepted"]
        assert accepted >= 2000
        rows = await in_thread(place.rows)
        assert len(rows) == accepted
        assert seqs(await in_thread(place.records)) == [row["seq"] for row in rows]
        await until(lambda: len(listener.heard) >= accepted)
        assert [tick["seq"] for _, tick in listener.heard] == [row["seq"] for row in rows]
        assert "Traceback" not in running.said


async def test_sigterm_is_heeded_from_the_first_line_of_the_log(absent_place: Place) -> None:
    async with absent_place.collector("ws://127.0.0.1:1/forex", POLYGON_LIVE_GRACE_SECONDS="0.1") as running:
        await until(lambda: running.said)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert len(running.events("collector stopped")) == len(running.events("collector started"))


async def test_sigterm_is_heeded_whoever_holds_on_to_the_status_server(place: Place) -> None:
    grace_seconds = 30
    stream, metrics = (ALIVE.replace(b"/health/live", page) for page in (b"/stream", b"/metrics"))
    beginnings = (b"", b"GET / HT", stream, metrics * 30)
    async with AsyncExitStack() as left_open:
        more = {"POLYGON_LIVE_GRACE_SECONDS": str(grace_seconds)}
        async with place.collecting(StandIn(key=KEY), **more) as running:
            port = (await running.get("/health/live")).url.port
            assert port is not None
            for n in range(50):
                client = await left_open.enter_async_context(await dial(port, 4096))
                await client.send_all(beginnings[n % 4])
            await running.state()
            running.signal(signal.SIGTERM)
            with trio.fail_after(grace_seconds):
                assert await running.ended() == 0
            assert "Traceback" not in running.said


@pytest.mark.parametrize("name", STORES)
async def test_it_ends_by_itself_though_a_server_hangs_and_the_next_run_delivers_the_rest(
    place: Place, name: str
) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    await with_stream(place)
    async with place.collecting(standin) as running, trio.open_nursery() as nursery:
        nursery.start_soon(flow.run)
        await running.until_delivered(500)
        await in_thread(place.server(name).pause)
        stuck = (await running.sink(name))["delivered"]
        others = [other for other in STORES if other != name]
        await running.until_delivered(stuck + 500, *others)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        nursery.cancel_scope.cancel()
        assert [e["store"] for e in running.events("ticks wait in the journal for the next run")] == [name]
        assert running.said.rstrip().splitlines()[-1].count('"collector stopped"') == 1
        assert "Traceback" not in running.said
    ticks = await in_thread(place.journal)
    assert len(ticks) == running.events("collector stopped")[0]["accepted"]
    await in_thread(place.server(name).resume)
    async with place.collecting(standin) as running:
        await running.until_state(lambda state: all(s["connected"] and not s["waiting_ticks"] for s in state["sinks"]))
        rows, records = await in_thread(place.rows), await in_thread(place.records)
    table_agrees(rows, ticks)
    archive_agrees(records, ticks, rows)
    messages_agree(await in_stream(place.nats.url), ticks, rows, may_wait=True)


async def test_a_store_that_is_away_when_it_starts_gets_what_was_accepted_before_and_since(place: Place) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin) as running:
        await in_thread(place.postgres.kill)
        flow.send(1000)
        await running.until_delivered(1000, "nats", "kafka")
        running.signal(signal.SIGKILL)
        await running.ended()
    async with place.collecting(standin) as running:
        flow.send(1000)
        await running.until_delivered(1000, "nats", "kafka")
        await in_thread(place.postgres.start)
        await running.until_state(lambda state: all(s["connected"] and not s["waiting_ticks"] for s in state["sinks"]))
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        rows, records = await in_thread(place.rows), await in_thread(place.records)
    ticks = await in_thread(place.journal)
    assert len(ticks) == flow.sent
    table_agrees(rows, ticks)
    archive_agrees(records, ticks, rows)


async def test_a_second_signal_ends_it_outright(place: Place) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin, POLYGON_LIVE_GRACE_SECONDS="100000") as running:
        await in_thread(place.postgres.pause)
        flow.send(100)
        await running.until_delivered(100, "nats", "kafka")
        running.signal(signal.SIGTERM)
        await running.until_state(lambda state: state["stopping"])
        assert (await running.get("/health")).status_code == 503
        running.signal(signal.SIGINT)
        assert await running.ended() == 0
        assert running.events("stopping at once: what no store has taken yet stays in the journal")


async def test_the_echo_of_a_signal_is_not_a_second_one(place: Place) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin, POLYGON_LIVE_GRACE_SECONDS="100000") as running:
        await in_thread(place.postgres.pause)
        flow.send(100)
        await running.until_delivered(100, "nats", "kafka")
        running.signal(signal.SIGTERM)
        await until(lambda: running.events("stopping"))
        running.signal(signal.SIGTERM)
        running.signal(signal.SIGHUP)
        await running.state()
        await in_thread(place.postgres.resume)
        assert await running.ended() == 0
        assert not running.events("stopping at once: what no store has taken yet stays in the journal")
        assert len(await in_thread(place.rows)) == 100


async def test_kill_9_costs_nothing_that_was_accepted(place: Place) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    await with_stream(place)
    async with trio.open_nursery() as nursery:
        async with place.collecting(standin) as running:
            nursery.start_soon(flow.run, 2000)
            await running.until_delivered(1000)
            running.signal(signal.SIGKILL)
            await running.ended()
        first = await in_thread(place.journal)
        async with place.collecting(standin) as running:
            await running.until_delivered(1000)
            running.signal(signal.SIGTERM)
            assert await running.ended() == 0
            accepted = running.events("collector stopped")[-1]["accepted"]
        nursery.cancel_scope.cancel()
    ticks, rows = await in_thread(place.journal), await in_thread(place.rows)
    assert ticks[: len(first)] == first
    assert len(ticks) == len(first) + accepted
    table_agrees(rows, ticks)
    archive_agrees(await in_thread(place.records), ticks, rows)
    messages_agree(await in_stream(place.nats.url), ticks, rows, may_wait=True)


async def test_a_database_that_is_restored_from_a_backup_is_caught_up(place: Place) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    postgres, backup = place.postgres, place.log_path.parent / "backup"
    async with place.collecting(standin) as running:
        flow.send(1000)
        await running.until_delivered(1000)
        await in_thread(postgres.stop)
        await in_thread(lambda: subprocess.run(["cp", "-a", postgres.data, backup], check=True))
        await in_thread(postgres.start)
        flow.send(1000)
        await running.until_delivered(2000)
        await in_thread(postgres.stop)
        await in_thread(lambda: shutil.rmtree(postgres.data))
        await in_thread(lambda: backup.rename(postgres.data))
        await in_thread(postgres.start)
        flow.send(1000)
        state = await running.until_state(
            lambda state: told(state, "timescale")["fell_behind"] and told(state, "timescale")["waiting_ticks"] == 0
        )
        assert state["validator"]["accepted"] == 3000
        await running.until_delivered(3000, "kafka")
        assert not any(sink["lost"] for sink in state["sinks"])
        rows, records = await in_thread(place.rows), await in_thread(place.records)
    ticks = ticks_of(flow.quotes, rows[0]["seq"])
    table_agrees(rows, ticks)
    archive_agrees(records, ticks, rows)


async def test_bad_input_is_kept_with_its_reason_and_costs_nothing_else(place: Place) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin) as running:
        flow.send(140)
        good = Quote("EUR/USD", 1.10020, 1.10010, now_ms(), 48)
        bad = {name: frame for name, frame in bad_frames(good).items() if name != "empty-array"}
        bad["key-in-no-text"] = f'[{{"ev":"status","status":"auth_failed","message":["your key {KEY} is bad"]}}]'
        bad["key-in-unknown-event"] = f'[{{"ev":"error","message":"unknown key {KEY}"}}]'
        bad["key-for-an-event"] = f'[{{"ev":"{KEY}"}}]'
        for frame in bad.values():
            standin.latest.send(frame)
        flow.send(140)
        state = await running.until_delivered(280)
        assert len(standin.connections) == 1
        assert sum(state["rejects"]["counts"]["validate"].values()) == len(bad)
        shown = (await running.get("/rejects")).json()
        assert "<html>502 Bad Gateway</html>" in json.dumps(shown)
        assert "unknown key ***" in json.dumps(shown)
        assert KEY not in json.dumps(shown)
        metrics = (await running.get("/metrics")).text
        assert 'reason="crossed"' in metrics

        def kept() -> list[tuple[str, str]]:
            with psycopg.connect(place.postgres.dsn) as connection:
                return connection.execute("select reason, raw from tick_rejects order by id").fetchall()

        with trio.fail_after(60):
            while len(found := await in_thread(kept)) < len(bad):  # noqa: ASYNC110  # another process writes it
                await trio.sleep(0.1)
        assert ("bad_frame", "<html>502 Bad Gateway</html>") in found
        assert not any(KEY in raw for _, raw in found)


async def test_one_refused_symbol_leaves_the_others_streaming(place: Place) -> None:
    standin = StandIn(key=KEY, script=Script(unauthorized=frozenset({"XAG/USD"})))
    flow = Flow(standin)
    async with place.collecting(standin) as running, trio.open_nursery() as nursery:
        nursery.start_soon(flow.run)
        await running.until_state(lambda state: state["feed"]["silent"] == ["XAGUSD"])
        await running.until_delivered(1000)
        nursery.cancel_scope.cancel()


async def test_no_secret_leaves_the_process(place: Place) -> None:
    standin = StandIn(key=KEY)
    dsn = place.postgres.dsn.replace("postgres@", "postgres:sesame-1@")
    nats = place.nats.url.replace("//", "//joe:sesame-2@")
    flow = Flow(standin)
    env = {"POLYGON_LIVE_TIMESCALE_DSN": dsn, "POLYGON_LIVE_NATS_URLS": nats, "POLYGON_LIVE_LOG_LEVEL": "debug"}
    async with place.collecting(standin, **env) as running:
        flow.send(100)
        await running.until_delivered(100)
        await in_thread(place.postgres.stop)
        await in_thread(place.nats.stop)
        flow.send(100)
        await running.until_state(lambda s: all(x["last_error"] for x in s["sinks"] if x["name"] != "kafka"))
        pages = [(await running.get(p)).text for p in ("/health", "/state", "/symbols", "/rejects", "/metrics")]
        command = await trio.Path(f"/proc/{running.process.pid}/cmdline").read_text()
        for text in (*pages, command, running.said):
            for secret in (KEY, "sesame-1", "sesame-2"):
                assert secret not in text


async def test_missing_settings_end_with_78_and_are_all_named(
    clean_environment: dict[str, str], tmp_path: Path
) -> None:
    async with collector(clean_environment | {"POLYGON_API_KEY": KEY}, tmp_path / "log") as running:
        assert await running.ended() == 78
        for name in ("TIMESCALE_DSN", "NATS_URLS", "KAFKA_BROKERS"):
            assert f"POLYGON_LIVE_{name} is not set" in running.said
        assert KEY not in running.said
        assert "Traceback" not in running.said


async def test_an_address_of_the_database_that_cant_be_read_ends_with_78(place: Place) -> None:
    address = "postgresql://writer:s3same@x@127.0.0.1/ticks"
    async with place.collector("ws://127.0.0.1:1/forex", POLYGON_LIVE_TIMESCALE_DSN=address) as running:
        assert await running.ended() == 78
        assert "POLYGON_LIVE_TIMESCALE_DSN can't be read" in running.said
        assert "s3same" not in running.said
        assert "Traceback" not in running.said


async def test_a_port_that_is_taken_ends_with_78(place: Place) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with place.collector("ws://127.0.0.1:1/forex", POLYGON_LIVE_HTTP_PORT=str(port)) as running:
        assert await running.ended() == 78
        assert f"port {port}" in running.said
    await listeners[0].aclose()


async def test_it_says_up_to_when_the_stores_hold_what_was_accepted(place: Place) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin) as running:
        while flow.sent < MOST_TICKS:
            flow.send(500)
            await running.until_delivered(flow.sent)
        state = await running.until_state(lambda state: state["verification"]["up_to_ms"])
        assert state["verification"]["told"].startswith("verified complete up to ")
        assert [s["compared"] >= MOST_TICKS for s in state["verification"]["stores"]] == [True] * 3
        assert "polygon_live_verification_timestamp_seconds" in (await running.get("/metrics")).text
        await running.until_health(200)


async def test_a_secret_that_a_failure_repeats_is_not_shown(clean_environment: dict[str, str]) -> None:
    nowhere = {"ws_url": "ws://127.0.0.1:1/forex", "nats_url": "nats://127.0.0.1:1", "broker": "127.0.0.1:1"}
    env = environment(clean_environment, dsn="postgresql://me:s3cret-w0rd@127.0.0.1:1/d", **nowhere)
    settings = settings_from(env)
    mine = Collector(settings, await steered(settings))

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError(f"no {KEY} in {settings.timescale_dsn.reveal()}, for 's3cret-w0rd'")

    watcher = Watcher("odd job", fail, random.Random())
    mine._watchers.append(watcher)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mine.run)
        await until(lambda: watcher.snapshot().restarts)
        for pump in mine.pipeline.pumps:
            pump._error = StoreUnavailable(f"it says that {KEY} is wrong")
        state = mine.state()
        nursery.cancel_scope.cancel()
    assert "the odd job task is failing: LookupError: no *** in ***, for '***'" in health(state).reasons
    assert {sink.last_error for sink in state.sinks} == {"it says that *** is wrong"}
