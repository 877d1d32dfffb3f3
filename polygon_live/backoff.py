"""How long to wait before the next try."""

import random
from collections.abc import Iterator


def backoff(first: float, most: float, rng: random.Random) -> Iterator[float]:
    """Seconds to wait, without end: ``first``·2ⁿ up to ``most``, each drawn from the upper half of its range.

    The upper half keeps a fleet from dialling in step and still never retries at once.
    """
    bound = min(first, most)
    while True:
        yield rng.uniform(bound / 2, bound)
        bound = min(most, bound * 2)
