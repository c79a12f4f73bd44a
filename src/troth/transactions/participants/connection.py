"""The Connection that a branch hands out: SQLAlchemy's own, of whose steps the branch sees a few.

Events of the engine would show the same, and cost every statement of the engine, in a transaction of ours or not, about
fifty calls (SQLAlchemy joins the listeners of engine and connection anew for each). So these are overridden instead;
`overriding` checks that SQLAlchemy still has them, tests/integration/test_twophase_guarantees.py that it still calls
them.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, CursorResult, exc
from typing_extensions import override

from troth.errors import UsageError
from troth.transactions.forks import of_the_parent

if TYPE_CHECKING:
    from troth.transactions.participants.sql import SqlBranch


_log = logging.getLogger("troth.transactions")


_Kind = TypeVar("_Kind", bound=type[Connection])


def overriding(kind: _Kind) -> _Kind:
    """*kind*, a Connection. One of another version of SQLAlchemy need not have what it overrides: then nothing would
    call it, and a commit() of one branch alone, say, would not be refused.

    Raises:
        ImportError: it has not.
    """
    for name, method in vars(kind).items():
        if getattr(method, "__override__", False) and not hasattr(Connection, name):
            raise ImportError(
                f"SQLAlchemy {sqlalchemy.__version__} has no Connection.{name}, which troth overrides; install one that"
                " troth is made for: pip install 'troth[sql]'"
            )
    return kind


@overriding
class BranchConnection(Connection):
    """One branch's connection, as long as `branch` is set; otherwise like any other."""

    branch: "SqlBranch | None" = None

    @property
    @override
    def connection(self) -> Any:
        """The pool's connection, for whoever wants to work with the driver itself."""
        self._settle()
        return super().connection

    def _settle(self) -> None:
        """Before the driver is given something to do, and not earlier: what SQLAlchemy does until then hides a wait."""
        branch = self.branch
        if branch is None:
            return
        if branch.participant.is_forked:
            branch.leave_to_parent()
            raise of_the_parent()
        if branch.unanswered is not None:
            try:
                branch.settle()
            except exc.DBAPIError as error:
                self._handle_dbapi_exception(error.orig or error, "BEGIN", None, None, None)

    @override
    def _exec_single_context(self, *arguments: Any) -> CursorResult[Any]:
        self._settle()
        return super()._exec_single_context(*arguments)

    @override
    def _exec_insertmany_context(self, *arguments: Any) -> CursorResult[Any]:
        self._settle()
        return super()._exec_insertmany_context(*arguments)

    @override
    def _cursor_execute(self, *arguments: Any, **named: Any) -> None:
        """What a statement itself executes before: a sequence, say."""
        self._settle()
        super()._cursor_execute(*arguments, **named)

    @override
    def _execute_context(self, *arguments: Any, **named: Any) -> CursorResult[Any]:
        """Every statement of every method comes through here."""
        branch = self.branch
        if branch is None:
            return super()._execute_context(*arguments, **named)
        if branch.is_ending:
            # The second phase still needs this connection (wait="decided"), in no transaction.
            raise UsageError("this transaction is over; begin another one")
        result = super()._execute_context(*arguments, **named)
        if not branch.wrote:
            branch.saw(result.context)
        return result

    @override
    def _handle_dbapi_exception(self, e: BaseException, *arguments: Any, **named: Any) -> Any:
        """Raises *e* as the caller is to see it; always."""
        try:
            return super()._handle_dbapi_exception(e, *arguments, **named)
        except BaseException as raised:
            # A statement that SQLAlchemy could not make (a value is missing, say) has not reached the database.
            is_made = isinstance(raised, exc.DBAPIError) or not isinstance(raised, exc.StatementError)
            if self.branch is not None and is_made:
                self.branch.last_error = raised
            raise

    def _refuse_commit(self) -> None:
        if self.branch is not None and not self.branch.is_ending:
            raise UsageError(
                "commit() inside of a global transaction would commit this database alone: leave the tx block instead."
                " To undo a part of the work use tx.savepoint()"
            )

    @override
    def commit(self) -> None:
        """Refused before SQLAlchemy knows of it, which takes a transaction whose commit failed for over."""
        self._refuse_commit()
        super().commit()

    @override
    def _commit_impl(self) -> None:
        """Also where `Transaction.commit` comes."""
        self._refuse_commit()
        if self.branch is None:
            super()._commit_impl()
            return
        # Listeners of "commit" hear of it in `tell_committed`, once the database has answered.
        self._tell_driver(lambda: self.engine.dialect.do_commit(self.connection))

    def _tell_driver(self, verb: Callable[[], None]) -> None:
        try:
            verb()
        except BaseException as error:  # noqa: BLE001  (raised by what it is given to)
            self._handle_dbapi_exception(error, None, None, None, None)

    def tell_committed(self) -> None:
        """What SQLAlchemy does about a commit beside telling the driver, which knows of it."""
        if self._has_events or self.engine._has_events:
            self._tell_listeners(self.dispatch.commit, "committed")
        if self._echo:
            self._log_info("COMMIT")

    def _tell_listeners(self, listeners: Callable[[Connection], object], what: str) -> None:
        """An error of theirs is none of the database, which has answered, and must not be taken for one."""
        try:
            listeners(self)
        except Exception:  # noqa: BLE001  (theirs, of whatever kind)
            where = self.branch.participant.name if self.branch is not None else self.engine.url.database
            _log.exception("a listener failed when it was told that a transaction has %s in %s", what, where)

    def tell_rolled_back(self) -> None:
        """The same about a rollback."""
        if self._has_events or self.engine._has_events:
            self._tell_listeners(self.dispatch.rollback, "rolled back")
        if self._echo:
            self._log_info("ROLLBACK")

    @override
    def _rollback_impl(self) -> None:
        """Also called by `close`, to be sure; then the pool need not roll back either."""
        branch = self.branch
        if branch is not None and branch.participant.is_forked:
            branch.leave_to_parent()
        elif branch is None or (branch.is_ending and not branch.is_over):
            super()._rollback_impl()
        elif branch.is_over:
            if not self.invalidated and not branch.channel.is_idle():
                # The database has ended the transaction, as the listeners know, and the driver does not.
                self._tell_driver(branch.roll_driver_back)
        else:
            self._settle()
            is_done = False
            try:
                is_done = branch.roll_back_for_caller()
            except exc.DBAPIError as error:
                self._handle_dbapi_exception(error.orig or error, "ROLLBACK", None, None, None)
            if not is_done:
                super()._rollback_impl()

    @override
    def close(self) -> None:
        branch = self.branch
        if branch is not None and branch.participant.is_forked:
            branch.leave_to_parent()
        else:
            super().close()

    @override
    def _savepoint_impl(self, name: str | None = None) -> str:
        before = self.branch.last_error if self.branch is not None else None
        made = super()._savepoint_impl(name)
        if self.branch is not None:
            self.branch.errors_before[made] = before
        return made

    @override
    def _rollback_to_savepoint_impl(self, name: str) -> None:
        super()._rollback_to_savepoint_impl(name)
        if self.branch is not None:
            self.branch.last_error = self.branch.errors_before.pop(name, None)
