"""What a seed of whole servers stands for: the cluster, its settings, its clients, and how often each thing goes wrong.

Swarm testing (Groce et al., ISSTA 2012): every seed draws its own rates, and leaves many faults out altogether, so
that some runs dwell on what runs with everything at once never reach.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from troth.simulate.rng import stream
from troth.verify.history import counted

SECOND_US = 1_000_000

RATES = (
    *("partitions", "flaps", "resets", "crashes", "power_losses", "power_all", "pauses", "clocks", "slow_disks"),
    *("disk_hangs", "full_disks", "failed_syncs", "rot", "wipes", "transfers", "changes", "compactions", "hints"),
)
"""Fields that are numbers of events per 100 simulated seconds."""

RARE = ("load_us", "round_us", "tight", "fresh_watchers", "late_followers")
"""Fields of moments that chance alone makes too seldom."""

RARE_SHARES = (0.2, 0.15, 0.3, 0.2, 0.1, 0.2)
"""Of all seeds, for each of those moments; less where it costs speed."""

CHANCES = ("loss", "duplicate", "garble", "delay_long")
"""Fields that are per mille of packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Rates are events per 100 simulated seconds; chances are per mille of packets."""

    seed: int
    consensus: str
    servers: int
    chaos_us: int
    calm: bool = True
    """Whether the run goes on after the chaos; a red run that is being made small need not."""

    tick_ms: int
    heartbeat_ms: int
    election_timeout_ms: int
    lease_reads: bool
    snapshot_entries: int
    log_kept_entries: int
    chunk_bytes: int
    segment_bytes: int
    quota_bytes: int

    datagrams: bool
    """Servers talk in single frames that can be lost, doubled and overtaken, instead of over streams."""
    delay_us: int
    """Mean of the delay of a packet, about."""
    delay_long: int
    loss: int
    duplicate: int
    garble: int
    unreachable_told: int
    disk_us: int
    """Mean time of a sync, about."""

    partitions: int = 0
    flaps: int = 0
    resets: int = 0
    crashes: int = 0
    power_losses: int = 0
    power_all: int = 0
    pauses: int = 0
    clocks: int = 0
    slow_disks: int = 0
    disk_hangs: int = 0
    full_disks: int = 0
    failed_syncs: int = 0
    rot: int = 0
    wipes: int = 0
    transfers: int = 0
    changes: int = 0
    compactions: int = 0
    hints: int = 0

    clients: int
    keys: int
    think_us: int
    """Mean pause of a client between two operations."""
    watchers: int
    leases: bool
    register_clients: int = 0
    """Clients of leaderless registers, beside the others."""

    load_us: int = 0
    """Mean time of a step of loading a snapshot; writes go on meanwhile."""
    round_us: int = 0
    """What a round of a server's loop takes that has left something to do. Long work is done in the smallest steps
    then, and clients delete ranges."""
    tight: int = 0
    """Whether all bounds of servers, and of what a client keeps for a watch, are so low that they are met."""
    fresh_watchers: int = 0
    """Clients that begin watches from now on, again and again, at a server that may lag behind what they have seen."""
    late_followers: int = 0
    """Of 100 servers that are replaced in a cluster of four or more so many ask somebody first, when they join again,
    who has not heard of it."""

    @property
    def election_timeout_us(self) -> int:
        return self.election_timeout_ms * 1000

    def describe(self) -> str:
        """One line for the report of a red seed: what is special about it."""
        on = ", ".join(f"{name} {getattr(self, name)}" for name in (*CHANCES, *RATES) if getattr(self, name))
        how = "frames" if self.datagrams else "streams"
        reads = "lease reads" if self.lease_reads else "read index"
        if rare := ", ".join(f"{name} {getattr(self, name)}" for name in RARE if getattr(self, name)):
            on = f"{on}, {rare}".removeprefix(", ")
        return (
            f"{self.consensus}, {counted(self.servers, 'server')} over {how}, {reads}, election timeout "
            f"{self.election_timeout_ms} ms, {counted(self.clients, 'client')}; {on or 'no faults'}"
        )


def plan_from(values: dict[str, Any]) -> Plan:
    """A plan that was written down with `asdict`; unknown fields are those of another version, and are left out."""
    known = {field.name for field in fields(Plan)}
    return Plan(**{name: value for name, value in values.items() if name in known})


def written(plan: Plan) -> dict[str, Any]:
    """*plan* as JSON can hold it."""
    return asdict(plan)


def draw(seed: int, *, chaos_seconds: float, consensus: str = "raft", servers: int = 0) -> Plan:
    """The plan of *seed*. *servers*: so many, instead of a number that the seed draws."""
    rng = stream(seed, "server plan")

    def maybe(chance: float, lo: int, hi: int) -> int:
        return rng.randint(lo, hi) if rng.random() < chance else 0

    tick_ms = rng.choice((50, 100, 100))
    heartbeat_ms = tick_ms * rng.choice((2, 3, 4))
    election_timeout_ms = heartbeat_ms * rng.choice((5, 8, 10))
    timeout_us = election_timeout_ms * 1000
    plan = Plan(
        seed=seed,
        consensus=consensus,
        servers=servers or rng.choice((1, 2, 3, 3, 3, 3, 4, 5, 5, 5)),
        chaos_us=int(chaos_seconds * SECOND_US),
        tick_ms=tick_ms,
        heartbeat_ms=heartbeat_ms,
        election_timeout_ms=election_timeout_ms,
        lease_reads=rng.random() < 0.3,
        snapshot_entries=rng.choice((10, 50, 300, 100_000)),
        log_kept_entries=rng.choice((0, 3, 20, 2000)),
        chunk_bytes=rng.choice((300, 2_000, 512 << 10)),
        segment_bytes=rng.choice((4 << 10, 32 << 10, 1 << 20)),
        quota_bytes=rng.choice((1 << 30, 1 << 30, 1 << 30, 40_000)),
        datagrams=rng.random() < 0.5,
        delay_us=timeout_us // rng.choice((10, 50, 200, 1000)),
        delay_long=maybe(0.3, 1, 20),
        loss=maybe(0.5, 5, 150),
        duplicate=maybe(0.5, 5, 200),
        garble=maybe(0.3, 1, 20),
        unreachable_told=maybe(0.4, 100, 1000),
        disk_us=timeout_us // rng.choice((10, 50, 200, 1000)),
        partitions=maybe(0.5, 2, 20),
        flaps=maybe(0.2, 1, 7),
        resets=maybe(0.3, 2, 20),
        crashes=maybe(0.5, 2, 14),
        power_losses=maybe(0.5, 2, 14),
        power_all=maybe(0.3, 1, 2),
        pauses=maybe(0.4, 2, 14),
        clocks=maybe(0.4, 2, 14),
        slow_disks=maybe(0.3, 2, 10),
        disk_hangs=maybe(0.3, 1, 7),
        full_disks=maybe(0.25, 1, 5),
        failed_syncs=maybe(0.25, 2, 20),
        rot=maybe(0.2, 1, 5),
        wipes=maybe(0.2, 1, 4),
        transfers=maybe(0.4, 2, 20),
        changes=maybe(0.25, 1, 7),
        compactions=maybe(0.4, 2, 20),
        hints=maybe(0.3, 2, 14),
        clients=rng.choice((2, 3, 4)),
        keys=rng.choice((2, 4, 8)),
        think_us=rng.choice((100_000, 300_000, 1_000_000)),
        watchers=rng.choice((0, 1, 2)),
        leases=rng.random() < 0.4,
        register_clients=stream(seed, "register plan").choice((0, 0, 0, 1, 2)),
    )
    return _made_likely(plan)


def _made_likely(plan: Plan) -> Plan:
    """*plan*, with the rare moments that its seed has drawn, from a stream of their own: all other seeds stay what they
    are (FoundationDB's "buggify")."""
    rng = stream(plan.seed, "rarely")
    long_load, short_segments, late_follower, fresh_watches, small_steps, tight = (
        rng.random() < share for share in RARE_SHARES
    )
    if long_load:
        # Who was away for a moment finds the log gone, and loads a snapshot while others write.
        plan = replace(
            plan,
            load_us=plan.election_timeout_us // rng.choice((4, 20)),
            snapshot_entries=rng.choice((5, 10)),
            log_kept_entries=0,
            crashes=max(plan.crashes, 10),
        )
    if short_segments:
        # Each holds an entry or two, and one that is removed too early is missed by whoever starts again.
        plan = replace(
            plan,
            segment_bytes=rng.choice((300, 1000)),
            snapshot_entries=10,
            log_kept_entries=rng.choice((0, 3)),
            power_losses=max(plan.power_losses, 10),
        )
    if fresh_watches:
        plan = replace(plan, fresh_watchers=1)
    if small_steps:
        plan = replace(plan, round_us=rng.choice((1_000, 10_000)))
    if tight:
        plan = replace(plan, tight=1)
    if late_follower and plan.servers > 3:
        plan = replace(plan, late_followers=90, changes=max(plan.changes, 12))
    return plan
