"""What operators may change while the collector runs, and the safe defaults."""

from typing import Final

import attrs

from polygon_live.model import FOURTEEN_SYMBOLS

ALL_PAIRS: Final = "*"
"""In place of symbols: everything that Polygon has."""


@attrs.frozen
class Limits:
    """What the validator refuses and what it marks. The figures argue from real ticks, on holidays, when markets are
    thinnest: 9,500 EURUSD quotes of 2020-01-01 and 1,000 USDJPY quotes of 2013-01-01. Metals and the 17:00 New York
    rollover are not in those files: for them the figures are unverified, which is why they are far out.
    """

    max_spread_bps: float = 1000.0
    """Reject above. Seen: at most 6.4 (EURUSD) and 8.4 (USDJPY). 10 % is beyond any rollover or crash of a pair."""
    max_price_factor: float = 3.0
    """Reject a mid this many times above or below the symbol's last. A decimal shift is 10; seen: 1.0003."""
    reanchor_ticks: int = 3
    """So many ticks in a row that agree with each other, though not with the last price, are the new price. So many in
    a row that are older than a newest timestamp ahead of the clock make that timestamp a wrong one."""
    reanchor_agreement_bps: float = 100.0
    """How far apart two such ticks may be: wide against any tick-to-tick jump, narrow against a shifted decimal."""
    suspect_jump_bps: float = 50.0
    """Mark above. Seen from tick to tick: at most 1.9 (EURUSD) and 2.4 (USDJPY); twenty times that is unusual."""
    max_future_seconds: float = 3600.0
    """Reject timestamps further ahead of the collector's clock."""
    max_age_seconds: float = 72 * 3600.0
    """Reject timestamps further back: the table keeps three days."""


@attrs.frozen
class Operational:
    """What operators may change while the collector runs. These are the safe defaults."""

    symbols: tuple[str, ...] = FOURTEEN_SYMBOLS
    """Or ``ALL_PAIRS`` alone."""
    websocket_reconnect_delay: float = 5.0
    """Seconds before the first reconnect; doubles up to a minute (or up to this, if it is more)."""
    rate_limit_per_second: float = 5.0
    """Connection attempts, messages to Polygon and REST calls, all together."""
    limits: Limits = Limits()

    @property
    def all_pairs(self) -> bool:
        """Whether everything is collected that Polygon has."""
        return ALL_PAIRS in self.symbols
