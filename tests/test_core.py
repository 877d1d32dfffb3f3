"""The process keeps to one core, and moves where others crowd it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from polygon_live.commands.core import ALIKE, CROWDED, best, keep_to_one_core
from tests.collecting import ROOT, collector, environment
from tests.cores import cores_of
from tests.waiting import PATIENCE_SECONDS, until

CORES = sorted(os.sched_getaffinity(0))
some_cores = pytest.mark.skipif(len(CORES) < 2, reason="this machine lets us use one core only")


def test_the_core_that_others_use_least_is_taken_and_left_only_if_that_gains_something() -> None:
    rng = random.Random(7)
    assert best({0: 0.5, 1: 0.1, 2: 0.3}, None, rng) == 1
    assert {best({0: 0.0, 1: ALIKE, 2: 0.1}, None, rng) for _ in range(100)} == {0, 1}, "not all begin on the same one"
    assert best({0: CROWDED, 1: 0.0}, 0, rng) == 0
    assert best({0: CROWDED + 0.01, 1: 0.0}, 0, rng) == 1
    assert best({0: 0.9, 1: 0.8}, 0, rng) == 0, "nowhere is it better"
    assert best({0: -0.1, 1: 0.0}, 0, rng) == 0, "clocks of two kinds don't agree to the last"


@some_cores
def test_all_threads_move_together_but_for_librdkafkas(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tests.cores", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    moves = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(moves) == 3
    for own, free, hog in moves:
        assert len(own) == 1
        assert own != [hog], "away from who crowds it"
        assert free == CORES


@some_cores
async def test_where_it_is_not_told_how_busy_cores_are_they_are_left_to_the_kernel(tmp_path: Path) -> None:
    await keep_to_one_core(tmp_path / "nothing")
    odd = tmp_path / "odd"
    for text in ("cpu0 many of them, and so on, and on\n", "cpu0 1 2\n", "\n", "cpux 1 2 3 4 5 6 7 8\n"):
        odd.write_text(text)
        await keep_to_one_core(odd)
    assert sorted(os.sched_getaffinity(0)) == CORES


@some_cores
async def test_a_collector_keeps_to_one_core(tmp_path: Path) -> None:
    nowhere = environment(
        {"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        ws_url="ws://127.0.0.1:1",
        dsn="postgresql://127.0.0.1:1/x",
        nats_url="nats://127.0.0.1:1",
        broker="127.0.0.1:1",
    )
    async with collector(nowhere, tmp_path / "log") as running:
        await until(lambda: len(cores_of(running.process.pid)) == 1)
        (told,) = running.events("keeping to one core")[:1]
        assert told["core"] in CORES
