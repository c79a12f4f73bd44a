"""What a seed stands for: the cluster, its settings, and how often each thing goes wrong.

Swarm testing (Groce et al., ISSTA 2012): every seed draws its own rates, and leaves many faults out altogether, so
that some runs dwell on what runs with everything at once never reach.
"""

import random
from dataclasses import dataclass, replace

from troth.core.config import EngineConfig
from troth.simulate.rng import stream

SECOND_US = 1_000_000
TICK_US = 10_000
"""What a tick lasts on a clock that runs right: 10 ms."""

THRIFTY = 0.3
"""In so many seeds a Paxos leader spares acceptors."""

_TOLD_APART = ("seed", "consensus", "voters", "spares", "chaos_us", "config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Probabilities are per mille of messages or events. Rates are events per 100 election timeouts, since it is that
    against which a fault is short or long."""

    seed: int
    consensus: str = "raft"
    voters: int
    spares: int
    chaos_us: int
    config: EngineConfig
    tick_stride: int
    """A node's clock is looked at every so many ticks."""

    loss: int
    duplicate: int
    delay_us: int
    """Mean of the exponential part of the delay of a message."""
    delay_long: int
    """Per mille of messages that are late by several election timeouts."""
    shorten: int
    """Per mille of appends of which a copy arrives that ends earlier: a leader may send any part of its log."""
    disk_us: int
    """Mean time of a sync."""
    defer: int
    """Per mille of inputs after which a node takes more inputs before it looks at the effects."""
    apply_us: int
    """Mean delay before committed entries are applied."""

    partitions: int
    one_way: int
    """Per mille of partitions that cut one direction only."""
    crashes: int
    crash_all: int
    keep_unsynced: int
    """Per mille of unsynced writes that survive a crash, each one only if all before it do."""
    pauses: int
    disk_hangs: int
    rot: int
    """A server finds the end of its durable log unreadable when it starts, and may not vote before it has it again."""
    clock_changes: int
    wrong_hints: int
    death_seen: int
    """Per mille of crashes that the peers are told of at once."""
    unreachable_told: int
    """Per mille of lost messages of which the sender is told."""
    transfers: int
    changes: int
    change_then_crash: int
    """Per mille of membership changes in the middle of which all servers crash."""
    compactions: int
    keep_behind: int
    """Entries kept in front of a snapshot."""
    proposals: int
    reads: int

    def describe(self) -> str:
        """One line for the report of a red seed."""
        config = self.config
        mode = f"lease reads, drift {config.clock_drift_percent} %" if config.lease_reads else "read index"
        mode += ", thrifty" if config.thrifty else ""
        rates = ", ".join(f"{name} {getattr(self, name)}" for name in self.__slots__ if name not in _TOLD_APART)
        return f"{self.voters} voters, {self.spares} spares, {mode}; {rates}"


def draw(seed: int, *, chaos_seconds: int, consensus: str = "raft") -> Plan:
    """The plan of *seed*. For every consensus the same, but for what only one of them knows."""
    rng = stream(seed, "plan")

    def maybe(chance: float, lo: int, hi: int, rng: random.Random = rng) -> int:
        return rng.randint(lo, hi) if rng.random() < chance else 0

    config = _config(rng, lease=rng.random() < 0.3)
    timeout_us = config.election_timeout_ticks * TICK_US
    voters = rng.choice((1, 2, 3, 3, 3, 3, 4, 5, 5, 5))
    if consensus == "paxos":
        config = _with_flexible_quorums(config, voters, stream(seed, "quorums"))
        config = replace(config, thrifty=stream(seed, "sparing").random() < THRIFTY)
    changes = maybe(0.5, 10, 100)
    # Only where the others are a quorum without it at all times: else nothing may be decided before it is back.
    rots = voters >= 3 and not changes and not config.phase1_size
    # Paxos draws by itself, so that its seeds stay the runs that they were before it had this fault.
    paxos_rot = maybe(0.4, 5, 30, stream(seed, "rot")) if rots and consensus == "paxos" else 0
    return Plan(
        seed=seed,
        consensus=consensus,
        voters=voters,
        spares=rng.choice((0, 0, 1, 2, 3)),
        chaos_us=chaos_seconds * SECOND_US,
        config=config,
        tick_stride=rng.choice((1, 1, 2, 3)),
        loss=maybe(0.6, 5, 250),
        duplicate=maybe(0.5, 5, 300),
        delay_us=timeout_us // rng.choice((4, 15, 50, 400)),
        delay_long=maybe(0.4, 1, 50),
        shorten=maybe(0.4, 5, 200),
        disk_us=timeout_us // rng.choice((3, 10, 50, 400)),
        defer=maybe(0.5, 50, 600),
        apply_us=rng.choice((0, 0, timeout_us // 20)),
        partitions=maybe(0.6, 5, 80),
        one_way=maybe(0.5, 200, 1000),
        crashes=maybe(0.7, 5, 80),
        crash_all=maybe(0.3, 1, 20),
        keep_unsynced=rng.choice((0, 0, 500, 900)),
        pauses=maybe(0.4, 5, 60),
        disk_hangs=maybe(0.3, 2, 20),
        rot=maybe(0.4, 5, 30) if rots and consensus == "raft" else paxos_rot,
        clock_changes=maybe(0.4, 5, 40),
        wrong_hints=maybe(0.4, 5, 80),
        death_seen=maybe(0.6, 200, 1000),
        unreachable_told=maybe(0.4, 100, 1000),
        transfers=maybe(0.4, 5, 80),
        changes=changes,
        change_then_crash=maybe(0.5, 50, 500),
        compactions=maybe(0.6, 10, 150),
        keep_behind=rng.choice((0, 0, 3, 20)),
        proposals=rng.choice((50, 200, 600, 1_500)),
        reads=maybe(0.8, 50, 500),
    )


def _with_flexible_quorums(config: EngineConfig, voters: int, rng: random.Random) -> EngineConfig:
    """Quorums of different sizes for a third of the seeds; they need only just meet."""
    if rng.random() < 0.67:
        return config
    phase2 = rng.randint(1, voters)
    return replace(config, phase1_size=voters - phase2 + 1, phase2_size=phase2)


def _config(rng: random.Random, *, lease: bool) -> EngineConfig:
    heartbeat = rng.choice((2, 3, 5, 8))
    return EngineConfig(
        heartbeat_ticks=heartbeat,
        election_timeout_ticks=heartbeat * rng.choice((4, 6, 8, 12)),
        lease_reads=lease,
        clock_drift_percent=rng.choice((5, 10, 20)),
        disk_timeout_ticks=rng.choice((30, 100, 300)),
        append_bytes_max=rng.choice((30, 60, 200, 1 << 20)),
        uncommitted_bytes_max=rng.choice((500, 1 << 20)),
        reads_pending_max=rng.choice((3, 10_000)),
        promote_lag_max=rng.choice((0, 3, 64)),
    )
