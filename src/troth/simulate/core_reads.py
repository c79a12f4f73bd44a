"""Reads that clients ask of a bare core, and the one by which a server finds out that it has everything again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from troth.core.interface import Effects
from troth.ids import LogIndex, Term, Tick

if TYPE_CHECKING:
    from troth.simulate.core_node import CoreNode


@dataclass(frozen=True, slots=True)
class AskedRead:
    """A read that was asked for, at `at_us` in the time of the world; `floor` was committed somewhere before that, and
    `term` is the one that this server led then, or 0."""

    life: int
    floor: LogIndex
    at_us: int
    term: Term
    recovers: bool = False
    """Asked by the server itself: when it is answered, the server has everything again that it had lost."""


class Reads:
    """What was asked of one node, until it is answered: first an index is awaited, then that it is applied."""

    def __init__(self, node: "CoreNode") -> None:
        self.answered = 0
        self._node = node

    def begin(self) -> None:
        """The process starts."""
        self.asked: dict[int, AskedRead] = {}
        """Those that wait for their index, by context."""
        self.waiting: list[tuple[LogIndex, Tick, AskedRead]] = []
        """(index, valid until, read) of those that have one."""
        self._next_context = 1
        self._recovering = False
        self._recovered_at: int | None = None

    def ask(self, now: Tick, floor: LogIndex, *, recovers: bool = False) -> None:
        """Ask the engine for a read; *floor* is committed somewhere."""
        node = self._node
        context, self._next_context = self._next_context, self._next_context + 1
        leading = node.view.term if node.view.leads else Term(0)
        self.asked[context] = AskedRead(node.life, floor, node.world.now_us, leading, recovers)
        node.engine.read(context, now)
        node.after_input()

    def maybe_recover(self, now: Tick) -> None:
        """A part of the log is gone: ask by which index all of it has come back, unless that is asked already."""
        if not self._recovering:
            self._recovering = True
            self.ask(now, LogIndex(0), recovers=True)

    def on_effects(self, effects: Effects) -> None:
        """The engine has named indexes, or refused to."""
        for state in effects.reads:
            self._node.monitor.on_read_point(self._node, state)
            asked = self.asked.pop(state.context, None)
            if asked is not None:
                self.waiting.append((state.index, state.valid_until, asked))
        for context in effects.reads_refused:
            asked = self.asked.pop(context, None)
            if asked is not None and asked.recovers:
                self._recovering = False

    def release(self) -> None:
        """Answer those whose index is applied."""
        node = self._node
        still: list[tuple[LogIndex, Tick, AskedRead]] = []
        for index, valid_until, asked in self.waiting:
            if index > node.applied.index:
                still.append((index, valid_until, asked))
            elif asked.recovers:
                self._recovered_at = node.journal.written
                self.maybe_restore_vote()
            elif not valid_until or node.clock.ticks() < valid_until:
                self.answered += 1
                node.monitor.on_read(node, asked.floor, node.applied.index)
        self.waiting = still

    def maybe_restore_vote(self) -> None:
        """What was fetched again must be durable first."""
        if self._recovered_at is not None and self._recovered_at <= self._node.journal.synced:
            self._recovered_at, self._node.lost = None, False
            self._node.engine.restore_vote()
