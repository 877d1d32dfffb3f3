"""One Trio run whose every step follows from a seed: the order of tasks, and a clock that jumps when all of them wait.

Trio shuffles the tasks that are ready, on purpose, with a generator of its own; and the sets in which it keeps them are
ordered by address. With ``_ALLOW_DETERMINISTIC_SCHEDULING`` it sorts before it shuffles (made for Hypothesis). No
thread may be started: its end would fall between any two steps, and the clock would jump over it.
"""

import gc
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import trio
from trio._core import _run, _thread_cache
from trio.testing import MockClock

T = TypeVar("T")


class ThreadStarted(AssertionError):
    """Somebody wanted a thread in a run that must have none."""


class _NoThreads:
    @staticmethod
    def start_thread_soon(fn: Callable[[], object], *_: object) -> NoReturn:
        raise ThreadStarted(f"a thread was asked for, to run {fn!r}: in the simulation everything runs in one")


def run_seeded(main: Callable[[], Awaitable[T]], seed: int, *instruments: trio.abc.Instrument) -> T:
    """Run ``main`` to its end in virtual time. The same seed gives the same steps."""
    with _deterministic(seed):
        return trio.run(main, clock=MockClock(autojump_threshold=0), instruments=instruments)


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """The garbage collector waits meanwhile: what it closes, it closes at moments of its own."""
    inside: Any = _run
    threads: Any = _thread_cache
    before = inside._r, inside._ALLOW_DETERMINISTIC_SCHEDULING, threads.THREAD_CACHE
    collecting = gc.isenabled()
    gc.disable()
    inside._r, inside._ALLOW_DETERMINISTIC_SCHEDULING, threads.THREAD_CACHE = random.Random(seed), True, _NoThreads()
    try:
        yield
    finally:
        inside._r, inside._ALLOW_DETERMINISTIC_SCHEDULING, threads.THREAD_CACHE = before
        if collecting:
            gc.enable()
