"""The stand-in Hub, asked by a plain HTTP client, against what is known of the real one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import trio

from polygon_live.errors import ConfigurationError
from polygon_live.standin import StandInHub

SERVICE = "polygon-live-collector"
CONFIG = f"/api/v1/config/{SERVICE}"
HISTORY = f"/api/v1/config/history/{SERVICE}"


@asynccontextmanager
async def hub(**settings: Any) -> AsyncIterator[tuple[StandInHub, httpx.AsyncClient]]:
    standin = StandInHub(now_ms=lambda: 1_780_000_000_000, **settings)
    async with standin.listening() as url, httpx.AsyncClient(base_url=url) as client:
        yield standin, client


async def test_a_post_replaces_and_is_announced_as_it_was_posted() -> None:
    announced: list[tuple[str, Any]] = []

    async def publish(subject: str, payload: bytes) -> None:
        announced.append((subject, msgspec.json.decode(payload)))

    first = {"operational": {"symbols": ["EURUSD"], "rate_limit_per_second": 3}}
    second = {"operational": {"symbols": ["EURUSD", "XAUUSD", "GBPUSD", "EURAUD"]}}
    async with hub(publish=publish) as (_, client):
        await client.post(CONFIG, json=first)
        answer = (await client.post(CONFIG, json=second, params={"version": "2.0.0", "updated_by": "alice"})).json()
        found = (await client.get(CONFIG)).json()
    told = {
        "service_name": SERVICE,
        "config": second,
        "version": "2.0.0",
        "updated_at": 1_780_000_000_000,
        "updated_by": "alice",
    }
    assert answer == {"status": "updated", **told, "broadcast": "sent"}
    assert announced[1] == (f"config.update.{SERVICE}", told)
    assert (announced[0][1]["version"], announced[0][1]["updated_by"]) == ("1.0.0", "api-user")
    assert found == {
        "service_name": SERVICE,
        "config": second,
        "version": "2.0.0",
        "updated_at": 1_780_000_000_000,
        "description": None,
        "tags": [],
        "active": True,
    }


async def test_a_broadcast_that_is_not_possible_is_no_error() -> None:
    async def fail(_subject: str, _payload: bytes) -> None:
        raise ConnectionError("no servers available")

    for settings in ({}, {"publish": fail}):
        async with hub(**settings) as (_, client):
            answer = await client.post(CONFIG, json={"a": 1})
            assert (answer.status_code, answer.json()["broadcast"]) == (200, "unavailable")
            assert (await client.get(CONFIG)).json()["config"] == {"a": 1}


async def test_a_publisher_that_hangs_is_waited_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polygon_live.standin.hub.PUBLISH_SECONDS", 0.05)

    async def hang(_subject: str, _payload: bytes) -> None:
        await trio.sleep_forever()

    async with hub(publish=hang) as (_, client):
        assert (await client.post(CONFIG, json={"a": 1})).json()["broadcast"] == "unavailable"


async def test_nothing_is_there_until_it_is_posted() -> None:
    async with hub() as (_, client):
        for path in (CONFIG, HISTORY, "/api/v1/config/", "/nowhere"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json().keys()) == (404, {"detail"})


@pytest.mark.parametrize("body", [b"", b"[]", b"42", b'"text"', b"{", b"[" * 5000])
async def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    async with hub() as (_, client):
        assert (await client.post(CONFIG, content=body)).status_code == 422
        assert (await client.get(CONFIG)).status_code == 404


async def test_the_history_has_the_newest_first_and_says_who() -> None:
    async with hub() as (_, client):
        for number in range(12):
            await client.post(CONFIG, json={"n": number}, params={"updated_by": f"user{number}"})
        found = (await client.get(HISTORY)).json()
        assert (found["total"], found["limit"], len(found["history"])) == (12, 10, 10)
        assert [e["changed_by"] for e in found["history"][:2]] == ["user11", "user10"]
        (newest,) = (await client.get(HISTORY, params={"limit": "1"})).json()["history"]
        assert (newest["config"], newest["action"]) == ({"n": 11}, "updated")
        assert (await client.get(HISTORY, params={"limit": "many"})).status_code == 422


async def test_health_and_discovery() -> None:
    async with hub() as (standin, client):
        health = (await client.get("/health")).json()
        assert health.keys() == {"status", "service", "version", "timestamp"}
        beat = {"service_name": SERVICE, "instance_id": "a", "status": "healthy", "timestamp": 1, "metrics": {}}
        assert (await client.post("/api/v1/discovery/heartbeat", json=beat)).status_code == 404
        assert (await client.post("/api/v1/discovery/register", json={"name": SERVICE})).json()[
            "status"
        ] == "registered"
        assert (await client.post("/api/v1/discovery/heartbeat", json=beat)).status_code == 200
        assert (await client.post("/api/v1/discovery/register", json={})).status_code == 404
    assert (list(standin.registered), standin.heartbeats) == ([SERVICE], [beat])


async def test_a_key_is_asked_for_if_there_is_one() -> None:
    async with hub(api_key="hub-key") as (_, client):
        assert (await client.get("/health")).status_code == 401
        assert (await client.get("/health", headers={"X-API-Key": "hub-key"})).status_code == 200


async def test_it_listens_where_it_is_told_to_or_says_why_not() -> None:
    async with StandInHub().listening() as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigurationError, match="simulated Central Hub can't listen on"):
            async with StandInHub().listening(port=port):
                pass
    async with StandInHub().listening(port=port) as again:
        assert again == url
