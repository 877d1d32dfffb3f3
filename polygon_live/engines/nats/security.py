"""Encryption and logins where nats-py is too trusting.

- It takes a ``tls://`` address for ``nats://`` when the server does not ask for TLS, and then sends the password in the
  clear to whoever answers.
- It looks for the end of a credentials file without a JWT for ever, and its loop with it.
"""

import ssl
from pathlib import Path
from typing import Any, Final

from nats.aio.client import Client

from polygon_live.errors import StoreMisconfigured

CA_VARIABLE: Final = "POLYGON_LIVE_NATS_CA_FILE"
CREDS_VARIABLE: Final = "POLYGON_LIVE_NATS_CREDS_FILE"
PARTS_OF_CREDS: Final = ("-----BEGIN NATS USER JWT-----", "-----BEGIN USER NKEY SEED-----")


class NoEncryption(Exception):
    """Encryption is wanted, and the server does not do it."""


class CarefulClient(Client):
    """Says nothing in the clear to a server that is to be spoken to over TLS."""

    def __init__(self, *, only_tls: bool) -> None:
        super().__init__()
        self._only_tls = only_tls

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002  # the library's own
        if initial_connection and self._only_tls:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NoEncryption
            info["tls_required"] = True  # a server that leaves it open is taken at its best
        await super()._process_info(info, initial_connection)


def context_of(ca_file: Path | None) -> ssl.SSLContext | None:
    """Trusts this authority alone; without one, the library trusts those of the machine. Raises StoreMisconfigured."""
    if ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as why:
        reason = "it holds no certificate in PEM form" if isinstance(why, ssl.SSLError) else why.strerror
        raise StoreMisconfigured(f"{CA_VARIABLE} is {str(ca_file)!r}, which can't be used: {reason}") from None


def checked_creds(path: Path | None) -> str | None:
    """The credentials file, if it looks like one: read anew at each connection, for it may be replaced while we run.

    Raises StoreMisconfigured.
    """
    if path is None:
        return None
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as why:
        reason = why.strerror if isinstance(why, OSError) else "it is not text"
        raise StoreMisconfigured(f"{CREDS_VARIABLE} is {str(path)!r}, which can't be read: {reason}") from None
    missing = [part for part in PARTS_OF_CREDS if not text.partition(part)[2].strip()]
    if missing:
        raise StoreMisconfigured(f"{CREDS_VARIABLE} is {str(path)!r}, which has nothing after {' and '.join(missing)}")
    return str(path)
