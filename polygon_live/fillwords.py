"""What an entry of the gap ledger says of its fill, and how that is read back."""

import re
from datetime import UTC, datetime

from polygon_live.gap import Gap


def by_hand(gap: Gap, symbol: str) -> str:
    """The command that fetches the entry's time for this symbol."""
    begins, ends = (
        datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        for second in (gap.from_ms // 1000, (gap.to_ms or gap.from_ms) // 1000)
    )
    return f"polygon-live backfill --symbol {symbol} --from {begins} --to {ends}"


def progress(symbol: str, second: int, compared: int) -> str:
    """How far a fill is; ``second`` is Unix time."""
    return f"{symbol} up to {datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%SZ}: {compared} quotes compared"


def progress_ms(gap: Gap) -> int | None:
    """How far along time the fill of this entry is, as its detail says; None if it does not."""
    found = re.search(r" up to (\S+Z): ", gap.detail) if gap.state == "filling" else None
    return round(datetime.fromisoformat(found[1]).timestamp() * 1000) if found else None
