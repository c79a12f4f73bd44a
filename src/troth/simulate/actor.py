"""Who plays on a stage (stage.py): servers whose chance is fixed, and the messages between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from troth.core.interface import Effects, Engine, Entry, Member, Membership, Message, ReadState, Send
from troth.ids import NodeId
from troth.simulate.journal import Journal
from troth.simulate.view import EngineView

T = TypeVar("T")


@dataclass(slots=True)
class FixedRng:
    """Always the same: the shortest patience, *offset* later."""

    offset: int

    def randrange(self, start: int, stop: int) -> int:
        return min(start + self.offset, stop - 1)

    def random(self) -> float:
        return 0.0

    def getrandbits(self, k: int, /) -> int:
        return 0

    def choice(self, seq: Sequence[T], /) -> T:
        return seq[0]


@dataclass(slots=True)
class InFlight:
    """A message on its way."""

    sender: NodeId
    to: NodeId
    message: Message


@dataclass(slots=True)
class Actor:
    """One server on the stage."""

    node_id: NodeId
    journal: Journal
    rng: FixedRng
    up: bool = True
    syncs: bool = True
    """Whether its disk syncs by itself."""
    engine: Engine = field(init=False)
    view: EngineView = field(init=False)
    outbox: list[tuple[int, Send]] = field(default_factory=list)
    applied: list[Entry] = field(default_factory=list)
    reads: list[ReadState] = field(default_factory=list)
    reads_refused: list[int] = field(default_factory=list)
    wanted: list[NodeId] = field(default_factory=list)
    last: Effects = field(default_factory=Effects)


def membership_of(voters: Iterable[int], outgoing: Iterable[int] = (), learners: Iterable[int] = ()) -> Membership:
    """A membership whose servers are called n1, n2, ..."""
    sets = [tuple(sorted(NodeId(node) for node in nodes)) for nodes in (voters, outgoing, learners)]
    everyone = sorted({node for nodes in sets for node in nodes})
    members = {node: Member(f"n{node}") for node in everyone}
    return Membership(voters=sets[0], outgoing=sets[1], learners=sets[2], members=members)


class _NoLuck:
    """A crash leaves nothing that was not synced."""

    def randrange(self, start: int) -> int:
        return start - 1

    def random(self) -> float:
        return 1.0


NO_LUCK = _NoLuck()
