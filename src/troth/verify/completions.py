"""Events to a history: every completion joined with its invocation, or the line that has no other half."""

from collections.abc import Iterable

from msgspec import Struct

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
    for position, event in enumerate(listed):
        if event.type is EventType.INVOKE:
            pairing.on_invoke(position, event)
        else:
            pairing.on_completion(position, event)
    return History(
        pairing.operations(),
        timeline=pairing.timeline,
        faults=pairing.faults,
        reading=reading,
        format=format,
        length=len(listed),
    )


class _Opened(Struct, frozen=True):
    """An invocation that waits for its completion."""

    index: int
    position: int
    request: Event


class _Pairing:
    """What has been joined so far, and what is open."""

    def __init__(self, events: list[Event]) -> None:
        """*events*: all that there will be."""
        self.timeline: list[int] = []
        self.faults: list[Fault] = []
        self._operations: list[Operation | None] = []
        """By index; None while it is open."""
        self._opened: dict[Process, _Opened] = {}
        self._instants = not any(event.type is EventType.INVOKE for event in events)
        told = (event.f for event in events if event.type is not EventType.INFO)
        self._told = set(told) if self._instants else set[str]()
        """What is a list of instants calls operations, in those that are ok or failed."""

    def on_invoke(self, position: int, event: Event) -> None:
        """An operation begins."""
        former = self._opened.get(event.process)
        if former is not None:
            raise DecodeError(
                f"{_place(event)}: process {event.process} invokes {event.f} while its operation from "
                f"{_place(former.request)} is still open; expected a completion of {former.request.f}"
            )
        self._opened[event.process] = self._open(position, event)

    def _open(self, position: int, event: Event) -> _Opened:
        index = len(self._operations)
        self._operations.append(None)
        self.timeline.append(2 * index)
        return _Opened(index, position, event)

    def on_completion(self, position: int, event: Event) -> None:
        """An operation ends; or an info is a remark, or each completion an operation."""
        opened = self._opened.pop(event.process, None)
        if opened is None:
            if self._is_remark(event):
                self.faults.append(
                    Fault(position=position, process=event.process, f=event.f, value=event.value, time=event.time)
                )
                return
            if not self._instants:
                raise DecodeError(
                    f"{_place(event)}: {event.type.value} {event.f} from process {event.process}, which has nothing "
                    "open; expected an invoke first"
                )
            opened = self._open(position, event)
        request = opened.request
        if event.f != request.f or (event.key != request.key and event.key is not None):
            raise _other(request, event)
        self._operations[opened.index] = _operation(opened, event, position)
        if event.type is not EventType.INFO:
            self.timeline.append(2 * opened.index + 1)

    def _is_remark(self, event: Event) -> bool:
        """Whether *event*, of a process with nothing open, is about no operation."""
        if event.type is not EventType.INFO or event.f in self._told:
            return False
        return not _is_of_client(event, instants=self._instants)

    def operations(self) -> list[Operation]:
        """All of them, once no event is left: what is open by then is never completed."""
        for opened in self._opened.values():
            silence = Event(type=EventType.INFO, process=opened.request.process, f=opened.request.f)
            self._operations[opened.index] = _operation(opened, silence, FOREVER)
        return [op for op in self._operations if op is not None]


def _other(request: Event, event: Event) -> DecodeError:
    """*event* completes another operation than *request*."""
    return DecodeError(
        f"{_place(event)}: process {event.process} completes {event.f} {show(event.key)} but {_place(request)} "
        f"invoked {request.f} {show(request.key)}; expected a completion of that"
    )


def _operation(opened: _Opened, completion: Event, completed: int) -> Operation:
    request = opened.request
    return Operation(
        index=opened.index,
        process=request.process,
        f=request.f,
        key=request.key,
        argument=request.value,
        result=completion.value,
        outcome=completion.type,
        invoked=opened.position,
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
