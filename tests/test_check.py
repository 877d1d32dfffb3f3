"""``polygon-live check`` against the whole system: all good, then each item made to fail for real."""

import re
import signal
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import permutations

import psycopg
import pytest

from polygon_live.check import examine
from polygon_live.check.arrived import KAFKA, NATS, SYMBOLS, TABLE
from polygon_live.check.kept import RETENTION
from polygon_live.check.login import LOGIN
from polygon_live.check.reload import RELOAD
from polygon_live.check.running import COLLECTOR, CONNECTION, HUB, LIMITS
from polygon_live.commands.check import STORES
from polygon_live.commands.inforce import at_a_start
from polygon_live.config import settings_from
from polygon_live.embedded import Nats
from polygon_live.model import FOURTEEN_SYMBOLS
from polygon_live.operational import ALL_PAIRS
from polygon_live.standin import Script, StandIn
from polygon_live.steering import SERVICE
from tests.checking import QUICK, command, system, well
from tests.collecting import KEY, environment
from tests.place import Place, now_ms
from tests.waiting import in_thread, until

pytestmark = pytest.mark.engine

ALL = [COLLECTOR, TABLE, NATS, KAFKA, SYMBOLS, CONNECTION, RETENTION, LIMITS, HUB, RELOAD]


async def test_all_good(place: Place) -> None:
    async with system(place) as there:
        posts = len(there.hub.history)
        before = await there.running.state()
        done = await there.check()
        assert (done.code, done.status()) == (0, {}), done
        assert list(done.items) == ALL
        assert done.answer["holds"] is True
        facts = {name: item["facts"] for name, item in done.items.items()}
        assert set(facts[TABLE]["last_hour"]) == set(FOURTEEN_SYMBOLS)
        assert facts[NATS]["in_table"] == facts[KAFKA]["in_table"] > 0
        assert facts[NATS]["seen"] >= facts[NATS]["in_table"]
        assert facts[KAFKA]["seen"] >= facts[KAFKA]["in_table"]
        assert re.search(r"\d+ partitions, the oldest row 0\.\d h old; the collector drops: verified", done.out)
        after = await there.running.state()
        fetches = [state["configuration"]["hub"]["fetches"] for state in (before, after)]
        assert fetches[1] == fetches[0] + 2
        assert len(there.hub.history) == posts
        assert after["configuration"]["generation"] == before["configuration"]["generation"]
        assert len(there.standin.connections) == 1

        told = await command(there.env, "check", *QUICK)
        assert told.code == 0, told
        lines = told.out.splitlines()
        assert re.split(" {2,}", lines[0]) == ["ITEM", "STATUS", "EVIDENCE"]
        assert [re.split(" {2,}", line)[:2] for line in lines[1:11]] == [[name, "HOLDS"] for name in ALL]
        assert lines[-1] == "all holds for polygon-live-1"
        assert KEY not in told.out + done.out + done.err + told.err


async def test_nats_stopped(place: Place) -> None:
    async with system(place) as there:
        await in_thread(place.nats.stop)
        done = await there.check()
        assert done.code == 1
        status = done.status()
        assert (status[NATS], status[RELOAD]) == ("fails", "fails")
        assert not {TABLE, KAFKA, SYMBOLS, CONNECTION, RETENTION, LIMITS, HUB} & set(status), done
        assert "can't be reached" in done.items[NATS]["evidence"]
        assert "POLYGON_LIVE_NATS_URLS" in done.items[NATS]["todo"]


async def test_the_wrong_nats_hears_nothing(place: Place, own_nats: Callable[..., Nats]) -> None:
    async with system(place) as there:
        other = await in_thread(own_nats)
        done = await there.check(POLYGON_LIVE_NATS_URLS=other.url)
        assert done.code == 1
        assert done.status() == {NATS: "fails", RELOAD: "fails"}
        assert re.search(r"(\d+) of \1 ticks that the table got did not come", done.items[NATS]["evidence"])
        assert "no fetch followed" in done.items[RELOAD]["evidence"]


async def test_kafka_stopped(place: Place) -> None:
    async with system(place) as there:
        await in_thread(place.broker.stop)
        done = await there.check()
        assert done.code == 1
        assert done.status()[KAFKA] == "fails"
        assert not {TABLE, NATS, SYMBOLS, CONNECTION, RETENTION, LIMITS, HUB, RELOAD} & set(done.status()), done


async def test_the_database_stopped(place: Place) -> None:
    async with system(place) as there:
        await in_thread(place.postgres.stop)
        done = await there.check()
        assert done.code == 1
        status = done.status()
        assert (status[TABLE], status[SYMBOLS], status[RETENTION]) == ("fails", "skipped", "skipped")
        assert not {NATS, KAFKA, CONNECTION, LIMITS, HUB, RELOAD} & set(status), done
        assert "nothing to compare with" in done.items[NATS]["evidence"]


async def test_old_ticks_that_nobody_can_drop(place: Place) -> None:
    async with system(place) as there:
        old = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=100)
        with closing(psycopg.connect(place.postgres.dsn)) as notebook:
            notebook.execute(
                f"create table old_hour partition of market_ticks for values from ('{old}') "
                f"to ('{old + timedelta(hours=1)}')".encode()
            )
            notebook.execute(
                "insert into market_ticks (time, tenant_id, symbol, bid, ask, mid, spread, timestamp_ms, source,"
                " event_type, ingested_at, collector, seq, received_ms)"
                " values (%s, 'system', 'EURUSD', 1, 1, 1, 0, 0, 'old', 'quote', now(), 'another', 1, 0)",
                [old],
            )
            notebook.commit()
            notebook.execute("select count(*) from market_ticks")  # and the transaction stays open: no drop gets by
            done = await there.check()
        assert done.code == 1
        assert done.status()[RETENTION] == "fails"
        assert "its oldest row is of" in done.items[RETENTION]["evidence"]
        assert re.search("10[01] h old, over 74 h", done.items[RETENTION]["evidence"])


async def test_a_symbol_without_ticks(place: Place) -> None:
    async with system(place, symbols=FOURTEEN_SYMBOLS[:-1]) as there:
        done = await there.check()
        assert (done.code, done.status()) == (1, {SYMBOLS: "fails"}), done
        assert done.items[SYMBOLS]["facts"]["missing"] == ["XAGUSD"]
        assert done.items[SYMBOLS]["evidence"].startswith("missing: XAGUSD (none in the last hour, due within ")
        assert "; 13 of 14 had ticks" in done.items[SYMBOLS]["evidence"]


async def test_a_symbol_whose_ticks_were_removed(place: Place) -> None:
    async with system(place, symbols=FOURTEEN_SYMBOLS[:-1]) as there:
        with psycopg.connect(place.postgres.dsn) as connection:
            connection.execute("delete from market_ticks where seq % 2 = 0")
        done = await there.check()
        assert done.status() == {SYMBOLS: "fails"}, done


async def test_a_connection_that_does_not_come_back(place: Place) -> None:
    standin = StandIn(key=KEY)
    async with system(place, standin=standin) as there:
        standin.script = Script(http_status=503)
        standin.latest.reset()
        await there.running.until_state(lambda state: state["feed"]["state"] == "waiting")
        done = await there.check()
        assert done.code == 1
        assert done.status()[CONNECTION] == "fails"
        assert "not streaming" in done.items[CONNECTION]["evidence"]
        assert "HTTP status 503" in done.items[CONNECTION]["evidence"]


async def test_a_refused_symbol_is_a_violation(place: Place) -> None:
    standin = StandIn(script=Script(unauthorized=frozenset({"XAG/USD"})), key=KEY)

    def told(state: object) -> bool:
        assert isinstance(state, dict)
        return bool(state["limits"]["violations"]) and all(sink["delivered"] > 100 for sink in state["sinks"])

    async with system(place, standin=standin, told=told) as there:
        done = await there.check()
        assert done.code == 1
        assert done.status()[LIMITS] == "fails"
        assert "not authorized" in done.items[LIMITS]["evidence"]
        assert done.status()[SYMBOLS] == "fails"


async def test_a_configuration_that_is_refused(place: Place) -> None:
    async with system(place) as there:
        there.hub.post(SERVICE, {"operational": {"symbols": []}}, updated_by="desk")
        done = await there.check()  # it is the announcement of this that brings it to the collector
        assert RELOAD not in done.status()
        done = await there.check()
        assert (done.code, done.status()) == (1, {HUB: "fails"}), done
        assert "what was posted is refused" in done.items[HUB]["evidence"]


async def test_nobody_dials_while_a_collector_lives(place: Place) -> None:
    async with system(place) as there:
        done = await there.check("--dial")
        assert (done.code, done.status()) == (0, {LOGIN: "not applicable"}), done
        assert "a collector runs, and a second login would evict it" in done.items[LOGIN]["evidence"]
        asked = await there.check("--dial", POLYGON_LIVE_HTTP_PORT="1")  # where nobody listens
        assert "a collector has the journal in" in asked.items[LOGIN]["evidence"]
        elsewhere = str(place.log_path.parent / "elsewhere")
        asked = await there.check("--dial", POLYGON_LIVE_HTTP_PORT="1", POLYGON_LIVE_DATA_DIR=elsewhere)
        assert "gave a sign of life" in asked.items[LOGIN]["evidence"]
        assert (asked.code, asked.status()[LOGIN]) == (1, "skipped")
        assert len(there.standin.connections) == 1
        assert well(await there.running.state())


@pytest.mark.parametrize(
    ("script", "key", "code", "says"),
    [
        (Script(), KEY, 1, "logged in at ws://"),
        (Script(), "wr0ng-key", 77, "Polygon refuses the key in POLYGON_API_KEY"),
        (Script(login="no_plan"), KEY, 77, "the key's plan has no WebSocket access"),
        (Script(realtime=False), KEY, 77, "the key's plan has no real-time forex data"),
        (Script(http_status=503), KEY, 1, "refuses the WebSocket with HTTP status 503"),
    ],
)
async def test_dialled_without_a_collector(place: Place, script: Script, key: str, code: int, says: str) -> None:
    standin = StandIn(script=script, key=KEY)
    async with standin.listening() as ws_url:
        env = environment(
            place.base, ws_url=ws_url, dsn=place.postgres.dsn, nats_url=place.nats.url, broker=place.broker.address
        )
        env |= {"POLYGON_LIVE_HTTP_PORT": "1", "POLYGON_API_KEY": key}
        done = await command(env, "check", "--json", "--dial", *QUICK)
        assert done.code == code, done
        assert says in done.items[LOGIN]["evidence"]
        assert (done.items[LOGIN]["status"] == "holds") is (says.startswith("logged in"))
        assert done.answer["refused_by_polygon"] is (code == 77)
        assert key not in done.out + done.err
        assert done.items[COLLECTOR]["status"] == "fails"
        assert done.items[TABLE]["evidence"] == "there is no table market_ticks"
        assert done.items[HUB]["status"] == "not applicable"
        assert {done.items[name]["status"] for name in (CONNECTION, LIMITS, RELOAD, SYMBOLS)} == {"skipped"}
        assert not await in_thread(place.rows)
        await until(lambda: all(not c.open for c in standin.connections))
        assert all(not c.subscribed for c in standin.connections)
    assert not (place.log_path.parent / "data").exists()  # nothing was left behind


async def test_a_collector_that_hangs_or_ends_while_it_is_looked_at(place: Place) -> None:
    async with system(place) as there:
        there.running.signal(signal.SIGSTOP)
        done = await there.check()
        there.running.signal(signal.SIGCONT)
        assert done.code == 1
        assert "is open, but gave no answer within" in done.items[COLLECTOR]["evidence"]
        assert "start it anew if it hangs" in done.items[COLLECTOR]["todo"]
        assert "start the collector" in done.items[RETENTION]["todo"]

        def doing(what: str) -> None:
            if what.startswith("looking on"):
                there.running.process.kill()

        settings = settings_from(there.env, STORES)
        found = await examine(settings, seconds=1, dial=False, now_ms=now_ms, at_a_start=at_a_start, doing=doing)
        item = found.items[0]
        assert (item.name, item.status) == (COLLECTOR, "fails")
        assert "it answered at first, but then: no collector answers at" in item.evidence
        assert item.todo.startswith("start it,")


async def test_all_pairs(place: Place) -> None:
    many = [first + second for first, second in permutations(("EUR", "USD", "JPY", "GBP", "CHF", "SEK", "NOK"), 2)]
    async with system(place, symbols=many, collected=[ALL_PAIRS]) as there:
        await there.running.until_state(lambda state: len(state["validator"]["symbols"]) == len(many))
        done = await there.check()
        assert (done.code, done.status()) == (0, {}), done
        assert (
            done.items[SYMBOLS]["evidence"] == f"all pairs are collected, and {len(many)} had ticks in the last 5 min"
        )
