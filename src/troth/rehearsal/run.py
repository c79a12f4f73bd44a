"""One seed of whole servers from beginning to end: chaos with everything watched, then calm, in which the cluster must
serve and hold all that it has acknowledged, then the verdict on what clients saw.

Same seed, same bytes, in any process: `Outcome.digest` stands for all that was sent and all that has happened.
"""

import logging
import random
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from troth.client import request as requests
from troth.client import watch as client_watch
from troth.client.aio import AsyncClient
from troth.errors import InvariantViolation, TrothError, invariant
from troth.kv import order, preparing, ranges
from troth.rehearsal.clients import Worker, Workload, prepare
from troth.rehearsal.cluster import Cluster
from troth.rehearsal.faults import Faults
from troth.rehearsal.host import Host
from troth.rehearsal.judge import judge, judge_consistency
from troth.rehearsal.operator import Operator
from troth.rehearsal.plan import SECOND_US, Plan, draw
from troth.rehearsal.record import Record, value_of
from troth.rehearsal.register_clients import Register
from troth.rehearsal.watchers import FreshWatcher, Watcher
from troth.replica import reading
from troth.simulate.choices import Choice, Choices
from troth.simulate.monitor import Invariant
from troth.simulate.world import uncollected

BEGIN_US_MAX = 60 * SECOND_US
CALM_TIMEOUTS = 60
"""Within so many election timeouts (and what TCP needs to notice dead connections) after all faults have ended the
cluster must serve everything."""

CALM_US = 40 * SECOND_US


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a seed."""

    plan: Plan
    violation: str = ""
    trace: str = ""
    """Where in the code the violation was noticed, if it was there."""
    digest: str = ""
    simulated_us: int = 0
    events: int = 0
    committed: int = 0
    operations: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    traces: dict[str, int] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    undecided: list[str] = field(default_factory=list)
    last_events: list[str] = field(default_factory=list)
    taken: list[Choice] = field(default_factory=list)


class Rehearsal:
    """A cluster, its clients, and all that happens to them."""

    def __init__(
        self,
        plan: Plan,
        *,
        keep: Collection[Choice] | None = None,
        rules: Sequence[type[Invariant]] | None = None,
        workload: Workload | None = None,
    ) -> None:
        """*keep*: of all that could happen only this does; *workload* replaces what clients do."""
        self._workload = workload
        self.plan = plan
        self.cluster = Cluster(plan, Choices(keep), rules)
        self.record = Record(self.cluster.world)
        self.undecided: list[str] = []
        self._faults: Faults | None = None

    def run(self) -> Outcome:
        """All of it; never raises for a violation."""
        plan, cluster = self.plan, self.cluster
        outcome = Outcome(plan=plan)
        with uncollected(), _quiet(plan.seed), _small_measures(plan):
            try:
                self._run()
            except InvariantViolation as violation:
                outcome.violation = str(violation)
                cause = cluster.cause or violation
                outcome.trace = "".join(traceback.format_exception(cause))
            finally:
                self._end()
        outcome.digest = cluster.digest()
        outcome.simulated_us = cluster.world.now_us
        outcome.events = cluster.world.events
        outcome.committed = cluster.monitor.ledger.highest
        outcome.operations = dict(sorted(self.record.counts.items()))
        outcome.traces = dict(sorted(cluster.monitor.trace_counts.items()))
        outcome.exits = dict(sorted(cluster.exits.items()))
        fired: Counter[str] = Counter(cluster.network.counts)
        fired["packets"] = cluster.network.packets
        if self._faults is not None:
            fired.update(self._faults.counts)
        for host in cluster.hosts.values():
            fired.update({f"disk {name}": count for name, count in host.disk.fired.items()})
        outcome.faults = dict(sorted(fired.items()))
        outcome.undecided = self.undecided
        outcome.taken = cluster.choices.taken
        outcome.last_events = [
            f"{us / SECOND_US:9.4f} s  {host:3} {text}".rstrip() for us, host, text in cluster.events
        ]
        return outcome

    # ---- phases ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        cluster, plan = self.cluster, self.plan
        world = cluster.world
        for host in cluster.hosts.values():
            host.boot()
        self._wait("no cluster begins", BEGIN_US_MAX, lambda: cluster.leader() is not None)
        self._ask("the accounts are not made", BEGIN_US_MAX, prepare)

        cluster.network.begin()
        operator = Operator(cluster)
        faults = self._faults = Faults(cluster, operator)
        workers = [Worker(cluster, self.record, number, self._workload) for number in range(1, plan.clients + 1)]
        # Fewer than three acceptors do not become a set by themselves.
        register_clients = plan.register_clients if plan.servers >= 3 else 0
        registers = [Register(cluster, self.record, number) for number in range(1, register_clients + 1)]
        for number in range(1, plan.watchers + 1):
            Watcher(cluster, self.record, number)
        fresh = [FreshWatcher(cluster, self.record, number) for number in range(1, plan.fresh_watchers + 1)]
        cluster.run_until(world.now_us + plan.chaos_us)
        if not plan.calm:
            judge_consistency(self.record)
            return

        faults.stop()
        clients: list[Worker | Register | FreshWatcher] = [*workers, *registers, *fresh]
        for client in clients:
            client.stopped = True
        cluster.tell("", "calm")
        self._wait("a client is never answered", CALM_US, lambda: all(each.is_idle for each in clients))
        self._calm(operator)

    def _calm(self, operator: Operator) -> None:
        """No faults any more: everything is served, and everything acknowledged is there."""
        cluster, plan = self.cluster, self.plan
        bound_us = CALM_US + CALM_TIMEOUTS * plan.election_timeout_us
        self._wait("no leader after all faults have ended", bound_us, self._settled)
        self._wait("an operator's work is never done", bound_us, lambda: not operator.busy and self._settled())
        versions: dict[str, int] = {}

        async def read_all(client: AsyncClient) -> None:
            process = self.record.process()
            for number in range(plan.keys):
                key = f"k{number}"
                await self.record.operation(
                    (self.record.registers,), process, "get", key, None, client.get(key), value_of
                )
            for name in self.record.appends:
                reply = await client.get(f"log/{name}")
                versions[name] = 0 if reply.kv is None else reply.kv.version

        self._ask("reads are not answered after all faults have ended", bound_us, read_all)
        if plan.quota_bytes > 1 << 20:
            self._ask("no progress after all faults have ended", bound_us, _write)
        self._wait("a server does not catch up", bound_us, self._equal)
        for host in cluster.hosts.values():
            if host.seat is not None:
                host.seat.compare()
        newest = max((op.revision or 0 for op in self.record.written), default=0)
        self._wait(
            "a watch stands still",
            bound_us,
            lambda: all(seen.upto >= newest or seen.is_over for seen in self.record.watches),
        )
        self.undecided = judge(self.record, versions)

    def _wait(self, claim: str, within_us: int, done: Callable[[], bool]) -> None:
        """Raises InvariantViolation with *claim* when it takes longer."""
        cluster = self.cluster
        if not cluster.run_until(cluster.world.now_us + within_us, done):
            raise InvariantViolation(f"{claim} ({cluster.situation()})")

    def _ask(self, claim: str, within_us: int, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
        """A fresh client does *work*, again and again until it succeeds."""
        cluster = self.cluster
        loop = cluster.client_loop(f"asker{cluster.world.events}")
        done: list[bool] = []
        errors: list[str] = []

        async def ask() -> None:
            client = AsyncClient(cluster.url, timeout=5.0)
            while not done:
                try:
                    await work(client)
                    done.append(True)
                except TrothError as error:
                    errors.append(f"{type(error).__name__}: {error}")

        def start() -> None:
            loop.create_task(ask()).add_done_callback(cluster.on_task_done)

        loop.enter(start)
        if not cluster.run_until(cluster.world.now_us + within_us, lambda: bool(done)):
            raise InvariantViolation(f"{claim} ({errors[-1] if errors else 'no answer'}; {cluster.situation()})")
        cluster.network.process_ended(loop, power=False)
        loop.kill()

    def _members(self) -> list[Host]:
        leader = self.cluster.leader()
        if leader is None or leader.seat is None:
            return []
        names = [self.cluster.host_of.get(node) for node in leader.seat.view.membership.everyone()]
        # One that has been added and has not started yet makes the list useless.
        return [] if None in names else [self.cluster.hosts[name] for name in names if name]

    def _settled(self) -> bool:
        """Everybody runs, somebody leads, and no change of members is under way."""
        cluster = self.cluster
        leader = cluster.leader()
        return (
            leader is not None
            and leader.seat is not None
            and not leader.seat.view.membership.is_joint
            and bool(members := self._members())
            and all(host.seat is not None for host in members)
        )

    def _equal(self) -> bool:
        """All members have applied the same."""
        members = self._members()
        highest = self.cluster.monitor.ledger.highest
        return bool(members) and all(
            host.seat is not None and host.seat.applied.index >= highest and host.seat.is_loaded
            for host in members
        )

    def _end(self) -> None:
        """End every process, so that nothing of this run is left to the collector."""
        for host in self.cluster.hosts.values():
            if host.loop is not None and host.loop.alive:
                self.cluster.network.process_ended(host.loop, power=True)
                host.loop.kill()
        for loop in self.cluster.client_loops:
            if loop.alive:
                self.cluster.network.process_ended(loop, power=True)
                loop.kill()


async def _write(client: AsyncClient) -> None:
    reply = await client.put("calm", "calm")
    seen = await client.get("calm")
    invariant(seen.kv is not None and seen.kv.mod_revision >= reply.revision, "a write is not seen", seen=seen)


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """Servers log nothing, and what clients draw, of their own and of the interpreter's generator, is of the seed."""
    logger = logging.getLogger("troth")
    level, state, draw_bits = logger.level, random.getstate(), requests.draw_bits
    logger.setLevel(logging.CRITICAL + 1)
    random.seed(f"{seed}/interpreter")
    requests.draw_bits = random.getrandbits
    try:
        yield
    finally:
        logger.setLevel(level)
        random.setstate(state)
        requests.draw_bits = draw_bits


LITTLE_ROOM = ((client_watch, "BUFFER_EVENTS_MAX", 2), (client_watch, "BUFFER_BYTES_MAX", 300))
"""What is kept for the consumer of a watch."""

STEPS = (
    (preparing, "SLICE_KEYS", 1),
    (order, "STEP_KEYS", 2),
    (ranges, "STEP_KEYS", 2),
    (ranges, "STEP_BYTES", 100),
    (reading, "STEP_KEYS", 2),
    (reading, "ORDER_STEP_KEYS", 2),
    (reading, "KEYS_PER_TURN", 4),
)
"""How much is done in one step, where that is to be as little as can be."""


@contextmanager
def _small_measures(plan: Plan) -> Iterator[None]:
    """What takes long only with very many keys does so with a few, and what has room for very many has room for few, if
    *plan* says so."""
    before = [(module, name, getattr(module, name)) for module, name, _ in (*STEPS, *LITTLE_ROOM)]
    try:
        for module, name, least in (*(STEPS if plan.round_us else ()), *(LITTLE_ROOM if plan.tight else ())):
            setattr(module, name, least)
        yield
    finally:
        for module, name, usual in before:
            setattr(module, name, usual)


def run_seed(seed: int, *, chaos_seconds: float = 60, consensus: str = "raft", traffic: bool = False) -> Outcome:
    """Run one seed; never raises for a violation. *traffic*: every byte sent is part of the digest."""
    return run_plan(draw(seed, chaos_seconds=chaos_seconds, consensus=consensus), traffic=traffic)


def run_plan(plan: Plan, *, keep: Collection[Choice] | None = None, traffic: bool = False) -> Outcome:
    """Run *plan*, of all its faults and operations only *keep* (None: all)."""
    rehearsal = Rehearsal(plan, keep=keep)
    if traffic:
        rehearsal.cluster.record_traffic()
    return rehearsal.run()
