"""Histories whose events are maps: Knossos and Jepsen EDN, Jepsen JSON, Elle's both, Porcupine's kv text, our JSONL.

All of them have the same fields (process, type, f, value, and at times key, time, index, error), in a vector, a list
or one map a line. Fields that are not known are passed over, since every writer adds its own.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec import structs

from troth.errors import DecodeError
from troth.verify.branches import EITHER
from troth.verify.completions import pair
from troth.verify.formats import edn
from troth.verify.formats.shaping import paired
from troth.verify.formats.spans import without_spans
from troth.verify.history import (
    FOREVER,
    Event,
    EventType,
    History,
    Process,
    Reading,
    Value,
    counted,
    show,
)

_TYPES: Final = {kind.value: kind for kind in EventType}
_KNOSSOS: Final = Reading(failed="absent", nil_read="unknown")
_KV: Final = Reading(failed="absent", nil_read="value", initial="")
_TRANSACTIONS: Final = frozenset({"txn", "transfer"})
_LONG: Final = frozenset({"read", "write"})
"""Knossos's multi-register spells them out."""
_WRITES: Final = frozenset({"write", "w"})

_WEAKER: Final = frozenset({"sequential", "session", "bounded", "eventual"})
"""What a read may ask for that is less than linearizable, perhaps with a bound: ``bounded(seconds=2)``. Other tools
call other things a level."""

_KV_LINE: Final = re.compile(
    r"""\s*\{:process\s+(?P<process>\d+),\s*:type\s+:(?P<type>invoke|ok|fail|info),\s*:f\s+:(?P<f>get|put|append),\s*
    :key\s+"(?P<key>[^"\\]*)",\s*:value\s+(?:nil|"(?P<value>[^"\\]*)")\s*\}\s*$""",
    re.VERBOSE,
)


def read_edn(text: str) -> History:
    """Read Knossos, Jepsen or Elle EDN: a vector or list of maps, or maps one after the other."""
    events = list(_events(_edn_maps(text)))
    multi = any(
        any(isinstance(item, tuple) and item[0] in _LONG for item in event.value)
        for event in events
        if event.f == "txn" and isinstance(event.value, tuple)
    )
    # A transaction's nil is an empty version that was seen; a register's nil in Knossos is an unrecorded result.
    if not multi and any(event.f in _TRANSACTIONS for event in events):
        return paired(events, Reading())
    initial = _initial(events) if multi else None
    history = paired(events, structs.replace(_KNOSSOS, initial=initial))
    if initial is not None:
        history.remarks += (
            f"registers are taken to start as {show(initial)}, which was read before it was written",
        )
    return history


def _initial(events: Iterable[Event]) -> Value:
    """What Knossos's multi-registers start as: there it is told to the model, and the file does not say.

    That is what the first read of a key saw, if it was invoked before any write of the key returned, and returned
    before a write of what it saw was invoked.
    """
    invoked: dict[Process, int] = {}
    overwritten: dict[Value, int] = {}
    written: set[tuple[Value, Value]] = set()
    found: dict[Value, Value] = {}
    for at, event in enumerate(events):
        micros = event.value if event.f == "txn" and isinstance(event.value, tuple) else ()
        items = [item for item in micros if isinstance(item, tuple) and len(item) == 3]
        if event.type is EventType.INVOKE:
            invoked[event.process] = at
            written.update((key, value) for f, key, value in items if f in _WRITES)
        elif event.type is EventType.OK:
            begun = invoked.get(event.process, at)
            for f, key, value in items:
                if f in _WRITES:
                    overwritten.setdefault(key, at)
                elif value is not None and overwritten.get(key, at) > begun and (key, value) not in written:
                    found.setdefault(key, value)
    values = set(found.values())
    return values.pop() if len(values) == 1 else edn.freeze(found) if found else None


def read_kv(text: str) -> History:
    """Read Porcupine's kv text: one map a line, string values, each key starting as the empty string, or as nil where
    that was read."""
    events: list[Event] = []
    for number, line in enumerate(text.split("\n"), 1):
        found = _KV_LINE.match(line)
        if found is None:
            if line.strip():
                # Not of the usual shape somewhere: read everything with the full parser instead.
                events = list(_events(_edn_maps(text)))
                break
            continue
        process, type_name, f, key, value = found.groups()
        events.append(Event(type=_TYPES[type_name], process=int(process), f=f, key=key, value=value, line=number))
    # Who is told nil of an absent key knows of no empty strings.
    absent = any(event.value is None and event.f == "get" and event.type is EventType.OK for event in events)
    return pair(events, reading=Reading() if absent else _KV)


def read_json(text: str) -> History:
    """Read JSON events: an array, or one object a line; the first may be the header of our own format.

    Raises:
        DecodeError: not JSON, or not an event; names line and column.
    """
    try:
        return _read_json(text, _json_values(text))
    except DecodeError:
        if not text.lstrip().startswith("["):
            raise
        # Once more, slowly, to say in which line of the array it is.
        return _read_json(text, _array_items(text))


def _read_json(text: str, values: Iterable[tuple[object, int]]) -> History:
    reading = Reading()
    rows: list[tuple[Mapping[object, object], int]] = []
    ending: dict[str, range] = {}
    never: set[int] = set()
    for value, line in values:
        if not isinstance(value, dict):
            raise DecodeError(f"line {line}, column 1: found {json.dumps(value)[:40]}, expected an event object")
        if "troth_history" in value:
            reading = _header(value, line)
            continue
        rows.append((value, line))
        # A key goes when its lease ends, which nobody records: a deletion that may happen at any time from here.
        if keys := _leased(value):
            ending[repr(value.get("process"))] = range(len(rows), len(rows) + len(keys))
            rows += [
                ({"process": f"lease/{len(rows)}/{at}", "type": "invoke", "f": "delete", "key": key}, line)
                for at, key in enumerate(keys)
            ]
        elif ending and value.get("type") != "invoke":
            ends = ending.pop(repr(value.get("process")), ())
            if value.get("type") == "fail" or value.get("value") is False:
                # It was refused, and has put nothing under a lease.
                never.update(ends)
    if never:
        rows = [row for at, row in enumerate(rows) if at not in never]
    events = list(_events(rows))
    history = without_spans(paired(events, reading))
    weaker = sum(event.level is not None for event in events)
    if weaker:
        history.remarks += (
            f"{counted(weaker, 'read')} asked for less than linearizable, a model that leaves such reads out",
        )
    return history


def _leased(row: Mapping[object, object]) -> list[object]:
    """The keys that an update puts under a lease."""
    if row.get("type") != "invoke":
        return []
    keys = row.get("leased")
    return keys if isinstance(keys, list) else [row.get("key")] if row.get("lease") else []


def _array_items(text: str) -> Iterator[tuple[object, int]]:
    """The items of a JSON array with their lines."""
    decode = json.JSONDecoder().raw_decode
    at = text.index("[") + 1
    line, counted = 1, 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at >= len(text):
            raise DecodeError(f"line {line}: the text ends inside an array, expected ']'")
        if text[at] == "]":
            return
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, at = decode(text, at)
        except json.JSONDecodeError as error:
            raise DecodeError(f"line {error.lineno}, column {error.colno}: {error.msg}, expected JSON") from error
        yield value, line


def _header(header: Mapping[str, object], line: int) -> Reading:
    if header["troth_history"] != 1:
        raise DecodeError(f"line {line}, column 1: troth_history {header['troth_history']!r}, expected version 1")
    failed, nil_read = header.get("failed", "absent"), header.get("nil_read", "value")
    if failed not in ("absent", "observed"):
        raise DecodeError(f"line {line}, column 1: failed {failed!r}, expected 'absent' or 'observed'")
    if nil_read not in ("value", "unknown"):
        raise DecodeError(f"line {line}, column 1: nil_read {nil_read!r}, expected 'value' or 'unknown'")
    return Reading(
        failed="observed" if failed == "observed" else "absent",
        nil_read="unknown" if nil_read == "unknown" else "value",
        initial=edn.freeze(header.get("initial")),
    )


def _json_values(text: str) -> Iterator[tuple[object, int]]:
    stripped = text.lstrip()
    if stripped.startswith("["):
        whole = _decode_json(text, 1)
        if isinstance(whole, list):
            first = text.count("\n", 0, len(text) - len(stripped)) + 1
            yield from ((item, first) for item in whole)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line and not line.isspace():
            yield _decode_json(line, number), number


def _decode_json(text: str, line: int) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        pass
    # The quick decoder says no more than "malformed"; the standard one says where.
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        spot = f"line {line + error.lineno - 1}, column {error.colno}"
        raise DecodeError(f"{spot}: {error.msg}, expected JSON") from error


def _edn_maps(text: str) -> Iterator[tuple[Mapping[object, object], int]]:
    line, seen = 1, 0
    for value, offset in edn.read_all(text):
        line += text.count("\n", seen, offset)
        seen = offset
        if isinstance(value, dict):
            yield value, line
        elif isinstance(value, tuple) and all(isinstance(item, dict) for item in value):
            for item in value:
                if isinstance(item, dict):
                    yield item, line
        else:
            raise DecodeError(
                f"{edn.where(text, offset)}: found {edn.dump(value)[:40]}, expected a map or a list of maps"
            )


def _events(rows: Iterable[tuple[Mapping[object, object], int]]) -> Iterator[Event]:
    freeze = edn.freeze
    nameless: dict[str, Process] = {}
    for number, (row, line) in enumerate(rows, 1):
        process = _process(row, line, number)
        if "process" not in row:
            # What is invoked without a process is completed by the next of the same name that has none either.
            name = str(row.get("f"))
            if row.get("type") in ("invoke", ":invoke"):
                nameless[name] = process
            else:
                process = nameless.pop(name, process)
        type_name = row.get("type")
        kind = _TYPES.get(type_name.lstrip(":")) if isinstance(type_name, str) else None
        if kind is None:
            raise DecodeError(f"line {line}, column 1: type {type_name!r}, expected invoke, ok, fail or info")
        if isinstance(process, str) and process.lstrip(":").startswith("nemesis"):
            # A nemesis invokes and completes too; what matters is when it spoke.
            kind = EventType.INFO
        f = row.get("f", "txn")
        if not isinstance(f, str):
            if kind is not EventType.INFO:
                raise DecodeError(f"line {line}, column 1: f {f!r}, expected the name of an operation")
            f = str(f)
        time = row.get("time")
        error, revision, level = row.get("error"), row.get("revision"), row.get("level")
        value = freeze(row.get("value"))
        f = f.lstrip(":")
        if f == "txn" and isinstance(value, tuple):
            value = _micro_operations(value, line)
        yield Event(
            type=kind,
            process=process,
            f=f,
            key=freeze(row.get("key")),
            value=value,
            time=int(time) if isinstance(time, int | float) and abs(time) < FOREVER else None,
            error=None if error is None else str(error),
            line=line,
            revision=revision if isinstance(revision, int) else None,
            level=str(level) if isinstance(level, str) and level.lstrip(":").split("(")[0] in _WEAKER else None,
        )


def _process(row: Mapping[object, object], line: int, number: int) -> Process:
    process = row.get("process", -1 if "process" in row else None)
    if process is None and "process" not in row:
        # Elle accepts completed transactions without a process: each is a session of its own.
        return f"event {number}"
    if isinstance(process, bool) or not isinstance(process, int | str):
        raise DecodeError(f"line {line}, column 1: process {process!r}, expected an integer or a name")
    return process if isinstance(process, int) else str(process)


def _micro_operations(value: tuple[object, ...], line: int) -> tuple[object, ...]:
    normal = []
    for item in value:
        if isinstance(item, tuple) and len(item) == 2 and item[0] in ("r", "read", ":r", ":read"):
            item = (*item, None)
        if not isinstance(item, tuple) or len(item) != 3 or not isinstance(item[0], str):
            raise DecodeError(f"line {line}, column 1: {edn.dump(item)[:40]} in a txn, expected [f key value]")
        f, key, wanted = item[0].lstrip(":"), item[1], item[2]
        if f == EITHER:
            if not isinstance(key, tuple) or not isinstance(wanted, tuple):
                raise DecodeError(f"line {line}, column 1: {edn.dump(item)[:40]} in a txn, expected two branches")
            key, wanted = _micro_operations(key, line), _micro_operations(wanted, line)
        normal.append((f, key, wanted))
    return tuple(normal)
