"""The state of the specification: everything that Raft is about, and nothing else, as one immutable tuple.

There is no network in it, only `State.sent`: what has been said once may be heard at any later time, any number of
times, or never, which covers loss, delay, reordering and repetition. Since a leader's log only grows within its
term, no append need be kept as a message: any piece of `Reign.log` may arrive.

Durability is the only thing finer than in the paper. What a server owes the others (a vote, an acknowledgement)
waits in `Server.owed` until `persist`; a restart keeps at least what was persisted.

Source: Ongaro & Ousterhout 2014, figure 2 and §6; the style of the message set is that of Ongaro's TLA+ specification.
"""

from collections.abc import Collection, Hashable
from typing import Final, NamedTuple, TypeAlias

FOLLOWER: Final = "follower"
CANDIDATE: Final = "candidate"
LEADER: Final = "leader"

NOBODY: Final = 0


class Config(NamedTuple):
    """Who decides; both sets while `outgoing` is not empty (§6). Sorted."""

    voters: tuple[int, ...]
    outgoing: tuple[int, ...] = ()

    def has_voter(self, node: int) -> bool:
        return node in self.voters or node in self.outgoing

    def is_quorum(self, nodes: Collection[int]) -> bool:
        """Whether *nodes* hold a majority of the voters, and of the outgoing ones if there are any."""
        return _is_majority(nodes, self.voters) and (not self.outgoing or _is_majority(nodes, self.outgoing))


def _is_majority(nodes: Collection[int], voters: tuple[int, ...]) -> bool:
    return 2 * sum(voter in nodes for voter in voters) > len(voters)


class Entry(NamedTuple):
    """One position of a log. `leader` and `value` tell entries apart that a broken leader gave the same name.

    A `Config` as value changes who decides, from the moment it is in a log.
    """

    term: int
    leader: int
    value: Hashable = None


Log: TypeAlias = tuple[Entry, ...]
"""Index *i* of the paper is ``log[i - 1]``."""


class Request(NamedTuple):
    """RequestVote: *candidate* stands in *term*, and its log ends with (last_term, last_index)."""

    term: int
    candidate: int
    last_term: int
    last_index: int


class Grant(NamedTuple):
    """*voter* has voted for *candidate* in *term*."""

    term: int
    voter: int
    candidate: int
    kind: str = "grant"
    """Tuples are equal by content alone: without it a vote could be taken for an acknowledgement."""


class Ack(NamedTuple):
    """*follower* durably holds the log of *term*'s leader up to index *match*."""

    term: int
    follower: int
    match: int
    kind: str = "ack"


Said: TypeAlias = Request | Grant | Ack


class Stable(NamedTuple):
    """What a crash leaves at least: term, vote, and the first *length* entries of the log in memory."""

    term: int = 0
    voted_for: int = NOBODY
    length: int = 0


class Server(NamedTuple):
    """One server. `owed` are messages that leave when what they promise is durable."""

    term: int = 0
    voted_for: int = NOBODY
    role: str = FOLLOWER
    log: Log = ()
    commit: int = 0
    stable: Stable = Stable()
    owed: tuple[Said, ...] = ()


class Reign(NamedTuple):
    """What the leader of *term* has in its log and knows to be committed: what its messages can be made of."""

    term: int
    leader: int
    log: Log
    commit: int


class Committed(NamedTuple):
    """An entry that a leader of *term* has called committed."""

    entry: Entry
    term: int


class State(NamedTuple):
    """All servers (``servers[node - 1]``, nodes are numbered from 1), all that was said, all that is committed."""

    servers: tuple[Server, ...]
    initial: Config
    sent: frozenset[Said] = frozenset()
    reigns: tuple[Reign, ...] = ()
    committed: tuple[Committed, ...] = ()
    restarts: int = 0
    changes: int = 0

    def server(self, node: int) -> Server:
        return self.servers[node - 1]

    def with_server(self, node: int, server: Server) -> "State":
        return self._replace(servers=(*self.servers[: node - 1], server, *self.servers[node:]))

    def reign(self, term: int) -> Reign | None:
        """The leadership of *term* (the first, should a broken system have two)."""
        return next((reign for reign in self.reigns if reign.term == term), None)

    def config_of(self, log: Log) -> Config:
        """The newest configuration in *log*, committed or not (§6)."""
        for entry in reversed(log):
            if isinstance(entry.value, Config):
                return entry.value
        return self.initial


def initial_state(nodes: int, voters: Collection[int] | None = None) -> State:
    """A cluster of *nodes* empty servers, of which *voters* (all, if not given) decide at first."""
    config = Config(tuple(sorted(voters)) if voters is not None else tuple(range(1, nodes + 1)))
    return State(servers=(Server(),) * nodes, initial=config)


def last_of(log: Log) -> tuple[int, int]:
    """(term, index) of the last entry, (0, 0) when there is none. Ordered as "more up to date" (§5.4.1)."""
    return (log[-1].term, len(log)) if log else (0, 0)


def agreeing(one: Log, other: Log) -> int:
    """How many entries from the beginning two logs have in common."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
