"""An acceptor: promises, accepted states, the fence, and the configuration it serves in.

Paper: CASPaxos §2.1 (phases), §2.2.1 (promise with the accept), §2.3 (membership), §3.1 (deletion).

`on_request` is the one entry. It returns the answer and, if something has changed, the record of it; the driver makes
the record durable before the answer leaves, in the order of the calls. `apply` replays records after a restart. So the
disk is a list of records, and any prefix of it that contains all that was answered is a state we may wake up in.

The fence. A key that the acceptor does not hold is treated as one that has promised `fence`, one ballot for all of
them. Removing a register raises it to what that register had promised, so a message from before the deletion, however
late, is refused as it would have been with the tombstone still here. The paper gives proposers ages, which acceptors
compare; our proposers are clients that nobody can enumerate, so the ballot itself is the age (docs/divergences.md).
A promise for a key that holds nothing tells the fence as it was when the key was first promised here: what is removed
later is another register, and says nothing about this one.
"""

from collections.abc import Generator, Iterator
from itertools import islice

from sortedcontainers import SortedDict

from troth.core.register.messages import (
    RESERVED,
    RESERVED_END,
    ZERO,
    Accept,
    Accepted,
    AcceptedRecord,
    Ballot,
    Collect,
    Collected,
    CollectedRecord,
    Configuration,
    Configure,
    ConfiguredRecord,
    Conflict,
    Describe,
    Described,
    Full,
    Holding,
    Prepare,
    Promise,
    PromisedRecord,
    Read,
    RecordMessage,
    ReplyMessage,
    RequestMessage,
    Scan,
    Scanned,
    WrongConfig,
)
from troth.core.register.slots import SLOT_BYTES, Saving, Slot, cost_of, record_of
from troth.errors import invariant
from troth.ids import NodeId

SCAN_KEYS_MAX = 1000
IDLE_MAX = 1 << 15
"""Promises that are kept for keys that hold nothing. The fence takes the place of so many at once, in milliseconds; who
is between its two phases then has to overtake."""


class Acceptor:
    """See the module. Pure; one per data directory."""

    def __init__(self, acceptor: NodeId, *, bytes_max: int = 1 << 30) -> None:
        self.id = acceptor
        self.came_late = False
        """See `Described`; said by whoever opens it."""
        self.config: Configuration | None = None
        self.fence = ZERO
        self.highest = ZERO
        """No ballot above it was ever promised here, for whatever key."""
        self.bytes = 0
        """What registers that hold a state take, for the quota."""
        self.slots: SortedDict[bytes, Slot] = SortedDict()
        """Registers that hold a state."""
        self.idle: dict[bytes, Slot] = {}
        """Those that were promised and never accepted. Apart, so that a page of `Scan` has not to look through them;
        and bounded apart, for nobody could delete them to make room."""
        self._bytes_max = bytes_max
        self._tombstones = 0
        self._saving: Saving | None = None

    def on_request(self, request: RequestMessage) -> tuple[ReplyMessage, RecordMessage | None]:
        """Answer *request*. The record, if any, is applied here already and must be durable before the answer leaves.

        Never raises for anything that a peer can say; what is not allowed is refused.
        """
        match request:
            case Describe():
                return self.describe(), None
            case Configure():
                return self._on_configure(request.to)
            case _:
                if self.config is None or request.config != self.config.id:
                    return WrongConfig(self.config), None
                if self.config.seat_of(self.id) is None:
                    return WrongConfig(self.config), None
                return self._admitted(request)

    def _admitted(
        self, request: Prepare | Accept | Read | Collect | Scan
    ) -> tuple[ReplyMessage, RecordMessage | None]:
        reply: ReplyMessage
        record: RecordMessage | None = None
        match request:
            case Prepare():
                reply, record = self._on_prepare(request)
            case Accept():
                reply, record = self._on_accept(request)
            case Collect():
                reply, record = self._on_collect(request)
            case Read():
                slot = self.slots.get(request.key)  # an idle one holds nothing either
                reply = Holding(ZERO, None) if slot is None else Holding(slot.accepted, slot.state)
            case Scan():
                reply = self._scan(request.after, min(request.limit, SCAN_KEYS_MAX))
        return reply, record

    def promised(self, key: bytes) -> Ballot:
        """No ballot below this does anything to *key* here any more."""
        slot = self._slot(key)
        return max(self._barrier, self.fence if slot is None else slot.promised)

    def _slot(self, key: bytes) -> Slot | None:
        return self.slots.get(key) or self.idle.get(key)

    @property
    def _barrier(self) -> Ballot:
        return ZERO if self.config is None else self.config.barrier

    def _fence_of(self, slot: Slot | None) -> Ballot:
        """No register that was removed under the key of *slot*, which holds nothing, had a ballot above it. A new
        configuration brings fences of acceptors that were in others before, `floor`."""
        if slot is None or self.config is None:
            return self.fence
        return max(slot.fence, self.config.floor)

    def _conflict(self, key: bytes, ballot: Ballot) -> Conflict | None:
        """Why *ballot* is refused, if it is. Without a slot the fence's own ballot is refused too: it may be a late
        copy of what was collected."""
        slot = self._slot(key)
        if ballot <= self._barrier:
            return Conflict(self.promised(key))
        if slot is None:
            return Conflict(self.fence) if ballot <= self.fence else None
        return Conflict(slot.promised) if ballot < slot.promised else None

    def _on_prepare(self, request: Prepare) -> tuple[ReplyMessage, RecordMessage | None]:
        """§2.1 step 3: "returns a conflict if it already saw a greater ballot number"; else persists the promise."""
        if len(self.idle) >= IDLE_MAX:
            self.forget_promises()  # first: the fence may refuse this ballot then
        if conflict := self._conflict(request.key, request.ballot):
            return conflict, None
        if refusal := self._no_room(request.key, len(request.key) + SLOT_BYTES):
            return refusal, None
        slot = self._slot(request.key)
        if slot is None or slot.state is None:
            reply = Promise(ZERO, None, self._fence_of(slot))
        else:
            reply = Promise(slot.accepted, slot.state, self.fence)
        if slot is not None and slot.promised == request.ballot:
            return reply, None
        return reply, self._do(PromisedRecord(request.key, request.ballot))

    def _on_accept(self, request: Accept) -> tuple[ReplyMessage, RecordMessage | None]:
        """§2.1 step 5: accept unless a greater ballot was seen; §2.2.1: and promise the next one with it."""
        if conflict := self._conflict(request.key, request.ballot):
            return conflict, None
        slot = self.slots.get(request.key)
        if slot is not None and slot.accepted == request.ballot:
            if slot.state != request.state:
                return Conflict(slot.promised), None  # of a clone of its proposer: a ballot names one value
            if slot.promised >= request.next:
                return Accepted(), None
        if refusal := self._no_room(request.key, cost_of(request.key, request.state)):
            return refusal, None
        record = AcceptedRecord(request.key, request.ballot, request.state, max(request.ballot, request.next))
        return Accepted(), self._do(record)

    def _on_collect(self, request: Collect) -> tuple[ReplyMessage, RecordMessage | None]:
        """§3.1 step 2d: remove the register if it still holds the tombstone that all acceptors have accepted, and
        nobody has prepared to change it since: the fence would refuse that change without telling why."""
        slot = self._slot(request.key)
        if slot is None:
            return Collected(True), None
        if not slot.is_tombstone or not slot.accepted == slot.promised == request.ballot:
            return Collected(False), None
        return Collected(True), self._do(CollectedRecord(request.key, max(self.fence, request.ballot)))

    def _on_configure(self, to: Configuration) -> tuple[ReplyMessage, RecordMessage | None]:
        """Epochs only rise. A seat with another `since` than ours before is a new one: what we hold is void for it."""
        mine = self.config
        seat = to.seat_of(self.id)
        if mine is None:
            if seat is None:
                return self.describe(), None
            begin_empty = True
        else:
            if to.id.cluster != mine.id.cluster or to.id.epoch <= mine.id.epoch:
                return self.describe(), None
            before = mine.seat_of(self.id)
            begin_empty = seat is None or before is None or before.since != seat.since
        record = self._do(ConfiguredRecord(to, begin_empty))
        return self.describe(), record

    def _scan(self, after: bytes, limit: int) -> Scanned:
        found = list(islice(self.slots.irange(after or RESERVED_END, inclusive=(not after, True)), limit + 1))
        keys, slots = found[:limit], [self.slots[key] for key in found[:limit]]
        return Scanned(
            tuple((key, slot.is_tombstone) for key, slot in zip(keys, slots, strict=True)),
            len(found) > limit,
            self.fence,
            self.highest,
            tuple(slot.accepted for slot in slots),
        )

    def describe(self) -> Described:
        """What an operator sees."""
        held = len(self.slots)
        return Described(
            self.id, self.config, held, self._tombstones, self.bytes, self.fence, came_late=self.came_late
        )

    @property
    def _is_joining(self) -> bool:
        """Whether we are new in a change that is under way. We are to hold all that the others do, whose quotas bound
        it: one that refuses a copy would hold the change up for ever."""
        return self.config is not None and self.config.is_joint and self.id not in self.config.groups[0].acceptors

    def _no_room(self, key: bytes, cost: int) -> Full | None:
        slot = self.slots.get(key)
        grows = cost - (0 if slot is None else cost_of(key, slot.state))
        if grows <= 0 or self.bytes + grows <= self._bytes_max or key.startswith(RESERVED) or self._is_joining:
            return None
        return Full(f"the acceptor holds {self.bytes} bytes, its quota is {self._bytes_max}: delete registers")

    # ---- state ---------------------------------------------------------------------------------------------

    def _do(self, record: RecordMessage) -> RecordMessage:
        self.apply(record)
        return record

    def apply(self, record: RecordMessage) -> None:
        """Change what *record* says; also the way back after a restart, record by record.

        Raises:
            InvariantViolation: an accepted ballot, a promise or an epoch would fall.
        """
        match record:
            case PromisedRecord():
                slot = self._slot(record.key)
                if slot is None:
                    self._put(record.key, Slot(record.ballot, fence=self.fence))
                else:
                    invariant(record.ballot >= slot.promised, "a promise falls", key=record.key)
                    self._save_before_change(record.key)
                    slot.promised = record.ballot
                self.highest = max(self.highest, record.ballot)
            case AcceptedRecord():
                slot = self.slots.get(record.key)
                rises = slot is None or record.ballot >= slot.accepted
                invariant(rises, "an accepted ballot falls", key=record.key, ballot=record.ballot)
                self._put(record.key, Slot(record.promised, record.ballot, record.state))
                self.highest = max(self.highest, record.promised)
            case CollectedRecord():
                invariant(record.fence >= self.fence, "the fence falls", fence=record.fence)
                self._remove(record.key)
                self.fence = record.fence
                self.highest = max(self.highest, record.fence)
            case ConfiguredRecord():
                self._configure(record)

    def _configure(self, record: ConfiguredRecord) -> None:
        if self.config is not None:
            invariant(record.config.id.epoch > self.config.id.epoch, "an epoch falls")
        self.config = record.config
        reserved = [*self.slots.irange(maximum=RESERVED_END, inclusive=(True, False))]
        for key in reserved + [key for key in self.idle if key < RESERVED_END]:
            self._remove(key)  # the register in which this very configuration was decided has served
        if record.begin_empty:
            for key in [*self.slots, *self.idle]:
                self._save_before_change(key)
            self.slots.clear()
            self.idle.clear()
            self.bytes = self._tombstones = 0
            self.fence = ZERO
        self.fence = max(self.fence, record.config.floor)

    def snapshot(self) -> Iterator[RecordMessage]:
        """Records that make a new acceptor equal to this one: what is kept when older records are dropped."""
        yield from self._head()
        for key, slot in self.slots.items():
            yield record_of(key, slot)

    def snapshot_steps(self) -> Generator[list[RecordMessage], None, None]:
        """`snapshot` of this very moment, a piece at a time, whatever is asked between two of them.

        One at a time: a second one that is begun before the first has ended takes its place. Who does not read to the
        end closes it."""
        steps = self._steps()
        next(steps)  # to where the moment is fixed, and whence it is let go however this ends
        return steps

    def _steps(self) -> Generator[list[RecordMessage], None, None]:
        self._saving = saving = Saving(self.slots)
        head = list(self._head())
        try:
            yield []
            yield head
            yield from saving.pieces()
        finally:
            if self._saving is saving:
                self._saving = None
        yield saving.changed()

    def _head(self) -> Iterator[RecordMessage]:
        if self.config is not None:
            yield ConfiguredRecord(self.config, True)
        if self.fence != ZERO:
            yield CollectedRecord(b"", self.fence)
        for key in sorted(self.idle):
            yield record_of(key, self.idle[key])

    def _save_before_change(self, key: bytes) -> None:
        if self._saving is not None:
            self._saving.before_change(key, self._slot(key))

    def forget_promises(self) -> None:
        """Drop registers that were promised and never accepted, as if the fence had always been there.

        A key without state needs no slot if the fence is as high as its promise. Called when there are many, and when
        the file is compacted, so that questions about keys that do not exist cost nothing for ever. No record is
        written: a restart that brings the slots back from the log holds to the same promises.
        """
        for key, slot in self.idle.items():
            self.fence = max(self.fence, slot.promised)
            self._save_before_change(key)
        self.idle.clear()

    def _put(self, key: bytes, slot: Slot) -> None:
        self._save_before_change(key)
        self._drop(key)
        if slot.state is None:
            self.idle[key] = slot
            return
        self.slots[key] = slot
        self.bytes += cost_of(key, slot.state)
        self._tombstones += slot.is_tombstone

    def _remove(self, key: bytes) -> None:
        self._save_before_change(key)
        self._drop(key)

    def _drop(self, key: bytes) -> None:
        self.idle.pop(key, None)
        slot = self.slots.pop(key, None)
        if slot is not None:
            self.bytes -= cost_of(key, slot.state)
            self._tombstones -= slot.is_tombstone
