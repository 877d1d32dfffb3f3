"""The end of a run: wait until nothing is missing any more, and gather what there is."""

from functools import partial
from typing import Any, Final

import trio

from tests.chaos.promises import Found
from tests.collecting import Running
from tests.engines import nats
from tests.place import Flow, Place
from tests.waiting import PATIENCE_SECONDS, in_thread

LIGHT_PER_SECOND: Final = 40
READING_SECONDS: Final = 300.0


async def settled(running: Running, flow: Flow, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
    """Every gap is filled, every store has everything, and every symbol's last quote was heard; then nothing flows."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flow.run, LIGHT_PER_SECOND))  # a silent feed would be taken for a dead one
        await running.until_state(_is_settled, seconds)
        nursery.cancel_scope.cancel()
    state = await running.until_state(lambda state: _heard(state) == flow.latest and _is_settled(state))
    differing = [found for store in state["verification"]["stores"] for found in store["differences"]]
    assert not differing, f"by its own account: {differing}"
    return state


def _heard(state: dict[str, Any]) -> dict[str, tuple[int, float]]:
    return {
        s["symbol"]: (s["last"]["timestamp_ms"], s["last"]["bid"]) for s in state["validator"]["symbols"] if s["last"]
    }


def _is_settled(state: dict[str, Any]) -> bool:
    unsettled = {name for states in state["gaps"]["counts"].values() for name in states} & {"open", "filling"}
    stores = all(sink["connected"] and not sink["waiting_ticks"] for sink in state["sinks"])
    return stores and not unsettled and not state["gaps"]["lasting"] and state["feed"]["state"] == "streaming"


async def everything(place: Place, flow: Flow) -> Found:
    """The collector must have ended."""
    return Found(
        sent=flow.quotes,
        journal=await in_thread(place.journal),
        ledger=await in_thread(place.ledger),
        rows=await in_thread(place.rows),
        records=await in_thread(place.records),
        messages=await nats.kept(place.nats.url, READING_SECONDS),
    )
