"""What numbers options take: anything else is refused before a command begins."""

import click

COUNT = click.IntRange(min=0)
POSITIVE = click.FloatRange(min=0, min_open=True)
