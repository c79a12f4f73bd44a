"""The consensus engines by name. Nothing above `core` knows more of an engine than what stands here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from troth.core.config import EngineConfig
from troth.core.interface import Engine, Entry, HardState, Slot, SnapshotMeta
from troth.core.paxos import messages as paxos_messages
from troth.core.paxos import node as paxos_node
from troth.core.raft import messages as raft_messages
from troth.core.raft import node as raft_node
from troth.errors import UsageError
from troth.ids import LogIndex, NodeId, Tick
from troth.ports import Rng


class Start(Protocol):
    """Makes an engine in the state that storage recovered: `entries` are Raft's log, `slots` and `chosen` Paxos's."""

    def __call__(
        self,
        *,
        node_id: NodeId,
        config: EngineConfig,
        rng: Rng,
        snapshot: SnapshotMeta,
        hard_state: HardState | None = None,
        entries: Sequence[Entry] = (),
        slots: Sequence[Slot] = (),
        chosen: LogIndex = LogIndex(0),
        now: Tick = Tick(0),
        may_vote: bool = True,
    ) -> Engine: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """One consensus protocol: how to start it, and the closed union of its messages (tags 1 to 31)."""

    name: str
    start: Start
    messages: Any


ENGINES: dict[str, EngineKind] = {
    kind.name: kind
    for kind in (
        EngineKind(name="raft", start=raft_node.start, messages=raft_messages.RaftMessage),
        EngineKind(name="paxos", start=paxos_node.start, messages=paxos_messages.PaxosMessage),
    )
}


def engine_kind(name: str) -> EngineKind:
    """The engine called *name*.

    Raises:
        UsageError: there is none.
    """
    if name not in ENGINES:
        raise UsageError(f"no consensus engine is called {name!r}; there are: {', '.join(sorted(ENGINES))}")
    return ENGINES[name]


__all__ = ["ENGINES", "EngineConfig", "EngineKind", "Start", "engine_kind"]
