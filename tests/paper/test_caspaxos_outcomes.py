"""What a client of a register is told: applied, not applied, or unknown, and never more than is known."""

from caspaxos import Table, ballot

from troth.core.register import changes
from troth.core.register.messages import ZERO, Full, Promise
from troth.errors import AlreadyDecided, ChangeFailed, NotApplied, OutcomeUnknown, QuotaExceeded, Unavailable

KEY = b"k"


def test_without_a_quorum_for_the_prepare_nothing_was_applied() -> None:
    table = Table()
    outcome = table.run(table.proposer(1).change(KEY, changes.put(b"v")), up=(1,))
    assert isinstance(outcome.error, Unavailable)
    assert isinstance(outcome.error, NotApplied)


def test_an_accept_that_may_have_arrived_leaves_the_outcome_unknown() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"v"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    task.take()
    task.give_up()
    assert task.outcome is not None
    assert isinstance(task.outcome.error, OutcomeUnknown)


def test_an_accept_that_all_acceptors_have_refused_was_not_applied() -> None:
    """A quorum of refusals ends the phase, the last refusal arrives later; with it nothing is in doubt any more."""
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"v")))
    table.run(table.proposer(2).change(KEY, changes.put(b"w")))
    task = proposer.change(KEY, changes.put(b"x"))
    for send in task.take():
        assert len(task.attempts) == 1
        task.on_reply(send, table.hand(send))
    assert not task.attempts
    task.give_up()
    assert task.outcome is not None
    assert isinstance(task.outcome.error, Unavailable)


def test_a_refusal_by_most_acceptors_leaves_the_outcome_unknown() -> None:
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"v")))
    table.run(table.proposer(2).change(KEY, changes.put(b"w")))
    task = proposer.change(KEY, changes.put(b"x"))
    for send in task.take()[:2]:
        task.on_reply(send, table.hand(send))
    task.give_up()
    assert task.outcome is not None
    assert isinstance(task.outcome.error, OutcomeUnknown)


def test_a_comparison_that_holds_is_never_refused() -> None:
    table = Table()
    for number in range(1, 8):
        held = str(number - 1).encode() if number > 1 else None
        proposer = table.proposer(1 + number % 2)
        assert table.run(proposer.change(KEY, changes.cas(held, str(number).encode()))).changed


def test_what_a_change_function_refuses_is_no_refusal_of_the_registers() -> None:
    """It may have asked something else, which is full or silent; its caller is told whose error that is."""

    def function(held: bytes | None) -> bytes:
        raise theirs

    theirs = QuotaExceeded("of something else")
    outcome = Table().run(Table().proposer(1).change(KEY, changes.apply(function)))
    assert isinstance(outcome.error, ChangeFailed) and outcome.error.__cause__ is theirs


def test_a_change_in_doubt_that_was_applied_is_not_applied_again() -> None:
    """The retry finds its own mark in the state, and answers with what the first attempt made."""
    table = Table()
    task = table.proposer(1).change(KEY, changes.apply(lambda held: (held or b"") + b"+"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    sends = table.step(task, reach=(1, 2, 3))
    other = table.run(table.proposer(2).change(KEY, changes.apply(lambda held: (held or b"") + b"o")))
    assert other.value == b"+o"
    for send in sends:
        task.on_lost(send)
    outcome = table.run(task)
    assert outcome.changed
    assert (outcome.value, outcome.version) == (b"+", 1)
    assert table.run(table.proposer(3).read(KEY)).value == b"+o"


def test_a_change_in_doubt_that_was_not_applied_is_applied_once() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.apply(lambda held: (held or b"") + b"+"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    for send in table.step(task, reach=()):
        task.on_lost(send)
    table.run(table.proposer(2).change(KEY, changes.put(b"o")))
    assert table.run(task).value == b"o+"


def test_a_change_hidden_by_many_other_proposers_is_reported_as_unknown() -> None:
    """Better no answer than a wrong one: the register remembers the newest change of few proposers only."""
    table = Table()
    table.run(table.proposer(40).change(KEY, changes.put(b"before")))
    task = table.proposer(1).change(KEY, changes.put(b"mine"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    sends = table.step(task, reach=(1, 2, 3))
    for client in range(2, 40):
        table.run(table.proposer(client).change(KEY, changes.put(b"other")))
    for send in sends:
        task.on_lost(send)
    outcome = table.run(task)
    assert isinstance(outcome.error, OutcomeUnknown)


def test_many_changes_of_one_other_proposer_hide_nothing() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.apply(lambda held: (held or b"") + b"mine"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    sends = table.step(task, reach=())
    rival = table.proposer(2)
    for _ in range(40):
        table.run(rival.change(KEY, changes.put(b"other-")))
    for send in sends:
        task.on_lost(send)
    assert table.run(task).value == b"other-mine"


def test_a_change_function_that_raises_changes_nothing_and_says_so() -> None:
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))

    def fails(held: bytes | None) -> bytes:
        raise ValueError(f"no number: {held!r}")

    outcome = table.run(table.proposer(1).change(KEY, changes.apply(fails)))
    assert isinstance(outcome.error, ChangeFailed)
    assert isinstance(outcome.error.__cause__, ValueError)
    assert table.run(table.proposer(2).read(KEY)).value == b"v"


def test_a_comparison_is_refused_on_a_chosen_state_only() -> None:
    """What a refused compare-and-set saw is accepted by a quorum first, or another reader could see an older one."""
    table = Table()
    first = table.proposer(1).change(KEY, changes.put(b"first"))
    table.step(first, reach=(1, 2, 3), answer=(1, 2, 3))
    table.step(first, reach=(3,))
    refused = table.run(table.proposer(2).change(KEY, changes.cas(b"else", b"new")), up=(2, 3))
    assert not refused.changed
    assert refused.value == b"first"
    assert table.run(table.proposer(3).read(KEY), up=(1, 2)).value == b"first"


def test_what_was_proposed_first_is_decided_for_ever() -> None:
    table = Table()
    assert table.run(table.proposer(1).change(KEY, changes.propose(b"one"))).value == b"one"
    assert table.run(table.proposer(2).change(KEY, changes.propose(b"two"))).value == b"one"
    for change in (changes.put(b"x"), changes.cas(b"one", b"x"), changes.delete()):
        outcome = table.run(table.proposer(3).change(KEY, change))
        assert isinstance(outcome.error, AlreadyDecided)
    assert table.run(table.proposer(4).read(KEY)).value == b"one"


def test_that_nothing_was_changed_is_accepted_while_an_attempt_may_still_arrive() -> None:
    """The function thinks better of it when it is asked again; what it wanted first is still on its way to one."""
    table = Table()
    wanted = iter((b"v", None))
    task = table.proposer(1).change(KEY, changes.apply(lambda held: next(wanted)))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    *lost, late = table.step(task, reach=())
    for send in lost:
        task.on_lost(send)
    task.resume()
    table.step(task, reach=(1, 2), answer=(1, 2))
    assert task.outcome is None
    assert not table.run(task, up=(1, 2)).changed
    table.hand(late)
    assert table.run(table.proposer(2).read(KEY)).value is None


def test_a_change_that_is_found_on_one_acceptor_is_accepted_by_a_quorum_before_it_is_told() -> None:
    """Another quorum might never see it."""
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"v"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    for send in table.step(task, reach=(3,)):
        task.on_lost(send)
    task.resume()
    table.step(task, reach=(2, 3), answer=(2, 3))
    assert task.outcome is None
    assert table.run(task).changed
    assert sum(KEY in acceptor.slots for acceptor in table.acceptors.values()) >= 2


def test_acceptors_that_are_full_refuse_and_say_so() -> None:
    table = Table()
    for acceptor in table.acceptors.values():
        acceptor._bytes_max = 500
    table.run(table.proposer(1).change(b"small", changes.put(b"v")))
    outcome = table.run(table.proposer(1).change(b"large", changes.put(bytes(400))))
    assert isinstance(outcome.error, QuotaExceeded)
    assert table.run(table.proposer(2).read(b"small")).value == b"v"


def test_while_enough_acceptors_may_have_room_a_full_one_ends_nothing() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"v"))
    sends = task.take()
    task.on_reply(sends[0], Full("no room"))
    task.on_lost(sends[1])
    assert task.outcome is None
    assert table.run(task).changed


def test_a_new_register_remembers_the_highest_fence_that_its_maker_met() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"v"))
    for send, fence in zip(task.take(), (ballot(3), ballot(2)), strict=False):
        task.on_reply(send, Promise(ZERO, None, fence))
    assert {send.request.state.floor for send in task.take()} == {ballot(3)}  # type: ignore[union-attr]
