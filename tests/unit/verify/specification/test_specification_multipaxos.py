"""Multi-Paxos's specification: small bounds are safe, a broken rule is found, traces are held to it."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace

import pytest

from troth.simulate.invariants import RULES
from troth.simulate.paxos_trace import paxos_checked_by, quorums_of
from troth.simulate.plan import draw
from troth.simulate.run import Simulation
from troth.verify.specification import multipaxos
from troth.verify.specification.multipaxos import Acceptor, Promise, State, Vote, initial_state
from troth.verify.specification.multipaxos_explore import PaxosBounds, PaxosExploration, explore_multipaxos
from troth.verify.specification.multipaxos_trace import PaxosStep, PaxosTraceChecker, check_paxos_trace
from troth.verify.specification.sequence import appended
from troth.verify.specification.state import Config

CHANGE = PaxosBounds(ballots=2, voters_after=((1,),), stale=True)


def assert_safe(result: PaxosExploration) -> None:
    assert not result.broken, result.text()
    assert result.complete
    for name in ("Prepare:", "Promise:", "Propose:", "Accept:"):
        assert result.counts[name]


def test_every_state_of_one_slot_and_two_ballots_is_safe() -> None:
    result = explore_multipaxos(initial_state(3, 1), PaxosBounds(ballots=2, stale=True))
    assert_safe(result)
    assert result.states > 1000


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "ballots"), [(1, 3), (2, 2)])
def test_every_state_within_larger_bounds_is_safe(slots: int, ballots: int) -> None:
    assert_safe(explore_multipaxos(initial_state(3, slots), PaxosBounds(ballots=ballots)))


@pytest.mark.slow
def test_every_state_of_two_slots_with_a_change_of_voters_is_safe() -> None:
    """From one acceptor to another, with a ballot of somebody who may know nothing of it."""
    assert_safe(explore_multipaxos(initial_state(2, 2, voters=(0,)), CHANGE))


@pytest.mark.campaign
def test_no_state_near_the_beginning_of_a_whole_change_is_unsafe() -> None:
    """Joint membership, new membership, a command behind it: too many states to visit all."""
    bounds = replace(CHANGE, states_max=300_000)
    assert explore_multipaxos(initial_state(2, 3, voters=(0,)), bounds).broken == ""


# ---- with one rule broken, some state is not safe ----


def _accept_anything(acceptor: Acceptor, ballot: int) -> bool:
    return True


def _no_reports(reports: Iterable[Vote | None]) -> frozenset[Hashable] | None:
    return None


def _small_phase_1(config: Config, nodes: Iterable[int], phase: int) -> bool:
    return len(set(nodes)) >= (1 if phase == 1 else 2)


def _small_phase_2(config: Config, nodes: Iterable[int], phase: int) -> bool:
    return len(set(nodes)) >= (2 if phase == 1 else 1)


def _promise_without_what_is_chosen(state: State, node: int, ballot: int) -> State | None:
    acceptor = state.acceptors[node]
    if not any(ballot == used for used, _ in state.prepared) or ballot <= acceptor.promised:
        return None
    done = len(multipaxos.chosen(state))
    said = Promise(ballot, (None,) * done + acceptor.votes[done:])
    return state.with_acceptor(node, acceptor._replace(promised=ballot, promises=(*acceptor.promises, said)))


BROKEN: list[tuple[str, str, Callable[..., object], int]] = [
    ("an acceptor accepts below its promise", "may_accept", _accept_anything, 2),
    ("promises need not be asked what was accepted", "safe_values", _no_reports, 2),
    ("phase 1 asks one acceptor", "is_quorum", _small_phase_1, 2),
    ("phase 2 asks one acceptor", "is_quorum", _small_phase_2, 2),
    ("a promise leaves out what is chosen", "promise", _promise_without_what_is_chosen, 2),
]


@pytest.mark.parametrize(("words", "rule", "wrong", "ballots"), BROKEN, ids=[broken[0] for broken in BROKEN])
def test_a_broken_rule_is_found(
    words: str, rule: str, wrong: Callable[..., object], ballots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipaxos, rule, wrong)
    result = explore_multipaxos(initial_state(3, 1), PaxosBounds(ballots=ballots, stale=True))
    assert result.broken.startswith(("Agreement", "AppendOnly", "PromisedIsHighest")), words
    assert result.way, "the way there is told"


@pytest.mark.slow
def test_a_change_without_a_joint_configuration_is_found_unsafe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader goes on under voters who never promised its ballot, while a lower one has their promises."""
    monkeypatch.setattr(multipaxos, "may_change", lambda current, new: True)
    result = explore_multipaxos(initial_state(2, 2, voters=(0,)), CHANGE)
    assert result.broken.startswith("Agreement: slot 2"), result.text()


# ---- one sequence ----


def test_a_sequence_only_grows_at_its_end() -> None:
    assert appended("ab", "abc") == ""
    assert appended("ab", "ab") == ""
    assert "chosen no longer" in appended("ab", "a")
    assert "another value" in appended("ab", "ax")


# ---- traces ----


@pytest.mark.parametrize("thrifty", [False, True])
@pytest.mark.parametrize("seed", [0, 4, 8, 9])
def test_simulated_servers_keep_to_the_specification(seed: int, thrifty: bool) -> None:
    """Whom a leader asks first, and whom later, is no matter of safety."""
    plan = draw(seed, chaos_seconds=6, consensus="paxos")
    plan = replace(plan, config=replace(plan.config, thrifty=thrifty))
    checker = PaxosTraceChecker(voters=range(1, plan.voters + 1), quorums=quorums_of(plan.config))
    outcome = Simulation(plan, rules=[*RULES["paxos"], paxos_checked_by(checker)]).run()
    assert not outcome.violation, outcome.violation
    assert len(checker.agreed) == outcome.committed
    assert {"boot", "promise", "accept", "durable", "lead", "chosen"} <= checker.counts.keys()


def boots(*nodes: int) -> list[PaxosStep]:
    return [PaxosStep(node=node, event="boot") for node in nodes]


def promises(ballot: tuple[int, int], *nodes: int) -> list[PaxosStep]:
    return [PaxosStep(node=node, event="promise", ballot=ballot) for node in nodes]


def accepts(
    node: int, ballot: tuple[int, int], slot: int, value: Hashable, *, durable: bool = True
) -> list[PaxosStep]:
    votes = ((slot, ballot, value),)
    accepted = PaxosStep(node=node, event="accept", ballot=ballot, votes=votes)
    return [accepted, PaxosStep(node=node, event="durable", ballot=ballot, votes=votes)][: 1 + durable]


def lead(ballot: tuple[int, int], known: int = 0) -> PaxosStep:
    return PaxosStep(node=ballot[1], event="lead", ballot=ballot, known=known)


def learned(node: int, slot: int, value: Hashable) -> PaxosStep:
    return PaxosStep(node=node, event="chosen", slot=slot, known=slot, values=(value,))


GOOD = [
    *boots(1, 2, 3),
    *promises((1, 1), 1, 2),
    lead((1, 1)),
    *accepts(1, (1, 1), 1, "a"),
    *accepts(2, (1, 1), 1, "a"),
    learned(1, 1, "a"),
]


def test_an_ordinary_trace_is_allowed() -> None:
    reason, checker = check_paxos_trace(GOOD, voters=(1, 2, 3))
    assert reason == ""
    assert checker.agreed == ["a"]


@pytest.mark.parametrize(
    ("reason", "steps"),
    [
        ("only", [*boots(1, 2, 3), *promises((1, 1), 1), lead((1, 1))]),
        (
            "somebody else's",
            [*boots(1, 2, 3), *promises((1, 1), 1, 2), PaxosStep(node=2, event="lead", ballot=(1, 1))],
        ),
        ("promised already", [*boots(1), *promises((2, 1), 1), *promises((1, 1), 1)]),
        ("below its promise", [*GOOD, *promises((2, 3), 2, 3), lead((2, 3)), *accepts(2, (1, 1), 2, "b")]),
        ("nobody who leads", [*boots(1, 2, 3), *promises((1, 1), 1, 2), *accepts(2, (1, 1), 1, "a")]),
        ("another value for slot", [*GOOD, *promises((1, 1), 3), *accepts(3, (1, 1), 1, "z")]),
        ("durably holds", [*GOOD[:-2], learned(1, 1, "a")]),
        ("another value was chosen", [*GOOD, learned(2, 1, "z")]),
        ("comes before", [*GOOD, learned(1, 3, "c")]),
        ("lets 'b' into slot 1", [*GOOD[:-1], *promises((2, 3), 2, 3), lead((2, 3)), *accepts(3, (2, 3), 1, "b")]),
        ("nobody has chosen that", [*GOOD, PaxosStep(node=3, event="learn", votes=((1, (1, 1), "z"),))]),
        ("forgets a promise", [*GOOD, PaxosStep(node=2, event="boot", ballot=(0, 1))]),
        ("forgets what it had durably accepted", [*GOOD, PaxosStep(node=2, event="boot", ballot=(1, 1))]),
        ("not chosen", [*GOOD, PaxosStep(node=3, event="install", known=5)]),
        (
            "is behind a configuration",
            [*GOOD, *accepts(1, (1, 1), 2, Config((1, 2))), *accepts(1, (1, 1), 3, "c")],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_a_rule_is_refused_with_the_reason(reason: str, steps: list[PaxosStep]) -> None:
    refused, _ = check_paxos_trace(steps, voters=(1, 2, 3))
    assert reason in refused
