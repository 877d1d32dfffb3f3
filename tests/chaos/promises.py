"""What must hold after whatever happened, tick by tick, and the counts of it.

- What was accepted is in the journal: live ticks are quotes that were sent, each once, in the order of each symbol; and
  what was not heard live was fetched, whole seconds instead of milliseconds, each quote once.
- Each quote that was not heard live lies in an entry of the gap ledger of its symbol, and all entries are settled.
- The table and the archive (read committed) hold what the journal holds, once, in order. The stream does at least
  once, with repeats only beyond its window.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import attrs

from polygon_live.model import SOURCE_LIVE, SOURCE_REST, canonical_symbol
from polygon_live.wire import Quote
from tests.comparing import archive_agrees, messages_agree, table_agrees
from tests.engines.nats import Kept

WINDOW: Final = timedelta(seconds=120)
Key = tuple[str, int, float, float]
"""Symbol, time, bid, ask."""


@attrs.frozen(kw_only=True)
class Found:
    """Everything that there is in the end."""

    sent: Sequence[Quote]
    journal: Sequence[dict[str, Any]]
    ledger: Sequence[dict[str, Any]]
    rows: Sequence[dict[str, Any]]
    records: Sequence[Any]
    messages: Sequence[Kept]


@attrs.frozen(kw_only=True)
class Counts:
    """What was found to be as it must be."""

    sent: int
    live: int
    fetched: int
    entries: int
    rows: int
    records: int
    messages: int
    repeats: int

    def __str__(self) -> str:
        return (
            f"{self.sent} quotes sent, {self.live} heard live, {self.fetched} fetched to fill {self.entries} entries "
            f"of the gap ledger; {self.rows} rows in the table, {self.records} records in the archive, "
            f"{self.messages} messages in the stream, {self.repeats} of them repeats beyond its window"
        )


def kept(found: Found) -> Counts:
    """Raises AssertionError for the first promise that was not kept."""
    missed = _accepted_as_sent(found.sent, found.journal)
    _told(missed, found.ledger)
    table_agrees(found.rows, found.journal)
    archive_agrees(found.records, found.journal, found.rows)
    firsts = _firsts(found.messages)
    messages_agree([(m.subject, m.tick) for m in firsts], found.journal, found.rows, may_wait=True)
    return Counts(
        sent=len(found.sent),
        live=len(found.sent) - len(missed),
        fetched=len(missed),
        entries=len(found.ledger),
        rows=len(found.rows),
        records=len(found.records),
        messages=len(found.messages),
        repeats=len(found.messages) - len(firsts),
    )


def _accepted_as_sent(sent: Sequence[Quote], journal: Sequence[dict[str, Any]]) -> list[Quote]:
    """The quotes that were not heard live."""
    assert [tick["seq"] for tick in journal] == sorted({tick["seq"] for tick in journal})
    live: defaultdict[str, list[Key]] = defaultdict(list)
    fetched: Counter[Key] = Counter()
    for tick in journal:
        key = (tick["symbol"], tick["timestamp_ms"], tick["bid"], tick["ask"])
        if tick["source"] == SOURCE_LIVE:
            live[tick["symbol"]].append(key)
        else:
            assert tick["source"] == SOURCE_REST
            fetched[key] += 1
    heard = {symbol: iter(keys) for symbol, keys in live.items()}
    waited = {symbol: next(keys, None) for symbol, keys in heard.items()}
    missed: list[Quote] = []
    for quote in sent:
        symbol = canonical_symbol(quote.p)
        if waited.get(symbol) == (symbol, quote.t, quote.b, quote.a):
            waited[symbol] = next(heard[symbol], None)
        else:
            missed.append(quote)
    assert not {symbol: key for symbol, key in waited.items() if key}, "heard, and never sent, or out of order"
    wanted = Counter((canonical_symbol(q.p), q.t // 1000 * 1000, q.b, q.a) for q in missed)
    assert not wanted - fetched, f"never delivered: {_shown(wanted - fetched)}"
    assert not fetched - wanted, f"fetched though it was there: {_shown(fetched - wanted)}"
    return missed


def _told(missed: Sequence[Quote], ledger: Sequence[dict[str, Any]]) -> None:
    assert {entry["state"] for entry in ledger} <= {"filled", "empty"}, [e for e in ledger if e["state"] != "filled"]
    assert not [entry for entry in ledger if entry["store"]]
    entries: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for entry in ledger:
        entries[entry["symbol"]].append((entry["from_ms"], entry["to_ms"]))
    untold = [
        quote
        for quote in missed
        if not any(begins <= quote.t <= ends for begins, ends in entries[canonical_symbol(quote.p)])
    ]
    assert not untold, f"{len(untold)} quotes were missed and no entry tells of them, the first: {untold[0]}"


def _firsts(messages: Sequence[Kept]) -> list[Kept]:
    """Without repeats, which must be true ones and late enough."""
    found: dict[int, Kept] = {}
    firsts = []
    for message in messages:
        first = found.setdefault(message.tick["seq"], message)
        if first is message:
            firsts.append(message)
        else:
            assert message.tick == first.tick
            assert message.at - first.at >= WINDOW, f"repeated after {message.at - first.at}: {message.tick}"
    return firsts


def _shown(keys: Counter[Key]) -> str:
    return f"{keys.total()}, such as {keys.most_common(3)}"
