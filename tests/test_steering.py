"""The collector as a process, with a Hub that is away, comes back, is misunderstood and imitated; on real servers."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from polygon_live.config import NatsAccess, Secret
from polygon_live.engines.nats import Publisher
from polygon_live.model import FOURTEEN_SYMBOLS, canonical_symbol
from polygon_live.standin import StandIn, StandInHub
from polygon_live.standin.hub import FAULTS
from polygon_live.steering import ANNOUNCED_AT, SERVICE
from tests.collecting import KEY, Running, environment, never_closing
from tests.place import Flow, Place
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.engine
NEVER = "3600"


@attrs.frozen
class Steered:
    """A Polygon, a Hub, and what a collector on them is told."""

    place: Place
    standin: StandIn
    hub: StandInHub
    env: dict[str, str]
    publisher: Publisher

    @asynccontextmanager
    async def running(self, *, poll_seconds: str = NEVER) -> AsyncIterator[Running]:
        env = self.env | {"POLYGON_LIVE_HUB_POLL_SECONDS": poll_seconds}
        async with never_closing(env, self.place.log_path) as running, trio.open_nursery() as nursery:
            nursery.start_soon(partial(Flow(self.standin).run, 100))
            yield running
            nursery.cancel_scope.cancel()

    async def subscribed_to(self, *symbols: str) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            await self.standin.until(lambda: {canonical_symbol(p) for p in self.standin.pairs} == set(symbols))


@pytest.fixture
async def steered(place: Place) -> AsyncIterator[Steered]:
    standin = StandIn(key=KEY)
    publisher = Publisher(NatsAccess((Secret(place.nats.url),)), "hub")
    hub = StandInHub(publish=publisher.publish)
    async with standin.listening() as ws_url, hub.listening() as hub_url:
        stores = {"dsn": place.postgres.dsn, "nats_url": place.nats.url, "broker": place.broker.address}
        env = environment(place.base, ws_url=ws_url, **stores) | {"POLYGON_LIVE_HUB_URL": hub_url}
        yield Steered(place, standin, hub, env, publisher)
    publisher.close()


def of(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"operational": {"symbols": list(symbols), **more}}


def configuration(state: dict[str, Any]) -> tuple[int, str, list[str]]:
    there = state["configuration"]
    return there["generation"], there["hub"]["source"], there["values"]["operational.symbols"]


async def asked_again(running: Running, before: dict[str, Any]) -> dict[str, Any]:
    asked = before["configuration"]["hub"]["fetches"]
    return await running.until_state(lambda state: state["configuration"]["hub"]["fetches"] > asked)


async def test_a_hub_that_is_away_at_the_start_leaves_the_safe_defaults_until_it_is_back(steered: Steered) -> None:
    steered.hub.fault = FAULTS["away"]
    async with steered.running(poll_seconds="1") as running:
        await steered.subscribed_to(*FOURTEEN_SYMBOLS)
        state = await running.state()
        assert configuration(state) == (1, "safe defaults", list(FOURTEEN_SYMBOLS))
        assert set(state["configuration"]["origins"].values()) == {"safe defaults"}
        notes = (await running.get("/health")).json()["notes"]
        assert [note for note in notes if note.startswith("Central Hub: ")], notes
        steered.hub.post(SERVICE, of("EURUSD", "EURAUD"))
        steered.hub.fault = None
        await steered.subscribed_to("EURUSD", "EURAUD")
        state = await running.until_state(lambda state: state["configuration"]["generation"] == 2)
        assert configuration(state) == (2, "hub", ["EURUSD", "EURAUD"])
        assert state["feed"]["connections"] == 1


async def test_the_last_good_configuration_survives_a_restart_while_the_hub_is_away(steered: Steered) -> None:
    steered.hub.post(SERVICE, of("EURUSD", "USDJPY", rate_limit_per_second=7), updated_by="desk")
    async with steered.running():
        await steered.subscribed_to("EURUSD", "USDJPY")
    steered.hub.fault = FAULTS["away"]
    async with steered.running(poll_seconds="1") as running:
        await steered.subscribed_to("EURUSD", "USDJPY")
        state = await running.state()
        assert configuration(state) == (1, "last good copy", ["EURUSD", "USDJPY"])
        assert state["limits"]["per_second"] == 7
        assert state["configuration"]["hub"]["copied_ms"] <= state["started_ms"]
        steered.hub.post(SERVICE, of("EURUSD", "USDJPY", "GBPUSD"))
        steered.hub.fault = None
        await steered.subscribed_to("EURUSD", "USDJPY", "GBPUSD")
        state = await running.until_state(lambda state: state["limits"]["per_second"] != 7)
        assert configuration(state) == (2, "hub", ["EURUSD", "USDJPY", "GBPUSD"])


async def test_a_forged_announcement_only_makes_it_ask_and_one_twice_changes_once(steered: Steered) -> None:
    steered.hub.post(SERVICE, of("EURUSD"))
    async with steered.running() as running:
        await steered.subscribed_to("EURUSD")
        state = await running.until_state(lambda state: state["configuration"]["unheard"] is None)
        forged = {"service_name": SERVICE, "config": of("XAUUSD"), "version": "9", "updated_by": "nobody"}
        for payload in (json.dumps(forged).encode(), b"\xff\x00nonsense", b"", b"[" * 100_000):
            await steered.publisher.publish(ANNOUNCED_AT, payload)
            state = await asked_again(running, state)
            assert configuration(state) == (1, "hub", ["EURUSD"])
        steered.hub.post(SERVICE, of("EURUSD", "XAUUSD"))
        for _ in range(2):
            await steered.publisher.publish(ANNOUNCED_AT, json.dumps(forged).encode())
        await steered.subscribed_to("EURUSD", "XAUUSD")
        state = await asked_again(running, state)
        assert configuration(state) == (2, "hub", ["EURUSD", "XAUUSD"])


async def test_a_lost_announcement_is_found_by_asking(steered: Steered) -> None:
    steered.hub.post(SERVICE, of("EURUSD"))
    async with steered.running(poll_seconds="0.5") as running:
        await steered.subscribed_to("EURUSD")
        steered.hub.post(SERVICE, of("EURUSD", "XAUUSD"))  # announces nothing
        await steered.subscribed_to("EURUSD", "XAUUSD")
        assert (await running.state())["feed"]["connections"] == 1


async def test_nats_away_is_told_and_changes_are_found_all_the_same(steered: Steered) -> None:
    steered.hub.post(SERVICE, of("EURUSD"))
    async with steered.running(poll_seconds="0.5") as running:
        await steered.subscribed_to("EURUSD")
        await running.until_state(lambda state: state["configuration"]["unheard"] is None)
        await trio.to_thread.run_sync(steered.place.nats.kill)
        await running.until_state(lambda state: state["configuration"]["unheard"])
        steered.hub.post(SERVICE, of("EURUSD", "XAUUSD"))
        await steered.subscribed_to("EURUSD", "XAUUSD")
        await trio.to_thread.run_sync(steered.place.nats.start)
        await running.until_state(lambda state: state["configuration"]["unheard"] is None)
        assert not [w for w in (await running.state())["watchers"] if w["restarts"]]
