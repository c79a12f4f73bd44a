"""The owner of a transaction: performs what its table demands, with messages."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from troth.core.twophase.cells import Verdict
from troth.core.twophase.records import BranchRef, Commit
from troth.core.twophase.table import Action, Event, Finding, State
from troth.simulate.twophase.servers import LAST, LOG, SILENT, Call


@dataclass(slots=True)
class Owner:
    """Performs the owner's actions with messages."""

    chance: Callable[[int], bool]
    gid: str
    names: list[str]
    key: str = ""
    guard: str = ""
    """Where it only read, under a lock; "" for nowhere."""
    state: State = State.ACTIVE
    lost: set[str] = field(default_factory=set)
    was_fenced: bool = False

    def perform(self, action: Action) -> Generator[Sequence[Call], list[Any], Event | None]:
        gid = self.gid
        preparing = [name for name in self.names if name != LAST]
        match action:
            case Action.ASK_BRANCHES:
                tags = yield [Call(name, "prepare", (gid, self.chance(12))) for name in preparing]
                self.lost |= {name for name, tag in zip(preparing, tags, strict=True) if tag is SILENT}
                return Event.VOTED_YES if is_unanimous(tags) else Event.VOTED_NO
            case Action.SUBMIT:
                refs = tuple(BranchRef(name, gid) for name in preparing)
                delegate = LAST if LAST in self.names else ""
                record = Commit(gid, refs, delegate=delegate, key=self.key)
                (answer,) = yield [Call(LOG, "decide", (record,))]
                return Event.LOG_SILENT if answer is SILENT else self._cell(*answer)
            case Action.COMMIT_LAST_RESOURCE:
                (done,) = yield [Call(LAST, "commit_with_marker", (gid,))]
                if done is SILENT:
                    return Event.RESOURCE_SILENT
                if not done:
                    yield [Call(LOG, "refused", (gid,))]
                return Event.RESOURCE_COMMITTED if done else Event.RESOURCE_REFUSED
            case Action.COMMIT_BRANCHES:
                answers = yield [Call(name, "commit_prepared", (gid,)) for name in preparing]
                # "Does not exist" is no success: recovery asks what became of it.
                done_all = all(answer is Finding.FINISHED for answer in answers)
                if self.guard:
                    yield [Call(self.guard, "let_go", (gid,))]
                return Event.BRANCHES_DONE if done_all else Event.BRANCH_LOST
            case Action.ROLL_BACK_BRANCHES:
                reachable = [name for name in self.names if name not in self.lost]
                answers = yield [Call(name, "roll_back", (gid,)) for name in reachable]
                if self.guard:
                    yield [Call(self.guard, "roll_back", (gid,))]
                return Event.BRANCH_LOST if self.lost or SILENT in answers else Event.BRANCHES_DONE
            case Action.NOTE_APPLIED:
                yield [Call(LOG, "applied", (gid,))]
                return None
            case Action.COMMIT_ALONE | Action.LET_READERS_GO | Action.LEAVE | Action.NOTHING:
                return None

    def _cell(self, verdict: Verdict, holder: str) -> Event:
        if holder != self.gid:
            return Event.CELL_ABORT
        match verdict:
            case Verdict.COMMIT:
                return Event.CELL_COMMIT
            case Verdict.DELEGATED:
                return Event.CELL_DELEGATED
            case Verdict.ABORT:
                self.was_fenced = True
                return Event.CELL_ABORT
            case _:
                return Event.LOG_SILENT


def is_unanimous(tags: Sequence[object]) -> bool:
    """Whether every PREPARE was answered by the tag of a prepared transaction, and nothing else."""
    return all(tag == "PREPARE TRANSACTION" for tag in tags)
