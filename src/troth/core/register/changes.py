"""What can be made of a register, as pure functions of its state (§2.1: "a change function")."""

from collections.abc import Callable

from troth.core.register.messages import State
from troth.core.register.states import Change, Decision, Keep, Write


def put(value: bytes) -> Change:
    """Whatever it holds, it becomes *value*."""
    return lambda state: Write(value=value)


def cas(expected: bytes | None, wanted: bytes | None) -> Change:
    """It becomes *wanted* if it holds *expected* (None: nothing); else it stays."""

    def change(state: State | None) -> Decision:
        held = None if state is None else state.value
        return Write(value=wanted) if held == expected else Keep()

    return change


def apply(function: Callable[[bytes | None], bytes | None]) -> Change:
    """It becomes what *function* makes of it (None: nothing there). An equal value changes nothing."""

    def change(state: State | None) -> Decision:
        held = None if state is None else state.value
        wanted = function(held)
        return Keep() if wanted == held else Write(value=wanted)

    return change


def propose(value: bytes) -> Change:
    """It is decided for ever: on what it holds, or on *value* if it holds nothing."""

    def change(state: State | None) -> Decision:
        if state is not None and state.decided:
            return Keep()
        held = None if state is None else state.value
        return Write(value=value if held is None else held, decide=True)

    return change


def delete() -> Change:
    """It holds nothing any more; a tombstone stays until it is collected."""

    def change(state: State | None) -> Decision:
        return Keep() if state is None or state.value is None else Write(value=None)

    return change
