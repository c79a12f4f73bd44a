"""Leases, renewed by themselves, and lost here no later than there.

The time of a lease counts from when the server hears of it, which is after we have sent the request. A deadline of
"time of sending + ttl" on our own monotonic clock therefore passes before the server's, up to the rates of the
two clocks: `DRIFT` allows for those. When it passes without a renewal, the lease is declared lost, once and for
all, even if the server might still have it. Our clock goes on while this machine is suspended (`time_of`). Timers stand
still then: who wakes up from it finds `Lease.is_alive` false at once, and `lost` is set when the next timer is due. So
that a renewal which fell due meanwhile does not wait as long again, timers of kept leases are short (`LOOKS_PER_TTL`).
"""

import asyncio
import heapq
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from troth.client.cluster import ClusterCalls
from troth.client.replies import Acknowledged, LeaseGranted
from troth.errors import LeaseNotFound, TrothError, UsageError
from troth.kv.requests import LeaseGrant, LeaseRevoke
from troth.replica.protocol import LeaseKeepAlive, LeaseTimeToLive, LeaseTtls, LeaseView
from troth.runtime.clock import suspended_s

DRIFT = 0.02
RENEWALS_PER_TTL = 3
LOOKS_PER_TTL = 10
RENEW_BATCH_MAX = 1024

DEAD_KEPT = 64
"""So many leases that are over may always wait to be forgotten, and as many more as there are others."""


def time_of(loop: asyncio.AbstractEventLoop) -> float:
    """Seconds on *loop*'s clock, and those that the machine was suspended, in which leases run out as well."""
    return suspended_s() + loop.time()


class Lease:
    """A lease of this client. Keys put with ``lease=lease.id`` vanish with it.

    ``async with`` revokes it at the end of the block. `lost` is set when it can no longer be relied on: the server
    does not know it any more, no renewal came through in time, or the client was closed and renews it no more. Not set
    by `revoke`.
    """

    def __init__(self, client: ClusterCalls, granted: LeaseGranted, *, sent_at_s: float, keep: bool) -> None:
        self.id = granted.id
        self.ttl_s = granted.ttl_s
        self.revision = granted.revision
        self.server = granted.server
        self.lost = asyncio.Event()
        self.keep = keep
        self.is_revoked = False
        self._client = client
        self._on_lost: list[Callable[[], Any]] = []
        self.deadline_s = 0.0
        self.extend(sent_at_s, granted.ttl_s)

    @property
    def is_alive(self) -> bool:
        """Whether the lease can be relied on at this moment."""
        return not self.is_over and time_of(self._client.router.loop) < self.deadline_s

    @property
    def is_over(self) -> bool:
        """Whether it was revoked or lost."""
        return self.is_revoked or self.lost.is_set()

    def on_lost(self, callback: Callable[[], Any]) -> None:
        """Have *callback* called in the client's loop when the lease is lost (at once, if it is)."""
        if self.lost.is_set():
            self._call(callback)
        else:
            self._on_lost.append(callback)

    async def keep_alive(self) -> int:
        """Renew now; returns the seconds it has. It is also renewed by itself, three times in its ttl.

        Raises:
            LeaseNotFound: it is gone.
        """
        sent_at_s = time_of(self._client.router.loop)
        answer: LeaseTtls = await self._client.call(LeaseKeepAlive, (self.id,)).future
        if answer.ttls_s[0] < 0:
            self.lose()
            raise LeaseNotFound("etcdserver: requested lease not found")
        self.extend(sent_at_s, answer.ttls_s[0])
        return answer.ttls_s[0]

    async def revoke(self) -> Acknowledged:
        """Give the lease up; its keys are deleted, all at one revision.

        Raises:
            LeaseNotFound: it was gone already.
        """
        self.is_revoked = True
        reply: Acknowledged = await self._client.write(LeaseRevoke(self.id))
        return reply

    async def time_to_live(self, *, keys: bool = False) -> LeaseView:
        """Seconds left (-1: gone), seconds granted, and with *keys* the keys attached."""
        view: LeaseView = await self._client.call(LeaseTimeToLive, self.id, keys).future
        return view

    def extend(self, sent_at_s: float, ttl_s: float) -> None:
        """The server has granted *ttl_s* seconds in answer to what was sent at *sent_at_s* (`time_of`)."""
        if not self.lost.is_set():
            self.deadline_s = max(self.deadline_s, sent_at_s + ttl_s * (1 - DRIFT))

    def lose(self) -> None:
        """Declare the lease lost."""
        if not self.is_over:
            self.lost.set()
            callbacks, self._on_lost = self._on_lost, []
            for callback in callbacks:
                self._call(callback)

    def _call(self, callback: Callable[[], Any]) -> None:
        try:
            outcome = callback()
        except Exception as error:  # noqa: BLE001  (the caller's: other leases must be renewed all the same)
            context = {"message": f"on_lost of lease {self.id} failed", "exception": error}
            self._client.router.loop.call_exception_handler(context)
            return
        if inspect.iscoroutine(outcome):
            self._client.keep_task(outcome)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self.is_revoked:
                await self.revoke()
        except LeaseNotFound:
            pass  # It expired: the keys are gone, which is what the end of the block is for.


class LeaseKeeper:
    """Renews all leases of one client with one timer; those due together share a request."""

    def __init__(self, client: ClusterCalls) -> None:
        self._client = client
        self._loop = client.router.loop
        self._due: list[tuple[float, int, Lease]] = []
        self._count = 0
        self._forget_at = DEAD_KEPT
        self._timer: asyncio.TimerHandle | None = None

    async def grant(self, ttl_s: int, lease_id: int, *, keep: bool, on_lost: Callable[[], Any] | None) -> Lease:
        """Ask for a lease and look after it (*keep*: renew it too)."""
        asked: object = ttl_s  # callers need not check types
        if not isinstance(asked, int) or isinstance(asked, bool) or asked <= 0:
            raise UsageError(f"lease({ttl_s!r}): a lease lasts a whole number of seconds, at least 1")
        sent_at_s = time_of(self._loop)
        granted: LeaseGranted = await self._client.write(LeaseGrant(lease_id, ttl_s))
        lease = Lease(self._client, granted, sent_at_s=sent_at_s, keep=keep)
        if on_lost is not None:
            lease.on_lost(on_lost)
        if time_of(self._loop) - sent_at_s > lease.ttl_s / RENEWALS_PER_TTL:
            # The grant took so long (an election, say) that little is left by our own reckoning.
            try:
                await lease.keep_alive()
            except LeaseNotFound:
                raise
            except TrothError:
                pass  # The lease was granted all the same; it is renewed, or declared lost, as any other.
        self._push(lease, self._next_due_s(lease))
        return lease

    def close(self) -> None:
        """The client is closed: nobody renews any more, so all leases count as lost."""
        if self._timer is not None:
            self._timer.cancel()
        for _, _, lease in self._due:
            lease.lose()
        self._due.clear()

    def _next_due_s(self, lease: Lease) -> float:
        if not lease.keep:
            return lease.deadline_s
        return min(lease.deadline_s, time_of(self._loop) + lease.ttl_s / RENEWALS_PER_TTL)

    def _push(self, lease: Lease, due_s: float) -> None:
        self._count += 1
        heapq.heappush(self._due, (due_s, self._count, lease))
        if len(self._due) > self._forget_at:
            self._due = [due for due in self._due if not due[2].is_over]
            heapq.heapify(self._due)
            self._forget_at = 2 * len(self._due) + DEAD_KEPT
        if self._timer is None or due_s - suspended_s() < self._timer.when():
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            due_s, _, lease = self._due[0]
            when_s = due_s - suspended_s()
            if lease.keep:
                when_s = min(when_s, self._loop.time() + lease.ttl_s / LOOKS_PER_TTL)
            self._timer = self._loop.call_at(when_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now_s = time_of(self._loop)
        alive: list[Lease] = []
        # A little ahead: leases that were granted together are renewed together.
        while self._due and self._due[0][0] <= now_s + 0.01:
            _, _, lease = heapq.heappop(self._due)
            if lease.is_over:
                continue
            if lease.deadline_s <= now_s:
                lease.lose()
            else:
                alive.append(lease)
        # Each comes up again whatever becomes of the request: to be renewed anew, or to be declared lost. (Not before
        # the loop is over: what ends a little ahead would be taken out again, for ever.)
        for lease in alive:
            self._push(lease, self._next_due_s(lease))
        renew = [lease for lease in alive if lease.keep]
        for start in range(0, len(renew), RENEW_BATCH_MAX):
            self._client.keep_task(self._renew(renew[start : start + RENEW_BATCH_MAX]))
        self._set_timer()

    async def _renew(self, leases: list[Lease]) -> None:
        ids = tuple(lease.id for lease in leases)
        sent_at_s = time_of(self._loop)
        within_s = max(0.05, max(lease.deadline_s for lease in leases) - sent_at_s)
        try:
            answer: LeaseTtls = await self._client.call(LeaseKeepAlive, ids, within_s=within_s).future
        except TrothError:
            return
        for lease, ttl_s in zip(leases, answer.ttls_s, strict=True):
            if ttl_s < 0:
                lease.lose()
            else:
                lease.extend(sent_at_s, ttl_s)
