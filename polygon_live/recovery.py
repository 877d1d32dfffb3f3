"""After a power cut: a store may hold ticks that the journal had not yet on its disk when the power went.

Those ticks are gaps of the other stores. A store that answers soon after the start has its stretch copied back into the
journal under its own numbers, before the first new batch, and the others get it from there; so does what the quarantine
has among it, which one store refused and the others may lack. Of a store that answers later, be it in a later run, the
ledger can only be told: its cursor then is a number that no batch of the journal names.

What is copied back has no hole: behind it, and not somewhere in it, begins what was lost. A tick of the quarantine that
stands alone beyond is left there, to be fetched with its neighbours: in the journal it would say that they were heard.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Self

import structlog
import trio

from polygon_live.gap import EVERY_SYMBOL, Gap, of_store
from polygon_live.journal import Hole, Journal
from polygon_live.model import UNREADABLE, Batch, evidence
from polygon_live.sink import Sink

PATIENCE_SECONDS: Final = 10.0

log = structlog.get_logger()


class Recovery:
    """One start's. ``tail`` is the last ``seq`` in the journal, and ``stores`` are the names of those that may know
    better. ``unheard_of`` tells up to a number what the journal has never heard of. ``kept``: what the quarantine has
    beyond the tail.
    """

    def __init__(
        self,
        tail: int,
        stores: Sequence[str],
        unheard_of: Callable[[int], Hole | None],
        wall_ms: Callable[[], int],
        kept: Sequence[bytes] = (),
    ) -> None:
        self._tail = tail
        self._stores = set(stores)
        self._unheard_of = unheard_of
        self._wall_ms = wall_ms
        self._found: dict[str, int] = {}
        self._lost: dict[str, Hole] = {}
        """What a store has and the journal has not, once the journal has what it could get."""
        self._kept = kept
        self._stretches: list[Sequence[bytes]] = []
        self._heard = trio.Event()
        if not stores:
            self._heard.set()
        self._over = trio.Event()
        self._told: set[str] = set()

    @classmethod
    def of(cls, journal: Journal, sinks: Sequence[Sink], wall_ms: Callable[[], int]) -> Self:
        """Before any number is reserved: a journal that is new can't have lost anything."""
        ledger = journal.ledger
        stores = [sink.name for sink in sinks if sink.keeps_cursor and ledger.mark]
        kept = [aside.payload for aside in ledger.quarantine() if aside.seq > journal.tail]
        return cls(journal.tail, stores, journal.unheard_of, wall_ms, kept)

    async def heard(self, sink: Sink, cursor: int) -> list[Gap]:
        """A store was opened for the first time. Waits until the journal has what it can get, so that nobody writes
        past a stretch that is still on its way. Returns what to enter in the ledger. Raises StoreError.
        """
        if sink.name in self._found:
            return []
        if cursor > self._tail and not self._over.is_set():
            self._stretches.append(await sink.held_after(self._tail))
        self._found[sink.name] = cursor
        if self._found.keys() >= self._stores:
            self._heard.set()
        await self._over.wait()
        if (lost := self._unheard_of(cursor)) is not None:
            self._lost[sink.name] = lost
        return self._lacking()

    async def batch(self) -> Batch | None:
        """What is to be journaled before anything new; None in nearly every case. Waits for the stores, not long."""
        with trio.move_on_after(PATIENCE_SECONDS):
            await self._heard.wait()
        held = self._legible(payload for stretch in self._stretches for payload in stretch)
        end = max(held, default=self._tail)  # a store that has this lacks nothing before it but what it refused
        known = self._legible(self._kept) | held
        while end + 1 in known:  # within a run the numbers follow each other
            end += 1
        whole = [known[seq] for seq in sorted(known) if seq <= end]
        return Batch.of_payloads(self._tail, whole) if whole else None

    def _legible(self, payloads: Iterable[bytes]) -> dict[int, bytes]:
        """By ``seq``, what lies beyond the tail."""
        by_seq: dict[int, bytes] = {}
        for payload in payloads:
            try:
                (tick,) = Batch.of_payloads(self._tail, [payload]).ticks
            except UNREADABLE as why:  # somebody has spoiled it
                log.warning("what a store holds can't be read back", why=str(why), raw=evidence(repr(payload)))
                continue
            if tick.seq > self._tail:
                by_seq.setdefault(tick.seq, payload)
        return by_seq

    def over(self) -> None:
        """That batch is in the journal: the pumps may go on."""
        self._over.set()

    def _lacking(self) -> list[Gap]:
        """Of the stores heard so far, those that lack what another one has and the journal has not, or may lack it, for
        they have gone on since; each is told of once.
        """
        if not self._lost:
            return []
        has = max(self._lost, key=lambda name: self._lost[name].last)
        lost = self._lost[has]
        behind = [
            name
            for name, cursor in self._found.items()
            if name not in self._told and not (name in self._lost and cursor >= lost.last)
        ]
        self._told.update(behind)
        now_ms = self._wall_ms()
        return [
            Gap(
                0,
                EVERY_SYMBOL,
                "journal_tail_lost",
                now_ms if lost.from_ms is None else lost.from_ms,
                now_ms if lost.to_ms is None else lost.to_ms,
                store=name,
                state=of_store(name)[0],
                detail=f"power was lost before the journal was on its disk, and {has} has more; {of_store(name)[1]}",
                first_seq=max(lost.first, self._lost[name].last + 1 if name in self._lost else lost.first),
                last_seq=lost.last,
                opened_ms=now_ms,
            )
            for name in behind
        ]
