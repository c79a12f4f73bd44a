"""What the paper tests of Paxos share: a stage of Paxos servers, and short makers."""

from collections.abc import Iterable

from troth.core.engines import EngineConfig
from troth.core.interface import Ballot, Entry, EntryKind, Member, Slot
from troth.core.paxos.messages import Accept, Prepare, Promise
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.actor import InFlight
from troth.simulate.stage import Stage

TIMEOUT = 20


def paxos(
    voters: Iterable[int] = (1, 2, 3), *, learners: Iterable[int] = (), others: Iterable[int] = (), **settings: int
) -> Stage:
    config = EngineConfig(**{"heartbeat_ticks": 2, "election_timeout_ticks": TIMEOUT, **settings})  # type: ignore[arg-type]
    return Stage(voters, learners=learners, others=others, config=config, consensus="paxos")


def ballot(round_: int, node: int) -> Ballot:
    return Ballot(Term(round_), NodeId(node))


def entry(index: int, term: int, payload: bytes = b"v", kind: EntryKind = EntryKind.COMMANDS) -> Entry:
    return Entry(LogIndex(index), Term(term), kind, payload)


def slot(index: int, round_: int, node: int, payload: bytes = b"v") -> Slot:
    return Slot(ballot(round_, node), entry(index, round_, payload))


def accept(at: Ballot, *entries: Entry, chosen: int = 0) -> Accept:
    return Accept(at, entries, LogIndex(chosen))


def prepare(at: Ballot, start: int = 1, *, transfer: int = 0) -> Prepare:
    return Prepare(at, LogIndex(start), NodeId(transfer))


def promise_of(stage: Stage, acceptor: int, at: Ballot, start: int = 1) -> Promise | None:
    """Let the ballot's owner prepare it at one acceptor, whose patience with any leader is over; what it answers."""
    stage.drop()
    stage.now = Tick(stage.now + TIMEOUT)
    stage.hand(at.node, acceptor, prepare(at, start))
    found = stage.sent(Promise, acceptor, at.node)
    assert len(found) < 2
    return found[0] if found else None  # type: ignore[return-value]


def payloads(stage: Stage, node: int) -> list[bytes]:
    """What a server has delivered, no-ops as empty."""
    return [each.payload for each in stage[node].applied]


def held(stage: Stage, node: int) -> dict[int, tuple[int, int, bytes]]:
    """Slot -> (round, node) of the ballot it is accepted at, and the value, on the disk."""
    return {
        int(index): (each.ballot.round, each.ballot.node, each.entry.payload)
        for index, each in stage[node].journal.durable.slots.items()
    }


def to(*nodes: int) -> object:
    """For `Stage.deliver` and `drop`: what is on its way to these servers."""

    def wanted(flying: InFlight) -> bool:
        return flying.to in nodes

    return wanted


def accepts(*, to: int, index: int) -> object:
    """For `Stage.drop`: the phase-2a messages to one server that carry a slot."""

    def wanted(flying: InFlight) -> bool:
        message = flying.message
        return flying.to == to and isinstance(message, Accept) and any(e.index == index for e in message.entries)

    return wanted


def led(*voters: int, others: tuple[int, ...] = (), **settings: int) -> Stage:
    stage = paxos(voters or (1, 2, 3), others=others, **settings)
    stage.elect(1)
    stage.run(4)
    return stage


def joining(*nodes: int) -> dict[NodeId, Member]:
    return {NodeId(node): Member(f"n{node}") for node in nodes}


def chosen(stage: Stage, count: int) -> None:
    for _ in range(count):
        stage.propose(1)
        stage.settle()
