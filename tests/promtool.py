"""Prometheus' own judge of metrics and rules, where it is installed (Debian's package ``prometheus`` has it)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def promtool(*arguments: str | Path, stdin: bytes = b"") -> None:
    """Fails with its words unless it finds nothing. CI must have it."""
    program = shutil.which("promtool")
    if program is None:
        assert not os.environ.get("CI"), "CI must have promtool: install the package prometheus"
        pytest.skip("no promtool here: install the package prometheus")
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, ""), (done.stdout + done.stderr).decode()
