"""The journal: what was accepted, on disk, in order, before any store has it; and the ledger of what was not.

Synchronous, without threads of its own: who has it calls it from one thread at a time.
"""

from polygon_live.journal.database import Sync, make_durable
from polygon_live.journal.facts import Aside, GivenUp, JournalFacts, Newest, Portion
from polygon_live.journal.holes import Hole, HoleCause
from polygon_live.journal.journal import Journal
from polygon_live.journal.ledger import Ledger

__all__ = [
    "Aside",
    "GivenUp",
    "Hole",
    "HoleCause",
    "Journal",
    "JournalFacts",
    "Ledger",
    "Newest",
    "Portion",
    "Sync",
    "make_durable",
]
