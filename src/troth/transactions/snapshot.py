"""`TwoPhaseCommit.snapshot`: one look at several databases, at one moment."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from functools import partial
from typing import Any

from sqlalchemy import Connection, RootTransaction, exc
from typing_extensions import override

from troth.core.twophase.gid import parse_gid
from troth.core.twophase.records import Commit
from troth.errors import StorageError, Unavailable, UsageError
from troth.transactions.core import Core
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Participant
from troth.transactions.participants.connection import overriding
from troth.transactions.participants.sql import SqlParticipant
from troth.transactions.recovery import Recovery
from troth.transactions.report import UNREACHABLE
from troth.transactions.waiting import TIMEOUT_MAX_S, checked_timeout

OPTIONS: dict[str, dict[str, Any]] = {
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    "mysql": {"isolation_level": "REPEATABLE READ"},
    "sqlite": {},
}
"""How each kind begins a transaction that sees one moment."""
FIRST_LOOK = {
    "postgresql": "SELECT pg_current_snapshot()",
    "mysql": "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    "sqlite": "SELECT count(*) FROM sqlite_master",
}
"""The statement of each kind that makes it the present moment."""

_numbers = itertools.count()


@overriding
class SnapshotConnection(Connection):
    """It sees what its snapshot saw until that ends."""

    _stands = False

    def look(self, kind: str) -> None:
        """See what is there now. The engine's listeners are told of the transaction: they may choose what."""
        self.begin()
        if kind == "sqlite" and not self.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
            self.exec_driver_sql("BEGIN")  # the driver would not, before something is changed
        self.exec_driver_sql(FIRST_LOOK[kind])
        self._stands = True

    def look_away(self) -> None:
        self._stands = False
        super().rollback()

    def _refuse(self) -> None:
        if self._stands:
            raise UsageError(
                "commit() or rollback() would end the snapshot, and later reads see other moments: leave its block"
            )

    @override
    def commit(self) -> None:
        self._refuse()
        super().commit()

    @override
    def rollback(self) -> None:
        self._refuse()
        super().rollback()

    @override
    def close(self) -> None:
        self._stands = False
        super().close()

    # A Session, and who has asked for the transaction itself, come here only.

    @override
    def _commit_impl(self) -> None:
        self._refuse()
        super()._commit_impl()

    @override
    def _rollback_impl(self) -> None:
        self._refuse()
        super()._rollback_impl()

    @override
    def _begin_impl(self, transaction: RootTransaction) -> None:
        """SQLAlchemy takes the transaction that was refused its end for over, and begins another one.

        SQLite's is begun by `look`: listeners often begin one that writes (``BEGIN IMMEDIATE``), which would wait for
        other writers, with all second phases behind it, and keep them out.
        """
        if not self._stands and self.dialect.name != "sqlite":
            super()._begin_impl(transaction)

    @override
    def _revalidate_connection(self) -> Any:
        if self._stands:
            raise exc.ResourceClosedError("the connection of this snapshot was lost; take another snapshot")
        return super()._revalidate_connection()


class Snapshot:
    """Connections by participant, as `Transaction` has them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.connections: dict[str, SnapshotConnection] = {}

    def __getitem__(self, participant: Any) -> Connection:
        found, engine = self._core.participants.find_with_options(participant)
        connection = self.connections.get(found.name)
        if connection is None:
            raise UsageError(f"{found.name} is not part of this snapshot; name it in snapshot([...])")
        if engine is not None and engine.get_execution_options() != connection.engine.get_execution_options():
            raise UsageError(
                f"{found.name} is part of this snapshot, with other options: name it with these in snapshot([...])"
            )
        return connection


@contextmanager
def open_snapshot(
    core: Core, recovery: Recovery, participants: Sequence[Any] | None, timeout_s: float
) -> Iterator[Snapshot]:
    """See `TwoPhaseCommit.snapshot`."""
    named = [core.participants.find_with_options(each) for each in participants or core.participants.names]
    chosen = [participant for participant, _ in named]
    snapshot = Snapshot(core)
    within_s = checked_timeout(timeout_s)
    until = time.monotonic() + (TIMEOUT_MAX_S if within_s is None else within_s)
    with ExitStack() as stack:
        for participant, engine in named:
            if not isinstance(participant, SqlParticipant):
                raise UsageError(f"{participant.name}: snapshots are of SQL databases")
            connection = SnapshotConnection(participant.unpooled(engine))
            stack.callback(connection.close)
            connection.execution_options(**OPTIONS[participant.kind])
            snapshot.connections[participant.name] = connection
        who = f"snapshot {next(_numbers)}"
        while True:
            taken = _take(core, snapshot, chosen, max(0.001, until - time.monotonic()), who)
            if taken is _Taken.WHOLE:
                break
            if time.monotonic() >= until:
                raise Unavailable(taken.value)
            if taken is _Taken.HALF:
                recovery.run()
        yield snapshot


class _Taken(Enum):
    """What came of one try; in words, why there is no snapshot."""

    WHOLE = ""
    SLOW = "the databases were looked at so slowly that commits went on meanwhile; try again, or allow more time"
    HALF = (
        "a transaction is half committed, and a database that it needs is out of reach; or it may be, since what some"
        " coordinator has decided cannot be read (recover() says why)"
    )


def _take(core: Core, snapshot: Snapshot, chosen: Sequence[Participant], within_s: float, who: str) -> _Taken:
    """Look at all of them while no second phase is under way."""
    try:
        core.waiting.blocking(partial(core.barrier.enter_exclusive, within_s, who))
        standing = _standing(core)
        if standing is None:
            # A second phase was cut off by a crash: until it is finished, every look would see half of it.
            return _Taken.HALF
        _look(snapshot, chosen)
        if core.barrier.is_whole() and (not standing or standing <= (_standing(core) or set())):
            return _Taken.WHOLE
        # A commit has not waited for us, or another process's recovery has gone on: half of it may have been seen.
        _look_away(snapshot)
        return _Taken.SLOW
    finally:
        try:
            core.barrier.leave_exclusive(who)
        except BaseException:
            # Ctrl-C, perhaps twice (DESIGN.md): commits wait.
            try:
                core.barrier.leave_exclusive(who)
            finally:
                core.barrier.leave_exclusive(who)
            raise


def _look(snapshot: Snapshot, chosen: Sequence[Participant]) -> None:
    for participant in chosen:
        snapshot.connections[participant.name].look(participant.kind)


def _look_away(snapshot: Snapshot) -> None:
    for connection in snapshot.connections.values():
        connection.look_away()


def _standing(core: Core) -> set[str] | None:
    """Branches that are decided, and that no database has been told of; None: some have been told, others not, with
    nobody in the barrier for it; or that cannot be known.

    What is still prepared in all of its databases tears nothing, and what is prepared in none is done, noted or not.
    """
    for coordinator in core.waiting.blocking(core.log.coordinators):
        if coordinator.problem:
            raise StorageError(f"what {coordinator.name} has decided cannot be read: {coordinator.problem}")
    unread: dict[str, str] = {}
    decided = [record for record in core.unapplied(unread) if not core.is_under_way(record.gid)]
    standing: set[str] = set()
    if unread:
        return None  # recovery takes over what somebody has begun to, and not finished
    if not decided:
        return standing
    try:
        listed = {found.branch for participant in core.participants.asked for found in participant.prepared()}
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
