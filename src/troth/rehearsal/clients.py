"""What clients do in a simulated run, and what they are told. They are real `AsyncClient`s, each a process of its own.

==========  ================================================================================================
register    put, get, compare-and-set and delete of a few shared keys: linearizable, key by key
session     keys of their own, through `client.session()`: reads its writes, and never goes back
bounded     reads at most so many revisions behind
append      a key that one client writes, counted by its version: no write is lost, none is applied twice
transfer    money between accounts, and readers who add it up: transactions are all or nothing
lease       a key that lives as long as a lease: it does not vanish while its holder may rely on it
watch       everything that happens to all keys, once and in order
cells       leaderless registers, straight against the acceptors in the servers: linearizable, key by key
==========  ================================================================================================

Every operation that was acknowledged is checked at the level it was promised (`judge.py`).
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from troth.client import operations
from troth.client.aio import AsyncClient
from troth.client.registers.aio import PaxosClient as AsyncPaxosClient
from troth.client.session import Session
from troth.errors import InvariantViolation, LeaseNotFound, OutcomeUnknown, TrothError, WatchCompacted, invariant
from troth.kv.requests import Event as KeyEvent
from troth.models import bounded, eventual, sequential
from troth.rehearsal.cluster import Cluster
from troth.simulate.choices import OPERATION
from troth.simulate.rng import stream
from troth.verify.history import Event, EventType, History, pair

T = TypeVar("T")
Workload: TypeAlias = Callable[[AsyncClient, random.Random], Awaitable[None]]
"""What a client of one's own does, called again and again. `TrothError`s it lets pass are a client's daily bread."""

ACCOUNTS = 3
MONEY_EACH = 100
BEHIND = 3
"""Revisions that bounded reads may be behind."""

KINDS = (
    *(
        ("put", 20),
        ("get", 20),
        ("cas", 12),
        ("delete", 4),
        ("append", 12),
        ("session put", 5),
        ("session get", 8),
    ),
    *(("bounded get", 4), ("weak get", 3), ("transfer", 6), ("audit", 4), ("burst", 2), ("lease", 3)),
)


@dataclass(slots=True)
class Appends:
    """The writes of one key that only one client writes."""

    acknowledged: int = 0
    unknown: int = 0


@dataclass(slots=True)
class Seen:
    """What one watcher was shown."""

    name: str
    from_revision: int
    events: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    """(revision, key, value or b"" for a deletion), as they came."""
    upto: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Revisions ``[lo, hi)`` that were compacted away before they could be shown."""


class Record:
    """All histories of a run."""

    def __init__(self, cluster: Cluster) -> None:
        self.registers: list[Event] = []
        """Linearizable operations on the shared keys."""
        self.cells: list[Event] = []
        """Operations on leaderless registers."""
        self.sessions: list[Event] = []
        """Writes of sessions, and what sessions read."""
        self.bounded: list[Event] = []
        """Writes of sessions, and what bounded reads saw."""
        self.appends: dict[str, Appends] = {}
        self.watches: list[Seen] = []
        self.written: dict[int, list[tuple[bytes, bytes]]] = {}
        """Revision -> what was acknowledged to have been written at it."""
        self.counts: Counter[str] = Counter()
        self._world = cluster.world
        self._processes = 0
        self._free: list[int] = []

    def process(self) -> int:
        """A process that does nothing at the moment."""
        if self._free:
            return self._free.pop()
        self._processes += 1
        return self._processes

    async def operation(
        self,
        into: tuple[list[Event], ...],
        process: int | None,
        f: str,
        key: str,
        value: Any,
        doing: Awaitable[T],
        result: Callable[[T], Any],
    ) -> T:
        """Await *doing* and write down when it began, and how it ended. A *process* given is kept by its caller."""
        own = self.process() if process is None else process
        self._event(into, EventType.INVOKE, own, f, key, value)
        try:
            answer = await doing
        except TrothError as error:
            unknown = isinstance(error, OutcomeUnknown)
            self.counts["unknown" if unknown else "refused"] += 1
            self._event(into, EventType.INFO if unknown else EventType.FAIL, own, f, key, value)
            if process is None and not unknown:
                self._free.append(own)
            raise
        self.counts["ok"] += 1
        self._event(into, EventType.OK, own, f, key, result(answer))
        if process is None:
            self._free.append(own)
        return answer

    def _event(
        self, into: tuple[list[Event], ...], kind: EventType, process: int, f: str, key: str, value: Any
    ) -> None:
        event = Event(type=kind, process=process, f=f, key=key, value=value, time=self._world.now_us * 1000)
        for events in into:
            events.append(event)

    def wrote(self, revision: int, key: str, value: str | None) -> None:
        """The cluster has acknowledged that *key* was written at *revision*."""
        self.written.setdefault(revision, []).append((key.encode(), (value or "").encode()))


class Worker:
    """One client, which does one thing after the other until `stop`."""

    def __init__(self, cluster: Cluster, record: Record, number: int, workload: "Workload | None" = None) -> None:
        """*workload*: what this client does again and again, instead of what is drawn."""
        self._workload = workload
        self.name = f"c{number}"
        self.stopped = False
        self._cluster = cluster
        self._plan = cluster.plan
        self._record = record
        self._number = number
        self._value = 0
        self._last: dict[str, str | None] = {}
        self._loop = cluster.client_loop(self.name)
        self._client: AsyncClient
        self._session: Session
        self._session_process = record.process()
        record.appends[self.name] = Appends()
        cluster.network.clients.append(self.name)
        self._loop.enter(self._start)

    def _start(self) -> None:
        self._client = _client_of(self._cluster, timeout_s=2.0)
        self._session = self._client.session()
        self._task = self._loop.create_task(self._work())
        self._task.add_done_callback(self._cluster.on_task_done)

    async def _work(self) -> None:
        number = 0
        kind = f"{OPERATION} {self.name}"
        names = [name for name, weight in KINDS for _ in range(weight)]
        while not self.stopped:
            rng = stream(self._plan.seed, "client", self._number, number)
            number += 1
            await asyncio.sleep(rng.random() * 2 * self._plan.think_us / 1e6)
            what = rng.choice(names)
            if what == "lease" and not self._plan.leases:
                what = "put"
            key = f"k{rng.randrange(self._plan.keys)}"
            if not self._cluster.choices.take(kind):
                continue
            self._cluster.tell(self.name, what)
            try:
                if self._workload is not None:
                    await self._workload(self._client, rng)
                else:
                    await getattr(self, "_" + what.replace(" ", "_"))(key, rng)
            except TrothError as error:
                self._record.counts[type(error).__name__] += 1
            except InvariantViolation as violation:
                self._cluster.violated(violation)

    @property
    def is_idle(self) -> bool:
        """Whether it has stopped, and nothing it asked for is unanswered."""
        return self._task.done()

    def _new_value(self) -> str:
        self._value += 1
        return f"{self._number}.{self._value}"

    async def _put(self, key: str, rng: Any) -> None:
        value = self._new_value()
        reply = await self._record.operation(
            (self._record.registers,), None, "put", key, value, self._client.put(key, value), lambda _: value
        )
        self._last[key] = value
        self._record.wrote(reply.revision, key, value)

    async def _burst(self, key: str, rng: Any) -> None:
        """Several at once: they share a batch."""
        await asyncio.gather(*(self._put(key, rng) for _ in range(rng.randint(2, 5))), return_exceptions=True)

    async def _get(self, key: str, rng: Any) -> None:
        reply = await self._record.operation(
            (self._record.registers,), None, "get", key, None, self._client.get(key), _value_of
        )
        self._last[key] = _value_of(reply)

    async def _cas(self, key: str, rng: Any) -> None:
        expected, value = self._last.get(key), self._new_value()
        compare = operations.version(key) == 0 if expected is None else operations.value(key) == expected
        reply = await self._record.operation(
            (self._record.registers,),
            None,
            "cas",
            key,
            (expected, value),
            self._client.txn([compare], [operations.Put(key, value)]),
            # A comparison that did not hold is an observation as well.
            lambda reply: (expected, value) if reply.succeeded else False,
        )
        if reply.succeeded:
            self._last[key] = value
            self._record.wrote(reply.revision, key, value)

    async def _delete(self, key: str, rng: Any) -> None:
        reply = await self._record.operation(
            (self._record.registers,), None, "delete", key, None, self._client.delete(key), lambda _: None
        )
        self._last[key] = None
        if reply.deleted:
            self._record.wrote(reply.revision, key, None)

    async def _append(self, key: str, rng: Any) -> None:
        appends, value = self._record.appends[self.name], self._new_value()
        try:
            reply = await self._client.put(f"log/{self.name}", value)
        except OutcomeUnknown:
            appends.unknown += 1
            raise
        appends.acknowledged += 1
        self._record.wrote(reply.revision, f"log/{self.name}", value)

    async def _session_put(self, key: str, rng: Any) -> None:
        key, value = f"s{key}", self._new_value()
        process = self._session_process
        try:
            reply = await self._record.operation(
                (self._record.sessions, self._record.bounded),
                process,
                "put",
                key,
                value,
                self._session.put(key, value),
                lambda _: value,
            )
            self._record.wrote(reply.revision, key, value)
        except OutcomeUnknown:
            # A process of a history ends with an unknown outcome; so does what a session promises here.
            self._session_process = self._record.process()
            self._session = self._client.session()
            raise

    async def _session_get(self, key: str, rng: Any) -> None:
        await self._record.operation(
            (self._record.sessions,),
            self._session_process,
            "get",
            f"s{key}",
            None,
            self._session.get(f"s{key}"),
            _value_of,
        )

    async def _bounded_get(self, key: str, rng: Any) -> None:
        key, level = f"s{key}", bounded(revisions=BEHIND)
        await self._record.operation(
            (self._record.bounded,), None, "get", key, None, self._client.get(key, level=level), _value_of
        )

    async def _weak_get(self, key: str, rng: Any) -> None:
        await self._client.get(key, level=rng.choice((eventual, sequential)))

    async def _transfer(self, key: str, rng: Any) -> None:
        source, target = rng.sample(range(ACCOUNTS), 2)
        reply = await self._client.range(prefix="account/")
        _add_up(reply.kvs)
        held = {kv.key.decode(): kv for kv in reply.kvs}
        one, other = held[f"account/{source}"], held[f"account/{target}"]
        amount = rng.randint(1, 30)
        done = await self._client.txn(
            [
                operations.mod_revision(one.key) == one.mod_revision,
                operations.mod_revision(other.key) == other.mod_revision,
            ],
            [
                operations.Put(one.key, str(int(one.value) - amount)),
                operations.Put(other.key, str(int(other.value) + amount)),
            ],
        )
        self._record.counts["transfers"] += done.succeeded

    async def _audit(self, key: str, rng: Any) -> None:
        level = rng.choice((eventual, sequential, bounded(revisions=BEHIND)))
        _add_up((await self._client.range(prefix="account/", level=level)).kvs)
        self._record.counts["audits"] += 1

    async def _lease(self, key: str, rng: Any) -> None:
        """A key under a lease is there as long as the lease may be relied on."""
        client, name = self._client, f"lease/{self.name}"
        lease = await client.lease(3)
        reply = await client.put(name, str(lease.id), lease=lease.id)
        for _ in range(rng.randint(1, 6)):
            await asyncio.sleep(rng.random())
            before = lease.is_alive
            seen = await client.get(name)
            if before and lease.is_alive and not self._plan.clocks:
                invariant(
                    seen.kv is not None and seen.kv.lease == lease.id,
                    "a lease's key is gone while its holder relies on it",
                    client=self.name,
                    lease=lease.id,
                    put_at=reply.revision,
                    seen=seen,
                )
                self._record.counts["leases relied on"] += 1
        try:
            await lease.revoke()
        except LeaseNotFound:
            pass
        self._record.counts["leases"] += 1


class Register:
    """A client of leaderless registers, straight against the acceptors in the servers: linearizable, key by key."""

    def __init__(self, cluster: Cluster, record: Record, number: int) -> None:
        self.name = f"r{number}"
        self.stopped = False
        self._cluster = cluster
        self._record = record
        self._number = number
        self._value = 0
        self._loop = cluster.client_loop(self.name)
        cluster.network.clients.append(self.name)
        self._loop.enter(self._start)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work())
        self._task.add_done_callback(self._cluster.on_task_done)

    async def _work(self) -> None:
        addresses = [host.client_address for host in self._cluster.hosts.values()]
        client: AsyncPaxosClient | None = None
        number = 0
        while not self.stopped:
            rng = stream(self._cluster.plan.seed, "register client", self._number, number)
            number += 1
            await asyncio.sleep(rng.random() * 2 * self._cluster.plan.think_us / 1e6)
            if not self._cluster.choices.take(f"{OPERATION} {self.name}"):
                continue
            try:
                if client is None:
                    # The servers that begin the cluster become the acceptors, when all of them are up for a moment.
                    client = await AsyncPaxosClient(addresses, timeout=2.0).open()
                await self._do(client, rng)
            except TrothError as error:
                self._record.counts[f"register {type(error).__name__}"] += 1

    async def _do(self, client: AsyncPaxosClient, rng: random.Random) -> None:
        key = f"r{rng.randrange(2)}"
        what = rng.choice(("put", "get", "get", "cas", "delete"))
        self._cluster.tell(self.name, f"register {what}")
        self._value += 1
        value = f"{self.name}.{self._value}"
        cells = (self._record.cells,)
        match what:
            case "put":
                await self._record.operation(
                    cells, None, what, key, value, client.put(key, value), lambda _: value
                )
            case "get":
                await self._record.operation(cells, None, what, key, None, client.get(key), _held)
            case "delete":
                await self._record.operation(cells, None, what, key, None, client.delete(key), lambda _: None)
            case _:
                held = _held(await client.get(key))
                wanted = held, value
                await self._record.operation(
                    cells,
                    None,
                    what,
                    key,
                    wanted,
                    client.cas(key, held, value),
                    # A comparison that did not hold is an observation as well.
                    lambda reply: wanted if reply.succeeded else False,
                )
        self._record.counts["register"] += 1

    @property
    def is_idle(self) -> bool:
        return self._task.done()


def _held(reply: Any) -> str | None:
    return None if reply.value is None else reply.value.decode()


class Watcher:
    """A client that looks on, from the beginning."""

    def __init__(self, cluster: Cluster, record: Record, number: int) -> None:
        self.seen = Seen(f"w{number}", 2)
        record.watches.append(self.seen)
        self._cluster = cluster
        self._loop = cluster.client_loop(self.seen.name)
        cluster.network.clients.append(self.seen.name)
        self._loop.enter(self._start)

    def _start(self) -> None:
        self._client = _client_of(self._cluster, timeout_s=5.0)
        self._task = self._loop.create_task(self._watch())
        self._task.add_done_callback(self._cluster.on_task_done)

    async def _watch(self) -> None:
        seen = self.seen
        start = seen.from_revision
        while True:
            watch = self._client.watch(prefix="", start_revision=start)
            try:
                async for events in watch:
                    self._on_events(events)
                    seen.upto = max(seen.upto, watch.revision)
                return
            except WatchCompacted as error:
                gone_from = seen.events[-1][0] + 1 if seen.events else seen.from_revision
                gone_from = max(gone_from, watch.revision + 1, start)
                seen.gaps.append((gone_from, max(gone_from, error.compact_revision)))
                start = max(error.compact_revision, gone_from)
            except TrothError:
                start = max(start, watch.revision + 1)
                await asyncio.sleep(0.2)

    def _on_events(self, events: list[KeyEvent]) -> None:
        seen = self.seen
        for event in events:
            revision = event.kv.mod_revision
            if seen.events and revision < seen.events[-1][0]:
                self._cluster.violated(
                    InvariantViolation(f"a watch goes back: {seen.name} sees {event} after {seen.events[-1]}")
                )
            value = b"" if event.type.name == "DELETE" else event.kv.value
            seen.events.append((revision, event.kv.key, value))


def _client_of(cluster: Cluster, *, timeout_s: float) -> AsyncClient:
    addresses = ",".join(host.client_address for host in cluster.hosts.values())
    return AsyncClient(f"troth://{addresses}", timeout=timeout_s)


def _value_of(reply: Any) -> str | None:
    return None if reply.kv is None else reply.kv.value.decode()


def _add_up(kvs: Any) -> None:
    total = sum(int(kv.value) for kv in kvs)
    invariant(
        not kvs or (len(kvs) == ACCOUNTS and total == ACCOUNTS * MONEY_EACH),
        "a transfer is half done",
        seen=[(kv.key, kv.value) for kv in kvs],
    )


async def prepare(client: AsyncClient) -> None:
    """Before any fault: the accounts."""
    await client.txn([], [operations.Put(f"account/{number}", str(MONEY_EACH)) for number in range(ACCOUNTS)])


def history_of(events: list[Event]) -> History:
    """A history that a checker can read."""
    return pair(list(events), format="recorded")
