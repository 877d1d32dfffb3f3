import random

import pytest

from tests.place import Place
from tests.reload import reload


@pytest.mark.engine
async def test_configurations_are_taken_or_refused_whole_and_no_tick_of_the_others_is_lost(
    place: Place, chance: random.Random
) -> None:
    """``ops/just reload`` in short."""
    print(await reload(place, posts=30, rng=chance, per_second=500))  # noqa: T201
