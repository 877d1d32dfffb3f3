"""A number on the command line."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """Within its range, and no NaN: that is neither above a limit nor below it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises click.BadParameter."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number in the range {self._describe_range()}", param, ctx)
        return number
