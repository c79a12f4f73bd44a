"""The settings of a consensus engine, the same for every one of them."""

from dataclasses import dataclass

from troth.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of the protocol. All durations are ticks.

    `lease_reads` lets a leader answer reads without a round trip. It then relies on clocks that run at the same
    rate within `clock_drift_percent`, and servers wait a full election timeout before they vote, also when they
    have seen the leader die: fail-over is slower.

    `phase1_size` and `phase2_size` are Paxos's quorum sizes where they are not to be majorities (flexible quorums, see
    `core.quorum.QuorumSizes`); both or none, the same on all servers.

    `thrifty` lets a Paxos leader send a value at once to only as many acceptors as choose it, and to the others a
    heartbeat later, many in one message (Moraru, Andersen, Kaminsky 2013, "There Is More Consensus in Egalitarian
    Parliaments", §5). It is up to each leader: servers may differ in it.
    """

    heartbeat_ticks: int = 5
    election_timeout_ticks: int = 60
    lease_reads: bool = False
    clock_drift_percent: int = 10
    disk_timeout_ticks: int = 300
    append_bytes_max: int = 1 << 20
    uncommitted_bytes_max: int = 64 << 20
    reads_pending_max: int = 10_000
    promote_lag_max: int = 64
    """A learner that lacks at most this many entries is caught up."""
    phase1_size: int = 0
    phase2_size: int = 0
    thrifty: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_ticks < self.election_timeout_ticks:
            raise UsageError(
                f"heartbeat_ticks ({self.heartbeat_ticks}) must be above 0 and below election_timeout_ticks "
                f"({self.election_timeout_ticks})"
            )
        if not 0 <= self.clock_drift_percent < 100:
            raise UsageError(f"clock_drift_percent ({self.clock_drift_percent}) must be 0 to 99")
        if bool(self.phase1_size) != bool(self.phase2_size) or min(self.phase1_size, self.phase2_size) < 0:
            raise UsageError("phase1_size and phase2_size are given together, each at least 1, or not at all")

    @property
    def lease_ticks(self) -> int:
        """How long a lease lasts from the sending of its heartbeat: less than any follower's patience."""
        return self.election_timeout_ticks * (100 - self.clock_drift_percent) // 100 - 1
