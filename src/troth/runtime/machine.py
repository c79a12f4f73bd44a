"""What a server takes from the computer that it runs on: files, time, chance, and threads that do slow work.

`Machine` is the real one. Whole servers run in the simulator (troth/rehearsal) on a machine of another kind, and
nothing else of them is exchanged: the event loop that they are started in is the simulator's as well.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from troth.core.engines import EngineConfig
from troth.core.interface import Engine
from troth.ids import NodeId
from troth.replica.peers import PeerCodec
from troth.replica.state import ReplicaConfig
from troth.runtime.clock import Clock
from troth.runtime.disk_machine import DiskMachine
from troth.runtime.links import PeerSink
from troth.runtime.transport import PeerTransport


class Machine(DiskMachine):
    """The computer that this process runs on."""

    def clock(self, tick_ms: int) -> Clock:
        """A clock that counts ticks, also while the machine is suspended."""
        return Clock(tick_ms)

    def transport(
        self, *, node_id: NodeId, name: str, sink: PeerSink, tls: ssl.SSLContext | None
    ) -> PeerTransport:
        """Links to the other servers."""
        return PeerTransport(node_id=node_id, name=name, sink=sink, tls=tls)

    def engine_settings(self, config: EngineConfig) -> EngineConfig:
        """Settings of the consensus engine as the server shall use them."""
        return config

    def engine(self, engine: Engine) -> Engine:
        """The consensus engine as the server shall use it (a place for whoever watches it)."""
        return engine

    def after_turn(self, step: Callable[..., object], *arguments: Any) -> None:
        """Have *step* called when the loop has been round once: long work is done so, a step at a time."""
        asyncio.get_running_loop().call_soon(step, *arguments)

    def codec(self, messages: Any) -> PeerCodec:
        """How messages between servers become bytes (*messages*: the engine's)."""
        return PeerCodec(messages)

    def replica(self, config: ReplicaConfig) -> ReplicaConfig:
        """Bounds and rhythms as the server shall use them."""
        return config
