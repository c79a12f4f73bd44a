"""One pass of recovery over all databases, as transactions/recovery.py makes it."""

from collections.abc import Generator, Sequence
from typing import Any

from troth.core.twophase.cells import Verdict
from troth.core.twophase.records import Heuristic
from troth.core.twophase.table import Case, Finding, Step, move
from troth.simulate.twophase.outside import Outside
from troth.simulate.twophase.servers import DATABASES, LAST, LOG, SILENT, Call, parsed


def recovery_pass(outside: Outside) -> Generator[Sequence[Call], list[Any], None]:
    """See the module."""
    (epochs,) = yield [Call(LOG, "epochs")]
    if epochs is SILENT:
        return
    closed = {coordinator: number - is_open for coordinator, (number, is_open) in epochs.items()}
    for name in DATABASES:
        (fenced,) = yield [Call(name, "fence", (closed,))]
        if fenced is SILENT:
            continue
        for _ in range(3):
            (listed,) = yield [Call(name, "listed")]
            if listed is SILENT or not listed:
                break
            for gid in listed:
                finding = yield from _cell_of(gid)
                yield from _follow(outside, name, gid, Case.FOUND, finding)
    (unapplied,) = yield [Call(LOG, "unapplied")]
    for record in [] if unapplied is SILENT else unapplied:
        if epochs[parsed(record.gid).coordinator] == (parsed(record.gid).epoch, True):
            continue
        finding = yield from _cell_of(record.gid)
        if finding is not Finding.CELL_COMMIT:
            continue
        cases = []
        for ref in record.branches:
            (listed,) = yield [Call(ref.participant, "listed")]
            finding = Finding.UNREACHED
            if listed is not SILENT:
                finding = Finding.CELL_COMMIT if record.gid in listed else Finding.ABSENT
            cases.append((yield from _follow(outside, ref.participant, record.gid, Case.EXPECTED, finding)))
        if all(case in (Case.DONE, Case.HEURISTIC) for case in cases):
            yield [Call(LOG, "applied", (record.gid,))]


def _cell_of(gid: str) -> Generator[Sequence[Call], list[Any], Finding]:
    (verdict,) = yield [Call(LOG, "verdict", (gid,))]
    if verdict is Verdict.DELEGATED:
        (epochs,) = yield [Call(LOG, "epochs")]
        is_open = epochs is SILENT or epochs[parsed(gid).coordinator] == (parsed(gid).epoch, True)
        (said,) = yield [Call(LAST, "marker", (gid, not is_open))]
        if said is False:
            yield [Call(LOG, "refused", (gid,))]
            return Finding.CELL_ABORT
        return Finding.CELL_COMMIT if said is True else Finding.LOG_SILENT
    match verdict:
        case Verdict.COMMIT:
            return Finding.CELL_COMMIT
        case Verdict.ABORT:
            return Finding.CELL_ABORT
        case Verdict.OPEN:
            return Finding.EPOCH_OPEN
        case _:
            return Finding.LOG_SILENT


def _follow(
    outside: Outside, name: str, gid: str, case: Case, finding: Finding
) -> Generator[Sequence[Call], list[Any], Case]:
    while True:
        case, todo = move(case, finding)
        match todo:
            case Step.COMMIT | Step.ROLL_BACK:
                (answer,) = yield [Call(name, "finish", (gid, todo is Step.COMMIT))]
            case Step.PROVE:
                (answer,) = yield [Call(name, "prove", (gid,))]
            case Step.NOTE_HEURISTIC:
                (noted,) = yield [Call(LOG, "heuristic", (Heuristic(gid, name, "rolled back"),))]
                return Case.LEFT if noted is SILENT else case
            case Step.NOTE_APPLIED:
                outside.on_said_committed(gid, name)
                return case
            case _:
                return case
        finding = Finding.UNREACHED if answer is SILENT else answer
