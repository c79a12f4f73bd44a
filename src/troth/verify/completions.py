"""Events to a history: every completion joined with its invocation, or the line that has no other half."""

from collections.abc import Iterable

from troth.errors import DecodeError
from troth.verify.history import FOREVER, Event, EventType, Fault, History, Operation, Process, Reading, show


def pair(events: Iterable[Event], *, reading: Reading | None = None, format: str = "events") -> History:
    """Join every completion with its invocation.

    An info from a process with nothing open is a remark (`Fault`), unless a number from 0 on names that process: those
    are clients. A history in which nothing was ever invoked is taken as a list of completed operations, each an instant
    (Elle accepts such histories too); there an info that is called as one of those that are ok or failed, or in which a
    client says what it asked for, is an operation that crashed.

    Raises:
        DecodeError: an ok or fail, or an info of a client, without an invocation; a second invocation while one is
            open; or a completion that names another operation than the one invoked.
    """
    listed = events if isinstance(events, list) else list(events)
    invoke, info = EventType.INVOKE, EventType.INFO
    instants = not any(event.type is invoke for event in listed)
    told = {event.f for event in listed if event.type is not info} if instants else set[str]()
    operations: list[Operation | None] = []
    timeline: list[int] = []
    faults: list[Fault] = []
    opened: dict[Process, tuple[int, int, Event]] = {}
    for position, event in enumerate(listed):
        kind, process = event.type, event.process
        if kind is invoke:
            if process in opened:
                raise DecodeError(
                    f"{_place(event)}: process {process} invokes {event.f} while its operation from "
                    f"{_place(opened[process][2])} is still open; expected a completion of {opened[process][2].f}"
                )
            index = len(operations)
            opened[process] = (index, position, event)
            operations.append(None)
            timeline.append(2 * index)
            continue
        entry = opened.pop(process, None)
        if entry is None:
            if kind is info and event.f not in told and not _is_of_client(event, instants=instants):
                faults.append(
                    Fault(position=position, process=process, f=event.f, value=event.value, time=event.time)
                )
                continue
            if not instants:
                raise DecodeError(
                    f"{_place(event)}: {kind.value} {event.f} from process {process}, which has nothing open; "
                    f"expected an invoke first"
                )
            entry = (len(operations), position, event)
            operations.append(None)
            timeline.append(2 * entry[0])
        index, invoked, request = entry
        if event.f != request.f or (event.key != request.key and event.key is not None):
            raise DecodeError(
                f"{_place(event)}: process {process} completes {event.f} {show(event.key)} but {_place(request)} "
                f"invoked {request.f} {show(request.key)}; expected a completion of that"
            )
        operations[index] = Operation(
            index=index,
            process=process,
            f=request.f,
            key=request.key,
            argument=request.value,
            result=event.value,
            outcome=kind,
            invoked=invoked,
            completed=position,
            start_ns=request.time,
            end_ns=event.time,
            error=event.error,
            line=request.line,
            revision=event.revision,
            level=request.level,
        )
        if kind is not info:
            timeline.append(2 * index + 1)
    for index, invoked, request in opened.values():
        operations[index] = Operation(
            index=index,
            process=request.process,
            f=request.f,
            key=request.key,
            argument=request.value,
            result=None,
            outcome=info,
            invoked=invoked,
            completed=FOREVER,
            start_ns=request.time,
            line=request.line,
            level=request.level,
        )
    whole = [op for op in operations if op is not None]
    return History(whole, timeline=timeline, faults=faults, reading=reading, format=format, length=len(listed))


def _is_of_client(info: Event, *, instants: bool) -> bool:
    """Whether an info with nothing open is about an operation, and not a fault."""
    is_client = isinstance(info.process, int) and info.process >= 0
    return is_client and (not instants or info.key is not None or info.value is not None)


def _place(event: Event) -> str:
    return f"line {event.line}" if event.line else "event"
