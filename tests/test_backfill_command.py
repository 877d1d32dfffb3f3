"""Gaps filled by the whole collector, and by hand, on real servers."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from polygon_live.commands import cli
from polygon_live.gap import Gap
from polygon_live.journal import Ledger
from polygon_live.journal.lock import Lock
from polygon_live.model import canonical_symbol
from polygon_live.standin import RestStandIn, StandIn
from polygon_live.standin.rest import FAULTS
from polygon_live.wire import Quote
from tests.collecting import KEY, Running, collector, environment
from tests.place import Place, now_ms
from tests.waiting import PATIENCE_SECONDS, in_thread, until

pytestmark = pytest.mark.engine


def journal_in(place: Place) -> Path:
    return Path(place.base["HOME"]) / "data" / "journal" / "polygon-live-1"


def entries(place: Place) -> list[Gap]:
    ledger = Ledger.open_existing(journal_in(place))
    try:
        return ledger.gaps()
    finally:
        ledger.close()


def by_second(found: Sequence[dict[str, Any]]) -> Counter[tuple[str, int, float, float]]:
    return Counter((r["symbol"], r["timestamp_ms"] // 1000, r["bid"], r["ask"]) for r in found)


def quoted(quotes: Sequence[Quote]) -> Counter[tuple[str, int, float, float]]:
    return Counter((canonical_symbol(q.p), q.t // 1000, q.b, q.a) for q in quotes)


def settings(place: Place, ws_url: str, rest_url: str) -> dict[str, str]:
    stores = {"dsn": place.postgres.dsn, "nats_url": place.nats.url, "broker": place.broker.address}
    return environment(place.base, ws_url=ws_url, **stores) | {"POLYGON_LIVE_REST_URL": rest_url}


def backfill(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "polygon_live", "backfill", *arguments]


async def done(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(PATIENCE_SECONDS):
        return await trio.run_process(
            backfill(*arguments), env=env, capture_stdout=True, capture_stderr=True, check=False
        )


class World:
    """A stand-in with a past, and no collector yet."""

    def __init__(self, place: Place, ws_url: str, rest_url: str, rest: RestStandIn) -> None:
        self.place = place
        self.rest = rest
        self.env = settings(place, ws_url, rest_url)
        self.began = (now_ms() - 600_000) // 1000 * 1000
        self.quotes = [
            Quote("EUR/USD", round(1.1001 + n / 1e6, 6), round(1.1 + n / 1e6, 6), self.began + 100 * n, 48)
            for n in range(3000)
        ]
        self.span = ("--symbol", "EUR/USD", "--from", str(self.began), "--to", str(self.began + 299_999))

    def running(self) -> Any:
        return collector(self.env, self.place.log_path)

    async def filled(self) -> None:
        rows = await in_thread(self.place.rows)
        assert by_second(rows) == quoted(self.quotes)
        assert {row["event_type"] for row in rows} == {"quote_backfill"}


@pytest.fixture
async def world(place: Place) -> Any:
    standin = StandIn(key=KEY)
    rest = RestStandIn(standin.history, key=KEY, largest_page=1000)
    async with AsyncExitStack() as open_:
        ws_url = await open_.enter_async_context(standin.listening())
        made = World(place, ws_url, await open_.enter_async_context(rest.listening()), rest)
        standin.send(made.quotes)
        yield made


async def drained(running: Running) -> None:
    await running.until_state(lambda state: all(s["connected"] and not s["waiting_ticks"] for s in state["sinks"]))


async def started(running: Running) -> None:
    await until(lambda: running.events("collector started"))


async def test_by_hand_beside_a_running_collector(world: World) -> None:
    async with world.running() as running:
        await drained(running)  # before that it says that it waits for a store
        ran = await done(world.env, *world.span)
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert b": filled, 3000 ticks delivered (3000 quotes compared)\n" in ran.stdout
        again = await done(world.env, *world.span)
        assert b": filled, 0 ticks delivered (3000 quotes compared)\n" in again.stdout
        entered = await done(world.env, *world.span, "--no-wait")
        assert entered.returncode == 0
        assert b"entered as gap " in entered.stdout
        world.rest.fault = FAULTS["not-authorized"]
        refused = await done(world.env, *world.span)
        assert (refused.returncode, b"the plan does not include these data" in refused.stdout) == (1, True)
        world.rest.fault = FAULTS["absent"]
        empty = await done(world.env, *world.span)
        assert (empty.returncode, b": empty, 0 ticks delivered" in empty.stdout) == (0, True)
        await drained(running)
    await world.filled()


async def test_by_hand_without_a_collector(world: World) -> None:
    for delivered in (3000, 0):
        ran = await done(world.env, *world.span)
        assert ran.returncode == 0, ran.stderr
        assert f": filled, {delivered} ticks delivered".encode() in ran.stdout
    await world.filled()
    records = await in_thread(world.place.records)
    assert by_second([json.loads(record.value) for record in records]) == quoted(world.quotes)


async def test_what_is_needed_without_a_collector_is_said_before_anything_is_entered(world: World) -> None:
    ran = await done({name: value for name, value in world.env.items() if "KEY" not in name}, *world.span)
    assert ran.returncode == 78
    assert b"POLYGON_API_KEY is not set" in ran.stderr
    assert not journal_in(world.place).exists()
    entered = await done(world.env, *world.span, "--no-wait")
    assert b"it is filled when a collector runs here" in entered.stdout
    async with world.running() as running:
        await until(lambda: entries(world.place)[0].state == "filled")
        await drained(running)
    await world.filled()


@pytest.mark.parametrize("alone", [True, False])
async def test_an_impatient_one_leaves_the_entry_open_and_says_so(world: World, alone: bool) -> None:
    world.rest.fault = FAULTS["slow"]
    async with AsyncExitStack() as open_:
        if not alone:
            await started(await open_.enter_async_context(world.running()))
        process = await trio.lowlevel.open_process(
            backfill(*world.span), env=world.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        await until(lambda: world.rest.asked)
        process.send_signal(signal.SIGINT)
        with trio.fail_after(PATIENCE_SECONDS):
            assert process.stdout is not None
            said = b"".join([chunk async for chunk in process.stdout])
            assert await process.wait() == 1
        await process.stdout.aclose()
    assert b": interrupted; gap 1 stays open, and is filled when a collector runs here" in said
    world.rest.fault = None
    async with world.running() as running:
        await until(lambda: entries(world.place)[0].state == "filled")
        await drained(running)
    await world.filled()


async def test_a_collector_that_ends_meanwhile_is_noticed(world: World) -> None:
    journal_in(world.place).mkdir(parents=True)
    lock = Lock.take(journal_in(world.place), now_ms())
    process = await trio.lowlevel.open_process(backfill(*world.span), env=world.env, stdout=subprocess.PIPE)
    path = journal_in(world.place) / "ledger.db"
    Ledger.open(path.parent).close()
    await until(lambda: entries(world.place))
    lock.release()
    with trio.fail_after(PATIENCE_SECONDS):
        assert process.stdout is not None
        said = b"".join([chunk async for chunk in process.stdout])
        assert await process.wait() == 1
    await process.stdout.aclose()
    assert b"the collector has ended; gap 1 stays open" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("EURUSDX", "2025-01-31T10:00", "2025-01-31T11:00"), "is not a currency pair"),
        (("EURUSD", "2025-01-31T11:00", "2025-01-31T10:00"), "which is not before --to"),
        (("EURUSD", "2025-01-31T10:00", "2025-01-31T10:00"), "which is not before --to"),
        (("EURUSD", "yesterday", "2025-01-31T10:00"), "'yesterday' is not a time"),
        (("EURUSD", "1738317600", "2025-01-31T11:00"), "are not Unix milliseconds, which have 13 digits"),
        (("EURUSD", "2025-01-31T10:00", "2125-01-31T10:00"), "--to is 2125-01-31T10:00:00.000Z, which is in the fut"),
        (("EURUSD", "2125-01-31T10:00", "2125-01-31T11:00"), "which is in the future"),
    ],
)
def test_wrong_words_are_said_to_be_so(
    arguments: tuple[str, str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYGON_LIVE_DATA_DIR", str(tmp_path))
    symbol, begins, ends = arguments
    ran = CliRunner().invoke(cli, ["backfill", "--symbol", symbol, "--from", begins, "--to", ends])
    assert ran.exit_code == 2
    assert words in " ".join(ran.stderr.split())
    assert not any(tmp_path.iterdir())
