"""Writes on their way into the log: taken in, gathered, proposed or forwarded, answered when applied.

All that arrives in one turn of the loop becomes one log entry. While `entries_in_flight_max` own entries wait
for a quorum, further writes gather: under load the batches grow by themselves, and a lone write is never delayed.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, assert_never

import msgspec

from troth.core.interface import Entry, RefusalReason, Refused
from troth.errors import InvalidRequest, LeadershipLost, NotLeader, Overloaded, RequestTimeout, Unavailable
from troth.ids import LogIndex, NodeId, Tick
from troth.kv import refusals
from troth.kv.checks import REQUEST_BYTES_MAX, nests_too_deep
from troth.kv.requests import Failure, Txn
from troth.replica.effects import ClientId
from troth.replica.machine import LoggedCommand, Outcome, decode_command, encode_payload
from troth.replica.peers import Forward, ForwardRefused, Proposal
from troth.replica.protocol import (
    WRITES_COMMANDS_MAX,
    CallRefused,
    CloseSession,
    Done,
    OpenSession,
    Results,
    SessionOpened,
    Writes,
    WritesRefused,
)
from troth.replica.state import NOBODY, ReplicaStart, ReplicaState

FOREIGN = 0
"""No request of this server has this id."""

FORWARD_BYTES_MAX = 4 << 20
"""What one turn hands over to the leader: a turn's messages to one server share a frame, and frames have a bound."""


class _Pending(NamedTuple):
    """A command in or before the log that this server has taken in: from a client, or forwarded by `origin`."""

    client: ClientId
    origin: NodeId
    command: LoggedCommand
    raw: msgspec.Raw
    size_bytes: int
    since: Tick


class WritePath(ReplicaState):
    """From `Writes` to `Results`."""

    def __init__(self, start: ReplicaStart) -> None:
        super().__init__(start)
        # A request id names one proposal of one life of one server: 63 bits, the high ones drawn anew at each start.
        # Two may draw the same, so what an id is found under is taken for the same only if its bytes are.
        self._next_request = start.rng.getrandbits(30) << 33
        self._inbox: deque[int] = deque()
        self._pending: dict[int, _Pending] = {}
        self.pending_bytes = 0
        """Of the commands that this server has taken in and that are not answered yet."""
        self._last_proposed = LogIndex(0)
        self._log_bytes = 0
        self._backlog: list[Entry] = []
        """What is committed and waits for the snapshot that is being loaded, or for what is being prepared (that
        entry stands first)."""
        self._backlog_bytes = 0
        self._proposals: list[tuple[int, LoggedCommand]] = []
        """Those of the entry that is prepared or applied at present."""

    # ---- in ----

    def _put_off(self, entries: Sequence[Entry]) -> None:
        """*entries* are committed and cannot be applied yet. When those are too much, others wait: clients are refused,
        and what a leader sends is passed over until there is room."""
        self._backlog += entries
        self._backlog_bytes += sum([entry.size_bytes for entry in entries])
        self.engine.take_entries(not self._backlog_full)

    def _take_backlog(self) -> list[Entry]:
        """What was put off; it is not any more."""
        backlog, self._backlog, self._backlog_bytes = self._backlog, [], 0
        self.engine.take_entries(True)
        return backlog

    @property
    def _backlog_full(self) -> bool:
        return self._backlog_bytes > self._config.backlog_bytes_max

    def _too_much(self, size_bytes: int) -> bool:
        """Whether so much more may not be taken in here."""
        return self._backlog_full or (
            self.pending_bytes > 0 and self.pending_bytes + size_bytes > self._config.proposals_bytes_max
        )

    def _on_writes(self, client: ClientId, message: Writes, raw: bytes) -> None:
        if not message.commands:
            self._reply(client, Results(message.session, message.first_seq, []))
            return
        if len(message.commands) > WRITES_COMMANDS_MAX:  # all of them are applied in one piece
            text = f"a batch holds {WRITES_COMMANDS_MAX} commands at most"
            self._refuse_command(client, message, InvalidRequest.code, text)
            return
        for command in message.commands:
            # It could not be applied; worse, whether it can be decoded depends on how deep the stack is there.
            if type(command) is Txn and nests_too_deep(command):
                too_many = refusals.TOO_MANY_OPS
                self._refuse_command(client, message, too_many.code, too_many.text)
                return
        if len(raw) > REQUEST_BYTES_MAX:
            # Only a large batch can hold a command that is too large.
            for command in message.commands:
                failure = self.machine.store.validate(command)
                if failure is not None:
                    self._refuse_command(client, message, failure.code, failure.text)
                    return
        self._take_in(client, message, raw)

    def _take_in(self, client: ClientId, command: LoggedCommand, raw: bytes) -> None:
        """Queue a command for the log; the turn's end decides what becomes of it."""
        if self._too_much(len(raw)):
            self._refuse_command(client, command, Overloaded.code, "too many writes wait here; send less at once")
            return
        request = self._next_request = self._next_request + 1
        self._enqueue(request, client, NOBODY, command, raw)

    def _enqueue(self, request: int, client: ClientId, origin: NodeId, command: LoggedCommand, raw: bytes) -> None:
        self._pending[request] = _Pending(client, origin, command, msgspec.Raw(raw), len(raw), self._now)
        self.pending_bytes += len(raw)
        self._inbox.append(request)

    def _on_forward(self, sender: NodeId, message: Forward) -> None:
        """A follower hands its clients' commands over. What cannot be read must not enter the log."""
        refused: list[int] = []
        for request, raw in message.proposals:
            same = self._pending.get(request)
            if same is not None:
                if same.origin != sender or same.raw != raw:
                    text = "its request id is taken here; asked again it has another"
                    self._out.send.append((sender, ForwardRefused([request], Unavailable.code, text)))
                # Else the hand-over was repeated. One that comes again when the first is applied already is applied
                # twice, where no session tells; but a server hands a request over once, and a link gives each frame to
                # one connection, which delivers it once or not at all: only a simulated network repeats messages.
                continue
            body = bytes(raw)
            if self._too_much(len(body)):
                refused.append(request)
                continue
            try:
                command = decode_command(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                text = f"no command: {error}"
                self._out.send.append((sender, ForwardRefused([request], InvalidRequest.code, text)))
                continue
            self._enqueue(request, 0, sender, command, body)
        if refused:
            text = "too many writes wait at the leader; send less at once"
            self._out.send.append((sender, ForwardRefused(refused, Overloaded.code, text)))

    def _on_forward_refused(self, message: ForwardRefused) -> None:
        for request in message.requests:
            self._refuse_request(request, message.code, message.text)

    # ---- into the log ----

    def _propose_inbox(self, leader: NodeId) -> bool:
        """Move what has gathered: into the log, if this server is the *leader*, else to whoever is. True: proposed."""
        if leader == self.engine.node_id:
            proposed = False
            while self._inbox and self._may_propose():
                if batch := self._take_batch(self._config.entry_bytes_max):
                    self._propose(batch)
                    proposed = True
            return proposed
        if leader:
            proposals = self._take_batch(FORWARD_BYTES_MAX)
            self._out.again |= bool(self._inbox)
            foreign = [request for request, _ in proposals if self._pending[request].origin]
            # What was forwarded here is not forwarded on: it could go round in circles between two who err.
            for request in foreign:
                self._refuse_request(request, NotLeader.code, "this server leads no longer")
            own = [proposal for proposal in proposals if proposal[0] in self._pending]
            if own:
                self._out.send.append((leader, Forward(own)))
        return False

    def _may_propose(self) -> bool:
        return self._last_proposed - self.engine.commit_index < self._config.entries_in_flight_max

    def _take_batch(self, bytes_max: int) -> list[Proposal]:
        """As much of the inbox as *bytes_max* holds: at least one proposal, if there is one."""
        batch: list[Proposal] = []
        total = 0
        while (pending := self._first_waiting()) is not None:
            total += pending.size_bytes
            if batch and total > bytes_max:
                break
            batch.append((self._inbox.popleft(), pending.raw))
        return batch

    def _first_waiting(self) -> _Pending | None:
        """Who is first in the inbox. What came twice may be settled already, by its first copy: it drops out."""
        while self._inbox:
            pending = self._pending.get(self._inbox[0])
            if pending is not None:
                return pending
            self._inbox.popleft()
        return None

    def _propose(self, batch: list[Proposal]) -> None:
        result = self.engine.propose(encode_payload(batch))
        if isinstance(result, Refused):
            code, text = refusal(result)
            for request, _ in batch:
                self._refuse_request(request, code, text)
        else:
            self._last_proposed = result.id.index

    # ---- out ----

    def _prepare(self, entry: Entry) -> Iterator[None] | None:
        """What has to be done in steps before *entry* is applied; None for nearly every entry."""
        pending = self._pending
        # What this very server has taken in need not be decoded again, and its client is answered.
        self._proposals = [
            (request, mine.command)
            if (mine := pending.get(request)) is not None and mine.raw == body
            else (FOREIGN, decode_command(body))
            for request, body in self.machine.read(entry)
        ]
        return self.machine.prepare(self._proposals)

    def _apply(self, entry: Entry) -> None:
        """Apply one entry of commands, which was prepared, and answer those who wait for it here."""
        self._log_bytes += entry.size_bytes
        for request, command, outcome in self.machine.apply(entry.index, self._proposals):
            self._on_applied(command, outcome)
            pending = self._pending.pop(request, None)
            if pending is not None:
                self.pending_bytes -= pending.size_bytes
                if pending.client:
                    self._answer(pending.client, pending.command, outcome)

    def _on_applied(self, command: LoggedCommand, outcome: Outcome) -> None:
        """For the parts above: a command has taken effect on this replica."""

    def _forget(self, request: int) -> _Pending | None:
        pending = self._pending.pop(request, None)
        if pending is not None:
            self.pending_bytes -= pending.size_bytes
        return pending

    def _answer(self, client: ClientId, command: LoggedCommand, outcome: Outcome) -> None:
        if isinstance(command, Writes) and isinstance(outcome, list):
            self._reply(client, Results(command.session, command.first_seq, outcome))
        elif isinstance(outcome, Failure):
            self._refuse_command(client, command, outcome.code, outcome.text)
        elif isinstance(command, OpenSession) and isinstance(outcome, int):
            self._reply(client, SessionOpened(command.call, outcome))
        elif isinstance(command, CloseSession):
            self._reply(client, Done(command.call))

    def _refuse_request(self, request: int, code: str, text: str) -> None:
        """Tell whoever waits for *request*: a client here, or the server that forwarded it."""
        pending = self._forget(request)
        if pending is None:
            return
        if pending.origin:
            self._out.send.append((pending.origin, ForwardRefused([request], code, text)))
        elif pending.client:
            self._refuse_command(pending.client, pending.command, code, text)

    def _refuse_command(self, client: ClientId, command: LoggedCommand, code: str, text: str) -> None:
        leader = self._leader_address()
        match command:
            case Writes():
                self._reply(client, WritesRefused(command.session, command.first_seq, code, text, leader))
            case OpenSession() | CloseSession():
                self._reply(client, CallRefused(command.call, code, text, leader))
            case _:
                assert_never(command)

    def _leader_lost(self) -> None:
        """Whatever was proposed under the old leader may or may not survive: say so now, not at a time-out.

        What has not left the inbox is kept: it has not been proposed by anybody.
        """
        waiting = set(self._inbox)
        for request in [request for request in self._pending if request not in waiting]:
            self._refuse_request(request, LeadershipLost.code, "the leader changed while the write was under way")
        self._last_proposed = LogIndex(0)

    def _withdraw_own(self) -> None:
        """Take back what this server wanted done by its own clock, when it led: a new leader gives every lease its
        full time again, and must not be handed the end that an older clock has found."""
        kept: deque[int] = deque()
        for request in self._inbox:
            pending = self._pending.get(request)
            if pending is None or pending.client or pending.origin:
                kept.append(request)
            else:
                self._forget(request)
        self._inbox = kept

    def _expire_writes(self) -> None:
        """Refuse what has waited too long: in the inbox it has not happened, further on it may have."""
        oldest = self._now - self._config.hold_ticks
        while (pending := self._first_waiting()) is not None and pending.since < oldest:
            request = self._inbox.popleft()
            text = "no leader: a majority of the servers is not reachable"
            self._refuse_request(request, Unavailable.code, text)
        overdue = self._now - self._config.write_timeout_ticks
        while self._pending:
            request, pending = next(iter(self._pending.items()))
            if pending.since >= overdue:
                break
            text = "the write was handed on, and nothing was heard of it since"
            self._refuse_request(request, RequestTimeout.code, text)


def refusal(refused: Refused) -> tuple[str, str]:
    """Error code and text for an engine's refusal."""
    match refused.reason:
        case RefusalReason.NOT_LEADER | RefusalReason.TRANSFERRING:
            return NotLeader.code, refused.detail or refused.reason.value
        case RefusalReason.QUEUE_FULL:
            return Overloaded.code, refused.reason.value
        case RefusalReason.NOT_READY | RefusalReason.CHANGE_IN_PROGRESS:
            return Unavailable.code, refused.detail or refused.reason.value
        case RefusalReason.BAD_CHANGE | RefusalReason.BAD_TARGET:
            return InvalidRequest.code, refused.detail or refused.reason.value
        case _:
            assert_never(refused.reason)
