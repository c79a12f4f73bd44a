"""Links between nodes: messages are lost, late, doubled and overtaken; partitions cut one or both directions."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from msgspec.structs import replace

from troth.core.paxos import messages as paxos
from troth.core.raft import messages as raft
from troth.core.raft.messages import AppendEntries
from troth.ids import NodeId
from troth.simulate.choices import Choices
from troth.simulate.plan import TICK_US, Plan
from troth.simulate.rarely import LostChange
from troth.simulate.rng import stream
from troth.simulate.world import World

CALLS = (raft.TimeoutNow, paxos.TimeoutNow)
CALLED_AGAIN = 0.5
"""How often a call to stand comes once more, when somebody else may lead already."""


class Receiver(Protocol):
    """Where messages arrive."""

    def on_message(self, sender: NodeId, message: Any) -> None: ...


class Network:
    """Every pair of nodes has a link in each direction. `cut` holds the directions that carry nothing."""

    def __init__(self, world: World, plan: Plan, choices: Choices | None = None) -> None:
        self._choices = choices or Choices()
        self.receivers: dict[NodeId, Receiver] = {}
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.on_lost: Callable[[NodeId, NodeId], None] | None = None
        """Told (sender, receiver) of a message that a sender may notice to be lost."""
        self.counts = {"sent": 0, "lost": 0, "duplicated": 0, "shortened": 0, "cut": 0, "late": 0}
        self._world = world
        # Whether one thing happens is not to change when, and to which messages, the others do.
        self._draw_delay = stream(plan.seed, "network", "delay").random
        self._draw_late = stream(plan.seed, "network", "late").random
        self._draw_loss = stream(plan.seed, "network", "loss").random
        self._draw_duplicate = stream(plan.seed, "network", "duplicate").random
        self._draw_shorten = stream(plan.seed, "network", "shorten").random
        self._draw_told = stream(plan.seed, "network", "told").random
        self._draw_call = stream(plan.seed, "network", "call").random
        self._timeout_us = plan.config.election_timeout_ticks * TICK_US
        self._loss = plan.loss
        self._lost_change = LostChange(plan)
        self._shorten = plan.shorten
        self._duplicate = plan.duplicate
        self._delay_us = plan.delay_us
        self._delay_long = plan.delay_long
        self._unreachable_told = plan.unreachable_told
        self._newest: dict[tuple[NodeId, NodeId], int] | None = None
        """When links keep their order: the moment at which the newest message of each arrives."""

    def send(self, sender: NodeId, to: NodeId, message: Any, *, extra_us: int = 0) -> None:
        """Put a message on its way; *extra_us* for one that takes long to transfer."""
        counts = self.counts
        counts["sent"] += 1
        delay = self._delay(self._draw_delay) + extra_us
        lost = self._loss and self._draw_loss() * 1000 < self._loss
        if (sender, to) in self.cut:
            counts["cut"] += 1
            self._maybe_tell(sender, to)
            return
        if self._lost_change.share and self._lost_change.takes(message) and self._choices.take("lost change"):
            counts["lost"] += 1
            return
        if lost and self._choices.take("loss"):
            counts["lost"] += 1
            self._maybe_tell(sender, to)
            return
        if self._newest is not None and not extra_us:
            arrives = max(self._world.now_us + delay, self._newest.get((sender, to), 0))
            self._newest[sender, to] = arrives
            delay = arrives - self._world.now_us
        self._world.after(delay, self._arrive, sender, to, message)
        draw = self._draw_duplicate
        if self._duplicate and draw() * 1000 < self._duplicate and self._choices.take("duplicate"):
            counts["duplicated"] += 1
            self._world.after(self._delay(draw) + extra_us, self._arrive, sender, to, message)
        draw = self._draw_call
        if (
            isinstance(message, CALLS)
            and self._newest is None
            and draw() < CALLED_AGAIN
            and self._choices.take("late call")
        ):
            self._world.after(int(draw() * 4 * self._timeout_us), self._arrive, sender, to, message)
        draw = self._draw_shorten
        if (
            self._shorten
            and type(message) is AppendEntries
            and message.entries
            and draw() * 1000 < self._shorten
            and self._choices.take("shorten")
        ):
            counts["shortened"] += 1
            part = message.entries[: int(draw() * len(message.entries))]
            self._world.after(self._delay(draw), self._arrive, sender, to, replace(message, entries=part))

    def forget_from(self, sender: NodeId) -> None:
        """What *sender* has sent does not arrive any more: its connections broke with it."""
        self._world.forget(lambda action, arguments: action == self._arrive and arguments[0] == sender)

    def partition(self, one: Iterable[NodeId], other: Iterable[NodeId], *, one_way: bool) -> None:
        """Cut *one* off from *other*; one way: what *one* says is not heard by *other*."""
        others = list(other)
        for a in one:
            for b in others:
                self.cut.add((a, b))
                if not one_way:
                    self.cut.add((b, a))

    def heal(self) -> None:
        """All links carry again."""
        self.cut.clear()

    def calm(self) -> None:
        """No more faults (the second half of a run): links keep their order from now on, as connections do."""
        self.heal()
        self._newest = {}
        self._lost_change.share = 0.0
        self._loss = self._duplicate = self._delay_long = self._shorten = 0
        self._delay_us = min(self._delay_us, 5_000)

    def _delay(self, draw: Callable[[], float]) -> int:
        # Two uniform draws fall off like an exponential where it matters, at a fraction of the cost.
        delay = 50 + int(draw() * draw() * 4 * self._delay_us)
        if self._delay_long and self._draw_late() * 1000 < self._delay_long and self._choices.take("late"):
            self.counts["late"] += 1
            return int(self._draw_late() * 6 * self._timeout_us)
        return delay

    def _arrive(self, sender: NodeId, to: NodeId, message: Any) -> None:
        if (sender, to) in self.cut:
            self.counts["cut"] += 1
            return
        self.receivers[to].on_message(sender, message)

    def _maybe_tell(self, sender: NodeId, to: NodeId) -> None:
        if not self._unreachable_told or self.on_lost is None:
            return
        if self._draw_told() * 1000 < self._unreachable_told:
            self.on_lost(sender, to)
