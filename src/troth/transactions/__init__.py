"""Atomic transactions over several databases, that finish whatever dies: `TwoPhaseCommit` over SQLAlchemy engines.

Reading order: steps; log/ (the decision log: interface, file, replicated, group commit); channels (one statement on
many connections from one thread) and waiting (threads of our own, or tasks); participants/ (what each kind of
database calls prepare, and how it lies); transaction (the owner), recovery (everybody else), coordinator
(`TwoPhaseCommit`), aio (its twin), then barrier, deadlocks, metrics. The rules are in core/twophase. SQLAlchemy is
needed here and only here: the extra `sql`.
"""

import sys


def missing(what: str) -> str:
    """What to say to somebody who has installed troth without the extra `sql`."""
    return f"{what} needs SQLAlchemy: {sys.executable} -m pip install 'sqlalchemy>=2.0.36' 'greenlet>=3.0'"
