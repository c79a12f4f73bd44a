"""Writing a `History` back: our JSON lines, and EDN that Jepsen, Knossos and Elle read."""

import msgspec

from troth.errors import UsageError
from troth.verify.formats import edn
from troth.verify.history import Event, History


def write_jsonl(history: History) -> str:
    """Our own format, described in `troth.verify.history`; `read_history` reads it back equal.

    Raises:
        UsageError: a value that JSON cannot say.
    """
    reading = history.reading
    header = {
        "troth_history": 1,
        "failed": reading.failed,
        "nil_read": reading.nil_read,
        "initial": reading.initial,
    }
    rows = [header, *(_row(event) for event in history.events())]
    try:
        return "".join(msgspec.json.encode(row).decode() + "\n" for row in rows)
    except (TypeError, msgspec.ValidationError) as error:
        raise UsageError(f"a value of this history has no JSON form: {error}") from error


def _row(event: Event) -> dict[str, object]:
    row: dict[str, object] = {"process": event.process, "type": event.type.value, "f": event.f}
    fields = (
        ("key", event.key),
        ("value", event.value),
        ("time", event.time),
        ("error", event.error),
        ("revision", event.revision),
    )
    for name, value in fields:
        if value is not None:
            row[name] = dict(value) if isinstance(value, edn.Record) else value
    return row


def write_edn(history: History) -> str:
    """One EDN map a line, with the fields of Jepsen's histories."""
    lines = []
    for index, event in enumerate(history.events()):
        row: dict[object, object] = {
            edn.Keyword("index"): index,
            edn.Keyword("process"): edn.Keyword(event.process)
            if isinstance(event.process, str)
            else event.process,
            edn.Keyword("type"): edn.Keyword(event.type.value),
            edn.Keyword("f"): edn.Keyword(event.f),
            edn.Keyword("value"): event.value,
        }
        for name, value in (("key", event.key), ("time", event.time), ("error", event.error)):
            if value is not None:
                row[edn.Keyword(name)] = value
        lines.append(edn.dump(row) + "\n")
    return "".join(lines)
