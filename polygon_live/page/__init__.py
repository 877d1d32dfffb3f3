"""What people look at: one page, and a stream that keeps it fresh.

``symbols`` and ``view`` say what is shown of a state, ``memory`` what no single state tells (rates, trends, what became
of the connection). ``board`` renders it once a second for everybody who looks; ``plain`` is the same without
JavaScript; ``files`` and ``static`` are the page itself. Nothing here knows HTTP.
"""

from polygon_live.page.board import MOST_FOLLOWERS, Board, Follower
from polygon_live.page.files import FILES, File, shell

__all__ = ["FILES", "MOST_FOLLOWERS", "Board", "File", "Follower", "shell"]
