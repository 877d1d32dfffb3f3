"""Two collectors where there should be one: on one journal, and of one name on the same stores."""

import signal
import socket
from pathlib import Path

import attrs
import pytest

from polygon_live.standin import StandIn
from tests.collecting import KEY
from tests.comparing import archive_agrees, table_agrees
from tests.place import STORES, Flow, Place
from tests.waiting import in_thread

pytestmark = pytest.mark.engine


async def test_a_second_one_on_the_same_journal_is_told_who_holds_it(place: Place) -> None:
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    async with place.collecting(standin) as running:
        flow.send(100)
        await running.until_delivered(100)
        second = attrs.evolve(place, log_path=place.log_path.with_name("second.log"))
        async with second.collector("ws://127.0.0.1:1/forex") as other:
            assert await other.ended() == 74
        who = f"process {running.process.pid} on {socket.gethostname()} since "
        assert f"the journal in {place.journal_dir} is held by {who}" in other.said
        assert "stop that one first, or give this one another folder" in other.said
        assert "Traceback" not in other.said
        flow.send(100)
        await running.until_delivered(200)


async def test_a_journal_folder_that_is_none_is_named(place: Place) -> None:
    place.journal_dir.parent.mkdir(parents=True)
    place.journal_dir.write_text("a file")
    async with place.collector("ws://127.0.0.1:1/forex") as running:
        assert await running.ended() == 74
    assert f"{place.journal_dir} is no folder, and the journal needs one" in running.said
    assert "Traceback" not in running.said


async def test_a_second_one_of_that_name_stays_out_until_the_first_is_dead(place: Place) -> None:
    """Each takes the feed from the other, so what one has heard the other has not."""
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    home = Path(place.base["HOME"], "second")
    log_path = place.log_path.with_name("second.log")
    second = attrs.evolve(place, base={**place.base, "HOME": str(home)}, log_path=log_path)
    async with place.collecting(standin) as first:
        flow.send(1000)
        await first.until_delivered(1000)
        journal = (await first.state())["journal"]["id"]
        async with second.collecting(standin) as other:
            flow.send(1000)
            await other.until_delivered(1000, "nats")
            who = f"host {socket.gethostname()} (journal {journal})"
            body = await other.until_health(503, f"{who}, which lives", f"is alive on {who}")
            assert {reason.split(" is down")[0] for reason in body["reasons"] if who in reason} == {
                "timescale",
                "kafka",
            }
            assert {name: (await other.sink(name))["needs_operator"] for name in STORES} == {
                "timescale": True,
                "nats": False,
                "kafka": True,
            }
            assert len(await in_thread(place.rows)) == 1000
            first.signal(signal.SIGKILL)
            await first.ended()
            state = await other.until_delivered(1000)
            assert all(sink["state"] == "good" and not sink["lost"] for sink in state["sinks"])
            other.signal(signal.SIGTERM)
            assert await other.ended() == 0
            rows, records = await in_thread(place.rows), await in_thread(place.records)
    ticks = await in_thread(place.journal) + await in_thread(second.journal)
    assert len(ticks) == 2000
    table_agrees(rows, ticks)
    archive_agrees(records, ticks, rows)
    told = {(entry["cause"], entry["store"]) for entry in await in_thread(second.ledger) if entry["store"]}
    assert told == {("taken_over", "timescale"), ("taken_over", "kafka")}
