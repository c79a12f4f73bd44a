"""The asyncio client of registers: one pipelined connection for each acceptor, and the same proposer as the blocking
client's (core/register). ``async with troth.aio.PaxosClient([...]) as registers: await registers.put("k", "v")``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from troth.client.operations import Text, as_bytes
from troth.client.registers import recorded
from troth.client.registers.aio_fan import AsyncFan
from troth.client.registers.aio_reach import AsyncReach
from troth.client.registers.arguments import as_function, as_key, as_swap, as_value, where
from troth.client.registers.backlog import AsyncBacklog
from troth.client.registers.discovery import Discovery, give_seat, new_client
from troth.client.registers.lines import LineLost
from troth.client.registers.patience import (
    COLLECT_HOLDS_S,
    COLLECT_WITHIN_S,
    SLOW_WITHIN_S,
    STARTED_WITHIN_S,
    TIMEOUT_S,
    now_s,
    seconds,
)
from troth.client.registers.replies import AcceptorView, RegisterReply, Tally, listed, reply_of, view_of
from troth.client.registers.turns import AsyncPlaces, AsyncTurns
from troth.client.url import parse_url
from troth.core.register import changes
from troth.core.register.listing import Census, Listing
from troth.core.register.messages import Configuration, Configure, Seat
from troth.core.register.proposer import Proposer
from troth.core.register.reconfigure import Reconfiguration
from troth.core.register.states import Change
from troth.core.register.task import Outcome, Task
from troth.errors import TrothError, UsageError
from troth.ids import NodeId

if TYPE_CHECKING:
    from troth.client.registers.local import LocalAcceptors


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
            UsageError: no addresses, sizes of quorums that are no numbers, or a time-out that is no number of seconds
                above 0.
        """
        place = where(acceptors)
        self._timeout_s = self._opening_s = seconds(timeout)
        self._collects = collect
        tls = parse_url(place.url).ssl_context() if place.url else None
        discovery = Discovery(place.addresses, prepare=prepare, accept=accept, found=found)
        self._reach = AsyncReach(place.addresses, tls, discovery)
        self._known: Proposer | None = None
        self.local_acceptors: LocalAcceptors | None = None
        """The acceptors that `local` has started."""
        self._turns = AsyncTurns()
        self._places = AsyncPlaces()
        self._fan = AsyncFan(self._reach)
        self._backlog = AsyncBacklog(self._reach, self._collect)

    @classmethod
    async def local(
        cls,
        directory: "str | Path",
        acceptors: int = 3,
        *,
        timeout: float = TIMEOUT_S,  # noqa: ASYNC109 - each call's, as the constructor's
        prepare: int = 0,
        accept: int = 0,
    ) -> Self:
        """As `troth.PaxosClient.local`: ``async with await troth.aio.PaxosClient.local(directory) as registers``.

        Raises:
            UsageError: *directory* can not be written or holds another number of acceptors, or other quorums; or there
                can be no such set.
            Unavailable: an acceptor does not start.
        """
        from troth.client.registers.local import LocalAcceptors

        timeout_s = seconds(timeout)
        # Cancelled here its thread goes on; what that makes is nobody's, and ends with its last reference.
        started = await asyncio.to_thread(LocalAcceptors, directory, acceptors, prepare=prepare, accept=accept)
        client = cls(started.addresses, timeout=timeout_s, prepare=prepare, accept=accept, found=True)
        client.local_acceptors = started
        client._opening_s = max(timeout_s, STARTED_WITHIN_S)
        return await client.open()

    async def open(self) -> Self:
        """Find the acceptors, or make a new set of them.

        Raises:
            UsageError: it was closed; and as `troth.PaxosClient`.
            Unavailable, WrongCluster: as `troth.PaxosClient`.
        """
        if self._known is not None:
            self._reach.check()
            return self
        self._reach.settle()
        try:
            self._known = Proposer(new_client(), await self._reach.find(now_s() + self._opening_s))
        except BaseException:
            await self.close()
            raise
        return self

    # ---- registers -----------------------------------------------------------------------------------------

    async def get(self, key: Text, *, within_s: float | None = None) -> RegisterReply:
        """Read a register; `value` is None if it holds nothing.

        Raises: as `troth.PaxosClient.get`.
        """
        name = as_key(key)
        with recorded.call("get", name) as record:
            return record.ends(reply_of(await self._call(self._proposer.read(name), self._deadline(within_s))))

    async def put(self, key: Text, value: Text, *, within_s: float | None = None) -> RegisterReply:
        """Write a register.

        Raises: as `troth.PaxosClient.put`.
        """
        name, wanted = as_key(key), as_value(value)
        with recorded.call("put", name, wanted) as record:
            return record.ends(await self._change(name, changes.put(wanted), within_s))

    async def cas(
        self, key: Text, expected: Text | None, value: Text | None, *, within_s: float | None = None
    ) -> RegisterReply:
        """Write *value* if the register holds *expected* (None: nothing).

        Raises: as `troth.PaxosClient.cas`.
        """
        name = as_key(key)
        old, new = as_swap(expected, value)
        with recorded.cas(name, old, new) as record:
            return record.ends(await self._change(name, changes.cas(old, new), within_s))

    async def change(
        self, key: Text, function: Callable[[bytes | None], Text | None], *, within_s: float | None = None
    ) -> RegisterReply:
        """Let the register become what *function* (no coroutine) makes of its value; applied once.

        Raises: as `troth.PaxosClient.change`.
        """
        name = as_key(key)
        with recorded.change(name) as record:
            return record.ends(await self._change(name, changes.apply(as_function(function)), within_s, record))

    async def propose(self, key: Text, value: Text, *, within_s: float | None = None) -> RegisterReply:
        """Decide the register once and for ever: on what it holds, or on *value* if it holds nothing. The reply's
        `value` is the decision.

        Raises: as `troth.PaxosClient.propose`.
        """
        name = as_key(key)
        with recorded.change(name) as record:
            return record.ends(await self._change(name, changes.propose(as_value(value)), within_s, record))

    async def delete(self, key: Text, *, within_s: float | None = None) -> RegisterReply:
        """Delete a register.

        Raises: as `troth.PaxosClient.delete`.
        """
        name = as_key(key)
        with recorded.call("delete", name) as record:
            return record.ends(await self._change(name, changes.delete(), within_s))

    # ---- tombstones and acceptors --------------------------------------------------------------------------

    async def collect(self, key: Text | None = None, *, within_s: float = SLOW_WITHIN_S) -> int:
        """Remove the tombstone of *key* (None: all of them) now; returns how many were removed. Needs every acceptor. A
        key that others are changing meanwhile is left to them.

        Raises: as `troth.PaxosClient.collect`.
        """
        deadline = self._deadline(within_s)
        dead = [] if key is None else [as_key(key)]
        if key is None:
            census = Census(self._proposer)
            reply_of(await self._call(census, deadline))
            dead = census.tombstones
        tally = Tally()
        for name in dead:
            tally.count(await self._collected(name, deadline, self._call, holds_s=within_s))
        return tally.removed()

    async def keys(self, prefix: Text = b"", *, within_s: float | None = None) -> list[bytes]:
        """Keys that a quorum of acceptors holds and that begin with *prefix*, sorted; not at one instant.

        Raises: as `troth.PaxosClient.keys`.
        """
        listing = Listing(self._proposer)
        reply_of(await self._call(listing, self._deadline(within_s)))
        return listed(listing, as_bytes(prefix))

    async def acceptors(self, *, within_s: float | None = None) -> list[AcceptorView]:
        """Every acceptor of the present set, and how it is.

        Raises: as `troth.PaxosClient.acceptors`.
        """
        config = self.configuration
        within_s = seconds(self._timeout_s if within_s is None else within_s)

        async def view(seat: Seat) -> AcceptorView:
            try:
                async with asyncio.timeout(within_s):
                    line = self._reach.line(self._reach.address_of(seat.acceptor, config))
                    # One that was not told yet of the present configuration is told by the question.
                    try:
                        reply = await line.ask(Configure(config))
                    except LineLost as error:
                        if not error.sent:
                            raise
                        # Its process was started again since the last request, most likely.
                        reply = await line.ask(Configure(config))
            except (TrothError, TimeoutError) as error:
                return view_of(seat, config, None, str(error) or "it does not answer")
            return view_of(seat, config, reply, "")

        return list(await asyncio.gather(*(view(seat) for seat in config.seats)))

    @property
    def has_founded(self) -> bool:
        """Whether it was this client that made a set of the acceptors."""
        return self._reach.has_founded

    @property
    def configuration(self) -> Configuration:
        """The set of acceptors as this client knows it.

        Raises:
            UsageError: this client is closed, or another process's, or not open.
        """
        return self._proposer.config

    async def set_acceptors(
        self, addresses: Sequence[str], *, prepare: int = 0, accept: int = 0, within_s: float = SLOW_WITHIN_S
    ) -> Configuration:
        """Make the acceptors at *addresses* the set, while clients go on; see `troth.PaxosClient.set_acceptors`.

        Raises: as `troth.PaxosClient.set_acceptors`.
        """
        deadline = self._deadline(within_s)
        seats: dict[NodeId, str] = {}
        for address in where(addresses).addresses:
            reply = await self._reach.insist(address, deadline)
            give_seat(seats, address, reply, self.configuration)
        reply_of(
            await self._call(Reconfiguration(self._proposer, seats, prepare=prepare, accept=accept), deadline)
        )
        return self.configuration

    # ---- machinery -----------------------------------------------------------------------------------------

    @property
    def _proposer(self) -> Proposer:
        self._reach.check()
        if self._known is None:
            raise UsageError("open this client first: `async with troth.aio.PaxosClient([...]) as registers`")
        return self._known

    def _deadline(self, within_s: float | None) -> float:
        self._reach.check()
        return now_s() + seconds(self._timeout_s if within_s is None else within_s)

    async def _change(
        self, key: bytes, change: Change, within_s: float | None, record: "recorded.Call | None" = None
    ) -> RegisterReply:
        deadline, proposer = self._deadline(within_s), self._proposer
        async with self._turns.of(key, deadline):
            outcome = await self._call(proposer.change(key, change), deadline, record)
        if outcome.error is None and outcome.tombstone and self._collects:
            self._backlog.add(key)
        return reply_of(outcome)

    async def _call(self, task: Task, deadline: float, record: "recorded.Call | None" = None) -> Outcome:
        """Run a call's *task*, once there is a place for it."""
        async with self._places.one(deadline):
            return await self._fan.run(task, deadline, record)

    async def _collect(self, key: bytes) -> None:
        await self._collected(key, self._deadline(COLLECT_WITHIN_S), self._fan.run, holds_s=COLLECT_HOLDS_S)

    async def _collected(
        self, key: bytes, deadline: float, run: Callable[[Task, float], Awaitable[Outcome]], *, holds_s: float
    ) -> Outcome:
        """As `troth.PaxosClient`'s: also where *run* waits for a place, it does so when it has the turn."""
        proposer = self._proposer
        looked = await run(proposer.look(key), deadline)
        if not looked.tombstone:
            return looked
        async with self._turns.of(key, deadline):
            return await run(proposer.collect(key), min(deadline, now_s() + holds_s))

    # ---- beginning and end ---------------------------------------------------------------------------------

    async def close(self) -> None:
        """End all connections; calls under way end as if their time were over. Closing twice is no error."""
        if not self._reach.is_of_this_process:
            return
        self._reach.close()
        self._fan.wake()
        if self.local_acceptors is not None:
            await asyncio.to_thread(self.local_acceptors.close)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
