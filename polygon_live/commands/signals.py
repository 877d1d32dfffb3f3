"""An orderly end for commands that have nothing to drain."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from polygon_live.daemon import ending_signals


@asynccontextmanager
async def ended_by_signal() -> AsyncIterator[None]:
    """SIGTERM, Ctrl-C and the end of the terminal cancel the block, and what it opened is closed on the way out. A
    second one does not wait for that.
    """
    async with trio.open_nursery() as nursery:
        await nursery.start(_listen, nursery.cancel_scope.cancel)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def not_cut_by_signal() -> AsyncIterator[None]:
    """What nobody in the block listens to is ignored: it has processes to end, which would outlive this one."""
    async with trio.open_nursery() as nursery:
        await nursery.start(_listen, lambda: None)
        yield
        nursery.cancel_scope.cancel()


async def _listen(heard: Callable[[], None], *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(*ending_signals()) as received:
        task_status.started()
        async for _signal in received:
            heard()
