"""What was asked of each register or key, sorted out for those who decide without search (`chains`, `repeats`)."""

from collections.abc import Sequence
from typing import Final

from troth.verify.history import EventType, Operation, Reading, Value

OVERWRITES: Final = frozenset({"write", "put", "set"})
READS: Final = frozenset({"read", "get"})


class Key:
    """What was asked of one key. Filled by `gather`."""

    __slots__ = (
        "again",
        "appended",
        "changed",
        "first_return",
        "hopeless",
        "initial",
        "last_invoke",
        "reads",
        "seen",
        "written",
    )

    def __init__(self, initial: Value) -> None:
        self.initial = initial
        self.written: dict[Value, Operation] = {}
        """text -> the operation that writes, appends or swaps it in"""
        self.again: list[tuple[Value, Operation]] = []
        """Writes of what is written before, or of the initial value: `repeats` tells them apart."""
        self.hopeless = False
        """Nothing is told apart: only a search decides."""
        self.appended = False
        self.changed: dict[Value, Value] = {}
        """from -> to of every cas, by its from"""
        self.first_return: dict[Value, int] = {}
        self.last_invoke: dict[Value, int] = {}
        self.reads: list[Operation] = []
        self.seen: dict[int, Value] = {}
        """index of a read -> what it saw, where that is not its result but the label of a write (`repeats`)"""


def gather(operations: Sequence[Operation], reading: Reading, initial: Value) -> dict[Value, Key] | None:
    """Sort the operations by key; None when there is only one key and this way of checking does not apply to it."""
    keys: dict[Value, Key] = {}
    # What operations touch of a key, at hand without looking up attributes.
    hot: dict[Value, tuple[dict[Value, int], dict[Value, int], list[Operation], dict[Value, Operation], Key]] = {}
    ok, fail = EventType.OK, EventType.FAIL
    nil_unknown = reading.nil_read == "unknown"
    for op in operations:
        f, outcome, name = op.f, op.outcome, op.key
        parts = hot.get(name)
        if parts is None:
            key = keys[name] = Key(initial)
            parts = hot[name] = (key.first_return, key.last_invoke, key.reads, key.written, key)
        first, last, reads, written, key = parts
        if f in READS:
            if outcome is ok:
                value = op.result
                if value is None and nil_unknown:
                    continue
                done = op.completed
                if value not in first or done < first[value]:
                    first[value] = done
                # Operations come in the order of their invocation.
                last[value] = op.invoked
                reads.append(op)
            continue
        if (f in OVERWRITES or f == "append") and outcome is not fail:
            # The common case of `_note`.
            value = op.argument
            if value and value not in written and value != initial:
                written[value] = op
                if f == "append":
                    key.appended = True
                continue
        if not key.hopeless and not _note(key, op, reading):
            if len(keys) == 1 and all(other.key == name for other in operations):
                return None
            key.hopeless = True
    return keys


def _note(key: Key, op: Operation, reading: Reading) -> bool:
    """Take down an update; False when the key cannot be decided this way."""
    f, outcome, value = op.f, op.outcome, op.argument
    if outcome is EventType.FAIL:
        return f != "cas" or reading.failed != "observed"
    if f in OVERWRITES or f == "delete":
        if f == "delete":
            value = key.initial
        if value in key.written or value == key.initial or value is None:
            key.again.append((value, op))
        else:
            key.written[value] = op
        return True
    if f == "append":
        key.appended = True
        if not value:
            return False
        if value in key.written:
            key.again.append((value, op))
            return True
    elif f == "cas" and isinstance(value, tuple) and len(value) == 2 and op.result is not False:
        before, value = value
        if before == value or before in key.changed:
            return False
        key.changed[before] = value
    else:
        return False
    if value in key.written or value == key.initial or value is None:
        return False
    key.written[value] = op
    return True
