"""The trading week, from a clock that is handed in. It silences alarms; it never rejects a tick.

Convention (no official calendar of the spot market exists): currencies trade from Sunday 17:00 to Friday 17:00 in
New York, metals from Sunday 18:00 with a break from 17:00 to 18:00 every day. In UTC both move with New York's
daylight saving. Holidays are nowhere listed: whoever asks must bear a market that is open and mute.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from polygon_live.model import is_metal

NEW_YORK = ZoneInfo("America/New_York")
Sessions = Callable[[str, int], int | None]
"""Symbol and Unix ms to the start of the session that holds then, None if the market is closed."""
Stretches = Callable[[str, int, int], list[tuple[int, int]]]
"""Symbol and two Unix ms, the earlier first, to the parts of the time between in which the market is open."""

FRIDAY, SATURDAY, SUNDAY = 4, 5, 6
CLOSE_HOUR = 17
METALS_OPEN_HOUR = 18
LONGEST_SESSION = timedelta(days=5)


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


def trading_day(at_ms: int) -> int:
    """When the trading day began that holds at ``at_ms``, in Unix milliseconds: at 17:00 in New York, every day."""
    local = datetime.fromtimestamp(at_ms / 1000, NEW_YORK)
    return _at(local.date() - timedelta(days=local.hour < CLOSE_HOUR), CLOSE_HOUR)


def open_stretches(symbol: str, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
    """The parts of the time from ``from_ms`` to ``to_ms``, the later one included, in which the market is open.

    A session's end is in its stretch; so a stretch may be one moment long, and none overlaps the next.
    """
    stretches = []
    day = _day(from_ms) - LONGEST_SESSION
    last = _day(to_ms)
    while day <= last:
        session = _session_from(symbol, day)
        if session is not None and session[0] <= to_ms and from_ms < session[1]:
            stretches.append((max(from_ms, session[0]), min(to_ms, session[1])))
        day += timedelta(days=1)
    return stretches


def _session_from(symbol: str, day: date) -> tuple[int, int] | None:
    """The session that begins on this day in New York: from when to when."""
    if is_metal(symbol):
        begins = day.weekday() not in {FRIDAY, SATURDAY}
        return (_at(day, METALS_OPEN_HOUR), _at(day + timedelta(days=1), CLOSE_HOUR)) if begins else None
    return (_at(day, CLOSE_HOUR), _at(day + LONGEST_SESSION, CLOSE_HOUR)) if day.weekday() == SUNDAY else None


def _day(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1000, NEW_YORK).date()


def _at(day: date, hour: int) -> int:
    return round(datetime.combine(day, time(hour), NEW_YORK).timestamp() * 1000)


def always_open(_symbol: str, _at_ms: int) -> int:
    """The sessions of a simulated market, which never closes."""
    return 0


def all_of_it(_symbol: str, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
    """The stretches of a simulated market, which never closes."""
    return [(from_ms, to_ms)]
