"""An orderly end for commands that have nothing to drain."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from polygon_live.daemon import ending_signals


@asynccontextmanager
async def ended_by_signal() -> AsyncIterator[None]:
    """SIGTERM, Ctrl-C and the end of the terminal cancel the block, and what it opened is closed on the way out."""

    async def listen() -> None:
        with trio.open_signal_receiver(*ending_signals()) as received:
            listening.set()
            async for _signal in received:
                nursery.cancel_scope.cancel()

    listening = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await listening.wait()
        yield
        nursery.cancel_scope.cancel()
