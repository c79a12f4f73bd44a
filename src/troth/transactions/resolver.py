"""What recovery does about branches: finish what is listed as prepared, prove what is decided and not listed.

The table says what (core/twophase/table.py); this reads the cells, tells the databases, and returns what was found.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import FORMAT, Gid, parse_gid
from troth.core.twophase.records import Abort, BranchRef, Commit, Heuristic
from troth.core.twophase.table import Case, Finding, Step, move
from troth.errors import required
from troth.transactions.core import Core
from troth.transactions.endings import to_repair
from troth.transactions.outcome import Outcome
from troth.transactions.participants.base import Prepared, Recovered
from troth.transactions.report import UNREACHABLE, Report

_log = logging.getLogger("troth.transactions")

RECOVERY = "recovery"
"""Who it is in the barrier, and in the log when it writes an abort. One pass at a time in a process."""
LOOKS_MAX = 20
DETACHES_MAX = 5
DETACH_PAUSE_S = 0.02


class Resolver:
    """Of one pass, into whose *report* it writes."""

    def __init__(
        self, core: Core, report: Report, seen_before: Set[str] = frozenset(), *, who: str = RECOVERY
    ) -> None:
        """*seen_before*: `of_the_living` of the pass before; *who*: what it is called in the barrier."""
        self._core = core
        self._who = who
        self.report = report
        self.left: dict[str, None] = {}
        """Branches, in the order in which they were met, that are still to be finished."""
        self._finished: set[tuple[str, str]] = set()
        """(branch, participant) of all that was listed and is finished now."""
        self._resolved = 0
        """How many were looked at."""
        self._shares = False
        self._seen_before = seen_before
        self.of_the_living: set[str] = set()
        """Branches that other coordinators are most likely about to finish: decided, and their owners live. What the
        next pass still finds, it finishes."""

    def leave_barrier(self) -> None:
        """The pass is over."""
        if self._shares:
            self._core.barrier.leave_shared(self._who)
            self._shares = False

    def _share_barrier(self) -> None:
        """It commits one branch after the other, as a second phase does: no snapshot in between. And none is kept
        waiting for one that only looks."""
        if not self._shares:
            self._shares = True
            self._core.share_barrier(self._who)

    def resolve(self, participants: Sequence[Recovered]) -> None:
        """Finish what is listed, until a look finds nothing to do."""
        for participant in participants:
            seen: set[str] = set()
            for _ in range(LOOKS_MAX):
                if not self._look(participant, seen):
                    break

    def _look(self, participant: Recovered, seen: set[str]) -> bool:
        """Finish what is listed and was not *seen* yet; whether there was anything to finish."""
        core = self._core
        is_at_work = core.at_work()
        try:
            listed = [found for found in participant.prepared() if found.branch not in seen]
        except UNREACHABLE as error:
            self.report.unreachable[participant.name] = str(error)
            return False
        did_something = False
        for found in listed:
            seen.add(found.branch)
            core.on_step("before_resolve")
            if self._finish_listed(participant, found, is_at_work):
                self._finished.add((found.branch, participant.name))
                seen.discard(found.branch)
                did_something = True
            self._resolved += 1
            if self._resolved == 1:
                core.on_step("after_first_resolve")
        return did_something

    def _finish_listed(self, participant: Recovered, found: Prepared, is_at_work: Callable[[Gid], bool]) -> bool:
        """Do with a listed branch what the table says; whether it is finished."""
        finding = Finding.EPOCH_OPEN if is_at_work(found.gid) else self._cell(found.gid)
        if finding is Finding.CELL_COMMIT and self._is_others(found.gid):
            self.of_the_living.add(found.branch)
            if found.branch not in self._seen_before:
                finding = Finding.EPOCH_OPEN
        case = self._follow(participant, found.branch, Case.FOUND, finding, gid=str(found.gid), proof=None)
        return case is Case.DONE

    def _cell(self, gid: Gid) -> Finding:
        """What the log, or the last resource that it points to, says about *gid*."""
        core = self._core
        name = str(gid)
        if gid.log != core.epoch.log:
            return Finding.NOT_OURS
        # Asked before the log, which may change its mind only until then.
        is_over = core.is_over(gid)
        try:
            verdict = core.waiting.blocking(core.log.verdict, gid)
            if verdict is Verdict.DELEGATED:
                # Our own transaction may be about to commit it; a dead owner's is refused, unless it was committed.
                refuse = is_over or not self._is_open(gid)
                said = core.delegated(gid, refuse=refuse)
                if said is Outcome.ABORTED:
                    core.note_refused(name)
                    return Finding.CELL_ABORT
                return Finding.CELL_COMMIT if said is Outcome.COMMITTED else Finding.LOG_SILENT
            if verdict is Verdict.OPEN and is_over and core.may_be_in_doubt(gid):
                # We were interrupted, or not answered, and nothing is written: whoever writes the cell first decides.
                verdict = core.waiting.blocking(core.log.abort, Abort(name, RECOVERY))
        except UNREACHABLE as error:
            self.report.unreachable[f"log of {gid.coordinator}"] = str(error)
            return Finding.LOG_SILENT
        match verdict:
            case Verdict.COMMIT:
                return Finding.CELL_COMMIT
            case Verdict.ABORT:
                return Finding.CELL_ABORT
            case Verdict.OPEN:
                # Ours, and over without a decision; also if a vote that was under way has become prepared since.
                return Finding.CELL_ABORT if is_over else Finding.EPOCH_OPEN
            case _:
                return Finding.NOT_OURS

    def _is_open(self, gid: Gid) -> bool:
        known = self._core.waiting.blocking(self._core.log.coordinators)
        return any(
            c.name == gid.coordinator and (bool(c.problem) or (c.epoch == gid.epoch and c.is_alive)) for c in known
        )

    def _follow(
        self,
        participant: Recovered,
        branch: str,
        case: Case,
        finding: Finding,
        *,
        gid: str,
        proof: str | None,
    ) -> Case:
        """Go through the table from *case* until nothing is left to do in this pass; where that ended."""
        detaches = 0
        while True:
            case, todo = move(case, finding)
            match todo:
                case Step.COMMIT | Step.ROLL_BACK:
                    finding = self._tell(participant, branch, commit=todo is Step.COMMIT)
                case Step.DETACH:
                    detaches += 1
                    finding = self._detach(participant, branch, commit=case is Case.COMMITTING)
                    if finding is Finding.ATTACHED and detaches >= DETACHES_MAX:
                        finding = Finding.UNREACHED
                case Step.PROVE:
                    finding = self._prove(participant, gid, proof)
                case Step.NOTE_HEURISTIC:
                    return case if self._note_heuristic(gid, participant, branch) else Case.LEFT
                case Step.NOTE_APPLIED | Step.REPORT | Step.NOTHING:
                    self._report(case, todo, finding, branch)
                    return case

    def _note_heuristic(self, gid: str, participant: Recovered, branch: str) -> bool:
        """Write down, durably, what was found; whether that is done. The same is found again while another branch is
        out of reach, also when it was dealt with."""
        found = Heuristic(gid, participant.name, "rolled back, although the decision is commit")
        self.left.pop(branch, None)
        try:
            is_new = self._core.waiting.blocking(self._core.log.note_heuristic, found)
        except UNREACHABLE as error:  # it is found again, as long as its transaction is not noted as applied
            self._log_unreached(error)
            self.left[branch] = None
            return False
        if is_new:
            # Whoever ran the transaction was told that it has committed, and asks no more.
            _log.error("%s", to_repair(found))
            self.report.heuristic.append(branch)
        return True

    def _report(self, case: Case, todo: Step, finding: Finding, branch: str) -> None:
        """A branch may be met twice: where it is listed, and where it is decided. What was seen last counts."""
        self.left.pop(branch, None)
        match case:
            case Case.DONE if todo is not Step.NOTE_APPLIED:
                self.report.rolled_back.append(branch)
            case Case.DONE:
                (self.report.committed if finding is Finding.FINISHED else self.report.proved).append(branch)
            case Case.ORPHAN:
                self.report.orphans.append(branch)
            case _:
                self.left[branch] = None

    def _proof_of(self, gid: str, participant: str) -> str:
        found = parse_gid(gid)
        record = self._core.waiting.blocking(self._core.log.commit_of, found[0]) if found else None
        refs = record.branches if record else ()
        return next((ref.proof for ref in refs if ref.participant == participant), "")

    def _tell(self, participant: Recovered, branch: str, *, commit: bool) -> Finding:
        if commit:
            self._share_barrier()
        try:
            return participant.finish(branch, commit=commit)
        except UNREACHABLE as error:
            return self._unreached(participant, error)

    def _detach(self, participant: Recovered, branch: str, *, commit: bool) -> Finding:
        try:
            participant.detach(branch)
        except UNREACHABLE as error:
            return self._unreached(participant, error)
        # The session ends a moment after it was told to.
        self._core.waiting.blocking(time.sleep, DETACH_PAUSE_S)
        return self._tell(participant, branch, commit=commit)

    def _prove(self, participant: Recovered, gid: str, proof: str | None) -> Finding:
        """Ask what became of a branch; *proof* None: the log has it."""
        try:
            return participant.prove(self._proof_of(gid, participant.name) if proof is None else proof)
        except UNREACHABLE as error:
            return self._unreached(participant, error)

    def _unreached(self, participant: Recovered, error: Exception) -> Finding:
        """That, and why: it need not be the connection (a cluster refuses an intent that is none, for one)."""
        self.report.unreachable.setdefault(participant.name, str(error))
        return Finding.UNREACHED

    def apply(self, reached: Sequence[Recovered]) -> None:
        """What is done in all databases nobody needs any more; after `resolve`."""
        try:
            self._note_applied({participant.name: participant for participant in reached})
            needed = {record.gid for record in self._unapplied()}
        except UNREACHABLE as error:
            self._log_unreached(error)
            return
        self._settle_doubts(needed)
        self._prune(reached, needed)

    def _note_applied(self, reached: Mapping[str, Recovered]) -> None:
        """Every decision that is not noted as applied: is it, in all its branches?"""
        core = self._core
        applied = []
        listed: dict[str, set[str] | None] = {}
        is_at_work = core.at_work()
        for record in self._unapplied():
            found = parse_gid(record.gid)
            if found is None or is_at_work(found[0]) or self._is_others(found[0]):
                continue
            if record.delegate and self._cell(found[0]) is not Finding.CELL_COMMIT:
                continue
            # All of them are asked, whatever the first has said.
            done = [self._is_done(record, ref, reached, listed) for ref in record.branches]
            if all(done):
                applied.append(record.gid)
        if applied:
            try:
                core.waiting.blocking(core.log.note_applied, applied)
            except UNREACHABLE as error:  # the next pass looks again; what this one did is done
                self._log_unreached(error)

    def finish(self, record: Commit) -> list[str]:
        """This one decision, and nothing else: the participants in which there is something left to do. Of an owner
        that is at work it is only seen how far that has come."""
        core = self._core
        found = required(parse_gid(record.gid), "a decision about what is no transaction", gid=record.gid)[0]
        reached = {participant.name: participant for participant in core.participants.asked}
        if core.at_work()(found) or self._is_others(found):
            branches = record.branches
            return [ref.participant for ref in branches if self._may_be_listed(reached.get(ref.participant), ref)]
        listed: dict[str, set[str] | None] = {}
        left = [ref.participant for ref in record.branches if not self._is_done(record, ref, reached, listed)]
        if not left:
            try:
                core.waiting.blocking(core.log.note_applied, [record.gid])
            except UNREACHABLE:
                pass  # recovery looks again
        return left

    def _may_be_listed(self, participant: Recovered | None, ref: BranchRef) -> bool:
        listed = self._listed(participant) if participant is not None else None
        return listed is None or ref.branch in listed

    def _unapplied(self) -> list[Commit]:
        """Of whom it is known; the others are left, and said to be."""
        unread: dict[str, str] = {}
        found = self._core.unapplied(unread)
        for name, why in unread.items():
            self.report.unreachable.setdefault(f"log of {name}", why)
        return found

    def _log_unreached(self, error: Exception) -> None:
        self.report.unreachable.setdefault(f"log of {self._core.epoch.coordinator}", str(error))

    def _is_done(
        self, record: Commit, ref: BranchRef, reached: Mapping[str, Recovered], listed: dict[str, set[str] | None]
    ) -> bool:
        """Whether nothing is left to do about *ref*. *listed*: what was prepared in each database when it was asked."""
        if (ref.branch, ref.participant) in self._finished:
            return True
        participant = reached.get(ref.participant)
        if participant is None:
            self.report.unreachable.setdefault(ref.participant, "not among the participants of this process")
            return False
        if participant.name not in listed:
            listed[participant.name] = self._listed(participant)
        case = self._expected(participant, ref, listed[participant.name], record)
        return case in (Case.DONE, Case.HEURISTIC)

    def _settle_doubts(self, needed: Set[str]) -> None:
        for gid, record in self._core.all_in_doubt():
            try:
                self._settle(gid, record, is_unapplied=gid in needed)
            except UNREACHABLE:
                break  # the log; the next pass tries again

    def _prune(self, reached: Sequence[Recovered], needed: Collection[str]) -> None:
        epoch = self._core.epoch
        for participant in reached:
            try:
                participant.prune(f"{FORMAT}.{epoch.log}.{epoch.coordinator}.", needed)
            except UNREACHABLE:
                pass  # the next pass tries again

    def _listed(self, participant: Recovered) -> set[str] | None:
        """What is prepared there now; None: it cannot be asked. All that is decided was prepared before."""
        try:
            return {found.branch for found in participant.prepared()}
        except UNREACHABLE:
            return None

    def _expected(self, participant: Recovered, ref: BranchRef, listed: set[str] | None, record: Commit) -> Case:
        is_listed = listed is not None and ref.branch in listed
        finding = Finding.UNREACHED if listed is None else Finding.CELL_COMMIT if is_listed else Finding.ABSENT
        return self._follow(participant, ref.branch, Case.EXPECTED, finding, gid=record.gid, proof=ref.proof)

    def _is_others(self, gid: Gid) -> bool:
        """Whether *gid* is the business of a coordinator that lives."""
        return gid.coordinator != self._core.epoch.coordinator and self._is_open(gid)

    def _settle(self, gid: str, record: Commit, *, is_unapplied: bool) -> None:
        """Forget what our own transactions left in doubt, once the log says that it is done."""
        found = parse_gid(gid)
        if found is None or self._core.is_under_way(gid):
            return
        core = self._core
        verdict = core.waiting.blocking(core.log.verdict, found[0])
        if verdict is Verdict.OPEN and (record.branches or record.delegate):
            # Listed nowhere, when its only writer cannot prepare: whoever asks would be told "open" for ever.
            verdict = core.waiting.blocking(core.log.abort, Abort(gid, RECOVERY))
        if not is_unapplied and verdict is not Verdict.OPEN:
            core.settled(gid)
