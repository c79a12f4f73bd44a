"""What a forked child must do at once with what is its parent's.

Python keeps a function that was given to `os.register_at_fork` for ever. So one is given, for all objects that are to
be told.
"""

import ctypes
import os
import weakref
from typing import Protocol

from troth.errors import UsageError


class InChild(Protocol):
    """Something that a child must not go on with as it is."""

    def on_forked(self) -> None:
        """This process was forked off the one that made it."""


def keep_for_ever(each: object) -> None:
    """Let nobody be the last to let go of *each*, not even the interpreter at its end: what would be said then to a
    server, or done to a file, is the parent's to say and to do."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


def made_before() -> UsageError:
    """What to raise of a TwoPhaseCommit that this process has from the one that forked it."""
    return UsageError("this TwoPhaseCommit was made before a fork, by the parent; make one in each process")


def of_the_parent() -> UsageError:
    """What to raise of a transaction that this process has from the one that forked it."""
    return UsageError(
        "this transaction was begun before a fork: the parent goes on with it, and ends it; begin one of this process's"
        " own, with a TwoPhaseCommit that is made in it"
    )


_watched: "weakref.WeakSet[InChild]" = weakref.WeakSet()


def watch(each: InChild) -> None:
    """Tell *each* in every child that is forked while it is in use."""
    _watched.add(each)


def _tell_children() -> None:
    for each in list(_watched):
        each.on_forked()


os.register_at_fork(after_in_child=_tell_children)
