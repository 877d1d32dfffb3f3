"""The pipeline is told to collect something else while it runs: in virtual time, over a real journal."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from polygon_live.operational import ALL_PAIRS, Limits, Operational
from polygon_live.validate import NO_LONGER
from polygon_live.wire import encode
from tests.pipelines import World


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path / "journal", symbols=("EURUSD", "XAUUSD"))


def counts(world: World) -> dict[str, int]:
    snapshot = world.pipeline.validator.snapshot(world.sessions)
    return {s.symbol: s.accepted for s in snapshot.symbols}


async def cut(world: World, topics: int) -> None:
    """The connection; back with so many topics subscribed."""
    connections = len(world.standin.connections)
    world.standin.latest.reset()
    await world.standin.subscribed(connections + 1, topics)


async def test_an_added_symbol_streams_on_the_same_connection(world: World, autojump_clock: MockClock) -> None:
    async with world.running() as pipeline:
        await world.tick("EURUSD")
        await pipeline.reconfigure(Operational(symbols=("EURUSD", "XAUUSD", "GBPUSD")))
        await world.standin.subscribed(1, 3)
        await world.tick("EURUSD", "GBPUSD")
        assert counts(world) == {"EURUSD": 2, "XAUUSD": 0, "GBPUSD": 1}
        assert pipeline.feed_snapshot().connections == 1
        assert pipeline.feed_snapshot().acknowledged == ("EURUSD", "GBPUSD", "XAUUSD")


async def test_what_still_comes_of_a_removed_symbol_is_no_reject(world: World, autojump_clock: MockClock) -> None:
    async with world.running() as pipeline:
        await world.tick()
        await pipeline.reconfigure(Operational(symbols=("XAUUSD",)))
        world.standin.latest.send(encode([world.quote("EURUSD")]))  # on its way already when it was removed
        await trio.sleep(1)
        assert counts(world) == {"XAUUSD": 1}
        assert pipeline.rejects.snapshot().counts == {}
        assert pipeline.validator.snapshot(world.sessions).ignored == {NO_LONGER: 1}


async def test_what_lasts_for_a_removed_symbol_ends_and_is_not_resumed_when_it_is_added_again(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.running() as pipeline:
        await world.tick()
        await cut(world, 2)
        await pipeline.reconfigure(Operational(symbols=("XAUUSD",)))
        (ended,) = [gap for gap in world.ledger() if gap.symbol == "EURUSD"]
        assert (ended.state, ended.cause) == ("unfillable", "disconnect")
        assert "no longer collected" in (ended.detail or "")
        await trio.sleep(20)
        await world.tick("XAUUSD")
        await pipeline.reconfigure(Operational(symbols=("XAUUSD", "EURUSD")))
        await cut(world, 2)
        await world.tick()
        assert [gap.id for gap in world.ledger() if gap.symbol == "EURUSD"] == [ended.id]


async def test_a_removed_symbol_lacks_nothing_when_it_is_collected_again_by_another_run(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.running() as pipeline:
        await world.tick()
        await pipeline.reconfigure(Operational(symbols=("XAUUSD",)))
        await world.tick("XAUUSD")
    await trio.sleep(86_400)
    async with world.running():
        await world.tick()
        assert {gap.symbol for gap in world.ledger()} == {"XAUUSD"}


async def test_limits_act_on_the_next_tick(world: World, autojump_clock: MockClock) -> None:
    async with world.running() as pipeline:
        await world.tick("EURUSD")
        await pipeline.reconfigure(Operational(symbols=world.symbols, limits=Limits(max_spread_bps=0.01)))
        await world.tick("EURUSD")
        assert counts(world)["EURUSD"] == 1
        assert pipeline.rejects.snapshot().counts == {"validate": {"spread": 1}}


async def test_all_pairs_and_back(world: World, autojump_clock: MockClock) -> None:
    async with world.running() as pipeline:
        await world.tick()
        await pipeline.reconfigure(Operational(symbols=(ALL_PAIRS,)))
        await trio.sleep(1)
        assert pipeline.feed_snapshot().acknowledged == (ALL_PAIRS,)
        await world.tick("EURUSD", "XAUUSD", "GBPUSD", "USDJPY")
        assert counts(world) == {"EURUSD": 2, "XAUUSD": 2, "GBPUSD": 1, "USDJPY": 1}
        assert set(pipeline.collected) == {"EURUSD", "XAUUSD", "GBPUSD", "USDJPY"}
        await cut(world, 1)
        await world.tick("GBPUSD")
        assert {gap.symbol: gap.to_ms is None for gap in world.ledger()} == {
            "EURUSD": True,
            "XAUUSD": True,
            "GBPUSD": False,
            "USDJPY": True,
        }
        await pipeline.reconfigure(Operational(symbols=("EURUSD", "USDJPY")))
        await world.standin.subscribed(2, 2)
        await world.tick("EURUSD", "USDJPY")
        assert set(counts(world)) == {"EURUSD", "USDJPY"}
        assert pipeline.feed_snapshot().connections == 2
