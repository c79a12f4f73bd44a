"""One transaction as its caller has it: branches are opened and worked in, and the block's end ends it (owner.py)."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from sqlalchemy import exc

from troth.core.twophase.table import Event, State
from troth.errors import Aborted, TrothError, UsageError
from troth.transactions.forks import of_the_parent
from troth.transactions.nesting import Nesting
from troth.transactions.outcome import Outcome
from troth.transactions.owner import Owner
from troth.transactions.participants.base import Begun, Branch, Participant
from troth.transactions.replays import see_applied

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Session

    from troth.transactions.core import Core


class AlreadyDone(BaseException):
    """Ends the block of a transaction whose key has been committed before; the block's owner catches it.

    No Exception: a block's own ``except Exception`` is about errors, and must not have the block go on.
    """


def _is(error: BaseException | None, *kinds: type[BaseException]) -> bool:
    """Whether *error*, or each of those that a TaskGroup has gathered in it, is of one of *kinds*."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kinds)[1] is None
    return isinstance(error, kinds)


class Transaction(Owner):
    """A global transaction; made by `TwoPhaseCommit.begin`, used by one thread at a time.

    Attributes:
        gid: its name, for `TwoPhaseCommit.outcome` and for the operator.
        outcome: after the block; None before.
        pending: participants that are, or may be, prepared and could not be told; recovery finishes them.
        replayed: True when the key has been committed by another one: nothing was done by this one, `gid` is the
            other's, and so is `pending`.
    """

    def __init__(self, core: "Core", *, timeout: float | None, key: str, wait: str) -> None:
        super().__init__(core, timeout=timeout, key=key, wait=wait)
        self._opening = threading.Lock()
        self._nesting = Nesting()
        core.on_step("begun")
        if key:
            try:
                holder = core.committed_under(key)
            except BaseException:
                core.ended(self.gid, "aborted")
                raise
            if holder is not None:
                self._replay(holder)

    @overload
    def __getitem__(self, participant: "Engine") -> "Connection": ...

    @overload
    def __getitem__(self, participant: object) -> Any: ...

    def __getitem__(self, participant: Any) -> Any:
        """The branch's Connection (or `ClusterWork`) of a participant: an engine, its name, or a troth client.

        An engine with options (``engine.execution_options(isolation_level="SERIALIZABLE")``) gives them to its branch,
        which is opened when it is named for the first time.

        Raises:
            UsageError: no such participant, or its branch was opened with other options; the transaction is over.
        """
        if self._core.is_forked:
            self._refuse_child()
        if self._state is not State.ACTIVE:
            raise UsageError("this transaction is over; begin another one")
        if self.replayed:
            raise AlreadyDone
        found, engine = self._core.participants.find_with_options(participant)
        branch = self._by_name.get(found.name)
        if branch is None:
            return self._open(found, engine).handle
        handle = branch.handle
        if engine is not None and engine.get_execution_options() != handle.engine.get_execution_options():
            raise UsageError(
                f"the branch of {found.name} is open, with other options: name it with these the first time"
            )
        return handle

    def _refuse_child(self) -> None:
        """Raises UsageError in a forked child."""
        if self._core.is_forked:
            self._leave_to_parent()
            raise of_the_parent()

    def _open(self, participant: Participant, engine: "Engine | None") -> Branch:
        # Two at once would both be branch number so-and-so, of which a database prepares one.
        if not self._opening.acquire(blocking=False):
            raise UsageError(
                "a transaction is used by one thread (or session of a task) at a time: another one is just opening a"
                " branch of it"
            )
        try:
            left = None if self._deadline is None else max(0.001, self._deadline - time.monotonic())
            begun = Begun(self.gid, left, engine)
            branch = participant.open(len(self._branches), begun)
            self._branches.append(branch)
            self._held.append(branch)
            self._by_name[participant.name] = branch
        finally:
            self._opening.release()
        self._core.on_step("branch_opened")
        return branch

    @property
    def engines(self) -> list[Any]:
        """The SQLAlchemy engines that take part."""
        return list(self._core.participants.engines())

    def session(self, *, binds: dict[Any, Any] | None = None, **options: Any) -> "Session":
        """An ORM session inside of this transaction: its ``commit()`` flushes, the block's end commits.

        What it has not flushed at the block's end is flushed then, if it is open: as ever, ``close()``, also by
        ``with``, drops what is not flushed. What is aborted, or in doubt, its objects are told, also when it is closed:
        what it has inserted is transient again.

        Args:
            binds: classes or tables to engines; may be left out when there is one SQL participant.
            options: of sqlalchemy.orm.Session.
        """
        from troth.transactions.orm import bound_session

        self._refuse_child()
        return bound_session(self, self._core.participants.engines(), binds, options)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A savepoint in every branch that is open: all are rolled back to it if the block fails, and with them what
        the transaction's sessions have done.

        Branches that are first touched inside of it are not undone by it; the block's error then says so.
        """
        self._refuse_child()
        self._nesting.flush()
        before = len(self._branches)
        try:
            with self._nesting.savepoint(self._branches):
                yield
        except BaseException as error:  # Ctrl-C and a cancelled task too: they may be caught around it
            if len(self._branches) > before:
                names = ", ".join(branch.participant.name for branch in self._branches[before:])
                self._why = UsageError(
                    f"a failed savepoint cannot undo {names}, first touched inside of it: the transaction is rolled"
                    " back. Touch it before: tx[engine]"
                )
                self._why.__cause__ = error
            raise

    def rollback(self) -> None:
        """Give up: roll back every branch now, if it is not over. The block's end then does nothing more."""
        self._refuse_child()
        if self.replayed:
            self._end_replayed()
        elif self._state is State.ACTIVE:
            try:
                self._run(Event.ABORT_ASKED)
                self.outcome = Outcome.ABORTED
            finally:
                if self._nesting.sessions:
                    self._nesting.end_sessions(self._state)
            if self._interrupt is not None:
                raise self._interrupt

    def _end_replayed(self) -> None:
        """Nothing was done here, so there is nothing to end but the name that was drawn."""
        self._state = State.COMMITTED
        self._core.ended(self._own_gid, "replayed")
        self._see_applied()

    def _see_applied(self) -> None:
        """What the holder of the key has committed, others see from here on."""
        if self._wait == "applied":
            left = see_applied(self._core, self.gid, self._own_gid)
            self.pending = tuple(dict.fromkeys([*self.pending, *left]))

    def commit(self) -> None:
        """Commit in every branch; called by the block's end, if it was not before.

        Sessions are flushed first.

        Raises:
            UsageError: the transaction is over, committed or rolled back.
            Aborted: rolled back everywhere; ``__cause__`` is the database's own error, if there was one.
            HeuristicMixed: aborted, and somebody has committed a prepared branch by hand.
            TransactionInDoubt: the log (or the only deciding database) did not answer.
        """
        self._refuse_child()
        if self.replayed:
            self._end_replayed()
            return
        if self._state is not State.ACTIVE:
            raise UsageError("this transaction is over; begin another one")
        try:
            if self._why is None:
                self._nesting.flush_to_commit()
        except Exception as error:  # noqa: BLE001  (the cause of the abort)
            self._why = error
        except BaseException:
            self.rollback()
            raise
        try:
            self._run(Event.COMMIT_ASKED if self._why is None else Event.ABORT_ASKED)
            self._raise_outcome()
        finally:
            if self._nesting.sessions:
                self._nesting.end_sessions(self._state)
        if self.replayed:
            self._see_applied()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is not None and self._core.is_forked:
            self._leave_to_parent()
            return False
        if kind is None:
            try:
                if self._state is State.ACTIVE or self._core.is_forked:
                    self.commit()
            except Aborted as aborted:
                if not self._is_done_by_another(aborted):
                    raise
            return False
        self.rollback()
        # Of another transaction, around this one, it is that one's to end.
        return (self.replayed and _is(error, AlreadyDone)) or self._is_done_by_another(error)

    def _is_done_by_another(self, error: BaseException | None) -> bool:
        """Whether what this one has failed with comes of another attempt with its key, which has committed."""
        if not self.key or self.outcome is not Outcome.ABORTED or not _is(error, Aborted, exc.DBAPIError):
            return False
        try:
            holder = self._core.committed_under(self.key)
        except TrothError:
            return False
        if holder is not None:
            self._replay(holder)
            self._see_applied()
        return self.replayed
