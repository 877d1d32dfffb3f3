"""What the repository says of itself is so."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs
import pytest

from polygon_live.config import settings_from
from polygon_live.errors import ConfigurationError
from polygon_live.operational import Limits, Operational

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TOP = {"pyproject.toml", "polygon_live", "tests", "ops", "Containerfile", "justfile", "README.md", "LICENSE"}


class Asked(Mapping[str, str]):
    """An empty environment that remembers what was looked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_the_readme_names_every_variable() -> None:
    environ = Asked()
    with pytest.raises(ConfigurationError):
        settings_from(environ)
    names = {name for name in environ.names if not name.endswith("_FILE")} | {
        name for name in environ.names if name.endswith(("CREDS_FILE", "CA_FILE"))
    }
    assert len(names) > 15
    for name in names:
        assert name in README or f"`{name.removeprefix('POLYGON_LIVE')}`" in README, name


def test_the_readme_has_the_limits_as_they_are() -> None:
    rows = dict(re.findall(r"^\| (`[a-z_`, ]+`) \| ([0-9, ]+) \|", README, re.MULTILINE))
    told = {
        name: float(value)
        for names, values in rows.items()
        for name, value in zip(re.findall(r"[a-z_]+", names), values.split(","), strict=True)
    }
    safe = attrs.asdict(Operational(), recurse=False, filter=attrs.filters.exclude("symbols", "limits"))
    assert told == attrs.asdict(Limits()) | safe


PINS = ("requirements.txt", "requirements-run.txt")


def pins(name: str) -> dict[str, list[str]]:
    """Each requirement, with its version and marker, and its hashes."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "ops" / name).read_text().splitlines():
        if line.startswith("    --hash="):
            found[list(found)[-1]].append(line.strip(" \\"))
        elif line and not line.lstrip().startswith("#"):
            found[line.rstrip(" \\")] = []
    return found


@pytest.mark.parametrize("name", PINS)
def test_every_pin_has_a_hash_and_none_names_a_host(name: str) -> None:
    found = pins(name)
    assert len(found) > 30
    for requirement, hashes in found.items():
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s/]+( ; |$)", requirement)
        assert hashes
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes)
    comments = re.findall("#.*", (ROOT / "ops" / name).read_text())
    assert not [comment for comment in comments if "//" in comment or "/home" in comment or "/root" in comment]


def test_the_image_gets_what_was_tested_and_no_more() -> None:
    everything, image = (pins(name) for name in PINS)
    assert {requirement: everything.get(requirement) for requirement in image} == image
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {requirement.partition("==")[0] for requirement in image}
    extras = project["optional-dependencies"]
    chosen = [*project["dependencies"], *extras.pop("fast")]  # nobody installs anything into a container
    assert {plain_name(requirement) for requirement in chosen} <= names
    others = {plain_name(requirement) for extra in extras.values() for requirement in extra}
    assert not others & names


def plain_name(requirement: str) -> str:
    return re.split(r"[\[<>=;\s]", requirement)[0].lower().replace("_", "-")


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return listed.stdout.splitlines()


def test_the_top_level_is_what_it_should_be() -> None:
    tops = {path.split("/")[0] for path in tracked()}
    assert {name for name in tops if not name.startswith(".")} <= TOP


def test_no_file_is_too_long_to_be_one_idea() -> None:
    lengths = {
        path: len((ROOT / path).read_text().splitlines()) for path in tracked() if path.startswith("polygon_live/")
    }
    assert {path: n for path, n in lengths.items() if n > 350} == {}


PROGRAMS: Final = ("java", "mvn", "npm", "chromium", "chromium-headless-shell", "curl", "promtool")
JUST: Final = """#!/bin/bash
case $1 in
    lint) echo "lint has spoken" ;;
    saturday) echo "it is Saturday"; exit 3 ;;
    test) echo "the tests have spoken" ;;
esac
"""
TOLD: Final = """#!/bin/bash
echo "${0##*/} $*"
"""


def ci_run(folder: Path, *, lacks: str = "") -> tuple[int, list[str]]:
    """Our ``.ci/run``, where ``just`` and all that it could install or need are ours too."""
    (folder / ".ci").mkdir()
    (folder / "ops").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    scripts = {"ops/just": JUST, "apt-get": TOLD, "sudo": TOLD, **dict.fromkeys(PROGRAMS, TOLD)}
    for name, script in scripts.items():
        if name != lacks:
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
    for name in ("bash", "cat", "dirname", "env", "mktemp", "rm"):
        (folder / name).symlink_to(shutil.which(name) or name)
    with (folder / "told").open("w+") as told:  # a pipe would wait for who is left behind
        done = subprocess.run([folder / ".ci/run"], env={"PATH": str(folder)}, stdout=told, stderr=told, check=False)
        told.seek(0)
        return done.returncode, told.read().splitlines()


def test_what_fails_beside_the_tests_is_told_behind_them(tmp_path: Path) -> None:
    assert ci_run(tmp_path) == (3, ["lint has spoken", "the tests have spoken", "it is Saturday"])


def test_ci_waits_for_who_else_installs_and_asks_for_the_right_to(tmp_path: Path) -> None:
    _, (_, update, install, *_) = ci_run(tmp_path, lacks="mvn")
    for line in (update, install):
        assert line.startswith("sudo env " if os.geteuid() else "apt-get ")
        assert " -o DPkg::Lock::Timeout=300 " in line
    assert install.endswith(" maven")
