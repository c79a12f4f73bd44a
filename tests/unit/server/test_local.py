"""`LocalCluster` without its processes."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from troth.core.interface import Member, Membership
from troth.errors import AddressTaken, Corrupt, Overloaded, Removed, Unavailable, UsageError
from troth.ids import ClusterId, NodeId
from troth.replica.protocol import PeerView
from troth.runtime.files import DiskFiles
from troth.runtime.genesis import Founding
from troth.server.free_port import free_port
from troth.server.layout import LAYOUT
from troth.server.local import DRAWINGS_MAX, LocalCluster, _remove
from troth.storage.identity import Identity, store


class Client:
    """Takes note of whom it is to remove. *members*: the names of those that are."""

    def __init__(self, *members: str, refuses: Exception | None = None) -> None:
        self.removed: list[str] = []
        self._members = members
        self._refuses = refuses

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None: ...

    def members(self) -> list[PeerView]:
        return [PeerView(NodeId(1), Member(name), True) for name in self._members]

    def remove_member(self, name: str, *, despite_registers: bool) -> None:
        if self._refuses is not None:
            raise self._refuses
        self.removed.append(name)


class Running:
    """A server that serves, but for one that was removed."""

    def __init__(self, name: str, *, removed: bool = False) -> None:
        self.name = name
        self.is_stopped = False
        self._removed = removed

    def wait_ready(self) -> None:
        if self._removed:
            raise Removed(f"{self.name} was removed")

    def stop(self) -> None:
        self.is_stopped = True

    close = stop


class Died(BaseException):
    """The process of the cluster was killed."""


def started(cluster: LocalCluster, client: Client, *removed: str, dies_with: str = "") -> list[tuple[str, bool]]:
    """Start *cluster* with servers of no process; who was spawned, and whether to join. *dies_with*: when it is to be
    spawned this process is killed."""
    spawned = []

    def spawn(name: str, founding: object, *_: Any, join: tuple[str, ...] = ()) -> Any:
        if name == dies_with:
            raise Died
        spawned.append((name, bool(join)))
        assert (founding is None) == bool(join)
        server = cluster.servers[name] = Running(name, removed=name in removed)  # type: ignore[assignment]
        return server

    cluster._spawn = spawn  # type: ignore[method-assign]
    cluster.connect = lambda: client  # type: ignore[method-assign, assignment, misc]
    if not cluster.servers:
        cluster.start()
    return spawned


@pytest.mark.parametrize("already_removed", [False, True])
def test_a_removal_that_a_death_has_cut_short_is_carried_through_by_the_next_start(
    tmp_path: Path, already_removed: bool
) -> None:
    names = ("n1", "n2", "n3")
    cluster = LocalCluster(3, data_dir=tmp_path)
    started(cluster, Client(*names, refuses=Died()))  # type: ignore[arg-type]
    with pytest.raises(Died):
        cluster.remove_server("n2")
    again, client = LocalCluster(3, data_dir=tmp_path), Client(*(names[::2] if already_removed else names))
    removed = ["n2"] if already_removed else []
    spawned = started(again, client, *removed)
    assert spawned == [("n1", False), ("n2", False), ("n3", False)], "its vote may be needed to let it go"
    assert client.removed == ([] if already_removed else ["n2"])
    assert again.names == ("n1", "n3") == tuple(again.servers)
    assert LocalCluster(3, data_dir=tmp_path).names == ("n1", "n3")


def test_a_removal_that_is_refused_leaves_the_server_where_it_is(tmp_path: Path) -> None:
    cluster = LocalCluster(3, data_dir=tmp_path)
    started(cluster, Client("n1", "n2", "n3", refuses=Overloaded("no")))
    with pytest.raises(Overloaded):
        cluster.remove_server("n2")
    again = LocalCluster(3, data_dir=tmp_path)
    client = Client("n1", "n2", "n3")
    started(again, client)
    assert (again.names, client.removed) == (("n1", "n2", "n3"), [])


def test_a_newcomer_whose_start_a_death_has_cut_short_joins_at_the_next_one(tmp_path: Path) -> None:
    """It may be a member already, and count against the others while it does not run."""
    cluster = LocalCluster(3, data_dir=tmp_path)
    started(cluster, Client("n1", "n2", "n3"), dies_with="n4")
    writes = iter([cluster._write_layout])
    cluster._write_layout = lambda: next(writes, int)()  # type: ignore[method-assign]
    with pytest.raises(Died):
        cluster.add_server()
    again = LocalCluster(3, data_dir=tmp_path)
    assert started(again, Client("n1", "n2", "n3"))[-1] == ("n4", True)
    assert again.names == ("n1", "n2", "n3", "n4")
    third = LocalCluster(3, data_dir=tmp_path)
    assert ("n4", False) in started(third, Client("n1", "n2", "n3", "n4")), "it is one like the others"


def test_a_founding_that_a_death_has_cut_short_is_carried_through_by_the_next_start(tmp_path: Path) -> None:
    """The first server's identity names all node ids: the others must begin under these."""
    cluster = LocalCluster(3, data_dir=tmp_path)

    def identified(name: str, founding: Founding, *_: Any, join: tuple[str, ...] = ()) -> Any:
        if name == "n2":
            raise Died
        files = DiskFiles(tmp_path / name)
        store(files, Identity(ClusterId(7), founding.node_id, name, founding.genesis))
        files.close()
        server = cluster.servers[name] = Running(name)  # type: ignore[assignment]
        return server

    cluster._spawn = identified  # type: ignore[method-assign, assignment]
    with pytest.raises(Died):
        cluster.start()
    again = LocalCluster(3, data_dir=tmp_path)
    foundings = again._foundings()
    assert {founding.node_id for founding in foundings.values()} == set(foundings["n1"].genesis.voters)
    assert all(founding.genesis == foundings["n1"].genesis for founding in foundings.values())
    started(again, Client("n1", "n2", "n3"))
    third = LocalCluster(3, data_dir=tmp_path)
    ids = {name: founding.node_id for name, founding in third._foundings().items()}
    assert ids["n2"] not in third._genesis.voters, "whoever has come up and is wiped does not come back"
    assert not third._layout.founding, "nor after a death of this start"


class Late:
    """A server that is taken in, and is not ready in time."""

    def __init__(self) -> None:
        self.closed = False

    def wait_ready(self) -> None:
        raise Unavailable("it is not ready")

    def close(self) -> None:
        self.closed = True


def test_a_server_that_joined_and_did_not_come_up_does_not_stay_a_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, client, late = LocalCluster(3, data_dir=tmp_path), Client(), Late()

    def spawn(name: str, *_: Any, **_kw: Any) -> Any:
        cluster.servers[name] = late  # type: ignore[assignment]
        return late

    monkeypatch.setattr(cluster, "_spawn", spawn)
    monkeypatch.setattr(cluster, "connect", lambda: client)
    with pytest.raises(Unavailable, match="not ready"):
        cluster.add_server()
    assert client.removed == ["n4"]
    assert late.closed
    assert cluster.names == ("n1", "n2", "n3")


def test_a_newcomer_does_not_get_the_directory_of_a_server_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be that server again, which the cluster does not take back, and look as if it had been added."""
    cluster = LocalCluster(2, data_dir=tmp_path)
    started(cluster, Client("n1", "n2"))
    (tmp_path / "n2").mkdir(exist_ok=True)
    (tmp_path / "n2" / "identity").touch()
    cluster.remove_server("n2")
    assert cluster.add_server() == "n3"
    with pytest.raises(UsageError, match="directory of a former server"):
        cluster.add_server("n2")
    (tmp_path / "n2" / "identity").unlink()
    assert cluster.add_server("n2") == "n2"


def test_a_newcomer_whose_name_is_refused_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, client = LocalCluster(3, data_dir=tmp_path), Client()
    monkeypatch.setattr(cluster, "connect", lambda: client)
    with pytest.raises(UsageError, match="name 'a/b'"):
        cluster.add_server("a/b")
    assert client.removed == []
    assert cluster.names == ("n1", "n2", "n3")


class Taken(Running):
    """A server whose client address somebody else has."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name)
        self._address = address

    @override
    def wait_ready(self) -> None:
        raise AddressTaken(
            f"client_listen: {self._address} can not be listened on (in use); stop it, or give another port"
        )


def unlucky(cluster: LocalCluster, name: str, times: int, *, address: str = "") -> list[dict[str, str]]:
    """The client port of the server called *name* (or *address*, if given) is found taken so many *times*; its
    addresses at each start."""
    tried: list[dict[str, str]] = []

    def spawn(spawned: str, *_: Any, **_kw: Any) -> Any:
        (cluster.data_dir / spawned).mkdir(exist_ok=True)
        server = Running(spawned)
        if spawned == name:
            tried.append(cluster._addresses[name])
            if len(tried) <= times:
                server = Taken(name, address or tried[-1]["client"])
        cluster.servers[spawned] = server  # type: ignore[assignment]
        return server

    cluster._spawn = spawn  # type: ignore[method-assign]
    cluster.connect = lambda: Client()  # type: ignore[method-assign, assignment, misc]
    return tried


def test_ports_that_were_drawn_for_a_new_cluster_are_drawn_again_when_one_is_taken(tmp_path: Path) -> None:
    """Between the drawing and the listening somebody else may take it."""
    cluster = LocalCluster(3, data_dir=tmp_path)
    tried = unlucky(cluster, "n2", times=2)
    cluster.start()
    assert len(tried) == 3 and len({address["client"] for address in tried}) == 3
    assert LocalCluster(3, data_dir=tmp_path)._addresses["n2"] == tried[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAYOUT, "n1", "n2", "n3"]


def test_ports_are_not_drawn_for_ever(tmp_path: Path) -> None:
    cluster = LocalCluster(3, data_dir=tmp_path)
    tried = unlucky(cluster, "n1", times=99)
    with pytest.raises(AddressTaken, match="server n1"):
        cluster.start()
    assert len(tried) == DRAWINGS_MAX


def test_what_was_not_drawn_here_is_not_drawn_again(tmp_path: Path) -> None:
    cluster = LocalCluster(3, data_dir=tmp_path, metrics_address="127.0.0.1:99")
    tried = unlucky(cluster, "n1", times=99, address="127.0.0.1:99")
    with pytest.raises(AddressTaken, match=r"127.0.0.1:99"):
        cluster.start()
    assert len(tried) == 1


@pytest.mark.parametrize("left", [LAYOUT, "n2"])
def test_a_saved_port_that_is_taken_is_told_with_its_server_and_its_file(tmp_path: Path, left: str) -> None:
    if left == LAYOUT:
        LocalCluster(3, data_dir=tmp_path)._write_layout()
    else:
        (tmp_path / left / "log").mkdir(parents=True)
    cluster = LocalCluster(3, data_dir=tmp_path)
    tried = unlucky(cluster, "n2", times=99)
    with pytest.raises(AddressTaken) as caught:
        cluster.start()
    assert len(tried) == 1
    assert str(caught.value) == (
        f"server n2: client_listen: {tried[0]['client']} can not be listened on (in use); stop what listens there: the "
        f"addresses of this cluster stand in {tmp_path / LAYOUT}"
    )
    assert (tmp_path / "n2").exists()


def test_a_newcomer_s_ports_are_drawn_again_when_one_is_taken(tmp_path: Path) -> None:
    cluster = LocalCluster(3, data_dir=tmp_path)
    started(cluster, Client("n1", "n2", "n3"))
    tried = unlucky(cluster, "n4", times=1)
    assert cluster.add_server() == "n4"
    assert len(tried) == 2 and tried[0] != tried[1] == cluster._addresses["n4"]


def test_the_layout_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers sync all that they keep; an empty layout after a power cut would make it useless."""
    cluster, layout = LocalCluster(3, data_dir=tmp_path), tmp_path / LAYOUT
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, layout.exists())))
    cluster._write_layout()
    assert synced == [(layout.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_no_port_is_given_twice() -> None:
    """Two servers of one cluster would be told to listen on the same one."""
    given = [free_port() for _ in range(1000)]
    assert len(set(given)) == 1000


def make(**options: Any) -> None:
    LocalCluster(3, **options)


def test_a_cluster_that_cannot_be_made_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UsageError):
        make(no_such_setting=1)
    assert list(tmp_path.iterdir()) == []
    for function in ("make_durably", "layouts.read"):
        with monkeypatch.context() as broken, pytest.raises(OSError, match="no room"):
            broken.setattr(f"troth.server.local.{function}", no_room)
            make()
        assert list(tmp_path.iterdir()) == []


def no_room(*_: object) -> None:
    raise OSError("no room")


@pytest.mark.parametrize("transport", ["tcp", "pipe"])
def test_a_cluster_that_nobody_starts_or_closes_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """Paths of sockets are short: with pipes that may be a second directory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("troth.server.local.UNIX_PATH_BYTES_MAX", 1)
    make(transport=transport)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_leaves_the_directory_of_its_parents_cluster_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    _remove(str(tmp_path / "kept"), os.getpid() + 1)
    assert (tmp_path / "kept").exists()


@pytest.mark.parametrize("size", [0, 64, 10**6, True, "3"])
def test_the_size_of_a_cluster_has_bounds(size: Any) -> None:
    with pytest.raises(UsageError, match="1 to 63 servers, not"):
        LocalCluster(size)


def test_an_empty_data_directory_is_refused() -> None:
    with pytest.raises(UsageError, match="data_dir is empty"):
        LocalCluster(3, data_dir="")


def test_what_is_wrong_with_a_servers_identity_is_told_with_its_name_and_directory(tmp_path: Path) -> None:
    (tmp_path / "n2").mkdir()
    (tmp_path / "n2" / "identity").write_bytes(b"no identity")
    with pytest.raises(Corrupt, match=f"^server n2, in {tmp_path}/n2: identity "):
        LocalCluster(3, data_dir=tmp_path).start()


class Piped:
    """A server over pipes. *paused* or dead it takes no new end; *peers*: the ends it has, by node id."""

    def __init__(self, node_id: int) -> None:
        self.node_id = NodeId(node_id)
        self.is_alive, self.paused = True, False
        self.peers: dict[NodeId, socket.socket] = {}

    def adopt(self, peer: NodeId, end: socket.socket) -> None:
        if self.paused:
            end.close()
            raise Unavailable("it does not answer")
        if peer in self.peers:
            self.peers[peer].close()
        self.peers[peer] = end.dup()
        end.close()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def wait_ready(self) -> None: ...

    def stop(self) -> None:
        for end in self.peers.values():
            end.close()
        self.peers.clear()

    close = stop

    def hears(self, other: "Piped") -> bool:
        """Whether what *other* sends arrives here."""
        if self.node_id not in other.peers or other.node_id not in self.peers:
            return False
        try:
            other.peers[self.node_id].send(b"x")
            self.peers[other.node_id].setblocking(False)
            return self.peers[other.node_id].recv(1) == b"x"
        except OSError:
            return False


@pytest.fixture
def piped(tmp_path: Path) -> Iterator[LocalCluster]:
    """Three servers over pipes, without processes."""
    cluster = LocalCluster(3, transport="pipe", data_dir=tmp_path)

    def spawn(name: str, _: object, ends: dict[NodeId, socket.socket], join: object = ()) -> Any:
        server = Piped(int(name[1:]))
        server.peers.update(ends)
        cluster.servers[name] = server  # type: ignore[assignment]
        return server

    cluster._spawn = spawn  # type: ignore[method-assign, assignment]
    cluster._foundings = (
        lambda: {  # type: ignore[method-assign]
            name: Founding(node_id=NodeId(int(name[1:])), genesis=Membership(voters=())) for name in cluster.names
        }
    )
    cluster.start()
    yield cluster
    cluster.close()


def hearing(cluster: LocalCluster) -> set[str]:
    servers: Any = cluster.servers
    return {f"{one}{other}" for one in servers for other in servers if servers[one].hears(servers[other])}


ALL = {"n1n2", "n1n3", "n2n1", "n2n3", "n3n1", "n3n2"}


def test_over_pipes_who_was_paused_hears_those_that_were_restarted_meanwhile(piped: LocalCluster) -> None:
    assert hearing(piped) == ALL
    piped.pause("n2")
    piped.restart("n1")
    assert hearing(piped) == ALL - {"n1n2", "n2n1"}
    piped.resume("n2")
    assert hearing(piped) == ALL


def test_over_pipes_two_that_were_paused_hear_each_other_when_both_go_on(piped: LocalCluster) -> None:
    piped.pause("n2")
    piped.restart("n1")
    piped.pause("n1")
    piped.resume("n2")
    assert hearing(piped) == ALL - {"n1n2", "n2n1"}
    piped.resume("n1")
    assert hearing(piped) == ALL


def test_over_pipes_a_dead_server_gets_its_ends_when_it_is_restarted(piped: LocalCluster) -> None:
    piped.pause("n2")
    piped.restart("n1")
    dead: Any = piped.servers["n1"]
    dead.is_alive = False
    piped.resume("n2")
    piped.restart("n1")
    assert hearing(piped) == ALL


def test_over_pipes_nothing_is_made_anew_for_who_has_its_ends(piped: LocalCluster) -> None:
    piped.pause("n2")
    piped.restart("n1")
    piped.restart("n2")
    assert hearing(piped) == ALL
    servers: Any = piped.servers
    before = dict(servers["n1"].peers)
    piped.resume("n2")
    assert servers["n1"].peers == before


def test_a_closed_cluster_has_no_leader_to_wait_for(tmp_path: Path) -> None:
    cluster = LocalCluster(1, data_dir=tmp_path)
    cluster.close()
    with pytest.raises(UsageError, match="this cluster is closed"):
        cluster.leader()
