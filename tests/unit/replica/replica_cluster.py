"""Three replicas in one thread: messages are delivered at once and in order, unless a link is cut; disks never fail.

What goes wrong between servers is the simulator's subject; here it is what one server owes its clients.
"""

import random
from collections.abc import Callable, Iterable, Iterator

import msgspec

from troth.core.engines import EngineConfig, engine_kind
from troth.core.interface import ORIGIN, EntryId, Member, Membership, SnapshotMeta, Trace
from troth.ids import NodeId, Tick
from troth.kv.store import Store
from troth.replica.effects import (
    ClearAmnesia,
    CompactLog,
    LoadSnapshot,
    ReadChunk,
    ReplicaEffects,
    SaveSnapshot,
    StoreChunk,
)
from troth.replica.machine import StateMachine
from troth.replica.peers import PeerCodec
from troth.replica.protocol import ClientMessage, LeaderChanged, ServerMessage
from troth.replica.replica import Replica
from troth.replica.state import ReplicaConfig, ReplicaStart

KIND = engine_kind("raft")
encode = msgspec.msgpack.Encoder().encode


def client_of(node: int) -> int:
    """The one client that is connected to *node*."""
    return 100 + node


class Cluster:
    """Nodes 1 .. n; each has one client."""

    def __init__(
        self,
        nodes: int = 3,
        *,
        replica: ReplicaConfig | None = None,
        engine: EngineConfig | None = None,
        amnesiacs: Iterable[int] = (),
    ) -> None:
        self.now = Tick(0)
        self.ids = [NodeId(node) for node in range(1, nodes + 1)]
        self.founding = SnapshotMeta(
            ORIGIN,
            Membership(
                voters=tuple(self.ids), members={node: Member(f"n{node}", "", f"host{node}") for node in self.ids}
            ),
        )
        self.codec = PeerCodec(KIND.messages)
        self.replica_config = replica or ReplicaConfig()
        self.engine_config = engine or EngineConfig()
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.replies: dict[int, list[ServerMessage]] = {}
        self.snapshots: dict[NodeId, dict[EntryId, bytes]] = {}
        self.partial: dict[NodeId, bytearray] = {}
        self.in_steps = False
        """Whether a snapshot is loaded by who takes the steps in `loads`, not at once."""
        self.loads: dict[NodeId, Iterator[None]] = {}
        self.compacted: list[tuple[NodeId, CompactLog]] = []
        self.events: list[tuple[NodeId, Trace]] = []
        self.on_send: Callable[[NodeId, NodeId, object], bool] = lambda sender, to, message: True
        self.replicas: dict[NodeId, Replica] = {}
        for node in self.ids:
            self.add(node, self.founding, amnesia=node in amnesiacs)

    def add(self, node: NodeId, snapshot: SnapshotMeta, *, amnesia: bool = False, life: int = 0) -> Replica:
        """Start *node*; each of its lives draws other numbers."""
        rng = random.Random(100 * life + node)
        engine = KIND.start(
            node_id=node, config=self.engine_config, rng=rng, snapshot=snapshot, now=self.now, may_vote=not amnesia
        )
        replica = Replica(
            ReplicaStart(
                engine=engine,
                machine=StateMachine(Store),
                rng=rng,
                name=f"n{node}",
                cluster_id=7,
                snapshot=snapshot,
                config=self.replica_config,
                now=self.now,
                amnesia=amnesia,
            )
        )
        self.replicas[node] = replica
        self.snapshots[node] = {}
        self.replies.setdefault(client_of(node), [])
        replica.client_connected(client_of(node))
        return replica

    # ---- time ----

    def settle(self) -> None:
        """Deliver until nothing is left to do at this tick."""
        busy = True
        while busy:
            busy = False
            for node, replica in list(self.replicas.items()):
                effects = replica.take_effects()
                if effects:
                    busy = True
                    self._execute(node, effects)

    def step(self, ticks: int = 1) -> None:
        for _ in range(ticks):
            self.now = Tick(self.now + 1)
            for replica in list(self.replicas.values()):
                replica.tick(self.now)
            self.settle()

    def step_until(self, condition: Callable[[], bool], ticks: int = 1000) -> None:
        for _ in range(ticks):
            if condition():
                return
            self.step()
        raise AssertionError(f"did not happen within {ticks} ticks")

    # ---- people ----

    @property
    def leader(self) -> NodeId:
        """The leader, elected first if need be."""

        def leaders() -> list[NodeId]:
            return [node for node, replica in self.replicas.items() if replica.engine.leader()[1] == node]

        self.step_until(lambda: bool(leaders()))
        return max(leaders(), key=lambda node: self.replicas[node].engine.leader()[0])

    @property
    def follower(self) -> NodeId:
        leader = self.leader
        self.step_until(lambda: all(r.engine.leader()[1] == leader for r in self.replicas.values()))
        return next(node for node in self.replicas if node != leader)

    def say(self, node: NodeId, message: ClientMessage) -> None:
        """The client of *node* sends *message*."""
        self.replicas[node].on_client(client_of(node), message, encode(message), self.now)

    def ask(self, node: NodeId, message: ClientMessage, ticks: int = 0) -> list[ServerMessage]:
        """Send, let *ticks* pass, and take what has been answered."""
        self.heard(node)
        self.say(node, message)
        self.settle()
        self.step(ticks)
        return self.heard(node)

    def heard(self, node: NodeId) -> list[ServerMessage]:
        """What the client of *node* has been sent since last asked, but for news of who leads."""
        replies, self.replies[client_of(node)] = self.replies[client_of(node)], []
        return [reply for reply in replies if not isinstance(reply, LeaderChanged)]

    def isolate(self, node: NodeId) -> None:
        for other in self.replicas:
            self.cut |= {(node, other), (other, node)}

    def heal(self) -> None:
        self.cut.clear()

    # ---- the driver's duties ----

    def _execute(self, node: NodeId, effects: ReplicaEffects) -> None:
        self.events += [(node, event) for event in effects.events]
        for client, reply in effects.replies:
            self.replies[client].append(reply)
        for work in effects.snapshot_work:
            self._work(node, work)
        for to, message in effects.send + effects.after_persist:
            if (node, to) in self.cut or to not in self.replicas or not self.on_send(node, to, message):
                continue
            self.replicas[to].on_peer(node, self.codec.decode(self.codec.encode([message])), self.now)

    def _work(self, node: NodeId, work: object) -> None:
        replica = self.replicas[node]
        stored = self.snapshots[node]
        match work:
            case SaveSnapshot():
                stored[work.meta.last] = b"".join(work.chunks)
                replica.snapshot_saved(work.meta, ok=True)
            case ReadChunk():
                data = stored.get(work.meta.last)
                if data is None:
                    replica.chunk_missing(work)
                else:
                    end = work.offset + work.size
                    replica.chunk_read(work, data[work.offset : end], end >= len(data))
            case StoreChunk():
                partial = self.partial.setdefault(node, bytearray())
                complete = False
                if work.offset == len(partial):
                    partial += work.data
                    complete = work.last
                offset = len(partial)
                if complete:
                    stored[work.meta.last] = bytes(self.partial.pop(node))
                replica.chunk_stored(work, offset, complete, self.now)
            case LoadSnapshot() if self.in_steps:
                data = stored[work.meta.last]
                pieces = [data[at : at + 64] for at in range(0, len(data), 64)]
                self.loads[node] = replica.load_steps(work.meta, pieces)
            case LoadSnapshot():
                replica.load(work.meta, [stored[work.meta.last]])
            case CompactLog():
                self.compacted.append((node, work))
            case ClearAmnesia():
                replica.amnesia_cleared()
