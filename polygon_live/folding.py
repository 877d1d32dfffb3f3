"""A storm of the same event in the log becomes a line now and then, with a count. No line is held back but repeats.

The first few lines of a kind appear at once; those that come after them within the window are counted, and when the
window ends one line stands for them: the last one's fields, and ``repeated``. One that goes on is one line a window.
Log calls come from several threads, and a window may end in any of them or in one of its own.
"""

import atexit
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import attrs
import structlog

AT_ONCE: Final = 5
WINDOW_SECONDS: Final = 10.0
ABOUT: Final = ("store", "symbol", "task", "endpoint", "address", "reason", "server", "table", "of")
"""The fields that tell what an event is about. The others (numbers, words of others) differ from line to line."""

Event = MutableMapping[str, Any]


@attrs.define
class _Kind:
    """What came of one event in the present window."""

    ends: float
    shown: int = 0
    repeated: int = 0
    last: Event = attrs.field(factory=dict)


class Folding:
    """A structlog processor, behind ``add_log_level``. ``write`` takes a line that stands for repeats to its end."""

    def __init__(
        self,
        write: Callable[[Event], None],
        *,
        window_seconds: float = WINDOW_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._window = window_seconds
        self._now = now
        self._lock = threading.RLock()
        """Whatever ``write`` does, it may log."""
        self._kinds: dict[tuple[str, ...], _Kind] = {}
        """In the order in which their windows end."""
        self._timer: threading.Timer | None = None
        atexit.register(self.flush)

    def __call__(self, _logger: Any, _name: str, event: Event) -> Event:
        """The event, or DropEvent if it is counted instead."""
        with self._lock:
            self.look()
            key = (str(event.get("level")), str(event.get("event")), *(str(event.get(name)) for name in ABOUT))
            kind = self._kinds.setdefault(key, _Kind(self._now() + self._window))
            if kind.shown < AT_ONCE:
                kind.shown += 1
                return event
            kind.repeated += 1
            kind.last = _plain(event)
            self._wake(kind.ends)
        raise structlog.DropEvent

    def look(self) -> None:
        """Write what has to be written by now."""
        with self._lock:
            now = self._now()
            while self._kinds:
                key, kind = next(iter(self._kinds.items()))
                if kind.ends > now:
                    return
                del self._kinds[key]
                if kind.repeated:
                    self._kinds[key] = _Kind(now + self._window, shown=AT_ONCE)
                    self._say(kind)

    def flush(self) -> None:
        """Write all of it: the end is near."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            kinds, self._kinds = self._kinds, {}
            for kind in kinds.values():
                if kind.repeated:
                    self._say(kind)

    def close(self) -> None:
        """The same, and nothing comes after it: another takes its place."""
        self.flush()
        atexit.unregister(self.flush)

    def _say(self, kind: _Kind) -> None:
        self._write({**kind.last, "repeated": kind.repeated})

    def _wake(self, ends: float) -> None:
        """If nobody logs anything, the repeats appear all the same."""
        if self._timer is not None and self._timer.is_alive():
            return
        self._timer = threading.Timer(max(0.0, ends - self._now()), self._woken)
        self._timer.daemon = True
        self._timer.start()

    def _woken(self) -> None:
        with self._lock:
            self._timer = None
            self.look()
            waiting = [kind.ends for kind in self._kinds.values() if kind.repeated]
            if waiting:
                self._wake(min(waiting))


def _plain(event: Event) -> Event:
    """Without the traceback, which would keep all of its frames alive: the error in a word."""
    kept = dict(event)
    found = kept.pop("exc_info", None)
    error = found if isinstance(found, BaseException) else sys.exc_info()[1] if found else None
    return kept if error is None else {**kept, "why": f"{type(error).__name__}: {error}"}
