"""What the page is told: rows, rates, trends, history; who follows, and how it is served."""

import json
import socket
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from polygon_live.config import HttpServer, Secret
from polygon_live.errors import JournalError
from polygon_live.gap import Gap
from polygon_live.model import Reject
from polygon_live.page import FILES, MOST_FOLLOWERS, Board, board
from polygon_live.page.board import Follower
from polygon_live.page.memory import History, Pace, Trends
from polygon_live.page.symbols import pip, rows
from polygon_live.status import RejectsSnapshot, Stage, State
from polygon_live.web import listen, serve_status, server
from tests.lively import THOUSAND, Entries, Lively
from tests.test_status import FEED, NOW, STARTED, TICK, VALIDATOR, WELL, closed, with_feed, with_sink

ROOT = Path(__file__).parents[1]
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def heard(message: bytes) -> tuple[str, Any]:
    name, data, *rest = message.decode().split("\n")
    assert rest == ["", ""]
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def with_symbol(**changes: Any) -> State:
    symbol = attrs.evolve(VALIDATOR.symbols[0], **changes)
    return attrs.evolve(WELL, validator=attrs.evolve(VALIDATOR, symbols=(symbol,)))


def ticked(seconds_ago: float) -> State:
    fields = {name: getattr(TICK, name) for name in TICK.__struct_fields__}
    return with_symbol(last=type(TICK)(**fields | {"received_ms": NOW - round(seconds_ago * 1000)}))


def staged(stage: Stage, seconds_ago: float) -> State:
    state = ticked(seconds_ago)
    symbol = attrs.evolve(state.validator.symbols[0], usual_seconds=9.0, expected_seconds=27.0)
    validator = attrs.evolve(state.validator, symbols=(symbol,))
    return attrs.evolve(state, validator=validator, feed=attrs.evolve(FEED, stages={"EURUSD": stage}))


FILLING = attrs.evolve(WELL, filler=attrs.evolve(WELL.filler, gap=Gap(1, "EURUSD", "disconnect", 0, 1)))
FILLING_ALL = attrs.evolve(WELL, filler=attrs.evolve(WELL.filler, gap=Gap(1, "*", "unjournaled", 0, 1)))
FILLING_ANOTHER = attrs.evolve(WELL, filler=attrs.evolve(WELL.filler, gap=Gap(1, "USDJPY", "disconnect", 0, 1)))


@pytest.mark.parametrize(
    ("state", "word", "why"),
    [
        (WELL, "streaming", ""),
        (ticked(31), "streaming", ""),
        (staged("quiet", 31), "quiet", "silent for 31 s, lately never for more than 9 s"),
        (staged("resubscribed", 99), "quiet", "silent for 99 s, lately never for more than 9 s; subscribed anew"),
        (staged("reconnected", 601), "mute", "silent for 10 min, lately never for more than 9 s; the connection was"),
        (with_symbol(last=None), "quiet", "no tick yet"),
        (with_feed(acknowledged=("*",)), "streaming", ""),
        (attrs.evolve(ticked(301), feed=attrs.evolve(FEED, acknowledged=("*",))), "quiet", "silent for 5 min"),
        (with_feed(hush="odd"), "quiet", "nothing comes of any symbol"),
        (with_feed(hush="odd", state="waiting"), "mute", "not connected: waiting"),
        (with_feed(hush="quiet", state="waiting"), "quiet", "nothing comes of any symbol: a holiday?"),
        (with_feed(hush="alarm"), "mute", "Polygon says that the market is open"),
        (closed(WELL), "closed", ""),
        (closed(with_feed(state="waiting")), "closed", ""),
        (with_symbol(refused_in_a_row=20), "rejected", "its last 20 events were all rejected"),
        (with_symbol(refused_in_a_row=19), "streaming", ""),
        (with_feed(silent=("EURUSD",)), "mute", "after resubscribing and reconnecting"),
        (with_feed(added_silent=("EURUSD",)), "mute", "it was added and has not ticked"),
        (with_feed(state="waiting"), "mute", "not connected: waiting"),
        (with_feed(state="off"), "streaming", ""),
        (FILLING, "backfilling", "is being fetched"),
        (FILLING_ALL, "backfilling", "is being fetched"),
        (FILLING_ANOTHER, "streaming", ""),
    ],
)
def test_a_symbol_is_in_one_state_with_its_reason(state: State, word: str, why: str) -> None:
    ((symbol, row),) = rows(state, Pace(1))
    assert symbol == "EURUSD"
    assert row.state == word
    assert why in row.why
    assert bool(row.why) == bool(why)


@pytest.mark.parametrize(
    ("symbol", "size"), [("EURUSD", 0.0001), ("USDJPY", 0.01), ("XAUUSD", 0.1), ("XAGUSD", 0.01), ("XPTUSD", 0.1)]
)
def test_a_pip_is_what_the_instrument_has(symbol: str, size: float) -> None:
    assert pip(symbol) == pytest.approx(size)


def test_the_spread_is_in_pips() -> None:
    ((_, row),) = rows(WELL, Pace(1))
    assert (row.bid, row.ask, row.spread) == (1.1, 1.2, 1000.0)


def test_a_pace_is_over_its_looks_and_survives_counters_that_begin_anew() -> None:
    pace = Pace(3)
    assert pace.per_second("a") == 0
    for second, count in enumerate([10, 20, 30, 40, 50]):
        pace.note(second * 1000, {"a": count})
    assert pace.per_second("a") == 10
    assert pace.per_second("unknown") == 0
    pace.note(5000, {"a": 6, "new": 3})
    assert pace.per_second("a") == 2
    assert pace.per_second("new") == 1
    pace.note(4000, {"a": 7})
    assert Pace(1).per_second("a") == 0


def test_a_clock_that_is_set_back_makes_no_rate() -> None:
    pace = Pace(3)
    pace.note(5000, {"a": 1})
    pace.note(4000, {"a": 9})
    assert pace.per_second("a") == 0


def test_trends_keep_so_many_points_and_forget_who_is_gone() -> None:
    trends = Trends(2)
    trends.note({"a": 1.0, "b": None})
    trends.note({"a": 2.0, "b": 5.0})
    trends.note({"a": 3.0})
    assert {symbol: list(points) for symbol, points in trends.of.items()} == {"a": [2.0, 3.0]}


def test_the_history_tells_what_happened_between_two_looks_and_folds_what_repeats() -> None:
    history = History()
    history.note(attrs.evolve(FEED, connections=0, connected_since_ms=None), NOW)
    assert not history.events
    history.note(FEED, NOW)
    failing = attrs.evolve(FEED, endings={"dial": 2}, last_error="refused", last_error_ms=NOW + 7)
    history.note(failing, NOW)
    history.note(attrs.evolve(failing, endings={"dial": 3}, last_error_ms=NOW + 9), NOW)
    history.note(attrs.evolve(failing, endings={"dial": 3}, connections=2, connected_since_ms=NOW + 20), NOW)
    assert [(e.what, e.why, e.first_ms, e.last_ms, e.times) for e in history.events] == [
        ("connected", "to wss://example/forex", NOW + 20, NOW + 20, 1),
        ("ended", "refused", NOW + 7, NOW + 9, 3),
        ("connected", "to wss://example/forex", STARTED, STARTED, 1),
    ]


async def test_who_comes_gets_everything_and_then_what_has_changed(autojump_clock: trio.testing.MockClock) -> None:
    lively = Lively()
    lively.still = {"XAGUSD"}
    told = Board(lively.read, Entries().gaps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.run)
        await trio.sleep(10.5)
        async with Follower(told) as follower:
            name, full = heard(await anext(follower))
            assert name == "full"
            assert len(full["symbols"]) == 14
            assert len(full["trends"]["EURUSD"]) == 4
            assert full["collector"]["simulated"] is False
            before = trio.current_time()
            name, change = heard(await anext(follower))
            assert trio.current_time() - before <= 1
            assert name == "change"
            assert change["at_ms"] == full["at_ms"] + 1000
            assert 0 < len(change["symbols"]) < 14
            assert "XAGUSD" not in change["symbols"]
            assert not {"collector", "feed", "configuration", "rejects"} & set(change)
        nursery.cancel_scope.cancel()


async def test_who_is_slow_skips_and_gets_everything_anew(autojump_clock: trio.testing.MockClock) -> None:
    told = Board(Lively().read, Entries().gaps)
    async with trio.open_nursery() as nursery, Follower(told) as slow, Follower(told) as quick:
        nursery.start_soon(told.run)
        assert heard(await anext(slow))[0] == heard(await anext(quick))[0] == "full"
        for _ in range(5):
            assert heard(await anext(quick))[0] == "change"
        name, full = heard(await anext(slow))
        assert name == "full"
        assert full["at_ms"] == NOW + 6000
        assert (await anext(slow)) is (await anext(quick))
        nursery.cancel_scope.cancel()


async def test_symbols_that_are_added_and_removed_are_told(autojump_clock: trio.testing.MockClock) -> None:
    shown = [Lively(("EURUSD", "USDJPY"), share=1), Lively(("USDJPY", "GBPUSD"), share=1)]

    def read() -> State:
        return shown[0].read()

    told = Board(read, Entries().gaps)
    async with trio.open_nursery() as nursery, Follower(told) as follower:
        nursery.start_soon(told.run)
        await anext(follower)
        del shown[0]
        _, change = heard(await anext(follower))
        assert change["gone"] == ["EURUSD"]
        assert set(change["symbols"]) == {"USDJPY", "GBPUSD"}
        nursery.cancel_scope.cancel()


async def test_the_ledger_is_read_only_while_somebody_looks(autojump_clock: trio.testing.MockClock) -> None:
    reads: list[float] = []

    async def gaps(most: int) -> Sequence[Gap]:
        await trio.sleep(30)  # a journal that is busy holds up nobody
        reads.append(trio.current_time())
        if len(reads) == 1:
            raise JournalError("ledger.db can't be read")
        return [Gap(1, "EURUSD", "disconnect", 0, 9, state="filled")]

    told = Board(Lively().read, gaps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.run)
        await trio.sleep(100)
        assert not reads
        async with Follower(told) as follower:
            shown: list[Any] = []
            async for message in follower:
                _, body = heard(message)
                if "gaps" in body:
                    shown.append((body["gaps"]["entries"], body["gaps"]["unreadable"]))
                if shown[-1][0]:
                    break
            assert trio.current_time() < 190
        nursery.cancel_scope.cancel()
    assert shown[:2] == [(None, None), (None, "ledger.db can't be read")]
    assert shown[2][0][0]["symbol"] == "EURUSD"


@asynccontextmanager
async def served(
    lively: Lively, token: str | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, Board, tuple[str, int]]]:
    with listen(HttpServer(port=0)) as sock:
        told = Board(lively.read, Entries().gaps)
        address = sock.getsockname()
        base = f"http://127.0.0.1:{address[1]}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told.run)
            settings = HttpServer(token=Secret(token) if token else None)
            nursery.start_soon(serve_status, sock, settings, lively.read, Entries(), told)
            async with httpx.AsyncClient(base_url=base, timeout=30, trust_env=False) as client:
                yield client, told, address
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def streaming(address: tuple[str, int], header: str = "") -> AsyncIterator[trio.SocketStream]:
    """Asked for and not read yet, with as little room as can be had."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(address)
    async with trio.SocketStream(sock) as stream:
        await stream.send_all(f"GET /stream HTTP/1.1\r\nHost: test\r\n{header}\r\n".encode())
        yield stream


async def until_told(stream: trio.SocketStream, words: bytes) -> bytes:
    told = b""
    with trio.fail_after(60):
        while words not in told:
            told += await stream.receive_some()
    return told


async def test_a_browser_gets_the_page_and_everybody_else_the_list() -> None:
    async with served(Lively()) as (client, _, _):
        page = await client.get("/", headers=HTML)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert {part.split()[-1] for part in policy.split("; ")} <= {"'none'", "'self'", "'script'"}
        for accept in ("*/*", "application/json", ""):
            listed = await client.get("/", headers={"Accept": accept})
            assert listed.json()["service"] == "polygon-live"
            assert listed.headers["vary"] == "Accept"
        for name in FILES:
            assert f"/page/{name}" in page.text + "".join(f"./{n}" for n in FILES) + _imported()
            file = await client.get(f"/page/{name}")
            assert file.status_code == 200
            assert file.content == FILES[name].content
        assert (await client.get("/page/page.html")).status_code == 404
        assert (await client.get("/page/..%2fweb.py")).status_code == 404
        assert "http://" not in page.text
        assert "https://" not in page.text


def _imported() -> str:
    scripts = b"\n".join(file.content for name, file in FILES.items() if name.endswith(".js")).decode()
    return scripts.replace('from "./', 'from "/page/')


async def test_without_javascript_the_page_says_the_same_in_plain_tables() -> None:
    lively = Lively()
    lively.base = attrs.evolve(
        with_sink(last_error="<script>alert(1)</script>", behind_seconds=30.0, connected=False), simulated=True
    )
    async with served(lively) as (client, _, _):
        html = (await client.get("/", headers=HTML)).text
    plain = html.partition("<body>\n<noscript>")[2].partition("</noscript>")[0]
    assert "SIMULATED" in plain
    assert "<h1>Unhealthy</h1>" in plain
    assert "nats is down: 30 s behind" in plain
    assert "<td>USDCHF</td>" in plain
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in plain
    assert "<script>" not in plain


async def test_with_a_token_the_page_is_open_and_holds_nothing_and_the_stream_asks_for_it() -> None:
    async with served(Lively(), token="t0ken") as (client, _, address):
        page = await client.get("/", headers=HTML)
        assert page.status_code == 200
        assert 'data-token="asked"' in page.text
        assert "EURUSD" not in page.text
        assert (await client.get("/page/main.js")).status_code == 200
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/stream")).status_code == 401
        assert (await client.get("/state", headers=HTML)).status_code == 401
        async with streaming(address, "Authorization: Bearer t0ken\r\n") as stream:
            told = await until_told(stream, b"event: change\n")
            assert told.startswith(b"HTTP/1.1 200 ")
            assert b"content-type: text/event-stream\r\n" in told
            assert b"cache-control: no-store\r\n" in told
            assert told.count(b"event: full\n") == 1


async def test_there_is_a_bound_to_how_many_look_and_who_leaves_is_forgotten() -> None:
    async with served(Lively()) as (client, told, address):
        assert (await client.head("/stream")).status_code == 200
        told.followers += MOST_FOLLOWERS
        full = await client.get("/stream")
        assert full.status_code == 503
        assert f"{MOST_FOLLOWERS} pages are open already" in full.json()["error"]
        told.followers -= MOST_FOLLOWERS
        async with streaming(address) as stream:
            await until_told(stream, b"event: full\n")
            assert told.followers == 1
        with trio.fail_after(60):
            while told.followers:
                await told.published.wait()


async def test_who_takes_nothing_costs_the_others_nothing_and_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(server, "EVENT_SECONDS", 1)
    async with (
        served(Lively(THOUSAND, share=1)) as (_, told, address),
        streaming(address),
        streaming(address) as reading,
    ):
        while told.followers < 2:
            await told.published.wait()
        with trio.fail_after(200):
            while told.followers > 1:
                assert await reading.receive_some()


async def test_a_stop_does_not_wait_for_who_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(server, "EVENT_SECONDS", 1)
    with trio.fail_after(200):
        async with AsyncExitStack() as left_open, served(Lively(THOUSAND, share=1)) as (_, told, address):
            await left_open.enter_async_context(streaming(address))
            while not told.followers:
                await told.published.wait()
            for _ in range(50):
                await told.published.wait()


def test_what_is_refused_is_shown_with_its_evidence_cut_short() -> None:
    reject = Reject("validate", "crossed", "bid 2 is above ask 1", "x" * 2000, 5, "EURUSD")
    state = attrs.evolve(WELL, rejects=RejectsSnapshot({"validate": {"crossed": 1}}, (reject,) * 30, 0))
    told = Board(lambda: state, Entries().gaps)
    told._publish(state)
    assert told.edition is not None
    _, body = heard(told.edition.full)
    assert len(body["rejects"]["latest"]) == 10
    assert body["rejects"]["latest"][0]["raw"] == "x" * 400 + " …"


def test_the_page_is_in_the_wheel(tmp_path: Path) -> None:
    wheel = subprocess.run(
        [sys.executable, "-c", f"import flit_core.buildapi as b; print(b.build_wheel({str(tmp_path)!r}))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with zipfile.ZipFile(tmp_path / wheel) as archive:
        packed = set(archive.namelist())
    static = ROOT / "polygon_live" / "page" / "static"
    assert {f"polygon_live/page/static/{file.name}" for file in static.iterdir()} <= packed
