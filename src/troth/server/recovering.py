"""What a data directory holds becomes an engine, and a replica over it, that go on from there."""

import logging
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from troth.core.engines import EngineConfig, engine_kind
from troth.core.interface import ORIGIN, Engine, SnapshotMeta, Status
from troth.ids import Tick
from troth.kv.store import Store
from troth.replica.machine import StateMachine
from troth.replica.replica import Replica
from troth.replica.state import ReplicaConfig, ReplicaStart
from troth.runtime.machine import Machine
from troth.server.config import ServerConfig
from troth.storage.directory import DataDirectory
from troth.storage.identity import Identity

if TYPE_CHECKING:
    from troth.server.tracing import TracedEngine  # loaded only when the settings ask for it

DISK_TIMEOUT_MS = 3000
"""A leader whose own disk is silent for so long steps down."""

_log = logging.getLogger("troth.server")


def engine_config(config: ServerConfig) -> EngineConfig:
    """The engine's settings, in ticks, that *config* comes to."""
    return EngineConfig(
        heartbeat_ticks=max(1, config.heartbeat_ms // config.tick_ms),
        election_timeout_ticks=max(2, config.election_timeout_ms // config.tick_ms),
        disk_timeout_ticks=max(1, DISK_TIMEOUT_MS // config.tick_ms),
        lease_reads=config.lease_reads,
        phase1_size=config.phase1_size,
        phase2_size=config.phase2_size,
        thrifty=config.thrifty,
    )


def recovered_replica(
    config: ServerConfig,
    who: Identity,
    directory: DataDirectory,
    *,
    machine: Machine,
    now: Callable[[], Tick],
    version: str,
) -> "tuple[Replica, TracedEngine | None]":
    """The replica of *who*, with all that *directory* has; and who writes down what its engine does, if anybody."""
    recovered = directory.recovered
    snapshot = recovered.snapshot or SnapshotMeta(ORIGIN, who.genesis)
    state = StateMachine(partial(Store, quota_bytes=config.quota_bytes))
    if recovered.snapshot is not None:
        state.load(directory.snapshots.load(recovered.snapshot))
    began = now()  # to load a snapshot takes its time
    engine = machine.engine(
        started_engine(
            config,
            who,
            directory,
            snapshot=snapshot,
            rng=random.Random(machine.chance.getrandbits(64)),
            now=began,
            settings=machine.engine_settings,
        )
    )
    tracer = None
    if config.trace_file:
        from troth.server.tracing import traced

        engine, tracer = traced(engine, who.node_id, config.trace_file)
    bounds = ReplicaConfig(
        ticks_per_second=1000 // config.tick_ms,
        snapshot_log_bytes=config.snapshot_log_bytes,
        snapshot_log_entries=config.snapshot_entries,
        consensus=config.consensus_identity,
        version=version,
    )
    start = ReplicaStart(
        engine=engine,
        machine=state,
        rng=random.Random(machine.chance.getrandbits(64)),
        name=config.name,
        cluster_id=who.cluster_id,
        snapshot=snapshot,
        config=machine.replica(bounds),
        now=began,
        amnesia=recovered.amnesia is not None,
    )
    return Replica(start), tracer


def started_engine(
    config: ServerConfig,
    who: Identity,
    directory: DataDirectory,
    *,
    snapshot: SnapshotMeta,
    rng: random.Random,
    now: Tick,
    settings: Callable[[EngineConfig], EngineConfig],
) -> Engine:
    """The engine of *who*, with all that *directory* has of its log behind *snapshot*, and *settings* made of those
    that *config* has."""
    recovered = directory.recovered
    chosen = settings(engine_config(config))
    # Nobody can lead a cluster whose servers have never run, so its first election need not be waited for in full;
    # a quarter is left for the others to come up.
    begun = Tick(now - chosen.election_timeout_ticks * 3 // 4) if directory.begins_cluster else now
    return engine_kind(config.consensus).start(
        node_id=who.node_id,
        config=chosen,
        rng=rng,
        snapshot=snapshot,
        hard_state=recovered.hard_state,
        # The log keeps whole segments, so it may begin before the snapshot.
        entries=[entry for entry in recovered.entries if entry.index > snapshot.last.index],
        slots=recovered.slots,
        chosen=recovered.chosen,
        now=begun,
        may_vote=recovered.amnesia is None,
    )


def warn_of_amnesia(status: Status) -> None:
    """Tell the operator what a lost part of the log means for the server whose engine has this *status*."""
    membership = status.membership
    if {*membership.voters, *membership.outgoing} != {status.node_id}:
        _log.warning(
            "a part of the log is lost: this server does not vote before it has caught up with the others"
        )
    else:
        _log.error(
            "a part of the log is lost, and no other server with a vote has it: this one serves what it knows to be "
            "decided (up to entry %d; its log ends at %d) at level eventual, and nothing else. Save that once all of "
            "it is applied (troth status, then troth range --prefix '' --level eventual -o json), or restore a backup "
            "into an empty directory (troth snapshot restore)",
            status.commit_index,
            status.last.index,
        )
