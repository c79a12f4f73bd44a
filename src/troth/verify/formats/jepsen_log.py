"""Jepsen's text log, as in Porcupine's etcd test data.

::

    INFO  jepsen.util - 3	:invoke	:cas	[1 4]
    INFO  jepsen.util - 3	:fail	:cas	[1 4]
    INFO  jepsen.util - 0	:info	:write	:timed-out
    INFO  jepsen.util - :nemesis	:info	:start	"Cut off ..."

Fields are separated by tabs, spaces or both; anything may stand before ``jepsen.util`` (times, levels, threads), and
newer logs have a colon behind it. Lines of other loggers are passed over, which `History.remarks` says. Values mean
what they mean in Jepsen's EDN (keys in front, drains, collections: `maps.paired`). Reading: a ``:fail :cas [a b]`` is
an observation (the register was not a) and has a place in the order, unless an error stands behind its value; every
other ``:fail`` never happened; an ``:info`` leaves its operation open; the register starts as nil, and a read of nil
saw exactly that.
"""

import re
from typing import Final

from troth.errors import DecodeError
from troth.verify.formats import edn
from troth.verify.formats.shaping import paired
from troth.verify.history import Event, EventType, History, Process, Reading, counted

READING: Final = Reading(failed="observed", nil_read="value")

_LINE: Final = re.compile(r"jepsen\.util\s*[-:]?\s+(\S+)\s+:(\w+)\s+:(\S+)(?:[^\S\n]+([^\n]*?))?\s*$")
_MARK: Final = re.compile(r"jepsen\.util\s*[-:]?")
_TYPES: Final = {kind.value: kind for kind in EventType}
_SIMPLE: Final = re.compile(r"-?\d+")
_NOTED: Final = re.compile(r"(-?\d+|nil)\s+:[\w-]+(?:\s+-?\w+)?")
"""A value with a remark behind it, such as ``54 :hint 2``."""
_PAIR: Final = re.compile(r"\[\s*(-?\d+)[\s,]+(-?\d+)\s*\]")


def read(text: str) -> History:
    """Read a Jepsen text log.

    Raises:
        DecodeError: a line of jepsen.util that is not an event; names line and column.
    """
    events: list[Event] = []
    others: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        found = _LINE.search(line)
        if found is None:
            if line.strip():
                others.append(number)
            mark = _MARK.search(line)
            if mark is not None and re.match(r"\s*\d+(?:\s|$)", line[mark.end() :]):
                raise DecodeError(
                    f"line {number}, column {mark.end() + 1}: found {line[mark.end() :].strip()[:40]!r}, expected "
                    f"<process> :invoke|:ok|:fail|:info :<f> <value>"
                )
            continue
        who, type_name, f, rest = found.groups()
        kind = _TYPES.get(type_name)
        process: Process = int(who) if _SIMPLE.fullmatch(who) else who.lstrip(":")
        if isinstance(process, str):
            kind = EventType.INFO
        elif kind is None:
            raise DecodeError(
                f"line {number}, column {found.start(2) + 1}: found :{type_name}, expected :invoke, :ok, :fail or :info"
            )
        if rest is None and kind is EventType.OK and f == "read":
            raise DecodeError(f"line {number}, column {len(line) + 1}: the line ends, expected what was read")
        value, *more = _values(rest or "nil", number, found.start(4) if rest else len(line), process)
        error = None
        if isinstance(value, edn.Keyword):
            # ``:timed-out`` may be followed by the request's value; the keyword says that there is no result.
            value, error = None, str(value)
        elif more and kind is EventType.FAIL:
            error = str(more[0])
        events.append(Event(type=kind, process=process, f=f, value=value, error=error, line=number))
    history = paired(events, READING)
    if others:
        history.remarks += (
            f"passed over, as not about operations: {counted(len(others), 'line')}, the first of which is line "
            f"{others[0]}",
        )
    return history


def _values(text: str, line: int, column: int, process: Process) -> tuple[object, ...]:
    """What stands behind the name of an operation: its value, and what is said beside it."""
    if text == "nil":
        return (None,)
    if _SIMPLE.fullmatch(text):
        return (int(text),)
    noted = _NOTED.fullmatch(text)
    if noted is not None:
        return (None if noted[1] == "nil" else int(noted[1]),)
    couple = _PAIR.fullmatch(text)
    if couple is not None:
        return ((int(couple[1]), int(couple[2])),)
    if isinstance(process, str):
        # What the nemesis says is prose as often as data.
        return (text,)
    try:
        values = tuple(edn.freeze(value) for value, _ in edn.read_all(text))
    except DecodeError as error:
        raise DecodeError(
            f"line {line}, column {column + 1}: found {text[:40]!r}, expected an EDN value"
        ) from error
    return values or (None,)
