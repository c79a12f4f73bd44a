"""What clients do in a simulated run. They are real `AsyncClient`s, each a process of its own.

==========  ================================================================================================
register    put, get, compare-and-set and delete of a few shared keys: linearizable, key by key
session     keys of their own, through `client.session()`: reads its writes, and never goes back
bounded     reads at most so many revisions behind
append      a key that one client writes, counted by its version: no write is lost, none is applied twice
transfer    money between accounts, and readers who add it up: transactions are all or nothing
sweep       a range of keys, or those of a lease, deleted at once, in the smallest steps, where a seed wants that
lease       a key that lives as long as a lease: it does not vanish while its holder may rely on it
watch       everything that happens to all keys, once and in order (watchers.py)
cells       leaderless registers, straight against the acceptors (register_clients.py): linearizable, key by key
==========  ================================================================================================

What they are told is written down (record.py), and every operation that was acknowledged is checked at the level it was
promised (judge.py).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from troth.client import operations
from troth.client.aio import AsyncClient
from troth.client.session import Session
from troth.errors import InvariantViolation, LeaseNotFound, OutcomeUnknown, TrothError, invariant
from troth.models import bounded, eventual, sequential
from troth.rehearsal.cluster import Cluster
from troth.rehearsal.record import Appends, Record, value_of
from troth.simulate.choices import OPERATION
from troth.simulate.rng import stream

Workload: TypeAlias = Callable[[AsyncClient, random.Random], Awaitable[None]]
"""What a client of one's own does, called again and again. `TrothError`s it lets pass are a client's daily bread."""

ACCOUNTS = 3
MONEY_EACH = 100
BEHIND = 3
"""Revisions that bounded reads may be behind."""

SWEEP_OF = 8
"""Of so many operations one is a sweep, where long work is done in small steps."""

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
        self._sweeps = 0
        self._last: dict[str, str | None] = {}
        self._loop = cluster.client_loop(self.name)
        self._client: AsyncClient
        self._session: Session
        self._session_process = record.process()
        record.appends[self.name] = Appends()
        cluster.network.clients.append(self.name)
        self._loop.enter(self._start)

    def _start(self) -> None:
        self._client = AsyncClient(self._cluster.url, timeout=2.0)
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
            if self._plan.round_us and rng.randrange(SWEEP_OF) == 0:
                what = "sweep"
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
            (self._record.registers,), None, "get", key, None, self._client.get(key), value_of
        )
        self._last[key] = value_of(reply)

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
            value_of,
        )

    async def _bounded_get(self, key: str, rng: Any) -> None:
        key, level = f"s{key}", bounded(revisions=BEHIND)
        await self._record.operation(
            (self._record.bounded,), None, "get", key, None, self._client.get(key, level=level), value_of
        )

    async def _weak_get(self, key: str, rng: Any) -> None:
        await self._client.get(key, level=rng.choice((eventual, sequential)))

    async def _transfer(self, key: str, rng: Any) -> None:
        source, target = rng.sample(range(ACCOUNTS), 2)
        reply = await self._client.range(prefix="account/")
        invariant(bool(reply.kvs), "a linearizable read lacks what was acknowledged before", prefix="account/")
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

    async def _sweep(self, key: str, rng: Any) -> None:
        """Some keys that only this client writes, all of which go at once."""
        client, prefix = self._client, f"sweep/{self.name}/{self._sweeps}/"
        lease = await client.lease(60) if rng.random() < 0.3 else None
        puts = [
            operations.Put(f"{prefix}{number}", self._new_value(), lease=0 if lease is None else lease.id)
            for number in range(rng.randint(2, 6))
        ]
        # What has an unknown outcome may come to be later: the next sweep is of other keys.
        self._sweeps += 1
        await client.txn([], puts)
        if lease is None:
            reply = await client.delete(prefix=prefix)
            invariant(reply.deleted == len(puts), "not all of a range is deleted", prefix=prefix, reply=reply)
        else:
            await lease.revoke()
        left = await client.range(prefix=prefix)
        invariant(not left.kvs, "what was deleted is there", prefix=prefix, left=left)
        self._record.counts["sweeps"] += 1

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
