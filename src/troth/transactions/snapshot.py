"""`TwoPhaseCommit.snapshot`: one look at several databases, at one moment."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Connection
from typing_extensions import override

from troth.core.twophase.gid import parse_gid
from troth.core.twophase.records import Commit
from troth.errors import StorageError, Unavailable, UsageError
from troth.transactions.core import Core
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Participant
from troth.transactions.participants.sql import SqlParticipant
from troth.transactions.recovery import Recovery
from troth.transactions.report import UNREACHABLE
from troth.transactions.waiting import TIMEOUT_MAX_S, checked_timeout

FIRST_LOOK = {
    "postgresql": ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SELECT pg_current_snapshot()"),
    "mysql": ("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", ""),
    "sqlite": ("BEGIN", "SELECT count(*) FROM sqlite_master"),
}
"""How each kind begins, and the statement that takes its snapshot where beginning does not."""


_numbers = itertools.count()


class SnapshotConnection(Connection):
    """It sees what its snapshot saw until that ends."""

    @override
    def commit(self) -> None:
        raise UsageError(
            "commit() or rollback() would end the snapshot, and later reads see other moments: leave its block"
        )

    rollback = commit


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
    within_s = checked_timeout(timeout_s)
    until = time.monotonic() + (TIMEOUT_MAX_S if within_s is None else within_s)
    with ExitStack() as stack:
        for participant in chosen:
            if not isinstance(participant, SqlParticipant):
                raise UsageError(f"{participant.name}: snapshots are of SQL databases")
            connection = stack.enter_context(participant.connected(SnapshotConnection))
            snapshot.connections[participant.name] = connection
        who = f"snapshot {next(_numbers)}"
        while True:
            within_s = max(0.001, until - time.monotonic())
            try:
                core.waiting.blocking(partial(core.barrier.enter_exclusive, within_s, who))
                standing = _standing(core)
                is_taken = standing is not None
                if standing is not None:
                    _look(snapshot, chosen)
                    if not core.barrier.is_whole() or (standing and not standing <= (_standing(core) or set())):
                        # We were so slow that a commit has not waited for us: what was seen may be half of it.
                        _look_away(snapshot)
                        is_taken = False
            finally:
                try:
                    core.barrier.leave_exclusive(who)
                except BaseException:
                    # Ctrl-C, perhaps twice: commits wait.
                    try:
                        core.barrier.leave_exclusive(who)
                    finally:
                        core.barrier.leave_exclusive(who)
                    raise
            if is_taken:
                break
            # A second phase was cut off by a crash: until it is finished, every look would see half of it.
            if time.monotonic() >= until:
                raise Unavailable("a transaction is half committed, and a database that it needs is out of reach")
            recovery.run()
        yield snapshot


def _look(snapshot: Snapshot, chosen: Sequence[Participant]) -> None:
    for participant in chosen:
        for statement in FIRST_LOOK[participant.kind]:
            if statement:
                snapshot.connections[participant.name].exec_driver_sql(statement)


def _look_away(snapshot: Snapshot) -> None:
    for connection in snapshot.connections.values():
        connection.exec_driver_sql("ROLLBACK")


def _standing(core: Core) -> set[str] | None:
    """Branches that are decided, and that no database has been told of; None: some have been told, others not, with
    nobody in the barrier for it.

    What is still prepared in all of its databases tears nothing, and what is prepared in none is done, noted or not.
    """
    for coordinator in core.waiting.blocking(core.log.coordinators):  # reads what other processes have decided
        if coordinator.problem:
            raise StorageError(f"what {coordinator.name} has decided cannot be read: {coordinator.problem}")
    decided = [record for record in core.unapplied() if not core.is_under_way(record.gid)]
    standing: set[str] = set()
    if not decided:
        return standing
    try:
        listed = {found.branch for participant in core.participants for found in participant.prepared()}
    except UNREACHABLE:
        return None
    for record in decided:
        waiting = {ref.branch for ref in record.branches if ref.branch in listed}
        if waiting and (len(waiting) < len(record.branches) or _has_begun(core, record)):
            return None
        standing |= waiting
    return standing


def _has_begun(core: Core, record: Commit) -> bool:
    """Whether the last resource, which commits first, has."""
    found = parse_gid(record.gid)
    if not record.delegate or found is None:
        return False
    return core.delegated(found[0], refuse=False) is Outcome.COMMITTED
