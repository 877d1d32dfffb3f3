"""A collector on PostgreSQL, JetStream and Apache Kafka, a storm over all of them, and the account of it."""

import signal
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import attrs
import trio

from polygon_live.commands.progress import Progress
from polygon_live.embedded import EmbeddedServer
from polygon_live.standin import RestStandIn, StandIn
from polygon_live.standin.history import History
from tests.chaos.ending import everything, settled
from tests.chaos.lines import Line
from tests.chaos.promises import Counts, kept
from tests.chaos.service import Service
from tests.chaos.storm import Storm
from tests.collecting import KEY, environment
from tests.engines.kafka import Kafka
from tests.place import STORES, Flow, Place, with_stream
from tests.waiting import PATIENCE_SECONDS, in_thread

FIRST_TICKS: Final = 500
"""Every symbol has ticked then: what is missed before is missed by nobody."""
SETTLING_SECONDS: Final = 1200.0
"""For filling what was missed; a limit against hanging for ever."""


@attrs.frozen
class Account:
    """What was done, what the collector warned of, and what was found."""

    done: Mapping[str, Mapping[str, int]]
    warnings: Mapping[str, int]
    counts: Counts

    def __str__(self) -> str:
        done = [f"{name}: {_listed(ways)}" for name, ways in sorted(self.done.items())]
        return "\n".join([*done, f"warnings: {_listed(self.warnings)}", str(self.counts)])


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))


async def besiege(place: Place, progress: Progress, *, kills: int, seed: int, per_second: int) -> Account:
    """Raises AssertionError if a promise was not kept. The servers are the caller's alone and run, but for Kafka's."""
    standin = StandIn(key=KEY)
    standin.history = History(most=10**7)
    rest = RestStandIn(standin.history, key=KEY)
    flow = Flow(standin)
    lines = {store: Line() for store in STORES}
    only_held = () if isinstance(place.broker, Kafka) else ("kafka",)
    async with (
        standin.listening() as ws_url,
        rest.listening() as rest_url,
        lines["timescale"].laid() as to_postgres,
        lines["nats"].laid() as to_nats,
        lines["kafka"].laid() as to_kafka,
        trio.open_nursery() as nursery,
    ):
        progress.wait("starting Kafka and the collector")
        if isinstance(place.broker, Kafka):
            place.broker.advertised = to_kafka
        await in_thread(place.broker.start)
        await with_stream(place)
        for store in STORES:
            lines[store].port = place.server(store).port
        addresses = environment(
            place.base,
            ws_url=ws_url,
            dsn=urlsplit(place.postgres.dsn)._replace(netloc=f"postgres@127.0.0.1:{to_postgres}").geturl(),
            nats_url=f"nats://127.0.0.1:{to_nats}",
            broker=f"127.0.0.1:{to_kafka}" if isinstance(place.broker, Kafka) else place.broker.address,
        )
        service = Service({**addresses, "POLYGON_LIVE_REST_URL": rest_url}, place.log_path)
        servers: dict[str, EmbeddedServer] = {store: place.server(store) for store in STORES}
        storm = Storm(seed, service, standin, rest, servers, lines, progress, only_held=only_held)
        nursery.start_soon(service.run)
        with trio.fail_after(120):
            await standin.subscribed(1, 14)
        async with trio.open_nursery() as flowing:
            flowing.start_soon(partial(flow.run, per_second))
            await (await service.process()).until_delivered(FIRST_TICKS)
            await storm.rage(kills)
            flowing.cancel_scope.cancel()
        progress.wait("waiting until nothing is missing any more")
        await settled(await service.process(), flow, SETTLING_SECONDS)
        await service.stop()
        with trio.fail_after(PATIENCE_SECONDS):
            await service.ended.wait()
        progress.wait("reading what the stores hold")
        found = await everything(place, flow)
        nursery.cancel_scope.cancel()
    assert service.codes == {-signal.SIGKILL: kills, 0: 1}
    said = service.told()
    assert not [line for line in said if "exception" in line]
    assert not [line for line in said if line["event"] == "the store has fallen behind: it is caught up"]
    warnings = Counter(line["event"] for line in said if line["level"] in {"warning", "error"})
    return Account(storm.done, warnings, kept(found))
