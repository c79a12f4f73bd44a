"""One acceptor dies in the middle of an exchange: no request waits for it, and none takes a round trip more.

Every way is tried: which acceptor, at which fan-out, before it got the request or before its answer left, whether the
client is told of the death (a connection that breaks) or hears nothing at all, and before or after the others answer.
"""

from collections.abc import Callable, Iterator
from itertools import product

import pytest
from caspaxos import Table

from troth.core.register import changes
from troth.core.register.proposer import Proposer
from troth.core.register.task import Task
from troth.ids import NodeId

KEY = b"k"
Make = Callable[[Proposer], Task]
REQUESTS: dict[str, Make] = {
    "get": lambda proposer: proposer.read(KEY),
    "put": lambda proposer: proposer.change(KEY, changes.put(b"new")),
    "cas": lambda proposer: proposer.change(KEY, changes.cas(b"old", b"new")),
    "cas that fails": lambda proposer: proposer.change(KEY, changes.cas(b"other", b"new")),
    "delete": lambda proposer: proposer.change(KEY, changes.delete()),
    "propose": lambda proposer: proposer.change(KEY, changes.propose(b"new")),
}
CHANGES = [name for name in REQUESTS if name != "get"]
ALIVE = 99
"""A fan-out that none of these requests reaches."""


def deaths() -> Iterator[tuple[int, int, bool, bool, bool]]:
    """(acceptor, fan-out at which it dies, whether it got that request, whether we are told, whether at once)."""
    return product((1, 2, 3), (1, 2, 3, ALIVE), (False, True), (False, True), (False, True))


def round_trips(table: Table, task: Task, *, victim: int, dies: int, got: bool, told: bool, at_once: bool) -> int:
    """How many fan-outs *task* needs. It may not make a pause: nobody competes."""
    trips = 0
    while task.outcome is None:
        sends = task.take()
        assert sends and not task.pause, "it waits for an acceptor that is dead"
        trips += 1
        dead = [send for send in sends if send.to == victim and trips >= dies]
        for send in dead:
            if got and trips == dies:
                table.hand(send)
            if told and at_once:
                task.on_lost(send)
        for send in sends:
            if send not in dead:
                task.on_reply(send, table.hand(send))
        for send in dead:
            if told and not at_once:
                task.on_lost(send)
    assert task.outcome.error is None
    return trips


def longest(make: Make, *, keeps: bool, missed: int = 0) -> tuple[int, int]:
    """The most fan-outs, when all live and when one dies, of a client that has changed the key before (*keeps*) or has
    not; the acceptor *missed* has not got the last change."""
    most = {True: 0, False: 0}
    for victim, dies, got, told, at_once in deaths():
        if missed == victim:
            continue  # the two that are left hold the same
        table = Table()
        writer = table.proposer(1)
        table.run(writer.change(KEY, changes.put(b"older")))
        up = [number for number in (1, 2, 3) if number != missed]
        table.run(writer.change(KEY, changes.put(b"old")), up=up)
        newcomer = table.proposer(2)
        for acceptor in table.acceptors.values():
            newcomer.observe(acceptor.promised(KEY))  # or its first ballot would be refused, whoever lives
        task = make(writer if keeps else newcomer)
        trips = round_trips(table, task, victim=victim, dies=dies, got=got, told=told, at_once=at_once)
        most[dies == ALIVE] = max(most[dies == ALIVE], trips)
    return most[True], most[False]


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("missed", [0, 1, 2, 3])
def test_a_change_at_a_kept_ballot_takes_one_round_trip_whoever_dies(name: str, missed: int) -> None:
    assert longest(REQUESTS[name], keeps=True, missed=missed) == (1, 1)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("missed", [0, 1, 2, 3])
def test_a_change_of_a_new_client_takes_two_round_trips_whoever_dies(name: str, missed: int) -> None:
    assert longest(REQUESTS[name], keeps=False, missed=missed) == (2, 2)


def test_a_read_takes_one_round_trip_whoever_dies() -> None:
    assert longest(REQUESTS["get"], keeps=False) == (1, 1)


@pytest.mark.parametrize("missed", [1, 2, 3])
def test_the_longest_way_is_a_read_of_what_only_one_of_the_two_left_has(missed: int) -> None:
    """It can not be known whether that was chosen, so it is settled first: read, prepare, accept."""
    assert longest(REQUESTS["get"], keeps=False, missed=missed)[1] == 3


def test_the_next_change_after_a_death_takes_one_round_trip_again() -> None:
    """The kept ballot is not given up because one acceptor is gone, whichever it is."""
    for victim in (1, 2, 3):
        table = Table()
        proposer = table.proposer(1)
        table.run(proposer.change(KEY, changes.put(b"0")))
        for number in range(1, 6):
            task = proposer.change(KEY, changes.put(b"%d" % number))
            assert round_trips(table, task, victim=victim, dies=1, got=False, told=True, at_once=True) == 1
        assert table.acceptors[NodeId(victim)].slots[KEY].accepted < max(
            acceptor.slots[KEY].accepted for acceptor in table.acceptors.values()
        )
