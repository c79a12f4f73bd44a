"""What a replica holds, and how its parts speak to clients.

The parts are layered over it, one file for each concern: writes.py, reading.py, leases.py, watching.py, admin.py,
and replica.py, which is the entry.
"""

from dataclasses import dataclass

from troth.core.interface import Engine, Membership, SnapshotMeta
from troth.errors import Overloaded
from troth.ids import LogIndex, NodeId, Tick
from troth.ports import Rng
from troth.replica.effects import ClientId, ReplicaEffects
from troth.replica.machine import StateMachine
from troth.replica.pieces import LongAnswer
from troth.replica.protocol import CallRefused, LeaderChanged, ServerMessage
from troth.replica.reads import ReadQueue, Serve, Waiting

NOBODY = NodeId(0)
NO_CLIENT: ClientId = 0
"""The "client" of what this server proposes for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """Bounds and rhythms; ticks are the engine's."""

    ticks_per_second: int = 100
    proposals_bytes_max: int = 64 << 20
    entry_bytes_max: int = 1 << 20
    entries_in_flight_max: int = 4
    """While so many own entries wait for a quorum, further proposals gather for the next one."""
    hold_ticks: int = 100
    """How long a write may wait for a leader to be known."""
    write_timeout_ticks: int = 1_000
    """How long a write that has left this server's hands may stay unanswered."""
    reads_waiting_max: int = 50_000
    read_timeout_ticks: int = 300
    answer_bytes_max: int = 256 << 20
    """What one answer to reads may hold."""
    progress_notify_ticks: int = 500
    """How often an idle watch that asked for it is told how far it is."""
    snapshot_log_bytes: int = 64 << 20
    """A snapshot is taken when the log has grown by so much, or by as much as the state is large (saving.py)."""
    snapshot_log_entries: int = 200_000
    log_kept_entries: int = 2_000
    """Entries kept behind a snapshot, so that a follower that lags a little needs no snapshot."""
    lag_bytes_max: int = 1 << 30
    """Log kept behind a snapshot for who is being sent, or loads, an earlier one. It is held in memory."""
    backlog_bytes_max: int = 256 << 20
    """Of what has committed and cannot be applied yet (a snapshot is being loaded): beyond it no more is taken in."""
    chunk_bytes: int = 512 << 10
    snapshot_bytes_per_second: int = 50 << 20
    consensus: str = "raft"
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStart:
    """What a replica starts from. `machine` holds the state after ``snapshot.last``, the snapshot that the engine was
    started with.

    `amnesia`: storage has lost a part of the log. Once this server has caught up with a confirmed leader it asks its
    driver to remove the mark (`ClearAmnesia`), and may vote again.
    """

    engine: Engine
    machine: StateMachine
    rng: Rng
    name: str
    cluster_id: int
    snapshot: SnapshotMeta
    config: ReplicaConfig
    now: Tick = Tick(0)
    amnesia: bool = False


class ReplicaState:
    """The common ground of a replica's parts."""

    def __init__(self, start: ReplicaStart) -> None:
        self.engine = start.engine
        self.machine = start.machine
        self.name = start.name
        self.cluster_id = start.cluster_id
        self._config = start.config
        self._now = start.now
        self._out = ReplicaEffects()
        self._clients: set[ClientId] = set()
        self._members: Membership = start.engine.status().membership
        self._applied: LogIndex = start.snapshot.last.index
        self._reads = ReadQueue(count_max=start.config.reads_waiting_max)

    @property
    def _leader(self) -> NodeId:
        return self.engine.leader()[1]

    @property
    def _leading(self) -> bool:
        return self.engine.leader()[1] == self.engine.node_id

    def _reply(self, client: ClientId, message: ServerMessage | LongAnswer) -> None:
        if client in self._clients:
            self._out.replies.append((client, message))

    def _refuse_call(self, client: ClientId, call: int, code: str, text: str) -> None:
        self._reply(client, CallRefused(call, code, text, self._leader_address()))

    def _leader_address(self) -> str:
        """Where clients find the leader; empty while nobody is known to lead."""
        member = self._members.members.get(self._leader)
        return member.client_address if member else ""

    def _leader_notice(self) -> LeaderChanged:
        term, leader = self.engine.leader()
        return LeaderChanged(term, leader, self._leader_address())

    def _ms(self, ticks: int) -> int:
        return ticks * 1000 // self._config.ticks_per_second

    def _waiting(self, client: ClientId, call: int, serve: Serve) -> Waiting:
        return Waiting(
            serve,
            lambda code, text: self._refuse_call(client, call, code, text),
            Tick(self._now + self._config.read_timeout_ticks),
        )

    def _at_point(self, client: ClientId, call: int, serve: Serve) -> None:
        """Do *serve* once a linearizable read point has been reached."""
        if self._reads.full:
            self._refuse_call(client, call, Overloaded.code, "too many reads wait here; send less at once")
        else:
            self._reads.wait_point(self._waiting(client, call, serve))
