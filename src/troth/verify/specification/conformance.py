"""Whether the specification allows what a real cluster was seen to do.

A recorded step of a real server may be several actions of the specification (an append that brings a new term, ten
entries and a commit index), so each is explained: the actions that could have led from what is known to what was seen
are tried in the one order in which Raft can take them. The first step that no such sequence explains is refused, with
the reason in words. What must hold everywhere (properties.py) is checked where a step could break it.

An append that changes nothing leaves no step behind, yet its acknowledgement counts for the leader's quorum. Such
appends are supposed to have arrived whenever a follower durably held the same as its leader: the specification
allows them at any time, so nothing that it forbids is excused by that.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from troth.errors import DecodeError
from troth.verify.specification import actions
from troth.verify.specification.explore import forgotten
from troth.verify.specification.known import Known, NotAllowed
from troth.verify.specification.state import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    NOBODY,
    Ack,
    Committed,
    Config,
    Entry,
    Log,
    Request,
    Server,
    Stable,
    State,
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


class TraceChecker(Known):
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

    # ---- a leader -----------------------------------------------------------------------------------------

    def _lead(self, node: int, log: Log, commit: int) -> None:
        """What this server did as the leader of its present term: commit, append, commit."""
        server = self._at.server(node)
        had = len(server.log)
        self._advance(node, commit)
        if not _continues(log, server.log):
            return  # a leader never rewrites its log: `_follow` explains it, or refuses
        for entry in log[had:]:
            if entry.term != server.term:
                return
            self._append(node, entry)
            self._advance(node, commit)

    def _append(self, node: int, entry: Entry) -> None:
        value = entry.value
        if not isinstance(value, Config):
            self._must("append", actions.append(self._at, node, value), "it appends without leading")
        elif value.outgoing:
            self._must(
                "begin_change",
                actions.begin_change(self._at, node, value.voters),
                "it begins a membership change while the last is unfinished, or before it has committed in its term",
            )
        elif self._at.config_of(self._at.server(node).log).outgoing:
            self._must(
                "leave_joint",
                actions.leave_joint(self._at, node),
                "it leaves the joint membership before that has committed",
            )
        else:
            # Learners and addresses may change without it, nobody's vote.
            self._must(
                "append", actions.append(self._at, node, value), "it changes the voters without a joint membership"
            )

    def _advance(self, node: int, commit: int) -> None:
        server = self._at.server(node)
        if server.role != LEADER or not server.commit < commit <= len(server.log):
            return
        if self._do("advance_commit", actions.advance_commit(self._at, node, commit)):
            return
        for other in range(1, len(self._at.servers) + 1):
            self._probe(other)
        self._do("advance_commit", actions.advance_commit(self._at, node, commit))

    def _probe(self, node: int) -> None:
        """An append that changed nothing may have come: see the module."""
        server = self._at.server(node)
        reign = self._at.reign(server.term)
        if server.role != FOLLOWER or reign is None:
            return
        same = agreeing(server.log, reign.log)
        ack = Ack(server.term, node, min(same, server.stable.length))
        if ack in self._at.sent or not ack.match:
            return
        after = actions.replicate(self._at, node, server.term, ack.match)
        if after is not None:
            self._at = actions.persist(after, node, server.stable)

    # ---- a follower ---------------------------------------------------------------------------------------

    def _follow(self, node: int, step: Step, log: Log) -> None:
        """Entries, snapshots and commit indexes that came from leaders of the present term up to the step's."""
        server = self._at.server(node)
        own = step.role == LEADER
        wanted = log
        if own:
            # What it has of its own term it appended itself, after its election.
            wanted = (
                tuple(entry for entry in log if entry.term < step.term) if step.term > server.term else server.log
            )
        commit = server.commit if own else step.commit
        if own and step.term == server.term:
            return
        if wanted == server.log and commit <= server.commit:
            return
        for reign in self._at.reigns:
            if not server.term <= reign.term <= step.term or reign.leader == node:
                continue
            state = self._in_term(node, reign.term)
            if state is None:
                continue
            done: list[str] = []
            now = state.server(node)
            if step.snapshot is not None and wanted != now.log:
                state = actions.install_snapshot(state, node, reign.term, step.snapshot[1])
                done.append("install_snapshot")
            if state is not None and wanted != state.server(node).log:
                state = actions.replicate(state, node, reign.term, len(wanted))
                done.append("replicate")
            if state is None or state.server(node).log != wanted:
                continue
            if commit > state.server(node).commit:
                state = actions.learn_commit(state, node, reign.term, commit)
                done.append("learn_commit")
            if state is not None:
                self._at = state
                for name in done:
                    self.counts[name] = self.counts.get(name, 0) + 1
                return

    def _in_term(self, node: int, term: int) -> State | None:
        server = self._at.server(node)
        state: State | None = self._at
        if server.term < term:
            return actions.learn_term(self._at, node, term)
        if server.role == LEADER:
            state = actions.step_down(self._at, node)
        return state

    # ---- elections ----------------------------------------------------------------------------------------

    def _stand_or_learn(self, node: int, step: Step) -> None:
        server = self._at.server(node)
        stands = step.role in (CANDIDATE, LEADER) and self._number(step.voted_for) == node
        if step.term > server.term:
            before = step.term - 1 if stands else step.term
            if before > server.term:
                self._must(
                    "learn_term",
                    actions.learn_term(self._at, node, before),
                    f"nobody had durably reached term {before}, so nobody could have told it",
                )
            if stands:
                if self._at.server(node).role == LEADER:
                    self._do("step_down", actions.step_down(self._at, node))
                self._must("timeout", actions.timeout(self._at, node), "it stands without being a voter")
        elif server.role != step.role and step.role == FOLLOWER:
            self._do("step_down", actions.step_down(self._at, node))

    def _vote(self, node: int, step: Step) -> None:
        server = self._at.server(node)
        candidate = self._number(step.voted_for)
        if candidate == server.voted_for:
            return
        if server.voted_for != NOBODY:
            raise NotAllowed(
                f"it votes twice in term {step.term}: for {self._name(server.voted_for)}, then {self._name(candidate)}"
            )
        request = next(
            (
                said
                for said in self._at.sent
                if isinstance(said, Request) and said.term == server.term and said.candidate == candidate
            ),
            None,
        )
        if request is None:
            raise NotAllowed(f"{self._name(candidate)} has not durably stood in term {step.term}")
        last = f"term {request.last_term}, index {request.last_index}"
        self._must(
            "handle_vote_request",
            actions.handle_vote_request(self._at, node, request),
            f"it votes for {self._name(candidate)}, whose log ends with {last}: behind its own",
        )

    def _become_leader(self, node: int) -> None:
        server = self._at.server(node)
        votes = sorted(map(self._name, actions.votes_for(self._at, node)))
        other = self._at.reign(server.term)
        if other is not None and other.leader != node:
            raise NotAllowed(f"{self._name(other.leader)} leads term {server.term} already")
        self._must(
            "become_leader",
            actions.become_leader(self._at, node),
            f"it leads term {server.term} without the durable votes of a quorum (it has: {', '.join(votes) or 'none'})",
        )
        for at, committed in enumerate(self._at.committed):
            if committed.term < server.term and (len(server.log) <= at or server.log[at] != committed.entry):
                raise NotAllowed(f"it leads without index {at + 1}, committed in term {committed.term}")

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


def _continues(log: Log, behind: Log) -> bool:
    return len(log) >= len(behind) and log[: len(behind)] == behind


def _entries_of(committed: tuple[Committed, ...]) -> Log:
    return tuple(each.entry for each in committed)
