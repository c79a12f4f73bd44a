"""The clock of a client's leases, with time in the test's hand."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

from troth.client.cluster import ClusterCalls
from troth.client.lease import DRIFT, RENEWALS_PER_TTL, Lease, LeaseKeeper
from troth.client.replies import LeaseGranted

TTL_S = 3
WAKES_MAX = 10


class Clock:
    """A loop as far as a keeper needs one, and the client behind it; `renewed` are the leases of each request."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.renewed: list[list[Lease]] = []
        self._timer: asyncio.TimerHandle | None = None
        client = SimpleNamespace(router=SimpleNamespace(loop=self), keep_task=self._keep_task)
        self.client = cast(ClusterCalls, client)
        self.keeper = LeaseKeeper(self.client)
        self._pushes = 0
        self._push = self.keeper._push
        self.keeper._push = self._count  # type: ignore[method-assign]
        self.keeper._renew = self._ask  # type: ignore[method-assign]

    def time(self) -> float:
        return self.now_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        self._timer = cast(
            asyncio.TimerHandle,
            SimpleNamespace(when=lambda: when_s, cancel=lambda: None, _callback=callback),
        )
        return self._timer

    def _count(self, lease: Lease, due_s: float) -> None:
        self._pushes += 1
        assert self._pushes <= WAKES_MAX, "it does not come to an end"
        self._push(lease, due_s)

    async def _ask(self, leases: list[Lease]) -> None:
        self.renewed.append(leases)

    def _keep_task(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            coroutine.send(None)
        except StopIteration:
            pass

    def lease(self, after_s: float, *, keep: bool) -> Lease:
        """A lease that was asked for *after_s* behind the beginning."""
        granted = LeaseGranted(1, TTL_S, 1, "n1")
        lease = Lease(self.client, granted, sent_at_s=100.0 + after_s, keep=keep)
        self.keeper._push(lease, self.keeper._next_due_s(lease))
        return lease

    def wake(self) -> float:
        """Let time pass to where the keeper wants to be woken, and wake it; when that was, behind the beginning."""
        assert self._timer is not None
        self.now_s = max(self.now_s, self._timer.when())
        self._pushes = 0
        self.keeper._wake()
        return self.now_s - 100.0


LASTS_S = TTL_S * (1 - DRIFT)


def test_leases_that_end_shortly_after_each_other_are_lost_each_in_its_time() -> None:
    """Nobody renews them, and what is a little ahead is looked at as well: once, and not for ever."""
    clock = Clock()
    first, second = clock.lease(0, keep=False), clock.lease(0.005, keep=False)
    assert round(clock.wake(), 6) == round(LASTS_S, 6)
    assert (first.lost.is_set(), second.lost.is_set()) == (True, False)
    assert round(clock.wake(), 6) == round(LASTS_S + 0.005, 6)
    assert second.lost.is_set()


def test_a_lease_that_its_caller_has_renewed_is_looked_at_when_it_ends_now() -> None:
    clock = Clock()
    lease = clock.lease(0, keep=False)
    lease.extend(101.0, TTL_S)
    clock.wake()
    assert not lease.lost.is_set()
    assert round(clock.wake(), 6) == round(1 + LASTS_S, 6)
    assert lease.lost.is_set()


def test_leases_are_renewed_so_often_in_their_time_and_together_with_those_just_behind() -> None:
    clock = Clock()
    one, other, alone = (clock.lease(after_s, keep=True) for after_s in (0, 0, 0))
    clock.lease(0, keep=False)
    clock.now_s = 101.0
    late = clock.lease(1.0, keep=True)
    assert clock.wake() == TTL_S / RENEWALS_PER_TTL
    assert clock.renewed == [[one, other, alone]]
    alone.is_revoked = True
    clock.wake()
    assert sorted(clock.renewed[1], key=id) == sorted([one, other, late], key=id)


def test_a_lease_whose_renewals_are_not_answered_is_lost_when_its_time_is_over() -> None:
    clock = Clock()
    lease = clock.lease(0, keep=True)
    woken = []
    while not lease.lost.is_set():
        woken.append(round(clock.wake(), 6))
        assert len(woken) <= RENEWALS_PER_TTL
    assert woken == [1.0, 2.0, round(LASTS_S, 6)]
    assert len(clock.renewed) == 2
