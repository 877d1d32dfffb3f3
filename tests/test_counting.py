"""How many of a collector's numbers the table has: on both kinds of storage, and nothing is changed by it."""

import msgspec
import psycopg
import pytest

from polygon_live.blocks import Blocks
from polygon_live.config import Secret
from polygon_live.engines.postgres import TableNumbers
from polygon_live.errors import StoreMisconfigured
from polygon_live.model import Batch, encode
from tests.engines.timescale import Timescale
from tests.hypertables import HOUR_MS, a_tick, do, emptied, opened, wall_ms

pytestmark = pytest.mark.engine
HYPER = pytest.param("timescale", marks=pytest.mark.fetched)


@pytest.fixture(params=["database", HYPER])
def dsn(request: pytest.FixtureRequest) -> str:
    """Of an empty database."""
    found = request.getfixturevalue(request.param)
    return emptied(found) if isinstance(found, Timescale) else str(found)


async def test_what_is_there_is_counted_once_and_what_is_missing_is_found(dsn: str) -> None:
    spent: list[float] = []
    numbers = TableNumbers(Secret(dsn), "c1", spent.append)
    now = wall_ms()
    stamps = [now, now - 7, now - 3, now - 30 * HOUR_MS, now - 31 * HOUR_MS, now]
    ticks = [msgspec.structs.replace(a_tick(n + 1, at), received_ms=now) for n, at in enumerate(stamps)]
    blocks = Blocks()
    for part in (ticks[:3], ticks[3:5], ticks[5:]):
        blocks.add(Batch(part[0].seq - 1, part, [encode(tick) for tick in part]))
    blocks.close()
    (block,) = blocks.closed
    assert len(block.spans) == 2
    with pytest.raises(StoreMisconfigured, match="no table market_ticks"):
        await numbers.count([block])
    async with opened(dsn) as sink:
        await sink.write(Batch(0, ticks, [encode(tick) for tick in ticks]))
    assert await numbers.count([block]) == [(6, 6)]
    do(dsn, "delete from market_ticks where seq in (2, 5)")
    assert await numbers.runs(block) == ((4, 4), [(1, 1), (3, 4), (6, 6)])
    assert sum(spent) > 0


@pytest.mark.parametrize("dsn", ["database"], indirect=True)
async def test_only_the_hours_of_the_block_are_looked_at(dsn: str) -> None:
    numbers = TableNumbers(Secret(dsn), "c1", lambda _: None)
    now = wall_ms()
    tick = a_tick(1, now)
    blocks = Blocks()
    blocks.add(Batch(0, [tick], [encode(tick)]))
    blocks.close()
    async with opened(dsn) as sink:
        await sink.write(Batch(0, [tick], [encode(tick)]))
    with psycopg.connect(dsn) as connection:
        statement, values = numbers._of(connection, blocks.closed[0])
        asked = psycopg.sql.SQL("explain select count(*) from {}").format(statement)
        plan = "\n".join(row[0] for row in connection.execute(asked, values))
    assert 1 <= plan.count(" on market_ticks_") <= 2
