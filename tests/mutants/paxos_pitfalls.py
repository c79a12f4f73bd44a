"""Known bugs of Paxos logs, put back into the core one at a time."""

from pitfalls import Pitfall

PAXOS = "src/troth/core/paxos/"

TESTS = (
    "tests/paper/test_paxos_ballots.py",
    "tests/paper/test_paxos_recovery.py",
    "tests/paper/test_paxos_slots.py",
    "tests/paper/test_paxos_reads.py",
    "tests/paper/test_paxos_membership.py",
    "tests/paper/test_paxos_thrifty.py",
    "tests/paper/test_paxos_edges.py",
    "tests/paper/test_paxos_turns.py",
    "tests/unit/core/test_paxos_node.py",
)


def pitfall(name: str, file: str, old: str, new: str, found: str = "") -> Pitfall:
    return Pitfall(
        name=name,
        found=found,
        file=f"src/troth/core/{file[3:]}.py" if file.startswith("../") else f"{PAXOS}{file}.py",
        old=old,
        new=new,
    )


PAXOS_PITFALLS = (
    pitfall(
        "a promise leaves out what is chosen here",
        "accepting",
        "slots, upto = self._slots.page(message.start, self._config.append_bytes_max)",
        "slots, upto = self._slots.page("
        "LogIndex(max(message.start, self._chosen_index + 1)), self._config.append_bytes_max)",
        "paxi HandleP1a",
    ),
    pitfall(
        "help is given to who lacks what is compacted away",
        "accepting",
        "and self._slots.compacted.index < start",
        "",
    ),
    pitfall(
        "another value passes for accepted in a chosen slot",
        "accepting",
        'invariant(held.entry == entry, "another value for a settled slot", index=entry.index)',
        "pass",
        "paxi HandleP2a",
    ),
    pitfall(
        "a chosen slot is overwritten",
        "accepting",
        "if entry.index > self._chosen_index and not self._slots.is_settled(entry.index, self._promised):",
        "if not self._slots.is_settled(entry.index, self._promised):",
    ),
    pitfall(
        "gaps of the window are left open",
        "preparing",
        "for index in range(self._chosen_index + 1, window_end + 1):",
        "for index in sorted(reports):",
        "paxi: TODO nil gap",
    ),
    pitfall(
        "delivery steps over gaps",
        "state",
        "while slots.is_settled(LogIndex(self._match + 1), ballot):",
        "while slots.is_settled(LogIndex(self._match + 1), ballot) or self._match + 1 < slots.last_index:",
    ),
    pitfall(
        "new values go in front of the window",
        "preparing",
        "window_end = max(reports, default=self._chosen_index)",
        "window_end = self._chosen_index",
    ),
    pitfall(
        "a promise leaves before it is durable",
        "accepting",
        "        self._send_durable(\n            sender,\n            Promise(",
        "        self._send(\n            sender,\n            Promise(",
        "paxi has no disk",
    ),
    pitfall(
        "an acceptance is told before it is durable",
        "accepting",
        "        self._send_durable(sender, reply)",
        "        self._send(sender, reply)",
        "paxi has no disk",
    ),
    pitfall(
        "a ballot is used before it is durable",
        "preparing",
        "self._send_durable(peer, Prepare(self._promised, candidate.asked[peer], candidate.transfer))",
        "self._send(peer, Prepare(self._promised, candidate.asked[peer], candidate.transfer))",
    ),
    pitfall(
        "a restart forgets the promise",
        "state",
        "self._promised = Ballot(hard_state.term, hard_state.voted_for)",
        "self._promised = Ballot(hard_state.term, NodeId(0))",
    ),
    pitfall(
        "the promise is not written when only its node has changed",
        "node",
        "if not slots and promise == self._saved_promise and self._out.install is None:",
        "if not slots and promise.round == self._saved_promise.round and self._out.install is None:",
    ),
    pitfall(
        "the leader's own acceptance counts before it is durable",
        "node",
        "self._send_durable(self.node_id, AcceptReply(promise, self._match))",
        "self._on_accept_reply(self._role, self.node_id, AcceptReply(promise, self._match))",
    ),
    pitfall(
        "the first value reported wins",
        "preparing",
        "if known is None or known.ballot < slot.ballot:",
        "if known is None:",
        "OCons PR#21",
    ),
    pitfall(
        "the last value reported wins",
        "preparing",
        "if known is None or known.ballot < slot.ballot:",
        "if True:",
        "OCons PR#21",
    ),
    pitfall(
        "values are compared by the round they were born in",
        "preparing",
        "if known is None or known.ballot < slot.ballot:",
        "if known is None or known.entry.term < slot.entry.term:",
    ),
    pitfall(
        "what is chosen is merged like any other value",
        "preparing",
        "self._take_report(candidate, Slot(CHOSEN, slot.entry) if chosen else slot)",
        "self._take_report(candidate, slot)",
    ),
    pitfall(
        "the own accepted values are forgotten in phase 1",
        "preparing",
        "        for slot in self._slots.above(self._chosen_index):\n            self._take_report(candidate, slot)\n",
        "",
    ),
    pitfall(
        "only the first page is waited for",
        "preparing",
        "if message.upto < message.last:",
        "if False:",
    ),
    pitfall(
        "the accepted ballot is the promised one",
        "accepting",
        "Promise(self._promised, message.start, upto, self._slots.last_index, self._chosen_index, slots),",
        "Promise(self._promised, message.start, upto, self._slots.last_index, self._chosen_index,"
        " tuple(Slot(self._promised, slot.entry) for slot in slots)),",
        "epaxos#20",
    ),
    pitfall(
        "an accepted ballot may fall",
        "node",
        "if ballot < self._promised:",
        "if ballot.round < self._promised.round:",
    ),
    pitfall(
        "what an older ballot left counts as accepted at this one",
        "slots",
        "return slot is not None and (slot.ballot == ballot or slot.ballot == CHOSEN)",
        "return slot is not None",
    ),
    pitfall(
        "the chosen index is believed without a ballot match",
        "accepting",
        "index = min(self._told_chosen, self._match)",
        "index = min(self._told_chosen, self._slots.last_index)",
    ),
    pitfall(
        "what an earlier leader said to be chosen still holds",
        "state",
        "self._match = self._told_chosen = self._chosen_index",
        "self._match = self._chosen_index",
    ),
    pitfall(
        "answers to a lower ballot count",
        "node",
        "                case _:\n                    pass\n            return False",
        "                case _:\n                    return True\n            return False",
    ),
    pitfall(
        "a probe of a lower ballot is not answered",
        "node",
        "                case Probe():\n                    self._on_probe(sender, message)\n                case _:",
        "                case _:",
        "etcd#8243; openraft#1796",
    ),
    pitfall(
        "a leader of a lower ballot is not told",
        "node",
        "case Accept() | Heartbeat() | Prepare():\n                    self._answer_outbid(sender)",
        "case Accept() | Heartbeat() | Prepare():\n                    pass",
        "etcd#8501",
    ),
    pitfall(
        "an acknowledgement covers what stands in front of it",
        "progress",
        "if last > self.match:",
        "if last > self.match and not setattr(self, 'match', LogIndex(last)):",
    ),
    pitfall(
        "what is acknowledged behind a gap is acknowledged up to there",
        "accepting",
        "reply = AcceptReply(self._promised, self._match)",
        "reply = AcceptReply(self._promised, self._slots.last_index)",
    ),
    pitfall(
        "a read is confirmed by the leader alone",
        "reads",
        "return self._quorum_value(acked, 0, self._sizes.blocking)",
        "return max(acked.values())",
    ),
    pitfall(
        "a read is confirmed by a phase-2 quorum",
        "reads",
        "return self._quorum_value(acked, 0, self._sizes.blocking)",
        "return self._quorum_value(acked, 0, lambda count: min(count, 2))",
    ),
    pitfall(
        "an older round confirms a read",
        "../leading/rounds",
        "while leader.unconfirmed and leader.unconfirmed[0].token <= confirmed:",
        "while leader.unconfirmed and leader.unconfirmed[0].token <= confirmed + 1:",
    ),
    pitfall(
        "a new leader answers reads before its window is chosen",
        "reads",
        "return self._chosen_index >= leader.recovered",
        "return True",
    ),
    pitfall(
        "a lease counts from its confirmation",
        "../leading/rounds",
        "leader.lease_start = leader.rounds.popleft()[1]",
        "leader.lease_start = Tick(self._now + 0 * leader.rounds.popleft()[1])",
    ),
    pitfall(
        "who has confirmed a lease promises at once",
        "accepting",
        "self._may_vote and not self._hears_leader(handed_over) and",
        "self._may_vote and",
    ),
    pitfall(
        "a late call to stand breaks the lease of who has led since",
        "accepting",
        "return handed_over is None or self._leader_heard is None or self._leader_heard > handed_over",
        "return handed_over is None",
    ),
    pitfall(
        "values behind a membership leave before it is chosen",
        "proposing",
        "while queue and leader.stop_sign <= self._chosen_index:",
        "while queue:",
    ),
    pitfall(
        "a second change begins before the first is over",
        "changes",
        "return leader.membership_last > self._chosen_index or self._announced.is_joint",
        "return False",
    ),
    pitfall(
        "the old quorum alone elects a leader that has heard of new voters",
        "preparing",
        "for membership in (self._membership, *reported)",
        "for membership in (self._membership,)",
    ),
    pitfall(
        "a joint membership is decided on by its new voters alone",
        "proposing",
        "sets = (self._membership.voters, self._membership.outgoing)",
        "sets = (self._membership.voters,)",
    ),
    pitfall(
        "leaving is announced as soon as it is chosen",
        "state",
        "if before.is_joint:",
        "if False:",
    ),
    pitfall(
        "the slot behind a membership is counted with gaps before it",
        "proposing",
        "if index == self._memberships.index + 1 or not",
        "if not",
    ),
    pitfall(
        "who is spared is never sent what was chosen without it",
        "reads",
        "leader.rest_upto, leader.rest_due = leader.accepted, Tick(",
        "leader.rest_upto, leader.rest_due = leader.rest_upto, Tick(",
    ),
    pitfall(
        "an installed snapshot leaves what was accepted below its end",
        "accepting",
        "            self._slots.compact_to(last)\n",
        "",
    ),
    pitfall(
        "a server that lost a part of its slots promises",
        "accepting",
        "return self._may_vote and not",
        "return not",
    ),
    pitfall(
        "a snapshot takes accepted slots behind it away",
        "slots",
        "for index in range(self.compacted.index + 1, min(entry.index, self.last_index) + 1):",
        "for index in range(self.compacted.index + 1, self.last_index + 1):",
    ),
    pitfall(
        "a leader with a hung disk goes on",
        "../leading/leadership",
        "elif self._now - leader.own_disk_seen >= config.disk_timeout_ticks:",
        "elif False:",
    ),
    pitfall(
        "intake goes on while leadership is handed over",
        "../leading/engine",
        "if leader.transfer is not None:\n            return Refused(RefusalReason.TRANSFERRING",
        "if False:\n            return Refused(RefusalReason.TRANSFERRING",
    ),
    pitfall(
        "phase-1 and phase-2 quorums need not meet",
        "../quorum",
        "return 0 < one <= count and 0 < two <= count and one + two > count",
        "return 0 < one <= count and 0 < two <= count",
    ),
)
