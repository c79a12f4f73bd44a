"""troth itself, tortured: real server processes on this machine behind a network that can be cut.

Kill and pause are signals. A full disk is a limit on the size of any file that the server writes (RLIMIT_FSIZE, which
a parent may set on a running child), so that the next write fails as on a disk without room; nothing needs root.
"""

import contextlib
import dataclasses
import socket
import time
from collections.abc import Awaitable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from typing_extensions import override

import troth
from troth import aio
from troth.client.aio import AsyncClient
from troth.client.operations import Get, Put
from troth.client.replies import RangeReply
from troth.errors import DecodeError, NotApplied, OutcomeUnknown, TrothError
from troth.ids import NodeId
from troth.runtime.genesis import Founding
from troth.server.config import ServerConfig
from troth.server.local import LocalCluster
from troth.server.process import RaftServer
from troth.torture.background import Background
from troth.torture.namespaces import Namespaces
from troth.torture.proxy import Network
from troth.torture.system import Definite, Indefinite, Power, Unquiet
from troth.verify.specification import check_trace, decode_trace
from troth.verify.specification.multipaxos_trace import check_paxos_trace, decode_paxos_trace
from troth.wire.frames import HANDSHAKE_BYTES_MAX, first_frame
from troth.wire.handshake import Hello, decode_greeting

T = TypeVar("T")

CLIENT_TIMEOUT_S: Final = 3.0
MEMBER_SECONDS_MAX: Final = 5.0
HEAL_SECONDS_MAX: Final = 60.0
FULL_BYTES: Final = 4096
"""No file may grow beyond this while a disk is "full": less than any log segment holds."""

BUG_WORDS: Final = ("because of a bug", "Traceback (most recent call last)")
EXIT_STORAGE: Final = 3
SERVERS_MAX: Final = 7
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


class _Cut(LocalCluster):
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


class _Proxied(_Cut):
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


class _Proxies:
    """`Links` made of one TCP proxy for each server (proxy.py)."""

    def __init__(self, cluster: _Proxied) -> None:
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


class _Apart(_Cut):
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


class TrothCluster:
    """`SystemUnderTest` of *size* troth servers in *directory*.

    With *trace* every step of every server's consensus engine is written down, and held to its executable
    specification at the end. A server whose disk is full could not write its trace, so none is filled then.
    """

    def __init__(
        self, size: int, directory: Path, *, trace: bool = False, namespaces: bool = False, **settings: Any
    ) -> None:
        """*namespaces*: cut the kernel's network instead of proxies (namespaces.py); raises UsageError if that is not
        possible here."""
        self.name = f"troth, {size} servers"
        self._size = size
        # Small segments and frequent snapshots: what happens once an hour elsewhere happens all the time here.
        self._trace = directory / "trace.jsonl" if trace else None
        if trace:
            settings["trace_file"] = str(self._trace)
        settings = {"snapshot_entries": 500, **settings}
        self._consensus = settings.get("consensus", "raft")
        self._cluster: _Cut
        self._links: Links
        if namespaces:
            directory.mkdir(parents=True, exist_ok=True)
            network = Namespaces()
            self.name += " in network namespaces"
            self._cluster, self._links = _Apart(size, data_dir=directory, network=network, **settings), network
        else:
            self._cluster = proxied = _Proxied(size, data_dir=directory, **settings)
            self._links = _Proxies(proxied)
        self._founders: tuple[int, ...] = ()
        self._next = size + 1
        self._killed: set[int] = set()
        """Processes whose end was our doing."""
        self._deaths: list[str] = []
        self._starved: set[str] = set()

    def powers(self) -> frozenset[Power]:
        import resource

        possible = set(Power)
        if not hasattr(resource, "prlimit") or self._trace is not None:
            possible.discard(Power.DISK)
        return frozenset(possible)

    # ---- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        for name in self._cluster.names:
            self._links.front(name)
        self._cluster.start()
        self._founders = tuple(process.node_id for process in self._cluster.servers.values())

    def stop(self) -> None:
        try:
            self._cluster.stop()
            self._cluster.close()
        finally:
            self._links.close()

    def servers(self) -> tuple[str, ...]:
        return tuple(self._cluster.servers)

    def leader(self) -> str | None:
        with contextlib.suppress(TrothError):
            return self._cluster.leader(timeout_s=0.5)
        return None

    def _server(self, name: str) -> RaftServer | None:
        return self._cluster.servers.get(name)

    # ---- processes ----------------------------------------------------------------------------------------

    def kill(self, server: str) -> None:
        process = self._server(server)
        if process is None or not process.is_alive:
            return
        self._killed.add(process.pid)
        self._links.down(server)
        self._cluster.kill(server)

    def restart(self, server: str) -> None:
        process = self._server(server)
        if process is None or process.is_alive:
            return
        self._note_death(process)
        self._starved.discard(server)
        self._cluster.restart(server, wait=False)
        self._links.up(server)

    def _note_death(self, process: RaftServer) -> None:
        if process.pid in self._killed:
            return
        self._killed.add(process.pid)
        if process.exitcode != EXIT_STORAGE or process.name not in self._starved:
            self._deaths.append(f"{process.name} ended by itself with exit code {process.exitcode}")

    def pause(self, server: str) -> None:
        process = self._server(server)
        if process is not None and process.is_alive:
            process.pause()

    def resume(self, server: str) -> None:
        process = self._server(server)
        if process is not None and process.is_alive:
            process.resume()

    def partition(self, cut: Collection[tuple[str, str]], *, reset: bool) -> None:
        self._links.cut(cut, reset=reset)

    # ---- disk ---------------------------------------------------------------------------------------------

    def fill_disk(self, server: str) -> None:
        process = self._server(server)
        if process is not None and process.is_alive:
            self._starved.add(server)
            limit_files(process.pid, FULL_BYTES)

    def free_disk(self, server: str) -> None:
        process = self._server(server)
        if process is None:
            return
        if process.is_alive:
            limit_files(process.pid, None)
            # It may have met the limit just now and be on its way out.
            process.join(0.2)
        if not process.is_alive:
            self.restart(server)

    # ---- leadership and membership -------------------------------------------------------------------------

    def move_leader(self, server: str) -> None:
        leader, target = self.leader(), self._server(server)
        process = None if leader is None else self._server(leader)
        if process is not None and target is not None:
            with contextlib.suppress(TrothError):
                process.transfer(target.node_id, timeout_s=1.0)

    def add_server(self) -> None:
        if len(self._cluster.servers) >= SERVERS_MAX:
            return
        name = f"n{self._next}"
        self._next += 1
        self._cluster.prepare(name)
        self._links.front(name)
        try:
            self._cluster.join(name, MEMBER_SECONDS_MAX)
        except TrothError:
            # It may be a member nevertheless; `heal` sees to that.
            self._drop(name)
            raise

    def remove_server(self, server: str) -> None:
        with self._cluster.connect(timeout=CLIENT_TIMEOUT_S) as client:
            client.remove_member(server, within_s=MEMBER_SECONDS_MAX)
        self._drop(server)

    def _drop(self, name: str) -> None:
        process = self._server(name)
        if process is not None and process.is_alive:
            self._killed.add(process.pid)
        elif process is not None:
            self._note_death(process)
        self._cluster.forget(name)
        self._links.remove(name)

    # ---- the end ------------------------------------------------------------------------------------------

    def heal(self) -> None:
        self.partition((), reset=False)
        deadline_s = time.monotonic() + HEAL_SECONDS_MAX
        while True:
            for name, process in list(self._cluster.servers.items()):
                if process.is_alive:
                    process.resume()
                    limit_files(process.pid, None)
                else:
                    self.restart(name)
            try:
                if self._reconciled():
                    return
            except TrothError as error:
                if time.monotonic() > deadline_s:
                    raise Unquiet(f"the members can not be settled: {error}") from error
            if time.monotonic() > deadline_s:
                raise Unquiet("processes and members do not agree")

    def _reconciled(self) -> bool:
        """Whether exactly the members run; else one step towards that."""
        self._cluster.leader(timeout_s=5.0)
        with self._cluster.connect(timeout=CLIENT_TIMEOUT_S) as client:
            members = {peer.node_id: peer.member.name for peer in client.members()}
            running = {process.node_id: name for name, process in self._cluster.servers.items()}
            for node_id in members.keys() - running.keys():
                client.remove_member(int(node_id), within_s=MEMBER_SECONDS_MAX)
            for node_id in running.keys() - members.keys():
                self._drop(running[node_id])
            return members.keys() == running.keys()

    def quiesce(self, within_s: float) -> None:
        deadline_s = time.monotonic() + within_s
        pause_s = 0.05
        seen: object = None
        while time.monotonic() < deadline_s:
            with contextlib.suppress(TrothError):
                statuses = {name: process.status(timeout_s=1.0) for name, process in self._cluster.servers.items()}
                seen = {name: status.applied_index for name, status in statuses.items()}
                if len({(status.applied_index, status.revision) for status in statuses.values()}) == 1:
                    return
            time.sleep(pause_s)
        raise Unquiet(f"the servers do not apply the same within {within_s:g} s: {seen}")

    def state_hashes(self) -> dict[str, str]:
        with self._cluster.connect(timeout=CLIENT_TIMEOUT_S) as client:
            deadline_s = time.monotonic() + HEAL_SECONDS_MAX
            while True:
                hashes = client.hash()
                if hashes.keys() >= self._cluster.servers.keys() or time.monotonic() > deadline_s:
                    return {name: f"{each.hash:x} at revision {each.revision}" for name, each in hashes.items()}

    def complaints(self) -> list[str]:
        for process in self._cluster.servers.values():
            if not process.is_alive:
                self._note_death(process)
        found = list(self._deaths)
        for path in sorted(self._cluster.data_dir.glob("*.log")):
            text = path.read_text(errors="replace")
            found += [f"{path}: {line.strip()}" for line in text.splitlines() if any(w in line for w in BUG_WORDS)]
        if self._trace is not None:
            found += self._refused_by_the_specification(self._trace)
        return found

    def _refused_by_the_specification(self, trace: Path) -> list[str]:
        # A server that was killed in the middle of a line leaves half of it; a running one may be writing its last.
        lines = [line for line in trace.read_bytes().split(b"\n") if line.endswith(b"}")]
        if self._consensus == "paxos":
            reason, _ = check_paxos_trace(decode_paxos_trace(lines), voters=self._founders)
            return [reason] if reason else []
        refusal = check_trace(decode_trace(lines), voters=self._founders).refusal
        return [] if refusal is None else [refusal.text()]

    async def client(self) -> "TrothClient":
        return TrothClient(await aio.connect(self._cluster.url, timeout=CLIENT_TIMEOUT_S))


def limit_files(pid: int, size_bytes: int | None) -> None:
    """Let the process *pid* write files up to *size_bytes* only (None: any); its disk is full, as far as it can see."""
    import resource

    if not hasattr(resource, "prlimit"):
        return
    soft = resource.RLIM_INFINITY if size_bytes is None else size_bytes
    with contextlib.suppress(ProcessLookupError, PermissionError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft if hard == resource.RLIM_INFINITY else hard, hard))


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


class TrothClient:
    """`TortureClient` over troth's own client."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def put(self, key: str, value: str) -> None:
        await outcome_of(self._client.put(key, value))

    async def get(self, key: str) -> str | None:
        reply = await outcome_of(self._client.get(key))
        return None if reply.value is None else reply.value.decode()

    async def swap(self, expected: Mapping[str, str | None], wanted: Mapping[str, str]) -> bool:
        compare = [
            troth.version(key) == 0 if value is None else troth.value(key) == value
            for key, value in expected.items()
        ]
        reply = await outcome_of(self._client.txn(compare, [Put(key, value) for key, value in wanted.items()]))
        return reply.succeeded

    async def read(self, keys: Sequence[str]) -> dict[str, str | None]:
        reply = await outcome_of(self._client.txn([], [Get(key) for key in keys]))
        found: dict[str, str | None] = {}
        for key, response in zip(keys, reply.responses, strict=True):
            kvs = response.kvs if isinstance(response, RangeReply) else []
            found[key] = kvs[0].value.decode() if kvs else None
        return found

    async def scan(self, prefix: str) -> dict[str, tuple[str, int]]:
        reply = await outcome_of(self._client.range(prefix=prefix))
        return {kv.key.decode(): (kv.value.decode(), kv.version) for kv in reply.kvs}

    async def close(self) -> None:
        await self._client.close()


async def outcome_of(request: Awaitable[T]) -> T:
    """Await *request*, its errors turned into torture's two."""
    try:
        return await request
    except NotApplied as error:
        raise Definite(f"{type(error).__name__}: {error}") from error
    except OutcomeUnknown as error:
        raise Indefinite(f"{type(error).__name__}: {error}") from error
