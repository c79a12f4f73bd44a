"""What the world asks of a node, whatever runs inside: a bare core (core_node.py) or a whole server."""

from typing import Any, Protocol

from troth.ids import NodeId, Tick


class SimNode(Protocol):
    """A process with a disk, a clock and a network card, all of them simulated."""

    node_id: NodeId
    up: bool

    def boot(self) -> None:
        """Start the process from what the disk holds."""

    def crash(self) -> None:
        """End the process without warning; unsynced writes are lost as the plan says."""

    def pause(self, world_us: int) -> None:
        """Stop the process for a while, as SIGSTOP does; its inputs wait."""

    def on_message(self, sender: NodeId, message: Any) -> None:
        """A message has arrived."""

    def on_peer_died(self, peer: NodeId) -> None:
        """The connection to *peer* has broken in the way it does when its process ends (not always true)."""

    def now(self) -> Tick:
        """The node's own clock."""
