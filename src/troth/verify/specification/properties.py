"""What must hold in every state that the specification can reach (Raft, figure 3), and over every step."""

from collections.abc import Callable
from typing import Final

from troth.verify.specification.state import LEADER, Log, State, agreeing


def election_safety(state: State) -> str:
    """At most one leader a term."""
    terms = [reign.term for reign in state.reigns]
    twice = next((term for term in terms if terms.count(term) > 1), 0)
    if not twice:
        return ""
    return f"term {twice} has two leaders: {', '.join(f'n{r.leader}' for r in state.reigns if r.term == twice)}"


def log_matching(state: State) -> str:
    """Two logs that hold an entry of the same index and term are the same up to there."""
    logs = list(dict.fromkeys([*(server.log for server in state.servers), *(reign.log for reign in state.reigns)]))
    for at, one in enumerate(logs):
        for other in logs[at + 1 :]:
            same = agreeing(one, other)
            for index in range(same, min(len(one), len(other))):
                if one[index].term == other[index].term:
                    return f"two logs hold index {index + 1} of term {one[index].term} but differ before or there"
    return ""


def leader_completeness(state: State) -> str:
    """What was committed in a term is in the log of every leader of a later one."""
    for reign in state.reigns:
        for at, committed in enumerate(state.committed):
            if committed.term < reign.term and (len(reign.log) <= at or reign.log[at] != committed.entry):
                return (
                    f"n{reign.leader} leads term {reign.term} without index {at + 1}, "
                    f"which was committed in term {committed.term}"
                )
    return ""


def state_machine_safety(state: State) -> str:
    """What anybody knows to be committed at an index is the same for everybody."""
    agreed: Log = tuple(committed.entry for committed in state.committed)
    for node, server in enumerate(state.servers, start=1):
        if server.log[: server.commit] != agreed[: server.commit]:
            index = agreeing(server.log[: server.commit], agreed) + 1
            return f"n{node} takes another entry for committed at index {index} than was agreed"
    return ""


def leader_owns_its_term(state: State) -> str:
    """Whoever leads has started a reign, and its log is that of the reign (leader append-only)."""
    for node, server in enumerate(state.servers, start=1):
        if server.role == LEADER and not any(
            (reign.term, reign.leader, reign.log) == (server.term, node, server.log) for reign in state.reigns
        ):
            return f"n{node} leads term {server.term} with a log that is not its own"
    return ""


PROPERTIES: Final[dict[str, Callable[[State], str]]] = {
    "ElectionSafety": election_safety,
    "LogMatching": log_matching,
    "LeaderCompleteness": leader_completeness,
    "StateMachineSafety": state_machine_safety,
    "LeaderAppendOnly": leader_owns_its_term,
}
"""Each says what is wrong in a state, or nothing."""


def committed_stays(before: State, after: State) -> str:
    """Nobody drops from its log what it knew to be committed, and what was agreed stays agreed (over one step).

    A process that starts again may lack what it had not synced: others hold it.
    """
    if after.committed[: len(before.committed)] != before.committed:
        return "what was committed has changed"
    if after.restarts != before.restarts:
        return ""
    for node, (old, new) in enumerate(zip(before.servers, after.servers, strict=True), start=1):
        if new is not old and new.log[: old.commit] != old.log[: old.commit]:
            return f"n{node} has dropped index {agreeing(old.log[: old.commit], new.log) + 1}, which was committed"
    return ""
