"""Writes down what the clients of one workload did and were told, in the format of verify/history.py.

Any system's clients can use it, and faults stand in the same file, so that a page shows both. A process of a history
does one thing at a time and ends with an unknown outcome, so process numbers are dealt out per operation.
"""

import heapq
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from troth.torture.system import Definite, Indefinite

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


class Record:
    """One workload's history file. Operations are recorded on one event loop, faults from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ok = 0
        self.failed = 0
        self.unknown = 0
        self._file = path.open("wb")
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._processes = 0
        self._write({"troth_history": 1, "failed": "absent", "nil_read": "value"})

    async def operation(
        self,
        f: str,
        doing: Awaitable[T],
        *,
        key: str | None = None,
        value: object = None,
        result: Callable[[T], object] = lambda answer: answer,
    ) -> T:
        """Await *doing* and write down when it began, and when and how it ended.

        Args:
            value: what was asked for; *result* says from the answer what the client was told.

        Raises:
            Definite, Indefinite: what *doing* raised.
        """
        named = {} if key is None else {"key": key}
        with self._lock:
            if self._free:
                process = heapq.heappop(self._free)
            else:
                process, self._processes = self._processes, self._processes + 1
            self._event(process, "invoke", f, {**named, "value": value})
        try:
            answer = await doing
        except Definite as error:
            self.failed += 1
            self._complete(process, "fail", f, {**named, "value": value, "error": str(error)})
            raise
        except Indefinite as error:
            self.unknown += 1
            self._complete(process, "info", f, {**named, "value": value, "error": str(error)})
            raise
        self.ok += 1
        self._complete(process, "ok", f, {**named, "value": result(answer)})
        return answer

    def fault(self, f: str, value: object) -> None:
        """Something was done to the system."""
        with self._lock:
            self._event("nemesis", "info", f, {"value": value})

    def close(self) -> None:
        """End the file; what is still open stays without a completion."""
        with self._lock:
            self._file.close()

    def _complete(self, process: int, kind: str, f: str, fields: dict[str, object]) -> None:
        with self._lock:
            if kind != "info":
                heapq.heappush(self._free, process)
            self._event(process, kind, f, fields)

    def _event(self, process: int | str, kind: str, f: str, fields: dict[str, object]) -> None:
        if not self._file.closed:
            self._write({"process": process, "type": kind, "f": f, **fields, "time": time.monotonic_ns()})

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(_encode(line) + b"\n")
