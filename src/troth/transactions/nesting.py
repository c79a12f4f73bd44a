"""Savepoints of a transaction, in all of its databases and sessions at once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from troth.core.twophase.table import State
from troth.transactions.participants.base import Branch

if TYPE_CHECKING:
    from sqlalchemy import NestedTransaction

    from troth.transactions.orm import BoundSession


class Nesting:
    """Those of one transaction that are open, and the sessions that take part in them (orm.py)."""

    def __init__(self) -> None:
        self.sessions: tuple[BoundSession, ...] = ()
        self._open: tuple[ExitStack, ...] = ()
        """What has to end with a savepoint is in its stack."""
        self._own: frozenset[Any] = frozenset()
        """The innermost one's savepoints in the databases, of branches and sessions; others are the caller's."""

    @contextmanager
    def savepoint(self, branches: Sequence[Branch]) -> Iterator[None]:
        """One in each of *branches*, and of each session."""
        outer = self._open, self._own
        handles = [branch.handle for branch in branches]
        connections = [handle for handle in handles if isinstance(handle, Connection)]
        try:
            with ExitStack() as stack:
                for session in self.sessions:
                    session.join(connections)
                for branch in branches:
                    stack.enter_context(branch.savepoint())
                for session in self.sessions:
                    stack.enter_context(session.savepoint(connections))
                self._open = (*self._open, stack)
                self._own = frozenset(connection.get_nested_transaction() for connection in connections)
                yield
        finally:
            self._open, self._own = outer

    def flush(self) -> None:
        """Have the sessions send what they hold back."""
        for session in self.sessions:
            session.flush()

    def flush_to_commit(self) -> None:
        """The same at the end, which their listeners hear of first."""
        for session in self.sessions:
            session.before_end()
        for session in self.sessions:
            session.flush_all()

    def end_sessions(self, state: State) -> None:
        """The transaction is over, or left, in *state*: they are told."""
        from troth.transactions.orm import end_sessions

        sessions, self.sessions = self.sessions, ()
        end_sessions(sessions, state)

    def add_session(self, session: "BoundSession") -> None:
        """Another session works in the transaction."""
        self.sessions = (*self.sessions, session)
        for stack in self._open:
            stack.enter_context(session.savepoint(()))

    def end_with_innermost(self, end: Callable[..., None]) -> None:
        """Call *end*, as an ``__exit__``, before what the innermost savepoint holds already."""
        self._open[-1].push(end)

    def has_made(self, savepoint: "NestedTransaction | None") -> bool:
        """Whether this savepoint of a database (or none) ends with the innermost of ours, not when its caller likes."""
        return savepoint is None or savepoint in self._own

    def note_made(self, savepoint: "NestedTransaction | None") -> None:
        """A session has made *savepoint*, which ends with the innermost of ours."""
        self._own |= {savepoint}
