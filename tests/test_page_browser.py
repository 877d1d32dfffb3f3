"""The page in a real browser, over a state made by hand; then over the whole collector with real servers."""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from polygon_live.config import HttpServer, Secret
from polygon_live.gap import Gap
from polygon_live.histogram import Spread
from polygon_live.model import Reject
from polygon_live.page import Board
from polygon_live.room import RoomSnapshot
from polygon_live.standin import StandIn
from polygon_live.status import RejectsSnapshot, State
from polygon_live.web import listen, serve_status
from tests.browser import Tab, browser
from tests.collecting import KEY, collector
from tests.lively import THOUSAND, Entries, Lively
from tests.place import STORES, Flow, Place
from tests.test_status import CONFIGURATION, NOW, SINK, with_feed, with_sink
from tests.waiting import in_thread, until

ROOT: Final = Path(__file__).parents[1]
MOST_PICTURE_BYTES: Final = 300_000
EVIL: Final = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>"


@asynccontextmanager
async def shown(
    read: Callable[[], State], tmp_path: Path, *gaps: Gap, token: str | None = None
) -> AsyncIterator[tuple[Tab, str]]:
    """A browser, and the address of a server that shows this."""

    async with browser(tmp_path / "browser") as tab:
        with listen(HttpServer(port=0)) as sock:
            ledger = Entries(*gaps)
            board = Board(read, ledger.gaps)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(board.run)
                settings = HttpServer(token=Secret(token) if token else None)
                nursery.start_soon(serve_status, sock, settings, read, ledger, board)
                yield tab, f"http://127.0.0.1:{sock.getsockname()[1]}"
                nursery.cancel_scope.cancel()


def cell(symbol: str, column: int) -> str:
    """JavaScript for what stands in a symbol's row."""
    rows = "[...document.querySelectorAll('.symbols tbody tr')]"
    return f"{rows}.find(r => r.cells[0].innerText === '{symbol}').cells[{column}].innerText"


WATCHED: Final = """
window.seen = {added: 0, text: 0};
new MutationObserver(list => list.forEach(m => {
  if (m.type === 'characterData') seen.text += 1;
  else seen.added += m.addedNodes.length + m.removedNodes.length;
})).observe(document.getElementById('symbols'), {subtree: true, childList: true, characterData: true});
"""


async def test_it_loads_lives_and_changes_in_place(tmp_path: Path) -> None:
    lively = Lively()
    async with shown(lively.read, tmp_path) as (tab, url):
        await tab.open(url)
        await tab.until("document.getElementById('verdict').innerText === 'Healthy'")
        assert await tab.run("document.title") == "Healthy · polygon-live"
        assert await tab.run("document.querySelectorAll('.symbols tbody tr').length") == 14
        bids = "[...document.querySelectorAll('.symbols tbody td:nth-child(2)')].map(c => c.innerText).join()"
        await tab.run(f"{WATCHED} window.bids = {bids}; window.row = document.querySelector('.symbols tbody tr')")
        await tab.until(f"{bids} !== window.bids")
        await tab.until("seen.text > 50")
        assert await tab.run("seen.added") == 0
        assert await tab.run("window.row.isConnected")
        assert await tab.run("document.getElementById('simulated').hidden") is True
        await tab.until("document.querySelector('.spark path').getAttribute('d').includes('L')")
        assert {request.removeprefix(url).partition("?")[0] for request in tab.requests} <= {
            "/",
            "/stream",
            *(f"/page/{file.name}" for file in (ROOT / "polygon_live/page/static").iterdir()),
        }
        assert tab.complaints == []


async def test_a_thousand_symbols_change_in_place_and_can_be_found(tmp_path: Path) -> None:
    lively = Lively(THOUSAND)
    lively.closed = set(THOUSAND[500:520])
    async with shown(lively.read, tmp_path) as (tab, url):
        await tab.look(2560, 1440)
        await tab.open(url)
        await tab.until("document.querySelectorAll('.symbols tbody tr').length === 1000")
        await tab.run(f"{WATCHED}")
        await tab.until("seen.text > 1000")
        assert await tab.run("seen.added") == 0
        rows = "[...document.querySelectorAll('.symbols tbody tr')].filter(r => r.checkVisibility()).length"
        assert await tab.run(rows) == 1000
        await tab.run(
            "[...document.querySelectorAll('#filters button')].find(b => /20 closed/.test(b.innerText)).click()"
        )
        await tab.until(f"{rows} === 20")
        await tab.run("document.querySelector('#filters button').click()")
        find = "const s = document.querySelector('#filters input'); s.value = '{}'; s.dispatchEvent(new Event('input'))"
        await tab.run(f"{{ {find.format('abc')} }}")
        await tab.until(f"{rows} === 1")
        await tab.run(f"{{ {find.format('')} }}")
        await tab.until(f"{rows} === 1000")
        assert tab.complaints == []


async def test_what_is_wrong_is_said_in_words_and_shapes_and_what_others_sent_stays_text(tmp_path: Path) -> None:
    lively = Lively()
    lively.still = {"USDJPY"}
    lively.closed = {"XAUUSD", "XAGUSD"}
    bad = with_feed(silent=("USDJPY",), endings={"closed": 2}, last_error=EVIL, last_error_ms=NOW - 9000)
    lively.base = attrs.evolve(
        bad,
        simulated=True,
        sinks=(
            attrs.evolve(SINK, name="timescale", behind_seconds=3.0),
            attrs.evolve(
                SINK,
                behind_seconds=31.0,
                connected=False,
                last_error=EVIL,
                last_error_ms=NOW,
                complaints=(EVIL,),
                about={"server": "n2:4222", "servers_known": "n1:4222, n2:4222"},
                delay=Spread(bounds=(1.0, 2.0), counts=(9, 1, 0), total=4.0, p50=0.00412, p95=0.5, p99=12.5),
            ),
        ),
        journal=attrs.evolve(bad.journal, room=RoomSnapshot(free_bytes=3_000_000_000, seconds_until_full=None)),
        retention=attrs.evolve(
            bad.retention, table_bytes=41_000_000, room=RoomSnapshot(free_bytes=700_000_000, seconds_until_full=7200.0)
        ),
        rejects=RejectsSnapshot(
            {"validate": {"crossed": 3}}, (Reject("validate", "crossed", EVIL, EVIL, NOW, "EURUSD"),), 0
        ),
        configuration=attrs.evolve(
            CONFIGURATION,
            generation=4,
            unheard=f"no right to listen to {EVIL}",
            hub=attrs.evolve(CONFIGURATION.hub, url="http://hub", source="hub", version="9", updated_by=EVIL),
        ),
    )
    gaps = [
        Gap(1, "EURUSD", "disconnect", NOW - 90_000, NOW - 80_000, state="filled", filled=41, detail=EVIL),
        Gap(2, "USDJPY", "mute", NOW - 90_000, None),
        Gap(3, "*", "given_up", NOW - 90_000, NOW - 9000, store="nats", state="unfillable", ticks=1204),
    ]
    async with shown(lively.read, tmp_path, *gaps) as (tab, url):
        await tab.open(url)
        await tab.until("/^Unhealthy: [34] reasons$/.test(document.getElementById('verdict').innerText)")
        assert await tab.run("document.getElementById('verdict').getAttribute('aria-live')") == "polite"
        assert await tab.run("document.querySelectorAll('[aria-live]').length") == 1
        assert "no ticks for USDJPY in market hours" in await tab.text("#reasons")
        assert await tab.text("#simulated") == "SIMULATED none of these prices is real"
        assert await tab.run(cell("USDJPY", 7)) == "mute"
        assert await tab.run(cell("XAUUSD", 7)) == "closed"
        assert await tab.run(cell("EURUSD", 7)) == "streaming"
        shape = "document.querySelector('tbody[data-store={}] use').getAttribute('href')"
        assert await tab.run(shape.format("timescale")) == "#i-late"
        assert await tab.run(shape.format("nats")) == "#i-down"
        nats = await tab.text("tbody[data-store=nats]")
        for words in ("NATS", "down", "not connected", "n2:4222", "servers known: n1:4222, n2:4222", EVIL):
            assert words in nats
        assert "after 4.1 ms; 95 of 100 within 500 ms, 99 within 12 s" in nats
        disks = await tab.text("#kept")
        assert "3.0 GB free\n" in disks
        assert "41.0 MB" in disks
        assert "700 MB free, full in 2 h at this rate" in disks
        assert "late" in await tab.text("tbody[data-store=timescale]")
        assert "XAGUSD" not in await tab.text("#odd")
        assert "USDJPY mute: no tick in market hours" in await tab.text("#odd")
        await tab.until("document.getElementById('gaps-table').checkVisibility()")
        ledger = await tab.text("#gaps-table")
        for words in ("given up (NATS)", "1,204 missing", "lasts", "10 s", EVIL):
            assert words in ledger
        assert EVIL in await tab.text("#rejects-latest code")
        assert "crossed 3" in await tab.text("#rejects-told")
        assert EVIL in await tab.text("#feed")
        configuration = await tab.text("#configured")
        assert "4, since" in configuration
        assert f"hub, 9, by {EVIL}" in configuration
        assert f"Announcements\nno right to listen to {EVIL}" in configuration
        assert await tab.run("document.querySelectorAll('script').length") == 1
        assert await tab.run("document.querySelectorAll('img').length") == 0
        with pytest.raises(AssertionError, match="TrustedHTML"):
            await tab.run("document.body.innerHTML = '<b>no</b>'")


SCREENS: Final = {
    "small phone": (360, 640),
    "phone": (390, 844),
    "tablet": (820, 1180),
    "desk": (1440, 900),
    "wall": (3840, 2160),
}


@pytest.mark.parametrize("symbols", [1, 14, 1000])
async def test_nothing_hangs_over_the_edge_on_any_screen(symbols: int, tmp_path: Path) -> None:
    lively = Lively(THOUSAND[:symbols]) if symbols != 14 else Lively()
    lively.base = with_sink(behind_seconds=31.0, last_error="x" * 300, last_error_ms=NOW, waiting_ticks=1_234_567)
    gaps = [Gap(1, "EURUSD", "disconnect", 0, 1, detail="y" * 300)]
    async with shown(lively.read, tmp_path, *gaps) as (tab, url):
        await tab.open(url)
        for name, (width, height) in SCREENS.items():
            await tab.look(width, height, mobile=width < 500)
            await tab.until("document.querySelectorAll('.symbols tbody tr').length > 0")
            over = """[...document.querySelectorAll('#page *')].filter(node =>
                node.checkVisibility() && !node.closest('.scroll') && !node.closest('.unseen')
                && node.getBoundingClientRect().right > WIDTH + 0.5).map(node => node.outerHTML.slice(0, 200))"""
            assert await tab.run(over.replace("WIDTH", str(width))) == [], name
            touching = """[...document.querySelectorAll('.symbols tr')].slice(0, 60).flatMap(row => {
                const cells = [...row.cells].filter(cell => cell.checkVisibility() && !cell.matches('.trend'));
                const boxes = cells.map(cell => {
                    const range = document.createRange();
                    range.selectNodeContents(cell);
                    return range.getBoundingClientRect();
                });
                return cells.slice(1).filter((_, n) => boxes[n].right > boxes[n + 1].left).map(cell => row.innerText);
            })"""
            assert await tab.run(touching) == [], name


async def test_a_symbol_that_is_added_appears_and_one_that_goes_goes(tmp_path: Path) -> None:
    states = [Lively(("EURUSD", "USDJPY"), share=1), Lively(("USDJPY", "GBPUSD"), share=1)]
    async with shown(lambda: states[0].read(), tmp_path) as (tab, url):  # noqa: PLW0108
        await tab.open(url)
        names = "[...document.querySelectorAll('.symbols tbody th')].map(n => n.innerText).join()"
        await tab.until(f"{names} === 'EURUSD,USDJPY'")
        del states[0]
        await tab.until(f"{names} === 'USDJPY,GBPUSD'")
        assert tab.complaints == []


async def test_with_a_token_it_asks_and_keeps_it_for_this_tab_only(tmp_path: Path) -> None:
    async with shown(Lively().read, tmp_path, token="t0ken") as (tab, url):
        await tab.open(url)
        await tab.until("document.getElementById('login').checkVisibility()")
        assert tab.complaints == []
        give = """document.getElementById('token').value = '{}'; document.querySelector('#login button').click()"""
        await tab.run(give.format("wrong"))
        await tab.until("document.getElementById('login-told').innerText === 'That is not its token.'")
        assert len(tab.complaints) == 1  # the browser's own word of the 401
        await tab.run(give.format("t0ken"))
        await tab.until("document.getElementById('verdict').innerText === 'Healthy'")
        assert await tab.run("document.getElementById('login').checkVisibility()") is False
        await tab.open(url)
        await tab.until("document.getElementById('verdict').innerText === 'Healthy'")
        assert not any("t0ken" in request for request in tab.requests)
        assert await tab.run("localStorage.length + document.cookie.length") == 0
        assert len(tab.complaints) == 1


async def test_who_has_no_contact_is_told_that_all_of_it_is_old(tmp_path: Path) -> None:
    lively = Lively()

    async with browser(tmp_path / "browser") as tab:
        with listen(HttpServer(port=0)) as sock:
            board = Board(lively.read, Entries().gaps)
            for again in range(2):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(board.run)
                    nursery.start_soon(serve_status, sock, HttpServer(), lively.read, Entries(), board)
                    if not again:
                        await tab.open(f"http://127.0.0.1:{sock.getsockname()[1]}")
                    await tab.until("document.getElementById('verdict').innerText === 'Healthy'")
                    assert await tab.run("document.body.classList.contains('lost')") is False
                    nursery.cancel_scope.cancel()
                if not again:
                    await tab.until("/be reached/.test(document.getElementById('reasons').innerText)")
                    assert "No contact with the collector since" in await tab.text("#verdict")
                    assert "It can't be reached. What is below is old" in await tab.text("#reasons")
                    assert await tab.run("document.getElementById('guarantee').checkVisibility()") is False
                    assert await tab.run("document.title") == "No contact · polygon-live"


async def test_a_stream_that_just_falls_silent_is_noticed(tmp_path: Path) -> None:
    lively = Lively()
    async with browser(tmp_path / "browser") as tab:
        with listen(HttpServer(port=0)) as sock:
            board = Board(lively.read, Entries().gaps)
            async with trio.open_nursery() as nursery:
                editions = trio.CancelScope()

                async def publish() -> None:
                    with editions:
                        await board.run()

                nursery.start_soon(publish)
                nursery.start_soon(serve_status, sock, HttpServer(), lively.read, Entries(), board)
                await tab.open(f"http://127.0.0.1:{sock.getsockname()[1]}")
                await tab.until("document.getElementById('verdict').innerText === 'Healthy'")
                editions.cancel()
                await tab.until(
                    "/It has sent nothing for five seconds/.test(document.getElementById('reasons').innerText)"
                )
                nursery.cancel_scope.cancel()


async def test_an_event_that_takes_its_time_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send_all = trio.SocketStream.send_all

    async def slowly(stream: trio.SocketStream, data: bytes) -> None:
        if b"event: full\n" in data:
            for n in range(60):  # six seconds
                await send_all(stream, data[n : n + 1])
                await trio.sleep(0.1)
            data = data[60:]
        await send_all(stream, data)

    monkeypatch.setattr(trio.SocketStream, "send_all", slowly)
    async with shown(Lively().read, tmp_path) as (tab, url):
        await tab.open(url)
        await tab.until("document.getElementById('verdict').innerText === 'Healthy'")


async def test_without_javascript_there_are_tables(tmp_path: Path) -> None:
    async with shown(Lively().read, tmp_path) as (tab, url):
        await tab.ask("Emulation.setScriptExecutionDisabled", value=True)
        await tab.open(url)
        tree = await tab.ask("Accessibility.getFullAXTree")
        names = [node.get("name", {}).get("value") for node in tree["nodes"] if not node.get("ignored")]
        assert "Healthy" in names
        assert "USDCHF" in names
        assert tab.complaints == []


def roles(tree: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree["nodes"]
        if not node.get("ignored") and "role" in node
    ]


async def test_a_screen_reader_finds_headings_tables_and_their_heads(tmp_path: Path) -> None:
    async with shown(Lively().read, tmp_path) as (tab, url):
        for width in (390, 1440):
            await tab.look(width, 900, mobile=width < 500)
            await tab.open(url)
            await tab.until("document.getElementById('verdict').innerText === 'Healthy'")
            found = roles(await tab.ask("Accessibility.getFullAXTree"))
            assert ("heading", "Healthy") in found
            for heading in ("Symbols", "Stores", "Connection to Polygon", "Gaps", "Rejects", "Configuration"):
                assert ("heading", heading) in found
                assert ("region", heading) in found
            assert ("table", "Symbols EURUSD to XAGUSD") in found
            assert ("rowheader", "XAUUSD") in found
            for head in ("Symbol", "Bid", "Ask", "Spread", "Age", "State"):
                assert ("columnheader", head) in found


@pytest.mark.engine
async def test_a_store_that_is_killed_turns_late_then_down_and_good_again(place: Place, tmp_path: Path) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with (
        browser(tmp_path / "browser") as tab,
        place.collecting(standin) as running,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(flow.run)
        await running.until_delivered(500)
        address = running.events("collector started")[0]["status"]
        await tab.open(address)
        for name in STORES:
            await tab.until(f"document.querySelector('tbody[data-store={name}] .sign')?.innerText === 'good'")
        bid = cell("EURUSD", 1)
        await tab.run(f"window.bid = {bid}")
        await tab.until(f"{bid} !== window.bid")
        await in_thread(place.nats.kill)
        sign = "document.querySelector('tbody[data-store=nats] .sign')?.innerText"
        await tab.until(f"{sign} === 'late'")
        await tab.until(f"{sign} === 'down'")
        await tab.until("document.getElementById('verdict').innerText.startsWith('Unhealthy')")
        assert "nats is down" in await tab.text("#reasons")
        assert "not connected" in await tab.text("tbody[data-store=nats]")
        for other in ("timescale", "kafka"):
            assert await tab.text(f"tbody[data-store={other}] .sign") == "good"
        await in_thread(place.nats.start)
        await tab.until(f"{sign} === 'good'")
        await tab.until("document.getElementById('verdict').innerText === 'Healthy'")
        assert "connected" in await tab.text("#history")
        assert tab.complaints == []
        nursery.cancel_scope.cancel()


@pytest.mark.engine
async def test_the_picture_for_the_readme(clean_environment: dict[str, str], tmp_path: Path) -> None:
    """`PICTURE=ops/page.png` keeps it, and waits until there are two minutes to be seen."""
    env = {
        **clean_environment,
        "POLYGON_LIVE_DATA_DIR": str(tmp_path / "data"),
        "POLYGON_LIVE_HTTP_PORT": "0",
        "POLYGON_LIVE_LOG_FORMAT": "json",
    }
    wanted = os.environ.get("PICTURE")
    async with (
        browser(tmp_path / "browser") as tab,
        collector(env, tmp_path / "log", "demo", "--ticks-per-second", "40") as running,
    ):
        await until(lambda: running.events("collector started") or running.process.poll() is not None)
        await tab.look(1360, 850)
        await tab.open(running.events("collector started")[0]["status"])
        await tab.until("document.getElementById('verdict').innerText === 'Healthy'")
        await tab.until("/14 streaming/.test(document.getElementById('filters').innerText)")
        if wanted:
            await tab.until("document.querySelector('.spark path').getAttribute('d').startsWith('M0 ')")
        assert "SIMULATED" in await tab.text("#simulated")
        picture = ROOT / wanted if wanted else tmp_path / "page.png"
        await tab.picture(picture)
        assert picture.stat().st_size < MOST_PICTURE_BYTES
        assert tab.complaints == []
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
