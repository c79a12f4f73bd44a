"""Atomic transactions over several databases, that finish whatever dies: `TwoPhaseCommit` over SQLAlchemy engines.

Reading order: steps; log/ (the decision log: interface, file, replicated, group commit); channels/ (one statement on
many connections from one thread), fan (the same to many branches) and waiting (threads of our own, or tasks);
participants/ (what each kind of database calls prepare, and how it lies); core (what all of one `TwoPhaseCommit`
share) and remembered (what its process knows beside the log). Then the owner: transaction (as its caller has it),
nesting (its savepoints), owner (votes, decision, second phase), endings (what its caller is told) and
company (when a second phase begins that nobody waits for). Everybody else: recovery (a pass), resolver (what it does
about branches), report (what it found). On top coordinator (`TwoPhaseCommit`) and aio (its twin, with aio_transaction
and aio_waiting); beside them outcome, orm, snapshot and barrier, deadlocks, forks, metrics. The rules are in
core/twophase. SQLAlchemy is needed here and only here: the extra `sql`.
"""

import sys


def missing(what: str) -> str:
    """What to say to somebody who has installed troth without the extra `sql`."""
    return f"{what} needs SQLAlchemy: {sys.executable} -m pip install 'sqlalchemy>=2.0.36,<2.2' 'greenlet>=3.0'"
