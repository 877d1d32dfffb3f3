"""Symbols on the command line."""

import click
from click.shell_completion import CompletionItem

from polygon_live.model import FOURTEEN_SYMBOLS, canonical_symbol


class Symbol(click.ParamType[str]):
    """A pair, in any spelling."""

    name = "SYMBOL"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuses what is no pair."""
        try:
            return canonical_symbol(value)
        except ValueError as why:
            self.fail(str(why), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The fourteen: a shell does not wait for a collector that is asked for its own."""
        del ctx, param
        return [CompletionItem(s) for s in FOURTEEN_SYMBOLS if s.startswith(incomplete.upper())]
