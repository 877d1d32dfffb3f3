"""Times on the command line: ISO 8601, UTC unless a zone is given."""

from datetime import UTC, datetime, timedelta
from typing import Final

import click

from polygon_live.gap import instant_text

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_LIKE: Final = "write it like 2025-01-31, 2025-01-31T07:30 or 2025-01-31T07:30:15.250+02:00; without a zone it is UTC"


class Instant(click.ParamType[int]):
    """A time as Unix milliseconds. A fraction of a millisecond is rounded up, so that what is at or after the time, and
    what is before it, is the same with whole milliseconds.
    """

    name = "TIME"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Refuses what can't be read."""
        if isinstance(value, int):  # click gives a default, or what was converted already, once more
            return value
        try:
            read = datetime.fromisoformat(value.strip())
        except ValueError:
            self.fail(f"{value!r} is not a time: {_LIKE}", param, ctx)
        try:
            since = (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC) - _EPOCH
        except OverflowError:  # a zone that moves it out of the calendar
            self.fail(f"{value!r} is outside of the calendar: {_LIKE}", param, ctx)
        return -(-since // _MILLISECOND)


def check_span(from_ms: int, to_ms: int, now_ms: int) -> None:
    """Refuse a span that is empty or has not begun. An end in the future is no fault: then it ends now.

    Raises click.UsageError.
    """
    if from_ms >= to_ms:
        raise click.UsageError(f"--from is {spelled(from_ms)}, which is not before --to, {spelled(to_ms)}")
    if from_ms > now_ms:
        raise click.UsageError(f"--from is {spelled(from_ms)}, which is in the future: it is {spelled(now_ms)}")


def spelled(unix_ms: int) -> str:
    """As it can be given again."""
    return (_EPOCH + unix_ms * _MILLISECOND).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant(at_ms: int) -> str:
    """Unix milliseconds as 2026-06-02 12:00:00.000, UTC."""
    return instant_text(at_ms).replace("T", " ").removesuffix("Z")
