"""What the comparison with others says of what it found; the others themselves are fetched, and do not run here."""

from collections.abc import Iterable
from functools import partial

import pytest
import trio
from trio_websocket import ConnectionClosed

from polygon_live.dial import dial_websocket
from polygon_live.wire import Quote
from tests.bench.peers import environment, table
from tests.bench.peers.killing import Fate, fate
from tests.bench.peers.speed import OURS, Held, Run
from tests.bench.peers.stage import PEERS
from tests.bench.sender import ROOT, Sender
from tests.place import STORES
from tests.waiting import in_thread

OTHER = "other"
NOBODY = "nothing done"


def runs() -> Iterable[Run]:
    for name, stores, ticks in ((OURS, STORES, 1000), (OTHER, ("nats", "kafka"), 200), (NOBODY, (), 4000)):
        for per_frame in (20, 1):
            for seconds in (1.0, 2.0, 40.0):  # the median counts
                yield Run(name, stores, per_frame, ticks, seconds, 0.05 * seconds, 10 * seconds)


def test_a_table_has_the_ratios_and_what_is_missing() -> None:
    held = [
        Held(OURS, 10, dict.fromkeys(STORES, 10)),
        Held(OURS, 20, dict.fromkeys(STORES, 20)),
        Held(OTHER, 30, {"nats": 29, "kafka": 32}),
        Held(NOBODY, 30, {}),
    ]
    assert table.speed(list(runs()), held)[2:] == [
        "| polygon-live | timescale nats kafka | 500 (1.00) | 100 (1.00) | 500 (1.00) | 100 (1.00) | 400 | complete |",
        "| other | nats kafka | 100 (0.20) | 500 (5.00) | 100 (0.20) | 500 (5.00) | 400 | nats -1, kafka +2 |",
        "| nothing done | none | 2,000 (4.00) | 25 (0.25) | 2,000 (4.00) | 25 (0.25) | 400 | - |",
    ]


def test_a_table_says_what_was_lost() -> None:
    fates = [
        Fate(OURS, "timescale", 900, 0, 140, 0, 0),
        Fate(OTHER, "timescale", 900, 3, 141, 142, 0),
        Fate(OTHER, "kafka", 900, 0, 141, 141, 2),
    ]
    lines = table.killed(fates)
    assert lines[2:] == [
        "| polygon-live | none in timescale | none of 140 in timescale | none |",
        "| other | 3 in timescale, none in kafka | 142 of 141 in timescale, 141 of 141 in kafka | 2 |",
    ]
    assert [line.split("  ")[0] for line in table.plain(lines)[1:]] == [OURS, OTHER]


def test_what_was_fetched_is_found_by_its_second() -> None:
    sent = [Quote("EUR/USD", 1.2, 1.1 + n / 1e5, 1_780_000_000_000 + n * 400, 48) for n in range(6)]
    live = [("EURUSD", quote.t, quote.b, "polygon_websocket") for quote in sent]
    fetched = ("EURUSD", sent[4].t // 1000 * 1000, sent[4].b, "polygon_rest")
    found = [live[0], live[2], live[2], live[3], fetched]
    assert fate(OTHER, "kafka", sent, 3, 2, found) == Fate(
        OTHER, "kafka", 6, heard_lost=1, passed=2, passed_lost=1, doubled=1
    )


def test_every_peer_is_a_program_of_pinned_packages() -> None:
    for peer in PEERS:
        assert (ROOT / "tests" / "bench" / "peers" / f"{peer.module}.py").exists()
    pins = environment.REQUIREMENTS.read_text().split()
    assert len(pins) > 10
    assert not [pin for pin in pins if pin.count("==") != 1]


async def test_the_sender_ends_a_conversation_in_order() -> None:
    sender = await in_thread(Sender)
    with sender:
        async with dial_websocket(sender.url) as client:
            await client.send_message('{"action":"subscribe","params":"C.*"}')
            await in_thread(partial(sender.subscribed, 1))
            sender.send(40, per_second=None, per_frame=20)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(in_thread, sender.close)
                for _ in range(4):  # the greeting, the acknowledgement, and two of ticks
                    await client.get_message()
                with pytest.raises(ConnectionClosed) as closed:
                    await client.get_message()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1000
