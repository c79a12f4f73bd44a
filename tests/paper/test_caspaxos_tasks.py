"""CASPaxos §2.3 and §2.2.1, the proposer's side: whose answers count, what acceptors of another epoch are told, and
which promises are kept for the next change."""

import msgspec
import pytest
from caspaxos import Table, ballot, state
from typing_extensions import override

from troth.core.register import changes, task
from troth.core.register.listing import Listing
from troth.core.register.messages import (
    ZERO,
    Accepted,
    ConfigId,
    Configuration,
    Configure,
    Conflict,
    Described,
    Read,
    ReplyMessage,
    Seat,
    WrongConfig,
    founding,
    group_of,
)
from troth.core.register.round import Phase, Round
from troth.core.register.task import (
    COURTESY_MAX,
    RIVALS_MAX,
    Exchange,
    Outcome,
    PreparedBallot,
    ProposerState,
    Send,
)
from troth.errors import OutcomeUnknown, WrongCluster
from troth.ids import NodeId

KEY = b"k"
SEATS = tuple(Seat(NodeId(n), f"a{n}") for n in (1, 2, 3))
CONFIG = founding(group_of(SEATS))


def epoch(number: int, *, cluster: int = 0) -> Configuration:
    return msgspec.structs.replace(CONFIG, id=ConfigId(cluster or CONFIG.id.cluster, number))


class Asking(Exchange):
    """A task that asks everybody once and notes what it hears."""

    def __init__(self, proposer: ProposerState) -> None:
        super().__init__(proposer)
        self.answers: list[tuple[int, ReplyMessage]] = []
        self.silent: list[int] = []
        self.restarts = 0
        self._broadcast(Read(self.config.id, KEY))

    @override
    def _on_answer(self, acceptor: NodeId, reply: ReplyMessage) -> None:
        self.answers.append((acceptor, reply))

    @override
    def _on_silence(self, acceptor: NodeId) -> None:
        self.silent.append(acceptor)

    @override
    def _on_new_config(self) -> None:
        self.restarts += 1
        self.config = self._proposer.config


def asking(config: Configuration = CONFIG) -> tuple[ProposerState, Asking, list[Send]]:
    standing = ProposerState(9, config)
    made = Asking(standing)
    assert made.has_sends
    sends = made.take()
    assert not made.has_sends
    assert [send.to for send in sends] == [1, 2, 3]
    return standing, made, sends


def described(config: Configuration) -> Described:
    return Described(NodeId(1), config, 0, 0, 0, ZERO)


# ---- whose answers count ----


def test_an_answer_counts_while_its_phase_goes_on_and_the_task_is_not_over() -> None:
    _, made, sends = asking()
    assert made.is_current(sends[0])
    made.on_reply(sends[0], Accepted())
    made.on_lost(sends[1])
    assert (made.answers, made.silent) == ([(1, Accepted())], [2])
    made.outcome = Outcome()
    assert not made.is_current(sends[2])
    made.on_reply(sends[2], Accepted())
    made.on_lost(sends[2])
    assert (made.answers, made.silent) == ([(1, Accepted())], [2])


def test_an_answer_to_an_earlier_phase_counts_nothing() -> None:
    _, made, sends = asking()
    made._broadcast(Read(CONFIG.id, KEY))
    assert not made.is_current(sends[0])
    made.on_reply(sends[0], Accepted())
    made.on_lost(sends[1])
    assert (made.answers, made.silent) == ([], [])
    assert all(made.is_current(send) for send in made.take())


def test_phases_of_two_tasks_of_one_proposer_have_different_numbers() -> None:
    standing, first, sends = asking()
    second = Asking(standing)
    assert not second.is_current(sends[0])
    assert first.is_current(sends[0])


# ---- acceptors of another epoch ----


def test_a_newer_configuration_is_adopted_and_the_phase_begun_anew() -> None:
    standing, made, sends = asking(epoch(3))
    made.on_reply(sends[0], WrongConfig(epoch(5)))
    assert (standing.config, made.restarts) == (epoch(5), 1)
    assert not made.is_current(sends[1]), "answers to the old phase count no more"


def test_a_newer_configuration_is_adopted_also_from_an_answer_that_comes_too_late() -> None:
    standing, made, sends = asking(epoch(3))
    made._broadcast(Read(epoch(3).id, KEY))
    made.on_reply(sends[0], WrongConfig(epoch(4)))
    assert (standing.config, made.restarts) == (epoch(4), 0)
    made.outcome = Outcome()
    made.on_reply(sends[1], WrongConfig(epoch(5)))
    assert standing.config == epoch(5)
    made.on_reply(sends[1], WrongConfig(None))
    assert standing.config == epoch(5)


@pytest.mark.parametrize("theirs", [None, epoch(2)], ids=["in none", "in an older one"])
def test_an_acceptor_that_is_behind_is_told_and_asked_again_once(theirs: Configuration | None) -> None:
    _, made, sends = asking(epoch(3))
    made.on_reply(sends[1], WrongConfig(theirs))
    (told,) = made.take()
    assert (told.to, told.request, told.then) == (2, Configure(epoch(3)), sends[1].request)
    assert made.is_current(told)
    made.on_reply(told, described(epoch(3)))
    (again,) = made.take()
    assert (again.to, again.request, again.again, again.then) == (2, sends[1].request, True, None)
    assert made.is_current(again)
    assert (made.answers, made.silent) == ([], [])
    made.on_reply(again, WrongConfig(theirs))
    assert made.silent == [2], "it does not follow; not for ever"
    assert not made.has_sends


def test_an_acceptor_of_the_same_epoch_that_refuses_is_as_good_as_silent() -> None:
    """It has no seat there: another acceptor in the place of the one that had."""
    _, made, sends = asking(epoch(3))
    made.on_reply(sends[0], WrongConfig(epoch(3)))
    assert (made.silent, made.restarts, made.has_sends) == ([1], 0, False)


def test_an_acceptor_of_another_cluster_is_neither_told_nor_believed() -> None:
    standing, made, sends = asking(epoch(3))
    for send, number in zip(sends, (2, 3, 9), strict=True):
        made.on_reply(send, WrongConfig(epoch(number, cluster=77)))
    assert made.silent == [1, 2, 3]
    assert not made.has_sends
    assert standing.config == epoch(3)
    round_ = Table().proposer(1).read(KEY)
    for send in round_.take():
        round_.on_reply(send, WrongConfig(epoch(9, cluster=77)))
    round_.give_up()
    assert round_.outcome is not None and isinstance(round_.outcome.error, WrongCluster)
    listing = Listing(Table().proposer(1))
    for send in listing.take():
        listing.on_reply(send, WrongConfig(epoch(9, cluster=77)))
    listing.give_up()
    assert listing.outcome is not None and isinstance(listing.outcome.error, WrongCluster)


def test_a_description_that_nobody_asked_for_is_an_answer_like_any_other() -> None:
    _, made, sends = asking()
    made.on_reply(sends[0], described(CONFIG))
    assert made.answers == [(1, described(CONFIG))]
    assert not made.has_sends


# ---- what is kept ----


def kept(round_: int, value: bytes = b"v", config: Configuration = CONFIG) -> PreparedBallot:
    return PreparedBallot(config.id, ballot(round_), state(value, ballot(round_)))


def test_only_a_newer_configuration_of_the_same_cluster_is_adopted_and_voids_what_was_kept() -> None:
    standing = ProposerState(9, epoch(3))
    standing.remember(KEY, kept(1, config=epoch(3)))
    for other in (epoch(2), epoch(3), epoch(9, cluster=77)):
        standing.adopt(other)
        assert standing.config == epoch(3)
    assert standing.take_prepared(KEY) == kept(1, config=epoch(3))
    standing.remember(KEY, kept(1, config=epoch(3)))
    standing.adopt(epoch(4))
    assert standing.take_prepared(KEY) is None
    assert standing._prepared_bytes == 0


def test_a_promise_of_another_configuration_is_not_kept() -> None:
    standing = ProposerState(9, epoch(3))
    standing.remember(KEY, kept(1, config=epoch(2)))
    assert standing.take_prepared(KEY) is None


def test_a_promise_is_taken_once_and_a_newer_one_takes_its_place() -> None:
    standing = ProposerState(9, CONFIG)
    standing.remember(KEY, kept(1, b"four"))
    standing.remember(KEY, kept(2, b"seventh"))
    assert standing._prepared_bytes == 7
    assert standing.take_prepared(KEY) == kept(2, b"seventh")
    assert standing.take_prepared(KEY) is None
    assert standing._prepared_bytes == 0


def test_so_many_promises_and_so_many_bytes_are_kept_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "PREPARED_MAX", 3)
    monkeypatch.setattr(task, "PREPARED_BYTES_MAX", 30)
    standing = ProposerState(9, CONFIG)
    for number in range(1, 5):
        standing.remember(b"%d" % number, kept(number, b"x"))
    assert standing.take_prepared(b"1") is None
    for number in (2, 3, 4):
        standing.remember(b"%d" % number, kept(number, bytes(10)))
    assert standing._prepared_bytes == 30, "up to the bound itself"
    standing.remember(b"4", kept(4, bytes(11)))
    assert standing.take_prepared(b"2") is None
    assert [standing.take_prepared(b"%d" % n) is not None for n in (3, 4)] == [True, True]


def test_ballots_are_above_all_that_was_observed_and_never_fall() -> None:
    standing = ProposerState(9, CONFIG)
    assert standing.new_ballot() == ballot(1, 9)
    standing.observe(ballot(50, 3))
    standing.observe(ballot(20, 3))
    assert standing.new_ballot() == ballot(51, 9)
    assert standing.new_ballot(ahead=4) == ballot(55, 9)


# ---- one change, in doubt ----


def test_a_change_that_is_bound_ends_when_the_configuration_moves_and_goes_on_while_it_does_not() -> None:
    table = Table()
    proposer = table.proposer(1)
    task_ = proposer.change(KEY, changes.put(b"v"), bound=True)
    assert table.run(task_).changed
    moved = proposer.change(KEY, changes.put(b"w"), bound=True)
    sends = moved.take()
    newer = msgspec.structs.replace(table.config, id=ConfigId(table.config.id.cluster, 2))
    moved.on_reply(sends[0], WrongConfig(newer))
    assert moved.outcome is not None
    assert type(moved.outcome.error).__name__ == "AcceptorsChanged"
    assert not moved.has_sends, "no phase begins under the new one"


def test_an_answer_that_may_settle_an_earlier_attempt_is_waited_for_and_no_longer() -> None:
    """Other changes hide whether it has happened; the acceptor that was asked and is silent may still refuse it."""
    table = Table()
    task_ = table.proposer(1).change(KEY, changes.put(b"mine"))
    table.step(task_, reach=(1, 2, 3), answer=(1, 2, 3))
    sends = table.step(task_, reach=())
    for client in range(2, 30):
        table.run(table.proposer(client).change(KEY, changes.put(b"other")))
    for send in sends[:2]:
        task_.on_reply(send, table.hand(send))
    task_.resume()
    table.step(task_, reach=(1, 2, 3), answer=(1, 2, 3))
    assert task_.outcome is None, "the third may still say that it refuses"
    assert task_.phase is Phase.PREPARING
    reply = table.hand(sends[2])
    assert isinstance(reply, Conflict)
    task_.on_reply(sends[2], reply)
    assert not [each for each in task_.attempts if each.ballot == sends[2].request.ballot]  # type: ignore[union-attr]
    assert table.run(task_).value == b"mine"


def test_when_that_answer_is_lost_the_outcome_is_unknown_at_once() -> None:
    table = Table()
    task_ = table.proposer(1).change(KEY, changes.put(b"mine"))
    table.step(task_, reach=(1, 2, 3), answer=(1, 2, 3))
    sends = table.step(task_, reach=())
    for client in range(2, 30):
        table.run(table.proposer(client).change(KEY, changes.put(b"other")))
    for send in sends[:2]:
        task_.on_reply(send, table.hand(send))
    task_.resume()
    table.step(task_, reach=(1, 2, 3), answer=(1, 2, 3))
    assert task_.outcome is None
    task_.on_lost(sends[2])
    assert task_.outcome is not None
    assert isinstance(task_.outcome.error, OutcomeUnknown)


def test_a_task_that_is_over_is_not_taken_up_again() -> None:
    table = Table()
    task_ = table.proposer(1).change(KEY, changes.put(b"v"))
    outcome = table.run(task_)
    task_.resume()
    task_.give_up()
    assert task_.outcome is outcome
    assert not task_.has_sends


def test_who_overtakes_a_rival_in_the_middle_leaves_it_more_time_when_they_meet_next() -> None:
    """A proposer near the acceptors would come back before one that is far has finished, each time, for ever."""
    table = Table()
    near, far = table.proposer(1), table.proposer(2)
    table.run(near.change(KEY, changes.put(b"near")))

    def refused_by_the_far_one() -> Round:
        far.observe(table.acceptors[NodeId(1)].promised(KEY))
        rival = far.change(KEY, changes.put(b"far"))
        assert rival.phase is Phase.PREPARING
        table.step(rival, reach=(1, 2, 3))  # promised, and the far one has not heard of it yet
        task_ = near.change(KEY, changes.put(b"near"))
        table.step(task_, reach=(1, 2, 3), answer=(1, 2, 3))
        return task_

    for pause in (0, 2, 4):
        task_ = refused_by_the_far_one()
        assert task_.pause == pause
        if task_.pause:
            task_.resume()
        assert table.run(task_).changed  # the far one has got nothing
    assert near.courtesy(2) == 6

    task_ = refused_by_the_far_one()
    assert task_.pause == 6
    far.observe(table.acceptors[NodeId(1)].promised(KEY))
    assert table.run(far.change(KEY, changes.put(b"far"))).changed
    task_.resume()
    assert table.run(task_).changed
    assert near.courtesy(2) == 5  # it had been time enough


def test_courtesy_has_bounds() -> None:
    near = Table().proposer(1)
    for _ in range(20):
        near.met(2, served=False)
    assert near.courtesy(2) == COURTESY_MAX
    for rival in range(3, 3 + RIVALS_MAX):
        near.met(rival, served=False)
    assert near.courtesy(2) == 0
    near.met(3, served=True)
    near.met(3, served=True)
    near.met(3, served=True)
    assert near.courtesy(3) == 0
