"""The blocking client. The heart of it is fan.py: all acceptors are asked at once, and a quorum of answers does."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from troth.client.operations import Text, as_bytes
from troth.client.registers import recorded
from troth.client.registers.arguments import as_function, as_key, as_swap, as_value, where
from troth.client.registers.backlog import Backlog
from troth.client.registers.discovery import Discovery, give_seat, new_client
from troth.client.registers.fan import Fan
from troth.client.registers.leaving import close_at_exit
from troth.client.registers.lines import failure_of, may_have_arrived
from troth.client.registers.patience import (
    COLLECT_HOLDS_S,
    COLLECT_WITHIN_S,
    SLOW_WITHIN_S,
    STARTED_WITHIN_S,
    TIMEOUT_S,
    seconds,
)
from troth.client.registers.reach import Reach
from troth.client.registers.replies import AcceptorView, RegisterReply, Tally, listed, reply_of, view_of
from troth.client.registers.shared import SharedProposer
from troth.client.registers.turns import Places, Turns
from troth.client.url import parse_url
from troth.core.register import changes
from troth.core.register.listing import Census, Listing
from troth.core.register.messages import Configuration, Configure, ReplyMessage, Seat
from troth.core.register.proposer import Proposer
from troth.core.register.reconfigure import Reconfiguration
from troth.core.register.states import Change
from troth.core.register.task import Outcome, Task
from troth.ids import NodeId

if TYPE_CHECKING:
    from troth.client.registers.local import LocalAcceptors

TaskT = TypeVar("TaskT", bound=Task)


class PaxosClient:
    """Linearizable registers, straight against the acceptors: no leader, no log, no election.

    ::

        with PaxosClient(["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]) as registers:
            registers.put("colour", "red")
            registers.change("visits", lambda held: str(int(held or 0) + 1))
            assert registers.get("colour").value == b"red"

    May be shared by threads. Every call ends within its time-out, unless a change function takes longer, and raises
    `NotApplied` (it did not happen and never will) or `OutcomeUnknown` (it may have happened, or may yet) when it does
    not succeed; a change is never applied twice by one call.
    """

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
        """
        Args:
            acceptors: addresses of acceptors (`troth serve` or `troth acceptor`), or a ``troth://`` URL of them. Where
                none of them belongs to a set yet and all are up, three or more become one.
            timeout: seconds that a call may take, this one included.
            prepare, accept: sizes of the quorums of a new set (0: majorities); their sum must be above the number of
                acceptors.
            found: whether the acceptors may become a new set; by itself only three or more do.
            collect: remove tombstones of deleted keys in the background.

        Raises:
            UsageError: no addresses, one acceptor at two of them, sizes that are no numbers, quorums that need not meet
                or that the set does not have, a set that is not to be founded, or a wrong time-out.
            Unavailable: no acceptor answers in time.
            WrongCluster: the acceptors do not belong together.
        """
        place = where(acceptors)
        self._timeout_s = seconds(timeout)
        self._collects = collect
        self._lock = threading.RLock()
        """Guards the proposer and its tasks, which are pure and quick; but see `_change`."""
        self._turns = Turns()
        self._places = Places()
        self.local_acceptors: LocalAcceptors | None = None
        """The acceptors that `local` has started."""
        tls = parse_url(place.url).ssl_context() if place.url else None
        discovery = Discovery(place.addresses, prepare=prepare, accept=accept, found=found)
        self._reach = Reach(place.addresses, tls, discovery)
        self._fan = Fan(self._reach, self._lock)
        self._backlog = Backlog(self._reach, self._lock)
        close_at_exit(self)
        try:
            config = self._reach.find(time.monotonic() + self._timeout_s)
        except BaseException:
            self.close()
            raise
        self._proposer = SharedProposer(new_client(), config, self._lock)

    @classmethod
    def local(
        cls,
        directory: "str | Path",
        acceptors: int = 3,
        *,
        timeout: float = TIMEOUT_S,
        prepare: int = 0,
        accept: int = 0,
    ) -> "PaxosClient":
        """Start *acceptors* on this machine, each a process of its own with a directory of its own under *directory*,
        and connect. They end with this client, or with this process; their data stays.

        Raises:
            UsageError: *directory* can not be written or holds another number of acceptors, or other quorums; or there
                can be no such set.
            Unavailable: an acceptor does not start.
        """
        from troth.client.registers.local import LocalAcceptors

        timeout_s = seconds(timeout)
        started = LocalAcceptors(directory, acceptors, prepare=prepare, accept=accept)
        try:
            client = cls(
                started.addresses,
                timeout=max(timeout_s, STARTED_WITHIN_S),
                prepare=prepare,
                accept=accept,
                found=True,
            )
        except BaseException:
            started.close()
            raise
        client._timeout_s = timeout_s
        client.local_acceptors = started
        return client

    # ---- registers -----------------------------------------------------------------------------------------

    def get(self, key: Text, *, within_s: float | None = None) -> RegisterReply:
        """Read a register; `value` is None if it holds nothing. One round trip where a quorum agrees.

        Raises:
            UsageError: a wrong key or time-out, or this client is closed or another process's.
            Unavailable, Overloaded: no quorum has answered in time, or the call found no place in its time.
            QuotaExceeded: the acceptors disagree, and have no room to settle that.
            WrongCluster: the acceptors belong to different sets.
        """
        name = as_key(key)
        with recorded.call("get", name) as record:
            deadline = self._deadline(within_s)
            return record.ends(reply_of(self._call(self._begin(lambda proposer: proposer.read(name)), deadline)))

    def put(self, key: Text, value: Text, *, within_s: float | None = None) -> RegisterReply:
        """Write a register.

        Raises:
            UsageError: a wrong argument, or this client is closed or another process's; nothing was changed.
            AlreadyDecided: `propose` has decided the register; nothing was changed.
            Unavailable, Overloaded, QuotaExceeded: no quorum in time, no place, no room; nothing was changed.
            OutcomeUnknown: it may have happened, or may yet.
            WrongCluster: the acceptors belong to different sets.
        """
        name, wanted = as_key(key), as_value(value)
        with recorded.call("put", name, wanted) as record:
            return record.ends(self._change(name, changes.put(wanted), within_s))

    def cas(
        self, key: Text, expected: Text | None, value: Text | None, *, within_s: float | None = None
    ) -> RegisterReply:
        """Write *value* if the register holds *expected* (None: nothing). See `RegisterReply.succeeded`.

        Raises: as `put`.
        """
        name = as_key(key)
        old, new = as_swap(expected, value)
        with recorded.cas(name, old, new) as record:
            return record.ends(self._change(name, changes.cas(old, new), within_s))

    def change(
        self, key: Text, function: Callable[[bytes | None], Text | None], *, within_s: float | None = None
    ) -> RegisterReply:
        """Let the register become what *function* makes of its value (None: nothing there; and None deletes it).

        *function* may be called several times, also on values that turn out to be old: it must depend on nothing but
        its argument, be quick, and not use this client. The change it makes is applied once.

        Raises:
            ChangeFailed: *function* raised; nothing was changed.
            And as `put`.
        """
        name = as_key(key)
        with recorded.change(name) as record:
            return record.ends(self._change(name, changes.apply(as_function(function)), within_s, record))

    def propose(self, key: Text, value: Text, *, within_s: float | None = None) -> RegisterReply:
        """Decide the register once and for ever: on what it holds, or on *value* if it holds nothing. The reply's
        `value` is the decision.

        Raises: as `put`, but for AlreadyDecided.
        """
        name = as_key(key)
        with recorded.change(name) as record:
            return record.ends(self._change(name, changes.propose(as_value(value)), within_s, record))

    def delete(self, key: Text, *, within_s: float | None = None) -> RegisterReply:
        """Delete a register; `changed` says whether it held anything. Its tombstone is collected in the background.

        Raises: as `put`.
        """
        name = as_key(key)
        with recorded.call("delete", name) as record:
            return record.ends(self._change(name, changes.delete(), within_s))

    # ---- tombstones and acceptors --------------------------------------------------------------------------

    def collect(self, key: Text | None = None, *, within_s: float = SLOW_WITHIN_S) -> int:
        """Remove the tombstone of *key* (None: all of them) now; returns how many were removed. Needs every acceptor. A
        key that others are changing meanwhile is left to them.

        Raises:
            Unavailable: an acceptor does not answer, or a key is in use; what could be removed is removed all the same.
            AcceptorsChanged: the set was changed meanwhile; call again.
            WrongCluster: the acceptors belong to different sets.
        """
        deadline = self._deadline(within_s)
        dead = [] if key is None else [as_key(key)]
        if key is None:
            census = self._begin(Census)
            reply_of(self._call(census, deadline))
            dead = census.tombstones
        tally = Tally()
        for name in dead:
            tally.count(self._collected(name, deadline, self._call, holds_s=within_s))
        return tally.removed()

    def keys(self, prefix: Text = b"", *, within_s: float | None = None) -> list[bytes]:
        """Keys that a quorum of acceptors holds and that begin with *prefix*, sorted. Not at one instant: a key that is
        written or deleted meanwhile may be there or not.

        Raises:
            UsageError: a wrong argument, or this client is closed or another process's.
            Unavailable, Overloaded: no quorum has answered in time, or the call found no place in its time.
            AcceptorsChanged: the set was changed meanwhile; call again.
            WrongCluster: the acceptors belong to different sets.
        """
        deadline = self._deadline(within_s)
        listing = self._begin(Listing)
        reply_of(self._call(listing, deadline))
        return listed(listing, as_bytes(prefix))

    def acceptors(self, *, within_s: float | None = None) -> list[AcceptorView]:
        """Every acceptor of the present set, and how it is.

        Raises:
            UsageError: a wrong time-out, or this client is closed or another process's.
        """
        deadline = self._deadline(within_s)
        config = self.configuration

        def ask(seat: Seat) -> "Future[ReplyMessage]":
            # One that was not told yet of the present configuration is told by the question.
            line = self._reach.line(self._reach.address_of(seat.acceptor, config))
            return line.ask(Configure(config), deadline)

        views = []
        for seat, future in {seat: ask(seat) for seat in config.seats}.items():
            error = failure_of(future, deadline)
            if error is not None and may_have_arrived(error) and time.monotonic() < deadline:
                future = ask(seat)  # its process was started again since the last request, most likely
                error = failure_of(future, deadline)
            reply = future.result() if error is None else None
            views.append(view_of(seat, config, reply, "" if error is None else str(error)))
        return views

    @property
    def has_founded(self) -> bool:
        """Whether it was this client that made a set of the acceptors."""
        return self._reach.has_founded

    @property
    def configuration(self) -> Configuration:
        """The set of acceptors as this client knows it; any request learns of a newer one.

        Raises:
            UsageError: this client is closed, or another process's.
        """
        self._reach.check()
        with self._lock:
            return self._proposer.config

    def set_acceptors(
        self, addresses: Sequence[str], *, prepare: int = 0, accept: int = 0, within_s: float = SLOW_WITHIN_S
    ) -> Configuration:
        """Make the acceptors at *addresses* the set, while clients go on. Returns the configuration reached.

        Those that are new must be running and belong to no set; whatever is in the registers is copied to them,
        whatever their quotas are. If it ends in the middle everything works as it is; the same call again goes on, and
        one that asks for the set of before takes it back.

        Without *prepare* and *accept* the sizes of quorums stay if the number of acceptors does, and are majorities if
        it does not. With one of them the other is a majority.

        Raises:
            UsageError: no addresses or too many, one acceptor at two of them, sizes that are no numbers, or quorums
                that need not meet.
            Unavailable: an acceptor does not answer, or the time is over, and nothing was changed.
            OutcomeUnknown: it is under way, or may be; ``__cause__`` says why it is not complete.
            WrongCluster: an acceptor at one of the addresses belongs to another set.
        """
        deadline = self._deadline(within_s)
        seats: dict[NodeId, str] = {}
        for address in where(addresses).addresses:
            reply = self._reach.insist(address, deadline)
            give_seat(seats, address, reply, self.configuration)
        task = self._begin(partial(Reconfiguration, seats=seats, prepare=prepare, accept=accept))
        reply_of(self._call(task, deadline))
        return self.configuration

    # ---- machinery -----------------------------------------------------------------------------------------

    def _begin(self, make: Callable[[Proposer], TaskT]) -> TaskT:
        with self._lock:
            return make(self._proposer)

    def _deadline(self, within_s: float | None) -> float:
        """A call begins: until when it may take. Before any lock is touched, see `Reach.check`."""
        self._reach.check()
        return time.monotonic() + seconds(self._timeout_s if within_s is None else within_s)

    def _change(
        self, key: bytes, change: Change, within_s: float | None, record: "recorded.Call | None" = None
    ) -> RegisterReply:
        """One change at a time of one key: two of the same client would only refuse each other. The lock is not held,
        since *change* may be slow; a change shares nothing with others but its proposer, whose steps take the lock."""
        deadline = self._deadline(within_s)

        def changing() -> Outcome:
            return self._call(self._proposer.change(key, change), deadline, record, guard=nullcontext())

        outcome = self._turns.run(key, deadline, changing)
        if outcome.error is None and outcome.tombstone and self._collects:
            self._backlog.add(key, self._collect)
        return reply_of(outcome)

    def _call(
        self,
        task: Task,
        deadline: float,
        record: "recorded.Call | None" = None,
        guard: AbstractContextManager[object] | None = None,
    ) -> Outcome:
        """Run a call's *task*, once there is a place for it."""
        return self._places.run(deadline, partial(self._fan.run, task, deadline, record, guard))

    # ---- collection ----------------------------------------------------------------------------------------

    def _collect(self, key: bytes) -> None:
        self._collected(key, self._deadline(COLLECT_WITHIN_S), self._fan.run, holds_s=COLLECT_HOLDS_S)

    def _collected(
        self, key: bytes, deadline: float, run: Callable[[Task, float], Outcome], *, holds_s: float
    ) -> Outcome:
        """Remove the tombstone of *key*, if it is one. Whoever changes the key does not wait for an acceptor that is
        away: the turn is taken when all are there, for *holds_s* at most.

        *run* runs a task. Where it waits for a place it does so when it has the turn, as changes do: those that wait
        for the turn with all the places would keep whoever has it from its own.
        """
        looked = run(self._begin(partial(Proposer.look, key=key)), deadline)
        if not looked.tombstone:
            return looked

        def collecting() -> Outcome:
            task = self._begin(partial(Proposer.collect, key=key))
            return run(task, min(deadline, time.monotonic() + holds_s))

        return self._turns.run(key, deadline, collecting)

    # ---- beginning and end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """End all connections. What waits for collection stays a tombstone. Closing twice is no error."""
        if not self._reach.is_of_this_process:
            return  # a forked child: connections and acceptors are the parent's
        with self._lock:  # nobody is between a look whether it is closed and what depends on that
            self._reach.close()
        self._backlog.close()
        if self.local_acceptors is not None:
            self.local_acceptors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
