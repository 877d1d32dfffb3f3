"""The last good configuration, in a file that is for this user alone: for a start while the Hub is away.

What looks like a secret never gets into it. A disk that fails costs the copy and nothing else.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio.to_thread
import msgspec
import structlog

from polygon_live.hub.merging import digest, without_secrets

RENEW_MS: Final = 3_600_000
"""How old the time in the copy may become while the Hub says the same."""

T = TypeVar("T")

log = structlog.get_logger()


class Kept(msgspec.Struct, frozen=True):
    """What the file holds."""

    service_name: str
    fetched_ms: int
    """When the Hub last said so, to within an hour: Unix milliseconds."""
    version: str | None
    updated_by: str | None
    config: dict[str, Any]

    def says_the_same_as(self, other: "Kept") -> bool:
        """But for the time."""
        mine, theirs = ((k.version, k.updated_by, digest(k.config)) for k in (self, other))
        return mine == theirs


_kept = msgspec.json.Decoder(Kept)


class LastGood:
    """The copy of one service's configuration at ``path``. Nothing is raised: what goes wrong is logged, once."""

    def __init__(self, path: Path, service: str) -> None:
        self._path = path
        self._service = service
        self._kept: Kept | None = None
        """As far as known."""
        self._complaint: str | None = None

    async def load(self) -> Kept | None:
        """What was kept; None if nothing was that can be read, or it is another service's."""
        found = await self._on_disk(partial(_read, self._path), "the last good configuration can't be read")
        self._kept = found if found and found.service_name == self._service else None
        return self._kept

    async def keep(self, config: dict[str, Any], fetched_ms: int, version: str | None, updated_by: str | None) -> None:
        """Unless the copy says the same, and its time is not old."""
        new = Kept(self._service, fetched_ms, version, updated_by, without_secrets(config))
        if self._kept is None or not new.says_the_same_as(self._kept) or fetched_ms - self._kept.fetched_ms > RENEW_MS:
            self._kept = await self._on_disk(
                partial(_write, self._path, new), "the last good configuration can't be kept"
            )

    async def forget(self) -> None:
        """Remove it."""
        await self._on_disk(partial(self._path.unlink, missing_ok=True), "the last good configuration can't be removed")
        self._kept = None

    async def _on_disk(self, do: Callable[[], T], complaint: str) -> T | None:
        """In a thread, for a disk that hangs must not stop everything; None if it went wrong."""
        try:
            found = await anyio.to_thread.run_sync(do, abandon_on_cancel=True)
        except (OSError, ValueError) as why:
            said = f"{complaint}: {why}"
            if said != self._complaint:
                log.warning(complaint, file=str(self._path), why=str(why))
            self._complaint = said
            return None
        self._complaint = None
        return found


def _read(path: Path) -> Kept | None:
    try:
        return _kept.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, RecursionError) as why:
        raise ValueError(f"it is damaged ({type(why).__name__}); the next good one replaces it") from None


def _write(path: Path, kept: Kept) -> Kept:
    """After a crash at any moment the file is the old one or the new one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    return kept
