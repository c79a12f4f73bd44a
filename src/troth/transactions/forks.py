"""What a forked child must do at once with what is its parent's.

Python keeps a function that was given to `os.register_at_fork` for ever. So one is given, for all objects that are to
be told.
"""

import os
import weakref
from typing import Protocol


class InChild(Protocol):
    """Something that a child must not go on with as it is."""

    def on_forked(self) -> None:
        """This process was forked off the one that made it."""


_watched: "weakref.WeakSet[InChild]" = weakref.WeakSet()


def watch(each: InChild) -> None:
    """Tell *each* in every child that is forked while it is in use."""
    _watched.add(each)


def _tell_children() -> None:
    for each in list(_watched):
        each.on_forked()


os.register_at_fork(after_in_child=_tell_children)
