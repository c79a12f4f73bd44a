"""Ctrl-C reaches all processes of a terminal at once, and is for the one that has started the others.

A process that is only just being started would end with a traceback. So it is started with the signal held back, and
lets it through when it has been told to ignore it.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_back() -> Iterator[None]:
    """What is started in this block hears of no Ctrl-C before `ignored`; this thread hears of it behind the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignored() -> None:
    """Ctrl-C is for our parent, which decides what becomes of us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
