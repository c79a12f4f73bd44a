"""`TwoPhaseCommit`: atomic transactions over several databases, that finish whatever dies."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from troth.core.twophase.gid import parse_gid
from troth.core.twophase.records import Member
from troth.errors import HeuristicMixed, PreflightFailed, StorageError, TrothError, UsageError, required
from troth.transactions.barrier import Barrier
from troth.transactions.core import Core
from troth.transactions.endings import to_repair
from troth.transactions.log.file import FileLog
from troth.transactions.log.interface import DecisionLog
from troth.transactions.metrics import Metrics
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Facts, Participant
from troth.transactions.participants.bounded import ANSWER_WITHIN_S, Bounded
from troth.transactions.participants.choose import choose
from troth.transactions.recovery import Recovery
from troth.transactions.report import UNREACHABLE, Report
from troth.transactions.steps import OnStep, nothing
from troth.transactions.transaction import Transaction
from troth.transactions.waiting import TIMEOUT_MAX_S, InThreads, Waiting, checked_timeout

if TYPE_CHECKING:
    from troth.transactions.snapshot import Snapshot

DEFAULT_LOG = "troth-2pc"
RECOVER_EVERY_S = 5.0
OUTCOME_PAUSE_S = 0.05


class TwoPhaseCommit:
    """Transactions that commit in all of several databases or in none, through any crash.

    ::

        with TwoPhaseCommit([bank, ledger]) as tpc:
            with tpc.begin(timeout=5, key="order-4711") as tx:
                tx[bank].execute(text("UPDATE account SET balance = balance - 7 WHERE id = 1"))
                tx[ledger].execute(text("INSERT INTO entry VALUES ('order-4711', 7)"))

    One object for each process, shared by its threads. Make it after a fork: a child can do nothing with its
    parent's (UsageError).
    """

    def __init__(
        self,
        participants: Mapping[str, Any] | Sequence[Any],
        *,
        log: "str | Path | DecisionLog | None" = None,
        name: str = "troth",
        coordinator: str | None = None,
        recover_every: float | None = RECOVER_EVERY_S,
        detect_deadlocks: bool = False,
        on_step: OnStep = nothing,
        waiting: Waiting | None = None,
        without_unreachable: bool = False,
        connect_timeout: float | None = ANSWER_WITHIN_S,
    ) -> None:
        """Check the participants, open an epoch in the log, finish what a crash has left, and keep looking.

        Args:
            participants: SQLAlchemy engines, `LastResource`, troth clients or ``troth://`` URLs; as a dict with the
                names that the log will know them by (keep the names when the program is started again).
            log: a directory for the embedded decision log (default: ``troth-2pc`` in the working directory; shared by
                processes of one machine), or ``troth://host:port,...`` for the replicated one, or any `DecisionLog`.
            name: of this system in a replicated log: all processes that work on the same databases use the same.
            coordinator: a fixed name for this process in the log; by default the first that is free.
            recover_every: seconds between recovery passes, with jitter; None: only `recover` makes them.
            detect_deadlocks: look every second for transactions that wait for each other across databases, and
                abort the youngest.
            on_step: called with the name of each step (steps.py), for tests that stop the process there.
            waiting: how to wait; `AsyncTwoPhaseCommit` gives its own.
            without_unreachable: leave out the databases that do not answer, unless it is all of them, and keep
                their errors in the attribute `unreachable`: for an operator, who finishes what can be finished.
            connect_timeout: seconds that a database has for its first answer here, for one that has to wake up; None:
                as long as its driver waits.

        Raises:
            RequestTimeout: a database has not answered within *connect_timeout*.
            PreflightFailed: what is wrong with which database, and what to set.
            UsageError: two participants are the same database, or two cannot prepare.
            StorageError, RequestError: the decision log cannot be used.
        """
        self.name = name
        self._is_closed = False
        waiting = waiting or InThreads()
        first_within_s = checked_timeout(connect_timeout) or TIMEOUT_MAX_S
        with ExitStack() as undo:
            chosen = choose(participants, waiting)
            for participant in chosen:
                undo.callback(participant.close)
            self.unreachable: dict[str, Exception] = {}
            facts = self._looked_at(chosen, waiting, first_within_s, without_unreachable=without_unreachable)
            chosen = [participant for participant in chosen if participant.name in facts]
            problems = preflight(chosen, facts)
            if problems:
                raise PreflightFailed(problems)
            opened, barrier_file = waiting.blocking(open_log, log, name, coordinator, on_step)
            undo.callback(waiting.blocking, opened.close)
            waiting.blocking(check_members, opened, facts)
            # And not before: a database that is new would be taken for the one that is not there.
            facts = identified(chosen, facts)
            waiting.blocking(register_members, opened, chosen, facts)
            self._core = Core(
                chosen,
                opened,
                barrier=Barrier(barrier_file),
                on_step=on_step,
                waiting=waiting,
            )
            undo.pop_all()
            undo.callback(self._core.close)
            self._recovery = Recovery(self._core)
            if recover_every is not None:
                self._recovery.start(lambda: recover_every * random.uniform(0.8, 1.2))
                undo.callback(self._recovery.stop)
            if detect_deadlocks:
                from troth.transactions.deadlocks import Detector

                detector = Detector(self._core)
                detector.start()
                undo.callback(detector.stop)
            self._stack = undo.pop_all()

    def _looked_at(
        self, chosen: Sequence[Participant], waiting: Waiting, within_s: float, *, without_unreachable: bool
    ) -> dict[str, Facts]:
        """The facts of those that answer, all asked at once; of the others the first error is raised, unless they are
        to be left out."""
        facts: dict[str, Facts] = {}
        looking = [Bounded(participant, waiting).looking(within_s) for participant in chosen]
        for participant, look in zip(chosen, looking, strict=True):
            try:
                facts[participant.name] = look()
            except UNREACHABLE as error:
                self.unreachable[participant.name] = error
                if not without_unreachable or len(self.unreachable) == len(chosen):
                    raise
                participant.close()
        return facts

    # ---- transactions ----------------------------------------------------------------------------------

    def begin(self, *, timeout: float | None = None, key: str = "", wait: str = "applied") -> Transaction:
        """A transaction; a context manager that commits at the end of its block, or rolls back if the block fails.

        Args:
            timeout: seconds until the commit must have begun; also how long a statement may wait for a lock (MariaDB
                and MySQL count whole seconds, from 1). And at the block's end a database that has not answered for so
                long and 10 seconds more counts as lost.
            key: the caller's name for this work, at most 1024 bytes of UTF-8. Work whose key has been committed before
                is not done again: its block ends at the first touch of a database, and `Transaction.replayed` is True.
                So a retry is exactly-once.
            wait: ``"applied"``: return when every branch is committed, so that others see it; ``"decided"``: return as
                soon as the decision is durable.

        Raises:
            UsageError: this is closed, or was made before a fork; *timeout* is not a number of seconds, *key* not a
                str of at most 1024 bytes, *wait* neither ``"applied"`` nor ``"decided"``.
            StorageError, RequestError: the log takes nothing any more, or whether *key* is taken cannot be read.

        Raises, at the end of the block:
            Aborted: rolled back everywhere; ``__cause__`` is the database's own error.
            TransactionInDoubt: ask `outcome`, or retry under the same key.
        """
        if self._is_closed:  # its branches would prepare, and nobody could decide
            raise UsageError("this TwoPhaseCommit is closed; begin inside of its block, or open another")
        return Transaction(self._core, timeout=timeout, key=key, wait=wait)

    def outcome(self, gid: str, *, wait: float = 0.0) -> Outcome:
        """How the transaction *gid* ended, waiting up to *wait* seconds for it to be decided.

        A transaction that wrote in one database only commits without the log: how it ended is known to the process
        that ran it, and to others UNRECORDED; with a ``key=`` it is in the log as well.

        Raises:
            HeuristicMixed: a database finished its branch against the decision.
            StorageError, RequestError: the log cannot be read.
        """
        self._core.refuse_child()
        until = time.monotonic() + wait
        while True:
            try:
                mixed = [h for h in self._core.waiting.blocking(self._core.log.heuristics) if h.gid == gid]
                if mixed:
                    raise HeuristicMixed(to_repair(mixed[0]), gid, mixed[0].participant)
                found = self._core.outcome(gid)
            except (HeuristicMixed, UsageError):
                raise
            except TrothError:
                if time.monotonic() >= until:
                    raise
                found = Outcome.OPEN
            if found is not Outcome.OPEN or time.monotonic() >= until:
                return found
            self._core.waiting.flag().wait(OUTCOME_PAUSE_S)

    @contextmanager
    def snapshot(self, participants: Sequence[Any] | None = None, *, timeout: float = 5.0) -> "Iterator[Snapshot]":
        """Read-only REPEATABLE READ connections to *participants* (default: all), which no transaction tears::

            with tpc.snapshot([bank, ledger]) as snap:
                total = snap[bank].scalar(...) + snap[ledger].scalar(...)

        Every transaction of this decision log is in it in all databases or in none: of this process, and with the
        embedded log of all processes of this machine.

        Raises:
            Unavailable: for *timeout* seconds commits were under way without a gap, or went on during each look; or one
                is half done, and a database that it needs is out of reach.
            UsageError: one of *participants* does not take part here, or is a troth cluster; *timeout* is not a number
                of seconds.
            StorageError, RequestError: what other processes have decided cannot be read.
        """
        from troth.transactions.snapshot import open_snapshot

        self._core.refuse_child()
        with open_snapshot(self._core, self._recovery, participants, timeout) as opened:
            yield opened

    # ---- operation -------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """What is not as it should be, now. Empty: all is well.

        Problems with the participants, then warnings, then what somebody has finished against the decision.

        Raises:
            StorageError, RequestError, SQLAlchemyError: the log, or a participant, cannot be asked.
        """
        self._core.refuse_child()
        facts = {participant.name: participant.facts() for participant in self._core.participants.asked}
        warnings = [warning for fact in facts.values() for warning in fact.warnings]
        mixed = [to_repair(found) for found in self._core.waiting.blocking(self._core.log.heuristics)]
        return [*preflight(self._core.participants.all, facts), *warnings, *mixed]

    def recover(self, *, even_if_alive: bool = False) -> Report:
        """One recovery pass, now. `Report.in_doubt` says how many branches are still open afterwards.

        Args:
            even_if_alive: also fence off coordinators that seem to live (a paused process): they cannot commit any
                more.
        """
        self._core.refuse_child()
        return self._recovery.run(even_if_alive=even_if_alive)

    @property
    def coordinator(self) -> str:
        """What this process is called in the log."""
        return self._core.epoch.coordinator

    @property
    def epoch(self) -> int:
        """The epoch that this process opened."""
        return self._core.epoch.number

    @property
    def participants(self) -> list[Bounded]:
        """The databases that take part, as recovery sees them."""
        return list(self._core.participants.asked)

    @property
    def log(self) -> DecisionLog:
        """The decision log."""
        return self._core.log

    @property
    def metrics(self) -> Metrics:
        """Counters of this process; ``metrics.text(name)`` is their Prometheus form."""
        return self._core.metrics

    def close(self) -> None:
        """End recovery and give up the epoch. Transactions under way are left to whoever recovers."""
        self._is_closed = True
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def preflight(participants: Sequence[Participant], facts: Mapping[str, Facts]) -> list[str]:
    """Everything that keeps *participants* from working together, each with what to set."""
    problems = [problem for participant in participants for problem in facts[participant.name].problems]
    unable = [participant.name for participant in participants if not participant.can_prepare]
    if len(unable) > 1:
        problems.append(
            f"{' and '.join(unable)} cannot prepare; at most one such database may take part (it decides by its own"
            " commit). Put their tables into one file, or into PostgreSQL or MariaDB"
        )
    seen: dict[str, str] = {}
    for participant in participants:
        identity = facts[participant.name].identity
        if identity and identity in seen:
            problems.append(
                f"{seen[identity]} and {participant.name} are the same database ({identity}); give it one name, so that"
                " its branches do not wait for each other"
            )
        seen[identity] = participant.name
    return problems


def identified(participants: Sequence[Participant], facts: Mapping[str, Facts]) -> dict[str, Facts]:
    """*facts*, with the identity that is kept in each database; of one that is made by that, all is asked only now.

    Raises:
        PreflightFailed: there is something wrong with such a one.
    """
    found = {}
    for participant in participants:
        identity = participant.identify()
        fact = facts[participant.name]
        fact = fact if fact.identity else participant.facts()
        found[participant.name] = fact._replace(identity=identity or fact.identity)
    problems = preflight(participants, found)
    if problems:
        raise PreflightFailed(problems)
    return found


def open_log(
    log: "str | Path | DecisionLog | None", name: str, coordinator: str | None, on_step: OnStep
) -> tuple[DecisionLog, Path | None]:
    """The decision log, and the file that its processes' barrier locks (None: there is none to share)."""
    if isinstance(log, str) and "://" in log:
        from troth.transactions.log.replicated import ReplicatedLog

        return ReplicatedLog.connect(log, name=name, coordinator=coordinator), None
    if log is None or isinstance(log, str | Path):
        path = Path(log or DEFAULT_LOG)
        return FileLog(path, coordinator=coordinator, on_step=on_step), path / "barrier"
    return log, None


def register_members(log: DecisionLog, participants: Sequence[Participant], facts: Mapping[str, Facts]) -> None:
    """Write down what each name means. While decisions that name a participant are not applied, the name must still
    mean the database that their coordinator has meant: their branches are finished by that name.

    Raises:
        StorageError: it does not, or that cannot be read.
    """
    check_members(log, facts)
    log.register([Member(p.name, p.kind, facts[p.name].identity) for p in participants])


def check_members(log: DecisionLog, facts: Mapping[str, Facts]) -> None:
    """`register_members`, before anything is written."""
    moved = {
        (coordinator, name): member.identity
        for coordinator, members in log.members().items()
        for name, member in members.items()
        if name in facts and member.identity not in (facts[name].identity, facts[name].formerly)
    }
    if not moved:
        return
    unread: dict[str, str] = {}
    unapplied = log.unapplied(unread)
    if any(coordinator in unread for coordinator, _ in moved):
        unapplied = log.unapplied()  # waits for who is just taking it over; or raises why it cannot be read
    for record in unapplied:
        found = required(parse_gid(record.gid), "a decision about what is no transaction", gid=record.gid)
        for name in (*(ref.participant for ref in record.branches), record.delegate):
            before = moved.get((found[0].coordinator, name))
            if before is not None:
                now = facts[name].identity or "not there, or a new one"
                raise StorageError(
                    f"the log knows {name} as {before}, and now it is {now}, while decisions for it are not applied"
                    " yet: connect the old database, or give the new one another name"
                )
