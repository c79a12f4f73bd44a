"""Every state within small bounds keeps Raft's properties; with one rule broken, some state does not."""

import time
from collections.abc import Callable

import pytest

from troth.verify.specification import Bounds, Exploration, actions, explore, initial_state
from troth.verify.specification.explore import Names, successors
from troth.verify.specification.state import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    Ack,
    Committed,
    Config,
    Entry,
    Grant,
    Reign,
    Request,
    Server,
    Stable,
    State,
)

pytestmark = pytest.mark.slow


def assert_safe(result: Exploration) -> None:
    assert result.found is None, result.found.text()
    assert result.complete


@pytest.mark.parametrize(
    ("bounds", "states_min"),
    [
        pytest.param(Bounds(terms=2, entries=1, restarts=1), 5_000, id="with a restart"),
        pytest.param(Bounds(terms=2, entries=2), 10_000, id="two entries"),
    ],
)
def test_every_state_within_small_bounds_is_safe(bounds: Bounds, states_min: int) -> None:
    result = explore(initial_state(3), bounds)
    assert_safe(result)
    assert result.states >= states_min
    for name in (
        "Timeout",
        "HandleVoteRequest",
        "BecomeLeader",
        "Append",
        "Replicate",
        "AdvanceCommit",
        "LearnCommit",
    ):
        assert result.counts[name + ":"], f"{name} was never possible"


@pytest.mark.parametrize(
    ("bounds", "voters"),
    [
        (Bounds(terms=3, entries=1), (1, 2, 3)),
        (Bounds(terms=2, entries=2, restarts=1), (1, 2, 3)),
        (Bounds(terms=2, entries=3, changes=1), (1, 2)),
    ],
    ids=("three terms", "two entries and a restart", "a membership change"),
)
def test_every_state_within_larger_bounds_is_safe(bounds: Bounds, voters: tuple[int, ...]) -> None:
    assert_safe(explore(initial_state(3, voters), bounds))


def test_symmetry_loses_nothing() -> None:
    """With it the same is reachable as without, up to names."""
    bounds = Bounds(terms=1, entries=1, restarts=1)
    start = initial_state(3)
    seen, todo = {start}, [start]
    while todo:
        for _, after in successors(todo.pop(), bounds):
            if after not in seen:
                seen.add(after)
                todo.append(after)
    names = Names(start)
    explored = explore(start, bounds)
    assert explored.complete
    assert explored.states == len({names.canonical(state) for state in seen})
    assert explored.states * 3 < len(seen)


def test_an_expired_exploration_says_that_it_is_not_complete() -> None:
    result = explore(initial_state(3), Bounds(terms=3, entries=3), expired=lambda: True)
    assert not result.complete and result.states == 1000
    assert not explore(initial_state(3), Bounds(terms=3, entries=3, states_max=5)).complete


# ---- mutants --------------------------------------------------------------------------------------------------
# Each begins in a state that the true rules can reach, close to where the broken rule matters.

A, B = Entry(1, 1, "a"), Entry(2, 2, "b")


def server(
    term: int, log: tuple[Entry, ...] = (), *, voted_for: int = 0, role: str = FOLLOWER, commit: int = 0
) -> Server:
    return Server(
        term=term, voted_for=voted_for, role=role, log=log, commit=commit, stable=Stable(term, voted_for, len(log))
    )


def figure_8() -> State:
    """Server 1 led term 1 and wrote an entry that nobody else has, server 2 did the same in term 2; 1 stands again."""
    return State(
        servers=(server(2, (A,)), server(2, (B,), voted_for=2), server(2, voted_for=2)),
        initial=Config((1, 2, 3)),
        reigns=(Reign(1, 1, (A,), 0), Reign(2, 2, (B,), 0)),
    )


def committed_once() -> State:
    """Servers 1 and 2 hold a committed entry, server 3 holds nothing."""
    return State(
        servers=(server(1, (A,), voted_for=1, role=LEADER, commit=1), server(1, (A,), voted_for=1), server(1)),
        initial=Config((1, 2, 3)),
        sent=frozenset({Ack(1, 1, 1), Ack(1, 2, 1)}),
        reigns=(Reign(1, 1, (A,), 1),),
        committed=(Committed(A, 1),),
    )


def a_long_old_log() -> State:
    """Server 1 has two entries of term 1 that nobody else has; server 2 leads term 2, and servers 2 and 3 hold its
    entry, which is committed."""
    old = (A, Entry(1, 1, "a2"))
    return State(
        servers=(
            server(2, old),
            server(2, (B,), voted_for=2, role=LEADER, commit=1),
            server(2, (B,), voted_for=2),
        ),
        initial=Config((1, 2, 3)),
        sent=frozenset({Ack(2, 2, 1), Ack(2, 3, 1)}),
        reigns=(Reign(1, 1, old, 0), Reign(2, 2, (B,), 1)),
        committed=(Committed(B, 2),),
    )


def elected() -> State:
    """Server 1 leads term 1; all logs are empty."""
    return State(
        servers=(server(1, voted_for=1, role=LEADER), server(1, voted_for=1), server(1)),
        initial=Config((1, 2, 3)),
        reigns=(Reign(1, 1, (), 0),),
    )


def two_candidates() -> State:
    """Servers 1 and 2 stand in term 1; server 3 has voted for neither."""
    return State(
        servers=(server(1, voted_for=1, role=CANDIDATE), server(1, voted_for=2, role=CANDIDATE), server(1)),
        initial=Config((1, 2, 3)),
        sent=frozenset({Request(1, 1, 0, 0), Request(1, 2, 0, 0), Grant(1, 1, 1), Grant(1, 2, 2)}),
    )


def sloppy_append(state: State, node: int, term: int, upto: int) -> State | None:
    """Truncates to what the append covers although nothing conflicts, as a stale or empty one would."""
    known, reign = state.server(node), state.reign(term)
    if reign is None or known.term != term or known.role == LEADER:
        return None
    covered = min(upto, len(reign.log)) - 1
    return state.with_server(
        node, known._replace(role=FOLLOWER, log=reign.log[:covered], stable=known.stable._replace(length=covered))
    )


def change_at_once(state: State, leader: int, voters: tuple[int, ...]) -> State | None:
    """Puts the new configuration in force without a joint one."""
    led = state.server(leader)
    if led.role != LEADER:
        return None
    log = (*led.log, Entry(led.term, leader, Config(voters)))
    led = led._replace(log=log, owed=(*led.owed, Ack(led.term, leader, len(log))))
    reigns = tuple(
        reign._replace(log=log) if reign.term == led.term and reign.leader == leader else reign
        for reign in state.reigns
    )
    return state.with_server(leader, led)._replace(changes=state.changes + 1, reigns=reigns)


MUTANTS: dict[str, tuple[str, Callable[..., object], Callable[[], State], Bounds, set[str]]] = {
    "a second vote in the same term": (
        "may_vote",
        lambda voter, request: True,
        two_candidates,
        Bounds(terms=1, entries=0),
        {"ElectionSafety"},
    ),
    "a vote for a shorter log": (
        "is_up_to_date",
        lambda request, log: True,
        committed_once,
        Bounds(terms=2, entries=1),
        {"LeaderCompleteness"},
    ),
    "a vote by index alone": (
        "is_up_to_date",
        lambda request, log: request.last_index >= len(log),
        a_long_old_log,
        Bounds(terms=3, entries=2),
        {"LeaderCompleteness"},
    ),
    "the commit of an older term's entry": (
        "may_commit",
        actions.is_held,
        figure_8,
        Bounds(terms=4, entries=1),
        {"LeaderCompleteness", "CommittedStays", "StateMachineSafety"},
    ),
    "a commit without a quorum": (
        "may_commit",
        lambda state, leader, index: state.server(leader).log[index - 1].term == state.server(leader).term,
        two_candidates,
        Bounds(terms=2, entries=1),
        {"LeaderCompleteness"},
    ),
    "an election without a quorum": (
        "has_won",
        lambda state, node: True,
        two_candidates,
        Bounds(terms=1, entries=0),
        {"ElectionSafety"},
    ),
    "the truncation of what is committed": (
        "replicate",
        sloppy_append,
        committed_once,
        Bounds(terms=1, entries=1),
        {"CommittedStays"},
    ),
    "a leader that counts its own copy before it is durable": (
        "is_held",
        lambda state, leader, index: state.config_of(state.server(leader).log).is_quorum(
            actions.holders_of(state, leader, index) | {leader}
        ),
        elected,
        Bounds(terms=2, entries=1, restarts=1),
        {"LeaderCompleteness"},
    ),
    "a vote that a restart forgets": (
        "restart",
        lambda state, node, *, term, voted_for, log: state.with_server(
            node, Server(term=term, log=log, stable=Stable(term, 0, len(log)))
        )._replace(restarts=state.restarts + 1),
        two_candidates,
        Bounds(terms=1, entries=0, restarts=1),
        {"ElectionSafety"},
    ),
    "a membership change in one step": (
        "begin_change",
        change_at_once,
        committed_once,
        Bounds(terms=2, entries=2, changes=1),
        {"LeaderCompleteness"},
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, broken, start, bounds, properties = MUTANTS[name]
    assert explore(start(), bounds, expired=lambda: True).found is None
    monkeypatch.setattr(actions, rule, broken)
    deadline = time.monotonic() + 60
    found = explore(start(), bounds, expired=lambda: time.monotonic() > deadline).found
    assert found is not None
    assert found.name in properties, found.text()
    assert found.steps and found.sentence
