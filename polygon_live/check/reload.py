"""Whether an announcement of Central Hub's is heard: one is made, and the collector has to ask the Hub anew.

It has no content, and the collector would not look at it: what it finds at the Hub is what was there before. Two are
made, one after the other, for the collector also asks from time to time by itself.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from polygon_live.check.items import Item, fails, holds, not_applicable, skipped
from polygon_live.check.running import NO_COLLECTOR
from polygon_live.config import NatsAccess
from polygon_live.engines.nats import Publisher
from polygon_live.errors import CollectorError, StoreError
from polygon_live.gap import instant_text
from polygon_live.inforce import HubSnapshot
from polygon_live.status import State
from polygon_live.steering import ANNOUNCED_AT

RELOAD: Final = "hot reload responds"
TIMES: Final = 2
ANSWER_SECONDS: Final = 10.0
"""The Hub has five to answer, and one for who posted it."""
LOOK_SECONDS: Final = 0.1

AskState = Callable[[], Awaitable[State]]


async def reload(access: NatsAccess, state: State | None, ask: AskState) -> Item:
    """Announce, and see the last fetch move."""
    if state is None:
        return skipped(RELOAD, NO_COLLECTOR)
    hub = state.configuration.hub
    if hub.url is None:
        return not_applicable(RELOAD, "there is no Central Hub, so nothing is announced")
    if state.configuration.unheard is not None:
        todo = f"see that NATS runs, and that the collector's user may subscribe to {ANNOUNCED_AT}"
        return fails(RELOAD, f"announcements can't be heard: {state.configuration.unheard}", todo)
    publisher = Publisher(access, "polygon-live check")
    began, seen = trio.current_time(), hub
    try:
        for _ in range(TIMES):
            await publisher.publish(ANNOUNCED_AT, b"{}")
            with trio.move_on_after(ANSWER_SECONDS):
                seen = await _until_asked(ask, seen)
                continue
            return _unmoved(seen, await ask())
    except (StoreError, CollectorError) as why:
        return fails(RELOAD, str(why), "see NATS and the collector above")
    finally:
        publisher.close()
    seconds = (trio.current_time() - began) / TIMES
    told = f"{TIMES} announcements on {ANNOUNCED_AT}, each followed by a fetch within {seconds:.1f} s"
    return holds(RELOAD, f"{told}, the last at {instant_text(seen.fetched_ms or 0)}", fetched_ms=seen.fetched_ms)


async def _until_asked(ask: AskState, before: HubSnapshot) -> HubSnapshot:
    while True:
        hub = (await ask()).configuration.hub
        if hub.fetches > before.fetches and hub.fetched_ms != before.fetched_ms:
            return hub
        await trio.sleep(LOOK_SECONDS)


def _unmoved(before: HubSnapshot, after: State) -> Item:
    hub = after.configuration.hub
    if hub.fetches > before.fetches:
        todo = "check that the Hub runs; what is in force stays until it answers"
        return fails(RELOAD, f"the announcement was heard, but the Hub did not answer: {hub.last_error}", todo)
    todo = f"see that collector and Hub use one NATS cluster, and that the users may use {ANNOUNCED_AT}"
    return fails(RELOAD, f"an announcement was made, and no fetch followed within {ANSWER_SECONDS:g} s", todo)
