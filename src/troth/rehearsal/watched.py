"""The engine of a simulated server, between the replica that drives it and the seat that sees all of it."""

from collections.abc import Callable
from typing import Any

from troth.core.interface import (
    NO_EFFECTS,
    Accepted,
    Effects,
    Engine,
    Message,
    ProposeResult,
    Refused,
    SnapshotMeta,
)
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.rehearsal.seat import Seat

INPUTS = ("change_membership", "unreachable", "snapshot_sent")
LOOKS = ("snapshot_meta", "membership_at", "leader", "status", "asleep_until")


class WatchedEngine:
    """An engine whose seat sees every input and every effect."""

    def __init__(self, engine: Engine, seat: "Seat") -> None:
        self.node_id = engine.node_id
        self._engine = engine
        self._seat = seat
        self._monitor: Any = seat.monitor
        for name in INPUTS:
            setattr(self, name, self._watched(getattr(engine, name)))
        for name in LOOKS:
            setattr(self, name, getattr(engine, name))

    def _watched(self, action: Callable[..., Any]) -> Callable[..., Any]:
        after = self._seat.after_input

        def watched(*arguments: Any) -> Any:
            result = action(*arguments)
            after()
            return result

        return watched

    def propose(self, payload: bytes) -> ProposeResult:
        result = self._engine.propose(payload)
        if isinstance(result, Accepted):
            self._seat.on_accepted()
        self._seat.after_input()
        return result

    def receive(self, sender: NodeId, message: Message, now: Tick) -> None:
        seat, monitor = self._seat, self._monitor
        if sender == self.node_id:
            # What a server says to itself never leaves it.
            monitor.on_sent(seat, sender, message)
        monitor.on_received(seat, sender, message, now)
        seat.handling = (sender, message)
        self._engine.receive(sender, message, now)
        monitor.on_input(seat)
        seat.handling = None

    def tick(self, now: Tick) -> None:
        self._engine.tick(now)
        self._monitor.on_tick(self._seat, now)
        self._monitor.on_input(self._seat)

    def read(self, context: int, now: Tick) -> None:
        self._seat.on_read(context)
        self._engine.read(context, now)
        self._seat.after_input()

    def suspect(self, peer: NodeId, now: Tick) -> None:
        self._seat.on_suspected(peer)
        self._engine.suspect(peer, now)
        self._seat.after_input()

    def transfer(self, target: NodeId) -> Refused | None:
        refused = self._engine.transfer(target)
        self._seat.on_transfer(refused)
        return refused

    def take_entries(self, taking: bool) -> None:
        self._engine.take_entries(taking)

    def restore_vote(self) -> None:
        self._engine.restore_vote()
        self._seat.has_all_again()
        self._seat.after_input()

    @property
    def commit_index(self) -> LogIndex:
        return self._engine.commit_index

    def take_effects(self) -> Effects:
        effects = self._engine.take_effects()
        if effects is not NO_EFFECTS:
            self._seat.on_effects(effects)
        return effects

    def applied(self, index: LogIndex) -> None:
        self._engine.applied(index)
        self._seat.on_applied(index)

    def compact(self, meta: SnapshotMeta, keep_from: LogIndex) -> None:
        self._seat.on_snapshot(meta)
        self._engine.compact(meta, keep_from)
        self._seat.after_compaction(meta)

    def snapshot_received(self, sender: NodeId, term: Term, meta: SnapshotMeta, now: Tick) -> bool:
        self._seat.on_snapshot(meta)
        result = self._engine.snapshot_received(sender, term, meta, now)
        self._seat.after_input()
        return result
