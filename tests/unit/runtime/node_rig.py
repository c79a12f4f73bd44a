"""A node whose replica is a script, whose disk is a switch, and whose sockets are lists."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from troth.core.interface import Entry, EntryId, EntryKind, HardState, Message, Persist, Trace
from troth.core.raft.messages import AppendEntries, RaftMessage
from troth.errors import InvariantViolation
from troth.ids import ClusterId, LogIndex, NodeId, Term, Tick
from troth.replica.effects import ClientId, ReplicaEffects, SnapshotWork
from troth.replica.peers import PeerCodec, TellRevision
from troth.replica.protocol import ServerMessage
from troth.runtime.clock import Clock
from troth.runtime.node import Node

ME, PEER, OTHER = NodeId(1), NodeId(2), NodeId(3)
CODEC = PeerCodec(RaftMessage)


def message(number: int) -> Message:
    return TellRevision(number, 0)


def append(count: int) -> Message:
    """With *count* entries."""
    entries = tuple(Entry(LogIndex(1 + each), Term(1), EntryKind.NOOP, b"") for each in range(count))
    return AppendEntries(Term(1), EntryId(Term(0), LogIndex(0)), entries, LogIndex(0))


class ScriptedReplica:
    """Gives prepared effects, and remembers what it was given."""

    def __init__(self) -> None:
        self.script: list[ReplicaEffects] = []
        self.heard: list[tuple[Any, ...]] = []
        self.ticks: list[Tick] = []
        self.arrivals: list[Tick] = []
        self.sleeps_until = Tick(0)
        self.broken: Exception | None = None
        self.chokes = False
        """Whether each input makes it fail half way through."""
        self.pending_bytes = 0
        self.removed: set[NodeId] = set()
        self.progress: dict[NodeId, Any] = {}
        self.engine = SimpleNamespace(
            leader=lambda: (5, PEER),
            transfer=lambda target: None,
            status=lambda: SimpleNamespace(progress=self.progress),
        )

    def was_removed(self, peer: NodeId) -> bool:
        return peer in self.removed

    def take_effects(self) -> ReplicaEffects:
        if self.broken is not None:
            raise self.broken
        return self.script.pop(0) if self.script else ReplicaEffects()

    def tick(self, now: Tick) -> None:
        self.ticks.append(now)

    def asleep_until(self) -> Tick:
        return self.sleeps_until

    def on_peer(self, sender: NodeId, messages: Sequence[Message], now: Tick) -> None:
        self.heard.append(("peer", sender, *messages))
        if self.chokes:
            raise InvariantViolation("half way through an input")

    def on_client(self, client: ClientId, asked: object, raw: bytes, now: Tick) -> None:
        self.arrivals.append(now)
        self.heard.append(("client", client, asked, raw))
        if self.chokes:
            raise InvariantViolation("half way through an input")

    def suspect(self, peer: NodeId, now: Tick) -> None:
        self.heard.append(("suspect", peer))
        if self.chokes:
            raise InvariantViolation("half way through an input")

    def client_connected(self, client: ClientId) -> None:
        self.client_gone(client)

    def client_paused(self, client: ClientId, paused: bool) -> None:
        self.client_gone(client)

    def client_gone(self, client: ClientId) -> None:
        if self.chokes:
            raise InvariantViolation("half way through an input")

    def unreachable(self, peer: NodeId) -> None:
        self.heard.append(("unreachable", peer))
        if self.chokes:
            raise InvariantViolation("half way through an input")


class RecordingTransport:
    def __init__(self) -> None:
        self.looked_for_strangers = 0
        self.sent: list[tuple[NodeId, list[Message]]] = []
        self.peers: dict[NodeId, str] = {}

    def close_strangers(self) -> None:
        self.looked_for_strangers += 1

    def send(self, peer: NodeId, body: bytes) -> None:
        self.sent.append((peer, CODEC.decode(body)))

    def set_peers(self, addresses: dict[NodeId, str]) -> None:
        self.peers = dict(addresses)


class SwitchedWriter:
    """Keeps writes until the test says that they are durable."""

    def __init__(self) -> None:
        self.writes: list[Persist] = []

    def start(self) -> None:
        pass

    def submit(self, persist: Persist) -> None:
        self.writes.append(persist)


class NoSnapshots:
    def start(self, work: SnapshotWork) -> None:
        raise AssertionError(work)


class Clients:
    def __init__(self) -> None:
        self.delivered: list[list[tuple[ClientId, ServerMessage]]] = []

    def deliver(self, replies: Sequence[tuple[ClientId, ServerMessage]]) -> None:
        self.delivered.append(list(replies))


class Rig:
    def __init__(self, tick_ms: int = 1000) -> None:
        self.replica = ScriptedReplica()
        self.transport = RecordingTransport()
        self.writer = SwitchedWriter()
        self.clients = Clients()
        self.events: list[Trace] = []
        self.node = Node(
            node_id=ME,
            name="n1",
            cluster_id=ClusterId(5),
            replica=cast(Any, self.replica),
            codec=CODEC,
            transport=cast(Any, self.transport),
            clock=Clock(tick_ms),
            on_event=self.events.append,
        )
        self.node.clients = self.clients
        self.node.start(writer=cast(Any, self.writer), snapshots=NoSnapshots())

    async def turn(self, *effects: ReplicaEffects) -> None:
        """Have one turn of the loop give *effects*."""
        await asyncio.sleep(0)
        self.replica.script.extend(effects)
        for _ in effects:
            self.node.after_work()
            await asyncio.sleep(0)


def persist(term: int) -> Persist:
    return Persist(hard_state=HardState(Term(term), NodeId(0)))
