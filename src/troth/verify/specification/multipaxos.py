"""The specification of Multi-Paxos: slots, ballots, promises, acceptances, and memberships behind a stop sign.

The style is that of Lamport's TLA+ Paxos: nothing is sent or lost, a message is a fact that somebody may act upon at
any later time, any number of times, or never. Each fact is kept with the acceptor that it is about, so that acceptors
which differ in names only are one and the same. What is here has been made durable: what a crash takes away has not
happened.

Actions are guarded, pure functions; the predicates (`may_promise`, `may_accept`, `may_propose`, `is_quorum`) are the
rules that make Paxos safe, and a test may replace one by a wrong one and see which property breaks.

Sources: Lamport 2001, "Paxos Made Simple" §2.2 and §3; Lamport, Malkhi, Zhou 2010, "Reconfiguring a State Machine"
§3.4. It knows nothing of troth's own Multi-Paxos, so that the two can be compared."""

from collections.abc import Callable, Hashable, Iterable
from itertools import combinations
from typing import Final, NamedTuple, TypeAlias

from troth.verify.specification.state import Config

NOOP: Final = "no-op"
"""The value of a slot about which a leader heard nothing, though it heard of a later one."""

Ballot: TypeAlias = int
"""Ballots are totally ordered and each is used by one server once; who it is does not matter."""


class Vote(NamedTuple):
    """A value accepted in a slot, and the ballot at which it was."""

    ballot: Ballot
    value: Hashable


Votes: TypeAlias = tuple[Vote | None, ...]
"""Per slot, the first slot first."""


class Promise(NamedTuple):
    """What an acceptor had accepted when it promised `ballot`."""

    ballot: Ballot
    votes: Votes


class Acceptor(NamedTuple):
    """`promises` and `accepted` are all that it has ever said."""

    promised: Ballot
    votes: Votes
    promises: tuple[Promise, ...] = ()
    accepted: frozenset[tuple[Ballot, int]] = frozenset()


class Proposal(NamedTuple):
    """Phase 2a: the one value that `ballot` has for `slot`."""

    ballot: Ballot
    slot: int
    value: Hashable


class State(NamedTuple):
    """`prepared`: (ballot, how many slots its owner knew to be chosen). Acceptors are numbered from 0."""

    acceptors: tuple[Acceptor, ...]
    initial: Config
    prepared: frozenset[tuple[Ballot, int]] = frozenset()
    proposed: frozenset[Proposal] = frozenset()

    def with_acceptor(self, node: int, acceptor: Acceptor) -> "State":
        return self._replace(acceptors=(*self.acceptors[:node], acceptor, *self.acceptors[node + 1 :]))

    def value(self, ballot: Ballot, slot: int) -> Proposal | None:
        """What *ballot* has proposed for *slot*."""
        return next((each for each in self.proposed if each.ballot == ballot and each.slot == slot), None)


def initial_state(acceptors: int, slots: int, voters: Iterable[int] | None = None) -> State:
    """Acceptors that have heard nothing, of which *voters* (all, if not given) decide at first."""
    config = Config(tuple(sorted(voters)) if voters is not None else tuple(range(acceptors)))
    return State(acceptors=(Acceptor(0, (None,) * slots),) * acceptors, initial=config)


# ---- the rules -------------------------------------------------------------------------------------------------


def is_quorum(config: Config, nodes: Iterable[int], phase: int) -> bool:
    """Whether *nodes* may decide in *phase* (1 or 2) under *config*: a majority of each of its sets."""
    del phase
    return config.is_quorum(set(nodes))


def may_promise(acceptor: Acceptor, ballot: Ballot) -> bool:
    """P1a: an acceptor promises only what is above all that it promised."""
    return ballot > acceptor.promised


def may_accept(acceptor: Acceptor, ballot: Ballot) -> bool:
    """An acceptor accepts at a ballot unless it has promised a higher one."""
    return ballot >= acceptor.promised


def safe_values(reports: Iterable[Vote | None]) -> frozenset[Hashable] | None:
    """P2c: which values may be proposed in a slot about which a quorum has *reports*; None: any.

    The value with the highest ballot among them, and nothing else.
    """
    votes = [report for report in reports if report is not None]
    return frozenset({max(votes, key=lambda vote: vote.ballot).value}) if votes else None


def config_at(state: State, slot: int, known: Callable[[int], Hashable]) -> Config:
    """Who decides on *slot*: the newest configuration in the slots before it, whose values *known* tells."""
    for earlier in range(slot - 1, 0, -1):
        value = known(earlier)
        if isinstance(value, Config):
            return value
    return state.initial


def chosen(state: State) -> tuple[Hashable, ...]:
    """The values of the slots from the first on that are chosen, up to the first that is not.

    Raises:
        Disagreement: a slot has two of them.
    """
    values: list[Hashable] = []
    for slot in range(1, len(state.acceptors[0].votes) + 1):
        config = config_at(state, slot, lambda earlier: values[earlier - 1])
        found = {
            proposal.value
            for proposal in state.proposed
            if proposal.slot == slot
            and is_quorum(
                config,
                [node for node, each in enumerate(state.acceptors) if (proposal.ballot, slot) in each.accepted],
                2,
            )
        }
        if len(found) > 1:
            raise Disagreement(f"slot {slot} has two chosen values: {sorted(map(str, found))}")
        if not found:
            break
        values.append(found.pop())
    return tuple(values)


class Disagreement(Exception):
    """Two values are chosen in one slot."""


# ---- actions ---------------------------------------------------------------------------------------------------


def prepare(state: State, ballot: Ballot, known: int) -> State | None:
    """Phase 1a: somebody who knows the first *known* slots to be chosen uses a new ballot."""
    if known > len(chosen(state)) or any(ballot == used for used, _ in state.prepared):
        return None
    return state._replace(prepared=state.prepared | {(ballot, known)})


def promise(state: State, node: int, ballot: Ballot) -> State | None:
    """Phase 1b: promise *ballot*, and say what is accepted."""
    acceptor = state.acceptors[node]
    if not any(ballot == used for used, _ in state.prepared) or not may_promise(acceptor, ballot):
        return None
    said = Promise(ballot, acceptor.votes)
    return state.with_acceptor(node, acceptor._replace(promised=ballot, promises=(*acceptor.promises, said)))


def promisers(state: State, ballot: Ballot) -> dict[int, Votes]:
    """Who has promised *ballot*, with what it had accepted then."""
    return {
        node: said.votes
        for node, acceptor in enumerate(state.acceptors)
        for said in acceptor.promises
        if said.ballot == ballot
    }


def leads_with(state: State, ballot: Ballot, known: int, quorum: dict[int, Votes]) -> bool:
    """Whether the promises of *quorum* make the owner of *ballot* a leader: those of the configuration behind the
    slots it knows, and of every configuration that is reported to it from above."""
    values = chosen(state)[:known]
    configs = [config_at(state, known + 1, lambda slot: values[slot - 1])]
    for votes in quorum.values():
        configs += [vote.value for vote in votes[known:] if vote is not None and isinstance(vote.value, Config)]
    return all(is_quorum(config, quorum, 1) for config in configs)


def may_propose(state: State, ballot: Ballot, known: int, quorum: dict[int, Votes], proposal: Proposal) -> bool:
    """Whether a leader with the promises of *quorum* may propose this, the window before anything new."""
    slot = proposal.slot
    window = max((at for votes in quorum.values() for at, vote in enumerate(votes, 1) if vote), default=known)
    allowed = safe_values(votes[slot - 1] for votes in quorum.values())
    if allowed is not None:
        return proposal.value in allowed
    if slot <= window:
        return proposal.value == NOOP
    return all(state.value(ballot, earlier) is not None for earlier in range(known + 1, slot))


def may_change(current: Config, new: Config) -> bool:
    """A new configuration comes through a joint one of it and the old.

    Without that a leader could go on under voters who never promised its ballot, while somebody with a lower one, who
    has learned of the change, gets their promises and proposes something else in the same slot.
    """
    return new == Config(current.voters) if current.outgoing else new.outgoing == current.voters


def is_stopped(state: State, ballot: Ballot, known: int, slot: int) -> bool:
    """The stop sign: whether a configuration that *ballot* has proposed in front of *slot* is not chosen yet."""
    reached = max(known, len(chosen(state)))
    return any(
        isinstance(each.value, Config) and reached < each.slot < slot
        for each in state.proposed
        if each.ballot == ballot
    )


def propose(state: State, proposal: Proposal) -> State | None:
    """Phase 2a: the owner of a ballot gives a slot its value, once."""
    ballot, slot, value = proposal
    known = next((known for used, known in state.prepared if used == ballot), None)
    if known is None or slot <= known or state.value(ballot, slot) is not None:
        return None
    if is_stopped(state, ballot, known, slot):
        return None
    if isinstance(value, Config) and not _is_change(state, proposal):
        return None
    said = promisers(state, ballot)
    for size in range(1, len(said) + 1):
        for nodes in combinations(said, size):
            quorum = {node: said[node] for node in nodes}
            if leads_with(state, ballot, known, quorum) and may_propose(state, ballot, known, quorum, proposal):
                return state._replace(proposed=state.proposed | {proposal})
    return None


def _is_change(state: State, proposal: Proposal) -> bool:
    """Whether the configuration proposed follows the one in force at its slot, or was proposed there before."""
    values = chosen(state)

    def known(slot: int) -> Hashable:
        if slot <= len(values):
            return values[slot - 1]
        own = state.value(proposal.ballot, slot)
        return own.value if own is not None else None

    if any(each.slot == proposal.slot and each.value == proposal.value for each in state.proposed):
        return True
    return isinstance(proposal.value, Config) and may_change(
        config_at(state, proposal.slot, known), proposal.value
    )


def accept(state: State, node: int, proposal: Proposal) -> State | None:
    """Phase 2b: accept what was proposed, whatever is in the slots before it."""
    acceptor = state.acceptors[node]
    ballot, slot, value = proposal
    if proposal not in state.proposed or not may_accept(acceptor, ballot) or (ballot, slot) in acceptor.accepted:
        return None
    votes = (*acceptor.votes[: slot - 1], Vote(ballot, value), *acceptor.votes[slot:])
    return state.with_acceptor(
        node,
        acceptor._replace(promised=ballot, votes=votes, accepted=acceptor.accepted | {(ballot, slot)}),
    )
