"""The trading week, from a clock that is handed in. It silences alarms; it never rejects a tick.

Convention (no official calendar of the spot market exists): currencies trade from Sunday 17:00 to Friday 17:00 in
New York, metals from Sunday 18:00 with a break from 17:00 to 18:00 every day. In UTC both move with New York's
daylight saving. Holidays are nowhere listed: whoever asks must bear a market that is open and mute.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from polygon_live.model import is_metal

NEW_YORK = ZoneInfo("America/New_York")
Sessions = Callable[[str, int], int | None]
"""Symbol and Unix ms to the start of the session that holds then, None if the market is closed."""

FRIDAY, SATURDAY, SUNDAY = 4, 5, 6
CLOSE_HOUR = 17
METALS_OPEN_HOUR = 18


def open_since(symbol: str, at_ms: int) -> int | None:
    """When the session that holds at ``at_ms`` began, in Unix milliseconds; None while the market is closed."""
    local = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(NEW_YORK)
    opens = METALS_OPEN_HOUR if is_metal(symbol) else CLOSE_HOUR
    weekday, hour = local.weekday(), local.hour
    if weekday == SATURDAY or (weekday == FRIDAY and hour >= CLOSE_HOUR) or (weekday == SUNDAY and hour < opens):
        return None
    if is_metal(symbol):
        if hour == CLOSE_HOUR:
            return None
        days_back = 0 if hour >= opens else 1
    else:
        days_back = (weekday + 1) % 7
    # Arithmetic on the wall clock: the hours at which markets open exist once on every day of the year.
    began = local.replace(hour=opens, minute=0, second=0, microsecond=0, fold=0) - timedelta(days=days_back)
    return round(began.timestamp() * 1000)


def always_open(_symbol: str, _at_ms: int) -> int:
    """The sessions of a simulated market, which never closes."""
    return 0
