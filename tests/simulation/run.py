"""One seed from its plan to its verdict."""

import logging
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import structlog

from tests.simulation.life import Life
from tests.simulation.plan import Plan, draw
from tests.simulation.promises import broken
from tests.simulation.together import together
from tests.simulation.world import World

MEMORY: Final = Path("/dev/shm")  # a folder of its own is made in it


@attrs.frozen
class Verdict:
    """What came of a seed."""

    seed: int
    broken: Sequence[str]
    """The promises, in words; none if all held."""
    digest: str
    """The same for the same run."""
    story: str
    trace: Sequence[str]
    steps: int
    accepted: int


def simulate(seed: int, *, keep_trace: bool = False) -> Verdict:
    """Let it happen, and see what held."""
    return play(together(draw(seed)), keep_trace=keep_trace)


def play(plan: Plan, *, keep_trace: bool = False) -> Verdict:
    """As ``simulate``, with a plan of one's own."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, prefix="simulation-") as folder:
        world = World(plan, Path(folder), keep_trace=keep_trace)
        with _no_logs():
            try:
                told = broken(world) if _lived(world) else world.record.complaints
            except Exception:  # noqa: BLE001  # whoever runs a thousand seeds wants to know which it was
                told = [f"the simulation itself fell: {traceback.format_exc()}"]
    return Verdict(plan.seed, told, world.digest, plan.story(), world.trace, world.steps, len(world.record.accepted))


def _lived(world: World) -> bool:
    """Live every life; whether all went as they should."""
    for number, end in enumerate((*world.plan.ends, None)):
        life = Life(world, number, end)
        life.live()
        if life.astray:
            return False
    world.read_ledger()
    return True


@contextmanager
def _no_logs() -> Iterator[None]:
    """Nobody reads them, and they cost half the time."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
