"""The line to PostgreSQL is cut where it hurts, around COMMIT and in the middle of a packet, and no tick is lost or
there twice. The order of the cuts and their places are random; ``CHAOS_SEED`` as in test_chaos.py.
"""

import random
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import attrs
import pytest
import trio

from polygon_live.sinks.timescale import TimescaleSink
from tests.test_timescale import flowing, make_table
from tests.waiting import in_thread
from tests.wires import Ends, Severed, Wire

pytestmark = pytest.mark.engine

COMMIT: Final = b"COMMIT\0"
AT_COMMIT: Final = (
    "COMMIT never arrives",
    "COMMIT arrives when the client is gone",
    "COMMIT is on its way, and the line ends",
    "committed, and the line ends before the answer",
    "committed, and the answer never comes",
)
ANYWHERE: Final = ("half a packet to the server", "half a packet to the client")


class Impatient(TimescaleSink):
    """So that a line that stays silent is given up soon."""

    WRITE_SECONDS = 1.0
    SET_UP_SECONDS = 2.0


@attrs.frozen
class Cut:
    """How and where; drawn before anything is done, so that a seed brings back all of it."""

    way: str
    packets: int
    """How many pass before, if it may be anywhere: two batches and their answers at most, or the middle of a set-up."""
    part: float
    """What gets through of the last one."""
    seconds: float
    """How late a COMMIT is: before, while or after the client comes anew."""

    @classmethod
    def drawn(cls, way: str, chance: random.Random) -> "Cut":
        return cls(way, chance.randrange(12), chance.random(), chance.uniform(0, 0.8))


class Cutter(Wire):
    """Cuts once when it is told to, in the way it is told to."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._cut: Cut | None = None
        self._passed = 0
        self._taken = trio.Event()
        self._unheard: dict[Ends, trio.Event] = {}
        """Whose client hears nothing any more; set when the server has answered."""

    async def cut(self, cut: Cut) -> None:
        """Return when it is done, or about to be."""
        print(cut)  # noqa: T201  # pytest shows it where the test fails
        self._cut, self._passed, self._taken = cut, 0, trio.Event()
        await self._taken.wait()

    async def up(self, chunk: bytes, ends: Ends) -> None:
        if chunk.endswith(COMMIT) and (cut := self._due(*AT_COMMIT)):
            await self._at_commit(cut, chunk, ends)
            raise Severed
        if cut := self._due("half a packet to the server"):
            await ends.server.send_all(chunk[: int(len(chunk) * cut.part)])
            raise Severed
        await super().up(chunk, ends)

    async def down(self, chunk: bytes, ends: Ends) -> None:
        if ends in self._unheard:
            self._unheard[ends].set()
            return
        if cut := self._due("half a packet to the client"):
            await ends.client.send_all(chunk[: int(len(chunk) * cut.part)])
            raise Severed
        await super().down(chunk, ends)

    async def _at_commit(self, cut: Cut, commit: bytes, ends: Ends) -> None:
        if cut.way == "COMMIT never arrives":
            return
        answered = self._unheard[ends] = trio.Event()
        if cut.way == "COMMIT arrives when the client is gone":
            await ends.client.aclose()
            await trio.sleep(cut.seconds)
        await ends.server.send_all(commit)
        if cut.way.startswith("committed"):
            await answered.wait()
        if cut.way == "committed, and the answer never comes":
            with suppress(trio.BrokenResourceError):
                await ends.client.receive_some()  # it gives up

    def _due(self, *ways: str) -> Cut | None:
        """The cut to be made now, if it is one of these."""
        cut = self._cut
        if cut is None or cut.way not in ways:
            return None
        self._passed += 1
        if cut.way in ANYWHERE and self._passed <= cut.packets:
            return None
        self._cut = None
        self._taken.set()
        return cut


async def test_a_line_cut_around_commit_or_in_a_packet_loses_and_doubles_nothing(
    database: str, chance: random.Random
) -> None:
    ways = (*AT_COMMIT, *ANYWHERE)
    single = [Cut.drawn(way, chance) for way in chance.sample(ways, len(ways))]
    close = [Cut.drawn(way, chance) for way in chance.choices(ways, k=4)]
    await in_thread(lambda: make_table(database))
    cutter = Cutter(urlsplit(database).port or 5432)
    async with cutter.laid() as port:
        by = urlsplit(database)._replace(netloc=f"postgres@127.0.0.1:{port}").geturl()
        async with flowing(database, Impatient, by=by) as flow:
            for cut in single:
                await cutter.cut(cut)
                await flow.goes_on()
            assert len(flow.errors) >= len(single)
            for cut in close:  # most of them while the client comes back
                await cutter.cut(cut)
            await flow.goes_on()
