"""What stands under the name of a replicated object, in bytes and words: its head, its calls, its state, and which
methods may be called.
"""

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from troth.errors import UsageError

MARK = "_troth_command"
"""The attribute of a method that is a command."""

_RESERVED = ("aio", "applied_revision", "background", "call", "close", "on", "open", "read")

encode = msgspec.msgpack.Encoder().encode
decode_head = msgspec.msgpack.Decoder(tuple[int, str]).decode
decode_call = msgspec.msgpack.Decoder(tuple[str, list[Any], dict[str, Any]]).decode
decode_state = msgspec.msgpack.Decoder(tuple[int, int, Any]).decode


def commands_of(kind: type[Any]) -> dict[str, Callable[..., Any]]:
    """The methods of *kind* that are marked as commands, by name.

    Raises:
        UsageError: there is none, or one has a name that replicas need for themselves.
    """
    found = {name: method for name, method in inspect.getmembers(kind, callable) if getattr(method, MARK, False)}
    if not found:
        raise UsageError(f"{kind.__name__} marks no method with @troth.command (or @troth.replicated)")
    for name in found:
        if name.startswith("_") or name in _RESERVED:
            raise UsageError(f"{kind.__name__}.{name}: a command cannot be called that; choose another name")
    return found


def call_body(
    kind: type[Any], method: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bytes:
    """The call of *method* of *kind*, which is *function*, as it is stored.

    Raises:
        UsageError: the arguments do not fit, or are not plain data.
    """
    try:
        inspect.signature(function).bind(None, *args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{kind.__name__}.{method}: {error}") from None
    what = f"an argument of {kind.__name__}.{method}"
    plain([args, kwargs], what, tuples=True)
    try:
        return encode([method, args, kwargs])
    except (OverflowError, ValueError, RecursionError) as error:
        raise UsageError(f"{what} cannot be sent: {error}") from None


_PLAIN = (type(None), bool, int, float, str, bytes)


def plain(data: Any, what: str, *, tuples: bool) -> Any:
    """*data* itself, if it is plain: it must come back from msgpack as it went in.

    Raises:
        UsageError: something in it is not plain.
    """
    waiting = [data]
    seen = 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen > 1_000_000:
            raise UsageError(f"{what} is too large, or contains itself")
        kind = type(item)
        if kind is list or (tuples and kind is tuple):
            waiting.extend(item)
        elif kind is dict:
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif kind not in _PLAIN:
            hint = "" if tuples else "; define to_state and from_state"
            raise UsageError(f"{what} is plain data (numbers, str, bytes, list, dict), not {kind.__name__}{hint}")
    return data
