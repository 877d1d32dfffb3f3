"""What came of comparing the stores with what was accepted: its words for people, and what mends a difference."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Self

import attrs

TOLD_MS: Final = 600_000
"""For so long it is alarmed of what no command of ours can mend."""
MOST_NAMED: Final = 3
"""Symbols for which a command is written out."""
SHOW_DOUBLED: Final = "select seq, tableoid::regclass, array_agg(ctid) from market_ticks"


@attrs.frozen(kw_only=True)
class Difference:
    """A store holds fewer, or more, of a block's ticks than were accepted and not told of otherwise. Unix ms."""

    store: str
    first: int
    """Of the block, by ``seq``."""
    last: int
    accepted: int
    missing: int
    doubled: int
    """So many more than there should be."""
    from_ms: int
    """The least of Polygon's timestamps of the ticks concerned, or of the block; and the first one behind them."""
    to_ms: int
    symbols: tuple[str, ...]
    """Of the missing ones, as far as the journal still has them."""
    found_ms: int
    seen_ms: int
    """When it was last found to be so."""
    sentence: str = ""
    """What is wrong."""
    mend: str = ""
    """What mends it: a command, if there is one."""

    @property
    def lasts(self) -> bool:
        """Whether it is a fault until it is mended: it can be."""
        return self.store == "timescale"

    def alarms(self, now_ms: int) -> bool:
        """Whether somebody must be told at this moment."""
        return self.lasts or now_ms - self.found_ms < TOLD_MS

    def in_words(self, collector: str) -> Self:
        """With both sentences."""
        return attrs.evolve(self, sentence=_sentence(self), mend=_mend(self, collector))


def _sentence(found: Difference) -> str:
    says = "has no acknowledgement of" if found.store == "nats" else "lacks"
    parts = [f"{says} {found.missing}"] if found.missing else []
    parts += [f"has {found.doubled} too many"] if found.doubled else []
    about = f"of {found.accepted} ticks that were accepted (seq {found.first} to {found.last})"
    times = f"{_instant(found.from_ms)} to {_instant(found.to_ms)}"
    return f"{found.store} {' and '.join(parts)} {about}, from {times}"


def _mend(found: Difference, collector: str) -> str:
    span = f"--from {_instant(found.from_ms)} --to {_instant(found.to_ms)}"
    if found.store == "kafka":
        return _mend_archive(found, span)
    if found.missing:
        return f"polygon-live replay {span} --into {found.store}"
    return (
        f"delete one of each by hand, by its ctid; psql shows them: {SHOW_DOUBLED} where collector = '{collector}' "
        f"and seq between {found.first} and {found.last} group by 1, 2 having count(*) > 1"
    )


def _mend_archive(found: Difference, span: str) -> str:
    if not found.missing:
        return "nothing takes a record out of the archive: its readers take each collector and seq once"
    named = found.symbols[:MOST_NAMED] or ("SYMBOL",)
    commands = "; ".join(f"polygon-live backfill --symbol {symbol} {span}" for symbol in named)
    more = f", and so for {len(found.symbols) - MOST_NAMED} more" if len(found.symbols) > MOST_NAMED else ""
    return (
        "the archive gets nothing a second time under its number: keep what the table has of it (three days); when the "
        f"table has it no longer, this fetches it from Polygon: {commands}{more}"
    )


@attrs.frozen(kw_only=True)
class StoreCompared:
    """One store."""

    name: str
    up_to_ms: int | None
    """When the last tick was received up to which it was compared; None: nothing was yet."""
    behind_seconds: float
    """Age of the oldest accepted tick that was not compared yet; 0: there is none."""
    one_in: float
    """1: every block is compared; 4: one in four."""
    whole_share: float
    """What comparing every block would take of a core; 0: that is not known."""
    compared: int
    """Ticks in blocks that were compared, in this run."""
    skipped: int
    """Ticks in blocks that were passed uncompared."""
    differences: tuple[Difference, ...]
    cannot: str | None
    """Why it can't be compared at this moment."""
    worked_ms: int | None
    """When it last could."""


@attrs.frozen(kw_only=True)
class VerificationSnapshot:
    """All of them."""

    told: str
    """In a sentence."""
    up_to_ms: int | None = None
    """Everything received before is compared with every store, as far as is told; None: nothing was yet."""
    stores: tuple[StoreCompared, ...] = ()
    core_share: float = 0.0
    """What it has used of a core, on average since the start."""

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Of all stores."""
        return tuple(difference for store in self.stores for difference in store.differences)


UNVERIFIED: Final = VerificationSnapshot(told="nothing is verified")
"""Nothing compares them."""


def compared(stores: Sequence[StoreCompared], core_share: float) -> VerificationSnapshot:
    """With its sentence."""
    times = [store.up_to_ms for store in stores]
    up_to = min((at for at in times if at is not None), default=None) if None not in times else None
    told = _told(up_to, stores)
    return VerificationSnapshot(told=told, up_to_ms=up_to, stores=tuple(stores), core_share=core_share)


def _told(up_to_ms: int | None, stores: Sequence[StoreCompared]) -> str:
    limits = [limit for store in stores for limit in _limits(store)]
    if any(store.name == "nats" for store in stores):
        limits.append("of NATS what it acknowledged")
    within = f" ({'; '.join(limits)})" if limits else ""
    if up_to_ms is None:
        return f"nothing is verified yet{within}"
    differing = sum(len(store.differences) for store in stores)
    whole = "" if differing or any(store.one_in > 1 for store in stores) else "complete "
    but = "" if not differing else " but for a difference" if differing == 1 else f" but for {differing} differences"
    return f"verified {whole}up to {_clock(up_to_ms)} UTC{but}{within}"


def _limits(store: StoreCompared) -> list[str]:
    limits = []
    if store.one_in > 1:
        cost = f": all would cost {store.whole_share:.0%} of a core" if store.whole_share else ""
        limits.append(f"{store.name}: one block in {store.one_in:.2g}{cost}")
    if store.cannot is not None:
        since = f", last at {_clock(store.worked_ms)} UTC" if store.worked_ms is not None else ""
        limits.append(f"{store.name} can't be compared now{since}: {store.cannot}")
    return limits


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _instant(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{at_ms % 1000:03}Z"
