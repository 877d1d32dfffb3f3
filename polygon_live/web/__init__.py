"""The status server: read-only pages, for programs and people, that can't hold up a tick.

``pages`` says what is answered, ``guard`` to whom, ``gate`` to which requests, ``server`` how it travels, ``crowd`` who
makes room for others, and ``share`` how much of the loop all of that may have.
"""

from polygon_live.web.pages import ABOUT, MOST_ASIDE, MOST_GAPS, Ledger, make_app
from polygon_live.web.serve import listen, serve_status

__all__ = ["ABOUT", "MOST_ASIDE", "MOST_GAPS", "Ledger", "listen", "make_app", "serve_status"]
