"""Known ways to lose atomicity, each put back by one change of a source text."""

from dataclasses import dataclass

TABLE = "src/troth/core/twophase/table.py"
CELLS = "src/troth/core/twophase/cells.py"
WORLD = "src/troth/simulate/twophase.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    path: str
    right: str
    wrong: str


MUTANTS = (
    Mutant(
        "pitfall_51_nobody_resolves_what_a_dead_coordinator_left",
        TABLE,
        "(C.FOUND, F.CELL_ABORT): Move(C.ROLLING_BACK, T.ROLL_BACK)",
        "(C.FOUND, F.CELL_ABORT): Move(C.LEFT, T.NOTHING)",
    ),
    Mutant(
        "pitfall_52_a_zombie_decides_in_a_closed_epoch",
        CELLS,
        "or found is None or not self.is_open(found[0]):",
        "or found is None:",
    ),
    Mutant(
        "a_no_vote_is_swallowed",
        TABLE,
        "(S.VOTING, E.VOTED_NO): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES)",
        "(S.VOTING, E.VOTED_NO): Transition(S.DECIDING, A.SUBMIT)",
    ),
    Mutant(
        "the_tag_of_prepare_is_not_looked_at",
        WORLD,
        'tag == "PREPARE TRANSACTION" for tag in tags',
        'tag is not SILENT and tag != "ERROR" for tag in tags',
    ),
    Mutant(
        "commit_without_a_cell",
        TABLE,
        "(S.VOTING, E.VOTED_YES): Transition(S.DECIDING, A.SUBMIT)",
        "(S.VOTING, E.VOTED_YES): Transition(S.COMMITTING, A.COMMIT_BRANCHES)",
    ),
    Mutant(
        "recovery_by_elapsed_time",
        TABLE,
        "(C.FOUND, F.EPOCH_OPEN): Move(C.LEFT, T.NOTHING)",
        "(C.FOUND, F.EPOCH_OPEN): Move(C.ROLLING_BACK, T.ROLL_BACK)",
    ),
    Mutant(
        "the_owner_rolls_back_when_the_log_is_silent",
        TABLE,
        "(S.DECIDING, E.LOG_SILENT): Transition(S.IN_DOUBT, A.LEAVE)",
        "(S.DECIDING, E.LOG_SILENT): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES)",
    ),
    Mutant(
        "the_owner_rolls_back_when_the_last_resource_is_silent",
        TABLE,
        "(S.DELEGATED, E.RESOURCE_SILENT): Transition(S.IN_DOUBT, A.LEAVE)",
        "(S.DELEGATED, E.RESOURCE_SILENT): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES)",
    ),
    Mutant(
        "a_recoverer_commits_when_the_log_is_silent",
        TABLE,
        "(C.FOUND, F.LOG_SILENT): Move(C.LEFT, T.NOTHING)",
        "(C.FOUND, F.LOG_SILENT): Move(C.COMMITTING, T.COMMIT)",
    ),
    Mutant(
        "all_prepared_is_taken_for_commit",
        CELLS,
        "return Verdict.ABORT if gid.epoch < self.epoch else Verdict.FOREIGN",
        "return Verdict.COMMIT if gid.epoch < self.epoch else Verdict.FOREIGN",
    ),
    Mutant(
        "the_owner_commits_what_the_log_aborted",
        TABLE,
        "(S.DECIDING, E.CELL_ABORT): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES)",
        "(S.DECIDING, E.CELL_ABORT): Transition(S.COMMITTING, A.COMMIT_BRANCHES)",
    ),
    Mutant(
        "forgotten_before_it_is_applied",
        TABLE,
        "(S.COMMITTING, E.BRANCH_LOST): Transition(S.COMMITTING, A.LEAVE)",
        "(S.COMMITTING, E.BRANCH_LOST): Transition(S.COMMITTED, A.FORGET)",
    ),
    Mutant(
        "no_marker_is_taken_for_a_refusal_without_writing_one",
        WORLD,
        "yield [Call(LAST, \"marker\", (gid, not is_open))]\n        if said is False:",
        "yield [Call(LAST, \"marker\", (gid, False))]\n        if not said:",
    ),
    Mutant(
        "the_last_resource_does_not_look_at_its_marker",
        WORLD,
        'if gid in self.refused or self.states.get(gid) != "active":',
        'if self.states.get(gid) != "active":',
    ),
    Mutant(
        "absent_is_taken_for_done",
        TABLE,
        "(C.COMMITTING, F.ABSENT): Move(C.PROVING, T.PROVE)",
        "(C.COMMITTING, F.ABSENT): Move(C.DONE, T.NOTE_APPLIED)",
    ),
    Mutant(
        "an_epoch_is_not_closed_by_the_next",
        CELLS,
        "return gid.epoch == self.epoch",
        "return gid.epoch <= self.epoch",
    ),
    Mutant(
        "a_cell_that_says_abort_is_overwritten",
        CELLS,
        "if record.gid in self._aborted or found",
        "if found",
    ),
    Mutant(
        "a_forgotten_commit_is_presumed_aborted",
        CELLS,
        "if self.forgotten.may_hold(gid.epoch, gid.sequence):",
        "if False:",
    ),
    Mutant(
        "one_key_commits_twice",
        CELLS,
        "if holder is not None:\n            return Verdict.COMMIT, holder",
        "if False:\n            return Verdict.COMMIT, record.gid",
    ),
)  # fmt: skip
