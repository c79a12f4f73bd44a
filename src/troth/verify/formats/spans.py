"""Reads and deletions of spans of keys, as clients of troth record them, key by key.

``range`` is asked with [start, end] and answered with [[key, value], ...]; ``delete-range`` is asked with [start, end],
or stands in a transaction as ["delete-range", start, end].
A span holds keys with start <= key < end, or to the last key if end is a single zero byte, in the order of their bytes.

Outside of transactions each becomes one get, or one delete, of every key of the history that lies in it, at any time
until it returned. That it happened to all of them at one instant is thereby not checked; everything found wrong is
wrong all the same. A range that shows a key outside its span, or one key twice, becomes a get as well that no value
explains. In a transaction it becomes a deletion of each of those keys.
"""

import base64
from typing import Final

from msgspec import structs

from troth.errors import UsageError
from troth.verify.branches import EITHER, flat
from troth.verify.history import EventType, History, Operation, Value, counted

SPANS: Final = frozenset({"range", "delete-range"})
_PIECES_MAX: Final = 5_000_000
_BASE64: Final = "base64:"
_DELETION: Final = "delete-range"
_LAST: Final = b"\0"


def without_spans(history: History) -> History:
    """*history* with every span taken apart.

    Raises:
        UsageError: a span that is not [start, end], or more pieces than can be looked at.
    """
    spans = [op for op in history.operations if op.f in SPANS]
    in_transactions = any(op.f == "txn" and _has_span(op) for op in history.operations)
    if not spans and not in_transactions:
        return history
    keys = {key: _bytes(key) for op in history.operations for key in _keys(op) if isinstance(key, str)}
    if len(keys) * (len(spans) + in_transactions * len(history)) > _PIECES_MAX:
        raise UsageError(f"{len(spans)} spans over {len(keys)} keys are too many to be taken apart")
    operations: list[Operation] = []
    of = dict(history.pieces)
    for op in history.operations:
        if op.f == "txn":
            micros = (_deleting(op.argument, keys), _deleting(op.result, keys))
            operations.append(structs.replace(op, argument=micros[0], result=micros[1]))
        elif op.f not in SPANS:
            operations.append(op)
        elif op.outcome is EventType.OK or (op.f == "delete-range" and op.outcome is EventType.INFO):
            pieces = _pieces(op, keys)
            operations += pieces
            of.update((piece.process, op.process) for piece in pieces)
    apart = History.of(operations, faults=history.faults, reading=history.reading)
    apart.remarks, apart.pieces = history.remarks, of
    if spans:
        apart.remarks += (
            f"taken for operations on single keys, not all at one instant: {counted(len(spans), 'operation')} on spans",
        )
    return apart


def _has_span(op: Operation) -> bool:
    return any(f == _DELETION for f, _, _ in (*flat(op.argument), *flat(op.result)))


def _deleting(micros: Value, keys: dict[str, bytes]) -> Value:
    """A transaction in which every span that it deletes stands as the keys that lie in it."""
    if not isinstance(micros, tuple):
        return micros
    found: list[Value] = []
    for item in micros:
        if isinstance(item, tuple) and item[:1] == (_DELETION,) and len(item) == 3:
            found += [("w", key, None) for key in keys if lies_in(key, item[1], item[2])]
        elif isinstance(item, tuple) and item[:1] == (EITHER,) and len(item) == 3:
            found.append((EITHER, _deleting(item[1], keys), _deleting(item[2], keys)))
        else:
            found.append(item)
    return tuple(found)


def _pieces(op: Operation, keys: dict[str, bytes]) -> list[Operation]:
    if not isinstance(op.argument, tuple) or len(op.argument) != 2:
        raise UsageError(f"a {op.f} is asked with [start, end], found {op.argument!r}")
    start, end = _bytes(op.argument[0]), _bytes(op.argument[1])
    inside = [key for key, at in keys.items() if start <= at and (at < end or end == _LAST)]
    answers = _answers(op.result, inside) if op.f == "range" else [(key, None) for key in inside]
    f = "get" if op.f == "range" else "delete"
    return [
        structs.replace(op, f=f, process=f"{op.process}/{op.line}/{number}", key=key, argument=None, result=result)
        for number, (key, result) in enumerate(answers)
    ]


def _answers(result: Value, inside: list[str]) -> list[tuple[Value, Value]]:
    """What a range said of every key that it was asked for; where it said too much, what nobody can have written."""
    wanted = set(inside)
    found: dict[Value, Value] = {}
    strange: list[tuple[Value, Value]] = []
    for key, value in _pairs(result):
        if key not in wanted:
            strange.append((key, ("outside of the span", value)))
        elif key in found:
            strange.append((key, ("twice in one answer", value)))
        else:
            found[key] = value
    return [(key, found.get(key)) for key in inside] + strange


def _keys(op: Operation) -> list[Value]:
    if op.f == "range":
        return [key for key, _ in _pairs(op.result)] if op.outcome is EventType.OK else []
    if op.f == "txn":
        return [key for f, key, _ in (*flat(op.argument), *flat(op.result)) if f != _DELETION]
    return [op.key]


def _pairs(value: Value) -> list[tuple[Value, Value]]:
    return [(item[0], item[1]) for item in _items(value) if isinstance(item, tuple) and len(item) == 2]


def _items(value: Value) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else ()


def lies_in(key: Value, start: Value, end: Value) -> bool:
    """Whether *key* is in the span [start, end)."""
    return _bytes(start) <= _bytes(key) and (_bytes(key) < _bytes(end) or _bytes(end) == _LAST)


def _bytes(text: Value) -> bytes:
    if not isinstance(text, str):
        raise UsageError(f"a span is of keys that are texts, found {text!r}")
    return base64.b64decode(text[len(_BASE64) :]) if text.startswith(_BASE64) else text.encode()
