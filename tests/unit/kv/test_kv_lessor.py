"""The leader's clock for leases; a second has ten units here."""

from hypothesis import given
from hypothesis import strategies as st
from pytest import MonkeyPatch

from troth.kv import lessor as lessor_module
from troth.kv.lessor import REPORT_AGAIN_S, Lessor


def lessor_of(**ttls_s: int) -> Lessor:
    lessor = Lessor(units_per_s=10)
    lessor.reset({int(name[1:]): ttl_s for name, ttl_s in ttls_s.items()}, 0)
    return lessor


def test_a_lease_expires_when_its_time_is_over_not_before() -> None:
    lessor = lessor_of(_7=2)
    assert lessor.expired(19) == []
    assert lessor.expired(20) == [7]


def test_renewal_gives_the_full_time_again() -> None:
    lessor = lessor_of(_7=2)
    assert lessor.renew(7, 15) == 2
    assert lessor.expired(34) == []
    assert lessor.remaining_s(7, 34) == 0
    assert lessor.expired(35) == [7]


def test_what_has_run_out_or_is_unknown_is_not_renewed() -> None:
    lessor = lessor_of(_7=2)
    assert lessor.renew(7, 20) == 0
    assert lessor.renew(8, 0) == 0
    assert lessor.expired(20) == [7]


def test_remaining_time_is_in_whole_seconds() -> None:
    lessor = lessor_of(_7=2)
    assert [lessor.remaining_s(7, now) for now in (0, 1, 10, 11, 25)] == [2, 1, 1, 0, 0]
    assert lessor.remaining_s(8, 0) == -1


def test_an_expired_lease_is_named_again_until_it_is_revoked() -> None:
    lessor = lessor_of(_7=2)
    assert lessor.expired(20) == [7]
    assert lessor.expired(21) == []
    assert lessor.expired(20 + REPORT_AGAIN_S * 10) == [7]
    lessor.on_revoked(7)
    lessor.on_revoked(7)
    assert lessor.expired(1000) == []
    assert (len(lessor), lessor.remaining_s(7, 0)) == (0, -1)


def test_a_granted_lease_starts_at_once() -> None:
    lessor = lessor_of(_7=5)
    lessor.on_granted(8, 1, 3)
    assert len(lessor) == 2
    assert lessor.expired(12) == []
    assert lessor.expired(13) == [8]


def test_a_new_leader_gives_every_lease_its_full_time() -> None:
    lessor = lessor_of(_7=2, _8=3)
    lessor.reset({8: 3, 9: 1}, 100)
    assert lessor.expired(109) == []
    assert lessor.expired(130) == [9, 8]


def test_a_lease_granted_anew_does_not_end_with_the_old_one() -> None:
    lessor = lessor_of(_7=2)
    lessor.on_revoked(7)
    lessor.on_granted(7, 5, 10)
    assert lessor.expired(59) == []
    assert lessor.expired(60) == [7]


def test_leases_that_come_and_go_leave_nothing_behind() -> None:
    lessor = lessor_of(_7=9)
    for lease in range(100, 1000):
        lessor.on_granted(lease, 1, 0)
        lessor.on_revoked(lease)
        assert len(lessor._due) < 100
    lessor.on_revoked(7)
    assert lessor.expired(100) == []
    assert len(lessor) == len(lessor._deadline) == 0


def test_many_expiries_come_in_portions() -> None:
    lessor = lessor_of(_1=1, _2=1, _3=1)
    assert lessor.expired(10, limit=2) == [1, 2]
    assert lessor.expired(10, limit=2) == [3]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["grant", "revoke", "renew", "expire", "reset"]),
            st.integers(1, 4),
            st.integers(1, 5),
            st.integers(0, 30),
        )
    )
)
def test_expiry_is_what_the_deadlines_say(steps: list[tuple[str, int, int, int]]) -> None:
    lessor = Lessor(units_per_s=10)
    deadlines: dict[int, int] = {}
    ttls_s: dict[int, int] = {}
    quiet_until: dict[int, int] = {}
    now = 0
    for what, lease, ttl_s, passed in steps:
        now += passed
        if what == "grant" and lease not in ttls_s:
            ttls_s[lease] = ttl_s
            deadlines[lease] = now + ttl_s * 10
            lessor.on_granted(lease, ttl_s, now)
        elif what == "revoke":
            lessor.on_revoked(lease)
            for table in (ttls_s, deadlines, quiet_until):
                table.pop(lease, None)
        elif what == "renew":
            alive = lease in ttls_s and deadlines[lease] > now
            assert lessor.renew(lease, now) == (ttls_s[lease] if alive else 0)
            if alive:
                deadlines[lease] = now + ttls_s[lease] * 10
        elif what == "reset":
            lessor.reset(dict(ttls_s), now)
            deadlines = {each: now + seconds * 10 for each, seconds in ttls_s.items()}
            quiet_until = {}
        due = {each for each, deadline in deadlines.items() if deadline <= now and quiet_until.get(each, 0) <= now}
        named = lessor.expired(now)
        assert set(named) == due
        assert len(named) == len(due)
        quiet_until.update(dict.fromkeys(due, now + REPORT_AGAIN_S * 10))


def test_many_leases_are_entered_in_steps_and_none_of_them_ends_early_or_never(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(lessor_module, "ENTER_LEASES", 10)
    lessor = Lessor(units_per_s=10)
    lessor.reset(dict.fromkeys(range(1, 101), 2), 0)
    lessor.renew(5, 10)
    lessor.on_revoked(6)
    lessor.on_revoked(7)
    lessor.on_granted(7, 4, 10)
    lessor.on_granted(101, 1, 0)
    assert [lessor.remaining_s(lease, 10) for lease in (1, 5, 6, 7)] == [1, 2, -1, 4]
    ended: dict[int, int] = {}
    for now in range(11, 60):
        found = lessor.expired(now)
        assert now > 12 or len(lessor._due) <= 2 + (now - 10) * 10
        for lease in found:
            assert lease not in ended
            ended[lease] = now
            lessor.on_revoked(lease)
    assert ended == {**dict.fromkeys(set(range(1, 101)) - {5, 6, 7}, 20), 101: 11, 5: 30, 7: 50}


def test_a_lease_that_goes_does_not_put_all_others_in_order_anew(monkeypatch: MonkeyPatch) -> None:
    rebuilt: list[int] = []
    monkeypatch.setattr(Lessor, "_rebuild", lambda self: rebuilt.append(len(self)))
    lessor = lessor_of(**{f"_{lease}": 60 for lease in range(1, 200)})
    assert lessor.expired(0) == []
    for lease in range(1, 50):
        lessor.on_revoked(lease)
    assert rebuilt == []
