"""How a process of ours ends, and what it may open: the same for a server and for an acceptor that runs alone."""

import asyncio
import ctypes
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from troth.errors import IdentityLost, Removed, StorageError, TrothError, UsageError, WrongEngine

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STORAGE = 3
EXIT_IDENTITY = 4
EXIT_REMOVED = 5
EXIT_BUG = 70

FILES_KEPT = 1024
"""Open files that clients do not get."""

_PR_SET_PDEATHSIG = 1

_log = logging.getLogger("troth.server")


def exit_code(error: BaseException) -> int:
    """What a process exits with that *error* has ended."""
    match error:
        case UsageError():
            return EXIT_USAGE
        case Removed():
            return EXIT_REMOVED
        case IdentityLost() | WrongEngine():
            return EXIT_IDENTITY
        case StorageError():
            return EXIT_STORAGE
        case TrothError():
            return EXIT_FAILED
        case _:
            return EXIT_BUG


def die_with_parent(parent: int) -> bool:
    """Be killed when the thread that started us ends (Linux), paused or not; False if the process *parent* is gone."""
    if sys.platform != "linux":
        return True
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent  # it may have died before we asked, and then no signal comes


def clients_that_fit(wanted: int) -> int:
    """Raise the limit of open files, as far as needed and allowed; how many of the *wanted* clients then fit in.

    Shells give 1024. Clients that took them all would leave none for snapshots, the log and the other servers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    needed = wanted + FILES_KEPT
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, max(soft - FILES_KEPT, soft // 2))


def heed_hangup(
    loop: asyncio.AbstractEventLoop, *, stop: Callable[[], object], reload: Callable[[], object]
) -> None:
    """At SIGHUP, *reload*; or *stop*, if it is our terminal that was closed (unless we were told to outlive that)."""
    outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as under nohup
    terminals = [] if outlives else [stream for stream in range(3) if os.isatty(stream)]

    def heed() -> None:
        if terminals and not any(os.isatty(stream) for stream in terminals):
            _log.info("the terminal was closed")
            stop()
        else:
            reload()

    loop.add_signal_handler(signal.SIGHUP, heed)


def stop_at_errors(loop: asyncio.AbstractEventLoop, fail: Callable[[Exception], None]) -> None:
    """An exception that nobody caught on the loop ends the server: what it was feeding is in an unknown state."""

    def on_error(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError):
            _log.debug("%s: %s", context.get("message"), error)
        else:
            fail(error if isinstance(error, Exception) else RuntimeError(str(error or context.get("message"))))

    loop.set_exception_handler(on_error)
