"""How far a long command is, on standard error: in a terminal one line that is written anew, elsewhere a line every ten
seconds. What is over sooner leaves nothing.

It is drawn by a thread of its own, so that a step that says nothing, or a call that blocks, is still seen to last.
"""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

import attrs

LINE_SECONDS: Final = 10.0
DRAW_SECONDS: Final = 0.25
BAR_CELLS: Final = 24
LEFT_AFTER_SECONDS: Final = 2.0
"""Before that the rate says too little of how long it will take."""
ERASE: Final = "\r\x1b[K"


@attrs.frozen
class _Part:
    doing: str
    done: int
    total: int | None
    """None: it can't be counted."""
    began: float


class Progress:
    """``with Progress() as progress: progress.show("reading", 200, 1000)``. A new word begins a new line."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._drawing = threading.Thread(target=self._draw_on, name="progress", daemon=True)
        self._part: _Part | None = None
        self._drawn = False
        """The part stands on the terminal's last line, or has stood there."""
        self._said = time.monotonic()
        """When the last line was written, where there is no terminal."""

    def __enter__(self) -> Self:
        self._drawing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._drawing.join()
        self._begin(None)

    def show(self, doing: str, done: int, total: int) -> None:
        """So much of it is done now. Costs next to nothing, so call it as often as there is news."""
        part = self._part
        if part is None or part.doing != doing or part.total is None:
            self._begin(_Part(doing, done, total, time.monotonic()))
        else:
            self._part = attrs.evolve(part, done=done, total=total)

    def wait(self, doing: str) -> None:
        """This is being done, nobody knows for how long. It leaves no line behind."""
        if self._part is None or self._part.doing != doing:
            self._begin(_Part(doing, 0, None, time.monotonic()))

    def say(self, text: str) -> None:
        """A step is done: a line that stays, for who looks on."""
        if self._terminal:
            with self.hidden():
                _write(f"{text}\n")

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While something else is written to the terminal."""
        with self._lock:
            if self._terminal and self._drawn:
                _write(ERASE)
            yield

    def draw(self) -> None:
        """As of now."""
        with self._lock:
            self._draw()

    def _draw_on(self) -> None:
        while not self._over.wait(DRAW_SECONDS):
            self.draw()

    def _begin(self, part: _Part | None) -> None:
        """The part before it is over: if it was seen, its last state is to be seen."""
        with self._lock:
            if self._drawn and self._part is not None and self._part.total is not None:
                self._draw()
                _write("\n" if self._terminal else "")
            elif self._drawn:
                _write(ERASE if self._terminal else "")
            self._part, self._drawn = part, False

    def _draw(self) -> None:
        part, now = self._part, time.monotonic()
        if part is None:
            return
        if self._terminal:
            self._drawn = True
            _write(ERASE + _bar(part, now)[: shutil.get_terminal_size().columns - 1])
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            _write(_line(part, now) + "\n")


def _bar(part: _Part, now: float) -> str:
    seconds = now - part.began
    if part.total is None:
        return f"{part.doing}  {_spelled(seconds)}"
    share = _share(part)
    full = int(share * BAR_CELLS)
    left = ""
    if seconds >= LEFT_AFTER_SECONDS and 0 < share < 1:
        left = f", about {_spelled(seconds / share - seconds)} left"
    counted = f"{part.done:,} of {part.total:,}  {share:.0%}  {_spelled(seconds)}"
    return f"{part.doing}  [{'#' * full}{'-' * (BAR_CELLS - full)}]  {counted}{left}"


def _line(part: _Part, now: float) -> str:
    counted = "" if part.total is None else f"{part.done} of {part.total} ({_share(part):.0%}), "
    return f"{part.doing}: {counted}{_spelled(now - part.began)}"


def _share(part: _Part) -> float:
    return min(1.0, part.done / part.total) if part.total else 1.0


def _spelled(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _write(text: str) -> None:
    """A terminal that is gone costs nothing but the view."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
