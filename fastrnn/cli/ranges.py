"""The ranges of numbers that options of commands accept."""

from __future__ import annotations

import math
import sys
from typing import Any

import click

__all__ = ["COUNT", "SEED", "FiniteRange"]

COUNT = click.IntRange(1, sys.maxsize)
SEED = click.IntRange(0, sys.maxsize)


class FiniteRange(click.FloatRange):
    """A range of finite numbers. (Of click's own, NaN is in every range.)"""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; see `click.ParamType.convert`."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
