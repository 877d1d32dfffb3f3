"""The stand-in as a client sees it that is not ours, over a real socket; and the feed over a real socket."""

import math
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed

from polygon_live import wire
from polygon_live.dial import closed_error, dial_error, dial_websocket
from polygon_live.errors import ConfigurationError
from polygon_live.model import FOURTEEN_SYMBOLS, canonical_symbol, pair_of
from polygon_live.standin import Connection, Script, StandIn
from polygon_live.standin.faults import ENDINGS
from polygon_live.standin.market import INSTRUMENTS, MORE, random_walk, real_ticks, replay
from polygon_live.websocket import WebSocket
from polygon_live.wire import Quote
from tests.feeding import KEY, World, feeding

NOW_MS = 1_780_401_600_000
GOOD = Quote("EUR/USD", 1.10010, 1.10000, NOW_MS, 48)
PATIENCE_SECONDS = 60


@asynccontextmanager
async def client(standin: StandIn) -> AsyncIterator[tuple[WebSocket, Connection]]:
    with trio.fail_after(PATIENCE_SECONDS):
        async with standin.listening() as url, dial_websocket(url) as ws:
            yield ws, standin.latest


async def statuses(ws: WebSocket) -> list[tuple[str, str]]:
    return [(s.status, s.message) for s in wire.statuses(await ws.get_message())]


async def logged_in(ws: WebSocket) -> None:
    assert await statuses(ws) == [("connected", "Connected Successfully")]
    await ws.send_message(wire.authenticate(KEY))
    assert await statuses(ws) == [("auth_success", "authenticated")]


async def test_subscribing_before_the_login_is_refused() -> None:
    async with client(StandIn(key=KEY)) as (ws, _):
        await ws.get_message()
        await ws.send_message(wire.subscribe(["EUR/USD"]))
        assert (await statuses(ws))[0][0] == "auth_required"


async def test_hyphens_in_slashes_out_and_a_repeat_is_never_answered() -> None:
    standin = StandIn(key=KEY)
    async with client(standin) as (ws, connection):
        await logged_in(ws)
        await ws.send_message('{"action": "subscribe", "params": "C.EUR-USD, X.BTC-USD,C.NO-PAIR"}')
        assert await statuses(ws) == [("success", "subscribed to: C.EUR/USD"), ("success", "subscribed to: C.NO/PAIR")]
        await ws.send_message(wire.subscribe(["EUR/USD"]))
        await ws.send_message(wire.unsubscribe(["EUR/USD"]))
        assert await statuses(ws) == [("success", "unsubscribed to: C.EUR/USD")]
        await ws.send_message('{"action":"subscribe","params":"C.*"}')
        assert await statuses(ws) == [("success", "subscribed to: C.*")]
        standin.send([GOOD])
        assert wire.decode(await ws.get_message()) == [GOOD]
        assert connection.sent == {"EUR/USD": 1}
        await ws.send_message("no json")
        assert await statuses(ws) == [("error", "invalid message")]
        await ws.send_message('{"action":"dance","params":""}')
        assert await statuses(ws) == [("error", "unknown action: dance")]


async def test_only_what_was_subscribed_comes() -> None:
    standin = StandIn(key=KEY)
    async with client(standin) as (ws, _):
        await logged_in(ws)
        await ws.send_message(wire.subscribe(["USD/JPY"]))
        await ws.get_message()
        other = Quote("USD/JPY", 151.21, 151.2, NOW_MS, 48)
        standin.send([GOOD, other, GOOD])
        assert wire.decode(await ws.get_message()) == [other]


async def test_the_error_for_an_unauthorized_topic_comes_first_and_names_nothing() -> None:
    async with client(StandIn(key=KEY, script=Script(unauthorized=frozenset({"XAU/USD"})))) as (ws, _):
        await logged_in(ws)
        await ws.send_message(wire.subscribe(["EUR/USD", "XAU/USD"]))
        assert await statuses(ws) == [("error", "not authorized")]
        assert await statuses(ws) == [("success", "subscribed to: C.EUR/USD")]


async def test_a_reader_too_slow_for_the_buffer_is_told_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polygon_live.standin.connection.LAST_WORDS_SECONDS", PATIENCE_SECONDS)
    standin = StandIn(key=KEY, script=Script(buffer_bytes=100_000))
    async with client(standin) as (ws, connection):
        await logged_in(ws)
        await ws.send_message(wire.subscribe(["EUR/USD"]))
        await ws.get_message()
        while connection._talk.deadline == math.inf:  # nothing is read from here on
            standin.send([GOOD] * 100)
            await trio.lowlevel.checkpoint()
        told: list[wire.Status] = []
        with pytest.raises(ConnectionClosed) as closed:
            await read_to_the_end(ws, told)
        assert [status.status for status in told] == ["slow_consumer"]
        assert closed_error(closed.value, str).reason == "cut"


async def read_to_the_end(ws: WebSocket, told: list[wire.Status]) -> None:
    while True:
        told += wire.statuses(await ws.get_message())


async def test_no_websocket_at_all() -> None:
    async with StandIn(key=KEY, script=Script(http_status=503)).listening() as url:
        async with httpx.AsyncClient(trust_env=False) as web:
            answer = await web.get(
                url.replace("ws:", "http:"),
                headers={
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Version": "13",
                    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                },
            )
        assert answer.status_code == 503


async def test_a_port_that_is_taken_is_a_clear_error() -> None:
    async with StandIn(key=KEY).listening() as url:
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        with pytest.raises(ConfigurationError, match=f"can't listen on 127.0.0.1:{port} .*another one"):
            async with StandIn(key=KEY).listening(port=port):
                pytest.fail("two servers on one port")


@asynccontextmanager
async def feeding_over_a_socket(standin: StandIn) -> AsyncIterator[World]:
    """Real time; the delays are short because the test asks the feed for short ones."""
    with trio.fail_after(PATIENCE_SECONDS):
        async with standin.listening() as url, trio.open_nursery() as nursery:
            world = World(standin, dial_websocket, urls=(url,), reconnect_delay=0.01)
            nursery.start_soon(world.judge)
            nursery.start_soon(world.feed.run)
            yield world
            world.feed.stop()


@pytest.mark.parametrize("name", [n for n in ENDINGS if n not in {"half-open", "max-connections"}])
async def test_every_ending_over_a_socket_leads_to_a_new_connection(name: str) -> None:
    standin = StandIn(key=KEY)
    async with feeding_over_a_socket(standin) as world:
        ENDINGS[name](await standin.subscribed())
        again = await standin.subscribed(2)
        assert again.open
        endings = world.feed.snapshot().endings
        assert sum(endings.values()) == 1
    assert again.goodbye == 1000


async def test_a_refused_websocket_is_a_failed_dial() -> None:
    standin = StandIn(key=KEY, scripts=[Script(http_status=503)])
    async with feeding_over_a_socket(standin) as world:
        await standin.subscribed(2)
        snapshot = world.feed.snapshot()
        assert snapshot.endings == {"dial_failed": 1}
        assert str(snapshot.last_error).endswith("/forex refuses the WebSocket with HTTP status 503")


def test_the_random_walk_quotes_all_fourteen_symbols_plausibly() -> None:
    steps = list(islice(random_walk(25.0, lambda: NOW_MS, random.Random(1)), 20_000))
    quotes = [q for frame, _ in steps for q in frame]
    assert {canonical_symbol(q.p) for q in quotes} == set(FOURTEEN_SYMBOLS)
    assert 20 < len(quotes) / sum(seconds for _, seconds in steps) < 30
    by_pair = {i.symbol: i for i in INSTRUMENTS}
    for q in quotes:
        instrument = by_pair[canonical_symbol(q.p)]
        assert 0 <= q.a - q.b <= instrument.spread * 2
        assert abs(q.b / instrument.price - 1) < 0.05
        assert round(q.b, instrument.decimals) == q.b
        assert q.t == NOW_MS


def test_a_pair_that_is_subscribed_to_is_quoted_plausibly_and_the_fourteen_as_often_as_before() -> None:
    asked_for = frozenset({"EUR/AUD", "CAD/JPY", "XAU/EUR", "USD/HUF", "JPY/USD", "EUR/USD", "NO/PAIR", "EUR/ZZZ"})
    wanted: frozenset[str] = frozenset()
    walk = random_walk(28.0, lambda: NOW_MS, random.Random(1), lambda: wanted)
    assert {q.p for frame, _ in islice(walk, 500) for q in frame} == {pair_of(s) for s in FOURTEEN_SYMBOLS}
    wanted = asked_for
    steps = list(islice(walk, 20_000))
    seconds = sum(seconds for _, seconds in steps)
    counts = Counter(q.p for frame, _ in steps for q in frame)
    assert counts.keys() - {pair_of(s) for s in FOURTEEN_SYMBOLS} == asked_for - {"EUR/USD", "NO/PAIR", "EUR/ZZZ"}
    assert all(1.8 < count / seconds < 2.2 for count in counts.values())
    expected = {
        "EUR/AUD": (1.1213 / 0.6520, 5),
        "CAD/JPY": (151.20 / 1.3980, 3),
        "XAU/EUR": (2650 / 1.1213, 2),
        "USD/HUF": (392.0, 3),
        "JPY/USD": (1 / 151.20, 8),
    }
    for q in (q for frame, _ in steps for q in frame if q.p in expected):
        price, decimals = expected[q.p]
        assert abs(q.b / price - 1) < 0.05
        assert 0 < (q.a - q.b) / price < 30 / 10_000
        assert round(q.b, decimals) == q.b
    wanted = frozenset()
    assert {q.p for frame, _ in islice(walk, 500) for q in frame} == {pair_of(s) for s in FOURTEEN_SYMBOLS}


def test_for_who_asks_for_all_pairs_there_is_more_than_the_fourteen() -> None:
    walk = random_walk(28.0, lambda: NOW_MS, random.Random(1), lambda: frozenset("*"))
    found = {q.p for frame, _ in islice(walk, 2000) for q in frame}
    assert found == {pair_of(s) for s in FOURTEEN_SYMBOLS} | set(MORE)


async def test_it_knows_what_somebody_is_subscribed_to(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        assert world.standin.pairs == {"EUR/USD", "XAU/USD"}
        world.want("EURUSD", "EURAUD")
        await world.until(1)
        assert world.standin.pairs == {"EUR/USD", "EUR/AUD"}
        world.standin.latest.drop()
        await world.until(2)
        assert world.standin.pairs == frozenset()


async def test_all_pairs_that_are_refused_do_not_stream() -> None:
    standin = StandIn(key=KEY, script=Script(unauthorized=frozenset({"*"})))
    async with client(standin) as (ws, connection):
        await logged_in(ws)
        await ws.send_message(wire.subscribe(["*", "USD/JPY"]))
        assert await statuses(ws) == [("error", "not authorized")]
        assert await statuses(ws) == [("success", "subscribed to: C.USD/JPY")]
        standin.send([GOOD])
        assert connection.sent == {}


def test_a_file_is_moved_by_one_constant(real_ticks_file: Path) -> None:
    quotes = real_ticks(real_ticks_file, NOW_MS)
    lines = real_ticks_file.read_text().splitlines()[1:]
    first = int(lines[0].split(",")[0])
    assert max(q.t for q in quotes) == NOW_MS
    assert len(quotes) == len(lines)
    moved = quotes[0].t - first
    for line, quote in zip(lines, quotes, strict=True):
        stamp, pair, bid, ask = line.split(",")
        assert (quote.t - moved, quote.p, quote.b, quote.a) == (int(stamp), pair, float(bid), float(ask))
    frames = list(replay(quotes, 1000.0))
    assert [q for frame, _ in frames for q in frame] == quotes
    assert sum(seconds for _, seconds in frames) == pytest.approx(len(quotes) / 1000)


@pytest.fixture
def real_ticks_file(real_ticks: tuple[Path, ...]) -> Path:
    return real_ticks[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("timestamp_ms,pair,bid,ask\n1,EUR/USD,1.1,1.2\n2,EUR/USD,high,1.2\n", "line 3: ValueError"),
        ("time,price\n1,2\n", "line 2: KeyError"),
        ("timestamp_ms,pair,bid,ask\n", "holds no ticks"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "ticks.csv"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=words):
        real_ticks(path, NOW_MS)
    with pytest.raises(ConfigurationError, match="can't be read"):
        real_ticks(tmp_path / "nowhere.csv", NOW_MS)


async def test_why_nobody_could_be_reached_is_said() -> None:
    async with StandIn(key=KEY).listening() as url:
        pass
    with pytest.raises(OSError, match="attempts") as raised:
        async with dial_websocket(url):
            pytest.fail("nobody listens there any more")
    told = str(dial_error(url, raised.value))
    assert told.startswith(f"{url} can't be reached")
    assert told.endswith("Connection refused")
