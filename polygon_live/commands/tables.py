"""Words and tables on standard output: with colours and lines in a terminal, plain columns otherwise."""

from collections.abc import Sequence

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def say(text: str, style: str = "") -> None:
    """A line. ``style`` is rich's, like ``bold red``; only a terminal shows it."""
    _console().print(Text(clean(text), style=style), soft_wrap=True)


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; nothing if there are no rows."""
    if not rows:
        return
    cleaned = [[clean(cell) for cell in row] for row in rows]
    console = _console()
    if not console.is_terminal:
        for line in aligned([head, *cleaned]):
            click.echo(line)
        return
    table = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in cleaned:
        table.add_row(*map(Text, row))
    console.print(table)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def clean(text: str) -> str:
    """Without anything that a terminal would obey: other programs have a say in what is shown here."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_lines(lines: Sequence[str]) -> None:
    """All at once: a line each would take longer than reading the ledger."""
    if lines:
        click.echo("\n".join(lines))


def in_one_line(text: str) -> str:
    """Foreign words may have line breaks."""
    return " ".join(text.split())


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)
