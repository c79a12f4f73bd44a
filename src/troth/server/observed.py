"""What a running server says of itself: its events in the log, its counters and queues."""

import gc
import logging
from dataclasses import dataclass
from typing import Any

from troth.core.interface import Trace
from troth.runtime.node import Node
from troth.runtime.snapshots import SnapshotKeeper
from troth.runtime.transport import PeerTransport
from troth.runtime.writer import LogWriter
from troth.server.acceptors import Registers
from troth.server.clients import ClientPort
from troth.server.config import ServerConfig
from troth.server.logs import with_facts
from troth.storage.identity import Identity

TOLD = frozenset(
    {
        "leader",
        "follower",
        "quorum_lost",
        "disk_hangs",
        "leader_died",
        "transfer",
        "transfer_timed_out",
        "removed",
        "membership",
        "snapshot",
        "snapshot_doubtful",
        "install",
    }
)
"""Events worth a line in the log at level info; the others are for debugging."""

WARNED = frozenset({"alarm_raised", "alarm_cleared"})
"""Events that somebody should look at: they are told on every server, for all have the alarm."""

_log = logging.getLogger("troth.server")


def tell(event: Trace) -> None:
    """*event* as a line in the log, at the level that it is worth."""
    level = logging.INFO if event.name in TOLD else logging.WARNING if event.name in WARNED else logging.DEBUG
    if _log.isEnabledFor(level):
        _log.log(level, event.name.replace("_", " "), extra=with_facts(event.facts))


def tell_serving(config: ServerConfig, who: Identity, *, version: str, took_s: float) -> None:
    """Who serves, and where."""
    facts = {
        "node_id": f"{who.node_id:x}",
        "cluster_id": f"{who.cluster_id:x}",
        "clients": config.client_listen or config.client_address,
        "peers": config.peer_listen or config.peer_address,
        "version": version,
        "seconds": round(took_s, 3),
    }
    _log.info("serving", extra=with_facts(facts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The parts of a server that count something."""

    node: Node
    transport: PeerTransport
    clients: ClientPort
    writer: LogWriter
    keeper: SnapshotKeeper
    registers: Registers

    def queues(self) -> dict[str, int]:
        """How full each bounded queue is."""
        return {
            "disk_writes": self.node.backlog,
            "peer_bytes": sum(self.transport.queued_bytes().values()),
            "client_bytes": self.clients.queued_bytes(),
            "clients": len(self.clients.connections),
        }

    def snapshot_bytes(self) -> dict[str, int]:
        """Bytes by direction."""
        counters = self.keeper.counters
        return {"saved": counters.saved_bytes, "sent": counters.sent_bytes, "received": counters.received_bytes}

    def dump(self) -> dict[str, Any]:
        """All of it, for looking into a running server."""
        parts: dict[str, Any] = {
            "node": self.node.counters,
            "peers": self.transport.counters,
            "clients": self.clients.counters,
            "disk": self.writer.counters,
        }
        return {
            **{name: dict(vars(counters)) for name, counters in parts.items()},
            "queues": self.queues(),
            "snapshots": self.snapshot_bytes(),
            "acceptor": self.registers.numbers(),
            "gc": gc.get_stats(),
        }
