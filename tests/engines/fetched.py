"""What was fetched for the tests, once for each version, into the user's cache."""

import fcntl
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import platformdirs

from polygon_live.embedded import NotInstalled

FETCH_SECONDS: Final = 600


def fetched(name: str, fetch: Callable[[Path], None]) -> Path:
    """The folder ``name``, which carries the version; ``fetch`` fills it the first time. Whole or not there: an
    interrupted fetch begins anew, and a second process waits for the first.
    """
    cache = platformdirs.user_cache_path("polygon-live-tests")
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / name
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            half = cache / f"{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            fetch(half)
            half.rename(folder)
    return folder


def from_npm(package: str, version: str, integrity: str, folder: Path) -> None:
    """Fill the folder by a lock file, so that it is these very bytes or none; the package's own scripts don't run."""
    wanted = {"dependencies": {package: version}}
    packages = {"": wanted, f"node_modules/{package}": {"version": version, "integrity": integrity}}
    (folder / "package.json").write_text(json.dumps(wanted))
    (folder / "package-lock.json").write_text(json.dumps({"lockfileVersion": 3, "packages": packages}))
    run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)


def run(command: Sequence[str | Path], folder: Path) -> None:
    """A step of a fetch, in ``folder``. Raises NotInstalled with the end of what it printed."""
    tool = str(command[0])
    if shutil.which(tool) is None:
        message = f"{tool} is not installed, and an engine for the tests is fetched with it"
        raise NotInstalled(message)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=FETCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        message = f"{tool} did not fetch an engine for the tests within {FETCH_SECONDS} s: is its registry reached?"
        raise NotInstalled(message) from None
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        message = f"{tool} could not fetch an engine for the tests, it ended with exit code {done.returncode}:\n{tail}"
        raise NotInstalled(message)
