"""What must hold when a run is over: every promise of the design, checked against the record of the truth."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from polygon_live.calendar import open_since
from polygon_live.gap import EVERY_SYMBOL, Gap
from polygon_live.watch import LOOK_AGAIN_SECONDS
from tests.simulation.record import Accepted, Offered
from tests.simulation.store import Store
from tests.simulation.world import World

DETECTED_SECONDS: Final = 330.0
"""A symbol that is silent for longer than the watch waits is known to be mute."""
TOLD_SECONDS: Final = 3.0
"""For the ledger's write, which waits its turn."""
MOST_TOLD: Final = 5


def broken(world: World) -> list[str]:
    """Every promise that this run broke, in words; nothing if it broke none."""
    told = list(world.record.complaints)
    for check in (_stores, _once, _unjournaled, _feed, _ledger):
        found = list(check(world))
        told += found[:MOST_TOLD]
        if len(found) > MOST_TOLD:
            told.append(f"and {len(found) - MOST_TOLD} more like these")
    return told


def _stores(world: World) -> Iterator[str]:
    for store in world.held():
        yield from _holds_all(world, store)
        yield from _in_order(world, store)


def _holds_all(world: World, store: Store) -> Iterator[str]:
    """Each accepted tick once, byte for byte; or it is known where it is."""
    held = store.held()
    counts = Counter(seq for seq, _ in held)
    for seq, payload in held:
        one = world.record.accepted.get(seq)
        if one is None:
            yield f"{store.name} has {seq}, which was never accepted"
        elif one.payload != payload:
            yield f"{store.name} has {payload!r} as {seq}, which is {one.payload!r}"
    if store.name != "nats":
        yield from (f"{store.name} has {seq} {n} times" for seq, n in counts.items() if n > 1)
    first_of_all, in_memory_only, elsewhere = _first_of_all(world), _in_memory_only(world), _elsewhere(world, store)
    for one in world.record.accepted.values():
        if counts[one.seq] or (store.name, one.seq) in world.quarantine or one.seq in store.expired or one.forgotten:
            continue
        untold = any(one.at <= end for end in world.dumb_ends)
        if (untold and (one.once_lost or store.refuses(one.payload))) or one.seq in in_memory_only:
            continue
        if not _may_be_missing(world, store, one):
            yield f"{store.name} lacks {one.seq} ({_what(one)}), and nothing excuses it"
        elif one.seq in elsewhere and not any(g.store and _tells(g, store.name, one) for g in world.ledger):
            yield f"{store.name} lacks {one.seq} ({_what(one)}), and no ledger tells that another store has it"
        elif one.seq in first_of_all or (one.lost and _out_of_order(world, one.quote)):
            continue  # who forgets the only tick of a symbol knows of no such symbol
        elif not any(_tells(gap, store.name, one) for gap in world.ledger):
            yield f"{store.name} lacks {one.seq} ({_what(one)}), and no ledger tells"


def _elsewhere(world: World, store: Store) -> set[int]:
    """What a power cut took, though another store had it: it comes back, or that is told. Nobody can know of what came
    into a store after it was asked, or went from it again, or is under another journal's cursor.
    """
    plan = world.plan
    if store.name == "nats" or any(end.fresh for end in plan.ends):
        return set()
    known = [s for s in world.stores if s.name not in {"nats", store.name} and s.plan.terminates]
    held = {seq for s in known if not (s.plan.backup or s.plan.rivals) for seq, _ in s.held()}
    return {seq for seq in held if (one := world.record.accepted.get(seq)) and one.lost and one.journaled}


def _in_memory_only(world: World) -> set[int]:
    """Ticks that were not journaled, and whose collector ended before the journal took another one and told of them."""
    accepted = world.record.accepted.values()
    found: set[int] = set()
    for end in world.ends:
        told = max((one.at for one in accepted if not one.unjournaled and one.at < end - TOLD_SECONDS), default=-1.0)
        found.update(one.seq for one in accepted if one.unjournaled and told < one.at <= end)
    return found


def _first_of_all(world: World) -> set[int]:
    """Lost ticks before which no other of their symbol was kept, but such as say nothing of when it was heard."""
    found, known = set(), set()
    for seq, one in sorted(world.record.accepted.items()):
        if one.symbol not in known and (one.lost or one.spoilt):
            found.add(seq)
        elif not (one.lost or one.spoilt or one.late):
            known.add(one.symbol)
    return found


def _what(one: Accepted) -> str:
    words = [one.symbol, f"accepted at {one.at:.3f}", "journaled" if one.journaled else "unjournaled"]
    return ", ".join([*words, "lost"] if one.lost else words)


def _may_be_missing(world: World, store: Store, one: Accepted) -> bool:
    plan = world.plan
    if one.once_lost or (one.era and one.seq <= world.record.before_fresh):
        return True
    if store.plan.backup is not None and plan.keep_ms < 24 * 3_600_000:
        return True
    return plan.most_bytes < 2**30


def _tells(gap: Gap, store: str, one: Accepted) -> bool:
    """Whether this entry says that the store may lack it."""
    by_number = gap.store == store or (gap.store is None and gap.cause == "unjournaled")
    if by_number and gap.first_seq is not None and gap.last_seq is not None:
        return _numbered(gap, one)
    if gap.store is not None:
        return False
    # Of what came late or while the market was closed, nobody can know that it is missing.
    unknowable = one.late or open_since(one.symbol, one.timestamp_ms) is None
    return unknowable or _covers(gap, one.symbol, one.timestamp_ms)


def _numbered(gap: Gap, one: Accepted) -> bool:
    return gap.first_seq is not None and gap.last_seq is not None and gap.first_seq <= one.seq <= gap.last_seq


def _covers(gap: Gap, symbol: str, timestamp_ms: int) -> bool:
    return gap.symbol in {symbol, EVERY_SYMBOL} and gap.from_ms <= timestamp_ms <= (gap.to_ms or timestamp_ms)


def _in_order(world: World, store: Store) -> Iterator[str]:
    """``seq`` rises, per symbol; where a tick may come twice, what counts is when it came first."""
    highest: dict[tuple[str, int], int] = {}
    seen: set[int] = set()
    for seq, _ in store.held():
        one = world.record.accepted.get(seq)
        if one is None or seq in seen or one.once_lost or (store.name == "nats" and store.refuses(one.payload)):
            continue  # what was set aside may be tried again, and taken; what was got back comes when it comes
        seen.add(seq)
        which = one.symbol, one.era
        if seq < highest.get(which, 0):
            yield f"{store.name} has {seq} after {highest[which]}, both {one.symbol}"
        highest[which] = seq


def _once(world: World) -> Iterator[str]:
    """What Polygon sent once is accepted once."""
    for quote, seqs in world.record.by_quote.items():
        if len(seqs) > 1:
            yield f"quote {quote} was accepted as {seqs}"


def _unjournaled(world: World) -> Iterator[str]:
    """What went to the stores without the journal is in the ledger, whether every store got it or not."""
    told = [gap for gap in world.ledger if gap.cause == "unjournaled"]
    in_memory_only = _in_memory_only(world)
    for one in world.record.accepted.values():
        if not one.unjournaled or one.seq in in_memory_only or any(one.at <= end for end in world.dumb_ends):
            continue
        if not any(_numbered(gap, one) for gap in told):
            yield f"{one.seq} ({_what(one)}) was handed on unjournaled, and no ledger tells"


def _feed(world: World) -> Iterator[str]:
    """What Polygon had and nobody accepted is in the ledger."""
    record = world.record
    arrivals: dict[str, list[float]] = defaultdict(list)
    for one in record.accepted.values():
        if not (one.lost or one.spoilt or one.late):
            arrivals[one.symbol].append(one.at)
    for number, offered in record.offered.items():
        if number in record.by_quote or number in record.rejected:
            continue
        if _unknowable(world, number, offered, arrivals):
            continue
        if not any(gap.store is None and _covers(gap, offered.symbol, offered.timestamp_ms) for gap in world.ledger):
            yield (
                f"quote {number} of {offered.symbol}, timestamp {offered.timestamp_ms}, was sent at {offered.at:.3f}"
                f"{' (muted)' if offered.muted else ''}, not accepted, and no ledger tells"
            )


def _unknowable(world: World, number: int, offered: Offered, arrivals: Mapping[str, Sequence[float]]) -> bool:
    """Whether nobody can be blamed that no ledger tells of this quote. ``arrivals`` are by symbol."""
    at, stamp = offered.at, offered.timestamp_ms
    return (
        # A symbol that never ticked is not known to be missing.
        not any(world.fresh_at <= t <= at for t in arrivals[offered.symbol])
        or any(at <= end for end in world.dumb_ends)  # it was known, and could not be written down
        or at >= world.stopped_at - 0.01
        or open_since(offered.symbol, stamp) is None
        or (offered.muted and _silence(world, offered, arrivals) < DETECTED_SECONDS)
        or _out_of_order(world, number)
    )


def _out_of_order(world: World, number: int) -> bool:
    """Whether its neighbours' timestamps tell another story than the order in which they were sent: who is late was not
    known to come, and who was overtaken by an older one seems to have been lost after it.
    """
    record = world.record
    offered = record.offered[number]
    return any(
        other.symbol == offered.symbol
        and (
            (n < number and other.timestamp_ms > offered.timestamp_ms)
            or (n > number and other.timestamp_ms < offered.timestamp_ms and n in record.by_quote)
        )
        for n, other in record.offered.items()
    )


def _silence(world: World, offered: Offered, arrivals: Mapping[str, Sequence[float]]) -> float:
    """How long the symbol had been silent when another one ticked, for the last time that could be heeded: silence
    counts only while others tick.
    """
    own = arrivals[offered.symbol]
    before = max((t for t in own if t <= offered.at), default=0.0)
    after = min((t for t in own if t > offered.at), default=world.stopped_at)
    others = (t for symbol, times in arrivals.items() if symbol != offered.symbol for t in times)
    return max((t for t in others if t <= after - LOOK_AGAIN_SECONDS), default=before) - before


def _ledger(world: World) -> Iterator[str]:
    """An entry of the feed says nothing of a time in which its symbol's ticks were accepted. With a clock that is
    behind, timestamps are doubted; of what a lost folder, a full journal or a failing disk let go, the times are not
    known any more: then more is said than need be.
    """
    plan = world.plan
    vague = any(s.by_ms < 0 for s in plan.clock) or any(e.fresh for e in plan.ends) or bool(plan.disk)
    vague = vague or plan.most_bytes < 2**30
    newest: dict[str, int] = {}
    in_order = set()
    for seq, one in sorted(world.record.accepted.items()):
        if not (one.once_lost or one.late) and one.timestamp_ms >= newest.get(one.symbol, 0):
            in_order.add(seq)
            newest[one.symbol] = one.timestamp_ms
    for gap in world.ledger:
        if gap.store is not None or gap.cause not in {"disconnect", "mute", "downtime", "overflow"}:
            continue
        if gap.to_ms is None:
            yield f"an entry still lasts: {gap}"
            continue
        for one in world.record.accepted.values():
            if vague:
                break
            if any(one.at <= end < one.at + 1.0 for end in world.ends):
                continue  # nobody had the time to tell that it came
            if one.symbol == gap.symbol and one.seq in in_order and gap.from_ms < one.timestamp_ms < gap.to_ms:
                yield f"{one.seq} of {one.symbol} was accepted at {one.at:.3f}, in the midst of the gap {gap}"
                break
