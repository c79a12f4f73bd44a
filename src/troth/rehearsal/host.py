"""A machine with at most one process of a server on it: what outlives a process (disk, clock, name and addresses), and
how a process begins and ends. What the monitors see of the server is its seat (seat.py)."""

from typing import TYPE_CHECKING

from troth.core.interface import Engine, Trace
from troth.errors import IdentityLost, InvariantViolation, Removed, StorageError, WrongCluster
from troth.ids import NodeId
from troth.rehearsal.loop import Clock, ProcessLoop
from troth.rehearsal.machine import (
    DatagramTransport,
    SimulatedClock,
    SimulatedDirectory,
    SimulatedMachine,
    is_message,
)
from troth.rehearsal.plan import Plan
from troth.rehearsal.seat import Seat
from troth.rehearsal.watched import WatchedEngine
from troth.server.config import ServerConfig
from troth.server.server import Server
from troth.simulate.rng import stream

if TYPE_CHECKING:
    from troth.rehearsal.cluster import Cluster

CLIENT_PORT, PEER_PORT = 7001, 7101


class Host:
    """A machine: at most one process of a server runs on it."""

    def __init__(self, cluster: "Cluster", name: str, plan: Plan) -> None:
        self.cluster = cluster
        self.name = name
        self.plan = plan
        self.life = 0
        self.rng = stream(plan.seed, "host", name)
        self.chance = stream(plan.seed, "links", name)
        self.clock = Clock(cluster.world, self.rng.randrange(1, 60_000_000))
        self.ticks = SimulatedClock(self, plan.tick_ms)
        self.disk = SimulatedDirectory(stream(plan.seed, "disk", name, 0))
        self.registers = SimulatedDirectory(stream(plan.seed, "register disk", name, 0))
        """What the acceptor in this server keeps; it shares the disk's fate, but for faults of single writes."""
        self.disk_hangs = False
        self.disk_factor = 1
        self.loop: ProcessLoop | None = None
        self.server: Server | None = None
        self.seat: Seat | None = None
        self.last_id = 0
        """Who the last process here was, or is."""
        self.asks_first = ""
        """The server that it asks first when it joins."""
        self.joins = False
        """An operator starts it with --join: it is to become a member of the running cluster."""
        self.salvages = False
        self.trouble = ""
        """What was done to its disk, that may end its process or keep it from starting."""
        self.damaged = False
        """Something that was durable has been changed since the last start."""
        self.leaving = False
        """An operator is about to remove it from the cluster; until that is done it goes on as ever."""
        self.out_of_service = False
        """An operator is at work on it: nobody starts it meanwhile."""
        self.machine: SimulatedMachine
        self._disks = 0

    @property
    def up(self) -> bool:
        return self.loop is not None and self.loop.alive

    @property
    def client_address(self) -> str:
        return f"{self.name}:{CLIENT_PORT}"

    @property
    def peer_address(self) -> str:
        return f"{self.name}:{PEER_PORT}"

    @property
    def serving(self) -> Server | None:
        """The server, if it has got as far as to have a replica."""
        server = self.server
        return server if self.up and server is not None and server.has_node else None

    # ---- life ------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the process from what the disk holds."""
        if self.up or self.out_of_service:
            return
        self.life += 1
        cluster = self.cluster
        cluster.network.host_is_back(self.name)
        loop = self.loop = ProcessLoop(cluster.world, cluster.network, self.name, self.clock, self._on_error)
        if self.plan.round_us:
            loop.rounds_max, loop.round_us = 2, self.plan.round_us
        self.machine = SimulatedMachine(self, loop)
        loop.enter(self._start, loop)

    def _config(self) -> ServerConfig:
        plan = self.plan
        hosts = self.cluster.founders
        return ServerConfig(
            name=self.name,
            data_dir=self.name,
            client_address=self.client_address,
            peer_address=self.peer_address,
            initial_cluster={} if self.joins else {host.name: host.peer_address for host in hosts},
            join=self._seeds() if self.joins else (),
            insecure=True,
            tcp_only=True,
            consensus=plan.consensus,
            tick_ms=plan.tick_ms,
            heartbeat_ms=plan.heartbeat_ms,
            election_timeout_ms=plan.election_timeout_ms,
            lease_reads=plan.lease_reads,
            salvage=self.salvages,
            quota_bytes=plan.quota_bytes,
            snapshot_entries=plan.snapshot_entries,
        )

    def _seeds(self) -> tuple[str, ...]:
        """Whom it asks to be let in, in this order."""
        others = sorted(
            (host for host in self.cluster.hosts.values() if host is not self),
            key=lambda host: host.name != self.asks_first,
        )
        return tuple(host.client_address for host in others)

    def _start(self, loop: ProcessLoop) -> None:
        self.server = Server(self._config(), machine=self.machine, on_event=self._on_event)
        loop.create_task(self._live(loop, self.server))

    def _on_event(self, event: Trace) -> None:
        if event.name == "snapshot":
            # Told by the replica; what engines tell has been heard already.
            self.cluster.on_event(self, event)

    async def _live(self, loop: ProcessLoop, server: Server) -> None:
        try:
            await server.start()
            self.salvages = self.damaged = False
            await server.failed
        # The process ends with whatever it was; whether that was to be expected is judged outside of it.
        except Exception as error:  # noqa: BLE001
            self.cluster.world.after(0, self._exited, loop, error)

    def _exited(self, loop: ProcessLoop, error: Exception) -> None:
        if not loop.alive:
            return
        self._end(power=False)
        self.cluster.on_exit(self, error, expected=self._is_expected(error))

    def _is_expected(self, error: Exception) -> bool:
        if isinstance(error, Removed):
            return self.leaving or self.out_of_service
        if isinstance(error, StorageError) and self.trouble:
            return True
        if isinstance(error, IdentityLost) and self.joins:
            # An operator starts it when the old server is gone. What that one asked for may come late, though.
            return self.cluster.is_taken(self.name)
        return isinstance(error, WrongCluster) and self.joins

    def _on_error(self, error: BaseException) -> None:
        self.cluster.violated(
            error
            if isinstance(error, InvariantViolation)
            else InvariantViolation(f"unexpected {type(error).__name__} on a server: {error} ({self.name})"),
            cause=error,
        )

    def kill(self) -> None:
        """The process ends without warning; the machine and its page cache live on."""
        if self.up:
            self._end(power=False)
            self.disk.crash()
            self.registers.crash()

    def lose_power(self) -> None:
        """The machine ends without warning; what was not synced may be gone."""
        if self.up:
            self._end(power=True)
        self.disk.power_loss()
        self.registers.power_loss()

    def _end(self, *, power: bool) -> None:
        loop = self.loop
        if loop is None or not loop.alive:
            return
        self.cluster.network.process_ended(loop, power=power)
        loop.kill()
        if not power:
            self.disk.crash()
            self.registers.crash()
        self.server = None
        if self.seat is not None:
            self.seat.end()
            self.seat = None

    def wipe(self) -> None:
        """The disk is replaced by an empty one."""
        self._disks += 1
        self.disk = SimulatedDirectory(stream(self.plan.seed, "disk", self.name, self._disks))
        self.registers = SimulatedDirectory(stream(self.plan.seed, "register disk", self.name, self._disks))
        self.trouble = ""
        self.damaged = self.salvages = False

    # ---- for the machine ---------------------------------------------------------------------------------

    def disk_us(self) -> int:
        """How long the next sync takes."""
        draw = self.rng.random
        return (20 + int(draw() * draw() * 4 * self.plan.disk_us)) * self.disk_factor

    def watched(self, engine: Engine) -> Engine:
        """The engine of this process has just been made."""
        seat = self.cluster.seat(self, engine.node_id)
        self.seat, self.last_id = seat, engine.node_id
        seat.begin(engine, damaged=self.damaged)
        self.damaged = False
        return WatchedEngine(engine, seat)  # type: ignore[return-value]

    def on_synced(self, count: int) -> None:
        seat = self.seat
        if seat is not None:
            seat.journal.sync_upto(seat.journal.synced + count)

    def on_sent(self, peer: NodeId, body: bytes) -> None:
        """A frame for *peer* leaves; what is in it was encoded just before."""
        seat = self.seat
        if seat is not None:
            on_sent = self.cluster.monitor.on_sent
            messages = self.machine.codecs[-1].last
            if self.cluster.on_tell is not None:
                self.cluster.sending = ", ".join(type(message).__name__ for message in messages)
            for message in messages:
                on_sent(seat, peer, message)  # type: ignore[arg-type]

    def on_datagram(self, sender: NodeId, to: NodeId, cluster_id: int, data: bytes, original: bytes) -> None:
        """A frame has arrived; a connection would have been refused by whoever is not meant."""
        server, loop = self.server, self.loop
        if server is None or loop is None or not loop.alive:
            return
        transport: object = getattr(server, "transport", None)
        if not isinstance(transport, DatagramTransport) or transport.node_id != to:
            return
        if transport.cluster_id != cluster_id:
            return
        if data is not original and data != original and is_message(self.machine.codecs[-1], data):
            # No checksum would let that pass (TCP's, TLS's): what decodes all the same is taken for lost.
            return
        loop.enter(transport.receive, sender, data)
