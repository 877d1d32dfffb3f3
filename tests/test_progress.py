"""How far a long command is: drawn in a terminal, told now and then elsewhere, and never where a pipe reads."""

import io
import os
import select
import subprocess
import sys
from collections.abc import Callable

import pytest

from polygon_live.commands import progress
from polygon_live.commands.progress import ERASE, LINE_SECONDS, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time, which passes when it is told to."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def on(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO) -> io.StringIO:
    monkeypatch.setattr("sys.stderr", stderr)
    return stderr


def test_in_a_terminal_a_part_is_one_line_that_stays_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch, passes: Callable[[float], None]
) -> None:
    stderr = on(monkeypatch, Terminal())
    shown = Progress()
    shown.show("reading", 250, 1000)
    passes(4)
    shown.draw()
    shown.show("reading", 1000, 1000)
    passes(1)
    shown.show("publishing", 1, 0)
    assert stderr.getvalue() == (
        f"{ERASE}reading  [######------------------]  250 of 1,000  25%  4 s, about 12 s left"
        f"{ERASE}reading  [########################]  1,000 of 1,000  100%  5 s\n"
    )


def test_what_can_not_be_counted_shows_how_long_it_lasts_and_goes_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, passes: Callable[[float], None]
) -> None:
    stderr = on(monkeypatch, Terminal())
    shown = Progress()
    shown.wait("starting NATS")
    passes(61)
    shown.wait("starting NATS")
    shown.draw()
    shown.say("NATS is ready")
    shown.wait("starting PostgreSQL")
    assert stderr.getvalue() == f"{ERASE}starting NATS  1 min 1 s{ERASE}NATS is ready\n{ERASE}"


def test_what_is_over_before_it_was_drawn_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = on(monkeypatch, Terminal())
    monkeypatch.setattr(progress, "DRAW_SECONDS", 3600.0)
    with Progress() as shown:
        shown.show("reading", 5, 5)
        shown.wait("asking")
    assert stderr.getvalue() == ""


def test_a_long_line_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = on(monkeypatch, Terminal())
    monkeypatch.setenv("COLUMNS", "20")
    shown = Progress()
    shown.show("publishing", 5, 10)
    shown.draw()
    assert stderr.getvalue() == f"{ERASE}publishing  [######"


def test_elsewhere_there_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, passes: Callable[[float], None]
) -> None:
    stderr = on(monkeypatch, io.StringIO())
    shown = Progress()
    shown.show("reading", 5, 10)
    passes(LINE_SECONDS - 1)
    shown.draw()
    assert stderr.getvalue() == ""
    passes(1)
    shown.draw()
    shown.draw()
    shown.say("nobody looks on")
    shown.show("reading", 10, 10)
    shown.wait("ending")
    passes(LINE_SECONDS)
    with shown.hidden():
        stderr.write("something else\n")
    shown.draw()
    assert stderr.getvalue() == "reading: 5 of 10 (50%), 10 s\nsomething else\nending: 10 s\n"


PROGRAM = """
from polygon_live.commands.progress import Progress
with Progress() as progress:
    progress.wait("waiting")
    input()
print("done")
"""


def test_a_call_that_blocks_is_seen_to_last_and_standard_output_is_for_pipes() -> None:
    ours, theirs = os.openpty()
    with (
        os.fdopen(ours, "rb", buffering=0) as terminal,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs
        ) as child,
    ):
        os.close(theirs)
        seen = b""
        while b"waiting  1 s" not in seen:
            assert select.select([terminal], [], [], 60)[0], seen
            seen += terminal.read(1000)
        out, _ = child.communicate(b"\n", timeout=60)
    assert out == b"done\n"


def test_a_terminal_that_is_gone_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = on(monkeypatch, Terminal())
    shown = Progress()
    shown.show("reading", 1, 2)
    stderr.close()
    shown.draw()
    shown.say("ready")
