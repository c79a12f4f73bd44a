"""Visits every state that the specification can reach within bounds, breadth first, and checks each.

Steps are the actions, put together where nobody could see what is between them: a server that hears a newer term
takes it and then acts; a follower syncs before it answers. A crash between the two is the same as the message never
having come. What a *leader* appends is sent before it is durable, so there the sync is a step of its own.

Servers are interchangeable as long as no configuration names them differently, so states that only differ in names
are visited once. A permutation is used for that only if it leaves the initial configuration as it is; the rules
treat all servers alike, so the orbit of a reachable state is reachable and breaks the same properties (Ip & Dill 1996).

What no server can hear any more is dropped from a state: messages of terms that all have left behind.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, permutations, product

from troth.verify.specification import actions
from troth.verify.specification.properties import PROPERTIES, committed_stays
from troth.verify.specification.state import (
    CANDIDATE,
    LEADER,
    NOBODY,
    Config,
    Entry,
    Grant,
    Log,
    Reign,
    Request,
    Said,
    Server,
    State,
    agreeing,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far to go. Within them everything is visited; outside of them nothing is known."""

    terms: int = 2
    entries: int = 1
    restarts: int = 0
    changes: int = 0
    states_max: int = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A state that breaks a property, and the shortest way to it in words."""

    name: str
    sentence: str
    steps: tuple[str, ...]
    state: State

    def text(self) -> str:
        """The counter-example for people."""
        return "\n".join([*self.steps, f"{self.name}: {self.sentence}"])


@dataclass(slots=True, kw_only=True)
class Exploration:
    """What was seen. `complete`: all of it within the bounds."""

    states: int = 0
    steps: int = 0
    depth: int = 0
    complete: bool = False
    found: Found | None = None
    counts: dict[str, int] = field(default_factory=dict)
    """How often each action was possible."""


def explore(start: State, bounds: Bounds, *, expired: Callable[[], bool] = lambda: False) -> Exploration:
    """Visit everything that can be reached from *start*, until something is broken, all is seen, or time is up."""
    names = Names(start)
    result = Exploration()
    came: dict[State, tuple[State | None, str]] = {start: (None, "")}
    # Fingerprints, as TLC keeps: of a million states, some two are taken for one with a chance of 3 in 10^8.
    known = {hash(names.canonical(start))}
    queue = deque([(start, 0)])
    while queue:
        state, result.depth = queue.popleft()
        result.states += 1
        if result.states > bounds.states_max or (result.states % 1000 == 0 and expired()):
            return result
        for words, after in successors(state, bounds):
            result.steps += 1
            name = words.partition(" ")[0]
            result.counts[name] = result.counts.get(name, 0) + 1
            if after in came:
                continue
            fingerprint = hash(names.canonical(after))
            broken = _broken(state, after, is_new=fingerprint not in known)
            if broken is not None:
                came[after] = (state, words)
                result.found = Found(name=broken[0], sentence=broken[1], steps=_way(came, after), state=after)
                return result
            if fingerprint not in known:
                known.add(fingerprint)
                came[after] = (state, words)
                queue.append((after, result.depth + 1))
    result.complete = True
    return result


def _broken(before: State, after: State, *, is_new: bool) -> tuple[str, str] | None:
    """A state that was seen before needs no second look, the step to it does."""
    sentence = committed_stays(before, after)
    if sentence:
        return "CommittedStays", sentence
    if not is_new:
        return None
    for name, holds in PROPERTIES.items():
        if sentence := holds(after):
            return name, sentence
    return None


def _way(came: dict[State, tuple[State | None, str]], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    at: State | None = state
    while at is not None:
        at, words = came[at]
        if words:
            steps.append(words)
    return tuple(reversed(steps))


# ---- steps ----------------------------------------------------------------------------------------------------


def successors(state: State, bounds: Bounds) -> Iterator[tuple[str, State]]:
    """Every step that is possible: what it is, in words that begin with the action, and where it leads."""
    for words, after in _steps(state, bounds):
        if after is not None:
            yield words, forgotten(after)


def _steps(state: State, bounds: Bounds) -> Iterator[tuple[str, State | None]]:
    nodes = range(1, len(state.servers) + 1)
    for node in nodes:
        server = state.server(node)
        if server.term < bounds.terms:
            yield f"Timeout: n{node} stands in term {server.term + 1}", _synced(actions.timeout(state, node), node)
        if server.role == CANDIDATE:
            # Its log was durable before it asked for votes, so what it has counts at once.
            yield f"BecomeLeader: n{node} in term {server.term}", _synced(actions.become_leader(state, node), node)
        if server.role == LEADER:
            yield from _leader_steps(state, node, bounds)
        if server.stable.length < len(server.log):
            yield f"Persist: n{node} syncs {len(server.log)} entries", actions.persist(state, node)
        if state.restarts < bounds.restarts:
            for count in range(server.stable.length, len(server.log) + 1):
                after = actions.restart(
                    state, node, term=server.term, voted_for=server.voted_for, log=server.log[:count]
                )
                yield f"Restart: n{node} with {count} entries", after
        yield from _heard_steps(state, node)


def _leader_steps(state: State, node: int, bounds: Bounds) -> Iterator[tuple[str, State | None]]:
    server = state.server(node)
    for index in range(server.commit + 1, len(server.log) + 1):
        yield f"AdvanceCommit: n{node} to {index}", actions.advance_commit(state, node, index)
    if len(server.log) < bounds.entries:
        yield f"Append: n{node} takes entry {len(server.log) + 1}", actions.append(state, node, None)
        yield f"LeaveJoint: n{node}", actions.leave_joint(state, node)
        if state.changes < bounds.changes:
            nodes = range(1, len(state.servers) + 1)
            for size in nodes:
                for voters in combinations(nodes, size):
                    yield f"BeginChange: n{node} to {voters}", actions.begin_change(state, node, voters)
    known = state.config_of(server.log[: server.commit])
    if not known.has_voter(node):
        yield f"StepDown: n{node} is removed", actions.step_down(state, node)


def _heard_steps(state: State, node: int) -> Iterator[tuple[str, State | None]]:
    server = state.server(node)
    for said in state.sent:
        if isinstance(said, Request) and said.term >= server.term and said.candidate != node:
            heard = _in_term(state, node, said.term)
            if heard is not None:
                after = _synced(actions.handle_vote_request(heard, node, said), node)
                yield f"HandleVoteRequest: n{node} votes for n{said.candidate} in term {said.term}", after
                if said.term > server.term:
                    yield f"LearnTerm: n{node} hears of term {said.term}", _synced(heard, node)
    for reign in state.reigns:
        if reign.term < server.term or reign.leader == node:
            continue
        heard = _in_term(state, node, reign.term)
        if heard is None:
            continue
        upto = min(agreeing(server.log, reign.log) + 1, len(reign.log))
        after = _synced(actions.replicate(heard, node, reign.term, upto), node)
        yield f"Replicate: n{node} up to {upto} from n{reign.leader}, term {reign.term}", after
        for index in range(server.commit + 1, reign.commit + 1):
            after = _synced(actions.learn_commit(heard, node, reign.term, index), node)
            yield f"LearnCommit: n{node} to {index} from n{reign.leader}", after


def _in_term(state: State, node: int, term: int) -> State | None:
    return state if state.server(node).term == term else actions.learn_term(state, node, term)


def _synced(state: State | None, node: int) -> State | None:
    return None if state is None else actions.persist(state, node)


def forgotten(state: State) -> State:
    """*state* without what can have no effect any more."""
    servers = state.servers
    oldest = min(server.term for server in servers)

    def matters(said: Said) -> bool:
        if isinstance(said, Request):
            return said.term >= oldest
        if isinstance(said, Grant):
            candidate = servers[said.candidate - 1]
            return candidate.term == said.term and candidate.role == CANDIDATE
        return any(server.term == said.term and server.role == LEADER for server in servers)

    sent = frozenset(said for said in state.sent if matters(said))
    reigns = tuple(reign for reign in state.reigns if reign.term >= oldest)
    if len(sent) == len(state.sent) and len(reigns) == len(state.reigns):
        return state
    return state._replace(sent=sent, reigns=reigns)


# ---- symmetry -------------------------------------------------------------------------------------------------


class Names:
    """Renames servers so that states which only differ in names become one."""

    def __init__(self, start: State) -> None:
        nodes = tuple(range(1, len(start.servers) + 1))
        voters = set(start.initial.voters)
        self._groups = [
            tuple(node for node in nodes if node in voters),
            tuple(node for node in nodes if node not in voters),
        ]
        """Within each of them servers may change places."""

    def canonical(self, state: State) -> State:
        """The same state for all that differ in names only."""
        marks = [_mark(node, server) for node, server in enumerate(state.servers, start=1)]
        choices: list[list[tuple[tuple[int, int], ...]]] = []
        for group in self._groups:
            choices.append(list(_orders(group, marks)))
        best: State | None = None
        for choice in product(*choices):
            renamed = _renamed(state, dict(pair for part in choice for pair in part))
            if best is None or _key(renamed) < _key(best):
                best = renamed
        return state if best is None else best


def _mark(node: int, server: Server) -> tuple[object, ...]:
    """What can be said of a server without a name: servers with different marks need not be tried in both orders."""
    vote = 0 if server.voted_for == NOBODY else 1 if server.voted_for == node else 2
    terms = tuple(entry.term for entry in server.log)
    return (server.term, server.role, vote, terms, server.commit, server.stable.length)


def _orders(group: tuple[int, ...], marks: list[tuple[object, ...]]) -> Iterator[tuple[tuple[int, int], ...]]:
    """The renamings of *group* that sort it by marks; several where marks are equal."""
    ranked = sorted(group, key=lambda node: marks[node - 1])
    tied: list[list[int]] = []
    for node in ranked:
        if tied and marks[tied[-1][0] - 1] == marks[node - 1]:
            tied[-1].append(node)
        else:
            tied.append([node])
    for orders in product(*(permutations(tie) for tie in tied)):
        chosen = [node for order in orders for node in order]
        yield tuple(zip(chosen, group, strict=True))


def _renamed(state: State, to: dict[int, int]) -> State:
    if all(old == new for old, new in to.items()):
        return state
    to = {NOBODY: NOBODY, **to}
    logs: dict[Log, Log] = {}

    def config(value: Config) -> Config:
        return Config(tuple(sorted(to[n] for n in value.voters)), tuple(sorted(to[n] for n in value.outgoing)))

    def log(old: Log) -> Log:
        new = logs.get(old)
        if new is None:
            new = logs[old] = tuple(
                Entry(e.term, to[e.leader], config(e.value) if isinstance(e.value, Config) else e.value)
                for e in old
            )
        return new

    def said(old: Said) -> Said:
        if isinstance(old, Request):
            return old._replace(candidate=to[old.candidate])
        if isinstance(old, Grant):
            return old._replace(voter=to[old.voter], candidate=to[old.candidate])
        return old._replace(follower=to[old.follower])

    servers: list[Server] = list(state.servers)
    for node, server in enumerate(state.servers, start=1):
        servers[to[node] - 1] = server._replace(
            voted_for=to[server.voted_for],
            log=log(server.log),
            stable=server.stable._replace(voted_for=to[server.stable.voted_for]),
            owed=tuple(said(each) for each in server.owed),
        )
    return state._replace(
        servers=tuple(servers),
        sent=frozenset(said(each) for each in state.sent),
        reigns=tuple(Reign(r.term, to[r.leader], log(r.log), r.commit) for r in state.reigns),
        committed=tuple(c._replace(entry=log((c.entry,))[0]) for c in state.committed),
    )


def _key(state: State) -> tuple[object, ...]:
    """An order among states (any will do, as long as it is the same everywhere)."""
    return (
        repr(state.servers),
        sorted(map(repr, state.sent)),
        repr(state.reigns),
        repr(state.committed),
    )
