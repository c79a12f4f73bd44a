"""What is peculiar to some of Jepsen's workloads, put into plain operations.

Keys that stand in values (``jepsen.independent``), elements that are written and read as a set, and drains of a queue.
"""

from typing import Final

from msgspec import structs

from troth.verify.completions import pair
from troth.verify.formats import edn
from troth.verify.history import FOREVER, Event, EventType, History, Operation, Process, Reading, Value

_ASKS_NOTHING: Final = frozenset({"read", "get", "dequeue", "pop", "acquire", "release"})
"""Operations that are invoked without a value."""

DRAINED: Final = "every drain is taken for as many dequeues as it returned elements, and one that found nothing"

INSERTED: Final = "what is written is read as a collection: every write is taken for an addition to a set"


def paired(events: list[Event], reading: Reading) -> History:
    """Pair, after what is peculiar to some of Jepsen's workloads was put into plain operations."""
    if keyed := _independent(events):
        history = pair(keyed, reading=reading)
        history.remarks = ("every value is [key value], as of jepsen.independent: the first is taken for the key",)
        return history
    history = pair(_added(events), reading=reading)
    if any(op.f == "add" for op in history.operations) and not any(event.f == "add" for event in events):
        history.remarks = (INSERTED,)
    return _without_drains(history) if any(op.f == "drain" for op in history.operations) else history


def _added(events: list[Event]) -> list[Event]:
    """Writes as what they are where single elements are written and all of them are read: elements of a set."""
    if {event.f for event in events if event.type is not EventType.INFO} != {"read", "write"}:
        return events
    reads = [event.value for event in events if event.f == "read" and event.type is EventType.OK]
    writes = [event.value for event in events if event.f == "write" and event.type is EventType.INVOKE]
    if (
        not reads
        or not all(_is_collection(value) for value in reads)
        or any(_is_collection(value) for value in writes)
    ):
        return events
    return [structs.replace(event, f="add") if event.f == "write" else event for event in events]


def _is_collection(value: Value) -> bool:
    return isinstance(value, tuple | frozenset) and not isinstance(value, edn.Record)


def _without_drains(history: History) -> History:
    """Every drain as what it is: dequeues of what it returned and one that found nothing, until it returned.

    One that did not return, or not with a list, took what it says it took, and perhaps all else that is there.
    """
    operations: list[Operation] = []
    stopped: list[Operation] = []
    pieces: dict[Process, Process] = {}

    def dequeue(drain: Operation, at: int | str, item: Value) -> Operation:
        process = f"{drain.process}/{drain.line}/{at}"
        pieces[process] = drain.process
        outcome = EventType.INFO if drain.completed == FOREVER else EventType.OK
        return structs.replace(drain, f="dequeue", process=process, argument=None, result=item, outcome=outcome)

    for op in history.operations:
        if op.f != "drain":
            operations.append(op)
        elif op.outcome is not EventType.FAIL:
            taken = op.result if isinstance(op.result, tuple) else ()
            drained = op.outcome is EventType.OK and isinstance(op.result, tuple)
            if drained:
                taken = (*taken, None)
            else:
                stopped.append(op)
            operations.extend(dequeue(op, at, item) for at, item in enumerate(taken))
    # No more can have been taken unseen than was enqueued and not seen to be taken.
    seen = sum(op.f == "dequeue" and op.outcome is EventType.OK and op.result is not None for op in operations)
    unseen = sum(op.f == "enqueue" and op.outcome is not EventType.FAIL for op in operations) - seen
    for op in stopped:
        lost = structs.replace(op, outcome=EventType.INFO, completed=FOREVER, end_ns=None)
        operations.extend(dequeue(lost, f"unseen {at}", None) for at in range(unseen))
    expanded = History.of(operations, faults=history.faults, reading=history.reading)
    expanded.remarks, expanded.pieces = (DRAINED,), pieces
    return expanded


def _independent(events: list[Event]) -> list[Event]:
    """The keys taken out of the values of ``independent`` workloads, where all are ``[key value]``; else nothing.

    For a cas that could be its pair; but no read is asked with ``[key nil]`` unless the first is a key, and no cas with
    ``[key [from to]]`` or ``[key from to]``.
    """
    asked = [event for event in events if event.type is EventType.INVOKE]
    looks = [event.value for event in asked if event.f in _ASKS_NOTHING]
    swaps = [event.value for event in asked if event.f == "cas"]
    others = [event.value for event in asked if event.f != "cas"]
    if not (
        (looks or swaps)
        and all(isinstance(value, tuple) and len(value) == 2 for value in others)
        and all(isinstance(value, tuple) and value[1] is None for value in looks)
        and all(
            isinstance(value, tuple) and (len(value) == 3 or (len(value) == 2 and isinstance(value[1], tuple)))
            for value in swaps
        )
    ):
        return []
    return [_without_key(event) for event in events]


def _without_key(event: Event) -> Event:
    value = event.value
    if event.type is EventType.INFO:
        return structs.replace(event, value=None)
    if isinstance(value, tuple) and len(value) == 2:
        return structs.replace(event, key=value[0], value=value[1])
    if event.f == "cas" and isinstance(value, tuple) and len(value) == 3:
        return structs.replace(event, key=value[0], value=value[1:])
    return event
