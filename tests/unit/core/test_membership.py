"""Who is in the cluster: the history along the log, and what a change leads to."""

import pytest

from troth.core.interface import Entry, EntryKind, Member, Membership, MembershipChange
from troth.core.membership import (
    MembershipLog,
    changed,
    decode_membership,
    encode_membership,
    holds_membership,
    left,
    promotable,
)
from troth.errors import DecodeError
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.actor import membership_of

THREE = membership_of((1, 2, 3))


def node(*numbers: int) -> tuple[NodeId, ...]:
    return tuple(NodeId(number) for number in numbers)


def joining(*numbers: int) -> dict[NodeId, Member]:
    return {NodeId(number): Member(f"n{number}") for number in numbers}


def change_entry(index: int, membership: Membership) -> Entry:
    return Entry(LogIndex(index), Term(1), EntryKind.MEMBERSHIP, encode_membership(membership))


def plain_entry(index: int) -> Entry:
    return Entry(LogIndex(index), Term(1), EntryKind.COMMANDS, b"")


def accepted(current: Membership, change: MembershipChange) -> Membership:
    result = changed(current, change)
    assert isinstance(result, Membership), result
    return result


# ---- the history along the log ----


def history() -> MembershipLog:
    """Base at 4; changes at 6, 9 and 12."""
    entries = [plain_entry(5), change_entry(6, membership_of((1, 2))), plain_entry(7)]
    log = MembershipLog(THREE, LogIndex(4), entries)
    log.on_append(change_entry(9, membership_of((1,))))
    log.on_append(plain_entry(10))
    log.on_append(change_entry(12, membership_of((2,))))
    return log


def test_the_newest_membership_is_in_force_committed_or_not() -> None:
    """§6: "a server always uses the latest configuration in its log, regardless of whether it is committed"."""
    log = history()
    assert (log.current.voters, log.index) == (node(2), 12)


def test_the_membership_at_an_index_is_the_last_one_before_it() -> None:
    log = history()
    assert [log.at(LogIndex(at)).voters for at in (1, 4, 5, 6, 8, 9, 11, 12, 99)] == [
        node(1, 2, 3),
        node(1, 2, 3),
        node(1, 2, 3),
        node(1, 2),
        node(1, 2),
        node(1),
        node(1),
        node(2),
        node(2),
    ]


@pytest.mark.parametrize(
    ("cut", "index", "voters"),
    [(13, 12, (2,)), (12, 9, (1,)), (9, 6, (1, 2)), (7, 6, (1, 2)), (6, 4, (1, 2, 3)), (5, 4, (1, 2, 3))],
)
def test_truncation_takes_memberships_back(cut: int, index: int, voters: tuple[int, ...]) -> None:
    log = history()
    log.on_truncate(LogIndex(cut))
    assert (log.index, log.current.voters) == (index, voters)


def test_truncation_never_takes_the_base() -> None:
    log = history()
    log.on_truncate(LogIndex(1))
    assert (log.index, log.current) == (4, THREE)


def test_compaction_keeps_the_newest_membership_it_covers() -> None:
    log = history()
    log.on_compact(LogIndex(5))
    assert log.at(LogIndex(5)) == THREE
    log.on_compact(LogIndex(9))
    assert log.at(LogIndex(10)).voters == node(1)
    assert log.at(LogIndex(6)).voters == node(1)
    assert log.index == 12
    log.on_truncate(LogIndex(12))
    assert (log.index, log.current.voters) == (9, node(1))


def test_an_installed_snapshot_replaces_all_memberships() -> None:
    log = history()
    log.reset(THREE, LogIndex(20))
    assert (log.index, log.current, log.at(LogIndex(3))) == (20, THREE, THREE)


def test_a_membership_survives_its_encoding() -> None:
    membership = membership_of((1, 2), outgoing=(2, 3), learners=(4,))
    assert decode_membership(encode_membership(membership)) == membership


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"\xc1", b"x", b"\x92\x01\x02", encode_membership(THREE)[:-1]),
        encode_membership(Membership(())),
        encode_membership(membership_of((), learners=(4,))),
    ],
)
def test_what_is_no_membership_is_refused_by_name(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="membership"):
        decode_membership(payload)
    assert not holds_membership(Entry(LogIndex(1), Term(1), EntryKind.MEMBERSHIP, payload))


def test_everyone_is_sorted_and_whole_and_voters_are_of_either_set() -> None:
    membership = membership_of((5, 2), outgoing=(3, 2), learners=(4,))
    assert membership.everyone() == node(2, 3, 4, 5)
    assert [membership.is_voter(NodeId(number)) for number in range(1, 6)] == [False, True, True, False, True]
    assert [membership.is_member(NodeId(number)) for number in range(1, 6)] == [False, True, True, True, True]
    assert membership.is_joint
    assert not THREE.is_joint


# ---- changes ----


def test_a_change_of_voters_is_joint_and_keeps_those_who_leave_until_it_is_over() -> None:
    target = accepted(THREE, MembershipChange(add_voters=joining(4), remove=node(1)))
    assert (target.voters, target.outgoing) == (node(2, 3, 4), node(1, 2, 3))
    assert sorted(target.members) == [1, 2, 3, 4]
    behind = left(target)
    assert (behind.voters, behind.outgoing, sorted(behind.members)) == (node(2, 3, 4), (), [2, 3, 4])


def test_a_change_of_learners_alone_is_one_step() -> None:
    target = accepted(THREE, MembershipChange(add_learners=joining(9, 4)))
    assert (target.voters, target.outgoing, target.learners) == (node(1, 2, 3), (), node(4, 9))
    gone = accepted(target, MembershipChange(remove=node(4)))
    assert (gone.learners, gone.outgoing, sorted(gone.members)) == (node(9), (), [1, 2, 3, 9])


def test_a_learner_becomes_a_voter_by_promotion_or_by_being_added() -> None:
    learning = membership_of((1, 2, 3), learners=(4, 5))
    for change in (MembershipChange(promote=node(4)), MembershipChange(add_voters=joining(4))):
        target = accepted(learning, change)
        assert (target.voters, target.outgoing, target.learners) == (node(1, 2, 3, 4), node(1, 2, 3), node(5))
        assert left(target).learners == node(5)
        assert sorted(left(target).members) == [1, 2, 3, 4, 5], "a learner keeps its address"


def test_many_servers_change_at_once() -> None:
    target = accepted(
        THREE, MembershipChange(add_voters=joining(4, 5), add_learners=joining(6), remove=node(1, 2))
    )
    assert (target.voters, target.outgoing, target.learners) == (node(3, 4, 5), node(1, 2, 3), node(6))


def test_an_address_is_updated_in_one_step() -> None:
    target = accepted(THREE, MembershipChange(update={NodeId(2): Member("n2", "h:1", "h:2")}))
    assert target.members[NodeId(2)].peer_address == "h:1"
    assert (target.voters, target.outgoing) == (THREE.voters, ())


def test_a_server_may_be_replaced_under_its_name() -> None:
    target = accepted(THREE, MembershipChange(add_voters={NodeId(7): Member("n3")}, remove=node(3)))
    assert target.voters == node(1, 2, 7)
    assert target.members[NodeId(7)].name == "n3"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (MembershipChange(remove=node(9)), "server 9 is not a member"),
        (MembershipChange(promote=node(9)), "server 9 is not a member"),
        (MembershipChange(update=joining(9)), "server 9 is not a member"),
        (MembershipChange(add_voters=joining(1)), "server 1 is a member already"),
        (MembershipChange(add_learners=joining(1)), "server 1 is a member already"),
        (MembershipChange(promote=node(1)), "server 1 is not a learner"),
        (
            MembershipChange(add_voters={NodeId(4): Member("n2")}),
            "the name 'n2' is taken; remove the old server first",
        ),
        (
            MembershipChange(add_learners={NodeId(4): Member("x"), NodeId(5): Member("x")}),
            "the name 'x' is taken; remove the old server first",
        ),
        (MembershipChange(remove=node(1, 2, 3)), "no voter would be left"),
        (
            MembershipChange(add_learners={NodeId(10): Member("n1")}),
            "the name 'n1' is taken; remove the old server first",
        ),
        (
            MembershipChange(update={NodeId(1): Member("n2", "h:1")}),
            "the name 'n2' is taken; remove the old server first",
        ),
    ],
)
def test_impossible_changes_say_why(change: MembershipChange, reason: str) -> None:
    assert changed(THREE, change) == reason


AT_ADDRESSES = Membership(
    voters=node(1, 2), members={NodeId(1): Member("n1", "h1:2", "h1:1"), NodeId(2): Member("n2", "h2:2", "h2:1")}
)


@pytest.mark.parametrize(
    "member",
    [Member("x", "h2:2", "h3:1"), Member("x", "h3:2", "h2:1"), Member("x", "h2:1"), Member("x", "", "h2:2")],
)
def test_an_address_belongs_to_one_server(member: Member) -> None:
    """Clients and peers that dial it would reach the one that listens there, whoever is meant."""
    for change in (
        MembershipChange(add_learners={NodeId(3): member}),
        MembershipChange(update={NodeId(1): member}),
    ):
        refused = changed(AT_ADDRESSES, change)
        assert isinstance(refused, str) and " of x is n2's; give x another one, or remove n2 first" in refused
    replaced = MembershipChange(add_voters={NodeId(3): member}, remove=node(2))
    assert accepted(AT_ADDRESSES, replaced).voters == node(1, 3)


def test_a_server_may_keep_its_addresses() -> None:
    accepted(AT_ADDRESSES, MembershipChange(update={NodeId(2): Member("n2", "h2:2", "h2:3")}))
    accepted(AT_ADDRESSES, MembershipChange(add_learners={NodeId(3): Member("x", "h:1", "h:1")}))


def test_a_learner_is_not_added_as_a_learner_again() -> None:
    learning = membership_of((1, 2, 3), learners=(10,))
    assert changed(learning, MembershipChange(add_learners=joining(10))) == "server a is a member already"


def test_a_server_is_not_added_and_removed_at_once() -> None:
    learning = membership_of((1, 2, 3), learners=(4,))
    change = MembershipChange(add_voters=joining(4), remove=node(4))
    assert changed(learning, change) == "a server can not be added and removed at once"


def test_no_change_while_another_is_unfinished() -> None:
    joint = membership_of((1, 2), outgoing=(1, 2, 3))
    assert changed(joint, MembershipChange(remove=node(2))) == "the last change is not finished"


def test_only_learners_that_caught_up_and_want_it_are_promoted() -> None:
    members = {**THREE.members, NodeId(4): Member("n4"), NodeId(5): Member("n5", promote=False)}
    membership = Membership(voters=THREE.voters, learners=node(4, 5, 6), members=members)
    assert promotable(membership, node(1, 4, 5, 6)) == node(4)
    assert promotable(membership, node(5)) == ()


def test_the_memberships_since_an_index_are_the_one_in_force_there_and_all_later() -> None:
    later = [membership_of((1, 2)), membership_of((2, 3))]
    entries = [
        Entry(LogIndex(index), Term(1), EntryKind.MEMBERSHIP, encode_membership(each))
        for index, each in zip((7, 9), later, strict=True)
    ]
    log = MembershipLog(THREE, LogIndex(5), entries)
    assert list(log.since(LogIndex(9))) == [later[1]]
    assert list(log.since(LogIndex(8))) == [later[1], later[0]]
    assert list(log.since(LogIndex(5))) == [later[1], later[0], THREE]
    assert list(log.since(LogIndex(1))) == [later[1], later[0], THREE], "older ones are not known any more"
