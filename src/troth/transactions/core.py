"""What transactions, recovery and both facades (sync and asyncio) of one `TwoPhaseCommit` share."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Epoch, Gid, parse_gid
from troth.core.twophase.records import Commit, Heuristic
from troth.core.twophase.table import Event, Finding
from troth.errors import NotApplied, RequestError, StorageError, TrothError, UsageError
from troth.transactions import forks
from troth.transactions.barrier import WAIT_MAX_S, Barrier
from troth.transactions.company import Company
from troth.transactions.log.group import GroupCommit
from troth.transactions.log.interface import Decided, DecisionLog
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Branch, Participant
from troth.transactions.participants.named import Participants
from troth.transactions.remembered import Remembered
from troth.transactions.report import UNREACHABLE
from troth.transactions.steps import OnStep
from troth.transactions.waiting import Flag, InThreads, Waiting

APPLIED_AT_ONCE = 16
"""So many are noted as applied together. After a crash that many more have to be looked for in the databases."""
PROVE_WITHIN_S = 2.0
PROVE_PAUSE_S = 0.05
KEY_TRIES = 3


class Core(Remembered):
    """The state of one coordinator process."""

    def __init__(
        self,
        participants: Sequence[Participant],
        log: DecisionLog,
        *,
        barrier: Barrier,
        on_step: OnStep,
        waiting: Waiting | None = None,
    ) -> None:
        super().__init__()
        self.waiting = waiting or InThreads()
        self.participants = Participants(participants, self.waiting)
        self.log = log
        self.epoch = log.epoch
        self.barrier = barrier
        self.on_step = on_step
        self._group = GroupCommit(log, self._on_batch)
        self._sequence = itertools.count(1)
        self._newest = 0
        """The number of a transaction that has begun, of late."""
        self._log_fault: StorageError | UsageError | None = None
        self._fenced: Epoch | None = None
        self._renewing = threading.Lock()
        # One operation on a set is atomic, so these need no lock.
        self._under_way: set[str] = set()
        self._in_front: set[str] = set()
        """Those of them whose callers wait."""
        self.company = Company(self.waiting.flag)
        self._applied: deque[str] = deque()
        self.is_forked = False
        """Whether this process has it from its parent, whose all of this is."""
        forks.watch(self)

    def on_forked(self) -> None:
        """A child that begins a transaction has branches prepare that nobody can decide: the log is its parent's."""
        self._log_fault = forks.made_before()
        self.is_forked = True

    def refuse_child(self) -> None:
        """Raises UsageError in a forked child: connections and log are its parent's, as `begin` tells it too."""
        if self.is_forked:
            raise forks.made_before()

    def _on_batch(self, size: int) -> None:
        self.metrics.count_batch(size)
        if len(self._applied) >= APPLIED_AT_ONCE:
            try:
                self.flush_applied()
            except TrothError:
                pass  # recovery finds out again what is applied; the batch has its answers

    def unapplied(self, unread: dict[str, str] | None = None) -> list[Commit]:
        """`DecisionLog.unapplied`, without what this process has applied meanwhile."""
        return self.waiting.blocking(self._unapplied, unread)

    def _unapplied(self, unread: dict[str, str] | None) -> list[Commit]:
        self.flush_applied()
        return self.log.unapplied(unread)

    # ---- for transactions ------------------------------------------------------------------------------

    def next_gid(self) -> str:
        """The name of a transaction that begins; it counts as open until `ended`."""
        if self._log_fault is not None:
            # Or else each transaction would prepare its branches, and leave them in doubt.
            raise self._log_fault.with_traceback(None)  # or it would grow with each that is refused
        if self._is_closed():
            self.waiting.blocking(self._renew)
        number = next(self._sequence)
        gid = self.epoch.name(number)
        self._open.add(gid)
        self._newest = number
        return gid

    def _is_closed(self) -> bool:
        return self.epoch == self._fenced or self.log.epoch != self.epoch

    def _renew(self) -> None:
        """Somebody took us for dead, and closed our epoch: go on in a new one."""
        with self._renewing:
            if self._is_closed():
                # The log may have done so by itself.
                self.epoch = self.log.renew() if self.log.epoch == self.epoch else self.log.epoch

    def entered(self, gid: str) -> None:
        """The end of *gid* has begun: recovery must leave it to its owner."""
        self._under_way.add(gid)
        self._in_front.add(gid)
        self._group.expecting = len(self._under_way)

    def left(self, gid: str) -> None:
        self._under_way.discard(gid)
        self._in_front.discard(gid)
        self._group.expecting = len(self._under_way)

    def share_barrier(self, who: str) -> None:
        """Enter the shared side of the barrier, whose snapshot may have to be waited for."""
        if not self.barrier.try_enter_shared(who):
            self.waiting.in_line(partial(self.barrier.enter_shared, who, time.monotonic() + WAIT_MAX_S))

    def company_for(self, gid: str) -> Flag | None:
        """What the second phase of *gid* waits for, which goes on behind its caller's back. None: nothing, since others
        are in their commit."""
        self._in_front.discard(gid)
        return None if self._in_front else self.company.expect()

    def await_company(self, flag: Flag) -> None:
        """A sync's time at most, which is what it may save."""
        self.company.wait(flag, self._group.sync_s)

    def decide(self, record: Commit) -> Decided:
        """Hand *record* to the log; a key whose holder was refused by its last resource is free again."""
        holder = ""
        for _ in range(KEY_TRIES):
            decided = self._write(record)
            holder = decided.gid
            if holder == record.gid:
                return decided
            # Not ours, for certain: another transaction has the key. But has it committed, or may it yet be refused?
            try:
                found = self.decision(holder)
            except (StorageError, RequestError) as error:
                raise NotApplied(f"how {holder}, which has the key, ended cannot be read: {error}") from error
            if found is Outcome.OPEN:
                break
            if found is not Outcome.ABORTED:
                return decided
            self.note_refused(holder)
        raise NotApplied(
            f"{holder} has the key {record.key!r}, and its last resource has not said how it ends; try again"
        )

    def _write(self, record: Commit) -> Decided:
        try:
            decided = self.waiting.blocking(self._group.decide, record)
        except StorageError as error:
            self._log_fault = error
            raise
        except NotApplied as error:
            if isinstance(error.__cause__, StorageError):
                self._log_fault = error.__cause__
            raise
        if decided.verdict is Verdict.ABORT:
            self.metrics.fenced += 1
            # The last of a closed epoch are told so when we have gone on already. To renew once more for them would
            # close the new one under all that have begun in it, who would then come too late in their turn, for ever.
            epoch = self.epoch
            if record.gid.startswith(epoch.prefix):
                self._fenced = epoch
        return decided

    def note_applied(self, gid: str) -> None:
        """Told to the log with the next decision, or by `flush_applied`: here nobody waits for the log."""
        self._applied.append(gid)

    def flush_applied(self) -> None:
        """Tell the log what is applied. Called by whoever decides, and before the log is asked for the opposite."""
        done = []
        try:
            while self._applied:
                done.append(self._applied.popleft())
        except IndexError:
            pass  # emptied by another thread
        if done:
            self.log.note_applied(done)

    def note_refused(self, gid: str) -> None:
        """The last resource has refused: nobody can commit it any more."""
        try:
            self.waiting.blocking(self.log.note_refused, gid)
        except TrothError:
            pass  # recovery asks the last resource again, and is told the same

    def note_heuristic(self, found: Heuristic) -> None:
        """Somebody has finished a branch against the decision."""
        try:
            self.waiting.blocking(self.log.note_heuristic, found)
        except TrothError:
            pass  # the log cannot be written; whoever ended the transaction is told all the same

    def committed_under(self, key: str) -> str | None:
        """The transaction that has committed under *key*, if one has."""
        holder = self.waiting.blocking(self.log.holder_of, key)
        # Forgotten is what was applied: a key is remembered for longer than the name of its holder.
        if holder is None or self.decision(holder) not in (Outcome.COMMITTED, Outcome.FORGOTTEN):
            return None
        return holder

    def prove_alone(self, gid: str, branch: Branch) -> Event:
        """The connection was lost while the only writer committed: ask the database by another one."""
        if branch.proof:
            until = time.monotonic() + PROVE_WITHIN_S
            while True:
                match self.prove(branch):
                    case Finding.PROVED_COMMITTED:
                        return Event.RESOURCE_COMMITTED
                    case Finding.PROVED_ABORTED:
                        return Event.RESOURCE_REFUSED
                    case Finding.UNPROVEN:
                        break
                    case _:
                        pass
                if time.monotonic() > until:
                    break
                self.waiting.blocking(time.sleep, PROVE_PAUSE_S)
        self.keep_proof(gid, branch)
        return Event.RESOURCE_SILENT

    # ---- for recovery and for questions ------------------------------------------------------------------

    def is_under_way(self, gid: str) -> bool:
        return gid in self._under_way

    def at_work(self) -> Callable[[Gid], bool]:
        """Which transactions of this process have owners that are at work now, or will be. To be asked before a
        database is: what it lists belongs to these, though they may have ended by the time that the list is here."""
        known, newest = self._open | self._under_way, self._newest
        return lambda gid: str(gid) in known or (gid.sequence > newest and self._is_of_this_run(gid))

    def is_over(self, gid: Gid) -> bool:
        """Whether *gid* is ours, and its block has ended."""
        return self._is_of_this_run(gid) and str(gid) not in self._open

    def outcome(self, gid: str) -> Outcome:
        """What is known of *gid* now. The log's silence alone proves nothing about a transaction of another process, or
        of long ago, that wrote in one database only: that commits without the log.

        Raises:
            StorageError, RequestError: the log cannot be read.
        """
        found = self.decision(gid)
        named = parse_gid(gid)
        is_known = named is not None and self._is_of_this_run(named[0]) and named[0].sequence > self._alone_up_to
        return Outcome.UNRECORDED if found is Outcome.ABORTED and not is_known else found

    def decision(self, gid: str) -> Outcome:
        """What becomes of the prepared branches of *gid*, as far as the log and this process know.

        Raises:
            StorageError, RequestError: the log cannot be read.
        """
        found = parse_gid(str(gid))  # None, too, is told that it is no name
        if found is None:
            raise UsageError(
                f"{gid!r} is no transaction's name; it looks like T1.<log>.<coordinator>.<epoch>.<number>"
            )
        # Asked before all that may change until then: the log, and what is kept here of those that it does not have.
        is_over = self.is_over(found[0])
        unproved = self._unproved.get(gid)
        if unproved is not None:
            return self._outcome_alone(*unproved)
        verdict = self.waiting.blocking(self.log.verdict, found[0])
        if verdict is Verdict.DELEGATED:
            said = self.delegated(found[0], refuse=False)
            if said is not None:
                return said
            # Between the looks it may have been applied, and its marker dropped; or somebody has refused it, and noted
            # that. Either way its cell says so.
            verdict = self.waiting.blocking(self.log.verdict, found[0])
            return _OUTCOMES[verdict]
        if gid in self._committed_alone or gid in self._only_read:
            return Outcome.COMMITTED
        if verdict is Verdict.OPEN and is_over and not self.may_be_in_doubt(found[0]):
            return Outcome.ABORTED
        return _OUTCOMES[verdict]

    def _is_of_this_run(self, gid: Gid) -> bool:
        return gid == Gid(self.epoch.log, self.epoch.coordinator, self.epoch.number, gid.sequence)

    def prove(self, branch: Branch) -> Finding:
        """What became of *branch*, which is not there any more."""
        return self._prove(branch.participant.name, branch.proof)

    def _prove(self, participant: str, proof: str) -> Finding:
        try:
            return self.participants.find_asked(participant).prove(proof)
        except UNREACHABLE:
            return Finding.UNREACHED

    def _outcome_alone(self, participant: Participant, proof: str) -> Outcome:
        match self._prove(participant.name, proof):
            case Finding.PROVED_COMMITTED:
                return Outcome.COMMITTED
            case Finding.PROVED_ABORTED:
                return Outcome.ABORTED
            case Finding.UNPROVEN:
                return Outcome.UNRECORDED  # its database keeps no such knowledge, so that nobody ever will have it
            case _:
                return Outcome.OPEN

    def delegated(self, gid: Gid, *, refuse: bool) -> Outcome | None:
        """What the last resource says; None: nothing yet, or it cannot be asked."""
        record = self.waiting.blocking(self.log.commit_of, gid)
        if record is None:
            return None
        try:
            said = self.participants.find_asked(record.delegate).marker(record.gid, refuse=refuse)
        except (*UNREACHABLE, UsageError):
            return None
        return None if said is None else Outcome.COMMITTED if said else Outcome.ABORTED

    def close(self) -> None:
        """Give up the epoch's place, once the second phases that go on in the background have ended."""
        try:
            self.waiting.close(self._close)
        finally:
            self.barrier.close()

    def _close(self) -> None:
        try:
            self.flush_applied()
            self.log.close()
        except StorageError:
            pass  # what was not written down is found out again by recovery
        finally:
            for participant in self.participants.all:
                participant.close()


_OUTCOMES = {
    Verdict.COMMIT: Outcome.COMMITTED,
    Verdict.ABORT: Outcome.ABORTED,
    Verdict.OPEN: Outcome.OPEN,
    Verdict.FORGOTTEN: Outcome.FORGOTTEN,
    Verdict.FOREIGN: Outcome.FOREIGN,
    Verdict.DELEGATED: Outcome.OPEN,
}
