"""The actions that led a server from what is known of it to what it is seen to be: those of a leader, of a follower,
and those of an election, each in the one order in which Raft can take them.

An append that changes nothing leaves no step behind, yet its acknowledgement counts for the leader's quorum. Such
appends are supposed to have arrived whenever a follower durably held the same as its leader: the specification
allows them at any time, so nothing that it forbids is excused by that.
"""

from troth.verify.specification import actions
from troth.verify.specification.known import Known, NotAllowed
from troth.verify.specification.state import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    NOBODY,
    Ack,
    Config,
    Entry,
    Log,
    Request,
    State,
    agreeing,
)
from troth.verify.specification.trace import Step


class Explaining(Known):
    """Takes actions of one server until it is what a step says."""

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


def _continues(log: Log, behind: Log) -> bool:
    return len(log) >= len(behind) and log[: len(behind)] == behind
