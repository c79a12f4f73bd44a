"""Events to a history: every completion joined with its invocation, or the line that has no other half."""

from collections.abc import Iterable
from typing import TypeAlias

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
    pairing = _Pairing(listed)
    return History(
        pairing.operations,
        timeline=pairing.timeline,
        faults=pairing.faults,
        reading=reading,
        format=format,
        length=len(listed),
    )


_Opened: TypeAlias = tuple[int, int, Event]
"""An invocation that waits for its completion: the operation's index, its position, and the event itself."""


class _Pairing:
    """What becomes of all events of a history."""

    def __init__(self, events: list[Event]) -> None:
        self.timeline: list[int] = []
        self.faults: list[Fault] = []
        self._by_index: list[Operation | None] = []
        """None while it is open."""
        self._instants = not any(event.type is EventType.INVOKE for event in events)
        told = (event.f for event in events if event.type is not EventType.INFO)
        self._told = set(told) if self._instants else set[str]()
        """What is a list of instants calls operations, in those that are ok or failed."""
        for index, position, request in self._pair(events):
            silence = Event(type=EventType.INFO, process=request.process, f=request.f)
            self._by_index[index] = _operation(index, position, request, silence, FOREVER)
        self.operations = [op for op in self._by_index if op is not None]

    def _pair(self, events: list[Event]) -> list[_Opened]:
        """Take them in order; what is still open in the end. It calls little: long histories go through here."""
        invoke, info = EventType.INVOKE, EventType.INFO
        by_index, timeline = self._by_index, self.timeline
        opened: dict[Process, _Opened] = {}
        for position, event in enumerate(events):
            kind, process = event.type, event.process
            if kind is invoke:
                if process in opened:
                    raise _still_open(opened[process][2], event)
                index = len(by_index)
                opened[process] = (index, position, event)
                by_index.append(None)
                timeline.append(2 * index)
                continue
            entry = opened.pop(process, None) or self._alone(position, event)
            if entry is None:
                continue
            index, invoked, request = entry
            if event.f != request.f or (event.key != request.key and event.key is not None):
                raise _other(request, event)
            by_index[index] = _operation(index, invoked, request, event, position)
            if kind is not info:
                timeline.append(2 * index + 1)
        return list(opened.values())

    def _alone(self, position: int, event: Event) -> _Opened | None:
        """A completion of a process with nothing open: a remark (None), or all there is of an operation."""
        is_info = event.type is EventType.INFO
        if is_info and event.f not in self._told and not _is_of_client(event, instants=self._instants):
            self.faults.append(
                Fault(position=position, process=event.process, f=event.f, value=event.value, time=event.time)
            )
            return None
        if not self._instants:
            raise DecodeError(
                f"{_place(event)}: {event.type.value} {event.f} from process {event.process}, which has nothing "
                "open; expected an invoke first"
            )
        index = len(self._by_index)
        self._by_index.append(None)
        self.timeline.append(2 * index)
        return index, position, event


def _still_open(request: Event, event: Event) -> DecodeError:
    """*event* is a second invocation, before *request* was completed."""
    return DecodeError(
        f"{_place(event)}: process {event.process} invokes {event.f} while its operation from "
        f"{_place(request)} is still open; expected a completion of {request.f}"
    )


def _other(request: Event, event: Event) -> DecodeError:
    """*event* completes another operation than *request*."""
    return DecodeError(
        f"{_place(event)}: process {event.process} completes {event.f} {show(event.key)} but {_place(request)} "
        f"invoked {request.f} {show(request.key)}; expected a completion of that"
    )


def _operation(index: int, invoked: int, request: Event, completion: Event, completed: int) -> Operation:
    return Operation(
        index=index,
        process=request.process,
        f=request.f,
        key=request.key,
        argument=request.value,
        result=completion.value,
        outcome=completion.type,
        invoked=invoked,
        completed=completed,
        start_ns=request.time,
        end_ns=completion.time,
        error=completion.error,
        line=request.line,
        revision=completion.revision,
        level=request.level,
    )


def _is_of_client(info: Event, *, instants: bool) -> bool:
    """Whether an info with nothing open is about an operation, and not a fault."""
    is_client = isinstance(info.process, int) and info.process >= 0
    return is_client and (not instants or info.key is not None or info.value is not None)


def _place(event: Event) -> str:
    return f"line {event.line}" if event.line else "event"
