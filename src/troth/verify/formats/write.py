"""Writing a `History` back: our JSON lines, and EDN that Jepsen, Knossos and Elle read."""

import re
from math import isfinite
from typing import Final

import msgspec

from troth.errors import UsageError
from troth.verify.formats import edn
from troth.verify.history import Event, History, Value, show

_NAME: Final = re.compile(r"[A-Za-z*!_?$%&=<>][\w.*+!?$%&=<>'-]*", re.ASCII)
"""What every reader of EDN takes for a keyword without a name space."""


def write_jsonl(history: History) -> str:
    """Our own format, described in `troth.verify.history`; `read_history` reads the events and the reading back equal.

    Of what its reader took apart (`History.pieces`) the pieces are written, each as of a process of its own.

    Raises:
        UsageError: a value that JSON cannot say: a set, a map whose keys are not all texts, bytes, NaN, an infinity, or
            a text with a lone surrogate. `write_edn` can say most of them.
    """
    reading = history.reading
    header = {
        "troth_history": 1,
        "failed": reading.failed,
        "nil_read": reading.nil_read,
        "initial": _json(reading.initial),
    }
    rows = [header, *(_row(event) for event in history.events())]
    try:
        return "".join(msgspec.json.encode(row).decode() + "\n" for row in rows)
    except UnicodeEncodeError as error:
        raise _lone_surrogate(error) from None


def _row(event: Event) -> dict[str, object]:
    row: dict[str, object] = {"process": event.process, "type": event.type.value, "f": event.f}
    fields = (
        ("key", event.key),
        ("value", event.value),
        ("time", event.time),
        ("error", event.error),
        ("revision", event.revision),
        ("level", event.level),
    )
    for name, value in fields:
        if value is not None:
            row[name] = _json(value)
    return row


def _json(value: Value) -> object:
    """*value* in the types of JSON, from which it is read back equal (keywords as texts, which they equal)."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float) and isfinite(value):
        return value
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    if isinstance(value, edn.Record) and all(isinstance(key, str) for key, _ in value):
        return {str(key): _json(item) for key, item in value}
    raise UsageError(f"JSON has no form for {show(value)[:80]} that is read back equal")


def write_edn(history: History) -> str:
    """One EDN map a line, with the fields of Jepsen's histories.

    `read_history` reads the events back equal, but for NaN, which it reads as a text; the history's `Reading` is not in
    the text.

    Raises:
        UsageError: a value that EDN cannot say: bytes, or a text with a lone surrogate.
    """
    lines = []
    for index, event in enumerate(history.events()):
        row: dict[object, object] = {
            edn.Keyword("index"): index,
            edn.Keyword("process"): _name(event.process),
            edn.Keyword("type"): edn.Keyword(event.type.value),
            edn.Keyword("f"): _name(event.f),
            edn.Keyword("value"): event.value,
        }
        fields = (
            ("key", event.key),
            ("time", event.time),
            ("error", event.error),
            ("revision", event.revision),
            ("level", event.level),
        )
        for name, value in fields:
            if value is not None:
                row[edn.Keyword(name)] = value
        lines.append(edn.dump(row) + "\n")
    text = "".join(lines)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _lone_surrogate(error) from None
    return text


def _name(name: str | int) -> str | int:
    """A name as a keyword, or as a text if it could not be read as one."""
    return edn.Keyword(name) if isinstance(name, str) and _NAME.fullmatch(name) else name


def _lone_surrogate(error: UnicodeEncodeError) -> UsageError:
    return UsageError(f"a text of this history is no Unicode (lone surrogate): {error.object[error.start]!r}")
