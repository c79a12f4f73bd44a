"""What numbers options take: anything else is refused before a command begins."""

from typing import Any

import click
from typing_extensions import override

INT64_MAX = (1 << 63) - 1


class Seconds(click.FloatRange):
    """A time: above nothing, and a number ("nan" is within every range)."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if seconds != seconds:
            self.fail(f"{value} is not a number of seconds", param, ctx)
        return seconds


COUNT = click.IntRange(min=0)
POSITIVE = Seconds()
