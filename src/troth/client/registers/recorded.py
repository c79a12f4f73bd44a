"""Registers' calls in a recorded history (`troth.recording`), under the names that the kv and register models know.

A change is recorded as the compare-and-set that it amounts to, one for each attempt whose accept was sent: from what it
was applied to, to what it made. Its interval begins when the accept leaves, which is later than the call; so a history
that is linearizable this way is one with the calls' own intervals as well. A change that changes nothing has told what
the register holds: it is recorded as a read, which begins with the call.
"""

from types import TracebackType
from typing import Any, Self

from typing_extensions import override

from troth.client import recording
from troth.client.recording import Recorder
from troth.client.registers.replies import RegisterReply, attempts_of
from troth.core.register.messages import Ballot
from troth.core.register.states import Attempt
from troth.core.register.task import Task
from troth.errors import NotApplied, UsageError, WrongCluster


def _shown(value: bytes | None) -> str | None:
    return None if value is None else recording.shown(value)


class Call:
    """One call; does nothing while nothing is recorded."""

    def ends(self, reply: RegisterReply) -> RegisterReply:
        """It was answered."""
        return reply

    def attempts(self, task: Task) -> None:
        """Called before sends of *task* leave."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Single(Call):
    """get, put, cas, delete: one operation."""

    def __init__(self, recorder: Recorder, f: str, fields: dict[str, Any]) -> None:
        self._recorder = recorder
        self._f = f
        self._fields = fields
        self._process = recorder.begin(f, fields)
        self._is_open = True

    @override
    def ends(self, reply: RegisterReply) -> RegisterReply:
        value = _shown(reply.value) if self._f == "get" else self._fields.get("value")
        if self._f == "cas" and not reply.changed:
            value = False  # that the comparison did not hold is an observation, which may be wrong
        self._end("ok", value, None)
        return reply

    def fails(self, why: str) -> None:
        """Nothing came of it, if it was not answered."""
        self._end("fail", None, why)

    def _end(self, kind: str, value: Any, error: str | None) -> None:
        if self._is_open:
            self._is_open = False
            self._recorder.end(self._process, kind, self._f, self._fields, value, error)

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._end(_kind(error), self._fields.get("value"), f"{type(error).__name__}: {error}")


class _Change(Call):
    """change, propose: a compare-and-set for each attempt, and a read."""

    def __init__(self, recorder: Recorder, key: bytes) -> None:
        self._recorder = recorder
        self._key = _shown(key)
        self._read = _Single(recorder, "get", {"key": self._key})
        self._open: dict[Ballot, tuple[int, Attempt]] = {}

    @override
    def attempts(self, task: Task) -> None:
        for attempt in attempts_of(task):
            if attempt.ballot not in self._open:
                self._open[attempt.ballot] = (self._recorder.begin("cas", self._fields(attempt)), attempt)

    def _fields(self, attempt: Attempt) -> dict[str, Any]:
        before = None if attempt.before is None else _shown(attempt.before.value)
        return {"key": self._key, "value": [before, _shown(attempt.after.value)]}

    @override
    def ends(self, reply: RegisterReply) -> RegisterReply:
        """The newest attempt that made what is answered is the one that was applied; the others never were."""
        applied = [
            ballot
            for ballot, (_, attempt) in self._open.items()
            if reply.changed and (attempt.after.version, attempt.after.value) == (reply.version, reply.value)
        ]
        for ballot, (process, attempt) in self._open.items():
            fields = self._fields(attempt)
            kind, text = (
                ("ok", None) if ballot in applied[-1:] else ("fail", "another attempt was applied, or none")
            )
            self._recorder.end(process, kind, "cas", fields, fields["value"], text)
        self._open.clear()
        return reply if reply.changed else self._read.ends(reply)

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._read.fails("it has changed the register, or told nothing")
        for process, attempt in self._open.values():
            fields = self._fields(attempt)
            became = "info" if error is None else _kind(error)
            why = None if error is None else f"{type(error).__name__}: {error}"
            self._recorder.end(process, became, "cas", fields, fields["value"], why)


def _kind(error: BaseException) -> str:
    return "fail" if isinstance(error, NotApplied | UsageError | WrongCluster) else "info"


_NOTHING = Call()


def call(f: str, key: bytes, value: bytes | None = None) -> Call:
    """A get, put or delete begins."""
    recorder = recording.active
    if recorder is None:
        return _NOTHING
    fields: dict[str, Any] = {"key": _shown(key)}
    if f == "put":
        fields["value"] = _shown(value)
    return _Single(recorder, f, fields)


def cas(key: bytes, expected: bytes | None, wanted: bytes | None) -> Call:
    """A compare-and-set begins."""
    recorder = recording.active
    if recorder is None:
        return _NOTHING
    return _Single(recorder, "cas", {"key": _shown(key), "value": [_shown(expected), _shown(wanted)]})


def change(key: bytes) -> Call:
    """A change begins."""
    recorder = recording.active
    return _NOTHING if recorder is None else _Change(recorder, key)
