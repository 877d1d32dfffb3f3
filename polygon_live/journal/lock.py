"""One process appends to a folder's journal. The kernel's lock decides, and ends with the process, however that ends;
what stands in the file is for people.
"""

import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from polygon_live.errors import JournalHeld
from polygon_live.journal.database import translated

PATIENCE_SECONDS: Final = 0.2
"""Who looks whether a collector runs (``backfill``) holds the lock for an instant: that must not end a start."""


class Lock:
    """Held from ``take`` to ``release``."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, now_ms: int) -> Self:
        """Raises JournalHeld, JournalError."""
        path = folder / "lock"
        with translated(path, "locked"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _flock(descriptor)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(_holder(now_ms)).encode(), 0)
            except BlockingIOError:
                holder = _described(os.pread(descriptor, 1000, 0))
                os.close(descriptor)
                raise JournalHeld(
                    f"the journal in {folder} is held by {holder}; stop that one first, or give this one another folder"
                ) from None
            except BaseException:
                os.close(descriptor)
                raise
        return cls(descriptor)

    def release(self) -> None:
        """The file stays: removing it would let two processes lock two files of one name. Again, it does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def holder(folder: Path) -> str | None:
    """Who appends to the journal in this folder, in words; None: nobody. Writes nothing. Raises JournalError."""
    path = folder / "lock"
    with translated(path, "looked at"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _described(os.pread(descriptor, 1000, 0))
        finally:
            os.close(descriptor)
    return None


def _flock(descriptor: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PATIENCE_SECONDS / 10)
        else:
            return


def _holder(now_ms: int) -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since_ms": now_ms}


def _described(content: bytes) -> str:
    try:
        told = json.loads(content)
        since = datetime.fromtimestamp(told["since_ms"] / 1000, UTC)
        return f"process {told['pid']} on {told['host']} since {since:%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return "another process"
