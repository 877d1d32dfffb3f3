"""A whole system for the commands that look at one: three stores, a Hub, a market that never closes."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count, islice
from typing import Any

import attrs
import trio

from polygon_live.config import NatsAccess, Secret
from polygon_live.embedded import Nats
from polygon_live.engines.nats import Publisher
from polygon_live.model import FOURTEEN_SYMBOLS, pair_of
from polygon_live.standin import StandIn, StandInHub
from polygon_live.steering import SERVICE
from polygon_live.wire import Quote
from tests.collecting import KEY, ROOT, Running, environment, never_closing
from tests.place import Place, now_ms
from tests.waiting import PATIENCE_SECONDS

QUICK = ("--seconds", "1")


@attrs.define
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """What it says with --json."""
        return dict(json.loads(self.out))

    @property
    def items(self) -> dict[str, dict[str, Any]]:
        return {item["name"]: item for item in self.answer["items"]}

    def status(self) -> dict[str, str]:
        """Of those that don't hold."""
        return {name: item["status"] for name, item in self.items.items() if item["status"] != "holds"}


async def command(env: Mapping[str, str], *arguments: str) -> Done:
    """``polygon-live …`` as a process, to its end."""
    with trio.fail_after(PATIENCE_SECONDS):
        done = await trio.run_process(
            [sys.executable, "-W", "error::ResourceWarning", "-m", "polygon_live", *arguments],
            env={**env, "PYTHONPATH": str(ROOT)},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@attrs.define
class System:
    """What runs."""

    place: Place
    standin: StandIn
    hub: StandInHub
    running: Running
    env: Mapping[str, str]
    """Of the collector, and of who looks at it."""

    async def check(self, *arguments: str, **more: str) -> Done:
        return await command({**self.env, **more}, "check", "--json", *QUICK, *arguments)


async def _ticking(standin: StandIn, symbols: Sequence[str]) -> None:
    """Quotes of now, of these symbols in turn, for ever: each at least once in five seconds."""

    def quotes() -> Any:
        for n in count():
            bid = 1.1 + n % 89 / 1e5
            yield Quote(pair_of(symbols[n % len(symbols)]), round(bid + 0.0001, 5), bid, now_ms(), 48)

    made = quotes()
    while True:
        standin.send(list(islice(made, max(20, len(symbols) // 50))))
        await trio.sleep(0.1)


@asynccontextmanager
async def system(
    place: Place,
    *,
    standin: StandIn | None = None,
    symbols: Sequence[str] = FOURTEEN_SYMBOLS,
    told: Callable[[Mapping[str, Any]], object] | None = None,
    announce: Nats | None = None,
    collected: Sequence[str] | None = None,
) -> AsyncIterator[System]:
    """Ticks of ``symbols`` flow; ``told`` is what /state has to say before the block begins. ``collected``: what the
    Hub names, if it has anything to say.
    """
    standin = standin or StandIn(key=KEY)
    publisher = Publisher(NatsAccess((Secret((announce or place.nats).url),)), "hub")
    hub = StandInHub(publish=publisher.publish)
    if collected is not None:
        hub.post(SERVICE, {"operational": {"symbols": list(collected)}})
    async with standin.listening() as ws_url, hub.listening() as hub_url:
        env = environment(
            place.base, ws_url=ws_url, dsn=place.postgres.dsn, nats_url=place.nats.url, broker=place.broker.address
        )
        env |= {"POLYGON_LIVE_HUB_URL": hub_url, "POLYGON_LIVE_HUB_POLL_SECONDS": "3600"}
        async with never_closing(env, place.log_path) as running, trio.open_nursery() as nursery:
            with trio.fail_after(PATIENCE_SECONDS):
                await standin.subscribed(1, 1)
            nursery.start_soon(partial(_ticking, standin, symbols))
            await running.until_state(told or well)
            address = running.events("collector started")[0]["status"]
            looking = env | {"POLYGON_LIVE_HTTP_PORT": address.rpartition(":")[2]}
            yield System(place, standin, hub, running, looking)
            nursery.cancel_scope.cancel()
    publisher.close()


def well(state: Mapping[str, Any]) -> bool:
    """Streaming, everything there, retention verified, announcements heard."""
    return bool(
        state["feed"]["state"] == "streaming"
        and state["retention"]["verified"]
        and state["configuration"]["unheard"] is None
        and all(sink["delivered"] > 100 for sink in state["sinks"])
    )
