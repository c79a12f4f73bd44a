"""What goes wrong, and when: each kind of fault happens at random moments, at the rate that the plan gives it."""

import random
from collections import Counter
from collections.abc import Callable

from troth.core.interface import Accepted, Member, MembershipChange, Trace
from troth.ids import NodeId
from troth.simulate.choices import Choices
from troth.simulate.core_node import CoreNode
from troth.simulate.network import Network
from troth.simulate.plan import TICK_US, Plan
from troth.simulate.rarely import EarlySnapshot, Succession
from troth.simulate.rng import stream
from troth.simulate.world import World

LEADER_COMPACTS = 0.3
"""How often a new leader takes a snapshot at once, where there are snapshots at all."""


class Faults:
    """Breaks things until `stop`, then mends them. `counts` proves what has happened."""

    def __init__(
        self,
        world: World,
        network: Network,
        nodes: dict[NodeId, CoreNode],
        plan: Plan,
        choices: Choices,
    ) -> None:
        self._choices = choices
        self.counts: dict[str, int] = {}
        self._world = world
        self._network = network
        self._nodes = nodes
        self._plan = plan
        self._gaps: dict[str, random.Random] = {}
        """Kind -> when the next of it comes."""
        self._numbers: Counter[str] = Counter()
        self._rng = stream(plan.seed, "faults")
        """What the fault draws that happens now (`_begin`)."""
        self._hints = stream(plan.seed, "faults", "unreachable")
        self._rare = stream(plan.seed, "rare")
        self._isolates = self._rare.choice((0.0, 0.0, 0.0, 0.3, 0.8)) if plan.partitions else 0.0
        self._succession = Succession(plan)
        self._early_snapshot = EarlySnapshot(plan)
        self._stopped = False
        self._timeout_us = plan.config.election_timeout_ticks * TICK_US
        network.on_lost = self._tell_unreachable
        for rate, fault in (
            (plan.partitions, self._partition),
            (plan.crashes, self._crash),
            (plan.crash_all, self._crash_all),
            (plan.pauses, self._pause),
            (plan.disk_hangs, self._hang_disk),
            (plan.rot, self._rot),
            (plan.clock_changes, self._change_clock),
            (plan.wrong_hints, self._wrong_hint),
            (plan.transfers, self._transfer),
            (plan.changes, self._change),
            (plan.compactions, self._compact),
        ):
            if rate:
                self._plan_next(rate, fault)

    def stop(self) -> None:
        """Mend everything: links, disks, clocks; start what is down."""
        self._stopped = True
        self._network.calm()
        for node in self._nodes.values():
            node.calm()
            node.clock.set_rate(1000)
            if not node.up:
                node.boot()

    def _plan_next(self, rate: int, fault: Callable[[], str | None]) -> None:
        kind, mean_us = fault.__name__.strip("_"), 100 * self._timeout_us // rate
        if kind not in self._gaps:
            self._gaps[kind] = stream(self._plan.seed, "faults", kind)
        self._world.after(int(self._gaps[kind].expovariate(1.0) * mean_us), self._happen, rate, fault)

    def _begin(self, kind: str) -> bool:
        """Whether the next fault of *kind* happens. Each draws from a stream of its own: those that are left out of a
        run, when it is shrunk, change nothing about the others."""
        self._rng = stream(self._plan.seed, "faults", kind, self._numbers[kind])
        self._numbers[kind] += 1
        return self._choices.take(kind)

    def _happen(self, rate: int, fault: Callable[[], str | None]) -> None:
        if self._stopped:
            return
        name = fault() if self._begin(fault.__name__.strip("_")) else None
        if name is not None:
            self.counts[name] = self.counts.get(name, 0) + 1
        self._plan_next(rate, fault)

    def _some(self) -> CoreNode:
        return self._nodes[self._rng.choice(list(self._nodes))]

    def _leaders(self) -> list[CoreNode]:
        return [node for node in self._nodes.values() if node.up and node.view.leads]

    def _one_or_leader(self) -> CoreNode:
        leaders = self._leaders()
        return self._rng.choice(leaders) if leaders and self._rng.random() < 0.5 else self._some()

    def _duration_us(self, most_timeouts: int) -> int:
        # Most faults are as long as an election takes; some last.
        return int(self._rng.random() ** 3 * most_timeouts * self._timeout_us) + 10_000

    # ---- rare moments, made likely ----

    def on_event(self, node: CoreNode, trace: Trace) -> None:
        """An engine tells what it does. What goes wrong just then is what the rules were made for."""
        if self._stopped:
            return
        name = trace.name
        if name == "leader":
            self._maybe_outrun(node)
        if name == "membership" and self._succession.is_end(node.node_id, trace.facts):
            us = self._plan.delay_us + 2 * self._plan.disk_us
            self._world.after(self._succession.delay(us), self._crash_now)
        if name == "membership" and self._rare.random() * 1000 < self._plan.change_then_crash:
            # All crash when one of them has the membership, and others may not.
            us = 2 * max(self._plan.delay_us, self._plan.disk_us)
            self._world.after(int(self._rare.random() ** 2 * us), self._crash_now)
        elif name == "leader" and self._rare.random() < self._isolates:
            # Nobody hears what it proposes; so does the next one, and values of several reigns stand side by side.
            if self._choices.take("isolation"):
                others = [other for other in self._nodes if other != node.node_id]
                self._network.partition([node.node_id], others, one_way=self._rare.random() < 0.5)
                self._world.after(int((0.5 + 2 * self._rare.random()) * self._timeout_us), self._heal)
                self.counts["isolation"] = self.counts.get("isolation", 0) + 1
        elif name == "leader" and self._plan.compactions and self._rare.random() < LEADER_COMPACTS:
            # It has compacted what it begins with, and whoever led before comes back with a tail of its own.
            self._world.after(int(self._rare.random() * self._timeout_us), self._compact_soon, node)
            self._world.after(int(self._rare.random() * 2 * self._timeout_us), self._heal)

    def _maybe_outrun(self, leader: CoreNode) -> None:
        """The logs of those who do not durably know the new *leader*'s term hang; their snapshots do not."""
        for node in self._nodes.values():
            if (
                node.up
                and node.journal.durable.begins_with.term < leader.view.term
                and self._early_snapshot.comes()
                and self._choices.take("early snapshot")
            ):
                node.disk_hangs = True
                node.snapshots.on_early = self._outrun
                self._world.after(2 * self._timeout_us, node.calm_disk)

    def _outrun(self, node: CoreNode) -> None:
        self._world.after(0, self._end_early, node, node.life)

    def _end_early(self, node: CoreNode, life: int) -> None:
        if node.life == life and not self._stopped:
            node.disk_hangs = False
            self._kill(node)
            self._world.after(self._timeout_us // 10, self._restart, node)
            self.counts["early_snapshot"] = self.counts.get("early_snapshot", 0) + 1

    def _compact_soon(self, node: CoreNode) -> None:
        if not self._stopped and self._choices.take("compaction"):
            node.snapshots.wanted = True

    # ---- kinds ----

    def _partition(self) -> str:
        rng = self._rng
        everyone = list(self._nodes)
        one_way = rng.random() * 1000 < self._plan.one_way
        shape = rng.random()
        if shape < 0.3:
            one = {self._one_or_leader().node_id}
        elif shape < 0.8:
            one = set(rng.sample(everyone, rng.randint(1, max(1, len(everyone) - 1))))
        else:
            # A bridge: one node hears both sides, which do not hear each other.
            bridge = rng.choice(everyone)
            rest = [node for node in everyone if node != bridge]
            half = set(rng.sample(rest, len(rest) // 2))
            self._network.partition(half, set(rest) - half, one_way=one_way)
            self._world.after(self._duration_us(8), self._heal)
            return "bridge"
        if rng.random() < 0.5:
            self._network.partition(one, set(everyone) - one, one_way=one_way)
        else:
            self._network.partition(set(everyone) - one, one, one_way=one_way)
        self._world.after(self._duration_us(8), self._heal)
        return "one_way" if one_way else "partition"

    def _heal(self) -> None:
        self._network.heal()

    def _crash(self) -> str | None:
        node = self._one_or_leader()
        if not node.up:
            return None
        self._kill(node)
        self._world.after(self._duration_us(6), self._restart, node)
        return "crash"

    def _crash_all(self) -> str:
        for node in self._nodes.values():
            if node.up:
                self._kill(node)
                self._world.after(self._duration_us(3), self._restart, node)
        return "crash_all"

    def _kill(self, node: CoreNode) -> None:
        node.crash()
        if self._rng.random() * 1000 < self._plan.death_seen:
            for peer in self._nodes.values():
                if peer is not node and self._rng.random() < 0.8:
                    self._world.after(self._rng.randrange(100, 20_000), peer.on_peer_died, node.node_id)

    def _restart(self, node: CoreNode) -> None:
        if not node.up:
            node.boot()

    def _pause(self) -> str | None:
        node = self._one_or_leader()
        node.pause(self._duration_us(4))
        return "pause"

    def _hang_disk(self) -> str:
        node = self._one_or_leader()
        node.disk_hangs = True
        self._world.after(self._duration_us(8), node.calm_disk)
        return "disk_hang"

    def _rot(self) -> str | None:
        """Of one server at a time, so that a quorum keeps a good copy of everything."""
        node = self._one_or_leader()
        if not node.up or any(each.lost for each in self._nodes.values()):
            return None
        self._kill(node)
        self._world.after(self._duration_us(3), self._restart, node)
        return "rot" if node.lose_end() else None

    def _change_clock(self) -> str:
        node = self._some()
        config = self._plan.config
        if config.lease_reads:
            # Any two clocks stay within the drift that the configuration promises.
            half = config.clock_drift_percent * 10 * 48 // 100
            node.clock.set_rate(1000 + self._rng.randint(-half, half))
        else:
            node.clock.set_rate(self._rng.choice((200, 700, 900, 1000, 1100, 1500, 4000)))
            if self._rng.random() < 0.3:
                node.clock.jump(self._rng.randrange(0, 500))
        return "clock"

    def _wrong_hint(self) -> str:
        node, peer = self._some(), self._one_or_leader()
        if node is not peer:
            node.on_peer_died(peer.node_id)
        return "wrong_hint"

    def _tell_unreachable(self, sender: NodeId, to: NodeId) -> None:
        self._world.after(self._hints.randrange(100, 50_000), self._nodes[sender].on_unreachable, to)

    # ---- what operators do ----

    def _transfer(self) -> str | None:
        leaders = self._leaders()
        if not leaders:
            return None
        target = self._rng.choice([NodeId(0), *self._nodes])
        return "transfer" if self._rng.choice(leaders).transfer(target) is None else None

    def _change(self) -> str | None:
        leaders = self._leaders()
        if not leaders:
            return None
        leader = self._rng.choice(leaders)
        change = self._draw_change(leader)
        membership = leader.view.membership
        outside = [node for node in self._nodes if node not in membership.everyone()]
        result = leader.change_membership(self._succession.instead(membership.voters, outside) or change)
        if not isinstance(result, Accepted):
            return None
        if self._rng.random() * 1000 < self._plan.change_then_crash:
            self._world.after(int(self._rng.random() ** 2 * 2 * self._timeout_us), self._crash_now)
        return "change"

    def _crash_now(self) -> None:
        if not self._stopped and self._begin("change_then_crash"):
            self._crash_all()
            self.counts["change_then_crash"] = self.counts.get("change_then_crash", 0) + 1

    def _draw_change(self, leader: CoreNode) -> MembershipChange:
        rng = self._rng
        membership = leader.view.membership
        inside = list(membership.everyone())
        outside = [node for node in self._nodes if node not in inside]
        coming = rng.sample(outside, min(len(outside), rng.choice((0, 1, 1, 2))))
        going = rng.sample(inside, min(len(inside) - 1, rng.choice((0, 0, 1, 1, 2))))
        joining = {node: Member(f"n{node}", promote=rng.random() < 0.7) for node in coming}
        if rng.random() < 0.25:
            going = (
                [leader.node_id] if len(inside) > 1 else []
            )  # a leader that removes itself is a case of its own
        promote = tuple(node for node in membership.learners if node not in going and rng.random() < 0.3)
        if rng.random() < 0.3:
            return MembershipChange(add_voters=joining, remove=tuple(going), promote=promote)
        return MembershipChange(add_learners=joining, remove=tuple(going), promote=promote)

    def _compact(self) -> str:
        self._some().snapshots.wanted = True
        return "compaction"
