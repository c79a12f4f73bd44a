"""What a server process and its parent say to each other: over a pipe, an event and a queue (see process.py).

Parent to child: ``(number, command, argument)``. Child to parent: first ``("ready", node id)`` or ``("failed", (code,
text))``, then for each command ``(number, None, value)`` or ``(number, (code, text), None)``.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from troth.errors import TrothError


class ServerEvent(msgspec.Struct, frozen=True):
    """Something that happened to a server: ``ready``, ``leader``, ``follower``, ``commit``, ``snapshot`` and others.

    `at` is the server's wall clock in seconds; `facts` are numbers and texts.
    """

    name: str
    server: str
    at: float
    facts: dict[str, Any] = {}


class Control(msgspec.Struct, frozen=True):
    """What a server process holds of its parent. All of it can be pickled into a spawned process."""

    pipe: Any
    ready: Any
    events: Any
    die_with_parent: bool
    parent: int
    log_file: str


def rebuilt(code: str, text: str) -> TrothError:
    """The error with the class code *code* that another process raised."""
    for kind in _subclasses(TrothError):
        if kind.code == code:
            # Constructors differ; the text is already made.
            error = kind.__new__(kind, text)
            error.args = (text,)
            return error
    return TrothError(text)


def _subclasses(kind: type[TrothError]) -> Iterator[type[TrothError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _subclasses(each)
