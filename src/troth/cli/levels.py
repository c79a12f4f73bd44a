"""``--level``: which consistency model a read is served under."""

from typing import Any

import click
from typing_extensions import override

from troth.errors import UsageError
from troth.models import ReadLevel, linearizable, parse_level


class Level(click.ParamType[ReadLevel]):
    """Reads ``linearizable``, ``sequential``, ``session``, ``bounded:2s``, ``bounded:10`` or ``eventual``."""

    name = "LEVEL"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ReadLevel:
        if isinstance(value, ReadLevel):
            return value
        try:
            return parse_level(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


level_option = click.option(
    "--level",
    type=Level(),
    default=linearizable,
    help="linearizable (default), sequential, session, bounded:2s, bounded:10 (revisions) or eventual.",
)
