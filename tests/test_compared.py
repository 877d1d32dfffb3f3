"""What is said of the comparison: never more than was compared, and always with the numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from polygon_live.blocks import Block
from polygon_live.compared import UNVERIFIED, StoreCompared, compared
from polygon_live.holdings import Held
from polygon_live.judging import Judge
from polygon_live.keeper import Keeper
from polygon_live.runs import Run, without
from tests import journaling
from tests.pipelines import Directly
from tests.test_status import DIFFERENCE

MORNING = 1_700_035_455_000
STORES = tuple(
    StoreCompared(
        name=name,
        up_to_ms=MORNING + n * 1000,
        behind_seconds=1.0,
        one_in=1.0,
        whole_share=0.0,
        compared=10,
        skipped=0,
        differences=(),
        cannot=None,
        worked_ms=MORNING,
    )
    for n, name in enumerate(("timescale", "nats", "kafka"))
)
AT = "2023-11-15 08:04:15 UTC"
NATS = "of NATS what it acknowledged"


def told(**changes: Any) -> str:
    """Of three stores, the third one changed."""
    return compared([*STORES[:2], attrs.evolve(STORES[2], **changes)], 0.01).told


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, f"verified complete up to 2023-11-15 08:04:15 UTC ({NATS})"),
        ({"up_to_ms": MORNING - 60_000}, f"verified complete up to 2023-11-15 08:03:15 UTC ({NATS})"),
        ({"up_to_ms": None}, f"nothing is verified yet ({NATS})"),
        (
            {"differences": (DIFFERENCE,)},
            f"verified up to 2023-11-15 08:04:15 UTC but for a difference ({NATS})",
        ),
        (
            {"differences": (DIFFERENCE, DIFFERENCE)},
            f"verified up to 2023-11-15 08:04:15 UTC but for 2 differences ({NATS})",
        ),
        (
            {"one_in": 4.0, "whole_share": 0.112},
            "verified up to 2023-11-15 08:04:15 UTC (kafka: one block in 4: all would cost 11% of a core; "
            + NATS
            + ")",
        ),
        (
            {"cannot": "no right"},
            f"verified complete up to {AT} (kafka can't be compared now, last at {AT}: no right; {NATS})",
        ),
    ],
)
def test_in_a_sentence(changes: dict[str, Any], says: str) -> None:
    assert told(**changes) == says


def test_where_nothing_compares() -> None:
    assert UNVERIFIED.told == "nothing is verified"
    assert UNVERIFIED.differences == ()


def test_what_mends_which_difference() -> None:
    many = attrs.evolve(DIFFERENCE, store="kafka", symbols=("A", "B", "C", "D", "E")).in_words("c")
    assert many.mend.count("polygon-live backfill --symbol") == 3
    assert many.mend.endswith(", and so for 2 more")
    assert "--symbol SYMBOL" in attrs.evolve(DIFFERENCE, store="kafka", symbols=()).in_words("c").mend
    nats = attrs.evolve(DIFFERENCE, store="nats").in_words("c")
    assert nats.sentence.startswith("nats has no acknowledgement of 3 of 10000 ticks")
    assert nats.mend.endswith("--into nats")
    doubled = attrs.evolve(DIFFERENCE, missing=0, doubled=2).in_words("c")
    assert doubled.sentence.startswith("timescale has 2 too many of 10000 ticks")
    assert "seq between 101 and 10100" in doubled.mend
    both = attrs.evolve(DIFFERENCE, doubled=2).in_words("c")
    assert both.sentence.startswith("timescale lacks 3 and has 2 too many of 10000")


@attrs.frozen
class Holds:
    """A store that has these numbers, and of what is older than ``keeps_ms`` says nothing."""

    runs: Sequence[Run]
    keeps_ms: int | None
    sampling = None

    async def equal(self, blocks: Sequence[Block]) -> Sequence[bool | None]:
        return [False for _ in blocks]

    async def look(self, block: Block) -> Held:
        del block
        return Held(self.runs, 0)

    def forget(self) -> None:
        pass


class Counting(Directly):
    """``asked``: how many pieces of work there were."""

    asked = 0

    async def __call__(self, work: Any, /) -> Any:
        self.asked += 1
        return await super().__call__(work)


@pytest.mark.parametrize(
    ("missing", "keeps_ms", "lacking", "reads"),
    [
        ([(n, n) for n in range(2, 3000, 2)], None, 1499, 3),
        ([(1, 3000)], None, 3000, 3),
        ([(5, 5), (2900, 2910)], None, 12, 2),
        ([(1000, 1001), (1500, 1500), (2000, 2001)], None, 5, 2),
        ([(n, n) for n in range(2, 3000, 2)], 2000, 1000, 3),  # a tick's time is its number
        ([(3000, 3100)], None, 101, 2),  # of which the journal has the first alone
    ],
)
async def test_what_is_missing_is_looked_up_in_one_pass(
    tmp_path: Path, missing: Sequence[Run], keeps_ms: int | None, lacking: int, reads: int
) -> None:
    block = Block(1, 3100, 1, 3100, (1, 3100), None)
    with journaling.journal(tmp_path / "journal") as journal:
        journaling.grow(journal, 30, 100)
        call = Counting()
        keeper = Keeper(journal, call, sync_seconds=1.0, wall_ms=lambda: 3000, cursors=dict, remembered=dict)
        judge = Judge(keeper, "polygon-live-1", lambda: 3000)
        found = await judge.judge("timescale", Holds(without([(block.first, block.last)], missing), keeps_ms), block)
    assert found is not None
    assert (found.missing, found.symbols) == (lacking, ("EURUSD",))
    in_journal = without(missing, [(3001, 3100)])
    oldest = 3000 - keeps_ms if keeps_ms else 0
    assert (found.from_ms, found.to_ms) == (max(in_journal[0][0], oldest), in_journal[-1][1] + 1)
    assert call.asked == reads + 1, "and once for what is told of elsewhere"
