"""Whether the specification allows what a real cluster was seen to do.

A recorded step of a real server may be several actions of the specification (an append that brings a new term, ten
entries and a commit index), so each is explained: the actions that could have led from what is known to what was seen
are tried in the one order in which Raft can take them. The first step that no such sequence explains is refused, with
the reason in words. What must hold everywhere (properties.py) is checked where a step could break it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from troth.errors import DecodeError
from troth.verify.specification import actions
from troth.verify.specification.explaining import Explaining
from troth.verify.specification.explore import forgotten
from troth.verify.specification.known import NotAllowed
from troth.verify.specification.state import (
    LEADER,
    NOBODY,
    Committed,
    Log,
    Server,
    Stable,
    agreeing,
)
from troth.verify.specification.trace import Step

FORGET_EVERY: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The first step that the specification does not allow. `number` counts the steps of the trace from 1."""

    number: int
    step: Step
    reason: str

    def text(self) -> str:
        """One sentence for people."""
        return f"step {self.number} is not allowed: {self.step.words()}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformance:
    """The verdict on a trace."""

    steps: int
    actions: dict[str, int]
    """How often each action of the specification was needed to explain it."""
    committed: int
    refusal: Refusal | None = None


def check_trace(steps: Iterable[Step], *, voters: Collection[int]) -> Conformance:
    """Check the trace of a cluster that began empty, with *voters* deciding."""
    checker = TraceChecker(voters=voters)
    refusal: Refusal | None = None
    for step in steps:
        refusal = checker.take(step)
        if refusal is not None:
            break
    return Conformance(
        steps=checker.steps,
        actions=dict(sorted(checker.counts.items())),
        committed=len(checker.state.committed),
        refusal=refusal,
    )


class TraceChecker(Explaining):
    """Follows a cluster step by step."""

    def __init__(self, *, voters: Collection[int]) -> None:
        super().__init__(voters=voters)
        self._booted: set[int] = set()
        self._reach: dict[int, int] = {}

    def take(self, step: Step) -> Refusal | None:
        """The next step of the trace; what is wrong with it, or None.

        Raises:
            DecodeError: it is not a step of this format.
        """
        self.steps += 1
        node = self._number(step.node)
        self._number(step.voted_for)
        self._new = self._entries(step)
        self._at = self.state
        try:
            match step.event:
                case "boot":
                    self._boot(node, step)
                case "durable":
                    self._durable(node, step)
                case "change":
                    self._change(node, step)
        except NotAllowed as refused:
            return Refusal(number=self.steps, step=step, reason=str(refused))
        self.state = self._at
        if self.steps % FORGET_EVERY == 0:
            # Reigns are kept: a disk may hold on to what a leader of long ago had sent.
            self.state = self.state._replace(sent=forgotten(self.state).sent)
        return None

    # ---- explaining ---------------------------------------------------------------------------------------

    def _boot(self, node: int, step: Step) -> None:
        term, index = step.snapshot or (0, 0)
        log = self._prefix(node, term, index) + self._placed(index)
        if node not in self._booted:
            self._booted.add(node)
            if step.term or log:
                raise NotAllowed("it starts with a past that this trace does not know")
            return
        server = self._at.server(node)
        stable = server.stable
        if step.term == stable.term and stable.voted_for not in (NOBODY, self._number(step.voted_for)):
            raise NotAllowed(f"its vote for {self._name(stable.voted_for)} was durable, and it has forgotten it")
        if log[: stable.length] != server.log[: stable.length]:
            raise NotAllowed(f"{stable.length} entries were durable, of which it has {agreeing(log, server.log)}")
        after = actions.restart(
            self._at,
            node,
            term=step.term,
            voted_for=self._number(step.voted_for),
            log=log,
            commit=step.commit,
        )
        self._must("restart", after, "a disk could not hold this after what was written to it")

    def _durable(self, node: int, step: Step) -> None:
        server = self._at.server(node)
        old = server.stable
        if not old.term <= step.term <= server.term:
            raise NotAllowed(
                f"term {step.term} is durable; before it was {old.term}, in memory it is {server.term}"
            )
        vote = self._number(step.voted_for)
        if step.term == old.term and old.voted_for and vote != old.voted_for:
            raise NotAllowed(f"its vote in term {step.term} for {self._name(old.voted_for)} was overwritten")
        count = old.length
        term, index = step.stored or (0, 0)
        log = server.log
        if index <= len(log) and (index == 0 or log[index - 1].term == term):
            count = max(count, index)
        self._do("persist", actions.persist(self._at, node, Stable(step.term, vote, count)))

    def _change(self, node: int, step: Step) -> None:
        server = self._at.server(node)
        if step.term < server.term:
            raise NotAllowed(f"its term falls from {server.term}")
        if step.commit < server.commit:
            raise NotAllowed(f"its commit index falls from {server.commit}")
        log = self._target(node, step)
        kept = agreeing(log, server.log)
        if kept < server.commit:
            raise NotAllowed(f"it drops index {kept + 1}, which it knew to be committed")
        if step.term != server.term or kept < len(server.log):
            self._probe(node)
        if server.role == LEADER:
            self._lead(node, log, step.commit)
        self._follow(node, step, log)
        self._stand_or_learn(node, step)
        self._vote(node, step)
        if step.role == LEADER:
            if self._at.server(node).role != LEADER:
                self._become_leader(node)
            self._lead(node, log, step.commit)
        self._compare(node, step, log)

    def _target(self, node: int, step: Step) -> Log:
        """The log that *step* says this server has now."""
        server = self._at.server(node)
        log = server.log
        if step.snapshot is not None:
            log = self._prefix(node, *step.snapshot)
        if step.log is None:
            return log
        first = step.log.first
        if not 1 <= first <= len(log) + 1:
            raise DecodeError(f"step {self.steps} changes the log from index {first}, which leaves a gap")
        makes = {server.term} if server.role == LEADER else set()
        if step.role == LEADER:
            makes.add(step.term)
        return log[: first - 1] + self._placed(first - 1, node, makes)

    # ---- what is left -------------------------------------------------------------------------------------

    def _compare(self, node: int, step: Step, log: Log) -> None:
        server = self._at.server(node)
        if server.log != log:
            raise NotAllowed(self._why_log(server, log, step))
        if server.commit != step.commit:
            raise NotAllowed(self._why_commit(node, server, step))
        if (server.term, server.role) != (step.term, step.role):
            raise NotAllowed(f"nothing makes it {step.role} of term {step.term}; it would be {server.role} there")
        agreed = self._at.committed
        known = min(server.commit, len(agreed))
        if server.log[self._checked(node, known) : known] != _entries_of(
            agreed[self._checked(node, known) : known]
        ):
            raise NotAllowed("it takes another entry for committed than was agreed")
        self._reach[node] = known

    def _checked(self, node: int, known: int) -> int:
        """Up to where this server's committed entries were compared already."""
        return min(self._reach.get(node, 0), known)

    def _why_log(self, server: Server, log: Log, step: Step) -> str:
        same = agreeing(server.log, log)
        where = f"from index {same + 1} on its log"
        if len(log) == same:
            return f"{where} is truncated, and nothing that conflicts with it came"
        strange = next((at for at, entry in enumerate(log) if entry.leader == NOBODY), None)
        if strange is not None and step.role != LEADER:
            return f"index {strange + 1} of term {log[strange].term} is not what a leader of that term made"
        if step.role == LEADER:
            return f"{where} is rewritten by a leader, or holds what is not of its own term"
        return f"{where} is not that of any leader from term {server.term} to {step.term}"

    def _why_commit(self, node: int, server: Server, step: Step) -> str:
        index = step.commit
        if index > len(server.log):
            return f"it commits index {index}, beyond its log"
        if step.role != LEADER:
            return f"it takes index {index} for committed, which no leader that it may have heard of knew"
        entry = server.log[index - 1]
        if entry.term != server.term:
            return f"it commits index {index} of term {entry.term} while it leads term {server.term} (§5.4.2)"
        holders = sorted(map(self._name, actions.holders_of(self._at, node, index)))
        return f"it commits index {index}, which only {', '.join(holders) or 'nobody'} durably holds"


def _entries_of(committed: tuple[Committed, ...]) -> Log:
    return tuple(each.entry for each in committed)
