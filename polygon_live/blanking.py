"""Secrets blanked in what others said: the last look at a text before it is shown.

Who was told a secret may repeat it, and a library that does so may write it as Python or JSON write a string.
"""

import json
from collections.abc import Callable, Iterable
from typing import Final

MASK: Final = "***"
SHORT: Final = 3
"""Characters. What has no more than these is in every text, and stays."""


def blanker(secrets: Iterable[str], *, cut: bool = False) -> Callable[[str], str]:
    """What puts ``***`` in the place of each of these, in whichever of its spellings. ``cut``: the end of a text may be
    gone, and with it that of a secret.
    """
    hidden = sorted({s for secret in secrets if len(secret) > SHORT for s in _spellings(secret)}, key=len, reverse=True)

    begins = {secret[: SHORT + 1] for secret in hidden}

    def blank(text: str) -> str:
        if not any(begin in text for begin in begins):
            return text  # as nearly always, and each tick that repeats the one before is a reject that comes by here
        for secret in hidden:
            text = text.replace(secret, MASK)
            if cut:
                text = _end_blanked(text, secret)
        return text

    return blank


def _end_blanked(text: str, secret: str) -> str:
    begins = secret[: SHORT + 1]
    at = text.find(begins, max(0, len(text) - len(secret)))
    while at >= 0:
        if secret.startswith(text[at:]):
            return text[:at] + MASK
        at = text.find(begins, at + 1)
    return text


def _spellings(secret: str) -> set[str]:
    """As it is, as ``repr`` and JSON show it, and as they show that: an error is a string in a line of the log."""
    # A text with both kinds of quotation marks in it is written with a backslash before the single ones.
    both = "'\""
    encoded = [word.encode(errors="replace") for word in (secret, secret + both)]
    found = {secret, repr(encoded[0])[2:-1], repr(encoded[1])[2:-4]}
    for _ in range(2):
        found |= {repr(s + both)[1:-4] for s in found} | {repr(s)[1:-1] for s in found}
        found |= {json.dumps(s)[1:-1] for s in found}
    return found
