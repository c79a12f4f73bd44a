"""Turns a verdict into one HTML file that needs nothing else: no network, no fonts, no libraries.

The page shows every process as a row and every operation as a bar from its invocation to its return, in the order of
events; faults as bands behind them; and over them an order: the witness of a legal history, or the longest legal order
before the failure of an illegal one. Hovering over a bar shows what it asked and got, where it stands in that order,
and the state before and after it. The operation that cannot be placed is red, and one click away.

Large histories are cut to a window around the failure (or to their beginning), and the page says so.
"""

from typing import Final

import msgspec

from troth.errors import TrothError
from troth.verify.history import FOREVER, EventType, History, Operation, Value, counted, show
from troth.verify.models import ILLEGAL, OBJECTS, Model, Several, model_of
from troth.verify.report.template import PAGE
from troth.verify.transactions.outcome import TransactionVerdict
from troth.verify.verdict import Counterexample, Status, Verdict
from troth.verify.watches import WATCH

OPERATIONS_MAX: Final = 2_000
"""Bars on a page; browsers stay quick up to here."""
_STATE_CHARS_MAX: Final = 120
_CYCLES_MAX: Final = 12


def text(verdict: Verdict, *, lines_max: int = 20) -> str:
    """The verdict for a terminal, at most *lines_max* lines."""
    return verdict.text(lines_max=lines_max)


def html(
    verdict: Verdict,
    *,
    title: str = "history",
    object: Model | None = None,
    operations_max: int = OPERATIONS_MAX,
    command: str = "",
) -> str:
    """The verdict as one HTML page.

    Args:
        verdict: of `check`.
        title: shown on top, usually the file's name.
        object: the model that was checked, when it is one of your own; otherwise known by its name.
        operations_max: bars to draw at most.
        command: the command line that reproduces this, shown if given.
    """
    history = verdict.history
    example = verdict.counterexample
    order = _order(verdict, example)
    low, high = _window(history, example, operations_max)
    shown = [op for op in history.operations if op.invoked < high and _end(op) >= low]
    rank = {index: at + 1 for at, index in enumerate(order)}
    states = _states(verdict, object, order)
    involved = set(example.involved) if example is not None else set()
    lanes, labels = _lanes(shown, high)
    bars = []
    for op in shown:
        before, after = states.get(op.index, ("", ""))
        bars.append(
            {
                "i": op.index,
                "lane": lanes[op.index],
                "from": op.invoked - low,
                "to": _end(op) - low,
                "kind": op.outcome.value,
                "bad": example is not None and op.index == example.operation,
                "near": op.index in involved,
                "label": _label(op),
                "text": op.describe() + (f" ({op.error})" if op.error else ""),
                "rank": rank.get(op.index, 0),
                "before": before,
                "after": after,
                "time": _time(op),
            }
        )
    data = {
        "title": title,
        "status": verdict.status.value,
        "headline": f"{counted(len(history), 'operation')}, {verdict.model}, object {verdict.object}",
        "reason": verdict.reason,
        "reading": verdict.reading.sentence(),
        "algorithms": sorted({f"{part.algorithm} ({part.cost})" for part in verdict.parts}),
        "anomalies": list(verdict.anomalies),
        "command": command,
        "cut": "" if len(shown) == len(history) else f"{len(shown)} of {len(history)} operations are drawn",
        "order": "a legal order" if verdict.status is Status.OK else "the longest legal order before the failure",
        "bars": bars,
        "lanes": labels,
        "width": high - low,
        "faults": _faults(history, low, high),
        "low": low,
        "size": len(history),
        "bad": None if example is None else example.operation,
        "why": "" if example is None or isinstance(verdict, TransactionVerdict) else example.reason,
        "minimal": [] if example is None else _minimal(history, example),
        "cycles": _cycles(verdict) if isinstance(verdict, TransactionVerdict) else [],
        "ruled": _ruled_out(verdict) if isinstance(verdict, TransactionVerdict) else [],
        "configurations": [] if example is None else _configurations(history, example),
        "parts": [
            {
                "key": show(part.key),
                "status": part.status.value,
                "algorithm": part.algorithm,
                "events": part.events,
            }
            for part in verdict.parts[:200]
        ],
    }
    encoded = msgspec.json.encode(data).decode()
    # Nothing in the data may end the script element or open a comment in it.
    encoded = encoded.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return PAGE.replace("/*DATA*/null", encoded)


def _minimal(history: History, example: Counterexample) -> list[dict[str, object]]:
    """The smallest illegal part, its events numbered anew."""
    operations = [history.operations[index] for index in example.minimal]
    ends = sorted({op.invoked for op in operations} | {op.returned for op in operations})
    at = {place: column for column, place in enumerate(ends)}
    return [
        {
            "i": op.index,
            "from": at[op.invoked],
            "to": at[op.returned],
            "open": op.returned == FOREVER,
            "kind": op.outcome.value,
            "bad": op.index == example.operation,
            "text": op.describe(),
        }
        for op in operations
    ]


def _cycles(verdict: TransactionVerdict) -> list[dict[str, object]]:
    """One example of every anomaly, drawn and told."""
    return [
        {
            "name": view.anomaly,
            "svg": verdict.svg(at),
            "lines": list(view.lines),
            "transactions": list(view.transactions),
            "sentences": list(view.sentences()),
            "steps": len(view.steps),
        }
        for at, view in enumerate(verdict.views[:_CYCLES_MAX])
    ]


def _ruled_out(verdict: TransactionVerdict) -> list[str]:
    rows = []
    if verdict.not_:
        rows.append(f"The weakest models that this history does not satisfy: {', '.join(verdict.not_)}.")
    if verdict.also_not:
        rows.append(f"With them: {', '.join(verdict.also_not)}.")
    return rows


def _order(verdict: Verdict, example: Counterexample | None) -> tuple[int, ...]:
    if verdict.status is Status.OK:
        return verdict.witness or ()
    return example.prefix if example is not None else ()


def _window(history: History, example: Counterexample | None, operations_max: int) -> tuple[int, int]:
    """Positions [low, high) to draw."""
    length = history.length
    if len(history) <= operations_max:
        return 0, length
    centre = 0
    blamed = () if example is None else (example.operation, *example.involved)
    first = next((index for index in blamed if index is not None), None)
    if first is not None:
        centre = history.operations[first].invoked
    half = operations_max
    low = max(0, centre - half)
    return low, min(length, low + 2 * half)


def _end(op: Operation) -> int:
    """Where its bar ends; one that never returned is drawn short."""
    return op.completed if op.completed != FOREVER else op.invoked + 3


def _lanes(shown: list[Operation], high: int) -> tuple[dict[int, int], list[str]]:
    """Rows of the picture: a process keeps its row; one that starts after another has ended may take over its row."""
    spans: dict[object, tuple[int, int]] = {}
    for op in shown:
        start, end = spans.get(op.process, (op.invoked, op.invoked))
        spans[op.process] = (
            min(start, op.invoked),
            max(end, min(_end(op), high)),
        )
    free_from: list[int] = []
    names: list[list[str]] = []
    row_of: dict[object, int] = {}
    for process, (start, end) in sorted(spans.items(), key=lambda item: item[1]):
        row = next((at for at, until in enumerate(free_from) if until < start), None)
        if row is None:
            row = len(free_from)
            free_from.append(end)
            names.append([])
        free_from[row] = end
        names[row].append(str(process))
        row_of[process] = row
    return {op.index: row_of[op.process] for op in shown}, [", ".join(row) for row in names]


def _label(op: Operation) -> str:
    if op.f == "txn":
        value = op.result if op.outcome is EventType.OK and isinstance(op.result, tuple) else op.argument
        items = [item for item in (value if isinstance(value, tuple) else ()) if isinstance(item, tuple)]
        return ", ".join(
            " ".join(part if isinstance(part, str) else show(part) for part in item) for item in items
        )
    key = "" if op.key is None else f" {op.key}"
    value = op.result if op.f in ("read", "get", "dequeue", "pop", "acquire") else op.argument
    if op.outcome is EventType.INFO:
        value = op.argument
    return f"{op.f}{key} {'' if value is None and op.f not in ('read', 'get') else show(value)}"


def _time(op: Operation) -> str:
    if op.start_ns is None:
        return ""
    begin = f"{op.start_ns / 1e6:.3f} ms"
    return begin if op.end_ns is None else f"{begin} for {(op.end_ns - op.start_ns) / 1e6:.3f} ms"


def _states(verdict: Verdict, object: Model | None, order: tuple[int, ...]) -> dict[int, tuple[str, str]]:
    """Operation -> the state before and after it, in *order*. Empty when there is no sequential object to run."""
    if object is None and verdict.object not in OBJECTS:
        return {}
    model = (object or model_of(verdict.object)).reading(verdict.reading)
    states: dict[Value, Value] = {}
    found: dict[int, tuple[str, str]] = {}
    try:
        for index in order:
            op = verdict.operation(index)
            call = model.call(op, verdict.reading)
            key = op.key if model.keyed else None
            state = states.get(key, model.init()) if key in states else model.init()
            after = ILLEGAL if call is None else model.step(state, call)
            if isinstance(after, Several):
                after = after.states[0]
            if after is ILLEGAL:
                # A prefix is legal for its own part only; what another model would say is not worth a guess.
                continue
            states[key] = after
            found[index] = (_short(state), _short(after))
    except TrothError:
        return {}
    return found


def _short(state: Value) -> str:
    shown = show(state)
    return shown if len(shown) <= _STATE_CHARS_MAX else shown[: _STATE_CHARS_MAX - 3] + "..."


def _faults(history: History, low: int, high: int) -> list[dict[str, object]]:
    """Bands: from a fault to the next one of the same process, unless it reads like an end."""
    bands: list[dict[str, object]] = []
    for at, fault in enumerate(history.faults):
        if _ends(fault.f) or fault.f == WATCH:
            continue
        later = next(
            (other for other in history.faults[at + 1 :] if other.process == fault.process and _ends(other.f)),
            None,
        )
        start, end = fault.position, later.position if later is not None else history.length
        if end < low or start >= high:
            continue
        value = "" if fault.value is None else f" {show(fault.value)}"
        bands.append(
            {
                "from": max(start, low) - low,
                "to": min(end, high) - low,
                "text": f"{fault.process}: {fault.f}{value}",
            }
        )
    return bands[:200]


def _ends(f: str) -> bool:
    return f.startswith(("stop", "heal", "end", "resume", "recover", "reset", "restart"))


def _configurations(history: History, example: Counterexample) -> list[dict[str, object]]:
    return [
        {
            "state": _short(view.state),
            "placed": [history.operations[index].describe() for index in view.placed[:20]],
            "waiting": [history.operations[index].describe() for index in view.waiting[:20]],
        }
        for view in example.configurations[:50]
    ]
