"""Change the set of acceptors, or the sizes of their quorums, while clients go on.

Paper: CASPaxos §2.3. There an operator visits every proposer; ours can not be enumerated, so acceptors enforce the
configuration: each request names its epoch, and an acceptor in another one refuses and says which. A change from
epoch e takes two steps, each decided in a register of its own under the configuration before it, so that two operators
can not both succeed:

    e        the old group
    e + 1    old and new together: each phase needs a quorum of both (the paper's larger quorums, for any set)
    e + 2    the new group

Between them every register is accepted once more under e + 1 (the paper's "rescan"): what was chosen under e alone is
then held by a quorum of the new group.

Why it is safe. A round belongs to one epoch from its prepare to its accept. Once a phase-1 quorum of the old group is
in e + 1 no round of epoch e can complete; whatever completed before is met by that quorum, since quorums of the old
group intersect. The scan asks such a quorum under e + 1, so it lists every key that was ever chosen. An acceptor that
is new, or was away, begins empty (`Seat.since`); fences go over with the last step (`Configuration.floor`).

What was accepted under e and never chosen need not be listed, and an acceptor of both groups that was away still holds
it. Those that promised its ballot may all have left, so nothing would keep a later choice from getting a lower one and
being undone by it. Therefore the scan also asks a phase-2 quorum, which meets the phase-1 quorum of any ballot, for the
highest that was promised, and the last step refuses all up to it (`Configuration.barrier`).

Whoever dies in the middle leaves a configuration that works; the next change finishes that one first, or takes it back
if it asks for the old group.

Taking back is e + 2 with the old group alone, and nothing need be copied or raised for it. Each phase under e, e + 1
and e + 2 has a quorum of the old group, of the same sizes, and the seats of its acceptors stay, with all that they have
promised and accepted. So for them the three are one: whoever completes phase 1 under e + 2 meets whatever was chosen
under e + 1, as if its proposer had merely asked a few more. A register that was collected under e + 1 is gone from all
of them, and each has raised its fence. What only the new group has promised or accepted was never enough.
"""

from collections.abc import Callable

import msgspec
from typing_extensions import override

from troth.core.register.changes import propose
from troth.core.register.codec import decode_ask, encode_ask
from troth.core.register.listing import Listing, Poll, Survey
from troth.core.register.messages import (
    ZERO,
    Ballot,
    ConfigId,
    Configuration,
    Configure,
    Described,
    Group,
    ReplyMessage,
    Seat,
    config_key,
    group_of,
)
from troth.core.register.proposer import Proposer
from troth.core.register.round import Round
from troth.core.register.task import NO_STAMP, Outcome, Send
from troth.errors import AcceptorsChanged, DecodeError, OutcomeUnknown, TrothError, Unavailable, invariant
from troth.ids import NodeId

COPIES_AT_ONCE = 16

_decode = msgspec.msgpack.Decoder(Configuration).decode


class _Announcing(Poll):
    """Tell everybody concerned of the last step; done when a phase-1 quorum of the new group is in it."""

    def __init__(self, proposer: Proposer, leaving: tuple[NodeId, ...]) -> None:
        self._leaving = leaving
        super().__init__(proposer)

    @override
    def _ask(self) -> None:
        self._broadcast(Configure(self.config))
        # Nobody waits for those that leave; who is told refuses clients of the old set, and names the new one.
        self._sends += [Send(acceptor, Configure(self.config), NO_STAMP) for acceptor in self._leaving]

    @override
    def _on_answer(self, acceptor: NodeId, reply: ReplyMessage) -> None:
        told = isinstance(reply, Described) and reply.config is not None and reply.config.id == self.config.id
        self._vote(acceptor, agreed=told)


class _Copying:
    """The rescan: the identity change of each of *keys* under the present configuration, several at a time."""

    def __init__(self, proposer: Proposer, keys: list[bytes]) -> None:
        self.outcome: Outcome | None = None
        self.config = proposer.config
        self._proposer = proposer
        self._keys = keys
        self._rounds: list[Round] = []
        self._go_on()

    @property
    def pause(self) -> int:
        """Only when there is nothing else to do."""
        pauses = [each.pause for each in self._rounds]
        return min(pauses, default=0)

    @property
    def has_sends(self) -> bool:
        return any(each.has_sends for each in self._rounds)

    def take(self) -> list[Send]:
        return [send for each in self._rounds for send in each.take()]

    def is_current(self, send: Send) -> bool:
        return any(each.is_current(send) for each in self._rounds)

    def on_reply(self, send: Send, reply: ReplyMessage) -> None:
        for each in self._rounds:
            if each.is_current(send):
                each.on_reply(send, reply)
        self._go_on()

    def on_lost(self, send: Send, *, sent: bool = True) -> None:
        for each in self._rounds:
            each.on_lost(send, sent=sent)
        self._go_on()

    def resume(self) -> None:
        for each in self._rounds:
            if each.pause:
                each.resume()
        self._go_on()

    def _go_on(self) -> None:
        """Take out what is done, and begin as many others."""
        for each in [each for each in self._rounds if each.outcome is not None]:
            self._rounds.remove(each)
            if each.outcome is not None and each.outcome.error is not None:
                self.outcome = each.outcome
                return
        while self._keys and len(self._rounds) < COPIES_AT_ONCE:
            self._rounds.append(self._proposer.confirm(self._keys.pop()))
        if not self._rounds:
            self.outcome = Outcome()


class Reconfiguration:
    """A task (see task.py) that ends when the acceptors are *seats* with quorums of these sizes. One that is 0 is a
    majority; if both are, they stay as they are where the number of acceptors does."""

    def __init__(self, proposer: Proposer, seats: dict[NodeId, str], *, prepare: int = 0, accept: int = 0) -> None:
        """*seats*: acceptor ids and addresses.

        Raises:
            UsageError: no seats or too many, sizes that are no numbers, or quorums that need not meet.
        """
        self.outcome: Outcome | None = None
        self._proposer = proposer
        self._seats = dict(seats)
        self._prepare = prepare
        self._accept = accept
        self._fence = ZERO
        self._highest = ZERO
        self._copied_in: ConfigId | None = None
        """The joint configuration in which the registers are being copied."""
        self._confirmed: ConfigId | None = None
        """The configuration that a quorum is known to be in."""
        self._begun = False
        self._inner: Round | Poll | _Copying | None = None
        self._then: Callable[[Outcome], None]
        """What follows once the inner task has ended without an error."""
        self._begin()

    @property
    def config(self) -> Configuration:
        """In which the exchange under way takes place."""
        return self._proposer.config if self._inner is None else self._inner.config

    @property
    def pause(self) -> int:
        return 0 if self._inner is None else self._inner.pause

    @property
    def has_sends(self) -> bool:
        return self._inner is not None and self._inner.has_sends

    def take(self) -> list[Send]:
        return [] if self._inner is None else self._inner.take()

    def is_current(self, send: Send) -> bool:
        return self.outcome is None and self._inner is not None and self._inner.is_current(send)

    def on_reply(self, send: Send, reply: ReplyMessage) -> None:
        if self._inner is not None:
            self._inner.on_reply(send, reply)
            self._advance()

    def on_lost(self, send: Send, *, sent: bool = True) -> None:
        if self._inner is not None:
            self._inner.on_lost(send, sent=sent)
            self._advance()

    def resume(self) -> None:
        if self._inner is not None:
            self._inner.resume()
            self._advance()

    def give_up(self) -> None:
        """The caller's time is over. Whatever step was reached works, and the next change goes on from there."""
        if self.outcome is None:
            self._end(Unavailable(f"time is over, in {self._proposer.config.describe()}"))

    def _advance(self) -> None:
        while self.outcome is None and self._inner is not None and self._inner.outcome is not None:
            outcome = self._inner.outcome
            self._begun = self._has_begun
            match outcome.error:
                case None:
                    self._then(outcome)
                case AcceptorsChanged() | OutcomeUnknown():
                    self._begin()  # a decision may be asked for again: whatever it is, it stays
                case error:
                    self._end(error)

    @property
    def _has_begun(self) -> bool:
        """Whether a step was decided, or may have been, or may yet be."""
        return self._begun or (isinstance(self._inner, Round) and bool(self._inner.attempts))

    def _end(self, error: TrothError | None) -> None:
        if error is not None and (self._has_begun or self._proposer.config.is_joint):
            unfinished = OutcomeUnknown(
                f"the change of acceptors is under way and not complete ({error}); ask for the same once more to go on "
                "with it, or for the set of before to take it back"
            )
            unfinished.__cause__ = error
            error = unfinished
        self.outcome = Outcome(error=error)

    def _do(self, inner: Round | Poll | _Copying, then: Callable[[Outcome], None]) -> None:
        self._inner, self._then = inner, then

    def _begin(self) -> None:
        config = self._proposer.config
        old = config.groups[0]
        if config.is_joint:
            if _same(self._target(config.id.epoch, old), old):
                self._decide(config, (old,), config.floor, barrier=config.barrier)
            else:
                self._list()
            return
        target = self._target(config.id.epoch + 1, old)
        if _same(target, old):
            if self._confirmed == config.id:
                self._end(None)
            else:
                # So we believe; others may have changed it since. Whoever is in a newer one refuses, and names it.
                self._confirmed = config.id
                self._do(self._proposer.read(config_key(config.id.epoch + 1)), self._on_confirmed)
            return
        self._decide(config, (old, target), config.floor, barrier=config.barrier)

    def _target(self, epoch: int, present: Group) -> Group:
        """The group wanted; who is in the *present* one keeps the seat that it has."""
        kept = {seat.acceptor: seat.since for seat in present.seats}
        seats = tuple(Seat(node, address, kept.get(node, epoch)) for node, address in self._seats.items())
        prepare, accept = self._prepare, self._accept
        if not prepare and not accept and len(seats) == len(present.seats):
            prepare, accept = present.prepare, present.accept
        return group_of(seats, prepare=prepare, accept=accept)

    def _decide(self, config: Configuration, groups: tuple[Group, ...], floor: Ballot, *, barrier: Ballot) -> None:
        """Let the configuration after *config*, the present one, be decided, once (see `config_key`)."""
        now = config.id
        wanted = Configuration(ConfigId(now.cluster, now.epoch + 1), groups, floor, barrier)
        try:
            # A decision is for ever: one that acceptors would not take would be the end of all changes.
            decode_ask(encode_ask(0, Configure(wanted)))
        except DecodeError as error:
            self._end(error)
            return
        change = propose(msgspec.msgpack.encode(wanted))
        self._do(self._proposer.change(config_key(wanted.id.epoch), change, bound=True), self._on_decided)

    def _on_decided(self, outcome: Outcome) -> None:
        invariant(outcome.value is not None, "a decision without a value")
        before = self._proposer.config
        self._adopt_decided(outcome)
        now = self._proposer.config
        if now.is_joint:
            self._list()
            return
        leaving = tuple(sorted(set(before.acceptors) - set(now.acceptors)))
        self._confirmed = now.id
        self._do(_Announcing(self._proposer, leaving), self._on_announced)

    def _on_announced(self, _: Outcome) -> None:
        self._begin()

    def _on_confirmed(self, outcome: Outcome) -> None:
        self._adopt_decided(outcome)
        self._begin()

    def _adopt_decided(self, outcome: Outcome) -> None:
        """Move on to what was decided, if that is so; it may be that nobody was told so far."""
        if outcome.value is not None:
            self._proposer.adopt(_decode(outcome.value))

    def _list(self) -> None:
        survey = Survey(self._proposer)
        self._do(survey, lambda _: self._on_listed(survey))

    def _on_listed(self, listed: Listing) -> None:
        self._fence = listed.fence
        self._highest = listed.highest
        self._copied_in = listed.config.id
        if self._copied_in != self._proposer.config.id:
            self._begin()  # somebody else has finished it
            return
        self._do(_Copying(self._proposer, listed.keys[::-1]), self._on_copied)

    def _on_copied(self, _: Outcome) -> None:
        config = self._proposer.config
        if config.id != self._copied_in:
            self._begin()
            return
        barrier = max(self._highest, config.barrier)
        self._decide(config, config.groups[1:], max(self._fence, config.floor), barrier=barrier)


def _same(one: Group, other: Group) -> bool:
    """Whether there is nothing to change. An acceptor that has moved is the same one, but clients must learn where."""
    return _facts_of(one) == _facts_of(other)


def _facts_of(group: Group) -> tuple[object, ...]:
    return tuple((seat.acceptor, seat.address) for seat in group.seats), group.prepare, group.accept
