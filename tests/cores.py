"""A process of its own that keeps to one core, told of a made-up load: ``python -m tests.cores FOLDER``.

Prints, for each move, the cores that its own threads may use, and those of a thread named as librdkafka names them.
"""

import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import trio

from polygon_live import logs
from polygon_live.commands import core

MOVES = 3


def cores_of(pid: int, *without: int) -> set[int]:
    """On which the threads of this process may be, but for some of them."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended
            found |= set() if int(task.name) in without else os.sched_getaffinity(int(task.name))
    return found


class Load:
    """/proc/stat of a machine on which one core is busy with others, and the rest idle."""

    def __init__(self, path: Path, cores: set[int]) -> None:
        self.path = path
        self.cores = cores
        self.hog = max(cores)
        self._spent = dict.fromkeys(cores, 0.0)
        self._at = time.monotonic()

    async def go_on(self) -> None:
        while True:
            now = time.monotonic()
            self._spent[self.hog] += now - self._at
            self._at = now
            lines = [f"cpu{n} {round(s * 100)} 0 0 12345 0 0 0 0 0 0" for n, s in self._spent.items()]
            new = self.path.with_suffix(".new")
            new.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 12 3", ""]))
            new.replace(self.path)
            await trio.sleep(0.01)


def named(ready: threading.Event, told: list[int]) -> None:
    Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("rdk:broker1")
    told.append(threading.get_native_id())
    ready.set()
    threading.Event().wait()


async def main(folder: Path) -> None:
    ready, free = threading.Event(), list[int]()
    threading.Thread(target=named, args=(ready, free), daemon=True).start()
    ready.wait()
    allowed = os.sched_getaffinity(0)
    load = Load(folder / "stat", allowed)
    load.path.write_text("")
    own: set[int] = allowed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.go_on)
        nursery.start_soon(core.keep_to_one_core, load.path)
        for _ in range(MOVES):
            before = own
            while own == before or len(own) > 1:
                await trio.sleep(0.01)
                own = cores_of(os.getpid(), *free)
            sys.stdout.write(json.dumps([sorted(own), sorted(os.sched_getaffinity(free[0])), load.hog]) + "\n")
            (load.hog,) = own
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logs.configure("error", "console", ())
    core.FIRST_SECONDS = core.LOOK_SECONDS = 0.05  # type: ignore[misc]
    trio.run(main, Path(sys.argv[1]))
