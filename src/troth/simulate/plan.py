"""What a seed stands for: the cluster, its settings, and how often each thing goes wrong.

Swarm testing (Groce et al., ISSTA 2012): every seed draws its own rates, and leaves many faults out altogether, so
that some runs dwell on what runs with everything at once never reach.
"""

import random
from dataclasses import dataclass

from troth.core.raft.state import RaftConfig
from troth.simulate.rng import stream

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Probabilities are per mille of messages or events; rates are events per 100 simulated seconds."""

    seed: int
    voters: int
    spares: int
    chaos_us: int
    config: RaftConfig
    tick_stride: int
    """A node's clock is looked at every so many ticks."""

    loss: int
    duplicate: int
    delay_us: int
    """Mean of the exponential part of the delay of a message."""
    delay_long: int
    """Per mille of messages that are late by seconds."""
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
    clock_changes: int
    wrong_hints: int
    death_seen: int
    """Per mille of crashes that the peers are told of at once."""
    unreachable_told: int
    """Per mille of lost messages of which the sender is told."""
    transfers: int
    changes: int
    compactions: int
    keep_behind: int
    """Entries kept in front of a snapshot."""
    proposals: int
    """Per 100 seconds, like all rates."""
    reads: int

    def describe(self) -> str:
        """One line for the report of a red seed."""
        config = self.config
        mode = f"lease reads, drift {config.clock_drift_percent} %" if config.lease_reads else "read index"
        rates = ", ".join(
            f"{name} {getattr(self, name)}"
            for name in (
                *(
                    "loss",
                    "duplicate",
                    "delay_us",
                    "delay_long",
                    "disk_us",
                    "defer",
                    "partitions",
                    "one_way",
                    "crashes",
                ),
                *("crash_all", "pauses", "disk_hangs", "clock_changes", "wrong_hints", "transfers", "changes"),
                *("compactions", "proposals", "reads"),
            )
        )
        return f"{self.voters} voters, {self.spares} spares, {mode}; {rates}"


def draw(seed: int, *, chaos_seconds: int) -> Plan:
    """The plan of *seed*."""
    rng = stream(seed, "plan")

    def maybe(chance: float, lo: int, hi: int) -> int:
        return rng.randint(lo, hi) if rng.random() < chance else 0

    lease = rng.random() < 0.3
    return Plan(
        seed=seed,
        voters=rng.choice((1, 2, 3, 3, 3, 3, 4, 5, 5, 5)),
        spares=rng.choice((0, 0, 1, 2, 3)),
        chaos_us=chaos_seconds * SECOND_US,
        config=_config(rng, lease),
        tick_stride=rng.choice((1, 1, 2, 3)),
        loss=maybe(0.6, 5, 250),
        duplicate=maybe(0.5, 5, 300),
        delay_us=rng.choice((200, 1_000, 5_000, 20_000, 60_000)),
        delay_long=maybe(0.4, 1, 30),
        disk_us=rng.choice((100, 1_000, 5_000, 30_000, 150_000)),
        defer=maybe(0.5, 50, 600),
        apply_us=rng.choice((0, 0, 1_000, 30_000)),
        partitions=maybe(0.6, 10, 200),
        one_way=maybe(0.5, 200, 1000),
        crashes=maybe(0.7, 10, 200),
        crash_all=maybe(0.3, 2, 30),
        keep_unsynced=rng.choice((0, 0, 500, 900)),
        pauses=maybe(0.4, 10, 150),
        disk_hangs=maybe(0.3, 5, 40),
        clock_changes=maybe(0.4, 5, 40),
        wrong_hints=maybe(0.4, 10, 200),
        death_seen=maybe(0.6, 200, 1000),
        unreachable_told=maybe(0.4, 100, 1000),
        transfers=maybe(0.4, 10, 200),
        changes=maybe(0.5, 20, 200),
        compactions=maybe(0.6, 20, 400),
        keep_behind=rng.choice((0, 0, 3, 20)),
        proposals=rng.choice((200, 1_000, 1_000, 3_000)),
        reads=maybe(0.8, 100, 1_000),
    )


def _config(rng: random.Random, lease: bool) -> RaftConfig:
    heartbeat = rng.choice((2, 5, 5, 10))
    return RaftConfig(
        heartbeat_ticks=heartbeat,
        election_timeout_ticks=heartbeat * rng.choice((4, 8, 12)),
        lease_reads=lease,
        clock_drift_percent=rng.choice((5, 10, 20)),
        disk_timeout_ticks=rng.choice((40, 100, 300)),
        append_bytes_max=rng.choice((60, 200, 1 << 20)),
        uncommitted_bytes_max=rng.choice((500, 1 << 20)),
        reads_pending_max=rng.choice((3, 10_000)),
        promote_lag_max=rng.choice((0, 3, 64)),
    )
