"""``--trace-file``: what this server's consensus engine is seen to do, for the executable specification.

A server that is told to traces itself step by step in the form of verify/specification/trace.py. Each line is written
before anybody else can notice what it tells: after an input and before its effects leave, and after a sync and before
what waited for it. So the servers of one machine may write to one file, and its lines stand in an order in which no
effect comes before its cause. Without the setting nothing of this is loaded.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from troth.core.interface import Effects, Engine
from troth.ids import NodeId
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


class TracedEngine:
    """An engine that writes down what it does. All it does not know of itself it leaves to the engine behind it."""

    def __init__(self, engine: Engine, node_id: NodeId, path: str) -> None:
        self._engine = engine
        self._view = RaftView(engine)
        self._trace = NodeTrace(node_id, self._view)
        self._written: deque[tuple[int, int, tuple[int, int]]] = deque()
        """(term, vote, last entry) after each write that was handed out and is not durable yet."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._tell(self._trace.boot(time.monotonic()))

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._engine, name)
        if name not in INPUTS:
            return attribute

        def traced(*arguments: Any, **named: Any) -> Any:
            result = attribute(*arguments, **named)
            self._look()
            return result

        return traced

    def take_effects(self) -> Effects:
        """See `Engine`."""
        effects = self._engine.take_effects()
        self._look()
        if effects.persist is not None:
            view = self._view
            last = view.last_index
            self._written.append((int(view.term), int(view.voted_for), (int(view.term_at(last) or 0), int(last))))
        return effects

    def before(self, on_durable: Callable[[int], None]) -> Callable[[int], None]:
        """*on_durable*, told of the same writes a moment later."""

        def told(count: int) -> None:
            for _ in range(count - 1):
                self._written.popleft()
            self._tell_durable(*self._written.popleft())
            on_durable(count)

        return told

    def _look(self) -> None:
        step = self._trace.look(time.monotonic())
        if step is not None:
            self._tell(step)

    def _tell_durable(self, term: int, voted_for: int, stored: tuple[int, int]) -> None:
        self._tell(self._trace.durable(time.monotonic(), term=term, voted_for=voted_for, stored=stored))

    def _tell(self, step: Step) -> None:
        os.write(self._file, encode_step(step) + b"\n")


def traced(engine: Engine, node_id: NodeId, path: str) -> tuple[Engine, TracedEngine]:
    """*engine*, which from now on writes to *path* (as an engine, and as what it is)."""
    both = TracedEngine(engine, node_id, path)
    # Every method of the protocol is there, through `__getattr__`.
    return cast(Engine, both), both
