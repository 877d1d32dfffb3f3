"""Logging: one event a line, plain in a terminal and JSON otherwise, never with a secret in it."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

import structlog


def configure(level: str, form: str, secrets: Iterable[str]) -> None:
    """Set up structlog on standard error. ``form``: ``console``, ``json``, or ``auto`` (console in a terminal).

    Secrets are wrapped where they are held; the last processor blanks them once more wherever a foreign library put
    one into an error message.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    render: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if console else structlog.processors.JSONRenderer()
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if console else [structlog.processors.format_exc_info]),
    ]
    structlog.configure(
        processors=[*shared, render, _blank(secrets)],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=_StandardError,
        cache_logger_on_first_use=False,
    )
    # Foreign libraries log through the standard library: only what they call an error, and never their own format.
    logging.basicConfig(level=logging.CRITICAL, handlers=[logging.NullHandler()], force=True)


class _StandardError:
    """Lines go there while they can. A full disk, a log reader that died or a closed terminal must not end a collector
    that does its work.
    """

    def msg(self, line: str) -> None:
        """Unbuffered: what could not be written is gone, and fails nobody at exit."""
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"{line}\n".encode(errors="backslashreplace"))

    debug = info = warning = error = critical = exception = msg


def _blank(secrets: Iterable[str]) -> Any:
    """The renderer's output is a string by now: nothing can hide in a nested value."""
    hidden = tuple(sorted({s for s in secrets if len(s) > 3}, key=len, reverse=True))

    def blank(_logger: Any, _name: str, line: str) -> str:
        for secret in hidden:
            line = line.replace(secret, "***")
        return line

    return blank
