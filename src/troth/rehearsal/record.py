"""The histories of a run: what its clients asked for and were told."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from troth.errors import OutcomeUnknown, TrothError
from troth.simulate.world import World
from troth.verify.completions import pair
from troth.verify.history import Event, EventType, Fault, History, Operation

T = TypeVar("T")


@dataclass(slots=True)
class Appends:
    """The writes of one key that only one client writes."""

    acknowledged: int = 0
    unknown: int = 0


@dataclass(slots=True)
class Seen:
    """What one watcher was shown."""

    name: str
    upto: int
    """The revision up to which everything was shown."""
    handed: list[Fault] = field(default_factory=list)
    is_over: bool = False
    """Nobody waits for more."""


class Record:
    """All histories of a run."""

    def __init__(self, world: World) -> None:
        self.registers: list[Event] = []
        """Linearizable operations on the shared keys."""
        self.cells: list[Event] = []
        """Operations on leaderless registers."""
        self.sessions: list[Event] = []
        """Writes of sessions, and what sessions read."""
        self.bounded: list[Event] = []
        """Writes of sessions, and what bounded reads saw."""
        self.appends: dict[str, Appends] = {}
        self.watches: list[Seen] = []
        self.written: list[Operation] = []
        """What was acknowledged to have been written, with its revision."""
        self.counts: Counter[str] = Counter()
        self._world = world
        self._processes = 0
        self._free: list[int] = []

    def process(self) -> int:
        """A process that does nothing at the moment."""
        if self._free:
            return self._free.pop()
        self._processes += 1
        return self._processes

    async def operation(
        self,
        into: tuple[list[Event], ...],
        process: int | None,
        f: str,
        key: str,
        value: Any,
        doing: Awaitable[T],
        result: Callable[[T], Any],
    ) -> T:
        """Await *doing* and write down when it began, and how it ended. A *process* given is kept by its caller."""
        own = self.process() if process is None else process
        self._event(into, EventType.INVOKE, own, f, key, value)
        try:
            answer = await doing
        except TrothError as error:
            unknown = isinstance(error, OutcomeUnknown)
            self.counts["unknown" if unknown else "refused"] += 1
            self._event(into, EventType.INFO if unknown else EventType.FAIL, own, f, key, value)
            if process is None and not unknown:
                self._free.append(own)
            raise
        self.counts["ok"] += 1
        self._event(into, EventType.OK, own, f, key, result(answer))
        if process is None:
            self._free.append(own)
        return answer

    def _event(
        self, into: tuple[list[Event], ...], kind: EventType, process: int, f: str, key: str, value: Any
    ) -> None:
        event = Event(type=kind, process=process, f=f, key=key, value=value, time=self._world.now_us * 1000)
        for events in into:
            events.append(event)

    def wrote(self, revision: int, key: str, value: str | None) -> None:
        """The cluster has acknowledged that *key* was written at *revision*."""
        # When that was is not told: all of it overlaps.
        self.written.append(
            Operation(
                index=len(self.written),
                process=len(self.written),
                f="delete" if value is None else "put",
                key=key,
                argument=value,
                result=value,
                outcome=EventType.OK,
                invoked=0,
                completed=1,
                revision=revision,
            )
        )

    def watched(self) -> History:
        """What was written and what watchers were shown of it."""
        return History(self.written, timeline=[], faults=[each for seen in self.watches for each in seen.handed])


def history_of(events: list[Event]) -> History:
    """A history that a checker can read."""
    return pair(list(events), format="recorded")


def value_of(reply: Any) -> str | None:
    """What *reply* says that the key holds."""
    return None if reply.kv is None else reply.kv.value.decode()
