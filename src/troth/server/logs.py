"""Log lines of a server: one event per line, as text with ``key=value`` facts or as JSON."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import TextIO

import msgspec
from typing_extensions import override

from troth.core.interface import EntryId
from troth.ids import NodeId


class TextFormatter(logging.Formatter):
    """``2026-01-02T03:04:05.678Z info  n1 troth.node: became leader term=3``"""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    @override
    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {key}={_written(value)}" for key, value in facts_of(record).items())
        text = f"{_stamp(record)} {record.levelname.lower():7} {self._name} {record.name}: {record.getMessage()}{facts}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "server": self._name,
            "logger": record.name,
            "event": record.getMessage(),
            **facts_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def facts_of(record: logging.LogRecord) -> Mapping[str, object]:
    """The facts given as ``extra={"facts": {...}}``."""
    facts = getattr(record, "facts", None)
    return facts if isinstance(facts, Mapping) else {}


def with_facts(facts: Mapping[str, object]) -> dict[str, object]:
    """*facts* as the ``extra`` of a logging call; node ids are written as the rest of the program writes them."""
    return {"facts": {key: _shown(key, value) for key, value in facts.items()}}


_NODE_FACTS = frozenset({"leader", "sender", "peer", "to", "candidate", "voted_for", "node", "target"})


def _shown(key: str, value: object) -> object:
    if key in _NODE_FACTS and isinstance(value, int):
        return f"{NodeId(value):x}"
    if key == "voters" and isinstance(value, tuple):
        return [f"{NodeId(node):x}" for node in value]
    if key == "member" and isinstance(value, int):  # whose alarm it is
        return f"{NodeId(value):x}" if value else "all"
    return value


def _written(value: object) -> object:
    """*value* as text shows it; JSON keeps lists what they are."""
    if isinstance(value, EntryId):
        return f"{value.term}/{value.index}"
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _stamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def set_up(*, name: str, level: str, form: str, stream: TextIO | None = None) -> None:
    """Send what ``troth.*`` logs to *stream* (standard error by default)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(name) if form == "json" else TextFormatter(name))
    root = logging.getLogger("troth")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
