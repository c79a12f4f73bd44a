"""Visits every state that the specification of Multi-Paxos can reach within bounds, breadth first, and checks each.

Acceptors are interchangeable as long as no configuration names them, so states that differ only in their order are
visited once. A commands's value is the ballot that proposed it first, so that any two that could be mixed up differ.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

from troth.verify.specification import multipaxos
from troth.verify.specification.multipaxos import NOOP, Disagreement, Proposal, State
from troth.verify.specification.sequence import appended
from troth.verify.specification.state import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class PaxosBounds:
    """How far to go. Within them everything is visited; outside of them nothing is known."""

    ballots: int = 2
    voters_after: tuple[tuple[int, ...], ...] = ()
    """The sets of voters to which the first may be changed."""
    stale: bool = False
    """Whether a ballot may be prepared by somebody who knows less than all that is chosen (else by nobody else)."""
    states_max: int = 2_000_000


@dataclass(slots=True, kw_only=True)
class PaxosExploration:
    """What was seen. `complete`: all of it within the bounds. `broken`: what did not hold, and the way there."""

    states: int = 0
    steps: int = 0
    complete: bool = False
    broken: str = ""
    way: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """The counter-example for people."""
        return "\n".join([*self.way, self.broken])


def explore_multipaxos(
    start: State, bounds: PaxosBounds, *, expired: Callable[[], bool] = lambda: False
) -> PaxosExploration:
    """Visit everything that can be reached from *start*, until something is broken, all is seen, or time is up."""
    result = PaxosExploration()
    first = _canonical(start, bounds)
    came: dict[State, tuple[State | None, str]] = {first: (None, "")}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        result.states += 1
        if result.states > bounds.states_max or (result.states % 200 == 0 and expired()):
            return result
        before = multipaxos.chosen(state)
        for words, found in _steps(state, bounds):
            if found is None:
                continue
            result.steps += 1
            name = words.partition(" ")[0]
            result.counts[name] = result.counts.get(name, 0) + 1
            after = _canonical(found, bounds)
            if after in came:
                continue
            came[after] = (state, words)
            result.broken = _broken(before, found)
            if result.broken:
                result.way = _way(came, after)
                return result
            queue.append(after)
    result.complete = True
    return result


def _broken(before: tuple[Hashable, ...], after: State) -> str:
    """Agreement and the refinement of one sequence, one value for each ballot and slot, and ballots that never fall."""
    try:
        sentence = appended(before, multipaxos.chosen(after))
    except Disagreement as error:
        return f"Agreement: {error}"
    if sentence:
        return f"AppendOnly: {sentence}"
    named = [(each.ballot, each.slot) for each in after.proposed]
    if len(set(named)) != len(named):
        return "OneValuePerBallot: a ballot has two values for a slot"
    for node, acceptor in enumerate(after.acceptors):
        if any(vote is not None and vote.ballot > acceptor.promised for vote in acceptor.votes):
            return f"PromisedIsHighest: a{node} has accepted above its promise"
    return ""


def _steps(state: State, bounds: PaxosBounds) -> Iterator[tuple[str, State | None]]:
    nodes = range(len(state.acceptors))
    used = {ballot for ballot, _ in state.prepared}
    reached = len(multipaxos.chosen(state))
    for ballot in range(1, bounds.ballots + 1):
        if ballot not in used:
            for known in range(reached + 1) if bounds.stale else {0, reached}:
                yield f"Prepare: ballot {ballot}, {known} known", multipaxos.prepare(state, ballot, known)
            continue
        for node in nodes:
            yield f"Promise: a{node} to ballot {ballot}", multipaxos.promise(state, node, ballot)
        for proposal in _proposals(state, ballot, bounds):
            yield (
                f"Propose: {proposal.value} in slot {proposal.slot}, ballot {ballot}",
                multipaxos.propose(state, proposal),
            )
    for proposal in state.proposed:
        for node in nodes:
            yield (
                f"Accept: a{node} takes {proposal.value} in slot {proposal.slot}, ballot {proposal.ballot}",
                multipaxos.accept(state, node, proposal),
            )


def _proposals(state: State, ballot: int, bounds: PaxosBounds) -> Iterator[Proposal]:
    """Every value that anybody could think of for every slot; the guard decides."""
    heard = {each.value for each in state.proposed}
    for slot in range(1, len(state.acceptors[0].votes) + 1):
        values: set[Hashable] = {f"c{ballot}", NOOP} | heard
        for voters in bounds.voters_after:
            values |= {Config(voters), Config(voters, state.initial.voters)}
        for value in sorted(values, key=repr):
            yield Proposal(ballot, slot, value)


def _canonical(state: State, bounds: PaxosBounds) -> State:
    """The same state for all that differ in the order of their acceptors, where no configuration tells them apart."""
    if bounds.voters_after or len(state.initial.voters) < len(state.acceptors):
        return state
    return state._replace(
        acceptors=tuple(
            sorted(state.acceptors, key=lambda each: (each.promised, repr(each), sorted(each.accepted)))
        )
    )


def _way(came: dict[State, tuple[State | None, str]], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    at: State | None = state
    while at is not None:
        at, words = came[at]
        if words:
            steps.append(words)
    return tuple(reversed(steps))
