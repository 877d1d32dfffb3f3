"""``just reload``: configurations at random are posted to a Hub while ticks flow, a third of them bad in some way.

Each is awaited until it is in force, or refused with all its faults named. In the end there was one connection, and of
the symbols that were in all of them every tick that was sent is in the journal and in the three stores.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import httpx
import trio

from polygon_live import hub
from polygon_live.commands.progress import Progress
from polygon_live.config import NatsAccess, Secret
from polygon_live.document import digest, document
from polygon_live.embedded import Broker, Nats, Postgres
from polygon_live.engines.nats import Publisher
from polygon_live.model import FOURTEEN_SYMBOLS, canonical_symbol
from polygon_live.operational import Operational
from polygon_live.reading import read
from polygon_live.standin import StandIn, StandInHub
from polygon_live.steering import SERVICE
from tests import servers
from tests.collecting import KEY, Running, environment, never_closing
from tests.comparing import archive_agrees, messages_agree, table_agrees
from tests.engines import nats
from tests.never_closing import DEFAULTS
from tests.place import Flow, Place, with_stream
from tests.waiting import PATIENCE_SECONDS, in_thread

KEPT: Final = ("EURUSD", "XAUUSD", "USDJPY", "XAGUSD")
"""In every configuration."""
OTHERS: Final = (*(s for s in FOURTEEN_SYMBOLS if s not in KEPT), "EURAUD", "GBPCHF", "CADJPY")
SECRET: Final = "n0t-t0-be-seen"

SPOILS: Final[tuple[tuple[str, object, str], ...]] = (
    ("symbols", [], "symbols"),
    ("symbols", "EURUSD", "symbols"),
    ("symbols", [*KEPT, "EURO/DOLLAR"], "EURO/DOLLAR"),
    ("symbols", [*KEPT, 7], "symbols"),
    ("symbol", list(KEPT), "symbols"),  # the nearest known name
    ("websocket_reconnect_delay", -1, "websocket_reconnect_delay"),
    ("websocket_reconnect_delay", "5 s", "websocket_reconnect_delay"),
    ("rate_limit_per_second", True, "rate_limit_per_second"),
    ("rate_limit_per_second", None, "rate_limit_per_second"),
    ("validation", [], "validation"),
    ("validation", {"max_spread_bps": 0}, "max_spread_bps"),
    ("validation", {"reanchor_ticks": 2.5}, "reanchor_ticks"),
    ("validation", {"max_spred_bps": SECRET}, "max_spread_bps"),
)
"""Under ``operational``, a value that is no good, and a word that has to stand in the faults."""


@attrs.frozen
class Account:
    """What was done and found."""

    taken: int
    refused: int
    changes: int
    """Symbols that were added or removed."""
    sent: int
    accepted: int

    def __str__(self) -> str:
        return (
            f"{self.taken} configurations taken and {self.refused} refused, {self.changes} symbols added or removed, "
            f"one connection; {self.sent} quotes sent of the symbols in all of them, each in the journal and in the "
            f"three stores, among {self.accepted} ticks"
        )


def good(rng: random.Random) -> dict[str, Any]:
    """One that can be taken, and lets every quote of the test pass."""
    symbols = [*KEPT, *rng.sample(OTHERS, rng.randrange(len(OTHERS)))]
    rng.shuffle(symbols)
    operational: dict[str, Any] = {"symbols": symbols}
    if rng.random() < 0.5:
        operational["websocket_reconnect_delay"] = rng.choice((1, 2.5, 60))
    if rng.random() < 0.5:
        operational["rate_limit_per_second"] = rng.choice((2, 5, 50))
    if rng.random() < 0.5:
        operational["validation"] = {"max_spread_bps": rng.randrange(500, 2000), "suspect_jump_bps": 100_000}
    if rng.random() < 0.3:
        operational["hub_token"] = SECRET  # ignored, and never to be seen
    return {"operational": operational}


def bad(rng: random.Random) -> tuple[dict[str, Any], list[str]]:
    """One with faults, and a word of each."""
    found = good(rng)
    spoils = {spoil[0]: spoil for spoil in rng.sample(SPOILS, rng.choice((1, 1, 2)))}
    found["operational"] |= {name: value for name, value, _ in spoils.values()}
    words = [word for _, _, word in spoils.values()]
    if read(hub.merged(document(DEFAULTS), found)).operational is not None:
        raise AssertionError(f"this was meant to be bad: {found}")
    return found, words


class Reposting:
    """One run."""

    def __init__(self, place: Place, rng: random.Random, standin: StandIn, hub_url: str, there: StandInHub) -> None:
        self._place = place
        self._rng = rng
        self._standin = standin
        self._hub = there
        self._client = httpx.AsyncClient(base_url=hub_url, timeout=30, trust_env=False)
        self._symbols = set(FOURTEEN_SYMBOLS)
        self._counts: Counter[str] = Counter()

    async def post(self, running: Running) -> None:
        """The next one, until it is in force or refused."""
        is_good = self._rng.random() < 2 / 3
        config, words = (good(self._rng), []) if is_good else bad(self._rng)
        if self._rng.random() < 0.7:
            answer = await self._client.post(f"/api/v1/config/{SERVICE}?updated_by=desk", json=config)
            assert answer.json()["broadcast"] == "sent"
        else:
            self._hub.post(SERVICE, deepcopy(config), updated_by="desk")  # unannounced: polling finds it
        expected = read(hub.merged(document(DEFAULTS), config))
        if expected.operational is None:
            await self._refused(running, hub.digest(config), expected.faults, words)
        else:
            await self._taken(running, expected.operational)

    async def _taken(self, running: Running, wanted: Operational) -> None:
        def told(state: Mapping[str, Any]) -> bool:
            there = state["configuration"]
            return bool(there["digest"] == digest(wanted) and there["hub"]["last_refusal"] is None)

        state = await running.until_state(told)
        assert state["configuration"]["origins"]["operational.symbols"] == "hub"
        assert state["configuration"]["hub"]["updated_by"] == "desk"
        await self._standin.until(lambda: {canonical_symbol(p) for p in self._standin.pairs} == set(wanted.symbols))
        self._counts["taken"] += 1
        self._counts["changes"] += len(self._symbols.symmetric_difference(wanted.symbols))
        self._symbols = set(wanted.symbols)

    async def _refused(self, running: Running, content: str, faults: tuple[str, ...], words: list[str]) -> None:
        def told(state: Mapping[str, Any]) -> bool:
            refusal = state["configuration"]["hub"]["last_refusal"]
            return bool(refusal and refusal["digest"] == content)

        state = await running.until_state(told)
        refusal = state["configuration"]["hub"]["last_refusal"]
        assert tuple(refusal["faults"]) == faults
        assert refusal["updated_by"] == "desk"
        assert all(word in "\n".join(faults) for word in words), (faults, words)
        self._counts["refused"] += 1

    async def close(self) -> None:
        """Let go of the Hub."""
        await self._client.aclose()

    def account(self, flow: Flow, accepted: list[dict[str, Any]]) -> Account:
        """Raises AssertionError if a tick is missing or too much."""
        sent: defaultdict[str, list[tuple[int, float, float]]] = defaultdict(list)
        for quote in flow.quotes:
            sent[canonical_symbol(quote.p)].append((quote.t, quote.b, quote.a))
        heard: defaultdict[str, list[tuple[int, float, float]]] = defaultdict(list)
        for tick in accepted:
            heard[tick["symbol"]].append((tick["timestamp_ms"], tick["bid"], tick["ask"]))
        for symbol in KEPT:
            assert heard[symbol] == sent[symbol], symbol
        return Account(
            taken=self._counts["taken"],
            refused=self._counts["refused"],
            changes=self._counts["changes"],
            sent=sum(len(sent[symbol]) for symbol in KEPT),
            accepted=len(accepted),
        )


async def reload(place: Place, *, posts: int, rng: random.Random, per_second: int) -> Account:
    """Raises AssertionError if a promise was not kept. The servers are the caller's alone, and run."""
    standin = StandIn(key=KEY)
    flow = Flow(standin)
    publisher = Publisher(NatsAccess((Secret(place.nats.url),)), "hub")
    there = StandInHub(publish=publisher.publish)
    await with_stream(place)
    async with standin.listening() as ws_url, there.listening() as hub_url:
        env = environment(
            place.base, ws_url=ws_url, dsn=place.postgres.dsn, nats_url=place.nats.url, broker=place.broker.address
        )
        env |= {"POLYGON_LIVE_HUB_URL": hub_url, "POLYGON_LIVE_HUB_POLL_SECONDS": "0.5"}
        async with never_closing(env, place.log_path) as running:
            with trio.fail_after(PATIENCE_SECONDS):
                await standin.subscribed(1, len(FOURTEEN_SYMBOLS))
            await running.until_state(lambda state: state["configuration"]["unheard"] is None)
            run = Reposting(place, rng, standin, hub_url, there)
            async with trio.open_nursery() as flowing:
                flowing.start_soon(partial(flow.run, per_second))
                with Progress() as progress:
                    for number in range(posts):
                        with trio.fail_after(PATIENCE_SECONDS):
                            await run.post(running)
                        progress.show("configurations", number + 1, posts)
                flowing.cancel_scope.cancel()
            state = await running.until_state(partial(_has_everything, flow))
            seen = [running.said, (await running.get("/state")).text, (await running.get("/metrics")).text]
            running.signal(signal.SIGTERM)
            assert await running.ended() == 0
            await run.close()
    publisher.close()
    assert (state["feed"]["connections"], state["feed"]["endings"]) == (1, {})
    data = Path(place.base["HOME"]) / "data"
    seen += [path.read_text() for path in (data / "hub").iterdir()]
    assert not [text for text in seen if SECRET in text]
    accepted = await in_thread(place.journal)
    rows = await in_thread(place.rows)
    table_agrees(rows, accepted)
    archive_agrees(await in_thread(place.records), accepted, rows)
    messages_agree([(m.subject, m.tick) for m in await nats.kept(place.nats.url, 300)], accepted, rows, may_wait=True)
    return run.account(flow, accepted)


def _has_everything(flow: Flow, state: Mapping[str, Any]) -> bool:
    newest = {s["symbol"]: s["last"] for s in state["validator"]["symbols"] if s["last"]}
    heard = all(
        (newest[symbol]["timestamp_ms"], newest[symbol]["bid"]) == flow.latest[symbol]
        for symbol in KEPT
        if symbol in newest
    )
    return heard and not any(sink["waiting_ticks"] for sink in state["sinks"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="just reload", description=__doc__)
    parser.add_argument("--posts", type=int, default=300, help="configurations; %(default)s")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="one at random")
    parser.add_argument("--per-second", type=int, default=500, help="quotes; %(default)s")
    asked = parser.parse_args()
    log_path = Path(tempfile.gettempdir(), f"reload-{asked.seed}.log")
    log_path.unlink(missing_ok=True)
    sys.stderr.write(f"seed {asked.seed}; what the collector logs is in {log_path}\n")
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="reload-")))
        folder.chmod(0o755)
        postgres = ending.enter_context(servers.servers(_cluster, folder))()
        nats_server = ending.enter_context(servers.servers(Nats, folder))()
        broker = ending.enter_context(servers.servers(Broker, folder))()
        base = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        place = Place(postgres, nats_server, broker, base, log_path)
        rng = random.Random(asked.seed)
        print(trio.run(partial(reload, place, posts=asked.posts, rng=rng, per_second=asked.per_second)))  # noqa: T201


def _cluster(folder: Path) -> Postgres:
    return Postgres(folder, fsync=False)


if __name__ == "__main__":
    main()
