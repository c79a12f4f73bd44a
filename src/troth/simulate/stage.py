"""A cluster of cores moved by hand: every tick, message and sync happens when a script says so, and is told in a line.

For tests that show one rule at work, and for transcripts (tests/scenarios). There is no chance in it: the patience of
server *n* is the shortest possible plus three ticks for each server before it.

::

    n1 leader term=1                      told by the engine (`Effects.trace`)
    n1 > n2 AppendEntries 1 0/0 [1/1] c0  sent: term, previous entry, entries, commit index
    n1 writes term=1 vote=1 [1/1]         handed to the disk; durable after `sync`
    n1 commits 1/1                        given to the state machine
"""

from collections.abc import Callable, Iterable, Sequence

from troth.core.engines import EngineConfig, engine_kind
from troth.core.interface import (
    Ballot,
    Effects,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Membership,
    MembershipChange,
    Message,
    Persist,
    ProposeResult,
    Refused,
    Send,
    Slot,
    SnapshotMeta,
    Status,
)
from troth.core.membership import encode_membership
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.actor import NO_LUCK, Actor, FixedRng, InFlight, membership_of
from troth.simulate.journal import Journal
from troth.simulate.transcript import entry_ids, shown, spoken
from troth.simulate.view import view_of

ROUNDS_MAX = 10_000


class Stage:
    """Servers, the messages between them, and one clock for all."""

    def __init__(
        self,
        voters: Iterable[int] = (1, 2, 3),
        *,
        learners: Iterable[int] = (),
        others: Iterable[int] = (),
        config: EngineConfig | None = None,
        consensus: str = "raft",
    ) -> None:
        """*others* are servers that run and belong to no membership yet."""
        self._start = engine_kind(consensus).start
        self.config = config or EngineConfig(heartbeat_ticks=2, election_timeout_ticks=20)
        self.now = Tick(0)
        self.lines: list[str] = []
        self.in_flight: list[InFlight] = []
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.genesis = membership_of(voters, learners=learners)
        self.actors: dict[NodeId, Actor] = {}
        for place, node in enumerate(sorted((*self.genesis.everyone(), *map(NodeId, others)))):
            known = node in self.genesis.everyone()
            genesis = self.genesis if known else Membership(voters=())
            self.actors[node] = Actor(node, Journal(genesis), FixedRng(3 * place))
            self._boot(self.actors[node], may_vote=True)

    # ---- looking ----

    def __getitem__(self, node: int) -> Actor:
        return self.actors[NodeId(node)]

    def status(self, node: int) -> Status:
        return self[node].engine.status()

    def role(self, node: int) -> str:
        return self[node].view.role

    def terms(self, node: int) -> list[int]:
        """The terms of the entries in a server's log that are not compacted away."""
        view = self[node].view
        return [view.term_at(LogIndex(at)) or 0 for at in range(view.compacted_index + 1, view.last_index + 1)]

    def commit(self, node: int) -> int:
        return self[node].view.commit_index

    def leaders(self) -> list[int]:
        return [actor.node_id for actor in self.actors.values() if actor.up and actor.view.leads]

    def sent(self, kind: type[Message], sender: int | None = None, to: int | None = None) -> list[Message]:
        """Messages in flight of a kind."""
        return [
            flying.message
            for flying in self.in_flight
            if type(flying.message) is kind and sender in (None, flying.sender) and to in (None, flying.to)
        ]

    # ---- scripting ----

    def load(self, node: int, *, term: int, log: Sequence[int | Membership], voted_for: int = 0) -> None:
        """Restart a server with a log of entries of these terms on its disk; a `Membership` stands for an entry of
        that kind in the term before it."""
        actor = self[node]
        actor.journal = Journal(self.genesis)
        entries: list[Entry] = []
        last = 0
        for index, item in enumerate(log, start=1):
            if isinstance(item, Membership):
                kind, payload = EntryKind.MEMBERSHIP, encode_membership(item)
            else:
                last = item
                kind, payload = EntryKind.COMMANDS, b"%d.%d" % (item, index)
            entries.append(Entry(LogIndex(index), Term(last), kind, payload))
        actor.journal.durable.hard_state = HardState(Term(term), NodeId(voted_for))
        actor.journal.durable.write(tuple(entries))
        actor.journal.volatile.write(tuple(entries))
        self._boot(actor, may_vote=True)

    def load_slots(self, node: int, *slots: Slot, promised: Ballot, chosen: int = 0) -> None:
        """Restart a Paxos server with these slots on its disk."""
        actor = self[node]
        actor.journal = Journal(self.genesis)
        promise = HardState(promised.round, promised.node)
        actor.journal.append(Persist(hard_state=promise, slots=slots, chosen=LogIndex(chosen)), 0)
        actor.journal.sync_upto(actor.journal.written)
        self._boot(actor, may_vote=True)

    def tick(self, node: int, count: int = 1) -> None:
        """Let *count* ticks pass for one server only; the clock is that of all."""
        for _ in range(count):
            self.now = Tick(self.now + 1)
            self[node].engine.tick(self.now)
            self.pump(node)

    def tick_all(self, count: int = 1) -> None:
        """Let *count* ticks pass for everybody, in turn; nothing is delivered."""
        for _ in range(count):
            self.now = Tick(self.now + 1)
            for actor in self.actors.values():
                if actor.up:
                    actor.engine.tick(self.now)
                    self.pump(actor.node_id)

    def run(self, count: int) -> None:
        """Let *count* ticks pass for everybody, and deliver everything after each."""
        for _ in range(count):
            self.tick_all()
            self.settle()

    def deliver(self, wanted: Callable[[InFlight], bool] = lambda _: True) -> int:
        """Deliver what is in flight now and *wanted*, in order; answers are not. Returns how many."""
        chosen = [flying for flying in self.in_flight if wanted(flying)]
        self.in_flight = [flying for flying in self.in_flight if not wanted(flying)]
        for flying in chosen:
            self.hand(flying.sender, flying.to, flying.message)
        return len(chosen)

    def hand(self, sender: int, to: int, message: Message) -> None:
        """Give a message to a server as if it had arrived, whether or not anybody sent it."""
        actor = self[to]
        if actor.up and (NodeId(sender), NodeId(to)) not in self.cut:
            actor.engine.receive(NodeId(sender), message, self.now)
            self.pump(to)

    def drop(self, wanted: Callable[[InFlight], bool] = lambda _: True) -> list[InFlight]:
        """Lose what is in flight and *wanted*; returns it, so that it can be handed over late."""
        lost = [flying for flying in self.in_flight if wanted(flying)]
        self.in_flight = [flying for flying in self.in_flight if not wanted(flying)]
        return lost

    def settle(self) -> None:
        """Deliver until nothing is in flight."""
        rounds = 0
        while self.in_flight:
            self.deliver()
            rounds += 1
            if rounds > ROUNDS_MAX:
                raise RuntimeError(f"messages go round for ever: {self.in_flight[0]}")

    def isolate(self, *nodes: int) -> None:
        """Cut these servers off from all others, and not from each other."""
        inside = {NodeId(node) for node in nodes}
        for one in inside:
            for other in self.actors:
                if other not in inside:
                    self.cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        self.cut.clear()

    def elect(self, node: int) -> None:
        """Make one server the leader: the others' patience with the last one is at an end, and this one is first."""
        timeout = self.config.election_timeout_ticks
        self.now = Tick(self.now + timeout)
        for _ in range(timeout):
            self.tick(node)
            if self.role(node) != "Follower":
                break
        self.settle()

    def pump(self, node: int) -> None:
        """Carry out what a server wants done, and tell it."""
        actor = self[node]
        more = True
        while more:
            effects = actor.engine.take_effects()
            more = effects.more_committed
            if effects.trace or effects.send or effects.persist or effects.committed:
                actor.last = effects
            self._carry_out(actor, effects)

    def sync(self, node: int) -> None:
        """Make everything durable that a server has written, and release what waited for it."""
        actor = self[node]
        actor.journal.sync_upto(actor.journal.written)
        self._release(actor)

    def crash(self, node: int) -> None:
        """End a server; what it had not synced is lost."""
        actor = self[node]
        actor.up = False
        actor.journal.crash(NO_LUCK, 0)
        actor.outbox.clear()

    def restart(self, node: int, *, may_vote: bool = True) -> None:
        """Start a server from its disk."""
        self._boot(self[node], may_vote=may_vote)

    # ---- inputs ----

    def propose(self, node: int, payload: bytes = b"x") -> ProposeResult:
        result = self[node].engine.propose(payload)
        self.pump(node)
        return result

    def read(self, node: int, context: int) -> None:
        self[node].engine.read(context, self.now)
        self.pump(node)

    def change(self, node: int, change: MembershipChange) -> ProposeResult:
        result = self[node].engine.change_membership(change)
        self.pump(node)
        return result

    def transfer(self, node: int, target: int = 0) -> Refused | None:
        result = self[node].engine.transfer(NodeId(target))
        self.pump(node)
        return result

    def suspect(self, node: int, peer: int) -> None:
        self[node].engine.suspect(NodeId(peer), self.now)
        self.pump(node)

    def compact(self, node: int, keep_from: int = 1 << 40) -> SnapshotMeta:
        """Take a snapshot of all that a server has applied, and drop the log before it (and before *keep_from*)."""
        actor = self[node]
        index = actor.view.applied_index
        meta = actor.engine.snapshot_meta(index)
        digest = actor.journal.volatile.digest_at(index) or 0
        actor.journal.snapshot_saved(meta, digest)
        actor.engine.compact(meta, LogIndex(keep_from))
        actor.journal.trim(meta, digest)
        return meta

    def install(self, sender: int, to: int, *, report: bool = True) -> bool:
        """Carry the newest snapshot of one server to another, and *report* that to the sender."""
        source, target = self[sender], self[to]
        meta, digest = source.journal.file, source.journal.file_digest
        target.journal.snapshot_saved(meta, digest)
        term = source.view.term
        installed = target.engine.snapshot_received(NodeId(sender), term, meta, self.now)
        self.pump(to)
        if report:
            source.engine.snapshot_sent(NodeId(to), meta, True)
            self.pump(sender)
        return installed

    # ---- within ----

    def _boot(self, actor: Actor, *, may_vote: bool) -> None:
        stored = actor.journal.durable
        actor.engine = self._start(
            node_id=actor.node_id,
            config=self.config,
            rng=actor.rng,
            snapshot=stored.base,
            hard_state=stored.hard_state,
            entries=tuple(stored.entries),
            slots=tuple(stored.slots.values()),
            chosen=stored.chosen,
            now=self.now,
            may_vote=may_vote,
        )
        actor.view = view_of(actor.engine)
        actor.up = True
        actor.outbox, actor.applied, actor.reads, actor.reads_refused, actor.wanted = [], [], [], [], []

    def _carry_out(self, actor: Actor, effects: Effects) -> None:
        name = f"n{actor.node_id}"
        for trace in effects.trace:
            self._say(name, trace.name, *(f"{fact}={shown(value)}" for fact, value in trace.facts.items()))
        for send in effects.send:
            self._fly(actor, send)
        if effects.persist is not None:
            persist = effects.persist
            snapshot = persist.snapshot
            self._say(
                name,
                "writes",
                *(
                    [f"term={persist.hard_state.term}", f"vote={persist.hard_state.voted_for}"]
                    if persist.hard_state
                    else []
                ),
                *([f"snapshot={shown(snapshot.last)}"] if snapshot else []),
                *([entry_ids(persist.entries)] if persist.entries else []),
                *([entry_ids(slot.entry for slot in persist.slots)] if persist.slots else []),
            )
            actor.journal.append(persist, actor.journal.file_digest if snapshot else 0)
        actor.outbox += [(actor.journal.written, send) for send in effects.after_persist]
        if effects.install is not None:
            actor.applied.clear()
        if effects.committed:
            self._say(
                name, "commits", " ".join(shown(EntryId(each.term, each.index)) for each in effects.committed)
            )
            actor.applied += effects.committed
            actor.engine.applied(effects.committed[-1].index)
        for state in effects.reads:
            self._say(name, "read", str(state.context), f"at={state.index}", f"until={state.valid_until}")
        for context in effects.reads_refused:
            self._say(name, "read", str(context), "refused")
        actor.reads += effects.reads
        actor.reads_refused += effects.reads_refused
        actor.wanted += effects.snapshots_wanted
        if actor.syncs:
            actor.journal.sync_upto(actor.journal.written)
        self._release(actor)

    def _release(self, actor: Actor) -> None:
        while actor.outbox and actor.outbox[0][0] <= actor.journal.synced:
            send = actor.outbox.pop(0)[1]
            if send.to == actor.node_id:
                actor.engine.receive(actor.node_id, send.message, self.now)
                self.pump(actor.node_id)
            else:
                self._fly(actor, send)

    def _fly(self, actor: Actor, send: Send) -> None:
        self._say(f"n{actor.node_id} > n{send.to}", spoken(send.message))
        self.in_flight.append(InFlight(actor.node_id, send.to, send.message))

    def _say(self, *words: str) -> None:
        self.lines.append(" ".join(words))
