"""The journal's disk fills up, while the collector runs and before it starts: a small one, mounted for the test."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from polygon_live.standin import RestStandIn, StandIn
from tests.chaos.ending import settled
from tests.collecting import KEY, environment, never_closing
from tests.comparing import archive_agrees, messages_agree, table_agrees, ticks_of
from tests.engines.nats import in_stream
from tests.place import Flow, Place, with_stream
from tests.waiting import in_thread

pytestmark = pytest.mark.engine

MiB: Final = 2**20


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """The collector's data folder, on a disk of 96 MiB."""
    folder = place.journal_dir.parents[1]
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={96 * MiB}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError as why:
        pytest.skip(f"no small disk can be mounted: {why}")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted, which needs root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leave: int = 0) -> Path:
    """Everything that is left but so many bytes, in a file."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while (room := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave) > 0:
            file.write(bytes(min(room, MiB)))
    return ballast


async def test_a_disk_that_fills_costs_nothing_as_long_as_the_collector_lives(place: Place, small_disk: Path) -> None:
    standin = StandIn(key=KEY)
    rest = RestStandIn(standin.history, key=KEY)
    flow = Flow(standin)
    await with_stream(place)
    async with standin.listening() as ws_url, rest.listening() as rest_url:
        stores = {"dsn": place.postgres.dsn, "nats_url": place.nats.url, "broker": place.broker.address}
        env = environment(place.base, ws_url=ws_url, **stores) | {"POLYGON_LIVE_REST_URL": rest_url}
        async with never_closing(env, place.log_path) as running:
            await standin.subscribed(1, 14)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flow.run)
                await running.until_delivered(500)
                await running.until_health(200)
                ballast = await in_thread(lambda: fill(small_disk))
                body = await running.until_health(503, "at most once", "make room on that disk")
                assert "at most once" in body["guarantee"]
                await in_thread(place.postgres.pause)  # who lags now is served from memory
                failing = (await running.state())["journal"]
                await running.until_state(
                    lambda state: state["journal"]["unjournaled_ticks"] > failing["unjournaled_ticks"] + 2000
                )
                await in_thread(place.postgres.resume)
                ballast.unlink()
                state = await running.until_state(lambda state: not state["journal"]["failing"])
                assert state["journal"]["unjournaled_ticks"] == 0
                body = await running.until_health(200)
                assert "exactly once" in body["guarantee"]
                nursery.cancel_scope.cancel()
            state = await settled(running, flow)
            assert not any(sink["lost"] for sink in state["sinks"])
            running.signal(signal.SIGTERM)
            assert await running.ended() == 0
        rows, records = await in_thread(place.rows), await in_thread(place.records)
        journal, (entry,) = await in_thread(place.journal), await in_thread(place.ledger)
    ticks = ticks_of(flow.quotes, rows[0]["seq"])
    table_agrees(rows, ticks)
    archive_agrees(records, ticks, rows)
    messages_agree(await in_stream(place.nats.url), ticks, rows, may_wait=True)
    assert (entry["cause"], entry["symbol"], entry["state"], entry["filled"]) == ("unjournaled", "*", "filled", 0)
    unjournaled = {tick["seq"] for tick in ticks} - {tick["seq"] for tick in journal}
    assert unjournaled == set(range(entry["first_seq"], entry["last_seq"] + 1))
    assert len(unjournaled) == entry["ticks"]


async def test_a_disk_that_is_filling_is_told_before_it_is_full(place: Place, small_disk: Path) -> None:
    async with place.collecting(StandIn(key=KEY)) as running:
        state = await running.until_state(lambda state: state["journal"]["room"]["free_bytes"])
        room = state["journal"]["room"]
        with (small_disk / "ballast").open("wb", buffering=0) as file:
            while room["seconds_until_full"] is None:
                before = room["free_bytes"]
                assert before > 4 * MiB, "it was not told in time"
                file.write(bytes(3 * MiB))
                state = await running.until_state(lambda state: state["journal"]["room"]["free_bytes"] < before)  # noqa: B023
                room = state["journal"]["room"]
        assert 0 < room["seconds_until_full"] < 600
        await running.until_health(503, "the disk of the journal's folder", "is full in", "at the present rate")
        assert not state["journal"]["failing"]
        assert "the disk of the journal's folder is filling up: make room before it is full" in running.said


async def test_without_room_it_does_not_start_and_says_how_much_is_needed(place: Place, small_disk: Path) -> None:
    fill(small_disk, leave=40 * MiB)
    async with place.collector("ws://127.0.0.1:1/forex") as running:
        assert await running.ended() == 74
    assert (
        f"the disk of the journal's folder {place.journal_dir} has 39 MiB left, and 64 MiB are needed" in running.said
    )
    assert "Traceback" not in running.said


def mounted(*options: str, on: Path) -> Any:
    return subprocess.run(["mount", *options, str(on)], check=True)


async def test_a_journal_that_cannot_be_written_is_named(place: Place, small_disk: Path) -> None:
    mounted("-o", "remount,ro", on=small_disk)
    async with place.collector("ws://127.0.0.1:1/forex") as running:
        assert await running.ended() == 74
    assert f"{place.journal_dir} can't be used as the journal's folder: Read-only file system" in running.said
    assert "Traceback" not in running.said
