"""Whether the specification of Multi-Paxos allows what a cluster was seen to do.

A `PaxosStep` is one thing that one server was seen to do. Each is held against the rule of multipaxos.py that it falls
under: a promise rises, an acceptance is of what the ballot's owner proposed, a proposal is one that some quorum of
promises allows, what is chosen has a quorum of durable acceptances under the configuration in force. What all servers
take for chosen must be one append-only sequence (sequence.py). The first step that is not allowed is refused, with
the reason.

Real servers write JSON lines::

    {"node":1,"event":"promise","ballot":[3,1]}
    {"node":1,"event":"accept","ballot":[3,1],"votes":[[7,[3,1],"3:5f0c"]]}
    {"node":1,"event":"durable","ballot":[3,1],"votes":[[7,[3,1],"3:5f0c"]]}

They stand in one order in which no effect comes before its cause (see trace.py).
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from troth.verify.specification.multipaxos import Vote, safe_values
from troth.verify.specification.state import Config
from troth.verify.specification.trace import decode_steps

TraceBallot: TypeAlias = tuple[int, int]
"""(round, node), ordered as such."""

PaxosEvent: TypeAlias = Literal["boot", "promise", "accept", "learn", "durable", "lead", "chosen", "install"]

Value: TypeAlias = str | Config
"""What a slot holds: a configuration, or something that tells commands apart."""

Quorums: TypeAlias = Callable[[Config, Collection[int], int], bool]
"""Whether these nodes may decide in phase 1 or 2 under this configuration."""


class PaxosStep(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that `node` did.

    =========  =======================================================================================
    event
    boot       the process has started: `ballot` is promised, `votes` are accepted, `known` slots chosen
    promise    `ballot` is promised from now on
    accept     `votes` (slot, ballot, value) are accepted
    learn      `votes` (the ballot does not count) were reported as chosen
    durable    `ballot` is promised on the disk, and `votes` accepted
    lead       the owner of `ballot`, who knows `known` slots to be chosen, begins to propose
    chosen     slots up to `known` are taken for chosen; `values` are those from `slot` on
    install    a snapshot of the first `known` slots has taken their place
    =========  =======================================================================================
    """

    node: int
    event: PaxosEvent
    ballot: TraceBallot = (0, 0)
    votes: tuple[tuple[int, TraceBallot, Value], ...] = ()
    known: int = 0
    slot: int = 0
    values: tuple[Value, ...] = ()


def decode_paxos_trace(lines: Iterable[bytes]) -> Iterator[PaxosStep]:
    """Read a trace of Multi-Paxos; see `decode_steps`."""
    return decode_steps(lines, PaxosStep)


def majorities(config: Config, nodes: Collection[int], phase: int) -> bool:
    """Quorums of both phases are majorities."""
    del phase
    return config.is_quorum(nodes)


class _NotAllowed(Exception):
    """The rule that a step breaks."""


class PaxosTraceChecker:
    """Follows a cluster step by step; `counts` says how often each event was taken."""

    def __init__(self, *, voters: Collection[int], quorums: Quorums = majorities) -> None:
        self.agreed: list[Value] = []
        """The sequence: slot 1 first."""
        self.counts: dict[str, int] = {}
        self._configs = [(0, Config(tuple(sorted(voters))))]
        """(slot, who decides behind it), ascending."""
        self._quorums = quorums
        self._promised: dict[int, TraceBallot] = {}
        self._votes: dict[int, dict[int, tuple[TraceBallot, Value]]] = {}
        self._known: dict[int, int] = {}
        self._durable: dict[int, TraceBallot] = {}
        self._durable_votes: dict[int, dict[int, TraceBallot]] = {}
        self._holders: dict[tuple[int, TraceBallot], set[int]] = {}
        """Who durably accepted at (slot, ballot)."""
        self._reports: dict[TraceBallot, dict[int, tuple[int, dict[int, tuple[TraceBallot, Value]]]]] = {}
        """Per ballot: who has promised it, how far it knew slots to be chosen, and what it had accepted."""
        self._proposed: dict[tuple[int, TraceBallot], Value] = {}
        self._leads: dict[TraceBallot, int] = {}
        """Ballots whose owner leads -> how many slots it knew to be chosen."""

    def take(self, step: PaxosStep) -> str:
        """Why *step* is not allowed; empty when it is."""
        self.counts[step.event] = self.counts.get(step.event, 0) + 1
        try:
            getattr(self, f"_on_{step.event}")(step)
        except _NotAllowed as error:
            return f"n{step.node} {step.event} {step.ballot}: {error}"
        return ""

    # ---- acceptors ----

    def _on_boot(self, step: PaxosStep) -> None:
        node = step.node
        if step.ballot < self._durable.get(node, (0, 0)):
            raise _NotAllowed("it forgets a promise that was durable")
        votes = {slot: (ballot, value) for slot, ballot, value in step.votes}
        for slot, ballot in self._durable_votes.get(node, {}).items():
            if slot > step.known and (slot not in votes or votes[slot][0] < ballot):
                raise _NotAllowed(f"it forgets what it had durably accepted in slot {slot}")
        self._promised[node], self._votes[node], self._known[node] = step.ballot, votes, step.known
        self._durable[node] = step.ballot

    def _on_promise(self, step: PaxosStep) -> None:
        if step.ballot <= self._promised[step.node]:
            raise _NotAllowed(f"{self._promised[step.node]} is promised already")
        self._promised[step.node] = step.ballot
        report = self._known[step.node], dict(self._votes[step.node])
        self._reports.setdefault(step.ballot, {})[step.node] = report

    def _on_accept(self, step: PaxosStep) -> None:
        for slot, ballot, value in step.votes:
            if ballot < self._promised[step.node]:
                raise _NotAllowed(f"it accepts below its promise in slot {slot}")
            proposed = self._proposed.get((slot, ballot), self)
            if proposed is self:
                self._check_proposal(step.node, slot, ballot, value)
                self._proposed[slot, ballot] = value
            elif proposed != value:
                raise _NotAllowed(f"ballot {ballot} has another value for slot {slot}")
            self._votes[step.node][slot] = ballot, value

    def _on_learn(self, step: PaxosStep) -> None:
        for slot, _, value in step.votes:
            if slot > len(self.agreed) or self.agreed[slot - 1] != value:
                raise _NotAllowed(f"nobody has chosen that in slot {slot}")
            self._votes[step.node][slot] = (1 << 63, 0), value

    def _on_durable(self, step: PaxosStep) -> None:
        self._durable[step.node] = max(self._durable.get(step.node, (0, 0)), step.ballot)
        kept = self._durable_votes.setdefault(step.node, {})
        for slot, ballot, _ in step.votes:
            kept[slot] = ballot
            if slot > len(self.agreed):
                self._holders.setdefault((slot, ballot), set()).add(step.node)

    def _on_install(self, step: PaxosStep) -> None:
        if step.known > len(self.agreed):
            raise _NotAllowed("the snapshot holds slots that are not chosen")
        self._known[step.node] = max(self._known[step.node], step.known)

    # ---- leaders ----

    def _config_at(self, slot: int, known: int) -> Config:
        """Who decides on *slot*, by the first *known* slots."""
        return next(config for at, config in reversed(self._configs) if at < slot and at <= known)

    def _on_lead(self, step: PaxosStep) -> None:
        if step.ballot[1] != step.node:
            raise _NotAllowed("the ballot is somebody else's")
        reports = self._reports.get(step.ballot, {})
        configs = [self._config_at(step.known + 1, step.known)]
        if not self._quorums(configs[0], reports.keys(), 1):
            raise _NotAllowed(f"only {sorted(reports)} have promised, of {configs[0]}")
        self._leads[step.ballot] = step.known

    def _check_proposal(self, node: int, slot: int, ballot: TraceBallot, value: Value) -> None:
        """P2c: some quorum of those who have promised lets this value through; and no stop sign stands before it."""
        if ballot in self._leads and slot <= len(self.agreed) and self.agreed[slot - 1] == value:
            return  # a leader gives those who lag what it knows to be chosen, at its own ballot
        if ballot not in self._leads or node != ballot[1]:
            raise _NotAllowed(f"nobody who leads with {ballot} has proposed that in slot {slot}")
        known = self._leads[ballot]
        for before in range(max(known, len(self.agreed)) + 1, slot):
            if isinstance(self._proposed.get((before, ballot)), Config):
                raise _NotAllowed(f"slot {slot} is behind a configuration in slot {before} that is not chosen")
        config = self._config_at(known + 1, known)
        heard: dict[int, Vote | None] = {}
        for who, (knows, votes) in self._reports[ballot].items():
            if slot <= knows:
                if self.agreed[slot - 1] == value:
                    return
                raise _NotAllowed(f"n{who} has promised and knows another value to be chosen in slot {slot}")
            vote = votes.get(slot)
            heard[who] = None if vote is None else Vote(_number(vote[0]), vote[1])
        # Which quorum the leader had is not seen. The best for this value are all who report nothing higher than it.
        own = max((vote.ballot for vote in heard.values() if vote and vote.value == value), default=0)
        quorum = {who for who, vote in heard.items() if vote is None or vote.ballot <= own}
        if not self._quorums(config, quorum, 1):
            raise _NotAllowed(f"no quorum of promises lets {value!r:.40} into slot {slot}")
        allowed = safe_values(heard[who] for who in quorum)
        if allowed is not None and value not in allowed:
            raise _NotAllowed(f"the promises ask for {allowed} in slot {slot}")

    def _on_chosen(self, step: PaxosStep) -> None:
        for slot, value in enumerate(step.values, step.slot):
            if slot <= len(self.agreed):
                if self.agreed[slot - 1] != value:
                    raise _NotAllowed(f"another value was chosen in slot {slot}")
                continue
            if slot != len(self.agreed) + 1:
                raise _NotAllowed(f"slot {slot} comes before slot {len(self.agreed) + 1}")
            config = self._config_at(slot, slot - 1)
            if not any(
                self._proposed.get((slot, ballot), self) == value and self._quorums(config, nodes, 2)
                for (at, ballot), nodes in self._holders.items()
                if at == slot
            ):
                raise _NotAllowed(f"no quorum of {config} durably holds that in slot {slot}")
            self.agreed.append(value)
            if isinstance(value, Config):
                self._configs.append((slot, value))
            self._forget(slot)
        self._known[step.node] = max(self._known[step.node], step.known)

    def _forget(self, slot: int) -> None:
        """Acceptances of a slot that is agreed on decide nothing any more."""
        for key in [key for key in self._holders if key[0] == slot]:
            del self._holders[key]


def _number(ballot: TraceBallot) -> int:
    """An int with the order of ballots."""
    return (ballot[0] << 63) + ballot[1] + 1


def check_paxos_trace(
    steps: Iterable[PaxosStep], *, voters: Collection[int], quorums: Quorums = majorities
) -> tuple[str, PaxosTraceChecker]:
    """The first refusal (empty: none) of the trace of a cluster that began empty, and what was followed up to there."""
    checker = PaxosTraceChecker(voters=voters, quorums=quorums)
    for step in steps:
        if reason := checker.take(step):
            return reason, checker
    return "", checker
