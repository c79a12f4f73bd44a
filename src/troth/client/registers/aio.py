"""The asyncio client of registers: one pipelined connection for each acceptor, and the same proposer as the blocking
client's (core/register). ``async with troth.aio.PaxosClient([...]) as registers: await registers.put("k", "v")``.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

from troth.client import request as requests
from troth.client.operations import Text, as_bytes
from troth.client.registers import recorded
from troth.client.registers.aio_lines import AsyncLine, now_s, seen
from troth.client.registers.lines import LineLost
from troth.client.registers.request import (
    CHANGE_WITHIN_S,
    COLLECT_WITHIN_S,
    COLLECTIONS_MAX,
    DESCRIBE_SECONDS_MAX,
    RETRY_FOUNDING_S,
    TIMEOUT_S,
    AcceptorView,
    Finding,
    RegisterReply,
    as_function,
    as_key,
    as_value,
    check_joins,
    listed,
    new_proposer,
    pause_s,
    reply_of,
    view_of,
    where,
)
from troth.client.url import parse_url
from troth.core.register import changes
from troth.core.register.messages import (
    Configuration,
    Configure,
    Describe,
    Described,
    ReplyMessage,
    Seat,
)
from troth.core.register.proposer import Proposer
from troth.core.register.reconfigure import Listing, Reconfiguration
from troth.core.register.states import Change
from troth.core.register.task import Outcome, Send, Task
from troth.errors import TrothError, Unavailable, UsageError, WrongCluster
from troth.ids import NodeId


class PaxosClient:
    """`troth.PaxosClient` for asyncio: the same calls, awaited. Open it with ``async with``, or `open` and `close`."""

    def __init__(
        self,
        acceptors: str | Sequence[str],
        *,
        timeout: float = TIMEOUT_S,
        prepare: int = 0,
        accept: int = 0,
        found: bool | None = None,
        collect: bool = True,
    ) -> None:
        """See `troth.PaxosClient`.

        Raises:
            UsageError: no addresses.
        """
        if timeout <= 0:
            raise UsageError("timeout is in seconds and above 0")
        place = where(acceptors)
        self._tls = parse_url(place.url).ssl_context() if place.url else None
        self._given = place.addresses
        self._timeout_s = timeout
        self._collects = collect
        self._finding = Finding(place.addresses, prepare=prepare, accept=accept, found=found)
        self._addresses = self._finding.addresses
        self._lines: dict[str, AsyncLine] = {}
        self._known: Proposer | None = None
        self._mixed: WrongCluster | None = None
        self._turns: dict[bytes, tuple[asyncio.Lock, int]] = {}
        self._collecting: set[bytes] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._chance = random.Random(requests.draw_bits(64))
        self._closed = False

    async def open(self) -> Self:
        """Find the acceptors, or make a new set of them.

        Raises:
            UsageError, Unavailable, WrongCluster: as `troth.PaxosClient`.
        """
        if self._known is None:
            try:
                self._known = new_proposer(await self._find(now_s() + self._timeout_s))
            except BaseException:
                await self.close()
                raise
        return self

    # ---- registers -----------------------------------------------------------------------------------------

    async def get(self, key: Text, *, within_s: float | None = None) -> RegisterReply:
        """Read a register; `value` is None if it holds nothing."""
        name = as_key(key)
        with recorded.call("get", name) as record:
            return record.ends(reply_of(await self._drive(self._proposer.read(name), self._deadline(within_s))))

    async def put(self, key: Text, value: Text, *, within_s: float | None = None) -> RegisterReply:
        """Write a register."""
        name, wanted = as_key(key), as_value(value)
        with recorded.call("put", name, wanted) as record:
            return record.ends(await self._change(name, changes.put(wanted), within_s))

    async def cas(
        self, key: Text, expected: Text | None, value: Text | None, *, within_s: float | None = None
    ) -> RegisterReply:
        """Write *value* if the register holds *expected* (None: nothing)."""
        name = as_key(key)
        old = None if expected is None else as_value(expected)
        new = None if value is None else as_value(value)
        with recorded.cas(name, old, new) as record:
            return record.ends(await self._change(name, changes.cas(old, new), within_s))

    async def change(
        self, key: Text, function: Callable[[bytes | None], Text | None], *, within_s: float | None = None
    ) -> RegisterReply:
        """Let the register become what *function* (no coroutine) makes of its value; applied once."""
        name = as_key(key)
        with recorded.change(name) as record:
            return record.ends(await self._change(name, changes.apply(as_function(function)), within_s, record))

    async def propose(self, key: Text, value: Text, *, within_s: float | None = None) -> RegisterReply:
        """Decide the register once and for ever; the reply's `value` is the decision."""
        name = as_key(key)
        with recorded.change(name) as record:
            return record.ends(await self._change(name, changes.propose(as_value(value)), within_s, record))

    async def delete(self, key: Text, *, within_s: float | None = None) -> RegisterReply:
        """Delete a register."""
        name = as_key(key)
        with recorded.call("delete", name) as record:
            return record.ends(await self._change(name, changes.delete(), within_s))

    # ---- tombstones and acceptors --------------------------------------------------------------------------

    async def collect(self, *, within_s: float = CHANGE_WITHIN_S) -> int:
        """Remove all tombstones now; returns how many. Needs every acceptor."""
        deadline = now_s() + within_s
        listing = Listing(self._proposer)
        reply_of(await self._drive(listing, deadline))
        dead = [key for key, is_tombstone in listing.keys.items() if is_tombstone]
        for key in dead:
            reply_of(await self._drive(self._proposer.collect(key), deadline))
        return len(dead)

    async def keys(self, prefix: Text = b"", *, within_s: float | None = None) -> list[bytes]:
        """Keys that a quorum of acceptors holds and that begin with *prefix*, sorted; not at one instant."""
        listing = Listing(self._proposer)
        reply_of(await self._drive(listing, self._deadline(within_s)))
        return listed(listing, as_bytes(prefix))

    async def acceptors(self, *, within_s: float | None = None) -> list[AcceptorView]:
        """Every acceptor of the present set, and how it is."""
        config = self.configuration
        within_s = self._timeout_s if within_s is None else within_s

        async def view(seat: Seat) -> AcceptorView:
            try:
                async with asyncio.timeout(within_s):
                    line = self._line(self._address_of(seat.acceptor, config))
                    # One that was not told yet of the present configuration is told by the question.
                    reply = await line.ask(Configure(config))
            except (TrothError, TimeoutError) as error:
                return view_of(seat, config, None, str(error) or "it does not answer")
            return view_of(seat, config, reply, "")

        return list(await asyncio.gather(*(view(seat) for seat in config.seats)))

    @property
    def configuration(self) -> Configuration:
        """The set of acceptors as this client knows it."""
        return self._proposer.config

    async def set_acceptors(
        self, addresses: Sequence[str], *, prepare: int = 0, accept: int = 0, within_s: float = CHANGE_WITHIN_S
    ) -> Configuration:
        """Make the acceptors at *addresses* the set, while clients go on; see `troth.PaxosClient.set_acceptors`."""
        deadline = now_s() + within_s
        seats: dict[NodeId, str] = {}
        for address in where(addresses).addresses:
            reply = await self._insist(address, deadline)
            check_joins(address, reply, self.configuration)
            seats[reply.acceptor] = address
        reply_of(
            await self._drive(Reconfiguration(self._proposer, seats, prepare=prepare, accept=accept), deadline)
        )
        return self.configuration

    # ---- machinery -----------------------------------------------------------------------------------------

    async def _insist(self, address: str, deadline: float) -> Described:
        """Who is at *address*; one that has just been started is given a moment."""
        patience = min(deadline, now_s() + DESCRIBE_SECONDS_MAX)
        while True:
            try:
                async with asyncio.timeout(deadline - now_s()):
                    reply = await self._describe(address)
                if isinstance(reply, Described):
                    return reply
            except (LineLost, TimeoutError) as error:
                if now_s() > patience:
                    raise Unavailable(f"the acceptor at {address} does not answer ({error})") from None
            await asyncio.sleep(RETRY_FOUNDING_S)

    @property
    def _proposer(self) -> Proposer:
        if self._closed:
            raise UsageError("this client is closed")
        if self._mixed is not None:
            raise self._mixed
        if self._known is None:
            raise UsageError("open this client first: `async with troth.aio.PaxosClient([...]) as registers`")
        return self._known

    def _deadline(self, within_s: float | None) -> float:
        return now_s() + (self._timeout_s if within_s is None else within_s)

    async def _change(
        self, key: bytes, change: Change, within_s: float | None, record: "recorded.Call | None" = None
    ) -> RegisterReply:
        deadline = self._deadline(within_s)
        async with self._turn(key, deadline):
            outcome = await self._drive(self._proposer.change(key, change), deadline, record)
        if outcome.error is None and outcome.tombstone and self._collects:
            self._collect_later(key)
        return reply_of(outcome)

    @asynccontextmanager
    async def _turn(self, key: bytes, deadline: float) -> AsyncIterator[None]:
        """One change at a time of one key: two of the same client would only refuse each other."""
        lock, users = self._turns.get(key, (asyncio.Lock(), 0))
        self._turns[key] = (lock, users + 1)
        try:
            try:
                async with asyncio.timeout(max(0.0, deadline - now_s())):
                    await lock.acquire()
            except TimeoutError:
                raise Unavailable(f"other calls of this client for {key!r:.60} have used up the time") from None
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._turns[key]
            if users == 1:
                del self._turns[key]
            else:
                self._turns[key] = (lock, users - 1)

    async def _drive(self, task: Task, deadline: float, record: "recorded.Call | None" = None) -> Outcome:
        """Run *task* to its end; answers are taken as they come."""
        wake = asyncio.Event()
        jobs: set[asyncio.Task[ReplyMessage]] = set()

        def feed(send: Send, job: "asyncio.Task[ReplyMessage]") -> None:
            jobs.discard(job)
            if job.cancelled():
                return
            if job.exception() is None:
                task.on_reply(send, job.result())
            else:
                task.on_lost(send)
            wake.set()

        try:
            while True:
                sends = task.take()
                if record is not None:
                    record.attempts(task)
                if task.outcome is not None:
                    return task.outcome
                for send in sends:
                    job = asyncio.create_task(self._ask(send, task))
                    jobs.add(job)
                    job.add_done_callback(partial(feed, send))
                left_s = deadline - now_s()
                if left_s <= 0:
                    task.give_up()
                elif task.pause:
                    await asyncio.sleep(min(left_s, pause_s(task.pause, self._chance.random())))
                    task.resume()
                else:
                    try:
                        async with asyncio.timeout(left_s):
                            await wake.wait()
                    except TimeoutError:
                        task.give_up()
                    wake.clear()
        finally:
            for job in jobs:
                job.cancel()

    async def _ask(self, send: Send, task: Task) -> ReplyMessage:
        return await self._line(self._address_of(send.to, task.config)).ask(send.request, expect=send.to)

    def _address_of(self, acceptor: NodeId, config: Configuration) -> str:
        known = self._finding.address_of(acceptor, config)
        if known is not None:
            return known
        mapped = set(self._addresses.values())
        for address in self._given:
            if address not in mapped:
                self._aside(partial(self._describe, address))
        seat = config.seat_of(acceptor)
        if seat is None:
            raise LineLost(f"nobody knows where acceptor {acceptor:x} is")
        return seat.address

    def _line(self, address: str) -> AsyncLine:
        if self._closed:
            raise UsageError("this client is closed")
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = AsyncLine(address, self._tls)
        return line

    def _aside(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Do it beside everything else, for a while; what comes of it is not waited for."""

        async def bounded() -> None:
            try:
                async with asyncio.timeout(DESCRIBE_SECONDS_MAX + COLLECT_WITHIN_S):
                    await work()
            except (TrothError, TimeoutError):
                pass

        job = asyncio.create_task(bounded())
        self._background.add(job)
        job.add_done_callback(self._background.discard)

    async def _describe(self, address: str) -> ReplyMessage:
        reply = await self._line(address).ask(Describe())
        if isinstance(reply, Described):
            try:
                self._finding.on_described(address, reply)
            except WrongCluster as error:
                self._mixed = error
        return reply

    async def _find(self, deadline: float) -> Configuration:
        finding = self._finding
        while now_s() < deadline:
            waiting = {asyncio.create_task(self._describe(address)) for address in self._given}
            for job in waiting:
                job.add_done_callback(seen)
            while waiting and not finding.is_enough and (left_s := deadline - now_s()) > 0:
                _, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if self._mixed is not None:
                    raise self._mixed
            for job in waiting:
                self._background.add(job)  # whoever answers late is known then, and a stranger noticed
                job.add_done_callback(self._background.discard)
            if finding.config is not None:
                return finding.config
            config = finding.to_found()
            if config is not None:
                for address in self._given:
                    self._aside(partial(self._line(address).ask, Configure(config)))
            await asyncio.sleep(RETRY_FOUNDING_S)
        raise finding.unavailable()

    def _collect_later(self, key: bytes) -> None:
        if self._closed or key in self._collecting or len(self._collecting) >= COLLECTIONS_MAX:
            return
        self._collecting.add(key)
        self._aside(partial(self._collect, key))

    async def _collect(self, key: bytes) -> None:
        deadline = now_s() + COLLECT_WITHIN_S
        try:
            async with self._turn(key, deadline):
                await self._drive(self._proposer.collect(key), deadline)
        finally:
            self._collecting.discard(key)

    # ---- beginning and end ---------------------------------------------------------------------------------

    async def close(self) -> None:
        """End all connections. Closing twice is no error."""
        self._closed = True
        for job in list(self._background):
            job.cancel()
        for line in self._lines.values():
            line.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
