"""The peers' own Python environment: made once for each version of ``requirements.txt``, outside the project's."""

import hashlib
import sys
from pathlib import Path
from typing import Final

from tests.engines.fetched import fetched, run

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")


def python() -> Path:
    """Its interpreter. Raises NotInstalled if the packages can't be had."""

    def make(folder: Path) -> None:
        run([sys.executable, "-m", "venv", folder], folder)
        pip = (folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        run((*pip, "--no-deps", "--requirement", REQUIREMENTS), folder)

    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    return fetched(f"peers-{digest}", make) / "bin" / "python"
