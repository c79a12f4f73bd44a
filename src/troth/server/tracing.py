"""``--trace-file``: what this server's consensus engine is seen to do, for the executable specification.

A server that is told to traces itself step by step, in the form that its engine's specification reads. Each line is
written before anybody else can notice what it tells: after an input and before its effects leave, and after a sync and
before what waited for it. So the servers of one machine may write to one file, and its lines stand in an order in
which no effect comes before its cause. Without the setting nothing of this is loaded.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from troth.core.interface import Effects, Engine, Persist
from troth.core.paxos.node import Paxos
from troth.errors import UsageError
from troth.ids import NodeId
from troth.simulate.paxos_trace import PaxosNodeTrace
from troth.simulate.paxos_view import PaxosView
from troth.simulate.raft_view import RaftView
from troth.simulate.spec_trace import NodeTrace
from troth.verify.specification import Step, encode_step

INPUTS = frozenset(
    {
        *("propose", "receive", "tick", "read", "change_membership", "transfer", "suspect", "unreachable"),
        *("snapshot_sent", "snapshot_received", "compact"),
    }
)
"""Methods of an `Engine` after which its state may be another one."""


class Teller(Protocol):
    """Tells what one engine does in the words of its specification."""

    def boot(self) -> None:
        """The process has started."""

    def look(self) -> None:
        """Something may have changed."""

    def written(self, persist: Persist) -> None:
        """This is handed to the disk."""

    def durable(self, count: int) -> None:
        """So many writes more are on the disk."""


class RaftTeller:
    """See verify/specification/trace.py."""

    def __init__(self, engine: Engine, node_id: NodeId, write: Callable[[bytes], object]) -> None:
        self._view = RaftView(engine)
        self._trace = NodeTrace(node_id, self._view)
        self._write = write
        self._written: deque[tuple[int, int, tuple[int, int]]] = deque()
        """(term, vote, last entry) after each write that was handed out and is not durable yet."""

    def boot(self) -> None:
        self._tell(self._trace.boot(time.monotonic()))

    def look(self) -> None:
        step = self._trace.look(time.monotonic())
        if step is not None:
            self._tell(step)

    def written(self, persist: Persist) -> None:
        self.look()
        view = self._view
        last = view.last_index
        self._written.append((int(view.term), int(view.voted_for), (int(view.term_at(last) or 0), int(last))))

    def durable(self, count: int) -> None:
        term, voted_for, stored = [self._written.popleft() for _ in range(count)][-1]
        self._tell(self._trace.durable(time.monotonic(), term=term, voted_for=voted_for, stored=stored))

    def _tell(self, step: Step) -> None:
        self._write(encode_step(step))


class PaxosTeller:
    """See verify/specification/multipaxos_trace.py."""

    def __init__(self, engine: Paxos, node_id: NodeId, write: Callable[[bytes], object]) -> None:
        self._view = PaxosView(engine)
        self._trace = PaxosNodeTrace(node_id, self._view, lambda step: write(encode_step(step)))
        self._written: deque[Persist] = deque()

    def boot(self) -> None:
        _, slots = self._view.held()
        self._trace.boot()
        self._trace.durable(None, slots)
        self.look()

    def look(self) -> None:
        self._trace.look()

    def written(self, persist: Persist) -> None:
        self._trace.look(persist.slots)
        self._written.append(persist)

    def durable(self, count: int) -> None:
        # One sync may cover two acceptances of a slot, and what speaks of the first may leave after it.
        for _ in range(count):
            persist = self._written.popleft()
            self._trace.durable(persist.hard_state, persist.slots)


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"trace_file: {path} can not be written ({error.strerror})") from None


def check_writable(path: str) -> None:
    """Refuse a trace file that can not be written, before anything else is done.

    Raises:
        UsageError: says why.
    """
    os.close(_opened(path))


class TracedEngine:
    """An engine that writes down what it does. All it does not know of itself it leaves to the engine behind it."""

    def __init__(self, engine: Engine, node_id: NodeId, path: str) -> None:
        self._engine = engine
        self._file = _opened(path)
        self._teller: Teller = (
            PaxosTeller(engine, node_id, self._write)
            if isinstance(engine, Paxos)
            else RaftTeller(engine, node_id, self._write)
        )
        self._teller.boot()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._engine, name)
        if name not in INPUTS:
            return attribute

        def traced(*arguments: Any, **named: Any) -> Any:
            result = attribute(*arguments, **named)
            self._teller.look()
            return result

        return traced

    def take_effects(self) -> Effects:
        """See `Engine`."""
        effects = self._engine.take_effects()
        if effects.persist is not None:
            self._teller.written(effects.persist)
        else:
            self._teller.look()
        return effects

    def before(self, on_durable: Callable[[int], None]) -> Callable[[int], None]:
        """*on_durable*, told of the same writes a moment later."""

        def told(count: int) -> None:
            self._teller.durable(count)
            on_durable(count)

        return told

    def _write(self, line: bytes) -> None:
        os.write(self._file, line + b"\n")


def traced(engine: Engine, node_id: NodeId, path: str) -> tuple[Engine, TracedEngine]:
    """*engine*, which from now on writes to *path* (as an engine, and as what it is)."""
    both = TracedEngine(engine, node_id, path)
    # Every method of the protocol is there, through `__getattr__`.
    return cast(Engine, both), both
