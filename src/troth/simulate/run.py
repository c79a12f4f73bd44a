"""One seed from beginning to end: chaos with every invariant watched, then calm, in which the cluster must serve.

The trace of a run is what every node received and when; its digest is the same for the same seed in any process.
"""

import hashlib
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from troth.core.engines import Start, engine_kind
from troth.core.interface import Accepted, Member, Membership, MembershipChange, Message, Trace
from troth.errors import InvariantViolation, invariant
from troth.ids import LogIndex, NodeId
from troth.simulate.choices import Choice, Choices
from troth.simulate.core_node import CoreNode
from troth.simulate.faults import Faults
from troth.simulate.invariants import RULES
from troth.simulate.monitor import Invariant, Monitor
from troth.simulate.network import Network
from troth.simulate.plan import SECOND_US, TICK_US, Plan, draw
from troth.simulate.rng import stream
from troth.simulate.workload import Workload
from troth.simulate.world import World, uncollected

CALM_TIMEOUTS = 60
"""Within so many election timeouts after all faults have ended the cluster must serve everything."""

NEWCOMERS = 0.5
"""In so many seeds somebody joins a cluster in which nobody writes."""

HISTORY_KEPT = 60


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a seed."""

    plan: Plan
    violation: str = ""
    digest: str = ""
    simulated_us: int = 0
    events: int = 0
    committed: int = 0
    reads: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    traces: dict[str, int] = field(default_factory=dict)
    last_events: list[str] = field(default_factory=list)
    taken: list[Choice] = field(default_factory=list)
    """What happened, for `simulate.shrink`."""

    @property
    def replay(self) -> str:
        """The command that runs this seed again."""
        plan = self.plan
        consensus = "" if plan.consensus == "raft" else f" --consensus {plan.consensus}"
        seconds = plan.chaos_us // SECOND_US
        return f"troth simulate replay {plan.seed} --level core --seconds {seconds}{consensus}"


class Simulation:
    """A cluster of cores in a world of its own."""

    def __init__(
        self,
        plan: Plan,
        *,
        engine: Start | None = None,
        rules: Sequence[type[Invariant]] | None = None,
        keep: Collection[Choice] | None = None,
    ) -> None:
        """*engine* and *rules* replace those of the plan's consensus; of what could happen only *keep* does (None:
        all of it)."""
        self.plan = plan
        self.choices = Choices(keep)
        engine = engine_kind(plan.consensus).start if engine is None else engine
        rules = RULES[plan.consensus] if rules is None else rules
        self.world = World()
        self.network = Network(self.world, plan, self.choices)
        self.nodes: dict[NodeId, CoreNode] = {}
        self.monitor = Monitor(self.nodes, rules)
        self.monitor.on_event = self._on_event
        founders = tuple(NodeId(number + 1) for number in range(plan.voters))
        genesis = Membership(voters=founders, members={node: Member(f"n{node}") for node in founders})
        for number in range(plan.voters + plan.spares):
            node_id = NodeId(number + 1)
            self.nodes[node_id] = self.network.receivers[node_id] = CoreNode(
                world=self.world,
                network=self.network,
                plan=plan,
                monitor=self.monitor,
                start=engine,
                node_id=node_id,
                genesis=genesis if node_id in founders else Membership(voters=()),
            )
        self._hash = hashlib.blake2b(digest_size=16)
        self._last: deque[tuple[int, NodeId, Trace]] = deque(maxlen=HISTORY_KEPT)
        for node in self.nodes.values():
            node.boot()

    def _on_event(self, node: CoreNode, trace: Trace) -> None:
        self._last.append((self.world.now_us, node.node_id, trace))
        self.faults.on_event(node, trace)

    def run(self) -> Outcome:
        """Both phases. Whatever an invariant (of the run or of the code itself) says is in `Outcome.violation`."""
        outcome = Outcome(plan=self.plan)
        try:
            with uncollected():
                self.chaos()
                self.calm()
        except InvariantViolation as violation:
            outcome.violation = str(violation)
        outcome.digest = self.digest()
        outcome.simulated_us = self.world.now_us
        outcome.events = self.world.events
        outcome.committed = self.monitor.ledger.highest
        outcome.reads = sum(node.reads.answered for node in self.nodes.values())
        outcome.traces = dict(sorted(self.monitor.trace_counts.items()))
        outcome.faults = {**self.network.counts, **dict(sorted(self.faults.counts.items()))}
        outcome.taken = self.choices.taken
        outcome.last_events = [
            f"{us / SECOND_US:9.4f} s  n{node}  {trace.name} "
            + " ".join(f"{name}={value}" for name, value in trace.facts.items())
            for us, node, trace in self._last
        ]
        return outcome

    def chaos(self) -> None:
        """Faults and clients together."""
        world, nodes, plan, choices = self.world, self.nodes, self.plan, self.choices
        self.faults = Faults(world, self.network, nodes, plan, choices)
        self.workload = Workload(world, nodes, plan, choices)
        self.world.run_until(self.plan.chaos_us)

    def calm(self) -> None:
        """No faults any more: a leader, a commit and an answer on every member within `CALM_TIMEOUTS`."""
        self.faults.stop()
        self.workload.stop()
        timeout_us = self.plan.config.election_timeout_ticks * TICK_US
        deadline = self.world.now_us + CALM_TIMEOUTS * timeout_us + 10 * SECOND_US
        # Messages that are very late, paused processes and streams of snapshots come to their end first.
        self.world.run_until(self.world.now_us + 8 * timeout_us + SECOND_US)
        # Reads first: a follower must come to know what is committed without a new write to tell it.
        leader = self._wait_for_leader(deadline)
        self._bring_newcomer(leader, timeout_us)
        self._wait_for_reads(leader, deadline)
        leader = self._wait_for_write(deadline)
        self._wait_for_reads(leader, deadline)

    def _wait_for_leader(self, deadline: int) -> CoreNode:
        """Somebody leads, with a membership that is settled."""
        while self.world.now_us < deadline:
            leading = [node for node in self.nodes.values() if node.up and node.view.leads]
            newest = max(leading, key=lambda node: node.view.term) if leading else None
            if newest is not None and not newest.view.membership.is_joint:
                return newest
            self.world.run_until(self.world.now_us + 10 * TICK_US)
        raise InvariantViolation(f"no leader after all faults have ended ({self._situation()})")

    def _bring_newcomer(self, leader: CoreNode, timeout_us: int) -> None:
        """Somebody joins when the leader has compacted everything and nobody writes: no entry will take it along."""
        rng = stream(self.plan.seed, "rare", "newcomer")
        members = leader.view.membership.everyone()
        outside = [node for node in self.nodes if node not in members]
        if not outside or rng.random() >= NEWCOMERS:
            return
        leader.snapshots.wanted = True
        self.world.run_until(self.world.now_us + timeout_us)
        if leader.view.leads:
            node = rng.choice(outside)
            leader.change_membership(MembershipChange(add_learners={node: Member(f"n{node}", promote=False)}))
            self.world.run_until(self.world.now_us + timeout_us)

    def _wait_for_write(self, deadline: int) -> CoreNode:
        """Some leader commits a new entry, and all members of its settled membership apply it."""
        step_us = 10 * TICK_US
        leader: CoreNode | None = None
        wanted = LogIndex(0)
        while self.world.now_us < deadline:
            leading = [node for node in self.nodes.values() if node.up and node.view.leads]
            newest = max(leading, key=lambda node: node.view.term) if leading else None
            if newest is not None and newest is not leader:
                result = newest.propose(b"calm")
                if isinstance(result, Accepted):
                    leader, wanted = newest, result.id.index
            self.world.run_until(self.world.now_us + step_us)
            if leader is not None and leader.up and leader.view.leads:
                membership = leader.view.membership
                if not membership.is_joint and all(
                    self.nodes[node].applied.index >= wanted for node in membership.everyone()
                ):
                    return leader
        raise InvariantViolation(f"no progress after all faults have ended ({self._situation()})")

    def _wait_for_reads(self, leader: CoreNode, deadline: int) -> None:
        """Every member answers a linearizable read."""
        for node_id in leader.view.membership.everyone():
            node = self.nodes[node_id]
            answered = node.reads.answered
            node.read()
            while node.reads.answered == answered and self.world.now_us < deadline:
                self.world.run_until(self.world.now_us + 10 * TICK_US)
                node.read()
            invariant(
                node.reads.answered > answered,
                "a read is never answered",
                node=node_id,
                situation=self._situation(),
            )

    def _situation(self) -> str:
        return "; ".join(
            f"n{node.node_id} {node.view.role} term {node.view.term} commit {node.view.commit_index}"
            f" last {node.view.last_index} voters {node.view.membership.voters}"
            for node in self.nodes.values()
        )

    def digest(self) -> str:
        """Stands for everything that has happened."""
        return self._hash.hexdigest()

    def record(self) -> None:
        """Let every message that arrives be part of the digest (costs a tenth of the speed)."""
        encode = msgspec.msgpack.Encoder().encode
        update = self._hash.update
        for node_id, node in self.nodes.items():
            self.network.receivers[node_id] = _Recorded(node, self.world, encode, update)


class _Recorded:
    """Sits in front of a node and adds what arrives to the digest of the run."""

    def __init__(self, node: CoreNode, world: World, encode: object, update: object) -> None:
        self._node = node
        self._world = world
        self._encode = encode
        self._update = update

    def on_message(self, sender: NodeId, message: object) -> None:
        """A message has arrived."""
        name = type(message).__name__
        body = self._encode(message) if isinstance(message, Message) else b""  # type: ignore[operator]
        self._update(b"%d %d %d %s" % (self._world.now_us, sender, self._node.node_id, name.encode()) + body)  # type: ignore[operator]
        self._node.on_message(sender, message)


def run_seed(
    seed: int,
    *,
    chaos_seconds: int = 60,
    record: bool = False,
    consensus: str = "raft",
    engine: Start | None = None,
) -> Outcome:
    """Run one seed; never raises for a violation. *engine* is run in place of that of *consensus*."""
    simulation = Simulation(draw(seed, chaos_seconds=chaos_seconds, consensus=consensus), engine=engine)
    if record:
        simulation.record()
    return simulation.run()
