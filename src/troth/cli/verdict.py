"""From what the servers say of themselves to one plain word on the cluster. Pure; `troth status` prints it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from troth.ids import NodeId
from troth.replica.protocol import PeerView, ServerStatus


class Health(IntEnum):
    """The number is the exit code of ``troth status``."""

    HEALTHY = 0
    DEGRADED = 1
    UNAVAILABLE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`survives`: how many more servers may fail before the cluster stops; -1 when it has stopped."""

    health: Health
    survives: int
    reasons: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What a person reads first."""
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        if self.health is Health.UNAVAILABLE:
            return f"unavailable{why}"
        failures = "failure" if self.survives == 1 else "failures"
        return f"{self.health.name.lower()}: survives {self.survives} more {failures}{why}"


def leader_of(statuses: Sequence[ServerStatus]) -> ServerStatus | None:
    """The newest server that says it leads; an old one cut off from the others may still say so too."""
    leaders = [status for status in statuses if status.role == "leader"]
    return max(leaders, key=lambda status: status.term, default=None)


def members_of(statuses: Sequence[ServerStatus]) -> dict[NodeId, PeerView]:
    """All members, as the best-informed server that answered lists them."""
    best = leader_of(statuses) or max(statuses, key=lambda status: status.commit_index, default=None)
    return {} if best is None else {peer.node_id: peer for peer in best.peers}


def _why_recovering(name: str, *, alone: bool) -> str:
    text = f"{name} has lost a part of its log and does not vote before it has caught up with the others"
    if alone:
        text += (
            ", and there are no others: save what is left (troth range --prefix '' --level eventual) or restore a "
            "backup (troth snapshot restore)"
        )
    return text


def judge(statuses: Sequence[ServerStatus]) -> Verdict:
    """The verdict on a cluster of which *statuses* are the servers that answered, in any order."""
    if not statuses:
        return Verdict(health=Health.UNAVAILABLE, survives=-1, reasons=("no server answers",))
    members = members_of(statuses)
    answering = {status.node_id for status in statuses}
    leader = leader_of(statuses)
    voters = [node for node, peer in members.items() if peer.voter]
    if leader is None or leader.survives < 0:
        up = sum(node in answering for node in voters)
        cause = "no leader" if leader is None else "the leader has no quorum"
        reasons = [f"{cause}; {up} of {len(voters)} voters answer"]
        recovering = [status for status in statuses if status.role == "recovering"]
        reasons += [_why_recovering(status.name, alone=len(voters) == 1) for status in recovering]
        if (up - len(recovering)) * 2 > len(voters):
            reasons.append("an election should end this within seconds")
        return Verdict(health=Health.UNAVAILABLE, survives=-1, reasons=tuple(reasons))

    reasons = []
    lost = 0
    for node, peer in members.items():
        if node not in answering:
            reasons.append(f"{peer.member.name} does not answer")
            # A leader believes in a silent server for a while; whoever asks now should not.
            lost += peer.voter and peer.active is not False
        elif node != leader.node_id and peer.active is False:
            reasons.append(f"{peer.member.name} is not heard by the leader")
    reasons += [_why_recovering(each.name, alone=False) for each in statuses if each.role == "recovering"]
    if leader.joint:
        reasons.append("a membership change is under way")
    reasons += [alarm.alarm.text for alarm in leader.alarms]
    survives = max(-1, leader.survives - lost)
    health = Health.UNAVAILABLE if survives < 0 else Health.DEGRADED if reasons else Health.HEALTHY
    return Verdict(health=health, survives=survives, reasons=tuple(reasons))
