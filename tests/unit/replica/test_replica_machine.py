"""The state machine: what a snapshot of it must carry for a restored replica to answer as all others do."""

import random
from contextlib import nullcontext

import msgspec
import pytest

from troth.errors import Corrupt, DecodeError
from troth.kv.requests import (
    Failure,
    KeyValue,
    LeaseGrant,
    LeaseRevoke,
    Put,
    PutResult,
    Range,
    RangeResult,
    Result,
)
from troth.kv.store import Store
from troth.replica import sessions
from troth.replica.machine import STATE_VERSION, LoggedCommand, Outcome, StateHeader, StateMachine
from troth.replica.protocol import CloseSession, OpenSession, Writes
from troth.replica.sessions import ANSWERED, SESSION_GONE, SessionState, SessionTable


def applied(machine: StateMachine, index: int, *commands: LoggedCommand) -> list[Outcome]:
    return [outcome for _, _, outcome in machine.apply(index, enumerate(commands))]


def restored(machine: StateMachine, into: StateMachine | None = None) -> StateMachine:
    again = into or StateMachine(Store)
    again.load(list(machine.dump()))
    return again


def put(session: int, first_seq: int, value: bytes = b"v", acked_below: int = 0) -> Writes:
    return Writes(session, first_seq, acked_below, (Put(b"k", value),))


def test_a_restored_machine_answers_a_retry_and_does_not_apply_it() -> None:
    machine = StateMachine(Store)
    session, answer = applied(machine, 1, OpenSession(1, 7), put(1, 1))
    assert (session, answer) == (1, [PutResult(2)])
    again = restored(machine)
    assert applied(again, 2, put(1, 1)) == [[PutResult(2)]]
    assert again.store.revision == 2
    assert applied(again, 3, put(1, 2, acked_below=2), put(1, 1)) == [[PutResult(3)], ANSWERED]


def test_a_restored_machine_never_gives_a_session_the_number_of_another() -> None:
    """Neither of one that is open nor of one that was closed: its client may still be there, and retry."""
    machine = StateMachine(Store)
    assert applied(machine, 1, OpenSession(1, 7), OpenSession(2, 8), CloseSession(3, 2)) == [1, 2, 0]
    again = restored(machine)
    assert applied(again, 2, OpenSession(1, 7), OpenSession(4, 9)) == [1, 3]
    assert applied(again, 3, put(2, 1)) == [SESSION_GONE]


def test_a_restored_machine_knows_what_was_acknowledged() -> None:
    """A late copy of such a batch is answered as everywhere else, and not applied by this one alone."""
    machine = StateMachine(Store)
    applied(machine, 1, OpenSession(1, 7), put(1, 1), put(1, 2, acked_below=2))
    again = restored(machine)
    for each in (machine, again):
        assert applied(each, 2, put(1, 1)) == [ANSWERED]
    assert again.store.hash() == machine.store.hash()


def test_a_batch_of_which_a_command_failed_is_applied_once() -> None:
    machine = StateMachine(Store)
    batch = Writes(1, 1, 0, (Put(b"k", b"v"), Put(b"k", b"v", lease=99)))
    (_, first) = applied(machine, 1, OpenSession(1, 7), batch)
    assert isinstance(first, list)
    assert [type(result) for result in first] == [PutResult, Failure]
    assert applied(machine, 2, batch) == [first]
    assert machine.store.revision == 2


@pytest.mark.parametrize("intact", [True, False])
def test_store_and_sessions_are_replaced_together(intact: bool) -> None:
    """Nothing is applied in between, but retries are: to a store that has what the new sessions know nothing of."""
    machine, other = StateMachine(Store), StateMachine(Store)
    applied(machine, 1, OpenSession(1, 7), put(1, 1))
    whole = b"".join(other.dump())
    store, sessions_before = machine.store, machine.sessions
    steps = machine.load_steps([whole if intact else whole[:-1]])
    with nullcontext() if intact else pytest.raises(DecodeError):
        for _ in steps:
            assert (machine.store, machine.sessions) == (store, sessions_before)
    assert ((machine.store is store), (machine.sessions is sessions_before)) == (not intact, not intact)


def test_loading_a_state_forgets_the_sessions_that_were_there() -> None:
    machine, other = StateMachine(Store), StateMachine(Store)
    applied(other, 1, OpenSession(1, 7), put(1, 1, b"other"))
    again = restored(machine, into=other)
    assert applied(again, 2, put(1, 1)) == [SESSION_GONE]
    assert again.store.range(Range(b"k")) == RangeResult(1, [], 0)


@pytest.mark.parametrize("session", [0, 1])
def test_a_lease_knows_where_in_the_log_it_was_granted(session: int) -> None:
    machine = StateMachine(Store)
    applied(machine, 1, OpenSession(1, 7))
    applied(machine, 5, Writes(session, 1, 0, (LeaseGrant(77, 9),)))
    assert restored(machine).store.lease_table.grants == {77: 5}


def test_a_restored_machine_has_the_same_leases_and_chooses_the_same_ids() -> None:
    machine = StateMachine(Store)
    applied(machine, 1, Writes(0, 1, 0, (LeaseGrant(0, 5), LeaseGrant(77, 9), Put(b"k", b"v", lease=77))))
    again = restored(machine)
    for each in (machine, again):
        applied(each, 2, Writes(0, 2, 0, (LeaseRevoke(77), LeaseGrant(0, 5))))
    assert again.store.leases() == machine.store.leases()
    assert again.store.range(Range(b"k")) == machine.store.range(Range(b"k")) == RangeResult(3, [], 0)


def test_a_snapshot_is_of_the_moment_at_which_it_was_taken() -> None:
    machine = StateMachine(Store)
    applied(machine, 1, OpenSession(1, 7), put(1, 1, b"before"))
    chunks = machine.dump()
    applied(machine, 2, put(1, 2, b"after"), OpenSession(2, 8))
    again = StateMachine(Store)
    again.load(chunks)
    assert again.store.range(Range(b"k")) == RangeResult(2, [KeyValue(b"k", 2, 2, 1, b"before")], 1)
    assert applied(again, 2, put(1, 2, b"after"), OpenSession(2, 8)) == [[PutResult(3)], 2]


def answer(size_bytes: int) -> list[Result]:
    return [RangeResult(2, [KeyValue(b"k", 2, 2, 1, b"v" * size_bytes)], 1)]


def test_what_is_given_up_first_is_of_the_session_that_is_idle_longest_whatever_its_number() -> None:
    table = SessionTable(kept_bytes_max=10_000)
    older, newer = table.open(nonce=1, index=1), table.open(nonce=2, index=1)
    for session, index in ((newer, 2), (older, 3), (older, 4)):
        table.recall(session, index, acked_below=0, index=index)
        table.remember(session, index, answer(3_500))
    left = {state.id: state.results for state in table.dump()[0]}
    assert left[newer] == {2: []}
    assert left[older] == {3: [], 4: answer(3_500)}


def test_of_one_session_the_lowest_batch_is_given_up_first_whatever_came_first() -> None:
    """Batches of one session arrive in any order; a snapshot need not tell in which."""
    table = SessionTable(kept_bytes_max=10_000)
    session = table.open(nonce=1, index=1)
    for index, first_seq in enumerate((9, 5, 7), 2):
        table.recall(session, first_seq, acked_below=0, index=index)
        table.remember(session, first_seq, answer(3_500))
    (state,) = table.dump()[0]
    assert state.results == {5: [], 7: [], 9: answer(3_500)}


def test_a_state_may_be_cut_anywhere() -> None:
    machine = StateMachine(Store)
    applied(machine, 1, OpenSession(1, 7), put(1, 1))
    whole = b"".join(machine.dump())
    header_bytes = 4 + int.from_bytes(whole[:4], "little")
    for cut in (1, 4, 5, header_bytes - 1, header_bytes, header_bytes + 1, len(whole) - 1):
        again = StateMachine(Store)
        again.load([whole[:cut], whole[cut:]])
        assert again.store.hash() == machine.store.hash()
        assert applied(again, 2, put(1, 1)) == [[PutResult(2)]]
    again = StateMachine(Store)
    again.load([whole[place : place + 1] for place in range(len(whole))])
    assert again.store.hash() == machine.store.hash()


def test_a_state_of_a_newer_version_is_refused_and_the_old_one_stays() -> None:
    machine = StateMachine(Store)
    applied(machine, 1, put(0, 1))
    newer = msgspec.msgpack.encode(StateHeader(STATE_VERSION + 1, [], 1))
    with pytest.raises(Corrupt, match="newer"):
        machine.load([len(newer).to_bytes(4, "little") + newer + b"".join(machine.dump())])
    assert machine.store.revision == 2


def test_a_state_of_the_first_version_is_read() -> None:
    machine = StateMachine(Store)
    applied(machine, 1, OpenSession(1, 7), put(1, 1))
    first = msgspec.msgpack.encode(StateHeader(1, *machine.sessions.dump()))
    again = StateMachine(Store)
    again.load([len(first).to_bytes(4, "little") + first + b"".join(machine.store.snapshot().chunks())])
    assert applied(again, 2, put(1, 1), OpenSession(2, 8)) == [[PutResult(2)], 2]
    assert again.store.hash() == machine.store.hash()


@pytest.mark.parametrize("page_bytes", [1, 100, 500, 1 << 20])
def test_sessions_are_saved_and_loaded_a_page_at_a_time(page_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PAGE_BYTES", page_bytes)
    machine = StateMachine(Store)
    for nonce in range(5):
        (session,) = applied(machine, nonce + 1, OpenSession(1, nonce))
        assert isinstance(session, int)
        for first_seq in range(1, 1 + nonce):
            applied(machine, 9, put(session, first_seq, b"v" * 1000))
    before, kept_bytes = machine.sessions.dump(), machine.sessions._kept_bytes
    parts = list(sessions.pages(before[0]))
    assert max(sum(len(state.results) for state in page) for page in parts) <= 1 + page_bytes // 64
    again = StateMachine(Store)
    steps = sum(1 for _ in again.load_steps(list(machine.dump())))
    assert again.sessions.dump() == before
    assert again.sessions._kept_bytes == kept_bytes
    assert steps > len(parts) >= {1: 15, 100: 8, 500: 2}.get(page_bytes, 1)


def test_what_is_answered_while_a_state_is_dumped_is_not_in_it() -> None:
    machine = StateMachine(Store)
    applied(machine, 1, OpenSession(1, 7), put(1, 1))
    chunks = machine.dump()
    applied(machine, 2, put(1, 2), put(1, 3, acked_below=2), OpenSession(1, 8))
    again = StateMachine(Store)
    again.load(chunks)
    assert again.sessions.dump() == ([SessionState(1, 7, 0, {1: [PutResult(2)]}, 1)], 2)


def test_the_session_that_is_forgotten_is_the_one_that_was_idle_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 20)
    chance = random.Random(1)
    table = SessionTable()
    for index in range(2_000):
        states = {state.id: state for state in table.dump()[0]}
        action = chance.random()
        if action < 0.5 and states:
            table.recall(chance.choice(list(states)), index, acked_below=0, index=index)
        elif action < 0.6 and states:
            table.close(chance.choice(list(states)))
        elif action < 0.65:
            table = SessionTable(*table.dump())
        else:
            table.open(nonce=index, index=index - index % 3)
            gone = set(states) - {state.id for state in table.dump()[0]}
            longest = min(states.values(), key=lambda state: (state.last_used, state.id), default=None)
            assert gone == ({longest.id} if longest is not None and len(states) == 20 else set())
    assert len(table._idle) <= 2 * 20 + 65


def test_a_state_that_ends_behind_its_header_is_corrupt() -> None:
    """It is no state without sessions: where the list of them ends is written."""
    machine = StateMachine(Store)
    applied(machine, 1, OpenSession(1, 7))
    header, *_ = [chunk for chunk in machine.dump() if chunk]
    with pytest.raises(Corrupt, match="within its header"):
        StateMachine(Store).load([header])


def test_how_large_the_state_was_is_known_when_it_was_saved_and_when_it_was_loaded() -> None:
    machine, again = StateMachine(Store), StateMachine(Store)
    applied(machine, 1, OpenSession(1, 7), put(1, 1))
    chunks = list(machine.dump())
    again.load(chunks)
    assert machine.saved_bytes == again.saved_bytes == sum(map(len, chunks)) > 0
