"""Ports of this machine that nobody listens on."""

import itertools
import random
import socket

from troth.errors import UsageError

PORTS_MIN, PORTS_MAX = 15_000, 32_000
"""Below the range that the kernel takes ports for outgoing connections from, so that nobody is given a port of ours
while its server is being restarted."""

_turns = itertools.count(random.SystemRandom().randrange(PORTS_MAX - PORTS_MIN))
"""Where the search for the next free port begins: behind the last, and for each process elsewhere."""


def free_port() -> int:
    """A loopback port that nobody listens on, that the kernel does not give away by itself, and that no call of this
    process has given lately, for whoever asked may not listen there yet: all others have had their turn since.

    Raises:
        UsageError: somebody listens on every one.
    """
    for _ in range(PORTS_MAX - PORTS_MIN):
        port = PORTS_MIN + next(_turns) % (PORTS_MAX - PORTS_MIN)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise UsageError("no free port on 127.0.0.1; too much is running on this machine")
