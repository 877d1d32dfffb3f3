"""What nats-py's errors mean to the collector."""

import os
import re
import socket
import ssl
from collections.abc import Sequence
from typing import Final

from nats import errors
from nats.js.errors import APIError, NoStreamResponseError

from polygon_live.engines.nats.security import CA_VARIABLE, CREDS_VARIABLE, NoEncryption
from polygon_live.errors import StoreError, StoreMisconfigured, StoreUnavailable

SUBJECTS: Final = "ticks.>"
"""What ticks are published on."""
INBOX: Final = "subscribe on _INBOX.>"
"""The right to hear an answer."""
RIGHTS: Final = (
    ('publish to "ticks.', f"publish on {SUBJECTS}"),
    ('publish to "$js.api.stream.names"', "publish on $JS.API.STREAM.NAMES and $JS.API.STREAM.INFO.*"),
    ('publish to "$js.api.stream.info.', "publish on $JS.API.STREAM.INFO.*"),
    ('subscription to "_inbox.', INBOX),
)
"""What the server refuses, in small letters as nats-py tells it, and what is to be granted. Who may not ask for the
names is not known to be let ask for the rest."""
URLS_VARIABLE: Final = "POLYGON_LIVE_NATS_URLS"
STREAM_IS_FULL: Final = frozenset({10077, 10047, 10025, 10109})
"""JetStream's error codes: the store failed (full, and set to discard new messages), the account's or the server's
resources are used up, the stream is sealed."""
REFUSED_LOGIN: Final = ("authorization", "authentication", "user account")


class NotAllowed(Exception):
    """The server refuses the user something that can't be done without."""

    def __init__(self, doing: str, refusals: Sequence[Exception]) -> None:
        super().__init__(f"not allowed to {doing}")
        self.doing = doing
        self.rights = missing_rights(refusals)


def translated(why: BaseException, where: str) -> StoreError:
    """``where`` is the server's address, without credentials."""
    match why:
        case StoreError():
            return why
        case NotAllowed():
            return StoreMisconfigured(f"NATS {where} does not let this user {why.doing}: grant {why.rights}")
        case APIError():
            return _of_a_stream(why)
        case NoStreamResponseError():
            return StoreUnavailable(
                f"NATS {where}: no stream answers on {SUBJECTS}: it has no leader just now, or it is gone"
            )
        case errors.MaxPayloadError():
            return StoreMisconfigured(f"NATS {where} does not take a message of this size: raise its max_payload")
        case NoEncryption() | OSError():
            return _on_the_way(why, where)
        case errors.Error():
            return _said_by_the_server(why, where)
    # Whatever else the library may raise is about what it was given: its text could hold a secret.
    return StoreMisconfigured(
        f"NATS {where} can't be used ({type(why).__name__}): check {URLS_VARIABLE}, and the file in {CREDS_VARIABLE}"
    )


def _on_the_way(why: NoEncryption | OSError, where: str) -> StoreError:
    match why:
        case NoEncryption():
            return StoreMisconfigured(
                f"NATS {where} does not do TLS, and so it is told nothing: turn TLS on there, or, if everything in "
                f"between is trusted, write nats:// in {URLS_VARIABLE} and leave {CA_VARIABLE} out"
            )
        case ssl.SSLCertVerificationError():
            return StoreMisconfigured(
                f"NATS {where}: its certificate is refused: {why.verify_message}; name the authority that made it in "
                f"{CA_VARIABLE}, and the server in {URLS_VARIABLE} as the certificate does"
            )
        case ssl.SSLError():
            return StoreMisconfigured(f"NATS {where}: TLS failed: {why.reason}; check the certificate and the address")
        case TimeoutError():
            return StoreUnavailable(f"NATS {where} does not answer")
        case socket.gaierror():
            return StoreUnavailable(f"NATS {where} can't be found: {why.strerror}")
    return StoreUnavailable(f"NATS {where} can't be reached: {os.strerror(why.errno) if why.errno else why}")


def permission_refusals(heard: Sequence[Exception]) -> list[Exception]:
    """Those of the server's asynchronous errors that say that we may not do this."""
    return [why for why in heard if "permissions violation" in str(why).lower()]


def missing_rights(refusals: Sequence[Exception]) -> str:
    """What to grant the user, each right once."""
    missing = []
    for said in (str(why).lower() for why in refusals):
        known = next((right for refused, right in RIGHTS if refused in said), None)
        kind = "subscribe" if "subscription to" in said else "publish"
        named = re.search(r'"([^"]*)"', said)
        missing.append(known or f"{kind} on {named[1] if named else 'what it names'}")
    return ", and ".join(dict.fromkeys(missing))


def _of_a_stream(why: APIError) -> StoreError:
    if why.err_code in STREAM_IS_FULL:
        return StoreMisconfigured(f"the stream takes no more ticks: {why.description}; raise its limits")
    return StoreUnavailable(f"the stream did not take a tick: {why.description}")


def _said_by_the_server(why: errors.Error, where: str) -> StoreError:
    said = str(why).removeprefix("nats: ").strip("'")
    if permission_refusals([why]):
        return StoreMisconfigured(f"NATS {where} refuses: {said}; grant the user {missing_rights([why])}")
    if isinstance(why, errors.InvalidUserCredentialsError) or any(word in said.lower() for word in REFUSED_LOGIN):
        return StoreMisconfigured(
            f"NATS {where} refuses the login: check user and password in {URLS_VARIABLE}, or the file in "
            f"{CREDS_VARIABLE}"
        )
    return StoreUnavailable(f"NATS {where}: {said or type(why).__name__}")
