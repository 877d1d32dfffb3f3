"""Logging: one event a line, plain in a terminal and JSON otherwise, never with a secret in it; of a storm a line now
and then (``folding.py``).

Levels: error, something is lost or somebody must act; warning, something is wrong, and the collector mends it or goes
on without; info, its life; debug, for developers.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterable
from typing import Any, Final

import structlog

from polygon_live.blanking import blanker
from polygon_live.folding import Event, Folding

OVER_PROGRESS: Final = "\r\x1b[K"
"""A command may show how far it is on a terminal's last line: an event takes its place, and it is drawn anew below."""

_folding: list[Folding] = []
"""The one in force, if there is one."""


def configure(level: str, form: str, secrets: Iterable[str]) -> None:
    """Set up structlog on standard error. ``form``: ``console``, ``json``, or ``auto`` (console in a terminal).

    Secrets are wrapped where they are held; the last processor blanks them once more wherever a foreign library put
    one into an error message.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    # Its own way with exceptions shows the variables beside the lines: secrets among them, cut so that none is found.
    plain = structlog.dev.plain_traceback
    render: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
        if console
        else structlog.processors.JSONRenderer()
    )
    finish: list[Any] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if console else [structlog.processors.format_exc_info]),
        render,
        _blank(secrets),
    ]

    def write(event: Event) -> None:
        line: Any = event
        for processor in finish:
            line = processor(None, "", line)
        _StandardError().msg(line)

    while _folding:
        _folding.pop().close()
    _folding.append(Folding(write))
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, *_folding, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=_StandardError,
        cache_logger_on_first_use=False,
    )
    # Foreign libraries log through the standard library: only what they call an error, and never their own format.
    logging.basicConfig(level=logging.CRITICAL, handlers=[logging.NullHandler()])


def configure_unless_others_did(level: str, form: str, secrets: Iterable[str]) -> None:
    """The same in somebody else's program, which keeps what it has set up itself."""
    if not structlog.is_configured() or structlog.get_config()["logger_factory"] is _StandardError:
        configure(level, form, secrets)


class _StandardError:
    """Lines go there while they can. A full disk, a log reader that died or a closed terminal must not end a collector
    that does its work.
    """

    def msg(self, line: str) -> None:
        """Unbuffered: what could not be written is gone, and fails nobody at exit."""
        over = OVER_PROGRESS if sys.stderr.isatty() else ""
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"{over}{line}\n".encode(errors="backslashreplace"))

    debug = info = warning = error = critical = exception = msg


def _blank(secrets: Iterable[str]) -> Any:
    """The renderer's output is a string by now: nothing can hide in a nested value."""
    blank = blanker(secrets)
    return lambda _logger, _name, line: blank(line)
