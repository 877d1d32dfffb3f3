"""What Python's own housekeeping costs the collector, and how it is spared.

**The search for garbage in cycles.** A start makes 100,000 objects that stay for good. Looking through all of them
takes some 50 ms, in which no thread of the process does anything: it was the longest wait that a tick met. And with the
usual threshold the young ones were looked through every 60 ticks, though a tick leaves nothing for it to find.

**The interpreter's lock.** A thread that wants it waits until the one that has it does something slow, or for 5 ms. A
tick passes from thread to thread six times on its way to NATS: while Kafka's thread, or the one that verifies, had
something to compute, that took 30 ms. A tenth of those 5 ms costs nothing that can be measured.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG: Final = 5000
"""Objects more than before, after which the young ones are looked through."""
SWITCH_SECONDS: Final = 0.0005
"""A shorter one gains nothing more."""


@contextmanager
def unsearched() -> Iterator[None]:
    """Around what only makes objects that stay: imports, a sixth of whose time it is."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def settle() -> None:
    """What is there now stays, and is not looked through again; threads take turns more often. To be called once, by a
    process that is the collector's own.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
    sys.setswitchinterval(SWITCH_SECONDS)
