"""How far a long command is, on standard error: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Final, Self

import click

LINE_SECONDS: Final = 10.0
BAR_SECONDS: Final = 0.1


class Progress:
    """``with Progress() as progress: progress.show("reading", 200, 1000)``. A new word begins a new bar."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._doing: str | None = None
        self._bar: Any = None
        self._said = time.monotonic()
        """When something was last shown."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, why, at)

    def show(self, doing: str, done: int, total: int) -> None:
        """So much of it is done now."""
        since, ended = time.monotonic() - self._said, done >= total
        if self._terminal and (doing != self._doing or ended or since >= BAR_SECONDS):
            self._move(doing, done, total)
        elif not self._terminal and since >= LINE_SECONDS:
            click.echo(f"{doing}: {done} of {total} ({done / max(total, 1):.0%})", err=True)
        else:
            return
        self._said = time.monotonic()

    def _move(self, doing: str, done: int, total: int) -> None:
        if doing != self._doing:
            self.__exit__(None, None, None)
            self._doing = doing
            self._bar = click.progressbar(length=total, label=doing, file=sys.stderr, show_pos=True)
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos)
