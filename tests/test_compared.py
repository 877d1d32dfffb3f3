"""What is said of the comparison: never more than was compared, and always with the numbers."""

from typing import Any

import attrs
import pytest

from polygon_live.compared import UNVERIFIED, StoreCompared, compared
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
