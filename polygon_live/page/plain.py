"""What a browser without JavaScript shows: the verdict, the stores and the symbols, and a reload every ten seconds."""

from collections.abc import Iterable
from html import escape

from polygon_live.gap import instant_text
from polygon_live.health import health
from polygon_live.page.memory import Pace
from polygon_live.page.symbols import rows
from polygon_live.status import State


def plain(state: State) -> str:
    """HTML for between ``<noscript>`` and its end."""
    verdict = health(state)
    stores = (
        (s.name, s.state, "yes" if s.connected else "no", s.delivered, f"{s.behind_seconds:.1f} s", s.last_error or "")
        for s in state.sinks
    )
    symbols = (
        (symbol, row.state, row.bid, row.ask, row.spread, _age(row.received_ms, state.at_ms))
        for symbol, row in rows(state, Pace(1))
    )
    about = (
        f"<p>{instant_text(state.at_ms)}. This page is made anew every ten seconds; with JavaScript, it shows more, "
        "every second. The same for programs: <a href='/state'>/state</a>, <a href='/gaps'>/gaps</a>, "
        "<a href='/rejects'>/rejects</a>.</p>"
    )
    return "".join(
        (
            "<p><strong>SIMULATED: none of these prices is real.</strong></p>" if state.simulated else "",
            f"<h1>{'Healthy' if verdict.healthy else 'Unhealthy'}</h1>",
            _list(verdict.reasons),
            _list(verdict.notes),
            about,
            _table("Stores", ("store", "state", "connected", "delivered", "behind", "last error"), stores),
            _table("Symbols", ("symbol", "state", "bid", "ask", "spread in pips", "age"), symbols),
        )
    )


def plain_with_token() -> str:
    """The same where a token is set: a browser alone can't send one."""
    return (
        "<p>This collector asks for a token (POLYGON_LIVE_HTTP_TOKEN), and without JavaScript a page can't send one. "
        "<a href='/health'>/health</a> is open to all; for the rest: <code>curl -H 'Authorization: Bearer TOKEN' "
        "ADDRESS/state</code></p>"
    )


def _age(then_ms: int | None, now_ms: int) -> str:
    return "" if then_ms is None else f"{(now_ms - then_ms) / 1000:.0f} s"


def _list(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _table(caption: str, heads: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th scope=col>{escape(one)}</th>" for one in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in line)}</tr>" for line in lines)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    return "" if value is None else escape(str(value))
