"""A register as an acceptor holds it: what it costs, the record that makes it anew, and a snapshot of all of them."""

from collections.abc import Iterator
from itertools import islice

from sortedcontainers import SortedDict

from troth.core.register.messages import ZERO, AcceptedRecord, Ballot, PromisedRecord, RecordMessage, State

STEP_KEYS = 2000
"""How many registers a step of a snapshot reads: a millisecond or two."""
SLOT_BYTES = 120
"""What a register costs in memory beside its key and value, about."""


class Slot:
    """One register of one acceptor."""

    __slots__ = ("accepted", "fence", "promised", "state")

    def __init__(
        self, promised: Ballot, accepted: Ballot = ZERO, state: State | None = None, *, fence: Ballot = ZERO
    ) -> None:
        self.promised = promised
        self.accepted = accepted
        self.state = state
        self.fence = fence
        """Without a state: whatever was removed here under this key had no ballot above it."""

    @property
    def is_tombstone(self) -> bool:
        return self.state is not None and self.state.value is None


def cost_of(key: bytes, state: State | None) -> int:
    """What a register counts for the quota."""
    return len(key) + SLOT_BYTES + (len(state.value or b"") if state is not None else 0)


def record_of(key: bytes, slot: Slot) -> RecordMessage:
    """What makes *slot* out of nothing."""
    if slot.state is None:
        return PromisedRecord(key, slot.promised)
    return AcceptedRecord(key, slot.accepted, slot.state, slot.promised)


class Saving:
    """A snapshot of registers that go on changing: as they were when it began, read a piece at a time.

    Whoever changes one says so before, and keeps it so for one that was not read yet: `pieces` leaves it out, and
    `changed` has it in the end.
    """

    __slots__ = ("_before", "_cursor", "_slots")

    def __init__(self, slots: "SortedDict[bytes, Slot]") -> None:
        self._slots = slots
        self._cursor = b""
        """Registers up to this key have been read."""
        self._before: dict[bytes, RecordMessage | None] = {}
        """What those behind it held that have changed since the beginning; None: nothing."""

    def pieces(self) -> Iterator[list[RecordMessage]]:
        """Those that have not changed before they were read, in order."""
        while keys := list(islice(self._slots.irange(self._cursor, inclusive=(False, True)), STEP_KEYS)):
            piece = [record_of(key, self._slots[key]) for key in keys if key not in self._before]
            self._cursor = keys[-1]
            yield piece

    def before_change(self, key: bytes, slot: Slot | None) -> None:
        """*key*, which has *slot* now (None: nothing), is about to change."""
        if key > self._cursor and key not in self._before:
            self._before[key] = None if slot is None else record_of(key, slot)

    def changed(self) -> list[RecordMessage]:
        """Those that have, as they were; in no order. Once all pieces were read."""
        return [record for record in self._before.values() if record is not None]
