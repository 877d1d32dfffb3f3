"""Everything that a Hub can do wrong, at the start and while it is watched: told, survived, and then over."""

from collections.abc import Mapping
from typing import Final

import pytest
from structlog.testing import capture_logs

from polygon_live.hub import client, door
from polygon_live.standin.http import instead
from polygon_live.standin.hub import FAULTS
from tests.hubbing import KEY, SAFE, SERVICE, HubWorld, Told, having, on_both

SAID: Final[Mapping[str, str]] = {
    "away": "the line was cut",
    "slow": "no whole answer within",
    "cut": "the line was cut",
    "server-error": "it failed (500)",
    "unavailable": "it failed (503)",
    "locked": "correct POLYGON_LIVE_HUB_API_KEY",
    "redirect": "it is somewhere else (307): correct POLYGON_LIVE_HUB_URL",
    "proxy-404": "404 in words that are not the Hub's",
    "garbage": "no JSON",
    "half-json": "no JSON",
    "nan": "no JSON",
    "deep": "no JSON",
    "rather-deep": "more than 64 levels deep",
    "list": "the answer is a list, not an object",
    "null": "the answer is null, not an object",
    "no-config": "holds no config",
    "config-number": "its config is a number, not an object",
    "config-list": "its config is a list, not an object",
    "config-null": "its config is null, not an object",
    "config-word": "its config is a string, and that can't be read: no JSON",
    "config-string-twice": "its config is a string, not an object",
    "other-service": "it answers for 'tick-aggregator'",
    "huge": "more than 1 MiB",
    "huge-untold": "more than 1 MiB",
}


def test_there_is_a_test_for_every_fault() -> None:
    assert SAID.keys() == FAULTS.keys() - {"json-string"}


@on_both
@pytest.mark.parametrize("fault", SAID)
async def test_a_failing_hub_changes_nothing_and_is_told(
    world: HubWorld, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "ANSWER_SECONDS", 0.3 if fault == "slow" else 10.0)
    told = Told()
    world.post(having(symbols=["GBPUSD"]))
    with capture_logs() as logs:
        async with world.client() as watched:
            watched.on_config_update(told)
            world.hub.fault = FAULTS[fault]
            world.post(having(symbols=["AUDUSD"]))
            for _ in range(2):
                assert await watched.get_config(force_refresh=True) == having(symbols=["GBPUSD"])
            snapshot = watched.snapshot()
            assert (snapshot.source, snapshot.failures, snapshot.refused) == ("hub", 2, 0)
            assert snapshot.last_error is not None
            assert SAID[fault] in snapshot.last_error
            assert KEY not in snapshot.last_error
            assert not told.documents

            world.hub.fault = None
            watched.nudge()
            assert await told.times(1) == having(symbols=["AUDUSD"])
            assert watched.snapshot().last_error is None
    assert [entry["event"] for entry in logs] == ["no configuration from Central Hub", "Central Hub answers again"]


@on_both
@pytest.mark.parametrize("fault", SAID)
async def test_a_hub_that_fails_at_the_start_leaves_the_safe_defaults_or_the_copy(
    world: HubWorld, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "ANSWER_SECONDS", 0.1 if fault == "slow" else 10.0)
    world.hub.fault = FAULTS[fault]
    world.post(having(symbols=["AUDUSD"]))
    fresh = world.client()
    assert await fresh.get_config() == SAFE
    assert (fresh.snapshot().source, fresh.snapshot().fetches) == ("safe defaults", 3)

    world.hub.fault = None
    await fresh.get_config(force_refresh=True)
    world.hub.fault = FAULTS[fault]
    again = world.client()
    assert await again.get_config() == having(symbols=["AUDUSD"])
    assert (again.snapshot().source, again.snapshot().failures) == ("last good copy", 3)


@on_both
async def test_a_failure_at_the_start_may_pass_within_the_tries(world: HubWorld) -> None:
    world.hub.faults.extend([FAULTS["unavailable"], FAULTS["away"]])
    world.post(having(symbols=["AUDUSD"]))
    patient = world.client()
    assert await patient.get_config() == having(symbols=["AUDUSD"])
    assert (patient.snapshot().fetches, patient.snapshot().failures) == (3, 2)


@on_both
async def test_the_start_has_an_end_whatever_the_hub_does(world: HubWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "START_SECONDS", 0.1)
    monkeypatch.setattr(door, "ANSWER_SECONDS", 3600.0)
    world.hub.fault = FAULTS["slow"]
    assert await world.client().get_config() == SAFE


@on_both
async def test_while_it_fails_it_is_asked_sooner_than_the_polls(world: HubWorld) -> None:
    told = Told()
    async with world.client(poll_seconds=3600.0) as watching:
        watching.on_config_update(told)
        world.hub.faults.extend([FAULTS["unavailable"]] * 3)
        world.post(having(symbols=["AUDUSD"]))
        watching.nudge()
        assert await told.times(1) == having(symbols=["AUDUSD"])
        assert watching.snapshot().failures == 3


@on_both
async def test_a_redirect_is_not_followed(world: HubWorld) -> None:
    world.hub.fault = instead(307, b"", ("Location", f"{world.url}/elsewhere"))
    assert await world.client().get_config() == SAFE
    assert {asked.path for asked in world.hub.asked} == {f"/api/v1/config/{SERVICE}"}
