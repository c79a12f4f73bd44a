"""The clock of a client's leases, with time and the cluster's answers in the test's hand."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from troth.client import lease as lease_module
from troth.client.cluster import ClusterCalls
from troth.client.lease import DRIFT, LOOKS_PER_TTL, RENEWALS_PER_TTL, Lease, LeaseKeeper
from troth.client.replies import LeaseGranted
from troth.errors import LeaseNotFound, TrothError, Unavailable
from troth.kv.requests import LeaseGrant, LeaseRevoke
from troth.replica.protocol import LeaseKeepAlive
from troth.runtime import clock as clock_module

T = TypeVar("T")

TTL_S = 3
LASTS_S = TTL_S * (1 - DRIFT)
WAKES_MAX = 10


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What *coroutine* returns, none of whose awaitables waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    raise AssertionError("it waits")


class Answer:
    """Comes *after_s*, which pass at once."""

    def __init__(self, clock: "Clock", value: object) -> None:
        self._clock, self._value = clock, value

    def __await__(self) -> Generator[Any, Any, Any]:
        self._clock.now_s += self._clock.answers_after_s
        if self._clock.error is not None:
            raise self._clock.error
        return self._value
        yield


class Clock:
    """A loop as far as a keeper needs one, and the client and the cluster behind it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.answers_after_s = 0.0
        self.error: TrothError | None = None
        self.gone: set[int] = set()
        """Leases that the cluster does not know."""
        self.renewed: list[tuple[int, ...]] = []
        """The leases of each request, and how long it was to be waited for."""
        self.within_s: list[float | None] = []
        self.revoked: list[int] = []
        self.timers: list[SimpleNamespace] = []
        client = SimpleNamespace(
            router=SimpleNamespace(loop=self), keep_task=run, call=self._call, write=self._write
        )
        self.client = cast(ClusterCalls, client)
        self.keeper = LeaseKeeper(self.client)
        self._pushes = 0
        self._push = self.keeper._push
        self.keeper._push = self._count  # type: ignore[method-assign]
        self._leases = 0

    # ---- the loop ----

    def time(self) -> float:
        return self.now_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        timer = SimpleNamespace(when=lambda: when_s, cancelled=False)
        timer.cancel = lambda: setattr(timer, "cancelled", True)
        self.timers.append(timer)
        return cast(asyncio.TimerHandle, timer)

    @property
    def timer(self) -> SimpleNamespace | None:
        """The one that is to wake the keeper."""
        (timer,) = [each for each in self.timers if not each.cancelled] or [None]
        return timer

    def _count(self, lease: Lease, due_s: float) -> None:
        self._pushes += 1
        assert self._pushes <= WAKES_MAX, "it does not come to an end"
        self._push(lease, due_s)

    # ---- the cluster ----

    def _call(self, kind: type, ids: tuple[int, ...], within_s: float | None = None) -> SimpleNamespace:
        assert kind is LeaseKeepAlive
        self.renewed.append(ids)
        self.within_s.append(within_s)
        ttls = [-1 if lease in self.gone else TTL_S for lease in ids]
        return SimpleNamespace(future=Answer(self, SimpleNamespace(ttls_s=ttls)))

    def _write(self, command: LeaseGrant | LeaseRevoke) -> Answer:
        if isinstance(command, LeaseGrant):
            self._leases += 1
            return Answer(self, LeaseGranted(self._leases, command.ttl_s, 1, "n1"))
        self.revoked.append(command.id)
        return Answer(self, None)

    # ---- the test ----

    def lease(self, after_s: float = 0, *, keep: bool = True) -> Lease:
        """A lease that was asked for *after_s* behind the beginning."""
        self._leases += 1
        granted = LeaseGranted(self._leases, TTL_S, 1, "n1")
        lease = Lease(self.client, granted, sent_at_s=100.0 + after_s, keep=keep)
        self.keeper._push(lease, self.keeper._next_due_s(lease))
        return lease

    def wake(self) -> float:
        """Let time pass to where the keeper wants to be woken, and wake it; when that was, behind the beginning. Looks
        that find nothing to do are passed over."""
        before = list(self.keeper._due)
        while self.keeper._due == before:
            timer = self.timer
            assert timer is not None
            self.now_s = max(self.now_s, timer.when())
            timer.cancelled = True
            self._pushes = 0
            woken_s = self.now_s
            self.keeper._wake()
        return round(woken_s - 100.0, 6)


# ---- when the keeper wakes ----


def test_leases_that_end_shortly_after_each_other_are_lost_each_in_its_time() -> None:
    """Nobody renews them, and what is a little ahead is looked at as well: once, and not for ever."""
    clock = Clock()
    first, second = clock.lease(keep=False), clock.lease(0.005, keep=False)
    assert clock.wake() == round(LASTS_S, 6)
    assert (first.lost.is_set(), second.lost.is_set()) == (True, False)
    assert clock.wake() == round(LASTS_S + 0.005, 6)
    assert second.lost.is_set()


def test_leases_that_end_far_from_each_other_are_lost_each_in_its_time() -> None:
    clock = Clock()
    later, first = clock.lease(0.5, keep=False), clock.lease(keep=False)
    assert clock.wake() == round(LASTS_S, 6)
    assert (first.lost.is_set(), later.lost.is_set()) == (True, False)
    assert clock.wake() == round(LASTS_S + 0.5, 6)
    assert later.lost.is_set() and clock.timer is None


def test_a_lease_that_its_caller_has_renewed_is_looked_at_when_it_ends_now() -> None:
    clock = Clock()
    lease = clock.lease(keep=False)
    lease.extend(101.0, TTL_S)
    clock.wake()
    assert not lease.lost.is_set() and clock.renewed == []
    assert clock.wake() == round(1 + LASTS_S, 6)
    assert lease.lost.is_set()


def test_leases_are_renewed_so_often_in_their_time_and_together_with_those_just_behind() -> None:
    clock = Clock()
    one, other, alone = clock.lease(), clock.lease(), clock.lease()
    clock.lease(keep=False)
    clock.now_s = 100.005
    behind = clock.lease()
    assert clock.wake() == TTL_S / RENEWALS_PER_TTL
    assert clock.renewed == [(one.id, other.id, alone.id, behind.id)]
    alone.is_revoked = True
    assert clock.wake() == 2 * TTL_S / RENEWALS_PER_TTL
    assert clock.renewed[1:] == [(one.id, other.id, behind.id)]
    assert one.deadline_s == 100 + 2 * TTL_S / RENEWALS_PER_TTL + LASTS_S


def test_leases_that_are_over_are_not_kept_until_they_would_be_renewed() -> None:
    clock = Clock()
    clock.keeper._push = clock._push  # type: ignore[method-assign]
    alive = [clock.lease() for _ in range(40)]
    for _ in range(2000):
        clock.lease().is_revoked = True
        assert len(clock.keeper._due) <= 2 * (len(alive) + lease_module.DEAD_KEPT)
    clock.wake()
    assert clock.renewed == [tuple(lease.id for lease in alive)]


def test_so_many_leases_are_renewed_by_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_BATCH_MAX", 2)
    clock = Clock()
    ids = [clock.lease().id for _ in range(5)]
    clock.wake()
    assert clock.renewed == [(ids[0], ids[1]), (ids[2], ids[3]), (ids[4],)]


def test_a_lease_whose_renewals_are_not_answered_is_lost_when_its_time_is_over() -> None:
    clock = Clock()
    clock.error = Unavailable("no leader")
    lease = clock.lease()
    woken = []
    while not lease.lost.is_set():
        woken.append(clock.wake())
        assert len(woken) <= RENEWALS_PER_TTL
    assert woken == [1.0, 2.0, round(LASTS_S, 6)]
    assert len(clock.renewed) == 2
    assert [round(each or 0, 6) for each in clock.within_s] == [round(LASTS_S - 1, 6), round(LASTS_S - 2, 6)]


def test_a_renewal_counts_from_when_it_was_sent_and_only_for_leases_that_are_there() -> None:
    clock = Clock()
    lease, gone = clock.lease(), clock.lease()
    clock.gone.add(gone.id)
    clock.answers_after_s = 0.5
    clock.wake()
    assert lease.deadline_s == 101 + LASTS_S
    assert (lease.lost.is_set(), gone.lost.is_set()) == (False, True)


# ---- one lease ----


def test_a_lease_is_alive_until_its_time_is_over_it_is_lost_or_given_up() -> None:
    clock = Clock()
    ends, lost, revoked = clock.lease(), clock.lease(), clock.lease()
    assert ends.is_alive and lost.is_alive and revoked.is_alive
    lost.lose()
    run(revoked.revoke())
    revoked.lose()
    assert (lost.is_alive, lost.lost.is_set()) == (False, True)
    assert (revoked.is_alive, revoked.lost.is_set()) == (False, False), "nobody has lost what he gave up"
    clock.now_s = ends.deadline_s
    assert not ends.is_alive


def test_answers_that_come_late_take_no_time_away_and_bring_nothing_back() -> None:
    clock = Clock()
    lease = clock.lease()
    lease.extend(102.0, TTL_S)
    lease.extend(101.0, TTL_S)
    assert lease.deadline_s == 102 + LASTS_S
    lease.lose()
    lease.extend(103.0, TTL_S)
    assert lease.deadline_s == 102 + LASTS_S


def test_who_asks_late_hears_of_a_lost_lease_at_once() -> None:
    clock = Clock()
    lease, told = clock.lease(), list[str]()
    lease.on_lost(lambda: told.append("early"))
    lease.lose()
    lease.lose()
    lease.on_lost(lambda: told.append("late"))
    assert told == ["early", "late"]


def test_renewing_by_hand_counts_from_when_it_was_sent_and_tells_what_is_gone() -> None:
    clock = Clock()
    lease = clock.lease()
    clock.now_s, clock.answers_after_s = 101.0, 0.5
    assert run(lease.keep_alive()) == TTL_S
    assert lease.deadline_s == 101 + LASTS_S
    clock.gone.add(lease.id)
    with pytest.raises(LeaseNotFound):
        run(lease.keep_alive())
    assert lease.lost.is_set()


def test_the_end_of_a_block_gives_a_lease_up_once_and_takes_no_offence_when_it_has_expired() -> None:
    clock = Clock()
    lease, given_up, expired = clock.lease(), clock.lease(), clock.lease()
    run(given_up.revoke())
    for each in (lease, given_up):
        run(each.__aexit__(None, None, None))
    assert clock.revoked == [given_up.id, lease.id]
    clock.error = LeaseNotFound("etcdserver: requested lease not found")
    run(expired.__aexit__(None, None, None))
    assert clock.revoked[-1] == expired.id


def test_time_that_the_machine_was_suspended_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers' clocks have counted it: somebody else may have the lock by now. The loop's clock has not."""
    clock = Clock()
    lease, other = clock.lease(), clock.lease(keep=False)
    before_ns = clock_module._SUSPENDED_BEFORE_NS
    monkeypatch.setattr(clock_module, "_suspended_ns", lambda: before_ns + 60 * 10**9)
    assert not lease.is_alive and not other.is_alive
    new = run(clock.keeper.grant(TTL_S, 0, keep=True, on_lost=None))
    assert new.is_alive and clock.now_s == 100.0
    assert clock.wake() == TTL_S / LOOKS_PER_TTL
    assert lease.lost.is_set() and other.lost.is_set()
    assert clock.wake() == TTL_S / RENEWALS_PER_TTL
    assert clock.wake() == 2 * TTL_S / RENEWALS_PER_TTL
    assert clock.renewed == [(new.id,)] * 2 and not new.lost.is_set()


def test_a_renewal_that_fell_due_while_the_machine_was_suspended_is_made_in_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    lease = clock.lease()
    before_ns = clock_module._SUSPENDED_BEFORE_NS
    monkeypatch.setattr(clock_module, "_suspended_ns", lambda: before_ns + 2 * 10**9)
    assert clock.wake() == TTL_S / LOOKS_PER_TTL
    assert clock.renewed == [(lease.id,)] and lease.is_alive


def test_a_lease_that_nobody_renews_is_looked_at_when_it_ends() -> None:
    clock = Clock()
    clock.lease(keep=False)
    assert clock.timer is not None and clock.timer.when() == 100.0 + LASTS_S


def test_no_time_was_slept_through_while_the_clocks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes between two readings is no suspension; and a simulated run has the same times on every machine."""
    before_ns = clock_module._SUSPENDED_BEFORE_NS
    for noise_ns in (-(10**9), -5, 0, 999_999):
        monkeypatch.setattr(clock_module, "_suspended_ns", lambda noise_ns=noise_ns: before_ns + noise_ns)
        assert clock_module.suspended_s() == 0.0


# ---- granting, and the end ----


def test_a_grant_counts_from_when_it_was_asked_for_and_is_looked_after() -> None:
    clock = Clock()
    clock.answers_after_s = 0.5
    told: list[str] = []
    lease = run(clock.keeper.grant(TTL_S, 0, keep=True, on_lost=lambda: told.append("lost")))
    assert lease.deadline_s == 100 + LASTS_S
    assert clock.renewed == [] and clock.timer is not None
    assert clock.wake() == 0.5 + TTL_S / RENEWALS_PER_TTL
    assert clock.renewed == [(lease.id,)]
    clock.keeper.close()
    assert told == ["lost"]


def test_a_grant_that_was_long_in_coming_is_renewed_before_it_is_given() -> None:
    clock = Clock()
    clock.answers_after_s = 1.5
    lease = run(clock.keeper.grant(TTL_S, 0, keep=False, on_lost=None))
    assert clock.renewed == [(lease.id,)]
    assert lease.deadline_s == 101.5 + LASTS_S


def test_when_the_client_is_closed_its_leases_are_lost_and_nothing_wakes() -> None:
    clock = Clock()
    leases = [clock.lease(), clock.lease(keep=False)]
    clock.keeper.close()
    assert all(lease.lost.is_set() for lease in leases)
    assert clock.timer is None
