"""Everything that happens to one collector, drawn from a seed: what Polygon sends, and what goes wrong, when.

Times are seconds since the beginning of the run. A plan holds data only; ``story()`` tells it to people.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import attrs

from polygon_live.model import FOURTEEN_SYMBOLS, pair_of
from polygon_live.standin import Script
from polygon_live.wire import Quote

TUESDAY_MS: Final = 1_780_401_600_000
"""2026-06-02 12:00 UTC."""
FRIDAY_MS: Final = 1_780_693_140_000
"""2026-06-05 20:59 UTC: the market closes in a minute."""
SUNDAY_MS: Final = 1_780_865_940_000
"""2026-06-07 20:59 UTC: the market opens in a minute."""
STORES: Final = ("timescale", "kafka", "nats")
POISON: Final[Mapping[int, Sequence[str]]] = {
    601: ("timescale",),
    602: ("kafka",),
    603: ("nats",),
    604: STORES,
}
"""Exchange ids that a store refuses: a poison tick is known by its content."""

DiskKind = Literal["fails", "stalls"]
TroubleKind = Literal["away", "hang", "slow", "unclear", "misconfigured", "refusing"]


@attrs.frozen
class Trouble:
    """A store is not itself."""

    kind: TroubleKind
    begins: float
    ends: float


@attrs.frozen
class Backup:
    """A store becomes what it was."""

    taken: float
    restored: float


@attrs.frozen
class Rival:
    """Another collector of the same name has the cursor, and lives."""

    begins: float
    ends: float


@attrs.frozen
class StorePlan:
    """What happens to one store."""

    troubles: tuple[Trouble, ...] = ()
    backup: Backup | None = None
    rivals: tuple[Rival, ...] = ()
    poison: frozenset[int] = frozenset()
    keep_ms: int = 72 * 3_600_000
    """Ticks older than this are passed over."""
    terminates: bool = True
    """Whether who connects can have his predecessor's connection ended."""
    keeps: bool = False
    """Whether a stream removes repeats."""


@attrs.frozen
class End:
    """How one life of the collector ends: ``steps`` task steps after the moment ``at``."""

    how: Literal["kill", "power", "stop"]
    at: float
    steps: int
    down: float
    """Seconds until it is started again."""
    fresh: bool = False
    """Its folder is lost too."""
    spoils: bool = False
    """The disk spoils a batch of the journal meanwhile."""

    @property
    def more(self) -> str:
        """For people."""
        return (", the folder is lost" if self.fresh else "") + (", a batch is spoilt" if self.spoils else "")


@attrs.frozen
class ClockStep:
    """The collector's clock is set."""

    at: float
    by_ms: int


@attrs.frozen
class FeedFault:
    """Something of ``standin.faults.ENDINGS``, or ``mute``: these pairs are not sent for so long."""

    name: str
    at: float
    pairs: frozenset[str] = frozenset()
    seconds: float = 0.0


@attrs.frozen
class DiskTrouble:
    """The journal's disk is full (``fails``), or takes so long for everything (``stalls``)."""

    kind: DiskKind
    begins: float
    ends: float


@attrs.frozen
class Sent:
    """One frame."""

    at: float
    quotes: tuple[Quote, ...]


@attrs.frozen
class Plan:
    """All of it."""

    seed: int
    symbols: tuple[str, ...]
    starts_ms: int
    seconds: float
    frames: tuple[Sent, ...]
    scripts: tuple[Script, ...]
    feed: tuple[FeedFault, ...]
    stores: Mapping[str, StorePlan]
    ends: tuple[End, ...]
    clock: tuple[ClockStep, ...]
    disk: tuple[DiskTrouble, ...]
    backfills: tuple[float, ...]
    """When something that was missed is fetched."""
    most_bytes: int
    segment_bytes: int
    keep_ms: int
    queue_ticks: int
    frames_max_bytes: int
    sync_seconds: float
    torn: float
    """After a power cut: how likely a block that was not synced is on the disk all the same."""

    def story(self) -> str:
        """For people."""
        quotes = sum(len(frame.quotes) for frame in self.frames)
        lines = [
            f"seed {self.seed}: {len(self.symbols)} symbols, {quotes} quotes in {self.seconds:.0f} s",
            f"  {self.queue_ticks} ticks a queue, {self.frames_max_bytes} bytes of frames",
            (
                f"  journal: {self.most_bytes} bytes in segments of {self.segment_bytes}, {self.keep_ms / 1000:g} s, "
                f"fsync every {self.sync_seconds:g} s"
            ),
        ]
        events: list[tuple[float, str]] = [(f.at, f"feed: {f.name} {sorted(f.pairs) or ''}") for f in self.feed]
        events += [(e.at, f"{e.how} {e.steps} steps later, down {e.down:.1f} s{e.more}") for e in self.ends]
        events += [(c.at, f"the clock is set by {c.by_ms} ms") for c in self.clock]
        events += [(d.begins, f"the disk {d.kind} until {d.ends:.1f}") for d in self.disk]
        for name, store in self.stores.items():
            events += [(t.begins, f"{name}: {t.kind} until {t.ends:.1f}") for t in store.troubles]
            events += [(r.begins, f"{name}: a rival until {r.ends:.1f}") for r in store.rivals]
            if store.backup:
                events.append((store.backup.restored, f"{name}: restored as of {store.backup.taken:.1f}"))
        lines += [f"  {at:8.2f}  {what}" for at, what in sorted(events)]
        return "\n".join(lines)


def draw(seed: int) -> Plan:
    """The plan of this seed."""
    rng = random.Random(f"plan {seed}")
    symbols = tuple(rng.sample(FOURTEEN_SYMBOLS, rng.randint(1, 4)))
    seconds = rng.choices((rng.uniform(20, 60), rng.uniform(60, 150), rng.uniform(400, 800)), (5, 4, 1))[0]
    starts_ms = rng.choices((TUESDAY_MS, FRIDAY_MS, SUNDAY_MS), (16, 1, 1))[0]
    poisons = rng.random() < 0.3
    frames = _frames(rng, symbols, starts_ms, seconds, poisons=poisons)
    ends = _ends(rng, seconds, frames)
    small = rng.random() < 0.15
    return Plan(
        seed=seed,
        symbols=symbols,
        starts_ms=starts_ms,
        seconds=seconds,
        frames=frames,
        scripts=_scripts(rng),
        feed=_feed(rng, symbols, seconds),
        stores={name: _store(rng, name, seconds) for name in STORES},
        ends=ends,
        clock=_clock(rng, seconds),
        disk=_disk(rng, seconds),
        backfills=tuple(sorted(rng.uniform(0, seconds) for _ in range(rng.choice((0, 0, 2, 5))))),
        most_bytes=rng.randint(20_000, 60_000) if small else 2**30,
        segment_bytes=rng.choice((2_000, 8_000, 30_000)) if small or rng.random() < 0.3 else 2**26,
        keep_ms=rng.choice((10_000, 20_000, 24 * 3_600_000)),
        queue_ticks=rng.choice((5, 40, 1000)),
        frames_max_bytes=rng.choice((600, 2**20)),
        # A journal that is full within five seconds would let go of ticks that it has not been told to remember.
        sync_seconds=rng.choice((0.0, 1.0, 1.0, 1.0 if small else 5.0)),
        torn=rng.choice((0.0, 0.5, 1.0)),
    )


def _frames(
    rng: random.Random, symbols: Sequence[str], starts_ms: int, seconds: float, *, poisons: bool
) -> tuple[Sent, ...]:
    """Bursts and pauses. Each quote is one of a kind: its bid tells which."""
    frames: list[Sent] = []
    at, n, most = 0.2, 0, rng.choice((60, 150, 350))
    pace = seconds / most * 3
    while at < seconds and n < most:
        quotes = []
        for _ in range(rng.choice((1, 1, 2, 3, 8, 20))):
            symbol = rng.choice(symbols)
            n += 1
            stamp = starts_ms + round(at * 1000) - rng.choice((20, 20, 20, 20, 90))
            if rng.random() < 0.02:
                stamp -= rng.randint(200, 8000)
            quotes.append(quote(symbol, n, stamp, rng.choice(tuple(POISON)) if poisons and rng.random() < 0.03 else 48))
            if rng.random() < 0.01:
                quotes.append(quotes[-1])
        frames.append(Sent(at, tuple(quotes)))
        at += rng.choice((0.0, 0.001, rng.expovariate(1 / pace), rng.expovariate(1 / pace)))
    return tuple(frames)


def quote(symbol: str, n: int, stamp_ms: int, exchange: int) -> Quote:
    """The ``n``-th quote of the run."""
    bid = 100 + n / 1000
    return Quote(pair_of(symbol), round(bid + 0.01, 3), round(bid, 3), stamp_ms, exchange)


def number_of(bid: float) -> int:
    """Which quote it was."""
    return round((bid - 100) * 1000)


def _moment(rng: random.Random, seconds: float, frames: Sequence[Sent] = ()) -> float:
    """Any moment, or one at which something is sent."""
    if frames and rng.random() < 0.6:
        return rng.choice(frames).at
    return rng.uniform(0, seconds)


def _ends(rng: random.Random, seconds: float, frames: Sequence[Sent]) -> tuple[End, ...]:
    moments = sorted(_moment(rng, seconds, frames) for _ in range(rng.choice((0, 1, 1, 2, 2, 3))))
    return tuple(
        End(
            rng.choices(("kill", "power", "stop"), (5, 3, 2))[0],
            at,
            rng.choice((0, rng.randint(0, 40), rng.randint(0, 400))),
            rng.choice((0.0, 0.5, 5.0, rng.uniform(0, 60))),
            fresh=rng.random() < 0.03,
            spoils=rng.random() < 0.05,
        )
        for at in moments
    )


def _stretches(rng: random.Random, seconds: float, numbers: Sequence[int]) -> list[tuple[float, float]]:
    stretches = []
    for _ in range(rng.choice(numbers)):
        begins = rng.choice((0.0, rng.uniform(0, seconds)))
        stretches.append((begins, begins + rng.choice((0.3, 3.0, 15.0, rng.uniform(0, seconds)))))
    return stretches


def _store(rng: random.Random, name: str, seconds: float) -> StorePlan:
    kinds: Sequence[TroubleKind] = (
        "away",
        "hang",
        "slow",
        "unclear",
        "unclear",
        "unclear",
        "misconfigured",
        "refusing",
    )
    backup = rival = None
    if name != "nats" and rng.random() < 0.15:
        taken = rng.uniform(0, seconds)
        backup = Backup(taken, rng.uniform(taken, seconds))
    if name != "nats" and rng.random() < 0.08:
        begins = rng.uniform(0, seconds)
        rival = Rival(begins, begins + rng.choice((0.1, 15.0, 60.0)))
    return StorePlan(
        troubles=tuple(Trouble(rng.choice(kinds), *stretch) for stretch in _stretches(rng, seconds, (0, 0, 1, 2, 3))),
        backup=backup,
        rivals=(rival,) if rival else (),
        poison=frozenset(x for x, names in POISON.items() if name in names),
        keep_ms=rng.choice((30_000, 72 * 3_600_000, 72 * 3_600_000)) if name == "timescale" else 10**13,
        terminates=rng.random() < 0.5,
        keeps=rng.random() < 0.5,
    )


def _feed(rng: random.Random, symbols: Sequence[str], seconds: float) -> tuple[FeedFault, ...]:
    names = ("close-1001", "cut", "reset", "half-open", "max-connections", "slow-consumer", "mute", "cut", "reset")
    faults = []
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        name, at = rng.choice(names), rng.uniform(0, seconds)
        pairs = frozenset(pair_of(s) for s in symbols if rng.random() < 0.5) if name == "mute" else frozenset()
        faults.append(FeedFault(name, at, pairs, rng.choice((5.0, 60.0, 500.0))))
    return tuple(sorted(faults, key=lambda fault: fault.at))


def _scripts(rng: random.Random) -> tuple[Script, ...]:
    """How the first connections are met."""
    odd = (
        Script(http_status=503),
        Script(greeting=None),
        Script(login="ignore"),
        Script(login="time_out"),
        Script(acks="none"),
        Script(acks="singly"),
        Script(acks="reversed", ping_first=True),
    )
    scripts = [rng.choice(odd) if rng.random() < 0.2 else Script() for _ in range(4)]
    if rng.random() < 0.02:
        scripts[rng.randrange(4)] = Script(login="refuse")
    return tuple(scripts)


def _clock(rng: random.Random, seconds: float) -> tuple[ClockStep, ...]:
    steps = (5_000, -5_000, -90_000, 90_000, 1_200_000, -1_200_000, -3 * 3_600_000, 3 * 3_600_000)
    moments = sorted(rng.uniform(0, seconds) for _ in range(rng.choice((0, 0, 0, 1, 2))))
    return tuple(ClockStep(at, rng.choice(steps)) for at in moments)


def _disk(rng: random.Random, seconds: float) -> tuple[DiskTrouble, ...]:
    if rng.random() < 0.75:
        return ()
    stretches = _stretches(rng, seconds, (1, 2))
    return tuple(DiskTrouble(rng.choice(("fails", "stalls")), *stretch) for stretch in stretches)
