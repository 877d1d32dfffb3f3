"""When the Hub is asked: in virtual time, over streams in memory."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio.to_thread
import pytest
import trio
import trio.testing
from trio.abc import Clock

from polygon_live.backoff import backoff
from polygon_live.hub import ConfigClient, client
from polygon_live.standin import StandInHub
from polygon_live.standin.hub import FAULTS
from tests.feeding import Upper
from tests.hubbing import KEY, SAFE, SERVICE, having
from tests.resting import _Backend, _Transport


class Line:
    """A client and the Hub that it asks."""

    def __init__(self, servers: trio.Nursery, copy: Path) -> None:
        self.hub = StandInHub()
        self.unreachable: set[str] = set()
        self.began = trio.current_time()
        self.client = ConfigClient(
            SERVICE,
            SAFE,
            url="http://hub.example:7000",
            api_key=KEY,
            copy=copy,
            transport=_Transport(_Backend(self.hub, servers, self.unreachable)),
        )

    def asked_at(self) -> list[float]:
        """Seconds since the beginning, to the hundredth."""
        return [round(asked.at - self.began, 2) for asked in self.hub.asked]


@asynccontextmanager
async def line(copy: Path) -> AsyncIterator[Line]:
    async with trio.open_nursery() as servers:
        yield Line(servers, copy)
        servers.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock would jump while one of them works."""

    async def at_once(do: Callable[[], Any], **_: bool) -> Any:
        await trio.lowlevel.checkpoint()
        return do()

    monkeypatch.setattr(anyio.to_thread, "run_sync", at_once)


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every wait that is drawn, the longest."""

    def waits(first: float, most: float, _rng: Random) -> Iterator[float]:
        return backoff(first, most, Upper())

    monkeypatch.setattr(client, "backoff", waits)


async def test_it_asks_every_half_a_minute(tmp_path: Path, autojump_clock: Clock) -> None:
    async with line(tmp_path / "copy") as world, world.client:
        await trio.sleep(91)
        assert world.asked_at() == [0, 30, 60, 90]


async def test_while_there_is_no_answer_the_waits_grow_up_to_that(
    tmp_path: Path, longest: None, autojump_clock: Clock
) -> None:
    async with line(tmp_path / "copy") as world:
        world.hub.fault = FAULTS["unavailable"]
        async with world.client:
            await trio.sleep(100)
            assert world.asked_at() == [0, 0.5, 1.5, 2, 3, 5, 9, 17, 33, 63, 93]
            world.hub.fault = None
            await trio.sleep(60)
            assert world.asked_at()[-2:] == [123, 153]
            world.hub.fault = FAULTS["unavailable"]
            await trio.sleep(27)
            assert world.asked_at()[-4:] == [183, 183.5, 184.5, 186.5], "from the beginning again"


async def test_nudges_without_end_do_not_drown_the_hub(tmp_path: Path, autojump_clock: Clock) -> None:
    async with line(tmp_path / "copy") as world, world.client:
        for _ in range(1000):
            world.client.nudge()
            await trio.sleep(0.001)
        assert world.asked_at() == [0, *(n / 10 for n in range(1, 11))]


async def test_a_start_with_a_hub_that_hangs_takes_ten_seconds(tmp_path: Path, autojump_clock: Clock) -> None:
    async with line(tmp_path / "copy") as world:
        world.hub.fault = FAULTS["slow"]
        await world.client.init_async()
        assert trio.current_time() - world.began == client.START_SECONDS
        error = world.client.snapshot().last_error
        assert error is not None
        assert "no whole answer within 5 s" in error


async def test_with_a_last_good_copy_a_start_waits_two_seconds_for_it_and_is_told_later(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with line(tmp_path / "copy") as before:
        before.hub.post(SERVICE, having(symbols=["AUDUSD"]))
        await before.client.init_async()
    async with line(tmp_path / "copy") as world:
        world.hub.post(SERVICE, having(symbols=["USDJPY"]))
        world.hub.fault = FAULTS["slow"]
        await world.client.init_async()
        assert trio.current_time() - world.began == client.COPY_START_SECONDS
        assert world.client.get_value("operational.symbols") == ["AUDUSD"]
        error = world.client.snapshot().last_error
        assert error is not None
        assert "no answer within 2 s" in error
        world.hub.fault = None
        async with world.client:
            await trio.sleep(1)
            assert world.client.get_value("operational.symbols") == ["USDJPY"]
