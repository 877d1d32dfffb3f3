"""The whole collector between the engines that its description names: TimescaleDB, three brokers of Apache Kafka, three
nodes of NATS.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from polygon_live.daemon import wall_ms
from polygon_live.model import FOURTEEN_SYMBOLS
from polygon_live.standin import StandIn
from polygon_live.standin.market import real_ticks as quotes_of
from polygon_live.standin.market import replay
from tests import reading, servers
from tests.collecting import KEY, collector, environment
from tests.comparing import archive_agrees, messages_agree, table_agrees, ticks_of
from tests.engines import kafka, nats
from tests.waiting import in_thread

pytestmark = pytest.mark.fetched


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[kafka.Cluster]:
    with kafka.cluster(tmp_path / "kafka") as made:
        yield servers.running(made)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[nats.Cluster]:
    with nats.cluster(tmp_path / "nats") as made:
        yield made


async def test_real_ticks_arrive_complete_in_order_and_exact_though_a_broker_and_a_node_are_killed(
    hyper_database: str,
    brokers: kafka.Cluster,
    nodes: nats.Cluster,
    clean_environment: dict[str, str],
    real_ticks: tuple[Path, ...],
    tmp_path: Path,
) -> None:
    await nodes.whole()
    await nats.made_stream(nodes)
    quotes = [q for path in real_ticks for q in quotes_of(path, wall_ms())]
    standin = StandIn(key=KEY)
    async with standin.listening() as ws_url:
        stores = {"dsn": hyper_database, "nats_url": nodes.urls[0], "broker": brokers.address}
        env = environment(clean_environment, ws_url=ws_url, **stores)
        async with collector(env, tmp_path / "log") as running, trio.open_nursery() as nursery:
            await standin.subscribed(1, len(FOURTEEN_SYMBOLS))
            nursery.start_soon(standin.play, replay(quotes, 1000))
            await running.until_delivered(1000)
            node = nodes.at((await running.sink("nats"))["about"]["server"])
            await in_thread(node.kill)
            await in_thread(brokers[1].kill)
            accepted = (await running.state())["validator"]["accepted"]
            await running.until_delivered(min(accepted + 2000, len(quotes)))  # without them
            await in_thread(node.start)
            await in_thread(brokers[1].start)
            state = await running.until_delivered(len(quotes))
            assert all(sink["lost"] == sink["set_aside"] == 0 for sink in state["sinks"])
            about = {sink["name"]: sink["about"] for sink in state["sinks"]}
            assert "TimescaleDB" in about["timescale"]["edition"]
            assert about["nats"]["mode"] == "jetstream"
            assert about["nats"]["server"] != f"127.0.0.1:{node.port}"
            assert about["kafka"]["copies"] == 3
            rows = await in_thread(lambda: reading.in_database(hyper_database))

    ticks = ticks_of(quotes, rows[0]["seq"])
    table_agrees(rows, ticks)
    messages_agree(await nats.in_stream(nodes.urls[0]), ticks, rows)
    archive_agrees(await in_thread(lambda: reading.in_archive(brokers.address)), ticks, rows)
