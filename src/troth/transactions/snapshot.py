"""`TwoPhaseCommit.snapshot`: one look at several databases, at one moment."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Connection

from troth.errors import Unavailable, UsageError
from troth.transactions.core import Core
from troth.transactions.participants.sql import SqlParticipant
from troth.transactions.recovery import Recovery

FIRST_LOOK = {
    "postgresql": ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SELECT pg_current_snapshot()"),
    "mysql": ("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", ""),
    "sqlite": ("BEGIN", "SELECT count(*) FROM sqlite_master"),
}
"""How each kind begins, and the statement that takes its snapshot where beginning does not."""


class Snapshot:
    """Connections by participant, as `Transaction` has them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.connections: dict[str, Connection] = {}

    def __getitem__(self, participant: Any) -> Connection:
        name = self._core.participant(participant).name
        try:
            return self.connections[name]
        except KeyError:
            raise UsageError(f"{name} is not part of this snapshot; name it in snapshot([...])") from None


@contextmanager
def open_snapshot(
    core: Core, recovery: Recovery, participants: Sequence[Any] | None, timeout_s: float
) -> Iterator[Snapshot]:
    """See `TwoPhaseCommit.snapshot`."""
    chosen = [core.participant(each) for each in participants] if participants else list(core.participants)
    snapshot = Snapshot(core)
    until = time.monotonic() + timeout_s
    with ExitStack() as stack:
        for participant in chosen:
            if not isinstance(participant, SqlParticipant):
                raise UsageError(f"{participant.name}: snapshots are of SQL databases")
            connection = stack.enter_context(participant.connected())
            snapshot.connections[participant.name] = connection
        while True:
            with core.barrier.exclusive(max(0.001, until - time.monotonic())):
                if not _is_half_done(core):
                    for participant in chosen:
                        for statement in FIRST_LOOK[participant.kind]:
                            if statement:
                                snapshot.connections[participant.name].exec_driver_sql(statement)
                    break
            # A second phase was cut off by a crash: until it is finished, every look would see half of it.
            if time.monotonic() >= until:
                raise Unavailable("a transaction is half committed, and a database that it needs is out of reach")
            recovery.run()
        yield snapshot


def _is_half_done(core: Core) -> bool:
    core.log.coordinators()
    return any(not core.is_under_way(record.gid) for record in core.unapplied())
