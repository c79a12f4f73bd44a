"""Clusters on this machine whose servers can be cut off from each other: over proxies, or in namespaces."""

import dataclasses
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from typing_extensions import override

from troth.errors import DecodeError
from troth.ids import NodeId
from troth.runtime.genesis import Founding
from troth.server.config import ServerConfig
from troth.server.local import LocalCluster
from troth.server.process import RaftServer
from troth.torture.background import Background
from troth.torture.namespaces import Namespaces
from troth.torture.proxy import Network
from troth.wire.frames import HANDSHAKE_BYTES_MAX, first_frame
from troth.wire.handshake import Hello, decode_greeting

PEER_PORT: Final = 7101


def who_dials(greeting: bytes) -> str | None:
    """The name that a server gives itself in its first frame; "" for a probe or a stranger; None: read more."""
    try:
        body = first_frame(greeting, HANDSHAKE_BYTES_MAX)
        if body is None:
            return None
        hello = decode_greeting(body)
    except DecodeError:
        return ""
    return hello.name if isinstance(hello, Hello) and hello.kind == "peer" else ""


class Links(Protocol):
    """What is between the servers, and can be cut."""

    def front(self, name: str) -> None:
        """A server of that name is about to start."""

    def down(self, name: str) -> None:
        """Its process is about to end."""

    def up(self, name: str) -> None:
        """Its process runs again."""

    def remove(self, name: str) -> None:
        """It is no more."""

    def cut(self, pairs: Collection[tuple[str, str]], *, reset: bool) -> None:
        """See `SystemUnderTest.partition`."""

    def close(self) -> None:
        """Leave nothing behind."""


class CutCluster(LocalCluster):
    """A local cluster whose servers reach each other in a way of our own."""

    def peer_address(self, name: str) -> str:
        """What the others dial."""
        return self._addresses[name]["peer"]

    def prepare(self, name: str) -> None:
        """Choose addresses for one more server."""
        self._addresses[name] = self._new_addresses(name)
        self._config(name)

    def join(self, name: str, within_s: float) -> None:
        """Start the server that was prepared, and make it a member. Raises TrothError if that fails."""
        running = tuple(
            addresses["client"] for other, addresses in self._addresses.items() if other in self.servers
        )
        self._spawn(name, None, {}, join=running).wait_ready(within_s)

    def forget(self, name: str) -> None:
        """End a server's process, if there is one, and give up its name."""
        server = self.servers.pop(name, None)
        if server is not None:
            server.close()
        self._addresses.pop(name, None)


class ProxiedCluster(CutCluster):
    """Servers tell each other the addresses of proxies."""

    def __init__(self, size: int, *, data_dir: Path, **settings: Any) -> None:
        self.behind: dict[str, str] = {}
        """Where each server really listens for its peers."""
        super().__init__(size, data_dir=data_dir, **settings)

    @override
    def _new_addresses(self, name: str) -> dict[str, str]:
        self.behind[name] = super()._new_addresses(name)["peer"]
        return super()._new_addresses(name)

    @override
    def _config(self, name: str, join: tuple[str, ...] = ()) -> ServerConfig:
        return dataclasses.replace(super()._config(name, join), peer_listen=self.behind[name])


class Proxies:
    """`Links` made of one TCP proxy for each server (proxy.py)."""

    def __init__(self, cluster: ProxiedCluster) -> None:
        self._cluster = cluster
        self._loop = Background("torture-proxies")
        self._network = Network(who_dials)

    def front(self, name: str) -> None:
        public, target = _host_port(self._cluster.peer_address(name)), _host_port(self._cluster.behind[name])
        self._loop.call(self._network.add(name, public=public, target=target))

    def down(self, name: str) -> None:
        # Who dials a dead process is refused: so the proxy must not listen any more when it dies.
        self._loop.call(self._network.down(name))

    def up(self, name: str) -> None:
        self._loop.call(self._network.up(name))

    def remove(self, name: str) -> None:
        self._loop.call(self._network.remove(name))

    def cut(self, pairs: Collection[tuple[str, str]], *, reset: bool) -> None:
        async def change() -> None:
            self._network.cut(pairs, reset=reset)

        self._loop.call(change())

    def close(self) -> None:
        self._loop.call(self._network.close())
        self._loop.close()


class ApartCluster(CutCluster):
    """Servers live in network namespaces; clients reach them over unix sockets, which know nothing of those."""

    def __init__(self, size: int, *, data_dir: Path, network: Namespaces, **settings: Any) -> None:
        self._network = network
        super().__init__(size, data_dir=data_dir, **settings)

    @override
    def _new_addresses(self, name: str) -> dict[str, str]:
        return {
            "client": f"unix:{self.data_dir / name}.sock",
            "peer": f"{self._network.address(name)}:{PEER_PORT}",
        }

    @override
    def _config(self, name: str, join: tuple[str, ...] = ()) -> ServerConfig:
        # The switch between the namespaces is connected to nothing else.
        return dataclasses.replace(super()._config(name, join), insecure=True)

    @override
    def _spawn(
        self,
        name: str,
        founding: Founding | None,
        ends: Mapping[NodeId, socket.socket],
        join: tuple[str, ...] = (),
    ) -> RaftServer:
        with self._network.inside(name):
            return super()._spawn(name, founding, {}, join)


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
