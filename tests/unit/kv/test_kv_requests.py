"""What each request does, one claim of etcd's behaviour a test (the property tests beside it cover the rest)."""

import pytest

from troth.kv.checks import NESTED_OPERATIONS_MAX, payload_bytes
from troth.kv.requests import (
    Alarm,
    AlarmMember,
    AlarmResult,
    AlarmType,
    Command,
    Compact,
    CompactResult,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    DeleteRangeResult,
    Failure,
    KeyValue,
    LeaseGrant,
    LeaseGrantResult,
    LeaseRevoke,
    LeaseRevokeResult,
    Operation,
    Put,
    PutResult,
    Range,
    RangeResult,
    SortOrder,
    SortTarget,
    Txn,
    TxnResult,
)
from troth.kv.store import Store

NO_SPACE = "etcdserver: mvcc: database space exceeded"
COMPACTED = "etcdserver: mvcc: required revision has been compacted"


def refused(result: object, code: str, text: str) -> bool:
    return isinstance(result, Failure) and (result.code, result.text) == (code, text)


def filled(*keys: bytes) -> Store:
    store = Store()
    store.apply_batch([Put(key, b"v-" + key) for key in keys])
    return store


def keys_of(result: object) -> list[bytes]:
    assert isinstance(result, RangeResult)
    return [kv.key for kv in result.kvs]


# ---- revisions -----------------------------------------------------------------------------------------------


def test_an_empty_store_stands_at_revision_one() -> None:
    store = Store()
    assert (store.revision, store.compact_revision, store.db_size_bytes) == (1, 0, 0)
    assert store.apply(Put(b"a", b"1")) == PutResult(2)


def test_a_version_counts_from_the_last_creation() -> None:
    store = filled(b"a", b"a")
    store.apply(DeleteRange(b"a"))
    store.apply(Put(b"a", b"new"))
    assert store.range(Range(b"a")) == RangeResult(5, [KeyValue(b"a", 5, 5, 1, b"new")], 1)


@pytest.mark.parametrize(
    "command",
    [
        DeleteRange(b"absent"),
        Txn(success=(Range(b"a"),)),
        LeaseGrant(7, 10),
        Compact(1),
        Alarm(True, 1, AlarmType.CORRUPT),
        Put(b"", b"x"),
    ],
)
def test_what_modifies_no_key_makes_no_revision(command: Command) -> None:
    store = filled(b"a")
    store.apply(command)
    assert store.revision == 2


def test_many_keys_deleted_at_once_are_one_revision() -> None:
    store = filled(b"a", b"b", b"c")
    assert store.apply(DeleteRange(b"a", b"c", prev_kv=True)) == DeleteRangeResult(
        5, 2, [KeyValue(b"a", 2, 2, 1, b"v-a"), KeyValue(b"b", 3, 3, 1, b"v-b")]
    )
    assert store.range(Range(b"\0", b"\0")).count == 1


# ---- range ---------------------------------------------------------------------------------------------------


def test_the_key_must_be_given() -> None:
    for result in (Store().range(Range(b"")), Store().range(Range(b"", b"z")), Store().apply(DeleteRange(b""))):
        assert refused(result, "invalid", "etcdserver: key is not provided")


@pytest.mark.parametrize(
    ("key", "range_end", "found"),
    [
        (b"b", b"", [b"b"]),
        (b"b", b"d", [b"b", b"c"]),
        (b"b", b"\0", [b"b", b"c", b"d"]),
        (b"\0", b"\0", [b"a", b"b", b"c", b"d"]),
        (b"c", b"b", []),
        (b"c", b"c", []),
        (b"x", b"", []),
    ],
)
def test_range_end_says_how_far(key: bytes, range_end: bytes, found: list[bytes]) -> None:
    store = filled(b"a", b"b", b"c", b"d")
    assert keys_of(store.range(Range(key, range_end))) == found
    store.apply(DeleteRange(b"\0", b"\0"))
    assert keys_of(store.range(Range(key, range_end, revision=5))) == found
    assert store.range(Range(key, range_end, count_only=True, revision=5)) == RangeResult(6, [], len(found))
    assert store.range(Range(key, range_end, count_only=True)) == RangeResult(6, [], 0)


def test_count_ignores_the_limit_and_more_says_that_it_cut() -> None:
    store = filled(b"a", b"b", b"c")
    first = store.range(Range(b"a", b"\0", limit=2))
    assert (keys_of(first), first.count, first.more) == ([b"a", b"b"], 3, True)
    last = store.range(Range(b"a", b"\0", limit=2, sort_order=SortOrder.DESCEND))
    assert (keys_of(last), last.count, last.more) == ([b"c", b"b"], 3, True)
    all_of_them = store.range(Range(b"a", b"\0", limit=3))
    assert (all_of_them.count, all_of_them.more) == (3, False)
    assert store.range(Range(b"a", limit=1)).more is False


def test_equal_elements_stay_in_key_order_when_sorted() -> None:
    store = filled(b"k0", b"k1", b"k2", b"k2")
    down = Range(b"k", b"l", sort_order=SortOrder.DESCEND, sort_target=SortTarget.VERSION)
    assert keys_of(store.range(down)) == [b"k2", b"k0", b"k1"]


def test_no_order_by_another_target_is_ascending() -> None:
    store = filled(b"b", b"a")
    assert keys_of(store.range(Range(b"a", b"z", sort_target=SortTarget.MOD))) == [b"b", b"a"]


def test_filters_come_before_the_limit_but_not_before_the_count() -> None:
    store = filled(b"a", b"b", b"c", b"d")
    found = store.range(Range(b"a", b"z", min_mod_revision=3, max_create_revision=4, limit=1))
    assert (keys_of(found), found.count, found.more) == ([b"b"], 4, True)


def test_keys_only_keeps_everything_but_the_value() -> None:
    assert filled(b"a").range(Range(b"a", keys_only=True)).kvs == [KeyValue(b"a", 2, 2, 1, b"")]


def test_an_unknown_sort_is_refused() -> None:
    store = filled(b"a")
    for request in (Range(b"a", b"z", sort_order=3), Range(b"a", b"z", sort_target=5)):  # type: ignore[arg-type]
        assert refused(store.range(request), "invalid", "etcdserver: invalid sort option")
        assert refused(store.validate(Txn(success=(request,))), "invalid", "etcdserver: invalid sort option")


@pytest.mark.parametrize(
    "bound", ["min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"]
)
def test_filters_hold_for_a_single_key_as_well(bound: str) -> None:
    store = filled(b"a", b"a")  # created at 2, changed at 3
    at = {"create": 2, "mod": 3}[bound.split("_")[1]]
    beyond = at + 1 if bound.startswith("min") else at - 1
    assert keys_of(store.range(Range(b"a", **{bound: at}))) == [b"a"]  # type: ignore[arg-type]
    assert store.range(Range(b"a", **{bound: beyond})) == RangeResult(3, [], 1)  # type: ignore[arg-type]


def test_an_old_revision_shows_the_past_under_the_current_header() -> None:
    store = filled(b"a", b"a")
    store.apply(DeleteRange(b"a"))
    assert store.range(Range(b"a", revision=2)) == RangeResult(4, [KeyValue(b"a", 2, 2, 1, b"v-a")], 1)
    assert store.range(Range(b"a", revision=1)) == RangeResult(4, [], 0)
    assert store.range(Range(b"a", revision=4)) == store.range(Range(b"a")) == RangeResult(4, [], 0)
    assert store.range(Range(b"a", revision=-1)) == RangeResult(4, [], 0)


def test_the_future_and_the_compacted_past_are_refused() -> None:
    store = filled(b"a", b"a")
    store.apply(Compact(3))
    future = store.range(Range(b"a", revision=4))
    assert future == Failure("future_revision", "etcdserver: mvcc: required revision is a future revision", 3, 3)
    past = store.range(Range(b"a", revision=2))
    assert past == Failure("compacted", "etcdserver: mvcc: required revision has been compacted", 3, 3)
    assert store.range(Range(b"a", revision=3)).count == 1


def test_a_revision_below_zero_is_the_present_but_not_in_a_transaction_once_something_is_compacted() -> None:
    store = filled(b"a")
    alone = Range(b"a", revision=-1)
    assert store.range(alone).count == 1
    assert store.apply(Txn(success=(alone,))).responses == [store.range(alone)]
    assert refused(store.apply(Txn(success=(Range(b"a", revision=-2),))), "compacted", COMPACTED)
    store.apply(Compact(1))
    assert store.range(alone).count == 1
    assert refused(store.apply(Txn(success=(alone,))), "compacted", COMPACTED)


# ---- put -----------------------------------------------------------------------------------------------------


def test_prev_kv_is_there_only_if_something_was() -> None:
    store = Store()
    assert store.apply(Put(b"a", b"1", prev_kv=True)) == PutResult(2)
    assert store.apply(Put(b"a", b"2", prev_kv=True)) == PutResult(3, KeyValue(b"a", 2, 2, 1, b"1"))


def test_ignore_value_and_ignore_lease_keep_what_is_there() -> None:
    store = Store()
    store.apply_batch(
        [LeaseGrant(5, 60), Put(b"a", b"1", 5), Put(b"a", b"", ignore_value=True, ignore_lease=True)]
    )
    assert store.range(Range(b"a")).kvs == [KeyValue(b"a", 2, 3, 2, b"1", 5)]


@pytest.mark.parametrize(
    ("put", "code", "text"),
    [
        (Put(b"a", b"x", ignore_value=True), "invalid", "etcdserver: value is provided"),
        (Put(b"a", b"", 5, ignore_lease=True), "invalid", "etcdserver: lease is provided"),
        (Put(b"z", b"", ignore_value=True), "key_not_found", "etcdserver: key not found"),
        (Put(b"z", b"x", ignore_lease=True), "key_not_found", "etcdserver: key not found"),
        (Put(b"a", b"x", 99), "lease_not_found", "etcdserver: requested lease not found"),
        (Put(b"", b"x"), "invalid", "etcdserver: key is not provided"),
    ],
)
def test_a_put_is_refused_alone_and_in_a_transaction(put: Put, code: str, text: str) -> None:
    store = filled(b"a")
    before = store.hash()
    assert refused(store.apply(put), code, text)
    assert refused(store.apply(Txn(success=(Put(b"b", b""), put))), code, text)
    assert store.hash() == before


def test_alone_the_lease_is_looked_at_first_and_in_a_transaction_the_key() -> None:
    put = Put(b"z", b"", 99, ignore_value=True)
    store = Store()
    assert store.apply(put).code == "lease_not_found"
    assert store.apply(Txn(success=(put,))).code == "key_not_found"


# ---- transactions --------------------------------------------------------------------------------------------


def test_an_empty_transaction_succeeds() -> None:
    assert Store().apply(Txn()) == TxnResult(1, True, [])


def test_later_operations_see_what_earlier_ones_wrote() -> None:
    store = filled(b"a", b"b")
    result = store.apply(
        Txn(
            success=(
                Range(b"\0", b"\0", count_only=True),
                DeleteRange(b"x"),
                DeleteRange(b"a"),
                Range(b"\0", b"\0", count_only=True),
                Range(b"a", revision=3),
                Put(b"c", b"1"),
                DeleteRange(b"x"),
                Txn(success=(Range(b"a", b"z", count_only=True),)),
            )
        )
    )
    assert result == TxnResult(
        4,
        True,
        [
            RangeResult(3, [], 2),
            DeleteRangeResult(3, 0),
            DeleteRangeResult(4, 1),
            RangeResult(4, [], 1),
            RangeResult(4, [KeyValue(b"a", 2, 2, 1, b"v-a")], 1),
            PutResult(4),
            DeleteRangeResult(4, 0),
            TxnResult(0, True, [RangeResult(4, [], 2)]),
        ],
    )


def test_nested_comparisons_see_the_state_before_the_transaction() -> None:
    store = Store()
    nested = Txn((Compare(b"a"),), (Put(b"then", b""),), (Put(b"else", b""),))
    store.apply(Txn(success=(Put(b"a", b""), nested)))
    assert keys_of(store.range(Range(b"\0", b"\0"))) == [b"a", b"then"]


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (Compare(b"a"), False),
        (Compare(b"none"), True),
        (Compare(b"a", CompareTarget.VERSION, CompareResult.EQUAL, 2), True),
        (Compare(b"a", CompareTarget.CREATE, CompareResult.EQUAL, 2), True),
        (Compare(b"a", CompareTarget.MOD, CompareResult.GREATER, 2), True),
        (Compare(b"a", CompareTarget.MOD, CompareResult.LESS, 3), False),
        (Compare(b"a", CompareTarget.LEASE, CompareResult.NOT_EQUAL, 0), False),
        (Compare(b"a", CompareTarget.VALUE, CompareResult.EQUAL, value=b"v-a"), True),
        (Compare(b"a", CompareTarget.VALUE, CompareResult.LESS, value=b"w"), True),
        (Compare(b"none", CompareTarget.VALUE, CompareResult.NOT_EQUAL, value=b"x"), False),
        (Compare(b"none", CompareTarget.LEASE, CompareResult.LESS, 1), True),
        (Compare(b"a", CompareTarget.VERSION, CompareResult.GREATER, 0, range_end=b"c"), True),
        (Compare(b"a", CompareTarget.VERSION, CompareResult.EQUAL, 2, range_end=b"c"), False),
        (Compare(b"x", CompareTarget.VERSION, CompareResult.EQUAL, 0, range_end=b"z"), True),
        (Compare(b"x", CompareTarget.VERSION, CompareResult.GREATER, 0, range_end=b"z"), False),
    ],
)
def test_comparisons(compare: Compare, holds: bool) -> None:
    assert filled(b"a", b"a", b"b").apply(Txn((compare,))).succeeded is holds


def test_comparisons_are_anded() -> None:
    assert Store().apply(Txn((Compare(b"a"), Compare(b"b", number=1)))).succeeded is False


@pytest.mark.parametrize(
    "branch",
    [
        (Put(b"a", b""), Put(b"a", b"")),
        (Put(b"b", b""), DeleteRange(b"a", b"c")),
        (DeleteRange(b"b"), Put(b"b", b"")),
        (DeleteRange(b"a", b"\0"), Put(b"b", b"")),
        (Put(b"a", b""), Txn(success=(Put(b"a", b""),))),
        (Put(b"a", b""), Txn(failure=(Put(b"a", b""),))),
        (Txn(success=(Put(b"a", b""),)), Txn(failure=(Put(b"a", b""),))),
        (DeleteRange(b"a"), Txn(success=(Put(b"a", b""),))),
        (Txn(success=(DeleteRange(b"a"),)), Txn(success=(Put(b"a", b""),))),
        (Txn(failure=(DeleteRange(b"a"),)), Put(b"a", b"")),
        (Txn(success=(Put(b"a", b""), Put(b"a", b""))),),
        (Txn(failure=(Txn(success=(Put(b"a", b""), Put(b"a", b""))),)),),
    ],
)
def test_writing_a_key_twice_is_refused(branch: tuple[Put | DeleteRange | Txn, ...]) -> None:
    for txn in (Txn(success=branch), Txn(failure=branch)):
        for result in (Store().validate(txn), Store().apply(txn)):
            assert refused(result, "invalid", "etcdserver: duplicate key given in txn request")


@pytest.mark.parametrize(
    "txn",
    [
        Txn(success=(Put(b"a", b""),), failure=(Put(b"a", b""),)),
        Txn(success=(DeleteRange(b"a"), DeleteRange(b"a"))),
        Txn(success=(Txn(success=(Put(b"a", b""),), failure=(Put(b"a", b""),)),)),
        Txn(success=(DeleteRange(b"a", b"c"), Put(b"c", b""))),
    ],
)
def test_what_cannot_clash_is_allowed(txn: Txn) -> None:
    assert Store().validate(txn) is None
    assert isinstance(Store().apply(txn), TxnResult)


def test_sibling_transactions_may_put_and_then_delete_a_key() -> None:
    store = filled(b"a")
    store.apply(Txn(success=(Txn(success=(Put(b"a", b"1"),)), Txn(success=(DeleteRange(b"a"),)))))
    assert store.range(Range(b"a")).count == 0
    assert store.range(Range(b"a", revision=2)).count == 1
    store.apply_batch([Put(b"b", b""), Compact(3)])
    while store.scavenge(1):
        pass
    with store.snapshot() as view:
        assert Store.restore(view).db_size_bytes == store.db_size_bytes


def test_each_list_of_a_transaction_has_a_bound() -> None:
    store = Store(txn_ops_max=2)
    two, three = ((DeleteRange(b"a"),) * count for count in (2, 3))
    for txn in (Txn(success=three), Txn(failure=three), Txn((Compare(b"a"),) * 3)):
        assert refused(store.apply(txn), "invalid", "etcdserver: too many operations in txn request")
    assert isinstance(store.apply(Txn((Compare(b"a"),) * 2, two, two)), TxnResult)


def test_nesting_uses_up_the_bound() -> None:
    nested = Txn()
    for _ in range(3):
        nested = Txn(success=(nested,))
    assert Store(txn_ops_max=3).validate(nested) is None
    assert refused(
        Store(txn_ops_max=2).validate(Txn(success=(nested,))),
        "invalid",
        "etcdserver: too many operations in txn request",
    )


@pytest.mark.parametrize(
    "txn",
    [
        Txn((Compare(b""),)),
        Txn(success=(Put(b"", b""),)),
        Txn(success=(Range(b""),)),
        Txn(failure=(DeleteRange(b""),)),
        Txn(failure=(Txn((Compare(b""),)),)),
    ],
)
def test_no_part_of_a_transaction_may_lack_a_key(txn: Txn) -> None:
    assert refused(Store().apply(txn), "invalid", "etcdserver: key is not provided")


def test_a_failing_operation_undoes_the_whole_transaction() -> None:
    store = filled(b"a")
    for bad in (Range(b"a", revision=3), Txn(success=(Range(b"a", revision=9),))):
        assert store.apply(Txn(success=(Put(b"b", b""), bad))).code == "future_revision"
    store.apply(Compact(2))
    assert store.apply(Txn(success=(Put(b"b", b""), Range(b"a", revision=1)))).code == "compacted"
    assert keys_of(store.range(Range(b"\0", b"\0"))) == [b"a"]


# ---- leases --------------------------------------------------------------------------------------------------


def test_a_short_ttl_is_raised_and_a_huge_one_refused() -> None:
    store = Store(lease_min_ttl_s=2)
    assert store.apply(LeaseGrant(-8, -5)) == LeaseGrantResult(1, -8, 2)
    huge = LeaseGrant(9, 9_000_000_001)
    for result in (store.apply(huge), store.validate(huge)):
        assert refused(result, "invalid", "etcdserver: too large lease TTL")
    assert refused(store.apply(LeaseGrant(-8, 60)), "lease_exists", "etcdserver: lease already exists")
    assert store.leases() == [-8]


def test_chosen_lease_ids_are_positive_free_and_the_same_everywhere() -> None:
    one, other = Store(), Store()
    chosen = [one.apply(LeaseGrant(0, 60)).id for _ in range(3)]
    other.apply(LeaseGrant(chosen[1], 60))
    assert other.apply(LeaseGrant(0, 60)).id == chosen[0]
    assert other.apply(LeaseGrant(0, 60)).id == chosen[2]
    assert all(0 < lease < 1 << 63 for lease in chosen)


def test_revoking_deletes_the_keys_at_one_revision() -> None:
    store = Store()
    store.apply_batch([LeaseGrant(5, 60), Put(b"b", b"", 5), Put(b"a", b"", 5), Put(b"c", b"")])
    assert store.lease(5).keys == (b"a", b"b")
    assert store.apply(LeaseRevoke(5)) == LeaseRevokeResult(5)
    assert keys_of(store.range(Range(b"\0", b"\0"))) == [b"c"]
    assert (store.lease(5), store.granted_ttls_s()) == (None, {})
    assert refused(store.apply(LeaseRevoke(5)), "lease_not_found", "etcdserver: requested lease not found")


def test_a_key_leaves_its_lease_when_it_is_put_without_or_deleted() -> None:
    store = Store()
    store.apply_batch(
        [LeaseGrant(5, 60), LeaseGrant(6, 60), *(Put(key, b"", 5) for key in (b"a", b"b", b"c", b"d"))]
    )
    store.apply_batch([Put(b"a", b""), Put(b"b", b"", 6), DeleteRange(b"c"), Put(b"d", b"again", 5)])
    assert store.lease(5).keys == (b"d",)
    assert store.lease(6).keys == (b"b",)
    assert store.apply(LeaseRevoke(6)).revision == 10
    assert keys_of(store.range(Range(b"\0", b"\0"))) == [b"a", b"d"]


# ---- compaction ----------------------------------------------------------------------------------------------


def test_only_a_newer_existing_revision_can_be_compacted() -> None:
    store = filled(b"a", b"b")
    assert store.apply(Compact(0)).code == "compacted"
    assert store.apply(Compact(4)).code == "future_revision"
    assert store.apply(Compact(3)).revision == 3
    assert store.apply(Compact(3)).code == "compacted"
    assert store.compact_revision == 3


# ---- quota and alarms ----------------------------------------------------------------------------------------


def test_passing_the_quota_raises_the_alarm_and_writes_nothing() -> None:
    store = Store(quota_bytes=1000)
    store.apply_batch([LeaseGrant(1, 60), Put(b"a", b"x" * 200)])
    results = store.apply_batch([Put(b"b", b"x" * 500), Put(b"c", b""), Put(b"c", b"", 1)])
    assert all(refused(result, "quota", NO_SPACE) for result in results)
    assert store.alarms == [AlarmMember(0, AlarmType.NOSPACE)]
    assert keys_of(store.range(Range(b"\0", b"\0"))) == [b"a"]
    assert refused(store.apply(Txn(failure=(Txn(success=(Put(b"b", b""),)),))), "quota", NO_SPACE)
    assert refused(store.apply(LeaseGrant(2, 60)), "quota", NO_SPACE)
    assert refused(store.apply(LeaseGrant(2, 1 << 62)), "quota", NO_SPACE)  # whatever else is wrong with it


def test_under_the_alarm_space_can_be_freed() -> None:
    store = Store(quota_bytes=1000)
    store.apply_batch([Put(b"a", b"x" * 200)] * 4)
    assert store.alarms
    assert isinstance(store.apply(Txn(success=(DeleteRange(b"a"), Range(b"a")))), TxnResult)
    assert isinstance(store.apply(Compact(store.revision)), CompactResult)
    assert store.db_size_bytes == 0
    assert store.quota_bytes == 1000
    cleared = store.apply(Alarm(False, 0, AlarmType.NOSPACE))
    assert cleared == AlarmResult(store.revision, [AlarmMember(0, AlarmType.NOSPACE)])
    assert isinstance(store.apply(Put(b"a", b"")), PutResult)


def test_a_transaction_is_weighed_by_its_dearer_branch() -> None:
    dear = Txn(success=(Txn(success=(Put(b"a", b"x" * 900),)),), failure=(Range(b"a"),))
    store = Store(quota_bytes=1000)
    assert refused(store.apply(Txn((Compare(b"a", number=1),), (), (dear,))), "quota", NO_SPACE)


def test_a_put_that_keeps_its_value_pays_for_it() -> None:
    store = Store(quota_bytes=1500)
    store.apply_batch([LeaseGrant(1, 60), Put(b"a", b"x" * 600)])
    keeping = Put(b"a", b"", 1, ignore_value=True)
    assert refused(store.apply(keeping), "quota", NO_SPACE)
    store.apply(Alarm(False, 0, AlarmType.NOSPACE))
    assert refused(store.apply(Txn((), (Txn((), (keeping,)),))), "quota", NO_SPACE)
    assert store.db_size_bytes <= store.quota_bytes


def test_alarms_are_kept_by_member_and_type() -> None:
    store = Store()
    for member in (2, 1, 1):
        assert store.apply(Alarm(True, member, AlarmType.NOSPACE)).alarms == [
            AlarmMember(member, AlarmType.NOSPACE)
        ]
    assert store.apply(Alarm(True, 1, AlarmType.NONE)).alarms == []
    assert store.apply(Alarm(False, 3, AlarmType.NOSPACE)).alarms == []
    assert store.alarms == [AlarmMember(1, AlarmType.NOSPACE), AlarmMember(2, AlarmType.NOSPACE)]
    store.apply(Alarm(False, 1, AlarmType.NOSPACE))
    assert refused(store.apply(Put(b"a", b"")), "quota", NO_SPACE)
    store.apply(Alarm(False, 2, AlarmType.NOSPACE))
    assert isinstance(store.apply(Put(b"a", b"")), PutResult)


def test_a_plain_put_of_a_key_on_a_lease_takes_room_from_what_stands_behind_it() -> None:
    store = Store(quota_bytes=2000)
    store.apply_batch([LeaseGrant(1, 60), Put(b"a", b"", 1)])
    fits, does_not = store.apply_batch([Put(b"a", b"x" * 600), Put(b"b", b"x" * 600)])
    assert isinstance(fits, PutResult) and refused(does_not, "quota", NO_SPACE)


def test_an_alarm_is_kept_through_a_snapshot_and_only_one_of_space_refuses_writes() -> None:
    store = Store()
    for alarm, refuses in ((AlarmType.CORRUPT, False), (AlarmType.NOSPACE, True)):
        store.apply(Alarm(True, 1, alarm))
        with store.snapshot() as view:
            restored = Store.restore(view)
        assert restored.alarms == store.alarms
        for each in (store, restored):
            assert refused(each.apply(Put(b"a", b"")), "quota", NO_SPACE) == refuses


# ---- checks before the log -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        Put(b"a", b"x" * 100),
        Txn(success=(Put(b"a", b"x" * 50), Put(b"b", b"x" * 50))),
        Txn((Compare(b"a", value=b"x" * 100),)),
        Txn(failure=(Txn(success=(Range(b"a" * 50, b"b" * 50),)),)),
        DeleteRange(b"a" * 50, b"b" * 50),
    ],
)
def test_a_large_request_is_refused_before_the_log_only(command: Command) -> None:
    store = Store(request_bytes_max=100)
    assert Store(request_bytes_max=payload_bytes(command)).validate(command) is None
    assert refused(store.validate(command), "invalid", "etcdserver: request is too large")
    assert not isinstance(store.apply(command), Failure)


def test_the_last_byte_of_the_quota_and_the_longest_time_are_granted() -> None:
    store = Store(quota_bytes=256)
    assert store.apply(LeaseGrant(1, 9_000_000_000)) == LeaseGrantResult(1, 1, 9_000_000_000)
    assert (store.db_size_bytes, store.alarms) == (256, [])


def test_a_lease_whose_grant_is_not_known_is_ended_by_whoever_names_it() -> None:
    store = Store()
    store.apply(LeaseGrant(5, 10))
    assert store.apply(LeaseRevoke(5, 7)) == LeaseRevokeResult(1)


def test_a_comparison_of_a_range_needs_its_key() -> None:
    unnamed = Txn((Compare(b"", range_end=b"z"),))
    assert refused(Store().apply(unnamed), "invalid", "etcdserver: key is not provided")


def test_leases_are_listed_in_the_order_of_their_ids() -> None:
    store = Store()
    store.apply_batch([LeaseGrant(5, 10), LeaseGrant(-3, 10), LeaseGrant(4, 10)])
    assert store.leases() == [-3, 4, 5]


def test_the_end_of_a_lease_does_not_end_another_one_of_the_same_id() -> None:
    store = Store()
    store.apply_batch([LeaseGrant(5, 10), LeaseRevoke(5)], 7)
    store.apply_batch([LeaseGrant(5, 10), Put(b"a", b"", 5)], 8)
    assert refused(store.apply(LeaseRevoke(5, 7)), "lease_not_found", "etcdserver: requested lease not found")
    assert store.leases() == [5]
    assert store.apply(LeaseRevoke(5, 8)) == LeaseRevokeResult(3)
    assert not store.leases()


@pytest.mark.parametrize(
    "command", [LeaseGrant(1, 1), LeaseRevoke(1), Compact(1), Alarm(True, 1, AlarmType.CORRUPT), DeleteRange(b"a")]
)
def test_small_commands_pass(command: Command) -> None:
    assert Store().validate(command) is None
    assert payload_bytes(command) < 100


def test_under_the_alarm_a_transaction_is_refused_for_a_put_at_any_depth() -> None:
    store = Store()
    store.apply(Alarm(True, 1, AlarmType.NOSPACE))
    assert refused(store.apply(Txn(failure=(Txn(success=(Put(b"a", b""),)),))), "quota", NO_SPACE)
    without = Txn((Compare(b"a"),), (Range(b"a"),), (Txn(success=(DeleteRange(b"a"),)),))
    assert isinstance(store.apply(without), TxnResult)


def test_a_transaction_is_refused_for_all_that_is_nested_in_it_not_only_for_what_a_level_holds() -> None:
    def packed(*operations: Operation) -> Txn:
        level = operations
        while len(level) > 40:
            level = tuple(Txn(success=level[at : at + 40]) for at in range(0, len(level), 40))
        return Txn(success=level)

    store = Store()
    keys = [b"%d" % number for number in range(NESTED_OPERATIONS_MAX)]
    assert refused(
        store.apply(packed(*(DeleteRange(key) for key in keys))),
        "invalid",
        "etcdserver: too many operations in txn request",
    )
    assert isinstance(store.apply(packed(*(DeleteRange(key) for key in keys[:3900]))), TxnResult)


@pytest.mark.parametrize("lease", [0, 7], ids=["plain", "with a lease"])
def test_a_key_put_again_after_its_deletion_is_born_anew(lease: int) -> None:
    """Both ways in: the put that is written out in the batch loop, and the one with options."""
    store = Store()
    store.apply(LeaseGrant(7, 60))
    store.apply_batch([Put(b"k", b"1"), Put(b"k", b"2"), DeleteRange(b"k"), Put(b"k", b"3", lease)])
    assert store.range(Range(b"k")) == RangeResult(5, [KeyValue(b"k", 5, 5, 1, b"3", lease)], 1)
    store.apply(Put(b"k", b"4"))
    assert store.range(Range(b"k")) == RangeResult(6, [KeyValue(b"k", 5, 6, 2, b"4")], 1)
