"""The owner's half of a transaction: votes, decision, second phase.

`Owner` performs what the owner's table (core/twophase/table.py) demands: an event goes in, an action comes out, and the
action's outcome is the next event. No rule of the protocol stands here.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from troth.core.twophase.cells import Verdict
from troth.core.twophase.records import TEXT_BYTES_MAX, BranchRef, Commit, Heuristic, is_text
from troth.core.twophase.table import Action, Event, Finding, State, step
from troth.errors import (
    Aborted,
    NotApplied,
    OutcomeUnknown,
    RequestError,
    UsageError,
)
from troth.transactions.endings import aborted, in_doubt, mixed
from troth.transactions.fan import Fan
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Branch, LastResourceBranch, nothing_to_await
from troth.transactions.waiting import Flag, checked_timeout

if TYPE_CHECKING:
    from troth.transactions.core import Core

_log = logging.getLogger("troth.transactions")

_ENDED_AS = {
    State.COMMITTED: "committed",
    State.COMMITTING: "committed",
    State.ABORTED: "aborted",
    State.ABORTING: "aborted",
}


_CUT_SHORT = {
    State.VOTING: Event.ABORT_ASKED,
    State.ONE_PHASE: Event.RESOURCE_SILENT,
    State.DECIDING: Event.LOG_SILENT,
    State.DELEGATED: Event.RESOURCE_SILENT,
    State.COMMITTING: Event.BRANCH_LOST,
    State.ABORTING: Event.BRANCH_LOST,
    State.IN_DOUBT: Event.LOG_SILENT,
}
"""What it means for a transaction in this state that its owner is interrupted."""


class Owner(Fan):
    """Branches and their state, in the hands of one thread at a time. What a caller sees of it is `Transaction`."""

    _own_gid = ""

    def __init__(self, core: "Core", *, timeout: float | None, key: str, wait: str) -> None:
        self._core = core
        if wait not in ("applied", "decided"):
            raise UsageError(f"wait={wait!r}: 'applied' or 'decided'")
        if not is_text(key):
            # None too: what was to be done once would be done as often as it is asked for.
            raise UsageError(
                f"key={key!r:.80}: a str of at most {TEXT_BYTES_MAX} bytes of UTF-8; without a key leave it out"
            )
        self._timeout_s = within_s = checked_timeout(timeout)
        self.gid = self._own_gid = core.next_gid()
        self.outcome: Outcome | None = None
        self.pending: tuple[str, ...] = ()
        self.replayed = False
        self.key = key
        self._wait = wait
        self._deadline = None if within_s is None else time.monotonic() + within_s
        self._branches: list[Branch] = []
        self._held: list[Branch] = []
        """Those of them whose connection is to be given back."""
        self._by_name: dict[str, Branch] = {}
        self._lost = set()
        self._untold = set()
        self._state = State.ACTIVE
        self._why = None
        self._where = ""
        self._interrupt = None
        self._prepared_at = 0.0
        self._asked_to_prepare: set[int] = set()
        self._against: list[str] = []
        """Participants in which somebody has committed what was to be rolled back."""
        self._shares = False
        self._is_alone = self._only_read = False
        """Whether it committed without the log: in one database, or having written in none."""
        self._goes_on = False
        """Whether another thread has the second phase."""

    def __del__(self) -> None:
        self._core.dropped(self._own_gid)
        if self._core.is_forked and self._own_gid:
            self._leave_to_parent()

    def _leave_to_parent(self) -> None:
        """In a forked child: the connections are its parent's, who works on with them."""
        for branch in self._held:
            branch.leave_to_parent()

    def _run(self, event: Event) -> None:
        core = self._core
        try:
            core.entered(self._own_gid)
            self._go_through(event)
        except BaseException:
            if not self._goes_on:
                try:
                    self._cut_short()
                finally:
                    self._cut_short()  # Ctrl-C, perhaps twice
            raise
        finally:
            try:
                self._end()
            except BaseException:
                # Ctrl-C, perhaps twice: what it has cut short is still to be done.
                try:
                    self._end()
                finally:
                    self._end()
                raise

    def _go_through(self, event: Event | None) -> None:
        while event is not None:
            self._state, action = step(self._state, event)
            event = _ACTIONS[action](self)

    def _cut_short(self) -> None:
        """Something was raised between two statements (Ctrl-C, a cancelled task, a bug): recovery has to go on.

        Answers may be outstanding on any connection, so none is used again; what stands in the log stands. Done twice
        it comes to the same.
        """
        self._lost.update(branch.number for branch in self._branches)
        if self._state is State.ONE_PHASE:
            # It has no cell: only its database knows what became of it, and only this process whom to ask.
            for branch in self._branches:
                if branch.wrote:
                    self._core.keep_proof(self.gid, branch)
        self._go_through(_CUT_SHORT.get(self._state))

    def _end(self) -> None:
        """The block is over, however that came. Done twice it comes to the same."""
        ended_as = _ENDED_AS.get(self._state, "in_doubt")
        self._core.ended(self._own_gid, ended_as, alone=self._is_alone, only_read=self._only_read)
        if not self._goes_on:
            self._leave()

    def _leave(self) -> None:
        """Nothing more is done here; also for the thread that has the second phase, and then for it alone. Done twice
        it comes to the same."""
        if self._shares:
            self._core.barrier.leave_shared(self._own_gid)
        self._core.left(self._own_gid)
        held = self._held
        while held:
            branch = held[0]
            is_broken = branch.number in self._lost or self._state is State.IN_DOUBT
            self._lost.add(branch.number)  # what is cut short here is not used again
            branch.release(broken=is_broken)
            del held[0]

    def _raise_outcome(self) -> None:
        """Set the outcome, or raise it."""
        state = self._state
        if self.replayed or state in (State.COMMITTED, State.COMMITTING):
            self.outcome = Outcome.COMMITTED
        elif state is State.IN_DOUBT:
            error = in_doubt(self.gid, self._why, was_voted_on=bool(self._prepared_at))
            if self._interrupt is not None:
                raise self._interrupt from error
            raise error from self._why
        else:
            self.outcome = Outcome.ABORTED
            if self._interrupt is None:
                if self._against:
                    raise mixed(self.gid, self._against, self.pending) from self._why
                raise aborted(self.gid, self._why, self._where, self.pending)
        if self._interrupt is not None:
            raise self._interrupt

    def _ask_branches(self) -> Event:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._why = TimeoutError("the transaction's time was up before its commit began")
            return Event.VOTED_NO
        voters = self._first_round()
        if voters is None:
            return Event.VOTED_NO
        writers = self._writers()
        if not writers:
            return Event.NO_WRITER
        if len(writers) == 1 and not self.key and not voters:
            return Event.LONE_WRITER
        # The second round: who was found only by the first to have written.
        late = [branch for branch in writers if branch not in voters and branch.participant.can_prepare]
        if late and not self._vote(late, []):
            return Event.VOTED_NO
        self._core.on_step("after_prepares")
        self._prepared_at = time.monotonic()
        return Event.VOTED_YES

    def _first_round(self) -> list[Branch] | None:
        """Find out who has written, of whom that is not known. Who has voted meanwhile; None: somebody says no.

        If it is two-phase for certain, who has written votes in the same round; else a lone writer needs no vote.
        """
        writers = self._writers()
        if len(writers) > 1 or self.key:
            voters = [branch for branch in writers if branch.participant.can_prepare]
            asked = [branch for branch in self._branches if not branch.wrote]
            return voters if self._vote(voters, asked) else None
        return [] if self._fan([(branch, branch.ask) for branch in self._branches]) else None

    def _writers(self) -> list[Branch]:
        """Who has written, as far as is known; and, if anybody has, who votes to hold what it has read."""
        writers = [branch for branch in self._branches if branch.wrote]
        if not writers or len(writers) == len(self._branches):
            return writers
        for branch in self._branches:
            if not branch.wrote:
                branch.others_wrote()
        return [branch for branch in self._branches if branch.wrote]

    def _vote(self, voters: Sequence[Branch], asked: Sequence[Branch]) -> bool:
        if voters:
            self._core.on_step("before_prepare")
        self._asked_to_prepare.update([branch.number for branch in voters])
        return self._fan(
            [(branch, branch.prepare) for branch in voters] + [(branch, branch.ask) for branch in asked],
            "between_prepares",
            "after_first_prepare",
        )

    def _commit_alone(self) -> Event | None:
        """The only writer; or readers alone."""
        writers = [branch for branch in self._branches if branch.wrote]
        if not writers:
            self._let_readers_go()
            self._only_read = True
            return None
        (writer,) = writers
        event = Event.RESOURCE_COMMITTED
        if not self._fan([(writer, writer.commit_alone)]):
            event = Event.RESOURCE_REFUSED
            if writer.number in self._lost:
                event = self._core.prove_alone(self.gid, writer)
        self._is_alone = event is Event.RESOURCE_COMMITTED
        return event

    def _let_readers_go(self) -> None:
        """What they locked, an advisory lock for one, may guard what others wrote: it is kept until all can see that.
        Whatever they answer, they wrote nothing, so there is nothing to undo and nothing to doubt."""
        readers = [branch for branch in self._branches if not branch.wrote and branch.number not in self._lost]
        if readers and not self._fan([(branch, branch.commit_alone) for branch in readers]):
            # Of PostgreSQL it may be news: a NOTIFY, or what a SELECT has written in a foreign table, is lost.
            _log.warning(
                "%s has committed; %s, where it has only read, could not: %s", self.gid, self._where, self._why
            )

    def _record(self) -> Commit:
        refs = []
        delegate = ""
        for branch in self._branches:
            if branch.wrote and branch.participant.can_prepare:
                refs.append(BranchRef(branch.participant.name, branch.name, branch.proof))
            elif branch.wrote:
                delegate = branch.participant.name
        return Commit(self._own_gid, tuple(refs), self.key, delegate)

    def _submit(self) -> Event:
        core = self._core
        core.on_step("before_decision")
        record = self._record()
        try:
            verdict, about = core.decide(record)
        except NotApplied as error:
            self._why = error
            return Event.LOG_REFUSED
        except BaseException as error:  # noqa: BLE001  (the decision may stand; raised once branches are left alone)
            if not isinstance(error, Exception):
                self._interrupt = error
            self._why = error
            return Event.LOG_SILENT
        if about != self.gid:
            self._replay(about)
            return Event.CELL_ABORT
        match verdict:
            case Verdict.COMMIT:
                core.on_step("after_decision")
                return Event.CELL_COMMIT
            case Verdict.DELEGATED:
                core.on_step("after_decision")
                return Event.CELL_DELEGATED
            case Verdict.ABORT:
                self._why = Aborted(
                    f"{self.gid}: this coordinator's epoch was closed by a recovery before it had decided",
                    self.gid,
                )
                return Event.CELL_ABORT
            case Verdict.FORGOTTEN | Verdict.FOREIGN | Verdict.OPEN:
                self._why = OutcomeUnknown(f"the log says {verdict.name}: {verdict.value}")
                return Event.LOG_SILENT

    def _replay(self, holder: str) -> None:
        self.replayed = True
        self.gid = holder
        self.outcome = Outcome.COMMITTED

    def _commit_last_resource(self) -> Event:
        core = self._core
        core.on_step("before_last_resource")
        (branch,) = [b for b in self._branches if b.wrote and not b.participant.can_prepare]
        self._share_barrier()
        last = cast(LastResourceBranch, branch)

        def start() -> Callable[[], None]:
            last.commit_with_marker()
            return nothing_to_await

        if self._fan([(branch, start)]):
            core.on_step("after_last_resource")
            return Event.RESOURCE_COMMITTED
        if branch.number in self._lost:
            return Event.RESOURCE_SILENT
        core.note_refused(self.gid)
        return Event.RESOURCE_REFUSED

    def _commit_branches(self) -> Event | None:
        core = self._core
        if self._wait == "decided":
            takers: list[str] = []
            company = core.company_for(self._own_gid)
            try:
                self._goes_on = True
                core.waiting.later(partial(self._commit_later, takers, "another", company))
            except BaseException:
                # Whether it was handed over nobody knows: whoever comes first does it.
                try:
                    self._commit_later(takers, "its owner", None)
                finally:
                    self._commit_later(takers, "its owner", None)  # Ctrl-C, perhaps twice
                raise
            return None
        self._share_barrier()
        return self._tell_commit()

    def _share_barrier(self) -> None:
        """From the first commit that others can see until the last; entered once, also when two steps ask for it."""
        if not self._shares:
            self._shares = True
            self._core.share_barrier(self._own_gid)

    def _tell_commit(self) -> Event:
        core = self._core
        # From here on an error changes nothing about the outcome; `pending` tells of it.
        self._untold = set(self._lost)
        told = [branch for branch in self._branches if branch.wrote and branch.participant.can_prepare]
        work = [(branch, branch.commit_prepared) for branch in told if branch.number not in self._lost]
        self._fan(work, "between_commits", "after_first_commit")
        if self._untold:
            self.pending = tuple([b.participant.name for b in told if b.number in self._untold])
            self._log_pending("has committed")
        self._let_readers_go()
        core.on_step("after_commits")
        core.metrics.count_prepared(time.monotonic() - self._prepared_at)
        return Event.BRANCH_LOST if self.pending else Event.BRANCHES_DONE

    def _commit_later(self, takers: list[str], who: str, company: Flag | None) -> None:
        """The second phase of ``wait="decided"``, in another thread, on the connections that prepared; done by *who*
        comes first, who may come again."""
        try:
            takers.append(who)  # atomic; and whoever is interrupted from here on ends what he has begun
            if takers[0] == who and self._state is State.COMMITTING and self._held:
                if company is not None:
                    self._core.await_company(company)
                self._share_barrier()
                self._go_through(self._tell_commit())
        except BaseException:
            if takers[:1] == [who]:
                # Ctrl-C, perhaps twice.
                try:
                    self._cut_short()
                finally:
                    self._cut_short()
            raise
        finally:
            if takers[:1] == [who]:
                try:
                    self._leave()
                except BaseException:
                    # Ctrl-C, perhaps twice.
                    try:
                        self._leave()
                    finally:
                        self._leave()
                    raise

    def _roll_back_branches(self) -> Event:
        self._untold = set(self._lost)
        self._fan([(b, partial(self._roll_back, b)) for b in self._branches if b.number not in self._lost])
        # What had not begun to prepare has gone with its connection.
        prepared = self._untold & self._asked_to_prepare
        self.pending = tuple([b.participant.name for b in self._branches if b.number in prepared])
        self._log_pending("is aborted")
        return Event.BRANCH_LOST if self._untold else Event.BRANCHES_DONE

    def _log_pending(self, what: str) -> None:
        if self.pending:
            names = ", ".join(self.pending)
            _log.warning("%s %s; recovery tells %s, which did not answer: %s", self.gid, what, names, self._why)

    def _roll_back(self, branch: Branch) -> Callable[[], None]:
        finish = branch.roll_back()

        def told() -> None:
            if finish() is not Finding.ABSENT:
                return
            name = branch.participant.name
            found = self._core.prove(branch)
            if found is Finding.UNREACHED:
                raise RequestError(f"{name}: its branch is not there any more, and what became of it is not known")
            if found is Finding.PROVED_COMMITTED:
                self._against.append(name)
                self._core.note_heuristic(
                    Heuristic(self._own_gid, name, "committed, although the decision is abort")
                )

        return told

    def _leave_behind(self) -> None:
        """What could not be told is recovery's; it knows from us what was decided, where that is known."""
        if self._state is State.IN_DOUBT:
            # What was not voted on has no cell to be decided in.
            gid = self._own_gid
            self._core.leave_in_doubt(gid, self._record() if self._prepared_at else Commit(gid, ()))

    def _note_applied(self) -> None:
        self._core.on_step("before_note_applied")
        self._core.note_applied(self.gid)
        self._core.on_step("after_note_applied")

    def _nothing(self) -> None:
        return None


_ACTIONS: dict[Action, Callable[[Owner], Event | None]] = {
    Action.ASK_BRANCHES: Owner._ask_branches,
    Action.COMMIT_ALONE: Owner._commit_alone,
    Action.SUBMIT: Owner._submit,
    Action.COMMIT_LAST_RESOURCE: Owner._commit_last_resource,
    Action.COMMIT_BRANCHES: Owner._commit_branches,
    Action.LET_READERS_GO: Owner._let_readers_go,
    Action.ROLL_BACK_BRANCHES: Owner._roll_back_branches,
    Action.LEAVE: Owner._leave_behind,
    Action.NOTE_APPLIED: Owner._note_applied,
    Action.NOTHING: Owner._nothing,
}
"""How each action of the owner's table is performed; what it returns happens next."""
