import json
from collections.abc import Sequence

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from polygon_live import wire
from polygon_live.blanking import blanker
from polygon_live.errors import RowsRefused, StoreUnavailable
from polygon_live.model import RAW_LIMIT, Reject, evidence
from polygon_live.operational import Limits
from polygon_live.rejects import AT_ONCE, LATEST, WAITING, RejectBook
from polygon_live.validate import Validator
from polygon_live.wire import Frame, Quote


def reject(n: int, reason: str = "crossed") -> Reject:
    return Reject("validate", reason, "why", str(n), n)


async def test_counts_are_complete_and_the_latest_are_bounded() -> None:
    book = RejectBook()
    book.enter(reject(n) for n in range(LATEST + 10))
    book.enter([reject(1, "repeat")])
    snapshot = book.snapshot()
    assert snapshot.counts == {"validate": {"crossed": LATEST + 10, "repeat": 1}}
    assert len(snapshot.latest) == LATEST
    assert snapshot.latest[-1].reason == "repeat"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("unknown key s3cr3t\\k", "unknown key ***"),
        (r'{"message":["your key s3cr3t\\k is bad"]}', '{"message":["your key *** is bad"]}'),
        (f"{'x' * 1995}s3cr3", f"{'x' * 1995}***"),
        ("s3cr s3cr s3cr3t\\", "s3cr s3cr ***"),
        ("s3cr is the beginning of something else", "s3cr is the beginning of something else"),
        ("abc s3c", "abc s3c"),
    ],
)
async def test_a_secret_that_was_received_is_neither_shown_nor_kept(
    said: str, kept: str, autojump_clock: MockClock
) -> None:
    book = RejectBook(["s3cr3t\\k", "", "abc"])
    saved: list[Reject] = []

    async def save(some: Sequence[Reject]) -> None:
        await trio.lowlevel.checkpoint()
        saved.extend(some)

    book.enter([Reject("validate", "bad_event", said, said, 1, symbol="EURUSD")])
    with trio.move_on_after(1):
        await book.keep(save)
    assert saved == list(book.snapshot().latest) == [Reject("validate", "bad_event", kept, kept, 1, symbol="EURUSD")]


@pytest.mark.parametrize("before", ["", "no such pair: ", "x" * 20, "x" * 36])
@pytest.mark.parametrize("field", ["p", "x"])
def test_of_a_secret_in_a_field_that_is_too_long_to_be_shown_nothing_is_shown(field: str, before: str) -> None:
    secret = "".join(chr(ord("A") + n % 26) for n in range(32))
    quote = msgspec.structs.replace(Quote("EUR/USD", 1.2, 1.1, 1_577_916_000_000, 48), **{field: before + secret})
    validator = Validator(["EURUSD"], Limits(), now_ms=lambda: quote.t, first_seq=1)
    _, rejects = validator.judge([Frame(wire.encode([quote]), quote.t)], 0.0)
    book = RejectBook([secret])
    book.enter(rejects)
    (kept,) = book.snapshot().latest
    assert kept.reason == {"p": "unknown_pair", "x": "bad_field"}[field]
    for shown in (kept.detail, kept.raw):
        assert not any(secret[n : n + 4] in shown for n in range(29)), shown


@pytest.mark.parametrize("text", ['connection to "db" failed for {}', "it's {}", "{}"])
@pytest.mark.parametrize("secret", ["pa'ss-word", 'pa"ss-word', "p'a\"ss\\word", "pä'ss\tword"])
def test_a_secret_is_found_however_a_text_around_it_is_quoted(text: str, secret: str) -> None:
    blank = blanker([secret])
    said = text.format(secret)
    for shown in (said, repr(said), json.dumps(said), repr(repr(said)), json.dumps(repr(said)), repr(said.encode())):
        assert "word" not in blank(shown), shown


async def test_they_are_written_in_order_at_a_bounded_rate_and_the_rest_is_counted(autojump_clock: MockClock) -> None:
    book = RejectBook()
    kept: list[int] = []

    async def save(some: Sequence[Reject]) -> None:
        await trio.lowlevel.checkpoint()
        assert len(some) <= AT_ONCE
        kept.extend(r.received_ms for r in some)

    book.enter(reject(n) for n in range(WAITING + 50))
    with trio.move_on_after(60):
        await book.keep(save)
    assert kept == list(range(WAITING))
    assert book.snapshot().unkept == 50


async def test_while_the_table_is_away_rejects_wait_and_only_what_it_refuses_is_let_go(
    autojump_clock: MockClock,
) -> None:
    book = RejectBook()
    answers: list[Exception | None] = [
        StoreUnavailable("away"),
        StoreUnavailable("away"),
        None,
        RowsRefused("no"),
        None,
    ]
    kept: list[int] = []

    async def save(some: Sequence[Reject]) -> None:
        await trio.lowlevel.checkpoint()
        if (answer := answers.pop(0)) is not None:
            raise answer
        kept.extend(r.received_ms for r in some)

    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(book.keep, save)
            for n in range(3):
                book.enter([reject(n), reject(n)])
                await trio.sleep(60)
            nursery.cancel_scope.cancel()
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("rejects wait for their table", "warning"),
        ("the table refuses rejects", "warning"),
    ]
    assert kept == [0, 0, 2, 2]
    assert book.snapshot().unkept == 2


async def test_rejects_that_a_bug_loses_are_counted(autojump_clock: MockClock) -> None:
    book = RejectBook()

    async def save(some: Sequence[Reject]) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    book.enter(reject(n) for n in range(7))
    with pytest.raises(ZeroDivisionError):
        await book.keep(save)
    assert book.snapshot().unkept == 7


@pytest.mark.parametrize("raw", ["\0" * 5, "\ud800 lone", "x" * 10_000, "plain"])
def test_evidence_fits_anywhere(raw: str) -> None:
    kept = evidence(raw)
    kept.encode()
    assert "\0" not in kept
    assert len(kept) <= 6 * RAW_LIMIT
