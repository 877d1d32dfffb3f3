"""The status server over a real socket, with states made by hand."""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from polygon_live.config import HttpServer, Secret
from polygon_live.errors import ConfigurationError, JournalError
from polygon_live.gap import Gap
from polygon_live.journal import Aside
from polygon_live.model import Reject
from polygon_live.page import Board
from polygon_live.room import RoomSnapshot
from polygon_live.status import RejectsSnapshot, State
from polygon_live.web import ABOUT, MOST_ASIDE, MOST_GAPS, listen, serve_status
from tests.test_status import WELL, with_sink


class Shown:
    def __init__(self, state: State = WELL, gaps: Sequence[Gap] = (), aside: Sequence[Aside] = ()) -> None:
        self.state = state
        self.ledger: Sequence[Gap] | None = gaps
        self.aside = aside

    def read(self) -> State:
        return self.state

    async def gaps(self, most: int) -> Sequence[Gap]:
        await trio.lowlevel.checkpoint()
        assert most == MOST_GAPS
        if self.ledger is None:
            raise JournalError("ledger.db can't be read: the disk failed")
        return self.ledger

    async def quarantine(self, most: int) -> Sequence[Aside]:
        await trio.lowlevel.checkpoint()
        assert most == MOST_ASIDE
        if self.ledger is None:
            raise JournalError("ledger.db can't be read: the disk failed")
        return self.aside


@asynccontextmanager
async def served(shown: Shown, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    sock = listen(HttpServer(port=0))
    with sock:
        async with trio.open_nursery() as nursery:
            board = Board(shown.read, shown.gaps)
            settings = HttpServer(token=Secret(token) if token else None)
            nursery.start_soon(serve_status, sock, settings, shown.read, shown, board)
            base = f"http://127.0.0.1:{sock.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=base, timeout=30, trust_env=False) as client:
                yield client
            nursery.cancel_scope.cancel()


async def test_health_answers_with_the_verdict_and_its_reasons() -> None:
    shown = Shown()
    async with served(shown) as client:
        good = await client.get("/health")
        assert good.status_code == 200
        assert good.json()["status"] == "healthy"
        assert good.json()["mode"] == "live"
        assert good.json()["stores"] == {"nats": "good"}
        assert good.json()["configuration"] == {"source": "safe defaults", "generation": 1, "digest": "0123456789ab"}
        shown.state = with_sink(behind_seconds=30.0, connected=False, last_error="refused")
        bad = await client.get("/health")
        assert bad.status_code == 503
        assert bad.json()["status"] == "unhealthy"
        assert "nats is down" in bad.json()["reasons"][0]
        assert bad.json()["stores"] == {"nats": "down, not connected"}
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 200
        shown.state = attrs.evolve(WELL, stopping=True)
        assert (await client.get("/health/ready")).status_code == 503
        assert (await client.get("/health/live")).status_code == 200


async def test_a_simulated_market_is_called_so_wherever_prices_or_verdicts_are_shown() -> None:
    async with served(Shown(attrs.evolve(WELL, simulated=True))) as client:
        for path in ("/", "/health", "/state", "/symbols", "/gaps", "/quarantine"):
            assert (await client.get(path)).json()["mode"] == "SIMULATED"


async def test_every_page_of_the_index_answers_and_nothing_else_does() -> None:
    async with served(Shown()) as client:
        assert set((await client.get("/")).json()["pages"]) == set(ABOUT)
        for path in ABOUT:
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            posted = await client.post(path)
            assert posted.status_code == 405
            assert posted.json() == {"error": "the pages are read-only: they answer GET and HEAD"}
            assert posted.headers["allow"] == "GET, HEAD"
        unknown = await client.get("/gaps/etc")
        assert unknown.status_code == 404
        assert "/health" in unknown.json()["pages"]


async def test_state_symbols_and_rejects_show_the_evidence() -> None:
    told = Reject("validate", "crossed", "bid 2 is above ask 1", '[{"ev":"C"}]', 5, "EURUSD")
    state = attrs.evolve(WELL, rejects=RejectsSnapshot({"validate": {"crossed": 1}}, (told,), 0))
    async with served(Shown(state)) as client:
        full = (await client.get("/state")).json()
        assert full["feed"]["state"] == "streaming"
        assert full["sinks"][0]["state"] == "good"
        assert full["rejects"] == {"counts": {"validate": {"crossed": 1}}, "unkept": 0}
        assert full["health"]["healthy"] is True
        (symbol,) = (await client.get("/symbols")).json()["symbols"]
        assert symbol["last"]["bid"] == 1.1
        assert symbol["market_open"] is True
        rejects = (await client.get("/rejects")).json()
        assert rejects["latest"][0]["raw"] == '[{"ev":"C"}]'


async def test_gaps_show_what_the_ledger_holds_and_what_it_says_if_it_can_not() -> None:
    shown = Shown(
        gaps=[
            Gap(1, "EURUSD", "disconnect", 1_780_401_600_123, None, detail="reset", opened_ms=5, changed=1),
            Gap(2, "USDJPY", "mute", 0, 9, state="filled", filled=7),
            Gap(3, "*", "given_up", 0, 9, store="nats", state="unfillable", ticks=12, first_seq=3, last_seq=14),
        ]
    )
    async with served(shown) as client:
        told = (await client.get("/gaps")).json()
        assert told["mode"] == "live"
        assert told["gaps"][0] == {
            "id": 1,
            "symbol": "EURUSD",
            "cause": "disconnect",
            "store": None,
            "from": "2026-06-02T12:00:00.123Z",
            "to": None,
            "state": "open",
            "ticks": None,
            "filled": 0,
            "missing": None,
            "detail": "reset",
            "from_ms": 1_780_401_600_123,
            "to_ms": None,
            "first_seq": None,
            "last_seq": None,
            "opened_ms": 5,
        }
        assert [(gap["id"], gap["missing"]) for gap in told["gaps"]] == [(1, None), (2, 0), (3, 12)]
        shown.ledger = None
        failed = await client.get("/gaps")
        assert failed.status_code == 503
        assert failed.json() == {"error": "ledger.db can't be read: the disk failed"}


async def test_the_quarantine_shows_what_was_refused_and_how_much_ever_was() -> None:
    shown = Shown(with_sink(set_aside_ever=3), aside=[Aside("nats", 7, "EURUSD", "too large", b'{"seq":7}', 9)])
    async with served(shown) as client:
        told = (await client.get("/quarantine")).json()
        assert (told["mode"], told["ever"]) == ("live", {"nats": 3})
        assert [(aside["sink"], aside["why"], aside["tick"]) for aside in told["ticks"]] == [
            ("nats", "too large", '{"seq":7}')
        ]
        shown.ledger = None
        failed = await client.get("/quarantine")
        assert failed.status_code == 503
        assert failed.json() == {"error": "ledger.db can't be read: the disk failed"}


async def test_metrics_are_prometheus_text_with_the_snapshots_numbers() -> None:
    state = attrs.evolve(
        with_sink(lost=5, set_aside_ever=4, complaints=("a", "b")),
        rejects=RejectsSnapshot({"validate": {"crossed": 3}}, (), 0),
        retention=attrs.evolve(
            WELL.retention, table_bytes=8192, failures=2, last_run_ms=9000, oldest_row_ms=5000, room=RoomSnapshot(7, 60)
        ),
    )
    async with served(Shown(state)) as client:
        answer = await client.get("/metrics")
    samples = {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
    }
    assert samples["polygon_live_symbol_ticks_accepted_total", "EURUSD"] == 10
    assert samples["polygon_live_sink_ticks_lost_total", "nats"] == 5
    assert samples["polygon_live_sink_quarantined_ticks", "nats"] == 4
    assert samples["polygon_live_rejects_total", "crossed", "validate"] == 3
    assert samples["polygon_live_feed_streaming",] == 1
    assert samples["polygon_live_sink_complaints", "nats"] == 2
    assert samples["polygon_live_retention_verified",] == 1
    assert samples["polygon_live_retention_failures_total",] == 2
    assert samples["polygon_live_retention_run_timestamp_seconds",] == 9
    assert samples["polygon_live_table_oldest_row_timestamp_seconds",] == 5
    assert samples["polygon_live_table_bytes",] == 8192
    assert samples["polygon_live_disk_free_bytes", "table"] == 7
    assert samples["polygon_live_disk_until_full_seconds", "table"] == 60
    assert ("polygon_live_disk_free_bytes", "journal") not in samples
    assert all(family.documentation for family in text_string_to_metric_families(answer.text))


async def test_a_token_guards_all_but_health_and_metrics() -> None:
    async with served(Shown(), token="t0ken") as client:
        for path in ABOUT:
            guarded = not path.startswith(("/health", "/metrics"))
            assert (await client.get(path)).status_code == (401 if guarded else 200), path
            allowed = await client.get(path, headers={"Authorization": "Bearer t0ken"})
            assert allowed.status_code == 200
            wrong = await client.get(path, headers={"Authorization": "Bearer t0ke"})
            assert wrong.status_code == (401 if guarded else 200)
            assert "t0ken" not in wrong.text + allowed.text


async def test_a_fault_in_a_page_is_an_error_page_and_the_server_goes_on() -> None:
    shown = Shown()

    def broken() -> State:
        if shown.state is WELL:
            raise ZeroDivisionError
        return shown.state

    sock = listen(HttpServer(port=0))
    with sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_status, sock, HttpServer(), broken, shown, Board(broken, shown.gaps))
            base = f"http://127.0.0.1:{sock.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=base, timeout=30, trust_env=False) as client:
                assert (await client.get("/health")).status_code == 500
                shown.state = with_sink()
                assert (await client.get("/health")).status_code == 200
            nursery.cancel_scope.cancel()


async def test_it_can_be_started_anew_on_the_same_socket() -> None:
    sock = listen(HttpServer(port=0))
    with sock:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                shown = Shown()
                nursery.start_soon(serve_status, sock, HttpServer(), shown.read, shown, Board(shown.read, shown.gaps))
                url = f"http://127.0.0.1:{sock.getsockname()[1]}/health"
                async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
                    assert (await client.get(url)).status_code == 200
                nursery.cancel_scope.cancel()


def test_a_taken_port_is_a_configuration_error_that_says_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127.0.0.1 port {port}: Address already in use.*HTTP_PORT"):
            listen(HttpServer(port=port))


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"no-such-host\.invalid"):
        listen(HttpServer(host="no-such-host.invalid"))
