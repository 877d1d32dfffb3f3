"""Two hundred seeds, and that a seed is all that decides."""

import os
import random
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

from tests.simulation.disk import Disk
from tests.simulation.mutants import MUTANTS, ROOT, Mutant
from tests.simulation.plan import End, draw
from tests.simulation.run import play, simulate
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


def test_what_a_power_cut_left_empty_can_not_be_spoilt(tmp_path: Path) -> None:
    for name in ("journal-1.db", "journal-2.db"):
        (tmp_path / name).touch()
    assert Disk(tmp_path).spoil(random.Random(1)) is None


def test_a_fault_of_the_simulation_ends_it_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def falls(self: Disk, into: Path) -> Disk:
        raise OSError(f"no room for {self.folder} as {into.name}")

    monkeypatch.setattr(Disk, "killed", falls)
    plan = draw(3)
    (told, *_) = play(attrs.evolve(plan, ends=(End("kill", 1.0, 5, 0.0),))).broken
    assert "the simulation itself fell" in told
    assert "no room for" in told


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


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_way_of_breaking_it_still_stands_once_in_the_code(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.here) == 1
