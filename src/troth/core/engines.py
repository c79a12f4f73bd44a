"""The consensus engines by name. Nothing above `core` knows more of an engine than what stands here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from troth.core.interface import Engine, Entry, HardState, SnapshotMeta
from troth.core.raft import messages as raft_messages
from troth.core.raft import node as raft_node
from troth.core.raft.state import RaftConfig
from troth.errors import UsageError
from troth.ids import NodeId, Tick
from troth.ports import Rng

EngineConfig = RaftConfig
"""Settings that every engine understands."""


class Start(Protocol):
    """Makes an engine in the state that storage recovered."""

    def __call__(
        self,
        *,
        node_id: NodeId,
        config: EngineConfig,
        rng: Rng,
        snapshot: SnapshotMeta,
        hard_state: HardState | None = None,
        entries: Sequence[Entry] = (),
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
    "raft": EngineKind(name="raft", start=raft_node.start, messages=raft_messages.RaftMessage),
}


def engine_kind(name: str) -> EngineKind:
    """The engine called *name*.

    Raises:
        UsageError: there is none.
    """
    if name not in ENGINES:
        raise UsageError(f"no consensus engine is called {name!r}; there are: {', '.join(sorted(ENGINES))}")
    return ENGINES[name]
