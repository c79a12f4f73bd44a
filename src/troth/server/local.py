"""`LocalCluster`: several servers on this machine, each a process of its own, started and stopped together.

With ``transport="tcp"`` they listen on loopback ports. With ``transport="pipe"`` no port is opened at all: peers talk
over socket pairs (`pairs.py`), clients over unix sockets.

This process draws all node ids and forms the genesis, but only when *all* directories are new: if one of an existing
cluster is empty, its server starts with a new identity and refuses, as it must.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from troth.core.interface import Membership
from troth.errors import AddressTaken, NotApplied, TrothError, Unavailable, UsageError
from troth.ids import NodeId
from troth.runtime.addresses import UNIX_PATH_BYTES_MAX
from troth.runtime.files import make_durably
from troth.runtime.genesis import Founding
from troth.server import layout as layouts
from troth.server.config import ServerConfig
from troth.server.free_port import free_port
from troth.server.layout import JOINING, LEAVING
from troth.server.pairs import Pairs
from troth.server.process import READY_SECONDS_MAX, RaftServer

if TYPE_CHECKING:
    from troth.client.sync import Client

TRANSPORTS = ("tcp", "pipe")

SIZE_MAX = 63
"""More servers than this are no cluster on one machine but a slip of the pen: each is a process."""


DRAWINGS_MAX = 4
"""How often ports are drawn: between the drawing and the listening somebody else may take one."""


class LocalCluster:
    """A cluster of *size* servers, ``n1``, ``n2`` and so on.

    >>> with LocalCluster(3) as cluster, cluster.connect() as client:  # doctest: +SKIP
    ...     client.put("greeting", "hello")
    ...     cluster.kill(cluster.leader())
    ...     client.get("greeting").value
    b'hello'
    """

    def __init__(
        self,
        size: int = 3,
        *,
        transport: str = "tcp",
        data_dir: str | Path | None = None,
        consensus: str = "raft",
        **settings: Any,
    ) -> None:
        """
        Args:
            transport: ``"tcp"`` or ``"pipe"``.
            size: 1 to `SIZE_MAX`.
            data_dir: where the servers keep their data, one directory each, and what cluster there is (its names and
                addresses) beside them; a cluster that is there already is started again, whatever *size* says. None: a
                temporary directory, removed by `close`, or else with this object or at the end of this process.
            consensus: ``"raft"`` or ``"paxos"``; data that one has written is refused by the other.
            settings: any of `ServerConfig`, for all servers.

        Raises:
            UsageError: a setting is wrong.
            OSError: *data_dir* can not be made.
        """
        if type(size) is not int or not 1 <= size <= SIZE_MAX:
            raise UsageError(f"a cluster has 1 to {SIZE_MAX} servers, not {size!r}")
        if data_dir is not None and not str(data_dir):
            raise UsageError("data_dir is empty: where shall the data be kept? The current directory is '.'")
        if transport not in TRANSPORTS:
            raise UsageError(f"transport {transport!r} must be one of {', '.join(TRANSPORTS)}")
        self.transport = transport
        self._is_closed = False
        self._removals: list[Callable[[], object]] = []
        """Each removes a temporary directory."""
        self.data_dir = Path(self._temporary_directory() if data_dir is None else data_dir).absolute()
        self._sockets: str | None = None
        self._settings = {"consensus": consensus, "log_level": "info", **settings}
        self.servers: dict[str, RaftServer] = {}
        """The present process of each server, also when it is dead."""
        self._pairs = Pairs(self.servers)
        self._genesis = Membership(voters=())
        try:
            make_durably(self.data_dir)
            self._layout = layouts.read(self.data_dir, transport)
            self._addresses = self._layout.addresses
            self._is_drawn = not self._addresses and transport == "tcp"
            if transport == "pipe":
                # Sockets are made anew: a moved data directory has other paths.
                self._addresses.update({name: self._new_addresses(name) for name in self._addresses})
            if not self._addresses:
                names = [f"n{number}" for number in range(1, size + 1)]
                self._addresses.update({name: self._new_addresses(name) for name in names})
            for name in self._addresses:
                self._config(name)
        except BaseException:
            self.close()
            raise

    # -- what there is ---------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """What clients connect to. With TLS it names the servers' own certificate, which clients may use as well."""
        listed = ",".join(addresses["client"] for addresses in self._addresses.values())
        names = {"ca": "tls_ca", "cert": "tls_cert", "key": "tls_key"}
        files = [
            f"{name}={quote(str(self._settings[setting]))}"
            for name, setting in names.items()
            if setting in self._settings
        ]
        return f"troth+tls://{listed}?{'&'.join(files)}" if files else f"troth://{listed}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._addresses)

    def connect(self, **options: Any) -> "Client":
        """A synchronous client (`troth.connect` takes the *options*)."""
        from troth.client.sync import connect

        return connect(self.url, **options)

    def leader(self, timeout_s: float = READY_SECONDS_MAX) -> str:
        """The name of the server that leads; waits for one.

        Raises:
            UsageError: this cluster is closed.
            Unavailable: nobody leads within *timeout_s*.
        """
        if self._is_closed:
            raise UsageError("this cluster is closed")
        deadline = time.monotonic() + timeout_s
        pause_s = 0.002
        while time.monotonic() < deadline:
            leading: dict[int, str] = {}
            for name, server in self.servers.items():
                with contextlib.suppress(TrothError):
                    if server.is_alive:
                        status = server.status(timeout_s=0.2)
                        if status.role == "leader":
                            leading[status.term] = name
            if leading:
                return leading[max(leading)]
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.05)
        raise Unavailable(f"no server of this cluster leads after {timeout_s:g} s")

    def node_id(self, name: str) -> NodeId:
        """The node id of the server called *name*."""
        return self._server(name).node_id

    def log_file(self, name: str) -> Path:
        """Where the server called *name* logs."""
        return self.data_dir / f"{name}.log"

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all servers and wait until each serves. What `add_server` or `remove_server` of a process that has died
        had begun is carried through.

        Raises:
            UsageError: started before.
            TrothError: a server could not start.
        """
        if self.servers:
            raise UsageError("this cluster was started before")
        # Where nothing of this cluster was there before us, nothing is lost with it if it does not come up.
        is_new = self._is_drawn and not any((self.data_dir / name).exists() for name in self._addresses)
        try:
            for left in reversed(range(DRAWINGS_MAX)):
                try:
                    self._start_all()
                    return
                except AddressTaken as error:
                    if not (left and is_new and self._layout.has_address_in(error)):
                        raise
                    self._draw_anew()
        except BaseException:
            self.close()
            raise

    def _start_all(self) -> None:
        foundings = self._foundings()
        ends = {}
        if self.transport == "pipe":
            ends = self._pairs.between({name: each.node_id for name, each in foundings.items()})
        self._write_layout()
        for name in self._layout.settled:
            self._spawn(name, foundings.get(name), ends.get(name, {}))
        leaving = self._layout.those(LEAVING)
        for name, server in self.servers.items():
            if name not in leaving:  # it may have been removed, and never serve again
                with layouts.naming(name, self.data_dir):
                    server.wait_ready()
        if self._layout.founding:
            self._layout.founding = {}
            self._write_layout()
        for name in self._layout.those(JOINING):
            with contextlib.suppress(TrothError):
                self._join(name)
        for name in leaving:
            with contextlib.suppress(TrothError):
                self._take_out(name)

    def _draw_anew(self) -> None:
        """Give up what has been started of a new cluster, and give all servers other addresses: the old ones stand in
        what those have written that did come up."""
        for server in self.servers.values():
            server.close()
        self.servers.clear()
        for name in self._addresses:
            shutil.rmtree(self.data_dir / name, ignore_errors=True)
            self._addresses[name] = self._new_addresses(name)

    def stop(self) -> None:
        """Stop all servers gracefully. The data stays until `close`."""
        for server in self.servers.values():
            if server.is_alive:
                server.terminate()
                server.resume()
        for server in self.servers.values():
            server.stop()

    def close(self) -> None:
        """Kill what still runs; remove a temporary directory."""
        self._is_closed = True
        for server in self.servers.values():
            server.close()
        for remove in self._removals:
            remove()

    def __enter__(self) -> "LocalCluster":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.close()

    # -- faults and changes ----------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """SIGKILL the server called *name* and wait for its end."""
        server = self._server(name)
        server.kill()
        server.join()

    def pause(self, name: str) -> None:
        """SIGSTOP the server called *name*."""
        self._server(name).pause()

    def resume(self, name: str) -> None:
        """SIGCONT the server called *name*. Those that were restarted beside it meanwhile reach it now."""
        self._server(name).resume()
        self._pairs.resumed(name)

    def restart(self, name: str, *, wait: bool = True) -> RaftServer:
        """Start the server called *name* again, on the data it has; stops it gracefully if it runs."""
        old = self._server(name)
        node_id = old.node_id
        old.stop()
        old.close()
        ends = self._pairs.with_all(name, node_id) if self.transport == "pipe" else {}
        server = self._spawn(name, Founding(node_id=layouts.draw_node_id(), genesis=self._genesis), ends)
        server.node_id = node_id
        if wait:
            with layouts.naming(name, self.data_dir):
                server.wait_ready()
        return server

    def add_server(self, name: str | None = None) -> str:
        """Start one more server, which joins as a learner and becomes a voter when it has caught up; its name.

        Raises:
            UsageError: the name is taken, if only by the directory of a former server; or peers talk over pipes (a
                newcomer needs an address).
            TrothError: the cluster does not take it in.
        """
        if self.transport == "pipe":
            raise UsageError('add_server needs transport="tcp": a newcomer is dialed at its address')
        name = name or next(name for number in count(1) if self._is_free(name := f"n{number}"))
        if name in self._addresses:
            raise UsageError(f"there is a server {name} already")
        if not self._is_free(name):
            raise UsageError(
                f"{self.data_dir / name} is the directory of a former server, which would come back as itself, and was "
                "removed: empty it, or give another name"
            )
        for left in reversed(range(DRAWINGS_MAX)):
            self._addresses[name] = self._new_addresses(name)
            self._layout.changing[name] = JOINING
            try:
                self._config(name)
            except BaseException:
                self._layout.forget(name)
                raise
            self._write_layout()
            try:
                self._join(name)
                break
            except AddressTaken:
                if not left:
                    raise
        return name

    def _is_free(self, name: str) -> bool:
        directory = self.data_dir / name
        return name not in self._addresses and not (directory.exists() and any(directory.iterdir()))

    def remove_server(self, name: str, *, despite_registers: bool = False) -> None:
        """Take the server called *name*, dead or alive, out of the cluster, and stop it. Its directory stays.

        Raises:
            UsageError: no such server; or its acceptor holds registers (see `Client.remove_member`).
            TrothError: the cluster does not let it go.
        """
        self._server(name)
        self._layout.changing[name] = LEAVING
        self._write_layout()
        try:
            self._take_out(name, despite_registers=despite_registers)
        except (NotApplied, UsageError):
            del self._layout.changing[name]
            self._write_layout()
            raise

    def _join(self, name: str) -> None:
        """Start the newcomer called *name* and wait until it is a member and serves; else there is no such server."""
        running = tuple(self._addresses[other]["client"] for other in self._layout.settled)
        try:
            self._spawn(name, None, {}, join=running).wait_ready()
        except BaseException:
            self._layout.forget(name)
            server = self.servers.pop(name, None)
            if server is not None:
                server.close()
                # It may have been taken in and not have come up: a member that is no more would count against the
                # others.
                with contextlib.suppress(TrothError), self.connect() as client:
                    client.remove_member(name, despite_registers=True)
            self._write_layout()
            raise
        del self._layout.changing[name]
        self._write_layout()

    def _take_out(self, name: str, *, despite_registers: bool = True) -> None:
        """See to it that the server called *name* is no member, and stop it."""
        with self.connect() as client:
            if any(peer.member.name == name for peer in client.members()):
                client.remove_member(name, despite_registers=despite_registers)
        server = self.servers.pop(name)
        server.stop()
        server.close()
        self._layout.forget(name)
        self._write_layout()

    # -- inside ----------------------------------------------------------------------------------------------

    def _server(self, name: str) -> RaftServer:
        if name not in self.servers:
            raise UsageError(f"no server is called {name!r}; there are: {', '.join(self.servers) or 'none yet'}")
        return self.servers[name]

    def _config(self, name: str, join: tuple[str, ...] = ()) -> ServerConfig:
        addresses = self._addresses[name]
        own = {
            "name": name,
            "data_dir": str(self.data_dir / name),
            "client_address": addresses["client"],
            "peer_address": addresses["peer"],
            "join": join,
        }
        try:
            return ServerConfig(**{**self._settings, **own})
        except TypeError as error:
            raise UsageError(f"LocalCluster: {error}") from None

    def _spawn(
        self,
        name: str,
        founding: Founding | None,
        ends: Mapping[NodeId, socket.socket],
        join: tuple[str, ...] = (),
    ) -> RaftServer:
        server = RaftServer(
            self._config(name, join), founding=founding, ends=ends, log_file=str(self.log_file(name))
        )
        self.servers[name] = server
        server.start()
        return server

    def _foundings(self) -> dict[str, Founding]:
        foundings = layouts.foundings(self._layout, [self._config(name) for name in self._layout.settled])
        self._genesis = next(iter(foundings.values())).genesis
        return foundings

    def _new_addresses(self, name: str) -> dict[str, str]:
        if self.transport == "tcp":
            return {"client": f"127.0.0.1:{free_port()}", "peer": f"127.0.0.1:{free_port()}"}
        path = self.data_dir / f"{name}.sock"
        if len(str(path).encode()) > UNIX_PATH_BYTES_MAX:
            self._sockets = self._sockets or self._temporary_directory()
            path = Path(self._sockets) / path.name
        return {"client": f"unix:{path}", "peer": ""}

    def _temporary_directory(self) -> str:
        directory = tempfile.mkdtemp(prefix="troth-")
        # Also for who never starts this cluster, or forgets to close it.
        self._removals.append(weakref.finalize(self, _remove, directory, os.getpid()))
        return directory

    def _write_layout(self) -> None:
        layouts.write(self._layout, self.data_dir, self.transport)


def _remove(directory: str, pid: int) -> None:
    """Remove what the process *pid* has made: a forked child of it leaves it alone."""
    if os.getpid() == pid:
        shutil.rmtree(directory, ignore_errors=True)
