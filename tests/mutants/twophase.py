"""Known ways to lose atomicity, each put back by one change of a source text."""

from pitfalls import Pitfall

TABLE = "src/troth/core/twophase/table.py"
CELLS = "src/troth/core/twophase/cells.py"
SERVERS = "src/troth/simulate/twophase/servers.py"
OWNER = "src/troth/simulate/twophase/owner.py"
RECOVERER = "src/troth/simulate/twophase/recoverer.py"

TESTS = (
    "tests/unit/core/test_twophase_table.py",
    "tests/unit/core/test_twophase_cells.py",
    "tests/unit/simulate/test_twophase_world.py",
)


def mutant(name: str, file: str, old: str, new: str) -> Pitfall:
    return Pitfall(name=name, found="", file=file, old=old, new=new)


MUTANTS = (
    mutant(
        "nobody resolves what a dead coordinator left",
        TABLE,
        "(C.FOUND, F.CELL_ABORT): Move(C.ROLLING_BACK, T.ROLL_BACK)",
        "(C.FOUND, F.CELL_ABORT): Move(C.LEFT, T.NOTHING)",
    ),
    mutant(
        "a zombie decides in a closed epoch",
        CELLS,
        "or not self._may_be_decided(record.gid):",
        "or False:",
    ),
    mutant(
        "a no vote is swallowed",
        TABLE,
        "(S.VOTING, E.VOTED_NO): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES)",
        "(S.VOTING, E.VOTED_NO): Transition(S.DECIDING, A.SUBMIT)",
    ),
    mutant(
        "the tag of prepare is not looked at",
        OWNER,
        'tag == "PREPARE TRANSACTION" for tag in tags',
        'tag is not SILENT and tag != "ERROR" for tag in tags',
    ),
    mutant(
        "commit without a cell",
        TABLE,
        "(S.VOTING, E.VOTED_YES): Transition(S.DECIDING, A.SUBMIT)",
        "(S.VOTING, E.VOTED_YES): Transition(S.COMMITTING, A.COMMIT_BRANCHES)",
    ),
    mutant(
        "recovery by elapsed time",
        TABLE,
        "(C.FOUND, F.EPOCH_OPEN): Move(C.LEFT, T.NOTHING)",
        "(C.FOUND, F.EPOCH_OPEN): Move(C.ROLLING_BACK, T.ROLL_BACK)",
    ),
    mutant(
        "the owner rolls back when the log is silent",
        TABLE,
        "(S.DECIDING, E.LOG_SILENT): Transition(S.IN_DOUBT, A.LEAVE)",
        "(S.DECIDING, E.LOG_SILENT): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES)",
    ),
    mutant(
        "the owner rolls back when the last resource is silent",
        TABLE,
        "(S.DELEGATED, E.RESOURCE_SILENT): Transition(S.IN_DOUBT, A.LEAVE)",
        "(S.DELEGATED, E.RESOURCE_SILENT): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES)",
    ),
    mutant(
        "a recoverer commits when the log is silent",
        TABLE,
        "(C.FOUND, F.LOG_SILENT): Move(C.LEFT, T.NOTHING)",
        "(C.FOUND, F.LOG_SILENT): Move(C.COMMITTING, T.COMMIT)",
    ),
    mutant(
        "who only read is let go before the decision",
        OWNER,
        "                return Event.VOTED_YES if is_unanimous(tags)",
        '                yield [Call(self.guard, "let_go", (gid,))] if self.guard else []\n'
        "                return Event.VOTED_YES if is_unanimous(tags)",
    ),
    mutant(
        "all prepared is taken for commit",
        CELLS,
        "return Verdict.ABORT if gid.epoch < self.epoch else Verdict.FOREIGN",
        "return Verdict.COMMIT if gid.epoch < self.epoch else Verdict.FOREIGN",
    ),
    mutant(
        "the owner commits what the log aborted",
        TABLE,
        "(S.DECIDING, E.CELL_ABORT): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES)",
        "(S.DECIDING, E.CELL_ABORT): Transition(S.COMMITTING, A.COMMIT_BRANCHES)",
    ),
    mutant(
        "forgotten before it is applied",
        TABLE,
        "(S.COMMITTING, E.BRANCH_LOST): Transition(S.COMMITTING, A.LEAVE)",
        "(S.COMMITTING, E.BRANCH_LOST): Transition(S.COMMITTED, A.NOTE_APPLIED)",
    ),
    mutant(
        "no marker is taken for a refusal without writing one",
        RECOVERER,
        "yield [Call(LAST, \"marker\", (gid, not is_open))]\n        if said is False:",
        "yield [Call(LAST, \"marker\", (gid, False))]\n        if not said:",
    ),
    mutant(
        "the last resource does not look at its marker",
        SERVERS,
        'if gid in self.refused or self.states.get(gid) != "active":',
        'if self.states.get(gid) != "active":',
    ),
    mutant(
        "absent is taken for done",
        TABLE,
        "(C.COMMITTING, F.ABSENT): Move(C.PROVING, T.PROVE)",
        "(C.COMMITTING, F.ABSENT): Move(C.DONE, T.NOTE_APPLIED)",
    ),
    mutant(
        "an epoch is not closed by the next",
        CELLS,
        "return gid.epoch == self.epoch",
        "return gid.epoch <= self.epoch",
    ),
    mutant(
        "a cell that says abort is overwritten",
        CELLS,
        "if record.gid in self._aborted or not",
        "if not",
    ),
    mutant(
        "a forgotten commit is presumed aborted",
        CELLS,
        "if self.forgotten.may_hold(gid.epoch, gid.sequence):",
        "if False:",
    ),
    mutant(
        "one key commits twice",
        CELLS,
        "if holder is not None:\n            return Verdict.COMMIT, holder",
        "if False:\n            return Verdict.COMMIT, record.gid",
    ),
)  # fmt: skip
