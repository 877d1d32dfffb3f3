"""ConfigClient against a Hub on a real socket, under Trio and under asyncio."""

import asyncio
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from threading import Semaphore
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from structlog.testing import capture_logs

from polygon_live.config import Secret
from polygon_live.errors import ConfigurationError, ConfigurationRefused
from polygon_live.hub import ConfigClient, Registration, digest, discovery, lastgood
from polygon_live.standin.http import Answer, Asked, saying
from polygon_live.standin.hub import FAULTS
from tests.hubbing import KEY, SAFE, SERVICE, HubWorld, Told, having, on_both

SYMBOLS = "operational.symbols"


def refusing(what: Any) -> Any:
    """A judge that wants no such thing among the symbols."""

    def judge(document: Mapping[str, Any]) -> Mapping[str, Any]:
        if what in document["operational"]["symbols"]:
            raise ConfigurationRefused("operational.symbols: one of them is no symbol", "and another fault")
        return document

    return judge


# Example 1 of the description ---------------------------------------------------------------------------------------


@on_both
async def test_the_first_example_of_the_description(
    world: HubWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("POLYGON_LIVE_HUB_URL", world.url)
    monkeypatch.setenv("POLYGON_LIVE_DATA_DIR", str(tmp_path))
    world.post({"operational": {"symbols": ["EURUSD", "XAUUSD", "GBPUSD"]}})
    # fmt: off
    # Initialize client
    client = ConfigClient(
        service_name="polygon-live-collector",
        safe_defaults={
            "operational": {
                "symbols": ["EURUSD", "XAUUSD"],
                "websocket_reconnect_delay": 5,
                "rate_limit_per_second": 5
            }
        }
    )
    await client.init_async()

    # Get config
    config = await client.get_config()
    symbols = config['operational']['symbols']  # noqa: Q000
    print(f"Collecting {len(symbols)} symbols: {symbols}")  # noqa: T201
    # fmt: on
    assert capsys.readouterr().out == "Collecting 3 symbols: ['EURUSD', 'XAUUSD', 'GBPUSD']\n"
    assert config == having(symbols=["EURUSD", "XAUUSD", "GBPUSD"])
    assert (tmp_path / "hub" / f"{SERVICE}.json").is_file()


# What is in force ---------------------------------------------------------------------------------------------------


@on_both
async def test_what_is_posted_lies_over_the_safe_defaults(world: HubWorld) -> None:
    world.post({"operational": {"symbols": ["GBPUSD"], "validation": {"max_age_seconds": 9}}}, updated_by="alice")
    client = world.client()
    assert client.get_value(SYMBOLS) == ["EURUSD", "XAUUSD"], "before anybody asked"
    await client.init_async()
    assert await client.get_config() == having(symbols=["GBPUSD"], validation={"max_age_seconds": 9})
    assert client.get_value("operational.validation.max_age_seconds") == 9
    assert client.get_value("operational.symbols.first", "no") == "no"
    assert client.get_value("operational.nothing") is None
    snapshot = client.snapshot()
    assert (snapshot.source, snapshot.version, snapshot.updated_by) == ("hub", "1.0.0", "alice")
    assert (snapshot.fetches, snapshot.failures, snapshot.last_error) == (1, 0, None)


@on_both
async def test_it_asks_without_having_been_initialised(world: HubWorld) -> None:
    world.post(having(rate_limit_per_second=7))
    assert await world.client().get_config() == having(rate_limit_per_second=7)


@on_both
async def test_what_is_handed_out_can_be_changed_without_harm(world: HubWorld) -> None:
    client = world.client()
    (await client.get_config())["operational"]["symbols"].append("XXXYYY")
    client.get_value(SYMBOLS).append("XXXYYY")
    assert client.get_value(SYMBOLS) == ["EURUSD", "XAUUSD"]


@on_both
async def test_nothing_posted_is_no_error(world: HubWorld) -> None:
    client = world.client()
    assert await client.get_config() == SAFE
    snapshot = client.snapshot()
    assert (snapshot.source, snapshot.last_error, snapshot.fetches, snapshot.failures) == ("safe defaults", None, 1, 0)
    assert snapshot.fetched_ms is not None
    assert not world.copy.exists()


@on_both
async def test_what_is_no_longer_posted_is_no_longer_in_force_after_a_restart_either(world: HubWorld) -> None:
    world.post(having(rate_limit_per_second=7))
    client, told = world.client(), Told()
    client.on_config_update(told)
    await client.init_async()
    assert world.copy.exists()
    world.hub.history.clear()
    assert await client.get_config(force_refresh=True) == SAFE
    assert told.documents == [having(rate_limit_per_second=7), SAFE]
    assert not world.copy.exists()


@on_both
async def test_a_config_as_a_string_is_the_same_as_an_object(world: HubWorld) -> None:
    world.post(having(symbols=["GBPUSD"]), updated_by="alice")
    world.hub.fault = FAULTS["json-string"]
    client = world.client()
    assert await client.get_config() == having(symbols=["GBPUSD"])
    assert client.snapshot().last_error is None
    assert client.snapshot().updated_by == "alice"


@on_both
async def test_it_asks_again_only_when_the_answer_is_old(world: HubWorld) -> None:
    client = world.client()
    await client.init_async()
    for _ in range(3):
        await client.get_config()
    assert client.snapshot().fetches == 1
    eager = world.client(poll_seconds=0.0)
    for _ in range(3):
        await eager.get_config()
    assert eager.snapshot().fetches == 3


@on_both
async def test_many_who_want_it_fresh_share_the_question(world: HubWorld) -> None:
    client = world.client()
    await client.init_async()
    world.post(having(rate_limit_per_second=7))
    found: list[Any] = []

    async def ask() -> None:
        found.append(await client.get_config(force_refresh=True))

    async with anyio.create_task_group() as many:
        for _ in range(10):
            many.start_soon(ask)
    assert found == [having(rate_limit_per_second=7)] * 10
    assert client.snapshot().fetches <= 3


# Changes ------------------------------------------------------------------------------------------------------------


@on_both
async def test_polling_finds_what_nobody_announced(world: HubWorld) -> None:
    told = Told()
    async with world.client(poll_seconds=0.02) as client:
        client.on_config_update(told)
        world.post(having(symbols=["GBPUSD"]))
        assert await told.times(1) == having(symbols=["GBPUSD"])


@on_both
async def test_a_nudge_asks_at_once_and_a_thousand_ask_once(world: HubWorld) -> None:
    told = Told()
    async with world.client() as client:
        client.on_config_update(told)
        world.post(having(symbols=["GBPUSD"]))
        for _ in range(1000):
            client.nudge()
        assert await told.times(1) == having(symbols=["GBPUSD"])
        assert client.snapshot().fetches == 2


@on_both
async def test_a_nudge_while_it_asks_or_tells_is_not_lost(world: HubWorld) -> None:
    told = Told()
    async with world.client() as client:

        def once(document: dict[str, Any]) -> None:
            if document == having(symbols=["GBPUSD"]):
                world.post(having(symbols=["USDJPY"]))
                client.nudge()

        client.on_config_update(once)
        client.on_config_update(told)
        world.post(having(symbols=["GBPUSD"]))
        client.nudge()
        assert await told.times(2) == having(symbols=["USDJPY"])


@on_both
async def test_the_same_content_is_no_change(world: HubWorld) -> None:
    told = Told()
    world.post(having(symbols=["GBPUSD"]))
    client = world.client()
    await client.init_async()
    client.on_config_update(told)
    world.post({"operational": {"symbols": ["GBPUSD"]}}, version="2.0.0", updated_by="bob")
    await client.get_config(force_refresh=True)
    world.hub.history.clear()
    world.post(SAFE)
    await client.get_config(force_refresh=True)
    world.hub.history.clear()
    await client.get_config(force_refresh=True)
    assert told.documents == [SAFE], "written otherwise, or gone and so the safe defaults, but the same"


@on_both
async def test_the_version_and_who_posted_it_are_told_though_the_content_is_the_same(world: HubWorld) -> None:
    client = world.client()
    for version, who in (("1", "alice"), ("2", "bob")):
        world.post(having(symbols=["GBPUSD"]), version=version, updated_by=who)
        await client.get_config(force_refresh=True)
        assert (client.snapshot().version, client.snapshot().updated_by) == (version, who)


@on_both
async def test_who_posted_it_is_not_worth_a_failure(world: HubWorld) -> None:
    world.post(having(symbols=["GBPUSD"]))
    world.hub.faults.extend([None, FAULTS["server-error"]])
    client = world.client()
    assert await client.get_config() == having(symbols=["GBPUSD"])
    assert (client.snapshot().updated_by, client.snapshot().last_error) == (None, None)


@on_both
async def test_callbacks_are_sync_or_async_and_each_has_its_own_copy(world: HubWorld) -> None:
    heard: list[Any] = []

    async def later(document: dict[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        heard.append(document)
        document.clear()

    told = Told()
    client = world.client()
    client.on_config_update(later)
    client.on_config_update(told)
    world.post(having(symbols=["GBPUSD"]))
    await client.init_async()
    assert told.documents == [having(symbols=["GBPUSD"])]
    assert heard == [{}]
    assert client.get_value(SYMBOLS) == ["GBPUSD"]


@on_both
async def test_a_callback_that_fails_ends_nothing(world: HubWorld) -> None:
    told = Told()

    def bad(document: dict[str, Any]) -> None:
        raise RuntimeError(f"words of its own: {document}")

    async def worse(document: dict[str, Any]) -> None:
        raise KeyError(str(document))

    with capture_logs() as logs:
        async with world.client() as client:
            for callback in (bad, worse, told):
                client.on_config_update(callback)
            for count, symbol in enumerate(("GBPUSD", "USDJPY"), 1):
                world.post(having(symbols=[symbol]))
                client.nudge()
                assert await told.times(count) == having(symbols=[symbol])
    failed = [entry["why"] for entry in logs if entry["log_level"] == "error"]
    assert [why.partition(":")[0] for why in failed] == ["RuntimeError at test_hub.py", "KeyError at test_hub.py"] * 2


@on_both
async def test_a_callback_may_ask(world: HubWorld) -> None:
    client = world.client()
    found: list[Any] = []

    async def ask(_document: dict[str, Any]) -> None:
        found.append(await client.get_config(force_refresh=True))

    client.on_config_update(ask)
    world.post(having(symbols=["GBPUSD"]))
    await client.init_async()
    assert found == [having(symbols=["GBPUSD"])]


@on_both
async def test_what_goes_wrong_inside_goes_out_as_it_is(world: HubWorld) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with world.client():
            raise LookupError("mine")


@on_both
async def test_it_can_be_closed_inside_and_twice_and_without_having_begun(world: HubWorld) -> None:
    async with world.client() as client:
        await client.aclose()
        await client.aclose()
    assert await client.get_config() == SAFE
    await world.client().aclose()


# Refused ------------------------------------------------------------------------------------------------------------


@on_both
async def test_what_is_refused_is_told_once_with_all_its_faults_and_what_was_in_force_stays(world: HubWorld) -> None:
    world.post(having(symbols=["GBPUSD"]), version="1")
    client, told = world.client(judge=refusing("nonsense")), Told()
    await client.init_async()
    client.on_config_update(told)
    kept = world.copy.read_bytes()
    bad = {"operational": {"symbols": ["nonsense"]}}
    world.post(bad, version="2", updated_by="mallory")
    with capture_logs() as logs:
        for _ in range(3):
            assert await client.get_config(force_refresh=True) == having(symbols=["GBPUSD"])
    snapshot, refusal = client.snapshot(), client.snapshot().last_refusal
    assert refusal is not None
    assert (refusal.source, refusal.version, refusal.updated_by) == ("hub", "2", "mallory")
    assert refusal.faults == ("operational.symbols: one of them is no symbol", "and another fault")
    assert refusal.digest == digest(bad)
    assert (snapshot.source, snapshot.version, snapshot.refused, snapshot.last_error) == ("hub", "1", 1, None)
    assert [entry["faults"] for entry in logs] == [refusal.faults]
    assert world.copy.read_bytes() == kept
    assert not told.documents

    world.post(having(symbols=["USDJPY"]))
    assert await client.get_config(force_refresh=True) == having(symbols=["USDJPY"])
    assert client.snapshot().last_refusal is None
    world.post(bad)
    await client.get_config(force_refresh=True)
    assert client.snapshot().refused == 2, "it was good in between: it is news again"


@on_both
async def test_a_judge_that_fails_does_not_end_the_watch(world: HubWorld) -> None:
    told, trapped = Told(), anyio.Event()

    def judge(document: Mapping[str, Any]) -> Mapping[str, Any]:
        if "trap" in document:
            trapped.set()
            raise KeyError(document["trap"])
        return document

    with capture_logs() as logs:
        async with world.client(judge=judge) as client:
            client.on_config_update(told)
            world.post({"trap": "hunter2"})
            client.nudge()
            await trapped.wait()
            refusal = client.snapshot().last_refusal
            world.post(having(symbols=["GBPUSD"]))
            client.nudge()
            assert await told.times(1) == having(symbols=["GBPUSD"])
    assert refusal is not None
    assert refusal.faults[0].startswith("judging it failed, which is a bug: KeyError at test_hub.py:")
    assert "hunter2" not in str(logs) + str(refusal)


@on_both
async def test_what_the_judge_gives_back_is_what_is_in_force_and_kept(world: HubWorld) -> None:
    def judge(document: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"symbols": tuple(document["operational"]["symbols"])}

    world.post({"operational": {"symbols": ["GBPUSD"]}, "more": 1})
    client = world.client(judge=judge)
    assert await client.get_config() == {"symbols": ["GBPUSD"]}
    assert json.loads(world.copy.read_text())["config"] == {"symbols": ["GBPUSD"]}


def test_safe_defaults_that_the_judge_refuses_are_a_bug_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationRefused):
        ConfigClient(SERVICE, SAFE, url="http://hub", api_key=KEY, copy=tmp_path / "c", judge=refusing("EURUSD"))


# The last good copy -------------------------------------------------------------------------------------------------


@on_both
async def test_away_at_the_start_without_a_copy(world: HubWorld) -> None:
    world.go()
    client, told = world.client(), Told()
    client.on_config_update(told)
    with capture_logs() as logs:
        await client.init_async()
    snapshot = client.snapshot()
    assert await client.get_config() == SAFE
    assert (snapshot.source, snapshot.fetches, snapshot.failures) == ("safe defaults", 3, 3)
    assert snapshot.fetched_ms is None
    assert snapshot.last_error is not None
    assert "can't be reached" in snapshot.last_error
    assert [entry["event"] for entry in logs] == ["no configuration from Central Hub", "starting without Central Hub"]
    assert not told.documents


@on_both
async def test_away_at_the_start_with_a_copy_and_back_with_a_change(world: HubWorld) -> None:
    world.post(having(symbols=["GBPUSD"]), version="3", updated_by="alice")
    await world.client(now_ms=lambda: 1000).init_async()
    world.go()
    told = Told()
    with capture_logs() as logs:
        async with world.client(now_ms=lambda: 61_000) as client:
            assert await client.get_config() == having(symbols=["GBPUSD"])
            snapshot = client.snapshot()
            assert (snapshot.source, snapshot.copied_ms, snapshot.fetched_ms) == ("last good copy", 1000, None)
            assert (snapshot.version, snapshot.updated_by) == ("3", "alice")
            assert logs[-1]["copied_seconds_ago"] == 60
            client.on_config_update(told)
            world.post(having(symbols=["USDJPY"]))
            world.come()
            client.nudge()
            assert await told.times(1) == having(symbols=["USDJPY"])
            snapshot = client.snapshot()
            assert (snapshot.source, snapshot.copied_ms, snapshot.last_error) == ("hub", None, None)
    assert "Central Hub answers again" in [entry["event"] for entry in logs]


@on_both
async def test_the_hub_saying_what_the_copy_says_is_no_change(world: HubWorld) -> None:
    world.post(having(symbols=["GBPUSD"]))
    await world.client().init_async()
    world.go()
    client, told = world.client(), Told()
    await client.init_async()
    client.on_config_update(told)
    world.come()
    await client.get_config(force_refresh=True)
    assert client.snapshot().source == "hub"
    assert not told.documents


@on_both
async def test_away_while_running_and_back_with_a_change(world: HubWorld) -> None:
    world.post(having(symbols=["GBPUSD"]))
    told = Told()
    with capture_logs() as logs:
        async with world.client(poll_seconds=0.02) as client:
            client.on_config_update(told)
            world.go()
            for _ in range(4):
                await client.get_config(force_refresh=True)
            assert await client.get_config() == having(symbols=["GBPUSD"])
            assert client.snapshot().source == "hub"
            world.post(having(symbols=["USDJPY"]))
            world.come()
            assert await told.times(1) == having(symbols=["USDJPY"])
    said = [entry["event"] for entry in logs]
    assert said == ["no configuration from Central Hub", "Central Hub answers again"], "once, not at every failure"


@on_both
async def test_a_copy_is_judged_again(world: HubWorld) -> None:
    world.post(having(symbols=["GBPUSD"]))
    await world.client().init_async()
    world.go()
    client = world.client(judge=refusing("GBPUSD"))
    assert await client.get_config() == SAFE
    refusal = client.snapshot().last_refusal
    assert refusal is not None
    assert refusal.source == "last good copy"
    assert client.snapshot().source == "safe defaults"


@on_both
@pytest.mark.parametrize("content", [b"", b"\0\xff", b"[]", b'{"config": 1}', b"[" * 5000])
async def test_a_damaged_copy_is_told_and_replaced(world: HubWorld, content: bytes) -> None:
    world.copy.parent.mkdir()
    world.copy.write_bytes(content)
    world.go()
    with capture_logs() as logs:
        client = world.client()
        assert await client.get_config() == SAFE
    assert (logs[0]["event"], logs[0]["file"]) == ("the last good configuration can't be read", str(world.copy))
    world.post(having(symbols=["GBPUSD"]))
    world.come()
    await client.get_config(force_refresh=True)
    assert json.loads(world.copy.read_text())["config"] == having(symbols=["GBPUSD"])


@on_both
async def test_a_copy_of_another_service_is_none(world: HubWorld) -> None:
    world.post(having(symbols=["GBPUSD"]))
    await world.client().init_async()
    world.copy.write_text(world.copy.read_text().replace(SERVICE, "tick-aggregator"))
    world.go()
    assert await world.client().get_config() == SAFE


@on_both
async def test_the_copy_is_for_us_alone_and_nothing_else_is_left(world: HubWorld) -> None:
    for symbol in ("GBPUSD", "USDJPY"):
        world.post(having(symbols=[symbol]))
        await world.client().init_async()
        assert stat.S_IMODE(world.copy.stat().st_mode) == 0o600
        assert stat.S_IMODE(world.copy.parent.stat().st_mode) == 0o700
        assert list(world.copy.parent.iterdir()) == [world.copy]
        assert json.loads(world.copy.read_text())["config"] == having(symbols=[symbol])


@on_both
async def test_a_copy_that_cannot_be_kept_costs_nothing_but_itself_and_is_told_once(world: HubWorld) -> None:
    world.copy.parent.write_text("a file where a folder should be")
    world.post(having(symbols=["GBPUSD"]))
    client = world.client()
    with capture_logs() as logs:
        for _ in range(3):
            assert await client.get_config(force_refresh=True) == having(symbols=["GBPUSD"])
    assert [entry["event"] for entry in logs] == [
        "the last good configuration can't be read",
        "the last good configuration can't be kept",
    ]
    world.copy.parent.unlink()
    await client.get_config(force_refresh=True)
    assert world.copy.exists(), "tried again"


@on_both
async def test_the_time_of_the_copy_is_renewed_at_times(world: HubWorld) -> None:
    world.post(having(symbols=["GBPUSD"]))
    now = [1000]
    client = world.client(now_ms=lambda: now[0])
    for later, kept in ((0, 1000), (lastgood.RENEW_MS, 1000), (1, 1001 + lastgood.RENEW_MS)):
        now[0] += later
        await client.get_config(force_refresh=True)
        assert json.loads(world.copy.read_text())["fetched_ms"] == kept


# Keys, secrets, and no Hub at all -----------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("key", [KEY, Secret(KEY)])
async def test_the_key_goes_in_a_header(world: HubWorld, key: Any) -> None:
    world.hub = type(world.hub)(api_key=KEY)
    world.go()
    world.come()
    world.post(having(symbols=["GBPUSD"]))
    client = world.client(api_key=key)
    assert await client.get_config() == having(symbols=["GBPUSD"])
    assert all(asked.headers["x-api-key"] == KEY and KEY not in asked.target for asked in world.hub.asked)
    stranger = world.client(api_key="another-key", copy=world.copy.parent / "other.json")
    assert await stranger.get_config() == SAFE
    error = stranger.snapshot().last_error
    assert error is not None
    assert "POLYGON_LIVE_HUB_API_KEY" in error
    assert "another-key" not in error


@on_both
async def test_secrets_that_were_posted_appear_nowhere(world: HubWorld, capfd: pytest.CaptureFixture[str]) -> None:
    secret = "hunter2-3f9a"
    config = having(symbols=["GBPUSD"]) | {
        "api_key": secret,
        "apiToken": [secret],
        "inner": {"dbPassword": {"deeper": secret}, "feed": f"nats://us:{secret}@host", "feeds": [f"x://{secret}@h"]},
    }

    def fail(document: dict[str, Any]) -> None:
        raise RuntimeError(str(document))

    world.post(config)
    client = world.client()
    client.on_config_update(fail)
    with capture_logs() as logs:
        await client.init_async()
        for fault in ("half-json", "no-config", "config-word"):
            world.hub.faults.append(FAULTS[fault])
            await client.get_config(force_refresh=True)
        assert client.get_value("inner.dbPassword.deeper") == secret, "taken as it is, for there is no judge"
        bad = {**config, "operational": {"symbols": ["nonsense", secret]}}
        strict = world.client(judge=refusing("nonsense"))
        world.post(bad)
        await strict.init_async()
    assert strict.snapshot().refused == 1
    kept = json.loads(world.copy.read_text())
    assert kept["config"] == having(symbols=["GBPUSD"]) | {"inner": {"feeds": []}}
    shown = [world.copy.read_text(), repr(client.snapshot()), repr(strict.snapshot()), str(logs), *capfd.readouterr()]
    assert [text for text in shown if secret in text] == []


@on_both
async def test_without_a_hub_the_safe_defaults_hold(world: HubWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYGON_LIVE_HUB_URL", raising=False)
    async with world.client(url=None) as client:
        client.nudge()
        assert await client.get_config(force_refresh=True) == SAFE
    snapshot = client.snapshot()
    assert (snapshot.url, snapshot.source, snapshot.fetches) == (None, "safe defaults", 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "hub:7000"}, "POLYGON_LIVE_HUB_URL"),
        ({"url": "http://me:hunter2@hub:7000"}, "POLYGON_LIVE_HUB_URL"),
        ({"url": "http://\x7fhunter2:7000"}, "POLYGON_LIVE_HUB_URL"),
        ({"url": "http://hunter2..b:7000"}, "POLYGON_LIVE_HUB_URL"),
        ({"api_key": "hunter2\nX-Evil: 1"}, "POLYGON_LIVE_HUB_API_KEY"),
        ({"api_key": "hunter2é"}, "POLYGON_LIVE_HUB_API_KEY"),
    ],
)
def test_settings_that_cannot_be_used_are_told_at_once_without_showing_them(
    settings: dict[str, str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        ConfigClient(SERVICE, SAFE, **({"url": "http://hub", "api_key": KEY} | settings), copy=tmp_path / "copy")  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


def test_it_can_be_made_where_no_event_loop_runs(tmp_path: Path) -> None:
    client = ConfigClient(SERVICE, SAFE, url="http://127.0.0.1:9", api_key=KEY, copy=tmp_path / "copy")
    client.nudge()
    assert asyncio.run(client.get_config()) == SAFE


# The Hub's discovery ------------------------------------------------------------------------------------------------


class Beats:
    """A status that counts how often it was asked for."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.there = anyio.Event()
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        if self.count == self.enough:
            self.there.set()
        if self.count == 1:
            raise LookupError("nobody knows")
        return "healthy"


def _mine(status: Beats) -> Registration:
    return Registration(host="collector", port=8000, version="0.1.0", instance_id="polygon-live-1", status=status)


@on_both
async def test_it_registers_and_beats_if_it_is_asked_to(world: HubWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "BEAT_SECONDS", 0.01)
    status = Beats(4)
    async with world.client(registration=_mine(status)):
        await status.there.wait()
    assert world.hub.registered[SERVICE] == {
        "name": SERVICE,
        "host": "collector",
        "port": 8000,
        "protocol": "http",
        "health_endpoint": "/health",
        "version": "0.1.0",
        "metadata": {"instance_id": "polygon-live-1"},
    }
    assert [beat["status"] for beat in world.hub.heartbeats[:3]] == ["unknown", "healthy", "healthy"]
    assert world.hub.heartbeats[0].keys() == {"service_name", "instance_id", "status", "timestamp", "metrics"}


@on_both
async def test_it_does_neither_unless_it_is_asked_to(world: HubWorld) -> None:
    told = Told()
    async with world.client() as client:
        client.on_config_update(told)
        world.post(having(symbols=["GBPUSD"]))
        client.nudge()
        await told.times(1)
    assert {asked.method for asked in world.hub.asked} == {"GET"}


@on_both
async def test_a_discovery_that_fails_hinders_nothing_and_is_told_once(
    world: HubWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "BEAT_SECONDS", 0.01)
    refused = Semaphore(0)

    def no_discovery(right: Answer, asked: Asked) -> Answer:
        if asked.method == "GET":
            return right
        refused.release()
        return saying(501, {"detail": "deprecated"})

    world.hub.fault = no_discovery
    status, told = Beats(1), Told()
    with capture_logs() as logs:
        async with world.client(registration=_mine(status)) as client:
            client.on_config_update(told)
            for _ in range(4):
                await anyio.to_thread.run_sync(refused.acquire)
            world.post(having(symbols=["GBPUSD"]))
            client.nudge()
            await told.times(1)
            world.hub.fault = None
            await status.there.wait()
    assert [entry["event"] for entry in logs].count("the Hub's discovery does not take us") == 1
    assert SERVICE in world.hub.registered
