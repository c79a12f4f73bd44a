"""Recording what clients do and see, for `troth.verify`.

::

    with troth.recording("run.jsonl"):
        client.put("k", "v")            # any clients, threads, coroutines

The file has the format of verify/history.py. An operation that failed with `NotApplied` is a "fail", one with any
other error of the cluster an "info"; one still open at the end has no completion, which means the same. Recorded are:

========  ============================================================================================
put       key and value; the lease, if it has one
get       key; at ok its value (null: absent) and the level asked for
range     [start, end] of a span that is read whole, as it is now; at ok [[key, value], ...]
delete    of a single key; ``delete-range`` [start, end] of a span
cas       a transaction that compares one key to a value (or to "absent") and then puts it: [from, to]; at ok false
          if the comparison did not hold
txn       any other transaction: what it may write; at ok the operations that ran, ["r", key, value], ["w", key, value]
          and ["delete-range", start, end]; ``leased``, here and at a cas: the keys that it may put under leases
========  ============================================================================================

An update that changed something has at ok the revision that it made. Watches are remarks, one for everything that a
watch was handed: ``f`` "watch", [start, end, from, upto, [[revision, key, value or null], ...]]; none is written of
watches that leave out puts or deletions. Nor are reads of spans that leave something out, or of the past.

Concurrent operations of one client are written as operations of several processes, since a process of a history does
one thing at a time; no process stands for two clients, so that what a client is promised about its own operations
(session guarantees) can be checked.

While nothing is recorded the clients pay one test of a global for each call.
"""

import asyncio
import base64
import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from troth.client.replies import DeleteReply, GetReply, OperationReply, PutReply, RangeReply, TxnReply
from troth.errors import NotApplied, UsageError
from troth.kv.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    EventType,
    Operation,
    Put,
    Range,
    Txn,
)
from troth.kv.requests import Event as KeyEvent
from troth.models import LevelName, ReadLevel

_encode = msgspec.json.Encoder().encode

numbers = itertools.count(1)
"""Names each client of this process, and each watch."""

active: "Recorder | None" = None
"""Where clients record to at present."""


@contextmanager
def recording(path: "str | os.PathLike[str]") -> "Iterator[Recorder]":
    """Record what all clients of this process do within the block to *path* (JSON lines; an old file is replaced).

    Raises:
        UsageError: a recording is under way already.
    """
    global active
    if active is not None:
        raise UsageError("a recording is under way already; there is one at a time")
    recorder = Recorder(path)
    active = recorder
    try:
        yield recorder
    finally:
        active = None
        recorder.close()


class Recorder:
    """Writes the events of all clients, in the order in which they happen here, to one file."""

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        self._file = open(path, "wb")  # noqa: SIM115  (closed by `close`)
        self._lock = threading.Lock()
        self._free: dict[int, list[int]] = {}
        """For each client its processes that do nothing at present."""
        self._client_of: list[int] = []
        """For each process the client that it stands for."""
        self._is_closed = False
        self._file.write(b'{"troth_history":1,"failed":"absent","nil_read":"value"}\n')

    def close(self) -> None:
        """End the file. What is still open stays without a completion."""
        with self._lock:
            self._is_closed = True
            self._file.close()

    # ---- operations ------------------------------------------------------------------------------------

    def put(self, client: int, key: bytes, value: bytes, lease: int, future: "asyncio.Future[PutReply]") -> None:
        """A put was asked for."""
        told = shown(value)
        fields: dict[str, Any] = {"key": shown(key), "value": told}
        if lease:
            fields["lease"] = lease
        self._track(client, future, "put", fields, lambda reply: told, _made)

    def get(self, client: int, key: bytes, level: ReadLevel, future: "asyncio.Future[GetReply]") -> None:
        """A get was asked for."""
        fields = {"key": shown(key), **_level(level)}
        self._track(
            client, future, "get", fields, lambda reply: None if reply.kv is None else shown(reply.kv.value)
        )

    def range(self, client: int, request: Range, level: ReadLevel, future: "asyncio.Future[RangeReply]") -> None:
        """A read of a span was asked for; told only if it shows all that is in it, as it is now."""
        span = [shown(request.key), shown(request.range_end)]
        if request.range_end and request == _whole(request):
            self._track(client, future, "range", {"value": span, **_level(level)}, _contents)

    def delete(self, client: int, start: bytes, end: bytes, future: "asyncio.Future[DeleteReply]") -> None:
        """The deletion of one key, or of a span, was asked for."""
        if end:
            self._track(client, future, "delete-range", {"value": [shown(start), shown(end)]}, lambda reply: None)
        else:
            self._track(client, future, "delete", {"key": shown(start)}, lambda reply: None, _made)

    def txn(self, client: int, request: Txn, future: "asyncio.Future[TxnReply]") -> None:
        """A transaction was asked for."""
        cas, leased = _as_cas(request), _leased(request)
        fields: dict[str, Any] = {"leased": leased} if leased else {}
        if cas is None:
            fields["value"] = _asked(request)
            self._track(client, future, "txn", fields, lambda reply: _operations(request, reply), _made)
            return
        key, expected, wanted = cas
        pair = [expected, wanted]
        fields |= {"key": key, "value": pair}

        def outcome(reply: TxnReply) -> Any:
            return pair if reply.succeeded else False  # an observation too, which may be wrong

        self._track(client, future, "cas", fields, outcome, _made)

    def watch(
        self, number: int, span: tuple[bytes, bytes], first: int, upto: int, events: Sequence[KeyEvent]
    ) -> None:
        """Watch *number* was handed all *events* of revisions *first* to *upto*."""
        told = [
            [
                event.kv.mod_revision,
                shown(event.kv.key),
                None if event.type is EventType.DELETE else shown(event.kv.value),
            ]
            for event in events
        ]
        value = [shown(span[0]), shown(span[1]), first, upto, told]
        with self._lock:
            self._write(f"watch/{number}", "info", "watch", {"value": value})

    def _track(
        self,
        client: int,
        future: "asyncio.Future[Any]",
        f: str,
        fields: dict[str, Any],
        result: Callable[[Any], Any],
        revision: Callable[[Any], int] = lambda reply: 0,
    ) -> None:
        process = self.begin(f, fields, client)

        def on_done(future: "asyncio.Future[Any]") -> None:
            # Before whoever awaits it: callbacks run in the order in which they were added.
            if future.cancelled():
                self.end(process, "info", f, fields, None, "cancelled")
                return
            error = future.exception()
            if error is None:
                reply = future.result()
                made = revision(reply)
                told = {**fields, "revision": made} if made else fields
                self.end(process, "ok", f, told, result(reply), None)
            else:
                kind = "fail" if isinstance(error, NotApplied | UsageError) else "info"
                text = f"{type(error).__name__}: {error}"
                self.end(process, kind, f, fields, fields.get("value"), text)

        future.add_done_callback(on_done)

    def begin(self, f: str, fields: dict[str, Any], client: int = 0) -> int:
        """*client* (0: one that promises nothing about its own operations) asked for something; its process."""
        with self._lock:
            free = self._free.setdefault(client, [])
            if free:
                process = heapq.heappop(free)
            else:
                process = len(self._client_of)
                self._client_of.append(client)
            self._write(process, "invoke", f, fields)
        return process

    def end(self, process: int, kind: str, f: str, fields: dict[str, Any], value: Any, error: str | None) -> None:
        """It was answered: *kind* is ok, fail or info."""
        told = {**fields, "value": value}
        if error is not None:
            told["error"] = error
        with self._lock:
            if kind != "info":
                heapq.heappush(self._free[self._client_of[process]], process)
            self._write(process, kind, f, told)

    def _write(self, process: int | str, kind: str, f: str, fields: dict[str, Any]) -> None:
        if not self._is_closed:
            line = {"process": process, "type": kind, "f": f, **fields, "time": time.monotonic_ns()}
            self._file.write(_encode(line) + b"\n")


def _made(reply: OperationReply) -> int:
    """The revision that an update made, 0 if it changed nothing."""
    if isinstance(reply, PutReply):
        return reply.revision
    if isinstance(reply, DeleteReply):
        return reply.revision if reply.deleted else 0
    if isinstance(reply, TxnReply):
        return reply.revision if any(_made(each) for each in reply.responses) else 0
    return 0


def _whole(request: Range) -> Range:
    """A read of the same span, in the same order, that leaves out nothing."""
    order = request.sort_order, request.sort_target
    return Range(request.key, request.range_end, sort_order=order[0], sort_target=order[1])


def _level(level: ReadLevel) -> dict[str, Any]:
    return {} if level.name is LevelName.LINEARIZABLE else {"level": str(level)}


def _contents(reply: RangeReply) -> list[list[str]]:
    return [[shown(kv.key), shown(kv.value)] for kv in reply.kvs]


def shown(data: bytes) -> str:
    """Bytes as the file holds them: text if they are UTF-8, else ``base64:...``."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode()


def _as_cas(request: Txn) -> tuple[str, str | None, str] | None:
    """(key, from, to) if *request* is nothing but a compare-and-set of one key."""
    if len(request.compare) != 1 or len(request.success) != 1:
        return None
    compare, then = request.compare[0], request.success[0]
    if not isinstance(then, Put) or then.ignore_value or then.key != compare.key or compare.range_end:
        return None
    if compare.result is not CompareResult.EQUAL or not all(isinstance(each, Range) for each in request.failure):
        return None
    key, wanted = shown(then.key), shown(then.value)
    if compare.target is CompareTarget.VALUE:
        return key, shown(compare.value), wanted
    return (key, None, wanted) if _is_absence(compare) else None


def _is_absence(compare: Compare) -> bool:
    counts = (CompareTarget.VERSION, CompareTarget.CREATE, CompareTarget.MOD)
    return compare.target in counts and compare.number == 0


def _asked(request: Txn) -> list[list[Any]]:
    """What *request* may write: all that counts of it if its answer is lost.

    A branch that writes nothing is the same as not to have run at all, which it may not have either.
    """
    then, otherwise = _branch(request.success), _branch(request.failure)
    return [["either", then, otherwise]] if then and otherwise else then or otherwise


def _branch(operations: "Sequence[Operation]") -> list[list[Any]]:
    """What the *operations* of one branch write. Those that keep their values change nothing that is told, or fail and
    let none of the others happen."""
    writes: list[list[Any]] = []
    for operation in operations:
        if isinstance(operation, Put) and not operation.ignore_value:
            writes.append(["w", shown(operation.key), shown(operation.value)])
        elif isinstance(operation, DeleteRange):
            writes.append(_deletion(operation))
        elif isinstance(operation, Txn):
            then, otherwise = _branch(operation.success), _branch(operation.failure)
            writes += then if then == otherwise else [["either", then, otherwise]]
    return writes


def _deletion(operation: DeleteRange) -> list[str | None]:
    if operation.range_end:
        return ["delete-range", shown(operation.key), shown(operation.range_end)]
    return ["w", shown(operation.key), None]


def _leased(request: Txn) -> list[str]:
    """The keys that *request* may put under a lease, whichever branch runs."""
    keys: list[str] = []
    for operation in (*request.success, *request.failure):
        if isinstance(operation, Put) and operation.lease:
            keys.append(shown(operation.key))
        elif isinstance(operation, Txn):
            keys += _leased(operation)
    return keys


def _operations(request: Txn, reply: TxnReply) -> list[list[str | None]]:
    """The reads and writes of the branch that ran."""
    done: list[list[str | None]] = []
    branch = request.success if reply.succeeded else request.failure
    for operation, response in zip(branch, reply.responses, strict=True):
        if isinstance(operation, Put):
            if operation.ignore_value:
                # What stands there stays, whatever it is.
                continue
            done.append(["w", shown(operation.key), shown(operation.value)])
        elif isinstance(operation, DeleteRange):
            done.append(_deletion(operation))
        elif isinstance(operation, Txn) and isinstance(response, TxnReply):
            done += _operations(operation, response)
        elif isinstance(operation, Range) and isinstance(response, RangeReply):
            if not operation.range_end and not response.kvs:
                done.append(["r", shown(operation.key), None])
            done += [["r", shown(kv.key), shown(kv.value)] for kv in response.kvs]
    return done
