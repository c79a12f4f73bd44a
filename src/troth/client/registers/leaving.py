"""What ends by itself when the program does: connections whose threads would otherwise be waited for.

The interpreter joins the threads of every `ThreadPoolExecutor` before anything that `atexit` knows is called. A thread
that waits for an acceptor that hangs would hold the program until the time-out of its request, so what such threads
work for is closed before they are joined.
"""

import atexit
import os
import threading
import weakref
from typing import Protocol


class Closes(Protocol):
    def close(self) -> None: ...


_open: "weakref.WeakSet[Closes]" = weakref.WeakSet()


def close_at_exit(thing: Closes) -> None:
    """Close *thing*, if it is still there, when the main thread has ended. It must allow to be closed twice."""
    _open.add(thing)


def _close_all() -> None:
    for thing in list(_open):
        thing.close()


# The one hook that comes before threads are joined has no public name. The pools' own, which joins theirs, is
# registered with it as well, and who comes later is called first.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
# The threads are the parent's; in a forked child nothing is waited for.
os.register_at_fork(after_in_child=_open.clear)
