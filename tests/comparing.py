"""Every value in the stores, compared with the quotes that were sent."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from polygon_live.model import SOURCE_REST, Batch, canonical_symbol
from polygon_live.wire import Quote

COLLECTOR = "polygon-live-1"


def ticks_of(quotes: Sequence[Quote], first_seq: int) -> list[dict[str, Any]]:
    """What is to arrive everywhere, but for ``received_ms``."""
    return [
        {
            "symbol": canonical_symbol(q.p),
            "bid": q.b,
            "ask": q.a,
            "mid": round((q.b + q.a) / 2, 9),
            "spread": round(q.a - q.b, 9),
            "timestamp_ms": q.t,
            "timestamp": q.t,
            "exchange": 48,
            "source": "polygon_websocket",
            "event_type": "quote",
            "seq": first_seq + n,
        }
        for n, q in enumerate(quotes)
    ]


def table_agrees(rows: Sequence[dict[str, Any]], ticks: Sequence[dict[str, Any]]) -> None:
    """The database, row by row in the order of ``seq``."""
    assert len(rows) == len(ticks)
    for row, tick in zip(rows, ticks, strict=True):
        assert {name: row[name] for name in tick if name != "timestamp"} == {
            name: value for name, value in tick.items() if name != "timestamp"
        }
        assert round(row["time"].timestamp() * 1000) == tick["timestamp_ms"]
        told = (row["collector"], row["tenant_id"], row["late"], row["suspect"])
        assert told == (COLLECTOR, "system", False, False)
        assert round(row["ingested_at"].timestamp() * 1000) == row["received_ms"]


def messages_agree(
    messages: Iterable[tuple[str, dict[str, Any]]],
    ticks: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    *,
    may_wait: bool = False,
) -> None:
    """NATS: in order for each symbol, nothing twice, under the subject that fits the tick's age. A tick that
    ``may_wait`` for a server that is away can be late however young it was when it came, and a fetched one always is.
    """
    received = {row["seq"]: row["received_ms"] for row in rows}
    expected = {tick["seq"]: tick | {"received_ms": received[tick["seq"]]} for tick in ticks}
    by_symbol: dict[str, list[int]] = defaultdict(list)
    for subject, tick in messages:
        assert tick == expected.pop(tick["seq"])
        assert subject in {f"ticks.{tick['symbol']}", f"ticks.{tick['symbol']}.late"}
        age = tick["received_ms"] - tick["timestamp_ms"]
        late = age > 10_000 or tick["source"] == SOURCE_REST
        assert subject.endswith(".late") or not late
        assert not subject.endswith(".late") or late or age > 9_000 or may_wait  # it grew old on the way
        by_symbol[tick["symbol"]].append(tick["seq"])
    assert not expected
    assert all(seqs == sorted(seqs) for seqs in by_symbol.values())


def archive_agrees(records: Sequence[Any], ticks: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Kafka: one partition a symbol, in order, nothing twice."""
    received = {row["seq"]: row["received_ms"] for row in rows}
    expected = {tick["seq"]: tick | {"received_ms": received[tick["seq"]]} for tick in ticks}
    by_symbol: dict[str, list[int]] = defaultdict(list)
    partitions: dict[str, set[int]] = defaultdict(set)
    for record in records:
        tick = json.loads(record.value)
        assert tick == expected.pop(tick["seq"])
        assert record.key == tick["symbol"].encode()
        assert record.timestamp == tick["timestamp_ms"]
        assert dict(record.headers) == {"collector": COLLECTOR.encode(), "seq": str(tick["seq"]).encode()}
        by_symbol[tick["symbol"]].append(tick["seq"])
        partitions[tick["symbol"]].add(record.partition)
    assert not expected
    assert all(seqs == sorted(seqs) for seqs in by_symbol.values())
    assert all(len(found) == 1 for found in partitions.values())


def archived_as_written(records: Sequence[Any], batch: Batch) -> None:
    """Byte for byte: a symbol's ticks in one partition, in order, and nothing else."""
    assert len(records) == len(batch)
    found: dict[str, list[Any]] = defaultdict(list)
    for record in records:
        found[record.key.decode()].append(record)
    for symbol, ones in found.items():
        expected = [(t, p) for t, p in zip(batch.ticks, batch.payloads, strict=True) if t.symbol == symbol]
        assert len({record.partition for record in ones}) == 1
        assert [record.value for record in ones] == [payload for _, payload in expected]
        assert [record.timestamp for record in ones] == [tick.timestamp_ms for tick, _ in expected]
        assert [dict(record.headers) for record in ones] == [
            {"collector": b"test-1", "seq": str(tick.seq).encode()} for tick, _ in expected
        ]
