"""Locks with a holder and fencing tokens, and the mutex that anybody may release."""

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from troth.errors import UsageError
from troth.verify.history import Value
from troth.verify.models.model import ILLEGAL, Call, Model, unknown


class Lock(Model):
    """A lock: acquire (optionally -> fencing token), release. State: (holder, last token).

    Either may report ``false``: then it changed nothing.
    The holder is the process. Tokens, when they are integers, must grow with every acquisition. A lease that
    expires is a release that nobody recorded; for those use the check "lock-safety", which knows time.
    """

    name: ClassVar[str] = "lock"

    @override
    def init(self) -> Value:
        """Free, no token handed out."""
        return (None, None)

    @override
    def step(self, state: Value, call: Call) -> Value:
        """See the class."""
        if not isinstance(state, tuple):
            raise UsageError(f"the state of a lock is a pair, found {state!r}")
        holder, last = state
        if call.known and call.result is False and call.f in ("acquire", "release"):
            return state
        if call.f == "acquire":
            if holder is not None:
                # A crashed acquire that never got the lock changes nothing.
                return ILLEGAL if call.known else state
            token = call.result if call.known else None
            if isinstance(token, int) and not isinstance(token, bool):
                if isinstance(last, int) and token <= last:
                    return ILLEGAL
                last = token
            return (call.process, last)
        if call.f == "release":
            if holder is None or holder != call.process:
                return ILLEGAL if call.known else state
            return (None, last)
        raise unknown(self, call)

    @override
    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Everything that one holder did."""
        groups: dict[int | str, list[int]] = {}
        for index, call in calls.items():
            groups.setdefault(call.process, []).append(index)
        return [tuple(group) for group in groups.values()]


class Mutex(Lock):
    """Knossos's mutex: whoever releases need not be who acquired."""

    name: ClassVar[str] = "mutex"
    personal: ClassVar[bool] = False

    @override
    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Nothing: any of them may have been what another one waited for."""
        return []

    @override
    def step(self, state: Value, call: Call) -> Value:
        """Held or not, that is all."""
        if call.f not in ("acquire", "release"):
            raise unknown(self, call)
        if call.known and call.result is False:
            return state
        free = state == (None, None)
        if free is (call.f == "acquire"):
            return ("held", None) if free else (None, None)
        return ILLEGAL if call.known else state
