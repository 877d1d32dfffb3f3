"""What was not received is told, fetched, and in all stores, by the whole collector as a process."""

import json
import sys
from typing import Any

import psycopg
import pytest
import trio

from polygon_live.model import FOURTEEN_SYMBOLS
from polygon_live.standin import RestStandIn, Script, StandIn
from polygon_live.standin.rest import FAULTS
from tests.chaos.ending import everything, settled
from tests.chaos.promises import kept
from tests.collecting import KEY, environment, never_closing
from tests.place import Flow, Place, with_stream
from tests.waiting import in_thread, until

pytestmark = pytest.mark.engine


async def test_a_cut_in_the_feed_is_told_and_filled_in_all_stores_and_nothing_is_doubled(place: Place) -> None:
    standin = StandIn(key=KEY)
    rest = RestStandIn(standin.history, key=KEY, largest_page=30)
    flow = Flow(standin)
    await with_stream(place)
    async with standin.listening() as ws_url, rest.listening() as rest_url:
        stores = {"dsn": place.postgres.dsn, "nats_url": place.nats.url, "broker": place.broker.address}
        env = environment(place.base, ws_url=ws_url, **stores) | {"POLYGON_LIVE_REST_URL": rest_url}
        async with never_closing(env, place.log_path) as running:
            await standin.subscribed(1, 14)
            flow.send(1400)
            await running.until_delivered(1400)
            rest.fault = FAULTS["server-error"]
            standin.script = Script(http_status=503)
            standin.latest.drop()
            state = await running.until_state(lambda state: state["gaps"]["counts"] == {"disconnect": {"open": 14}})
            assert set(state["gaps"]["lasting"]) == set(FOURTEEN_SYMBOLS)
            flow.send(1400)  # a hundred of each symbol within one second: some of them are equal
            standin.script = Script()
            await until(lambda: standin.latest.open and len(standin.latest.subscribed) == 14)
            flow.send(1400)
            await running.until_state(lambda state: not state["gaps"]["lasting"])
            told = (await running.get("/gaps")).json()["gaps"]
            assert {gap["symbol"] for gap in told} == set(FOURTEEN_SYMBOLS)
            assert {(gap["cause"], gap["state"]) for gap in told} == {("disconnect", "open")}
            rest.fault = None
            await settled(running, flow)
            told = (await running.get("/gaps")).json()["gaps"]
            assert {(gap["cause"], gap["state"], gap["filled"], gap["missing"]) for gap in told} == {
                ("disconnect", "filled", 100, 0)
            }
            assert await by_command(env) == sorted(told, key=lambda gap: gap["id"])
            await until_mirrored(place, told)
        found = await everything(place, flow)
    assert kept(found).fetched == 1400


async def by_command(env: dict[str, str]) -> list[dict[str, Any]]:
    """What ``polygon-live gaps`` says of them, beside the running collector."""
    command = [sys.executable, "-m", "polygon_live", "gaps", "--json", "--state", "filled"]
    ran = await trio.run_process(command, env=env, capture_stdout=True)
    return sorted((json.loads(line) for line in ran.stdout.splitlines()), key=lambda gap: gap["id"])


async def until_mirrored(place: Place, told: list[dict[str, Any]]) -> None:
    """The database's copy says the same, a moment later."""

    wanted = [(gap["id"], gap["symbol"], gap["cause"], gap["state"], gap["filled"], gap["from_ms"]) for gap in told]

    def copied() -> list[tuple[Any, ...]]:
        with psycopg.connect(place.postgres.dsn) as connection:
            asked = (
                "select id, symbol, cause, state, filled, round(extract(epoch from from_time) * 1000) from tick_gaps"
            )
            return connection.execute(asked).fetchall()

    with trio.fail_after(60):
        while sorted(await in_thread(copied)) != sorted(wanted):  # noqa: ASYNC110  # another process writes it
            await trio.sleep(0.1)
