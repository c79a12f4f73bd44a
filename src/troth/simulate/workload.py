"""Clients: they write and read at random moments, mostly where they believe the leader to be."""

import random

from troth.core.interface import Accepted
from troth.ids import NodeId
from troth.simulate.choices import OPERATION, Choices
from troth.simulate.core_node import CoreNode, payload_of
from troth.simulate.plan import TICK_US, Plan
from troth.simulate.rng import stream
from troth.simulate.world import World

WRITE, READ = f"{OPERATION} write", f"{OPERATION} read"


class Workload:
    """Proposals and reads until `stop`."""

    def __init__(self, world: World, nodes: dict[NodeId, CoreNode], plan: Plan, choices: Choices) -> None:
        self._choices = choices
        self.proposed = 0
        self.accepted = 0
        self._world = world
        self._nodes = nodes
        self._writes = stream(plan.seed, "workload", "write")
        self._reads = stream(plan.seed, "workload", "read")
        self._stopped = False
        timeout_us = plan.config.election_timeout_ticks * TICK_US
        self._write_us = 100 * timeout_us // plan.proposals
        self._read_us = 100 * timeout_us // plan.reads if plan.reads else 0
        world.after(_gap(self._writes, self._write_us), self._write)
        if self._read_us:
            world.after(_gap(self._reads, self._read_us), self._read)

    def stop(self) -> None:
        self._stopped = True

    def _target(self, rng: random.Random) -> CoreNode:
        if rng.random() < 0.8:
            leaders = [node for node in self._nodes.values() if node.up and node.view.leads]
            if leaders:
                return rng.choice(leaders)
        return self._nodes[rng.choice(list(self._nodes))]

    def _write(self) -> None:
        if self._stopped:
            return
        node, count = self._target(self._writes), self._writes.choice((1, 1, 1, 2, 5))
        self._world.after(_gap(self._writes, self._write_us), self._write)
        if not self._choices.take(WRITE):
            return
        for _ in range(count):
            self.proposed += 1
            if isinstance(node.propose(payload_of(self.proposed)), Accepted):
                self.accepted += 1

    def _read(self) -> None:
        if self._stopped:
            return
        rng = self._reads
        targets = [self._target(rng)]
        if rng.random() < 0.3:
            targets.append(self._nodes[rng.choice(list(self._nodes))])
        self._world.after(_gap(rng, self._read_us), self._read)
        if self._choices.take(READ):
            for target in targets:
                target.read()


def _gap(rng: random.Random, mean_us: int) -> int:
    return int(rng.random() * 2 * mean_us) + 1
