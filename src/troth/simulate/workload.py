"""Clients: they write and read at random moments, mostly where they believe the leader to be."""

import random

from troth.core.interface import Accepted
from troth.ids import NodeId
from troth.simulate.choices import OPERATION, Choices
from troth.simulate.core_node import CoreNode, payload_of
from troth.simulate.plan import TICK_US, Plan
from troth.simulate.world import World

WRITE, READ = f"{OPERATION} write", f"{OPERATION} read"


class Workload:
    """Proposals and reads until `stop`."""

    def __init__(
        self, world: World, nodes: dict[NodeId, CoreNode], plan: Plan, rng: random.Random, choices: Choices
    ) -> None:
        self._choices = choices
        self.proposed = 0
        self.accepted = 0
        self._world = world
        self._nodes = nodes
        self._rng = rng
        self._stopped = False
        timeout_us = plan.config.election_timeout_ticks * TICK_US
        self._write_us = 100 * timeout_us // plan.proposals
        self._read_us = 100 * timeout_us // plan.reads if plan.reads else 0
        world.after(self._gap(self._write_us), self._write)
        if self._read_us:
            world.after(self._gap(self._read_us), self._read)

    def stop(self) -> None:
        self._stopped = True

    def _gap(self, mean_us: int) -> int:
        return int(self._rng.random() * 2 * mean_us) + 1

    def _target(self) -> CoreNode:
        if self._rng.random() < 0.8:
            leaders = [node for node in self._nodes.values() if node.up and node.view.leads]
            if leaders:
                return self._rng.choice(leaders)
        return self._nodes[self._rng.choice(list(self._nodes))]

    def _write(self) -> None:
        if self._stopped:
            return
        node = self._target()
        if not self._choices.take(WRITE):
            self._world.after(self._gap(self._write_us), self._write)
            return
        for _ in range(self._rng.choice((1, 1, 1, 2, 5))):
            self.proposed += 1
            if isinstance(node.propose(payload_of(self.proposed)), Accepted):
                self.accepted += 1
        self._world.after(self._gap(self._write_us), self._write)

    def _read(self) -> None:
        if self._stopped:
            return
        target = self._target()
        if not self._choices.take(READ):
            self._world.after(self._gap(self._read_us), self._read)
            return
        target.read()
        if self._rng.random() < 0.3:
            self._nodes[self._rng.choice(list(self._nodes))].read()
        self._world.after(self._gap(self._read_us), self._read)
