"""Collecting a history while it happens: the shape that client code and the simulator use."""

from troth.errors import UsageError
from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History, Process, Reading, Value


class Recorder:
    """Collects events; the caller supplies every time, nothing here reads a clock. ::

    recorder = Recorder()
    recorder.invoke(0, "put", key="x", value="1", time=12)
    recorder.ok(0, time=15)
    history = recorder.history()
    """

    def __init__(self, *, reading: Reading | None = None) -> None:
        self._events: list[Event] = []
        self._open: dict[Process, Event] = {}
        self._reading = reading

    def invoke(
        self, process: Process, f: str, *, key: Value = None, value: Value = None, time: int | None = None
    ) -> None:
        """A process starts an operation."""
        event = Event(type=EventType.INVOKE, process=process, f=f, key=key, value=value, time=time)
        self._open[process] = event
        self._events.append(event)

    def ok(self, process: Process, *, value: Value = None, time: int | None = None) -> None:
        """The open operation of *process* succeeded with *value*."""
        self._complete(EventType.OK, process, value, time, None)

    def fail(
        self, process: Process, *, error: str | None = None, value: Value = None, time: int | None = None
    ) -> None:
        """The open operation of *process* did not happen and never will."""
        self._complete(EventType.FAIL, process, value, time, error)

    def info(self, process: Process, *, error: str | None = None, time: int | None = None) -> None:
        """Nobody knows what became of the open operation; *process* must not be used again."""
        self._complete(EventType.INFO, process, None, time, error)

    def fault(self, f: str, *, value: Value = None, time: int | None = None, process: str = "nemesis") -> None:
        """Something was done to the system, by a *process* that invokes nothing."""
        self._events.append(Event(type=EventType.INFO, process=process, f=f, value=value, time=time))

    def history(self) -> History:
        """Everything recorded so far."""
        return pair(list(self._events), reading=self._reading, format="recorded")

    def _complete(
        self, kind: EventType, process: Process, value: Value, time: int | None, error: str | None
    ) -> None:
        request = self._open.pop(process, None)
        if request is None:
            raise UsageError(f"process {process} completes an operation but has invoked none")
        self._events.append(
            Event(type=kind, process=process, f=request.f, key=request.key, value=value, time=time, error=error)
        )
