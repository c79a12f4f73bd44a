"""The computer that a simulated server believes to run on: a `runtime.machine.Machine` made of virtual parts.

The disk is `simulate.disk.SimulatedDisk`; appending to the log and syncing it are two moments, and a crash may fall
between them. Links to other servers are the real ones over simulated streams, or `DatagramTransport`, where each
frame is on its own.
"""

import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
from typing_extensions import override

from troth.core.engines import EngineConfig
from troth.core.interface import Engine, Message, Persist
from troth.errors import DecodeError
from troth.ids import NodeId, Tick
from troth.replica.peers import PeerCodec
from troth.replica.state import ReplicaConfig
from troth.runtime.clock import Clock
from troth.runtime.disk_machine import Directory, Worker
from troth.runtime.links import PeerSink
from troth.runtime.machine import Machine
from troth.runtime.transport import PeerTransport
from troth.runtime.writer import DurableLog, LogWriter, WriterCounters
from troth.server.acceptors import DIRECTORY as REGISTERS
from troth.simulate.disk import SimulatedDisk
from troth.simulate.rng import stream
from troth.storage.acceptors import AcceptorStore

if TYPE_CHECKING:
    from troth.rehearsal.host import Host
    from troth.rehearsal.loop import ProcessLoop

TICKS_BEFORE = 10_000
"""An engine may be told that it was started a while ago, so time does not begin at 0."""


class SimulatedDirectory(SimulatedDisk):
    """A disk that holds one data directory."""

    def close(self) -> None:
        """Nothing else wants it."""


class SimulatedClock(Clock):
    """Ticks of a host's clock."""

    def __init__(self, host: "Host", tick_ms: int) -> None:
        self.tick_ms = tick_ms
        self._clock = host.clock
        self._world = host.cluster.world
        self._tick_us = tick_ms * 1000

    @override
    def now(self) -> Tick:
        clock = self._clock
        local_us = self._world.now_us + clock.ahead_us if clock.is_right else clock.local_us()
        return local_us // self._tick_us + TICKS_BEFORE  # type: ignore[return-value]

    ticks = now
    """As invariants call it."""


class DiskTimes:
    """How long the disk of one process takes, and whether it answers at all."""

    def __init__(self, host: "Host", loop: "ProcessLoop") -> None:
        self.host = host
        self.loop = loop
        self._waiting: list[Callable[[], None]] = []

    def later(self, step: Callable[[], None], share: int = 1) -> None:
        """Do *step* after the 1/*share* of a sync's time, or when the disk answers again."""
        self.loop.world.after(self.host.disk_us() // share, self._do, step)

    def _do(self, step: Callable[[], None]) -> None:
        if not self.loop.alive:
            return
        if self.host.disk_hangs or self.loop.paused:
            self._waiting.append(step)
            if self.loop.paused and not self.host.disk_hangs:
                self.loop.world.after(1_000, self.answer)
        else:
            step()

    def answer(self) -> None:
        """The disk goes on."""
        waiting, self._waiting = self._waiting, []
        for step in waiting:
            self.loop.world.after(0, self._do, step)


class SimulatedWriter:
    """`runtime.writer.StorageWriter` without its thread: what waits is appended together, and synced a while later."""

    def __init__(
        self,
        *,
        disk: DiskTimes,
        log: DurableLog,
        on_durable: Callable[[int], None],
        on_failed: Callable[[Exception], None],
        synced: Callable[[int], None],
    ) -> None:
        """*synced* is told of so many writes before the process is."""
        self._synced = synced
        self.counters = WriterCounters()
        self._disk = disk
        self._log = log
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._queue: deque[Persist | Callable[[], None]] = deque()
        self._busy = False

    def start(self) -> None:
        """Nothing to be started."""

    def submit(self, persist: Persist) -> None:
        """Queue one write."""
        self._queue.append(persist)
        self._go_on()

    def call(self, job: Callable[[], None]) -> None:
        """Run *job* between two writes."""
        self._queue.append(job)
        self._go_on()

    def stop(self, seconds_max: float = 5.0) -> bool:
        """What is queued is lost unless time passes."""
        del seconds_max
        return not self._busy

    def _go_on(self) -> None:
        if not self._busy and self._queue:
            self._busy = True
            self._disk.later(self._append, 8)

    def _append(self) -> None:
        batch: list[Persist] = []
        while self._queue and isinstance(self._queue[0], Persist):
            batch.append(self._queue.popleft())  # type: ignore[arg-type]
        if batch:
            if self._guarded(lambda: self._log.append(batch)):
                self._disk.later(lambda: self._sync(batch))
            return
        job = self._queue.popleft()
        if self._guarded(job):  # type: ignore[arg-type]
            self._busy = False
            self._go_on()

    def _sync(self, batch: Sequence[Persist]) -> None:
        if self._guarded(self._log.sync):
            self.counters.syncs += 1
            self.counters.writes += len(batch)
            self._synced(len(batch))
            self._disk.loop.enter(self._on_durable, len(batch))
            self._busy = False
            self._go_on()

    def _guarded(self, action: Callable[[], None]) -> bool:
        try:
            action()
        # As in the thread of the real one: the loop is told, whatever it was.
        except Exception as error:  # noqa: BLE001
            self._disk.loop.enter(self._on_failed, error)
            return False
        return True


class SimulatedWorker:
    """`runtime.machine.ThreadWorker` without its thread."""

    def __init__(self, disk: DiskTimes, on_failed: Callable[[BaseException], object]) -> None:
        self._disk = disk
        self._on_failed = on_failed
        self._jobs: deque[Callable[[], None]] = deque()
        self._failed = False

    def do(self, job: Callable[[], None]) -> None:
        if self._failed:
            return
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._disk.later(self._next, 2)

    def stop(self, seconds_max: float = 5.0) -> bool:
        del seconds_max
        return not self._jobs

    def _next(self) -> None:
        try:
            self._jobs[0]()
        # As in the thread of the real one.
        except Exception as error:  # noqa: BLE001
            self._failed = True
            self._jobs.clear()
            self._disk.loop.enter(self._on_failed, error)
            return
        self._jobs.popleft()
        if self._jobs:
            self._disk.later(self._next, 2)


class WatchedCodec(PeerCodec):
    """Remembers what it has encoded, for whoever sends it on."""

    def __init__(self, messages: Any) -> None:
        super().__init__(messages)
        self.last: Sequence[Message] = ()

    @override
    def encode(self, messages: Sequence[Message]) -> bytes:
        self.last = messages
        return super().encode(messages)


class WatchedTransport(PeerTransport):
    """The real one; its host sees what leaves."""

    def __init__(self, host: "Host", *, node_id: NodeId, name: str, sink: PeerSink) -> None:
        super().__init__(node_id=node_id, name=name, sink=sink, seed=host.chance.getrandbits(32))
        self._host = host

    @override
    def send(self, peer: NodeId, body: bytes) -> None:
        self._host.on_sent(peer, body)
        super().send(peer, body)


class DatagramTransport(WatchedTransport):
    """Every frame on its own; probes of servers that begin still come over streams."""

    def __init__(self, host: "Host", loop: "ProcessLoop", *, node_id: NodeId, name: str, sink: PeerSink) -> None:
        super().__init__(host, node_id=node_id, name=name, sink=sink)
        self._loop = loop
        self._hosts: dict[NodeId, str] = {}

    @override
    def set_peers(self, addresses: Mapping[NodeId, str]) -> None:
        self._hosts = {peer: address.partition(":")[0] for peer, address in addresses.items()}

    @override
    def send(self, peer: NodeId, body: bytes) -> None:
        host, target = self._host, self._hosts.get(peer)
        if target is None:
            # Somebody who is no member here (any more, or yet) has asked: answer where it came from.
            target = host.cluster.host_of.get(peer)
            if target is None:
                return
        host.on_sent(peer, body)
        there = host.cluster.hosts[target]
        sent = host.cluster.network.throw(
            host.name,
            target,
            body,
            lambda data: there.on_datagram(self.node_id, peer, self.cluster_id, data, body),
        )
        self.counters.frames_sent += 1
        if not sent:
            self._loop.world.after(1_000, self._loop.enter, self.sink.on_unreachable, peer)

    def receive(self, sender: NodeId, body: bytes) -> None:
        """A frame has arrived (in this server's process)."""
        if self.accept_peers:
            try:
                self.frame_received(sender, [body])
            except DecodeError as error:
                self.garbage(f"{sender:x}", error)


class SimulatedMachine(Machine):
    """What one life of a server takes its surroundings from."""

    def __init__(self, host: "Host", loop: "ProcessLoop") -> None:
        self.chance = stream(host.plan.seed, "chance", host.name, host.life)
        self.segment_bytes = host.plan.segment_bytes
        self.codecs: list[WatchedCodec] = []
        self.transports: list[WatchedTransport] = []
        self.disk = DiskTimes(host, loop)
        self._host = host
        self._loop = loop

    @override
    def directory(self, path: str) -> Directory:
        return self._host.registers if path.endswith(f"/{REGISTERS}") else self._host.disk

    @override
    def clock(self, tick_ms: int) -> Clock:
        return SimulatedClock(self._host, tick_ms)

    @override
    def transport(
        self, *, node_id: NodeId, name: str, sink: PeerSink, tls: ssl.SSLContext | None
    ) -> PeerTransport:
        if self._host.plan.datagrams:
            made: WatchedTransport = DatagramTransport(
                self._host, self._loop, node_id=node_id, name=name, sink=sink
            )
        else:
            made = WatchedTransport(self._host, node_id=node_id, name=name, sink=sink)
        self.transports.append(made)
        return made

    @override
    def writer(
        self,
        *,
        log: DurableLog,
        post: Callable[..., object],
        on_durable: Callable[[int], None],
        on_failed: Callable[[Exception], None],
    ) -> LogWriter:
        # The shadow is of the engine's log; acceptors of registers keep their own.
        synced = (lambda _: None) if isinstance(log, AcceptorStore) else self._host.on_synced
        return SimulatedWriter(disk=self.disk, log=log, on_durable=on_durable, on_failed=on_failed, synced=synced)

    @override
    def worker(self, name: str, on_failed: Callable[[BaseException], object]) -> Worker:
        return SimulatedWorker(self.disk, on_failed)

    @override
    def engine_settings(self, config: EngineConfig) -> EngineConfig:
        if not self._host.plan.tight:
            return config
        return replace(
            config,
            append_bytes_max=300,
            uncommitted_bytes_max=400,
            reads_pending_max=3,
            promote_lag_max=1,
            disk_timeout_ticks=config.election_timeout_ticks,
        )

    @override
    def engine(self, engine: Engine) -> Engine:
        return self._host.watched(engine)

    @override
    def codec(self, messages: Any) -> PeerCodec:
        codec = WatchedCodec(messages)
        self.codecs.append(codec)
        return codec

    @override
    def after_turn(self, step: Callable[..., object], *arguments: Any) -> None:
        load_us = self._host.plan.load_us
        if load_us:
            self._loop.world.after(
                int(self._host.rng.expovariate(1.0) * load_us), self._loop.enter, step, *arguments
            )
        else:
            self._loop.call_soon(step, *arguments)

    @override
    def replica(self, config: ReplicaConfig) -> ReplicaConfig:
        plan = self._host.plan
        if plan.tight:
            config = replace(
                config,
                proposals_bytes_max=300,
                entry_bytes_max=200,
                entries_in_flight_max=1,
                reads_waiting_max=4,
                lag_bytes_max=1_000,
                backlog_bytes_max=300,
                snapshot_bytes_per_second=20_000,
            )
        return replace(
            config, log_kept_entries=plan.log_kept_entries, chunk_bytes=plan.chunk_bytes, progress_notify_ticks=100
        )

    @override
    def settle(self) -> None:
        """The collector is the simulator's."""


def is_message(codec: PeerCodec, body: bytes) -> bool:
    """Whether *body* can be taken for messages."""
    try:
        codec.decode(body)
    except (DecodeError, msgspec.MsgspecError):
        return False
    return True
