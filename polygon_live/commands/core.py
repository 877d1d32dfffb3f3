"""The whole process on one core: the one that others use least.

All that is Python takes turns on one lock, so there is never work for much more than one core. Left to the kernel, the
threads are spread over all cores, and whoever gets the lock next finds its data in another core's cache: a quarter of
the collector's CPU. So they are kept together, and move together where others crowd them. librdkafka's threads hold no
such lock and go where they like.

A process that was given one core to begin with is left alone.
"""

import os
import random
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import structlog
import trio

FIRST_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 5.0
"""A look costs about a ms."""
CROWDED: Final = 0.2
"""So much more of a core's time others must have had than of the best one's, for it to be left."""
ALIKE: Final = 0.05
"""Among cores that are so much alike chance decides: a second collector begins elsewhere."""
FREE: Final = "rdk:"
"""What the names of librdkafka's threads begin with."""
_STAT: Final = Path("/proc/stat")
_TASKS: Final = Path("/proc/self/task")
_BUSY: Final = (0, 1, 2, 5, 6, 7)
"""In a core's line of /proc/stat (proc(5)): user, nice, system, irq, softirq, steal; not idle, nor waiting."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")

log = structlog.get_logger()


async def keep_to_one_core(stat: Path = _STAT) -> None:
    """For as long as the process runs, or until the kernel refuses. ``stat`` tells how busy each core is."""
    if sys.platform != "linux" or len(allowed := os.sched_getaffinity(0)) < 2:
        return
    ours: int | None = None
    rng = random.Random()
    pause = FIRST_SECONDS
    try:
        before = _busy(stat)
        while True:
            used, began = time.process_time(), time.monotonic()
            await trio.sleep(pause)
            pause, now = LOOK_SECONDS, _busy(stat)
            passed, used = time.monotonic() - began, time.process_time() - used
            others = {core: (now.get(core, 0.0) - before.get(core, 0.0)) / passed for core in allowed}
            if ours is not None:
                others[ours] -= used / passed
            before, was = now, ours
            ours = best(others, ours, rng)
            if ours != was:
                log.info("keeping to one core", core=ours, before=was)
            _settle(ours, allowed)
    except (OSError, ValueError, LookupError) as why:  # no such /proc, or the cores that we may use were changed
        log.info("the cores are left to the kernel", why=str(why))


def best(others: Mapping[int, float], ours: int | None, rng: random.Random) -> int:
    """The core to be on, by the share of each one's time that others had."""
    least = min(others.values())
    if ours is not None and others[ours] <= least + CROWDED:
        return ours
    return rng.choice([core for core, share in others.items() if share <= least + ALIKE])


def _busy(stat: Path) -> dict[int, float]:
    """Seconds, by core, since the machine was started."""
    found = {}
    for line in stat.read_text().splitlines():
        name, *counts = line.split()
        if name.startswith("cpu") and name != "cpu":
            found[int(name[3:])] = sum(int(counts[n]) for n in _BUSY) / _TICKS
    return found


def _settle(core: int, allowed: Collection[int]) -> None:
    """Each time: threads come with the place of whoever began them."""
    for task in _TASKS.iterdir():
        try:
            free = (task / "comm").read_text().startswith(FREE)
            os.sched_setaffinity(int(task.name), allowed if free else {core})
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
