"""Known bugs of other systems, put back into the core one at a time.

Each is a replacement of source text that must occur exactly once, so that a mutant can not silently become none. They
are kept out of the package: `trial.py` loads the changed text in place of the module.
"""

from dataclasses import dataclass

RAFT = "src/troth/core/raft/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pitfall:
    """One bug: what it is, where it was met, and the text that makes it."""

    name: str
    found: str
    file: str
    old: str
    new: str


_FIRST = {
    "changes": ("paper/test_raft_membership",),
    "elections": (
        "paper/test_raft_elections",
        "paper/test_raft_prevote",
        "paper/test_raft_membership",
        "paper/test_raft_reads",
    ),
    "log": ("paper/test_raft_replication", "paper/test_raft_membership"),
    "node": (
        "unit/core/test_raft_node",
        "paper/test_raft_elections",
        "paper/test_raft_prevote",
        "paper/test_raft_membership",
    ),
    "progress": ("paper/test_raft_replication",),
    "reads": ("paper/test_raft_reads",),
    "replication": ("paper/test_raft_replication", "paper/test_raft_membership"),
    "snapshots": ("paper/test_raft_membership",),
    "state": ("paper/test_raft_replication", "paper/test_raft_membership", "paper/test_raft_elections"),
    "../config": ("paper/test_raft_elections",),
    "../membership": ("paper/test_raft_membership",),
    "../quorum": ("unit/core/test_quorum", "paper/test_raft_reads", "paper/test_raft_elections"),
    "../leading/engine": ("paper/test_raft_replication", "unit/core/test_raft_node", "paper/test_raft_prevote"),
    "../leading/flight": ("unit/core/test_progress", "paper/test_raft_replication"),
    "../leading/leadership": ("paper/test_raft_prevote", "unit/core/test_raft_node", "paper/test_raft_membership"),
    "../leading/rounds": ("paper/test_raft_reads",),
    "../leading/server": ("paper/test_raft_elections", "unit/core/test_raft_node", "paper/test_raft_reads"),
}
"""Which tests are tried first for a bug in a file: all the others take longer and find it too, or not."""


def first_tests(pitfall: Pitfall) -> tuple[str, ...]:
    """The tests that are most likely to see a bug of Raft."""
    return tuple(f"tests/{name}.py" for name in _FIRST.get(pitfall.file, ()))


PITFALLS = (
    Pitfall(
        name="commit an earlier term's entry by counting replicas",
        found="logcabin#44; Raft figure 8",
        file="replication",
        old="if index <= self._commit_index or self._log.term_at(index) != self._term:",
        new="if index <= self._commit_index:",
    ),
    Pitfall(
        name="the vote leaves before it is durable",
        found="PySyncObj#84",
        file="elections",
        old="self._send_durable(sender, VoteReply(self._term, granted))",
        new="self._send(sender, VoteReply(self._term, granted))",
    ),
    Pitfall(
        name="the request for votes leaves before the own vote is durable",
        found="tikv#1610",
        file="elections",
        old="self._send_durable(peer, RequestVote(self._term, self._log.last, transfer))",
        new="self._send(peer, RequestVote(self._term, self._log.last, transfer))",
    ),
    Pitfall(
        name="the hard state is not written when only the vote has changed",
        found="hashicorp/raft#661",
        file="node",
        old="changed = self._term != saved.term or self._voted_for != saved.voted_for",
        new="changed = self._term != saved.term",
    ),
    Pitfall(
        name="a restart forgets the vote",
        found="PySyncObj#84",
        file="state",
        old="self._voted_for = hard_state.voted_for",
        new="self._voted_for = NodeId(0)",
    ),
    Pitfall(
        name="the acknowledgement leaves before the entries are durable",
        found="openraft io_ordering.md",
        file="replication",
        old="self._send_durable(sender, AppendReply(self._term, covered))",
        new="self._send(sender, AppendReply(self._term, covered))",
    ),
    Pitfall(
        name="truncate on any append with an older previous index",
        found="async-raft 9540c904; CCF#5991",
        file="replication",
        old="            if here == entry.term:\n                continue",
        new="            if here == entry.term and entry.index == self._log.last_index:\n                continue",
    ),
    Pitfall(
        name="what is compacted counts as a conflict",
        found="openraft#511; redisraft#49",
        file="replication",
        old="if prev_index < self._commit_index:",
        new="if False:",
    ),
    Pitfall(
        name="acknowledge the own last index",
        found="CCF#6001; ratis PR#1519",
        file="replication",
        old="self._send_durable(sender, AppendReply(self._term, covered))",
        new="self._send_durable(sender, AppendReply(self._term, self._log.last_index))",
    ),
    Pitfall(
        name="commit up to the own last index on an append",
        found="scylla#9965; etcd raft PR#139",
        file="replication",
        old="index = min(message.commit, covered)",
        new="index = min(message.commit, self._log.last_index)",
    ),
    Pitfall(
        name="commit up to the own last index on a heartbeat",
        found="ra PR#508; nebula PR#681",
        file="replication",
        old="if message.commit.index > self._commit_index and self._log.holds(message.commit):",
        new="if self._commit_index < message.commit.index <= self._log.last_index:",
    ),
    Pitfall(
        name="answers of an older term count",
        found="openraft cecb5de8; CCF#5927",
        file="node",
        old="                case _:\n                    pass\n            return False",
        new="                case _:\n                    return True\n            return False",
    ),
    Pitfall(
        name="the leader acknowledges its own entries before they are durable",
        found="etcd#14370",
        file="node",
        old="self._send_durable(self.node_id, AppendReply(self._term, self._log.last_index))",
        new="self._on_append_reply(self._role, self.node_id, AppendReply(self._term, self._log.last_index))\n"
        "            self._maybe_commit(self._role)",
    ),
    Pitfall(
        name="read index before a commit in the own term",
        found="etcd#7331; tikv#9239",
        file="../leading/rounds",
        old="if not leader.new_reads or leader.unconfirmed or not self._knows_committed(leader):",
        new="if not leader.new_reads or leader.unconfirmed:",
    ),
    Pitfall(
        name="a late answer to an older round confirms a read",
        found="etcd#20418",
        file="../leading/rounds",
        old="PendingRead(origin=origin, context=context, index=self.commit_index, token=token)",
        new="PendingRead(origin=origin, context=context, index=self.commit_index, token=token - 1)",
    ),
    Pitfall(
        name="a read that came during a round shares it",
        found="etcd#20418",
        file="../leading/rounds",
        old="        leader.new_reads.append((origin, context))",
        new="        if leader.unconfirmed:\n"
        "            leader.unconfirmed.append(PendingRead(\n"
        "                origin=origin, context=context, index=self.commit_index,\n"
        "                token=leader.unconfirmed[0].token))\n"
        "            return\n"
        "        leader.new_reads.append((origin, context))",
    ),
    Pitfall(
        name="numbers of forwarded reads begin at 0 in every life",
        found="found here",
        file="../leading/server",
        old="self._read_number = rng.getrandbits(48)",
        new="self._read_number = 0",
    ),
    Pitfall(
        name="a read is answered without a quorum",
        found="d-engine#381; tikv#4680",
        file="reads",
        old="return joint_quorum_value(acked, membership.voters, membership.outgoing, 0)",
        new="return max(acked.values())",
    ),
    Pitfall(
        name="a lease goes on while leadership is offered",
        found="openraft 1ef3e574",
        file="../leading/rounds",
        old="            or leader.timeout_now_sent\n            or leader.transfer is not None\n",
        new="",
    ),
    Pitfall(
        name="a lease counts from the answer",
        found="tikv#964; sofa-jraft PR#26",
        file="../leading/rounds",
        old="leader.lease_start = leader.rounds.popleft()[1]",
        new="leader.rounds.popleft()\n            leader.lease_start = self._now",
    ),
    Pitfall(
        name="a lease lasts as long as the followers' patience, and longer",
        found="etcd#6005; nebula#2723",
        file="../config",
        old="return self.election_timeout_ticks * (100 - self.clock_drift_percent) // 100 - 1",
        new="return self.election_timeout_ticks * (100 + self.clock_drift_percent) // 100",
    ),
    Pitfall(
        name="a vote of the present term ignores the lease",
        found="found here",
        file="elections",
        old="            and (message.transfer or self._voted_for == sender or not self._guards_lease())\n",
        new="",
    ),
    Pitfall(
        name="a restarted voter forgets that it confirmed a lease",
        found="found here",
        file="../leading/server",
        old="self._leader_contact: Tick | None = now if config.lease_reads else None",
        new="self._leader_contact: Tick | None = None",
    ),
    Pitfall(
        name="a change before a commit in the own term",
        found="Ongaro 2015; braft#182",
        file="../leading/leadership",
        old="        if not self._knows_committed(leader):\n"
        "            return Refused(RefusalReason.NOT_READY, self.node_id)\n",
        new="",
    ),
    Pitfall(
        name="a change while another is not committed",
        found="copycat#23",
        file="changes",
        old="return self._memberships.index > self._commit_index or self._membership.is_joint",
        new="return False",
    ),
    Pitfall(
        name="a change of voters in one step",
        found="Raft §6, figure 10",
        file="../membership",
        old="outgoing = current.voters if joint else ()",
        new="outgoing = ()",
    ),
    Pitfall(
        name="memberships of overwritten entries survive a snapshot",
        found="openraft#1808",
        file="snapshots",
        old="        self._memberships.reset(meta.membership, meta.last.index)\n",
        new="",
    ),
    Pitfall(
        name="a truncated membership stays in force",
        found="openraft 6c0ccaf3; PySyncObj#133",
        file="replication",
        old="            self._memberships.on_truncate(index)\n",
        new="",
    ),
    Pitfall(
        name="a restart ignores memberships in the log",
        found="openraft 6c0ccaf3",
        file="state",
        old="MembershipLog(snapshot.membership, snapshot.last.index, entries)",
        new="MembershipLog(snapshot.membership, snapshot.last.index, ())",
    ),
    Pitfall(
        name="a majority is one too few with an even number of voters",
        found="openraft d60f1e85, a10d9906",
        file="../quorum",
        old="return count // 2 + 1",
        new="return (count + 1) // 2",
    ),
    Pitfall(
        name="commit when the second highest of five holds it",
        found="openraft#1802",
        file="../quorum",
        old="return descending[len(voters) // 2 if size is None else size - 1]",
        new="return descending[min(1, len(descending) - 1) if size is None else size - 1]",
    ),
    Pitfall(
        name="the outgoing set does not decide",
        found="Raft §6",
        file="../quorum",
        old="return min(value, quorum_value(held, outgoing, zero)) if outgoing else value",
        new="return value",
    ),
    Pitfall(
        name="elections ask the new set only",
        found="Raft §6",
        file="../quorum",
        old="combined((vote_result(voters, votes), vote_result(outgoing, votes)))",
        new="combined((vote_result(voters, votes),))",
    ),
    Pitfall(
        name="votes of everybody count",
        found="openraft#1802",
        file="../quorum",
        old="    for voter in voters:\n        vote = votes.get(voter)\n        if vote is True:",
        new="    for vote in votes.values():\n        if vote is True:",
    ),
    Pitfall(
        name="who thinks itself no voter does not vote",
        found="etcd PR#10998",
        file="elections",
        old="        granted = (\n            self._may_vote\n            and (message.transfer",
        new="        granted = (\n            self._may_vote\n            and self._membership.is_voter(self.node_id)\n"
        "            and (message.transfer",
    ),
    Pitfall(
        name="a leader that is removing itself does not stand again",
        found="etcd#12359; found here",
        file="elections",
        old="membership.is_voter(self.node_id) for membership in self._memberships.since(self._commit_index)",
        new="membership.is_voter(self.node_id) for membership in (self._membership,)",
    ),
    Pitfall(
        name="a restarted server forgets the memberships between the oldest and the newest",
        found="found here (seed 10269)",
        file="elections",
        old="self._memberships.since(self._commit_index)",
        new="(self._membership, self._memberships.at(self._commit_index))",
    ),
    Pitfall(
        name="a joint membership is never left",
        found="etcd#12359",
        file="node",
        old="            self._maybe_leave_joint(leader)\n",
        new="",
    ),
    Pitfall(
        name="a pre-vote of an older term is not answered",
        found="etcd#8243; openraft#1796",
        file="node",
        old="                case PreVote():\n"
        "                    self._send_durable(sender, PreVoteReply(self._term, False))\n",
        new="                case PreVote():\n                    pass\n",
    ),
    Pitfall(
        name="a leader of an older term is not told",
        found="etcd#8501",
        file="node",
        old="                    self._tell_term(sender)\n",
        new="                    pass\n",
    ),
    Pitfall(
        name="granting a pre-vote counts as hearing a leader",
        found="hashicorp#609",
        file="elections",
        old="        self._send_durable(sender, PreVoteReply(message.term if granted else self._term, granted))",
        new="        if granted:\n            self._leader_contact = self._now\n"
        "        self._send_durable(sender, PreVoteReply(message.term if granted else self._term, granted))",
    ),
    Pitfall(
        name="pre-vote without check-quorum",
        found="etcd PR#8334, #10355",
        file="../leading/leadership",
        old="        if not self._hears_quorum(leader):\n",
        new="        if False:\n",
    ),
    Pitfall(
        name="check-quorum without disregarding disruptive candidates",
        found="etcd#9241; hashicorp#524",
        file="node",
        old="case RequestVote() if self._hears_leader() and not message.transfer:",
        new="case RequestVote() if False:",
    ),
    Pitfall(
        name="a snapshot keeps the divergent suffix of the log",
        found="hashicorp#697; openraft PR#753",
        file="snapshots",
        old="if self._log.holds(meta.last):",
        new="if self._log.last_index >= meta.last.index:",
    ),
    Pitfall(
        name="an old snapshot takes the state back",
        found="openraft eed681d5; tikv#12470",
        file="snapshots",
        old="        if meta.last.index <= self._commit_index:\n",
        new="        if False:\n",
    ),
    Pitfall(
        name="with everything compacted the leader probes nobody",
        found="openraft afd6508b; hashicorp#212",
        file="replication",
        old="(progress.next <= self._log.last_index or progress.mode is Mode.PROBE)",
        new="progress.next <= self._log.last_index",
    ),
    Pitfall(
        name="a follower that has just started does not believe a heartbeat",
        found="etcd#14143; found here",
        file="replication",
        old="if message.commit.index > self._commit_index and self._log.holds(message.commit):",
        new="if False:",
    ),
    Pitfall(
        name="entries are accepted while leadership is offered",
        found="hashicorp PR#487, openraft#1747",
        file="../leading/engine",
        old="        if leader.transfer is not None:\n"
        "            return Refused(RefusalReason.TRANSFERRING, leader.transfer.target)\n",
        new="",
    ),
    Pitfall(
        name="a transfer is never given up",
        found="hashicorp PR#581; redpanda#2606",
        file="../leading/leadership",
        old="            leader.transfer = None\n",
        new="            pass\n",
    ),
    Pitfall(
        name="the target is told to stand before it has everything",
        found="openraft#1805, #2088",
        file="../leading/leadership",
        old="if progress is not None and progress.match == self._last_proposed(leader):",
        new="if True:",
    ),
    Pitfall(
        name="a leader whose disk hangs goes on",
        found="hashicorp#503; consul#22064",
        file="../leading/leadership",
        old="elif self._now - leader.own_disk_seen >= config.disk_timeout_ticks:",
        new="elif False:",
    ),
    Pitfall(
        name="a follower in flight is not bounded",
        found="openraft#1810",
        file="../leading/flight",
        old="return len(self.in_flight) < self.window and self.bytes_in_flight < BYTES_IN_FLIGHT_MAX",
        new="return True",
    ),
    Pitfall(
        name="an entry over the size limit leaves a gap",
        found="logcabin#160",
        file="log",
        old="            if found and total > bytes_max:\n                break\n",
        new="            if total > bytes_max:\n                continue\n",
    ),
    Pitfall(
        name="what was delivered is delivered again",
        found="akka-raft#64",
        file="replication",
        old="        self._delivered_index = entries[-1].index\n",
        new="        self._delivered_index = LogIndex(entries[-1].index - (len(entries) > 2))\n",
    ),
    Pitfall(
        name="a follower that was cut off never stands again",
        found="tikv#16429",
        file="../leading/leadership",
        old='        self._reset_candidate_timer()\n        self._trace("pre_candidate", term=self.term)\n',
        new='        self._election_deadline = Tick(1 << 60)\n        self._trace("pre_candidate", term=self.term)\n',
    ),
    Pitfall(
        name="a server that lost a part of its log votes",
        found="openraft FAQ; yugabyte#23453",
        file="../leading/server",
        old="self._may_vote = may_vote",
        new="self._may_vote = True",
    ),
    Pitfall(
        name="a follower that lost a part of its log is believed for ever",
        found="found here",
        file="replication",
        old="if 0 < message.rejected == progress.match:",
        new="if False:",
    ),
    Pitfall(
        name="a vote counts as often as it arrives",
        found="PySyncObj votesCount",
        file="node",
        old="                    role.votes[sender] = message.granted or role.votes.get(sender, False)\n",
        new="                    who = NodeId(len(role.votes) + 1) if sender in role.votes else sender\n"
        "                    role.votes[who] = message.granted\n",
    ),
    Pitfall(
        name="a repeated request of the same candidate is refused",
        found="nebula PR#2419",
        file="elections",
        old="(self._voted_for == sender or (self._voted_for == NOBODY and not self._leader_id))",
        new="(self._voted_for == NOBODY and not self._leader_id)",
    ),
    Pitfall(
        name="a shorter log wins the vote",
        found="Raft §5.4.1",
        file="elections",
        old="return last >= self._log.last",
        new="return last.term >= self._log.last.term",
    ),
    Pitfall(
        name="a second vote in the same term",
        found="Raft §5.2",
        file="elections",
        old="(self._voted_for == sender or (self._voted_for == NOBODY and not self._leader_id))",
        new="not self._leader_id",
    ),
    Pitfall(
        name="a removed leader leads on",
        found="Raft §6",
        file="node",
        old="            if self._removed():\n",
        new="            if False:\n",
    ),
    Pitfall(
        name="a leader counts itself though it is leaving",
        found="Raft §6; thesis §4.2.2",
        file="replication",
        old="index = joint_quorum_value(self._stored(leader), membership.voters, membership.outgoing, LogIndex(0))",
        new="voters = tuple({*membership.voters, self.node_id})\n"
        "        index = joint_quorum_value(self._stored(leader), voters, membership.outgoing, LogIndex(0))",
    ),
)


def changed_source(pitfall: Pitfall, source: str) -> str:
    """The module with the bug in it.

    Raises:
        ValueError: the text to replace is not there exactly once; the mutant must be written anew.
    """
    if source.count(pitfall.old) != 1:
        raise ValueError(f"{pitfall.name}: {source.count(pitfall.old)} places to change in {pitfall.file}.py")
    return source.replace(pitfall.old, pitfall.new)


def path_of(pitfall: Pitfall) -> str:
    """The file that the bug goes into."""
    parent = pitfall.file.startswith("../")
    return f"src/troth/core/{pitfall.file[3:]}.py" if parent else f"{RAFT}{pitfall.file}.py"
