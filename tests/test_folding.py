import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog

from polygon_live.folding import AT_ONCE, WINDOW_SECONDS, Event, Folding

ROOT = Path(__file__).parent.parent


@attrs.define
class Log:
    """What came through at once, and what stands for repeats, with a clock that is set by hand. The timer does not come
    in an hour."""

    time: float = 0.0
    lines: list[Event] = attrs.Factory(list)
    folding: Folding = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.folding = Folding(self.lines.append, window_seconds=3600.0, now=lambda: self.time)

    def say(self, event: str, level: str = "warning", **fields: Any) -> None:
        with contextlib.suppress(structlog.DropEvent):
            self.lines.append(self.folding(None, "", {"level": level, "event": event, **fields}))


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.folding.close()


def test_a_storm_is_a_few_lines_at_once_and_one_with_the_count(log: Log) -> None:
    for n in range(1000):
        log.say("refused", seq=n)
    assert [line["seq"] for line in log.lines] == list(range(AT_ONCE))
    log.time = 3600.0
    log.folding.look()
    assert log.lines[AT_ONCE:] == [{"level": "warning", "event": "refused", "seq": 999, "repeated": 1000 - AT_ONCE}]


def test_whoever_logs_anything_later_brings_it_out_first(log: Log) -> None:
    for _ in range(AT_ONCE + 2):
        log.say("refused")
    log.time = 3601.0
    log.say("another")
    assert [(line["event"], line.get("repeated")) for line in log.lines[AT_ONCE:]] == [
        ("refused", 2),
        ("another", None),
    ]


def test_a_storm_that_goes_on_is_one_line_a_window_and_afterwards_it_is_news_again(log: Log) -> None:
    for minute in range(300):
        log.time = minute * 60.0
        log.say("refused", minute=minute)
    assert [line["repeated"] for line in log.lines[AT_ONCE:]] == [60 - AT_ONCE, 60, 60, 60]
    log.time += 3600.0
    log.folding.look()
    assert log.lines[-1]["repeated"] == 60
    log.time += 3600.0
    told = len(log.lines)
    log.say("refused", minute=0)
    assert log.lines[told:] == [{"level": "warning", "event": "refused", "minute": 0}]


def test_what_is_about_something_else_or_more_serious_is_no_repeat(log: Log) -> None:
    for _ in range(AT_ONCE):
        log.say("refused", store="nats", why="a")
    log.say("refused", store="kafka", why="a")
    log.say("refused", level="error", store="nats", why="a")
    log.say("other", store="nats", why="a")
    assert len(log.lines) == AT_ONCE + 3
    log.say("refused", store="nats", why="another")
    assert len(log.lines) == AT_ONCE + 3


def test_the_end_brings_out_all_of_it_once(log: Log) -> None:
    for _ in range(AT_ONCE + 1):
        log.say("refused", store="nats")
    for _ in range(AT_ONCE + 3):
        log.say("refused", store="kafka")
    log.folding.flush()
    log.folding.flush()
    assert [(line["store"], line["repeated"]) for line in log.lines[2 * AT_ONCE :]] == [("nats", 1), ("kafka", 3)]


def test_what_is_rare_is_not_remembered(log: Log) -> None:
    for n in range(1000):
        log.time = n * 4000.0
        log.say(f"event {n}")
    assert len(log.folding._kinds) == 1
    assert len(log.lines) == 1000


def test_a_repeated_traceback_is_its_error_in_a_word(log: Log) -> None:
    for n in range(AT_ONCE + 1):
        try:
            raise ValueError(n)  # noqa: TRY301
        except ValueError:
            log.say("failed", level="error", exc_info=True)
    log.folding.flush()
    assert log.lines[-1] == {"level": "error", "event": "failed", "why": f"ValueError: {AT_ONCE}", "repeated": 1}


def test_without_another_event_the_line_appears_when_the_window_ends() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader) as said, os.fdopen(writer, "w") as saying:

        def write(event: Event) -> None:
            saying.write(json.dumps(event) + "\n")
            saying.flush()

        folding = Folding(write, window_seconds=0.01)
        dropped = 0
        while not dropped:
            try:
                folding(None, "", {"level": "info", "event": "x"})
            except structlog.DropEvent:
                dropped += 1
        assert json.loads(said.readline()) == {"level": "info", "event": "x", "repeated": 1}
        folding.close()


def test_nothing_is_lost_at_the_end_of_the_process() -> None:
    program = """
import structlog
from polygon_live import logs
logs.configure("info", "json", ["s3cr3t"])
for n in range(100):
    structlog.get_logger().info("a storm", n=n, key="s3cr3t")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["n"] for line in lines] == [*range(AT_ONCE), 99]
    assert (lines[-1]["repeated"], lines[-1]["level"], lines[-1]["key"]) == (100 - AT_ONCE, "info", "***")
    assert "timestamp" in lines[-1]
    assert "repeated" not in lines[0]


def test_the_readme_says_how_it_is_folded() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    assert (AT_ONCE, WINDOW_SECONDS) == (5, 10.0)
    assert "the first five lines appear at once, and then one every ten seconds, with `repeated`" in text
