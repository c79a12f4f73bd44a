"""All hosts of one simulated cluster, and whoever watches them."""

import asyncio
import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from troth.core.interface import Trace
from troth.errors import InvariantViolation
from troth.ids import NodeId
from troth.rehearsal.host import Host
from troth.rehearsal.invariants import RULES
from troth.rehearsal.loop import Clock, ProcessLoop
from troth.rehearsal.network import Network
from troth.rehearsal.plan import Plan
from troth.rehearsal.seat import Seat
from troth.simulate.choices import Choices
from troth.simulate.monitor import Invariant, Monitor
from troth.simulate.rng import stream
from troth.simulate.world import World

HISTORY_KEPT = 60
RESTART_US_MAX = 2_000_000


class Halt(BaseException):
    """Something that must not happen has happened: the run ends here. Not an `Exception`, so that nobody in between
    takes it for an error of its own."""


class Cluster:
    """Servers in a world of their own. `violation` is the first thing that went against an invariant."""

    def __init__(self, plan: Plan, choices: Choices, rules: Sequence[type[Invariant]] | None = None) -> None:
        self.plan = plan
        self.choices = choices
        self.world = World()
        self.network = Network(self.world, plan, choices, stream(plan.seed, "network"))
        self.monitor = Monitor({}, RULES[plan.consensus] if rules is None else rules)
        self.monitor.on_event = self._on_event
        self.digests: dict[int, int] = {}
        """Log index -> digest of all that was applied up to there, by whoever did so first."""
        self.violation: InvariantViolation | None = None
        self.cause: BaseException | None = None
        self.exits: Counter[str] = Counter()
        self.events: deque[tuple[int, str, str]] = deque(maxlen=HISTORY_KEPT)
        """(time, host, what happened) of the newest events."""
        self.sending = ""
        """What the frame that leaves next holds, for pictures."""
        self.on_tell: Callable[[int, str, str, Trace | None], None] | None = None
        self._seats: dict[NodeId, Seat] = {}
        self._rng = stream(plan.seed, "operators")
        self._hash = hashlib.blake2b(digest_size=16)
        self.client_loops: list[ProcessLoop] = []
        self.hosts: dict[str, Host] = {}
        self.host_of: dict[NodeId, str] = {}
        for number in range(plan.servers):
            name = f"n{number + 1}"
            self.hosts[name] = Host(self, name, plan)
        self.founders = tuple(self.hosts.values())

    # ---- for hosts -------------------------------------------------------------------------------------

    def seat(self, host: Host, node_id: NodeId) -> Seat:
        """The seat of *node_id*, which lives on *host*."""
        if node_id not in self._seats:
            self._seats[node_id] = Seat(self, host, node_id)
            self.host_of[node_id] = host.name
        return self._seats[node_id]

    @property
    def url(self) -> str:
        """Where clients find the cluster."""
        return "troth://" + ",".join(host.client_address for host in self.hosts.values())

    def client_loop(self, name: str) -> ProcessLoop:
        """A process of a client, on a host of its own."""

        def on_error(error: BaseException) -> None:
            self.violated(
                InvariantViolation(f"unexpected {type(error).__name__} in a client: {error} ({name})"), cause=error
            )

        loop = ProcessLoop(self.world, self.network, name, Clock(self.world), on_error)
        self.client_loops.append(loop)
        return loop

    def on_task_done(self, task: "asyncio.Task[Any]") -> None:
        """A coroutine of a client has ended. None of them should with an error."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Halt):
            self.violated(InvariantViolation(f"a client fails, {type(error).__name__}: {error}"), cause=error)

    def violated(self, violation: InvariantViolation, *, cause: BaseException | None = None) -> None:
        """End the run."""
        if self.violation is None:
            self.violation = violation
            self.cause = cause
        raise Halt(str(violation))

    def on_exit(self, host: Host, error: Exception, *, expected: bool) -> None:
        """The process on *host* has ended by itself. What an operator does then: see why, mend it, start it again."""
        self.tell(host.name, f"exits: {type(error).__name__}")
        self.exits[type(error).__name__] += 1
        if not expected:
            if isinstance(error, InvariantViolation):
                self.violated(error, cause=error)
            self.violated(
                InvariantViolation(
                    f"a server stopped without a cause, {type(error).__name__}: {error} ({host.name})"
                ),
                cause=error,
            )
        self.repair(host, error)

    def repair(self, host: Host, error: Exception) -> None:
        """Replaced by faults.py, which knows what was done to the disk."""
        del error
        self.world.after(self._rng.randrange(10_000, RESTART_US_MAX), host.boot)

    # ---- telling ---------------------------------------------------------------------------------------

    def tell(self, host: str, text: str, trace: Trace | None = None) -> None:
        """Note something that has happened, for reports and pictures, and in the digest of the run."""
        now_us = self.world.now_us
        self.events.append((now_us, host, text))
        self._hash.update(f"{now_us} {host} {text}\n".encode())
        if self.on_tell is not None:
            self.on_tell(now_us, host, text, trace)

    def on_event(self, host: Host, trace: Trace) -> None:
        """The server on *host* tells something that is not its engine's."""
        counts = self.monitor.trace_counts
        counts[trace.name] = counts.get(trace.name, 0) + 1
        self._tell_trace(host, trace)

    def _on_event(self, seat: Any, trace: Trace) -> None:
        self._tell_trace(seat.host, trace)

    def _tell_trace(self, host: Host, trace: Trace) -> None:
        facts = " ".join(f"{name}={value}" for name, value in trace.facts.items())
        self.tell(host.name, f"{trace.name} {facts}".strip(), trace)

    def record_traffic(self) -> None:
        """Let every byte between hosts be part of the digest (costs some speed)."""
        update, world = self._hash.update, self.world
        inner = self.network.on_frame

        def on_frame(source: str, target: str, data: bytes, arrives_us: int) -> None:
            update(b"%d %s %s %d " % (world.now_us, source.encode(), target.encode(), arrives_us) + data)
            if inner is not None:
                inner(source, target, data, arrives_us)

        self.network.on_frame = on_frame

    def digest(self) -> str:
        """Stands for everything that has happened."""
        return self._hash.hexdigest()

    # ---- looking ---------------------------------------------------------------------------------------

    def leaders(self) -> list[Host]:
        """Hosts whose server believes to lead."""
        return [host for host in self.hosts.values() if host.up and host.seat is not None and host.seat.view.leads]

    def leader(self) -> Host | None:
        """The leader of the newest term."""
        return max(self.leaders(), key=lambda host: host.seat.view.term, default=None)  # type: ignore[union-attr]

    def one_or_leader(self, rng: random.Random) -> Host:
        """A host; as often as not one that believes to lead."""
        leaders = self.leaders()
        return pick(rng, leaders) if leaders and rng.random() < 0.5 else pick(rng, list(self.hosts.values()))

    def duration_us(self, rng: random.Random, timeouts_max: int) -> int:
        """How long a fault lasts: most as long as an election takes, some up to *timeouts_max* of its time-outs."""
        return int(rng.random() ** 3 * timeouts_max * self.plan.election_timeout_us) + 10_000

    def is_taken(self, name: str) -> bool:
        """Whether a member is called *name*, as the newest leader has it or as it was committed last."""
        leader = self.leader()
        memberships = [self.monitor.ledger.committed_membership]
        if leader is not None and leader.seat is not None:
            memberships.append(leader.seat.view.membership)
        return any(
            member.name == name
            for membership in memberships
            if membership
            for member in membership.members.values()
        )

    def situation(self) -> str:
        """One line about every server, for reports."""
        parts = []
        for host in self.hosts.values():
            if host.up and host.seat is not None:
                view = host.seat.view
                names = ",".join(sorted(self.host_of.get(node, "?") for node in view.membership.voters))
                parts.append(
                    f"{host.name} {view.role} term {view.term} commit {view.commit_index} last {view.last_index} "
                    f"voters {names}"
                )
            else:
                parts.append(f"{host.name} {'starting' if host.up else 'down'}")
        return "; ".join(parts)

    def run_until(self, end_us: int, stop: Callable[[], bool] | None = None) -> bool:
        """Let time pass to *end_us*, or until *stop* says so (asked every 10 ms); True in that case.

        Raises:
            InvariantViolation: one was broken.
        """
        world = self.world
        while world.now_us < end_us:
            with suppress(Halt):
                world.run_until(end_us if stop is None else min(end_us, world.now_us + 10_000))
            if self.violation is not None:
                raise self.violation
            if stop is not None and stop():
                return True
        return False


def pick(rng: random.Random, hosts: Sequence[Host]) -> Host:
    """One of *hosts*."""
    return hosts[rng.randrange(len(hosts))]
