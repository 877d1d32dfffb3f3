"""Waiting for what happens outside of Trio: in threads and in other processes."""

from collections.abc import Callable
from typing import Final, TypeVar

import trio

T = TypeVar("T")

PATIENCE_SECONDS: Final = 200.0
"""A limit against hanging for ever, not a measure: the machine may be busy."""


async def in_thread(work: Callable[[], T]) -> T:
    """What blocks."""
    return await trio.to_thread.run_sync(work)


async def until(told: Callable[[], object]) -> None:
    """Wait for a condition that nobody announces."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not told():  # noqa: ASYNC110  # another process can't set an event
            await trio.sleep(0.02)
