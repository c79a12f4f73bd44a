"""Known bugs of Paxos acceptors and proposers, put back into the registers one at a time."""

from pitfalls import Pitfall

REGISTER = "src/troth/core/register/"

TESTS = (
    "tests/paper/test_caspaxos_phases.py",
    "tests/paper/test_caspaxos_outcomes.py",
    "tests/paper/test_caspaxos_reads.py",
    "tests/paper/test_caspaxos_one_round_trip.py",
    "tests/paper/test_caspaxos_acceptors.py",
    "tests/paper/test_caspaxos_deletion.py",
    "tests/paper/test_caspaxos_membership.py",
    "tests/paper/test_caspaxos_tasks.py",
)


# Where a bug of its kind was met, of those that several have in common.
DISK = "paxi keeps nothing on disk; atlasdb#1504"
GRACE = "Cassandra, gc_grace"
JOINT = "openraft 6c0ccaf3"
LATE = "openraft cecb5de8"
QUORUMS = "openraft#1802"
READS = "etcd#20418"
SESSIONS = "logcabin and dragonboat sessions"


def pitfall(name: str, found: str, file: str, old: str, new: str) -> Pitfall:
    return Pitfall(name=name, found=found, file=f"{REGISTER}{file}.py", old=old, new=new)


REGISTER_PITFALLS = (
    pitfall(
        "a promise is not written",
        DISK,
        "acceptor",
        "return reply, self._do(PromisedRecord(request.key, request.ballot))",
        "self._do(PromisedRecord(request.key, request.ballot))\n        return reply, None",
    ),
    pitfall(
        "an accepted state is not written",
        DISK,
        "acceptor",
        "return Accepted(), self._do(record)",
        "self._do(record)\n        return Accepted(), None",
    ),
    pitfall(
        "a snapshot forgets the accepted states",
        DISK,
        "slots",
        "if slot.state is None:\n        return",
        "if slot.state is None or True:\n        return",
    ),
    pitfall(
        "a ballot is used twice",
        DISK,
        "task",
        "        self._round += ahead\n        return Ballot",
        "        self._round = max(self._round, 1)\n        return Ballot",
    ),
    pitfall(
        "a proposer never overtakes a rival that does not pause",
        "",
        "round",
        "return 4 ** min(self._tries, OVERTAKE_TRIES_MAX) if self._contended else 1",
        "return 1",
    ),
    pitfall(
        "a proposer near the acceptors leaves a far one no time",
        "",
        "task",
        "(-1 if served else 2)",
        "(-1 if served else 0)",
    ),
    pitfall(
        "ballots of two clients are equal",
        DISK,
        "task",
        "return Ballot(self._round, self.client)",
        "return Ballot(self._round, 1)",
    ),
    pitfall(
        "the lowest accepted state is adopted",
        "Cjen1/OCons PR#21",
        "states",
        "newest = max(promises.values(), key=lambda promise: promise.accepted)",
        "newest = min(promises.values(), key=lambda promise: promise.accepted)",
    ),
    pitfall(
        "the accepted ballot is not kept apart from the promised one",
        "efficient/epaxos#20",
        "acceptor",
        "Promise(slot.accepted, slot.state, self.fence)",
        "Promise(slot.promised, slot.state, self.fence)",
    ),
    pitfall(
        "phase 2 needs one acceptor less",
        QUORUMS,
        "messages",
        "vote_result(group.acceptors, votes, size=group.accept)",
        "vote_result(group.acceptors, votes, size=max(1, group.accept - 1))",
    ),
    pitfall(
        "phase 1 needs one acceptor less",
        QUORUMS,
        "messages",
        "vote_result(group.acceptors, votes, size=group.prepare)",
        "vote_result(group.acceptors, votes, size=max(1, group.prepare - 1))",
    ),
    pitfall(
        "in a joint configuration one quorum is enough",
        JOINT,
        "messages",
        "return combined([vote_result(group.acceptors, votes, size=group.prepare) for group in self.groups])",
        "return combined([vote_result(group.acceptors, votes, size=group.prepare) for group in self.groups[-1:]])",
    ),
    pitfall(
        "a prepare below the promise is granted",
        DISK,
        "acceptor",
        "return Conflict(slot.promised) if ballot < slot.promised else None",
        "return Conflict(slot.promised) if ballot < slot.accepted else None",
    ),
    pitfall(
        "a stale accept is acknowledged",
        LATE,
        "acceptor",
        "return conflict, None\n        slot = self.slots.get(request.key)\n        if slot is not None and",
        "return Accepted(), None\n        slot = self.slots.get(request.key)\n        if slot is not None and",
    ),
    pitfall(
        "the next promise of an accept is forgotten",
        DISK,
        "acceptor",
        "request.key, request.ballot, request.state, max(request.ballot, request.next)",
        "request.key, request.ballot, request.state, request.ballot",
    ),
    pitfall(
        "a kept ballot stays after it was used",
        DISK,
        "task",
        "kept = self._prepared.pop(key, None)",
        "kept = self._prepared.get(key, None)",
    ),
    pitfall(
        "a kept ballot survives a change of acceptors",
        JOINT,
        "task",
        "            self.config = config\n            self._prepared.clear()\n",
        "            self.config = config\n",
    ),
    pitfall(
        "a collection raises no fence",
        GRACE,
        "acceptor",
        "self._do(CollectedRecord(request.key, max(self.fence, request.ballot)))",
        "self._do(CollectedRecord(request.key, self.fence))",
    ),
    pitfall(
        "a first promise remembers no fence",
        GRACE,
        "acceptor",
        "Slot(record.ballot, fence=self.fence)",
        "Slot(record.ballot)",
    ),
    pitfall(
        "a first promise tells nothing of what the acceptors of before removed",
        GRACE,
        "acceptor",
        "return max(slot.fence, self.config.floor)",
        "return slot.fence",
    ),
    pitfall(
        "the fence is not asked",
        GRACE,
        "acceptor",
        "return Conflict(self.fence) if ballot <= self.fence else None",
        "return None",
    ),
    pitfall(
        "a tombstone is collected when a quorum has it",
        GRACE,
        "collection",
        "if len(self._answers) + len(self._silent) < len(self.config.acceptors):",
        "if len(self._answers) <= len(self.config.acceptors) // 2:",
    ),
    pitfall(
        "a register is collected whatever it holds",
        GRACE,
        "acceptor",
        "if not slot.is_tombstone or not slot.accepted == slot.promised == request.ballot:",
        "if False:",
    ),
    pitfall(
        "a change in doubt is made again",
        SESSIONS,
        "round",
        "if fates[attempt.ballot] is Fate.APPLIED and state is not None:",
        "if False:",
    ),
    pitfall(
        "what cannot be known is taken for not applied",
        SESSIONS,
        "round",
        "if Fate.UNKNOWN in fates.values():",
        "if False:",
    ),
    pitfall(
        "a refusal of some acceptors is taken for one of all",
        SESSIONS,
        "attempts",
        "if not attempt.doubtful and attempt in self.attempts:",
        "if len(attempt.doubtful) <= 1 and attempt in self.attempts:",
    ),
    pitfall(
        "a refused comparison is told without a quorum",
        READS,
        "round",
        "if state is None and not self.attempts:",
        "if not self.attempts:",
    ),
    pitfall(
        "a read believes any quorum",
        READS,
        "round",
        "if self.config.accepted(same) is VoteResult.WON:",
        "if True:",
    ),
    pitfall(
        "an answer to an earlier phase counts",
        LATE,
        "task",
        "if send.stamp != self._stamp or self.outcome is not None:\n            if isinstance(reply, WrongConfig)",
        "if self.outcome is not None:\n            if isinstance(reply, WrongConfig)",
    ),
    pitfall(
        "an acceptor serves any epoch",
        JOINT,
        "acceptor",
        "if self.config is None or request.config != self.config.id:",
        "if self.config is None:",
    ),
    pitfall(
        "an acceptor that comes back keeps what it had",
        "yugabyte#23453",
        "acceptor",
        "begin_empty = seat is None or before is None or before.since != seat.since",
        "begin_empty = False",
    ),
    pitfall(
        "registers are not copied to the new group",
        "",
        "reconfigure",
        "_Copying(self._proposer, listed.keys[::-1])",
        "_Copying(self._proposer, [])",
    ),
    pitfall(
        "fences do not go over to the new group",
        GRACE,
        "reconfigure",
        "max(self._fence, config.floor)",
        "ZERO",
    ),
    pitfall(
        "what was promised to the old group binds nobody in the new one",
        JOINT,
        "acceptor",
        "if ballot <= self._barrier:",
        "if False:",
    ),
    pitfall(
        "the scan of a change hears a phase-1 quorum alone",
        JOINT,
        "reconfigure",
        "survey = Survey(self._proposer)",
        "survey = Listing(self._proposer)",
    ),
    pitfall(
        "a decided register can be changed",
        DISK,
        "round",
        "if isinstance(decision, Write) and state is not None and state.decided:",
        "if False:",
    ),
)
