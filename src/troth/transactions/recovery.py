"""Recovery: whoever finds a branch that nobody finishes, finishes it as the log says.

Any number of processes may do this at once, at any time; the log's cells are written once, databases refuse to finish
a branch twice, and "does not exist" is never taken for "done" without asking what became of it. One pass:

1. close the epochs of coordinators that are dead (so that "no cell" means abort from now on);
2. end the sessions of closed epochs in every database (so that nothing of theirs becomes prepared later);
3. for every branch listed as prepared: read its cell, and do what the table says (core/twophase/table.py);
4. for every decision that is not noted as applied and not listed: prove it;
5. look again until a look finds nothing: a PREPARE may have been under way (greenplum-db/gpdb#10393).

A database or a log that does not answer stops nothing but itself; the next pass tries again.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import exc

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import FORMAT, Epoch, Gid, parse_gid
from troth.core.twophase.records import Abort, BranchRef, Commit, Heuristic
from troth.core.twophase.table import Case, Finding, Step, move
from troth.errors import ProtocolError, RequestError, StorageError
from troth.transactions.core import Core
from troth.transactions.participants.base import Participant, Prepared
from troth.transactions.transaction import Outcome

_log = logging.getLogger("troth.transactions")

LOOKS_MAX = 20
DETACHES_MAX = 5

UNREACHABLE = (exc.SQLAlchemyError, RequestError, ProtocolError, StorageError, OSError)
"""What a participant or a log raises when it cannot be asked now."""


@dataclass
class Report:
    """What one pass has seen and done."""

    committed: list[str] = field(default_factory=list)
    """Branches told to commit."""
    rolled_back: list[str] = field(default_factory=list)
    heuristic: list[str] = field(default_factory=list)
    """Branches that somebody had finished against the decision."""
    orphans: list[str] = field(default_factory=list)
    """Branches of another log, or of one that has forgotten them: not touched. `troth tx list` shows them."""
    left: list[str] = field(default_factory=list)
    """Branches whose owner lives, or whose log or database cannot be reached."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Participant (or "log of" a coordinator) -> why it could not be asked."""
    fenced: int = 0
    """Database sessions of dead coordinators that were ended."""

    @property
    def in_doubt(self) -> int:
        """Branches that are still prepared, or may be, and are not orphans."""
        return len(self.left)


class Recovery:
    """Passes over all participants, by hand (`run`) or every few seconds in a thread (`start`)."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._one_at_a_time = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, every_s: Callable[[], float]) -> None:
        """Make a pass now and then after each *every_s*() seconds (a function, for jitter), in a thread."""

        def loop() -> None:
            while not self._over.is_set():
                try:
                    self.run()
                except UNREACHABLE:
                    pass  # the log, most likely; the metrics of the pass show what was seen
                except Exception:  # noqa: BLE001  (logged; without this thread nobody would look again)
                    _log.exception("a pass of recovery failed; the next one tries again")
                self._over.wait(every_s())

        self._thread = threading.Thread(target=loop, name="troth 2pc recovery", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a pass that is under way ends first."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def run(self, *, even_if_alive: bool = False) -> Report:
        """One pass. With *even_if_alive*, coordinators that seem to live are fenced off too.

        Raises:
            StorageError, RequestError: the log cannot be read; nothing was done.
        """
        with self._one_at_a_time:
            report = Report()
            core = self._core
            closed = self._close_epochs(even_if_alive, report)
            reached = [p for p in core.participants if self._fence(p, closed, report)]
            core.on_step("fenced")
            # It commits one branch after the other, as a second phase does: no snapshot in between.
            core.waiting.blocking(core.barrier.enter_shared)
            try:
                finished = self._resolve(reached, report)
                core.on_step("resolved")
                self._apply(reached, finished, report)
            finally:
                core.barrier.leave_shared()
            self._count(report)
            return report

    # ---- the steps of a pass -----------------------------------------------------------------------------

    def _close_epochs(self, even_if_alive: bool, report: Report) -> dict[str, int]:
        """Close what can be closed; for each coordinator the newest epoch that is certainly closed.

        Whose part of the log is damaged is left, and stops nobody else's recovery. One that is opened from now on has a
        higher number, so that its sessions are never taken for old ones.
        """
        log, blocking = self._core.log, self._core.waiting.blocking
        closed = {}
        for coordinator in blocking(log.coordinators):
            is_own = coordinator.name == log.epoch.coordinator
            may_close = not is_own and (not coordinator.is_alive or even_if_alive)
            problem, is_closed = coordinator.problem, False
            if may_close and not problem:
                try:
                    is_closed = blocking(partial(log.close_epoch, coordinator.name, even_if_alive=even_if_alive))
                except UNREACHABLE as error:
                    problem = str(error)
            if problem:
                report.unreachable[f"log of {coordinator.name}"] = problem
            closed[coordinator.name] = coordinator.epoch if is_closed else coordinator.epoch - 1
        return closed

    def _fence(self, participant: Participant, closed: dict[str, int], report: Report) -> bool:
        def is_closed(epoch: Epoch) -> bool:
            return epoch.log == self._core.epoch.log and epoch.number <= closed.get(epoch.coordinator, 0)

        try:
            report.fenced += participant.fence(is_closed)
        except UNREACHABLE as error:
            report.unreachable[participant.name] = str(error)
            return False
        return True

    def _resolve(self, participants: list[Participant], report: Report) -> set[tuple[str, str]]:
        """Finish what is listed, until a look finds nothing to do; (branch, participant) of all that was finished."""
        core = self._core
        finished: set[tuple[str, str]] = set()
        resolved = 0
        for participant in participants:
            seen: set[str] = set()
            for _ in range(LOOKS_MAX):
                try:
                    listed = [found for found in participant.prepared() if found.branch not in seen]
                except UNREACHABLE as error:
                    report.unreachable[participant.name] = str(error)
                    break
                if not listed:
                    break
                did_something = False
                for found in listed:
                    seen.add(found.branch)
                    core.on_step("before_resolve")
                    if self._finish_listed(participant, found, report):
                        finished.add((found.branch, participant.name))
                        seen.discard(found.branch)
                        did_something = True
                    resolved += 1
                    if resolved == 1:
                        core.on_step("after_first_resolve")
                if not did_something:
                    break
        return finished

    def _finish_listed(self, participant: Participant, found: Prepared, report: Report) -> bool:
        """Do with a listed branch what the table says; whether it is finished."""
        finding = self._cell(found.gid)
        case = self._follow(participant, found.branch, Case.FOUND, finding, report, gid=str(found.gid), proof=None)
        return case is Case.DONE

    def _cell(self, gid: Gid) -> Finding:
        """What the log, or the last resource that it points to, says about *gid*."""
        core = self._core
        name = str(gid)
        if gid.log != core.epoch.log:
            return Finding.NOT_OURS
        if core.is_under_way(name):
            return Finding.EPOCH_OPEN
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
                verdict = core.waiting.blocking(core.log.abort, Abort(name, "recovery"))
        except UNREACHABLE:
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
        participant: Participant,
        branch: str,
        case: Case,
        finding: Finding,
        report: Report,
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
                    report.heuristic.append(branch)
                    found = Heuristic(gid, participant.name, "rolled back, although the decision is commit")
                    self._core.waiting.blocking(self._core.log.note_heuristic, found)
                    return case
                case Step.NOTE_APPLIED | Step.REPORT | Step.NOTHING:
                    self._report(case, todo, branch, report)
                    return case

    def _report(self, case: Case, todo: Step, branch: str, report: Report) -> None:
        match case:
            case Case.DONE:
                (report.committed if todo is Step.NOTE_APPLIED else report.rolled_back).append(branch)
            case Case.ORPHAN:
                report.orphans.append(branch)
            case _:
                report.left.append(branch)

    def _proof_of(self, gid: str, participant: str) -> str:
        found = parse_gid(gid)
        record = self._core.waiting.blocking(self._core.log.commit_of, found[0]) if found else None
        refs = record.branches if record else ()
        return next((ref.proof for ref in refs if ref.participant == participant), "")

    def _tell(self, participant: Participant, branch: str, *, commit: bool) -> Finding:
        try:
            return participant.finish(branch, commit=commit)
        except UNREACHABLE:
            return Finding.UNREACHED

    def _detach(self, participant: Participant, branch: str, *, commit: bool) -> Finding:
        try:
            participant.detach(branch)
        except UNREACHABLE:
            return Finding.UNREACHED
        # The session ends a moment after it was told to.
        threading.Event().wait(0.02)
        return self._tell(participant, branch, commit=commit)

    def _prove(self, participant: Participant, gid: str, proof: str | None) -> Finding:
        """Ask what became of a branch; *proof* None: the log has it."""
        try:
            return participant.prove(self._proof_of(gid, participant.name) if proof is None else proof)
        except UNREACHABLE:
            return Finding.UNREACHED

    def _apply(self, reached: list[Participant], finished: set[tuple[str, str]], report: Report) -> None:
        """Every decision that is not noted as applied: is it, in all its branches? Then nobody needs it any more."""
        core = self._core
        by_name = {participant.name: participant for participant in core.participants}
        names = {participant.name for participant in reached}
        applied = []
        listed: dict[str, set[str] | None] = {}
        for record in core.unapplied():
            if core.is_under_way(record.gid):
                continue
            found = parse_gid(record.gid)
            if found is None or self._is_others(found[0]):
                continue
            if record.delegate and self._cell(found[0]) is not Finding.CELL_COMMIT:
                continue
            is_done = True
            for ref in record.branches:
                if (ref.branch, ref.participant) in finished:
                    continue
                participant = by_name.get(ref.participant)
                if participant is None or participant.name not in names:
                    report.unreachable.setdefault(ref.participant, "not among the participants of this process")
                    is_done = False
                    continue
                if participant.name not in listed:
                    listed[participant.name] = self._listed(participant)
                case = self._expected(participant, ref, listed[participant.name], record, report)
                is_done &= case in (Case.DONE, Case.HEURISTIC)
            if is_done:
                applied.append(record.gid)
        if applied:
            core.waiting.blocking(core.log.note_applied, applied)
        needed = {record.gid for record in core.unapplied()}
        for gid, record in core.all_in_doubt():
            try:
                self._settle(gid, record, is_unapplied=gid in needed)
            except UNREACHABLE:
                break  # the log; the next pass tries again
        for participant in reached:
            try:
                participant.prune(f"{FORMAT}.{core.epoch.log}.{core.epoch.coordinator}.", needed)
            except UNREACHABLE:
                pass  # the next pass tries again

    def _listed(self, participant: Participant) -> set[str] | None:
        """What is prepared there now; None: it cannot be asked. All that is decided was prepared before."""
        try:
            return {found.branch for found in participant.prepared()}
        except UNREACHABLE:
            return None

    def _expected(
        self, participant: Participant, ref: BranchRef, listed: set[str] | None, record: Commit, report: Report
    ) -> Case:
        is_listed = listed is not None and ref.branch in listed
        finding = Finding.UNREACHED if listed is None else Finding.CELL_COMMIT if is_listed else Finding.ABSENT
        return self._follow(
            participant, ref.branch, Case.EXPECTED, finding, report, gid=record.gid, proof=ref.proof
        )

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
            verdict = core.waiting.blocking(core.log.abort, Abort(gid, "recovery"))
        if not is_unapplied and verdict is not Verdict.OPEN:
            core.settled(gid)

    def _count(self, report: Report) -> None:
        metrics = self._core.metrics
        metrics.passes += 1
        metrics.recovered += Counter(
            {
                "committed": len(report.committed),
                "rolled_back": len(report.rolled_back),
                "heuristic": len(report.heuristic),
            }
        )
        for participant in self._core.participants:
            try:
                listed = [p for p in participant.prepared() if p.gid.log == self._core.epoch.log]
            except UNREACHABLE:
                continue
            metrics.in_doubt[participant.name] = len(listed)
            metrics.oldest_s[participant.name] = max((p.age_s for p in listed), default=0.0)
