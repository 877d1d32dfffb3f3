"""What the stores say they have, from real servers."""

from collections import Counter

import psycopg
import pytest
from kafka import KafkaProducer

from polygon_live.config import KafkaAccess, Secret
from polygon_live.embedded import Broker
from polygon_live.engines.kafka import TOPIC, ArchiveHolder
from polygon_live.engines.postgres import TableHolder, connected, instant, set_up
from polygon_live.errors import StoreMisconfigured, StoreUnavailable
from polygon_live.matching import Held, Missing
from polygon_live.model import Tick, encode
from polygon_live.wire import Quote
from tests.waiting import PATIENCE_SECONDS, in_thread

pytestmark = pytest.mark.engine
NOON_S = 1_780_401_600
NOON = NOON_S * 1000
ADOPTED = """
    create domain price as numeric(10, 4);
    create table market_ticks (time timestamp not null, symbol text, bid real, ask price, mid numeric, spread numeric,
        timestamp_ms numeric, source text, event_type text, tenant_id text) partition by range (time);
    create table all_of_it partition of market_ticks for values from (minvalue) to (maxvalue)"""


def rows(dsn: str, *found: tuple[int, str, float, float]) -> None:
    """Time in ms after noon, symbol, bid, ask."""
    with psycopg.connect(dsn) as connection:
        for number, (ms, symbol, bid, ask) in enumerate(found):
            connection.execute(
                "insert into market_ticks (time, timestamp_ms, symbol, bid, ask, mid, spread, source, event_type, "
                "tenant_id, collector, seq, received_ms, ingested_at) values "
                "(%s, %s, %s, %s, %s, 0, 0, 'x', 'quote', 'system', 'c', %s, 0, now())",
                [instant(NOON + ms), NOON + ms, symbol, bid, ask, number],
            )


async def made(dsn: str) -> TableHolder:
    async with connected(Secret(dsn), "test") as session:
        await session.run(PATIENCE_SECONDS, "set up", lambda c: set_up(c, instant(NOON)))
    return TableHolder(Secret(dsn), "test-1", lambda: 7)


async def test_the_table_counts_by_second_and_price(database: str) -> None:
    holder = await made(database)
    rows(
        database,
        (-1, "EURUSD", 1.1, 1.2),
        (0, "EURUSD", 1.1, 1.2),
        (999, "EURUSD", 1.1, 1.2),
        (999, "GBPUSD", 1.1, 1.2),
        (999, "EURUSD", 1.12146, 1.1215),
        (1000, "EURUSD", 1.1, 1.2),
        (2000, "EURUSD", 1.1, 1.2),
    )
    held = await holder.held("EURUSD", NOON, NOON + 2000)
    assert held.counts == Counter({(NOON_S, 1.1, 1.2): 2, (NOON_S, 1.12146, 1.1215): 1, (NOON_S + 1, 1.1, 1.2): 1})
    assert held.as_stored(1.12146, 1.1215) == (1.12146, 1.1215)
    assert holder.cursor() == 7
    assert (await holder.held("XAUUSD", NOON, NOON + 2000)).counts == Counter()


def lacking(held: Held, *quotes: tuple[float, float]) -> list[bool]:
    missing = Missing(held)
    return [missing.lacks(Quote("EUR/USD", ask, bid, NOON)) for bid, ask in quotes]


async def test_a_platforms_table_that_rounds_is_understood(database: str) -> None:
    with psycopg.connect(database) as connection:
        for statement in ADOPTED.split(";"):
            connection.execute(statement)
    holder = await made(database)
    rows(database, (0, "EURUSD", 1.12146, 1.12155), (500, "EURUSD", 1.12146, 1.12154))
    held = await holder.held("EURUSD", NOON, NOON + 1000)
    assert held.counts.total() == 2
    assert lacking(held, (1.12146, 1.12155), (1.12146, 1.12154), (1.12146, 1.12155)) == [False, False, True]
    assert lacking(held, (1e300, 1e300), (float("inf"), float("inf")), (float("nan"), 1.1)) == [True] * 3


async def test_without_a_table_or_a_server_it_says_so(database: str) -> None:
    holder = TableHolder(Secret(database), "test-1", lambda: None)
    with pytest.raises(StoreMisconfigured, match="there is no table market_ticks"):
        await holder.held("EURUSD", NOON, NOON + 1000)
    nowhere = TableHolder(Secret("postgresql://127.0.0.1:1/x"), "test-1", lambda: None)
    with pytest.raises(StoreUnavailable):
        await nowhere.held("EURUSD", NOON, NOON + 1000)


def archived(address: str, *found: tuple[int, str, float] | tuple[int, str, bytes]) -> None:
    """Time in ms after noon, symbol, and bid or something else, in the order in which they were written."""
    producer = KafkaProducer(bootstrap_servers=[address])
    try:
        for ms, symbol, bid in found:
            at = NOON + ms
            tick = Tick(symbol, bid, 1.2, 1.2, 0.1, at, at, 48, "x", "quote", 1, at) if isinstance(bid, float) else None
            value = encode(tick) if tick else bid
            producer.send(TOPIC, value, key=symbol.encode(), timestamp_ms=at).get(PATIENCE_SECONDS)
    finally:
        producer.close()


async def test_the_archive_counts_what_was_written_late_too(broker: Broker) -> None:
    holder = ArchiveHolder(KafkaAccess((broker.address,)), lambda: 7)
    await in_thread(
        lambda: archived(
            broker.address,
            (-5000, "EURUSD", 1.1),
            (0, "EURUSD", 1.1),
            (0, "GBPUSD", 1.1),
            (2000, "EURUSD", 1.1),
            (3_600_000, "EURUSD", 1.1),
            (0, "EURUSD", b"no tick"),
            (1000, "EURUSD", 1.1),
            (0, "EURUSD", 1.1),
            (-1000, "EURUSD", 1.1),
            (0, "EURUSD", 1.12146),
        )
    )
    held = await holder.held("EURUSD", NOON, NOON + 2000)
    assert held.counts == Counter({(NOON_S, 1.1, 1.2): 2, (NOON_S, 1.12146, 1.2): 1, (NOON_S + 1, 1.1, 1.2): 1})
    assert (await holder.held("EURUSD", NOON + 7_200_000, NOON + 7_300_000)).counts == Counter()


async def test_without_a_topic_or_a_broker_it_says_so(broker: Broker) -> None:
    with pytest.raises(StoreMisconfigured, match="no topic"):
        await ArchiveHolder(KafkaAccess((broker.address,)), lambda: None).held("EURUSD", NOON, NOON + 1000)
    with pytest.raises(StoreUnavailable):
        await ArchiveHolder(KafkaAccess(("127.0.0.1:1",)), lambda: None).held("EURUSD", NOON, NOON + 1000)
