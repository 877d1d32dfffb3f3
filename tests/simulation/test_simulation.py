"""Two hundred seeds, and that a seed is all that decides."""

import os
import subprocess
import sys

import pytest
import trio

from tests.simulation.run import simulate
from tests.simulation.seeded import ThreadStarted, run_seeded

SEEDS = 200
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_every_promise_is_kept(part: int) -> None:
    verdicts = [simulate(seed) for seed in range(part, SEEDS, PARTS)]
    told = [f"{v.story}\n{chr(10).join(v.broken)}\nops/just sim SEED={v.seed}" for v in verdicts if v.broken]
    assert not told, "\n\n".join(told)
    assert sum(v.accepted for v in verdicts) > 10 * len(verdicts)


@pytest.mark.parametrize("seed", [3, 23])
def test_a_seed_is_all_that_decides(seed: int) -> None:
    """In other processes, whose sets are in another order."""
    digests = {simulate(seed).digest}
    for hashing in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulation", f"SEED={seed}"],
            env={**os.environ, "PYTHONHASHSEED": hashing},
            check=True,
            capture_output=True,
            text=True,
        )
        digests.add(told.stdout.split()[-1])
    assert len(digests) == 1


def test_no_thread_is_started_in_it() -> None:
    async def main() -> None:
        await trio.to_thread.run_sync(int)

    with pytest.raises(ThreadStarted):
        run_seeded(main, 1)


def test_the_order_of_tasks_follows_from_the_seed() -> None:
    def order(seed: int) -> list[int]:
        ran: list[int] = []

        async def one(number: int) -> None:
            await trio.lowlevel.checkpoint()
            ran.append(number)

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(one, number)

        run_seeded(main, seed)
        return ran

    assert order(1) == order(1)
    assert order(1) != order(2)
