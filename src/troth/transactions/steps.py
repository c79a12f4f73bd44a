"""The points of a transaction and of a recovery at which a test may stop the process.

``TwoPhaseCommit(..., on_step=function)`` calls ``function(name)`` at each of them, in the thread that does the work.
What a crash at each point leaves behind is what tests/integration/test_twophase_* are about.
"""

from collections.abc import Callable
from typing import Final

OnStep = Callable[[str], None]

COMMIT_STEPS: Final = (
    "begun",
    "branch_opened",
    "before_prepare",
    "between_prepares",
    "after_first_prepare",
    "after_prepares",
    "before_decision",
    "decision_written",
    "after_decision",
    "between_commits",
    "after_first_commit",
    "after_commits",
    "before_note_applied",
    "after_note_applied",
)
"""In order. between_*: the first branch has been sent its statement, the others have not. decision_written: the record
is in the file and not yet synced (embedded log only). after_decision: the decision is durable, nobody was told."""

LAST_RESOURCE_STEPS: Final = ("before_last_resource", "after_last_resource")
"""Around the commit of the database that cannot prepare; between after_decision and between_commits."""

RECOVERY_STEPS: Final = ("epoch_closed", "fenced", "before_resolve", "after_first_resolve", "resolved")
"""epoch_closed: the dead coordinator may not decide any more; fenced: its sessions are ended."""

STEPS: Final = COMMIT_STEPS + LAST_RESOURCE_STEPS + RECOVERY_STEPS


def nothing(name: str) -> None:
    """What happens at each step in production."""
