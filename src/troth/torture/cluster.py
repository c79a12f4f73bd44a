"""troth itself, tortured: real server processes on this machine behind a network that can be cut.

Kill and pause are signals. A full disk is a limit on the size of any file that the server writes (RLIMIT_FSIZE, which
a parent may set on a running child), so that the next write fails as on a disk without room; nothing needs root.
"""

import contextlib
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from troth import aio
from troth.errors import TrothError, Unavailable
from troth.replica.protocol import StateHash
from troth.server.ending import EXIT_STORAGE
from troth.server.process import RaftServer
from troth.torture.client import TrothClient
from troth.torture.links import ApartCluster, CutCluster, Links, ProxiedCluster, Proxies
from troth.torture.namespaces import Namespaces
from troth.torture.system import Power, Unquiet
from troth.verify.specification import check_trace, decode_trace
from troth.verify.specification.multipaxos_trace import check_paxos_trace, decode_paxos_trace

CLIENT_TIMEOUT_S: Final = 3.0
MEMBER_SECONDS_MAX: Final = 5.0
HEAL_SECONDS_MAX: Final = 60.0
FULL_BYTES: Final = 4096
"""No file may grow beyond this while a disk is "full": less than any log segment holds."""

BUG_WORDS: Final = ("because of a bug", "Traceback (most recent call last)")
SERVERS_MAX: Final = 7


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
        self._cluster: CutCluster
        self._links: Links
        if namespaces:
            directory.mkdir(parents=True, exist_ok=True)
            network = Namespaces()
            self.name += " in network namespaces"
            self._cluster, self._links = (
                ApartCluster(size, data_dir=directory, network=network, **settings),
                network,
            )
        else:
            self._cluster = proxied = ProxiedCluster(size, data_dir=directory, **settings)
            self._links = Proxies(proxied)
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
            client.remove_member(server, within_s=MEMBER_SECONDS_MAX, despite_registers=True)
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
                client.remove_member(int(node_id), within_s=MEMBER_SECONDS_MAX, despite_registers=True)
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
            hashes: dict[str, StateHash] = {}
            while True:
                with contextlib.suppress(Unavailable):
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

    async def client(self) -> TrothClient:
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
