"""What numbers options take: anything else is refused before a command begins."""

import math
from typing import Any

import click
from typing_extensions import override

INT64_MAX = (1 << 63) - 1


class Whole(click.IntRange):
    """A whole number within bounds, called so when it is none."""

    name = "integer"


class Positive(click.FloatRange):
    """An amount of *name*: above nothing, and a number ("nan" is within every range)."""

    def __init__(self, name: str) -> None:
        super().__init__(min=0, min_open=True)
        self.name = name

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            amount = float(value)
        except ValueError:
            amount = math.nan
        if math.isnan(amount):
            self.fail(f"{value} is not a number of {self.name}", param, ctx)
        amount = super().convert(value, param, ctx)
        return amount


class Size(click.ParamType[int]):
    """Bytes, as `troth serve` takes them: above nothing, with a unit or without."""

    name = "size"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from troth.server.config import SIZES, size_of

        size_bytes = size_of(str(value))
        if not size_bytes:
            self.fail(f"{value!r} is not {SIZES}", param, ctx)
        return size_bytes


SIZE = Size()
COUNT = Whole(min=0)
POSITIVE = Positive("seconds")


def counted(count: int, name: str) -> str:
    """So many of what *name* calls one of: 1 row, 1,200 rows."""
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"
