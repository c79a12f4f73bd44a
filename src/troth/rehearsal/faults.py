"""What goes wrong with whole servers, and when; and what an operator does about it.

Each kind happens at random moments, at the rate that the plan gives it, and draws its details from a stream of its
own for each occurrence, so that leaving one out (choices.py) changes no other. `counts` proves what has happened.
Those of disks stand in disk_faults.py.
"""

import random
from collections import Counter
from collections.abc import Callable

from troth.errors import InvariantViolation, TrothError
from troth.rehearsal.cluster import Cluster, pick
from troth.rehearsal.disk_faults import DiskBreaker
from troth.rehearsal.host import Host
from troth.rehearsal.operator import Operator
from troth.rehearsal.plan import SECOND_US
from troth.simulate.rng import stream

LATE = "late follower"
FLAPS = 6
TRIES = 40
MOMENT_US = 25_000
"""A fault whose moment has not come is tried again after so long, so many times."""


class Faults:
    """Breaks things until `stop`, then mends them."""

    def __init__(self, cluster: Cluster, operator: Operator) -> None:
        self.counts: Counter[str] = Counter()
        self.stopped = False
        self._cluster = cluster
        self._operator = operator
        self._world = cluster.world
        self._network = cluster.network
        self._plan = cluster.plan
        disks = self._disks = DiskBreaker(cluster, operator)
        if cluster.plan.late_followers:
            operator.before_removal = self._cut_a_follower_off
        self._removals = 0
        plan = cluster.plan
        kinds: tuple[tuple[str, int, Callable[[random.Random], str | None]], ...] = (
            ("partition", plan.partitions, self._partition),
            ("flap", plan.flaps, self._flap),
            ("reset", plan.resets, self._reset),
            ("crash", plan.crashes, self._crash),
            ("power", plan.power_losses, self._lose_power),
            ("power_all", plan.power_all, self._lose_power_everywhere),
            ("pause", plan.pauses, self._pause),
            ("clock", plan.clocks, self._change_clock),
            ("slow_disk", plan.slow_disks, disks.slow),
            ("disk_hang", plan.disk_hangs, disks.hang),
            ("full_disk", plan.full_disks, disks.fill),
            ("failed_sync", plan.failed_syncs, disks.fail_sync),
            ("rot", plan.rot, disks.rot),
            ("wipe", plan.wipes, disks.wipe),
            ("transfer", plan.transfers, self._transfer),
            ("change", plan.changes, self._change),
            ("compaction", plan.compactions, self._compact),
            ("hint", plan.hints, self._hint),
        )
        for name, rate, fault in kinds:
            if rate:
                self._plan_next(name, rate, fault, 0)

    def stop(self) -> None:
        """Mend everything: links, disks, clocks; start what is down."""
        self.stopped = self._disks.stopped = True
        self._network.calm()
        for host in self._cluster.hosts.values():
            host.clock.set_rate(1000)
            self._disks.mend(host)
            if host.loop is not None:
                host.loop.resume()
            host.boot()

    def _plan_next(self, name: str, rate: int, fault: Callable[[random.Random], str | None], number: int) -> None:
        rng = stream(self._plan.seed, name, number)
        mean_us = 100 * SECOND_US // rate
        self._world.after(int(rng.expovariate(1.0) * mean_us), self._happen, name, rate, fault, number, rng)

    def _happen(
        self,
        name: str,
        rate: int,
        fault: Callable[[random.Random], str | None],
        number: int,
        rng: random.Random,
    ) -> None:
        if self.stopped:
            return
        if self._cluster.choices.take(name):
            self._strike(name, fault, rng, TRIES)
        self._plan_next(name, rate, fault, number + 1)

    def _strike(
        self, name: str, fault: Callable[[random.Random], str | None], rng: random.Random, tries: int
    ) -> None:
        """Let *fault* happen; one that may not happen now (the last good copy, say) waits for its moment."""
        if self.stopped:
            return
        what = fault(rng)
        if what is not None:
            self.counts[name] += 1
            self._cluster.tell("", f"{name} {what}".strip())
        elif tries > 1:
            self._world.after(MOMENT_US, self._strike, name, fault, rng, tries - 1)

    def _hosts(self) -> list[Host]:
        return list(self._cluster.hosts.values())

    # ---- network ---------------------------------------------------------------------------------------

    def _partition(self, rng: random.Random) -> str:
        names = list(self._cluster.hosts)
        network = self._network
        clients = [name for name in network.clients if rng.random() < 0.5]
        one_way = rng.random() < 0.25
        shape = rng.random()
        self._world.after(self._cluster.duration_us(rng, 10), self._heal)
        if shape < 0.25 and len(names) > 2:
            # A bridge: one server hears both sides, which do not hear each other.
            bridge = rng.choice(names)
            rest = [name for name in names if name != bridge]
            half = set(rng.sample(rest, len(rest) // 2))
            network.partition(half, set(rest) - half, one_way=one_way)
            return f"bridge {bridge}"
        if shape < 0.35 and len(names) > 2:
            # Every server hears a majority, no two the same one ("swizzle").
            rng.shuffle(names)
            for place, name in enumerate(names):
                network.partition({name}, {names[(place + len(names) // 2) % len(names)]}, one_way=one_way)
            return "swizzle"
        if shape < 0.65:
            one = {self._cluster.one_or_leader(rng).name}
        else:
            one = set(rng.sample(names, rng.randint(1, len(names))))
        other = set(names) - one
        (one if rng.random() < 0.5 else other).update(clients)
        if one_way and rng.random() < 0.5:
            one, other = other, one
        network.partition(one, other, one_way=one_way)
        return f"{'one way ' if one_way else ''}{','.join(sorted(one))} | {','.join(sorted(other))}"

    def _heal(self) -> None:
        if self._network.cut:
            self._network.heal()
            self._cluster.tell("", "healed")

    def _flap(self, rng: random.Random) -> str:
        one = self._cluster.one_or_leader(rng).name
        others = [name for name in self._cluster.hosts if name != one]
        period_us = self._cluster.duration_us(rng, 2)
        for turn in range(FLAPS):
            self._world.after(turn * period_us, self._flap_once, one, others, turn % 2 == 0)
        return one

    def _flap_once(self, one: str, others: list[str], down: bool) -> None:
        if down and not self.stopped:
            self._network.partition({one}, others, one_way=False)
        else:
            self._network.heal()

    def _reset(self, rng: random.Random) -> str | None:
        everybody = [*self._cluster.hosts, *self._network.clients]
        one = self._cluster.one_or_leader(rng).name
        other = rng.choice([name for name in everybody if name != one])
        return f"{one} {other}" if self._network.break_connections(one, other) else None

    def _hint(self, rng: random.Random) -> str | None:
        """A server is told that another has died, which may be wrong."""
        host, peer = pick(rng, self._hosts()), self._cluster.one_or_leader(rng)
        server = host.serving
        if host is peer or server is None or peer.seat is None or host.loop is None:
            return None
        host.loop.enter(server.node.on_suspect, peer.seat.node_id)
        return f"{host.name} about {peer.name}"

    # ---- processes and machines ------------------------------------------------------------------------

    def _crash(self, rng: random.Random) -> str | None:
        host = self._cluster.one_or_leader(rng)
        if not host.up:
            return None
        host.kill()
        self._world.after(self._cluster.duration_us(rng, 8), host.boot)
        return host.name

    def _lose_power(self, rng: random.Random) -> str | None:
        host = self._cluster.one_or_leader(rng)
        if not host.up:
            return None
        host.lose_power()
        self._world.after(self._cluster.duration_us(rng, 8), host.boot)
        return host.name

    def _lose_power_everywhere(self, rng: random.Random) -> str:
        for host in self._hosts():
            if host.up:
                host.lose_power()
                self._world.after(self._cluster.duration_us(rng, 4), host.boot)
        return ""

    def _pause(self, rng: random.Random) -> str | None:
        host = self._cluster.one_or_leader(rng)
        if not host.up or host.loop is None or host.loop.paused:
            return None
        host.loop.pause()
        self._world.after(self._cluster.duration_us(rng, 5), host.loop.resume)
        return host.name

    def _change_clock(self, rng: random.Random) -> str:
        host = pick(rng, self._hosts())
        if self._plan.lease_reads:
            # Any two clocks stay within the drift that the configuration promises (10 %).
            permille = 1000 + rng.randint(-48, 48)
            host.clock.set_rate(permille)
            return f"{host.name} rate {permille}"
        permille = rng.choice((300, 700, 900, 1000, 1100, 1500, 3000))
        host.clock.set_rate(permille)
        if rng.random() < 0.3:
            host.clock.jump(rng.randrange(0, 5 * SECOND_US))
            return f"{host.name} rate {permille}, jumps"
        return f"{host.name} rate {permille}"

    # ---- what operators do -------------------------------------------------------------------------------

    def _transfer(self, rng: random.Random) -> str | None:
        leader = self._cluster.leader()
        if leader is None or leader.loop is None:
            return None
        target = rng.choice([None, *self._hosts()])
        node_id = 0 if target is None or target.seat is None else target.seat.node_id
        leader.loop.enter(_transfer, leader, node_id)
        return f"{leader.name} to {target.name if target else 'anybody'}"

    def _change(self, rng: random.Random) -> str | None:
        """A server leaves, and joins again with an empty disk."""
        host = self._cluster.one_or_leader(rng)
        leader = self._cluster.leader()
        if leader is None or leader.seat is None or host.out_of_service or host.leaving or not host.up:
            return None
        membership = leader.seat.view.membership
        if len(membership.voters) < 2 or self._operator.busy:
            return None
        if host.seat is None or host.seat.node_id not in membership.everyone():
            return None  # it is about to join, and whoever looks for it now finds nobody to remove
        if self._disks.one_is_weak:
            return None  # the others may be just the quorum that it takes
        host.leaving = True
        self._operator.remove_and_replace(host, after_us=self._cluster.duration_us(rng, 6))
        return host.name

    def _cut_a_follower_off(self, host: Host) -> None:
        """*host* is about to be removed. One of those that stay does not hear of it, and is asked first by whoever
        joins in its place."""
        host.asks_first = ""
        rng = stream(self._plan.seed, LATE, self._removals)
        self._removals += 1
        leader = self._cluster.leader()
        if (
            self.stopped
            or leader is None
            or leader.seat is None
            or rng.randrange(100) >= self._plan.late_followers
        ):
            return
        voters = leader.seat.view.membership.voters
        late = [
            other
            for other in self._hosts()
            if other not in (host, leader) and other.seat is not None and other.seat.node_id in voters
        ]
        if len(late) < 2 or not self._cluster.choices.take(LATE):
            return  # the others have to be a majority without it
        one = pick(rng, late)
        host.asks_first = one.name
        rest = [name for name in self._cluster.hosts if name not in (one.name, host.name)]
        self._network.partition({one.name}, rest, one_way=False)
        self._world.after(self._plan.election_timeout_us + self._cluster.duration_us(rng, 10), self._heal)
        self.counts[LATE] += 1
        self._cluster.tell(one.name, f"does not hear that {host.name} is removed")

    def _compact(self, rng: random.Random) -> str:
        self._operator.compact(rng.choice((0, 3, 20)))
        return ""


def _transfer(host: Host, target: int) -> None:
    server = host.serving
    if server is None:
        return
    try:
        server.transfer(target)  # type: ignore[arg-type]
    except InvariantViolation:
        raise
    except TrothError:
        return
