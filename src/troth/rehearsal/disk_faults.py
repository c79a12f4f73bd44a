"""What goes wrong with disks, and what an operator does about it.

Disks may lose what was durable (rot, wiping) on one server at a time, and only where the others are a quorum that
still holds everything: a rule without which correct systems fail ("fault atlas", TigerBeetle).
"""

import random

from troth.errors import Corrupt, IdentityLost, Removed
from troth.rehearsal.cluster import RESTART_US_MAX, Cluster, pick
from troth.rehearsal.host import Host
from troth.rehearsal.operator import Operator
from troth.simulate.rng import stream
from troth.storage.replay import LogDamaged


class DiskBreaker:
    """Breaks disks, and mends them."""

    def __init__(self, cluster: Cluster, operator: Operator) -> None:
        self.stopped = False
        self._cluster = cluster
        self._operator = operator
        self._world = cluster.world
        self._weak: Host | None = None
        """The one server whose disk may have lost what was durable."""
        cluster.repair = self.repair  # type: ignore[method-assign]

    def slow(self, rng: random.Random) -> str:
        """Writes take longer for a while."""
        host = self._cluster.one_or_leader(rng)
        host.disk_factor = rng.choice((5, 20, 100))
        self._world.after(self._cluster.duration_us(rng, 20), self.mend, host)
        return f"{host.name} x{host.disk_factor}"

    def hang(self, rng: random.Random) -> str:
        """Nothing is written for a while."""
        host = self._cluster.one_or_leader(rng)
        host.disk_hangs = True
        self._world.after(self._cluster.duration_us(rng, 10), self.mend, host)
        return host.name

    def fill(self, rng: random.Random) -> str:
        """There is hardly any room left for a while."""
        host = self._cluster.one_or_leader(rng)
        _be_in_trouble(host, "full")
        host.disk.capacity_bytes = host.disk.used_bytes() + rng.choice((0, 500, 5_000))
        self._world.after(self._cluster.duration_us(rng, 20), self.mend, host)
        return host.name

    def fail_sync(self, rng: random.Random) -> str:
        """A sync fails, which ends the server."""
        host = self._cluster.one_or_leader(rng)
        _be_in_trouble(host, "sync failed")
        host.disk.fail_next_sync(skip=rng.choice((0, 0, 1, 3)))
        if rng.random() < 0.5:
            # What the page cache shows and the platter lacks is found out only by whoever loses power.
            self._world.after(
                self._cluster.duration_us(rng, 10), self._lose_power_of, host, self._cluster.duration_us(rng, 8)
            )
        return host.name

    def _lose_power_of(self, host: Host, down_us: int) -> None:
        if host.up and not self.stopped:
            host.lose_power()
            self._world.after(down_us, host.boot)

    def mend(self, host: Host) -> None:
        """The disk of *host* has room, is as quick as ever, and answers."""
        host.disk.heal()
        host.disk.capacity_bytes = None
        host.disk_factor = 1
        if host.disk_hangs:
            host.disk_hangs = False
            if host.up:
                host.machine.disk.answer()

    @property
    def one_is_weak(self) -> bool:
        """Whether a server has lost what was durable, and does not hold everything again."""
        return self._weak is not None and not self._is_whole(self._weak)

    def _may_weaken(self, host: Host) -> bool:
        """Whether the disks of the other voters are a quorum that holds everything."""
        leader = self._cluster.leader()
        if leader is None or leader.seat is None or host.out_of_service or host.leaving:
            return False
        if self._operator.busy or self.one_is_weak:
            return False
        membership = leader.seat.view.membership
        if membership.is_joint or len(membership.voters) < 3:
            return False
        others = [other for other in self._cluster.hosts.values() if other is not host]
        if any(other.trouble or not self._is_whole(other) for other in others):
            return False
        self._weak = host
        return True

    def _is_whole(self, host: Host) -> bool:
        """Whether *host* runs, votes, and has everything that is known to be committed."""
        leader = self._cluster.leader()
        if leader is None or leader.seat is None or not host.up or host.seat is None or host.damaged:
            return False
        membership = leader.seat.view.membership
        return (
            host.seat.node_id in membership.voters
            and host.seat.applied.index >= self._cluster.monitor.ledger.highest
            and not membership.is_joint
        )

    def rot(self, rng: random.Random) -> str | None:
        """A place of a disk can not be read any more."""
        host = pick(rng, list(self._cluster.hosts.values()))
        if not self._may_weaken(host):
            return None
        # It is found when it is read, which is when the server starts.
        host.kill()
        place = host.disk.rot_somewhere()
        host.trouble, host.damaged = "rot", True
        self._world.after(self._cluster.duration_us(rng, 6), host.boot)
        return None if place is None else f"{host.name} {place[0]}"

    def wipe(self, rng: random.Random) -> str | None:
        """A disk is replaced by an empty one."""
        host = pick(rng, list(self._cluster.hosts.values()))
        if not self._may_weaken(host):
            return None
        host.kill()
        self._replace(host, rng)
        return host.name

    def _replace(self, host: Host, rng: random.Random) -> None:
        """The disk is gone: the operator removes the server from the cluster and adds it as a new one."""
        host.wipe()
        host.out_of_service = True
        self._operator.replace(host, after_us=self._cluster.duration_us(rng, 6))

    def repair(self, host: Host, error: Exception) -> None:
        """The server of *host* has ended with *error*: do what an operator would."""
        if isinstance(error, Removed):
            return  # as the operator wanted, who goes on from there
        rng = stream(self._cluster.plan.seed, "repair", host.name, host.life)
        if isinstance(error, IdentityLost) or (isinstance(error, Corrupt) and not isinstance(error, LogDamaged)):
            self._replace(host, rng)
            return
        if isinstance(error, LogDamaged):
            host.salvages = True
        if not host.disk.capacity_bytes and not host.disk.is_about_to_fail and host.trouble != "rot":
            host.trouble = ""
        self._world.after(rng.randrange(10_000, RESTART_US_MAX), host.boot)


def _be_in_trouble(host: Host, why: str) -> None:
    """What has rotted is found whenever it is read, whatever else comes in between."""
    if host.trouble != "rot":
        host.trouble = why
