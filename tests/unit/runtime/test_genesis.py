"""How clusters begin: real probes between real ports."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from troth.core.interface import Member, Membership
from troth.errors import Corrupt, IdentityLost, UsageError, WrongCluster
from troth.ids import ClusterId, NodeId
from troth.models import LevelName
from troth.replica.protocol import (
    CallRefused,
    ChangeMembers,
    ClientMessage,
    Done,
    GetStatus,
    LeaderChanged,
    PeerView,
    ReadResults,
    Reads,
    ServerMessage,
    ServerStatus,
)
from troth.runtime.files import DiskFiles
from troth.runtime.genesis import Introduction, cluster_id_of, encode_introduction, form, genesis_of
from troth.runtime.joining import Invitation, join
from troth.runtime.newborn import NEWBORN, draw_node_id, remove_newborn
from troth.runtime.transport import PeerTransport
from troth.server.clients import ClientPort
from troth.simulate.disk import SimulatedDisk
from troth.wire.handshake import Hello

ADVICE = "Run: troth member remove --url troth://HOST:PORT"


class Newborn:
    """A server that is asked who it is."""

    def __init__(self, number: int, name: str) -> None:
        self.transport = PeerTransport(node_id=NodeId(number), name=name, sink=_NoSink())
        self.me = Introduction(node_id=NodeId(number), name=name, peer_address="", client_address=f"{name}:1")
        self.transport.answer_probe = lambda: encode_introduction(self.me)

    def formed(self, genesis: Membership, current: Membership | None = None) -> None:
        self.me = msgspec.structs.replace(
            self.me, cluster_id=cluster_id_of(genesis), genesis=genesis, current=current or genesis
        )


class _NoSink:
    def on_peer_frame(self, sender: NodeId, body: bytes) -> None:
        raise AssertionError

    def on_heard(self) -> None: ...

    def on_suspect(self, peer: NodeId) -> None:
        raise AssertionError

    def on_unreachable(self, peer: NodeId) -> None:
        raise AssertionError

    def on_removed(self, peer: NodeId, term: int, text: str) -> None:
        raise AssertionError


@contextlib.asynccontextmanager
async def listening(*servers: Newborn) -> AsyncIterator[dict[str, str]]:
    addresses: dict[str, str] = {}
    listeners = []
    for server in servers:
        listener = await asyncio.get_running_loop().create_server(server.transport.accept, "127.0.0.1", 0)
        listeners.append(listener)
        addresses[server.me.name] = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        server.me = msgspec.structs.replace(server.me, peer_address=addresses[server.me.name])
    try:
        yield addresses
    finally:
        for listener in listeners:
            listener.close()
        for server in servers:
            server.transport.close()


async def formed_by(server: Newborn, addresses: dict[str, str]) -> Membership:
    async with asyncio.timeout(10):
        return await form(server.me, addresses, tls=lambda: None, advice=ADVICE)


async def test_all_servers_find_the_same_genesis() -> None:
    a, b, c = Newborn(30, "a"), Newborn(10, "b"), Newborn(20, "c")
    async with listening(a, b, c) as addresses:
        found = await asyncio.gather(*(formed_by(each, addresses) for each in (a, b, c)))
    assert found[0] == found[1] == found[2]
    assert found[0].voters == (10, 20, 30)
    assert found[0].members[NodeId(30)] == Member(name="a", peer_address=addresses["a"], client_address="a:1")
    assert len({cluster_id_of(each) for each in found}) == 1


async def test_nothing_is_formed_before_all_are_heard() -> None:
    a, b, c = Newborn(1, "a"), Newborn(2, "b"), Newborn(3, "c")
    async with listening(a, b, c) as addresses:
        missing = {**addresses, "c": "127.0.0.1:1"}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await form(a.me, missing, tls=lambda: None, advice=ADVICE)
        assert (await formed_by(a, addresses)).voters == (1, 2, 3)


async def test_servers_that_share_an_address_form_nothing() -> None:
    """Who dials it meets one of them, and for the others it is as if they were not there."""
    a, b, c = Newborn(1, "a"), Newborn(2, "b"), Newborn(3, "c")
    c.me = msgspec.structs.replace(c.me, client_address=b.me.client_address)
    async with listening(a, b, c) as addresses:
        for each in (a, b, c):
            with pytest.raises(UsageError, match=r"the address b:1 of (c is b's|b is c's); give each"):
                await formed_by(each, addresses)


async def test_a_latecomer_adopts_what_the_others_have_formed() -> None:
    a, b = Newborn(1, "a"), Newborn(2, "b")
    async with listening(a, b) as addresses:
        genesis = genesis_of([a.me, b.me])
        a.formed(genesis)
        assert await formed_by(b, addresses) == genesis


async def test_a_wiped_server_is_told_what_to_do() -> None:
    a, old, new = Newborn(1, "a"), Newborn(2, "b"), Newborn(9, "b")
    async with listening(a, new) as addresses:
        a.formed(genesis_of([a.me, old.me]))
        with pytest.raises(IdentityLost, match=r"knows b as server 2.*new(?s:.*)member remove --url troth://a:1$"):
            await formed_by(new, addresses)


async def test_a_removed_server_and_a_stranger_are_refused() -> None:
    a, b, c = Newborn(1, "a"), Newborn(2, "b"), Newborn(3, "c")
    async with listening(a, b, c) as addresses:
        a.formed(genesis_of([a.me, b.me]), genesis_of([a.me]))
        pair = {name: addresses[name] for name in ("a", "b")}
        with pytest.raises(WrongCluster, match="removed"):
            await formed_by(b, pair)
        with pytest.raises(WrongCluster, match="without c"):
            await formed_by(c, {name: addresses[name] for name in ("a", "c")})


async def test_names_that_do_not_fit_their_addresses_are_an_error() -> None:
    a, b, c = Newborn(1, "a"), Newborn(2, "b"), Newborn(3, "c")
    async with listening(a, b, c) as addresses:
        with pytest.raises(UsageError, match=r"b is at .* but c answers"):
            await formed_by(a, {**addresses, "b": addresses["c"]})


def test_a_cluster_id_depends_on_who_is_in_it() -> None:
    a, b, other = Newborn(1, "a").me, Newborn(2, "b").me, Newborn(3, "b").me
    assert cluster_id_of(genesis_of([a, b])) == cluster_id_of(genesis_of([b, a]))
    assert cluster_id_of(genesis_of([a, b])) != cluster_id_of(genesis_of([a, other]))
    assert 0 < cluster_id_of(genesis_of([a])) < 2**63


def test_a_node_id_is_drawn_once_and_survives_a_crash_before_the_identity(tmp_path: Path) -> None:
    files = DiskFiles(tmp_path)
    drawn = draw_node_id(files, random.SystemRandom())
    assert draw_node_id(files, random.SystemRandom()) == drawn
    torn = files.create(NEWBORN)
    torn.write_at(0, b"00")
    torn.close()
    assert draw_node_id(files, random.SystemRandom()) != drawn, "a torn file was never told to anybody"
    remove_newborn(files)
    assert NEWBORN not in files.names()
    files.close()


def test_a_damaged_node_id_is_told_as_such_and_never_replaced_by_another(tmp_path: Path) -> None:
    files = DiskFiles(tmp_path)
    draw_node_id(files, random.SystemRandom())
    rotten = files.open(NEWBORN)
    rotten.write_at(3, b"u")
    rotten.close()
    for _ in range(2):
        with pytest.raises(Corrupt, match="empty data directory"):
            draw_node_id(files, random.SystemRandom())
    files.close()


class ClusterOfOne:
    """A node that answers what a joiner asks."""

    def __init__(self, peers: list[PeerView]) -> None:
        self.node_id, self.name, self.cluster_id = NodeId(1), "a", ClusterId(77)
        self.peers = peers
        self.stale_answers = 0
        """So often "e" is still known under the id of a server that was removed."""
        self.unconfirmed = 0
        """So many reads are refused before one is confirmed by a quorum."""
        self.asked: list[ClientMessage] = []
        self.refusals: list[CallRefused] = []
        self.peers_behind: list[PeerView] = []
        """Who is a member once something was refused."""
        self.port = ClientPort(node=self, connections_max=10, queue_bytes_max=1 << 20)

    def client_opened(self, client: int) -> None:
        self.port.deliver([(client, LeaderChanged(1, NodeId(1), ""))])

    def client_paused(self, client: int, *, paused: bool) -> None:
        del client, paused

    def on_heard(self) -> None: ...

    def client_gone(self, client: int) -> None:
        del client

    def on_client(self, client: int, message: ClientMessage, raw: bytes) -> None:
        del raw
        self.asked.append(message)
        self.port.deliver([(client, self._answer(message))])

    def _answer(self, message: ClientMessage) -> ServerMessage:
        if isinstance(message, GetStatus):
            if self.stale_answers:
                self.stale_answers -= 1
                return _status(message.call, [PeerView(NodeId(4), Member("e"), True)])
            return _status(message.call, self.peers)
        if isinstance(message, Reads):
            assert message.level.name is LevelName.LINEARIZABLE
            if self.unconfirmed:
                self.unconfirmed -= 1
                return CallRefused(message.call, "not_leader", "the leader could not be confirmed; ask again")
            return ReadResults(message.call, LevelName.LINEARIZABLE, 1, [])
        assert isinstance(message, ChangeMembers)
        self.peers = self.peers_behind
        return self.refusals.pop(0) if self.refusals else Done(message.call)


def _status(call: int, peers: list[PeerView]) -> ServerStatus:
    return ServerStatus(
        call, NodeId(1), "a", 77, "0", "leader", 1, NodeId(1), 1, 0, 1, 1, 1, 1, 0, 0, False, peers
    )


async def joined(server: ClusterOfOne, me: Introduction) -> ClusterId:
    listener = await asyncio.get_running_loop().create_server(server.port.accept, "127.0.0.1", 0)
    address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        async with asyncio.timeout(10):
            return await join(me, ["127.0.0.1:1", address], tls=lambda: None, advice=ADVICE)
    finally:
        listener.close()
        server.port.close()


ME = Introduction(node_id=NodeId(5), name="e", peer_address="e:2", client_address="e:1")


async def test_who_waits_to_be_added_believes_only_who_calls_it_by_its_node_id() -> None:
    """A cluster may still call a former server, that had this address."""
    transport, invitation = PeerTransport(node_id=NodeId(5), name="e", sink=_NoSink()), Invitation()
    transport.called_early = invitation.on_called
    waiting = asyncio.create_task(invitation.accepted(ME))
    for cluster_id, to in ((0, 5), (66, 4), (77, 5), (88, 5)):
        call = Hello("peer", cluster_id=ClusterId(cluster_id), node_id=NodeId(1), to=NodeId(to))
        refused = transport.greeting_refusal(call)
        assert refused is not None and refused.code == "unavailable", "it is not ready yet: they shall call again"
    assert await waiting == 77


async def test_a_joiner_asks_to_become_a_learner_that_is_promoted() -> None:
    server = ClusterOfOne([])
    server.refusals = [CallRefused(2, "unavailable", "another change is under way")]
    assert await joined(server, ME) == 77
    changes = [asked.change for asked in server.asked if isinstance(asked, ChangeMembers)]
    assert len(changes) == 2, "what is refused for now is asked again"
    assert changes[0].add_learners == {NodeId(5): Member("e", "e:2", "e:1", promote=True)}


async def test_a_joiner_that_is_a_member_already_does_not_ask_again() -> None:
    server = ClusterOfOne([PeerView(NodeId(5), Member("e"), True)])
    assert await joined(server, ME) == 77
    assert not any(isinstance(asked, ChangeMembers) for asked in server.asked)


async def test_a_joiner_whose_name_is_taken_is_told_what_to_do() -> None:
    server = ClusterOfOne([PeerView(NodeId(4), Member("e"), True)])
    with pytest.raises(IdentityLost, match="member remove"):
        await joined(server, ME)


async def test_a_joiner_does_not_believe_a_follower_that_its_name_is_taken() -> None:
    """A follower that lags still knows the server of that name that was just removed; so does a leader that others have
    replaced, and one that does not know yet what was committed before it led."""
    server = ClusterOfOne([])
    server.stale_answers = 1
    assert await joined(server, ME) == 77
    assert [type(asked) for asked in server.asked] == [GetStatus, Reads, GetStatus, ChangeMembers]


async def test_a_joiner_asks_again_when_nobody_confirms_that_its_name_is_taken() -> None:
    server = ClusterOfOne([])
    server.stale_answers = server.unconfirmed = 3
    assert await joined(server, ME) == 77
    assert sum(isinstance(asked, Reads) for asked in server.asked) == 3


async def test_a_joiner_that_is_refused_for_good_stops() -> None:
    server = ClusterOfOne([])
    server.refusals = [CallRefused(2, "invalid", "no such change") for _ in range(2)]
    with pytest.raises(UsageError, match="does not add e: no such change"):
        await joined(server, ME)


async def test_a_joiner_that_was_added_while_it_asked_again_is_a_member() -> None:
    """Its first attempt was carried out, unheard, between the two answers to its second."""
    server = ClusterOfOne([])
    server.refusals = [CallRefused(2, "invalid", "server 5 is a member already")]
    server.peers_behind = [PeerView(NodeId(5), Member("e"), False)]
    assert await joined(server, ME) == 77


async def test_a_joiner_whose_name_was_taken_while_it_asked_is_told_what_to_do() -> None:
    server = ClusterOfOne([])
    server.refusals = [CallRefused(2, "invalid", "the name 'e' is taken")]
    server.peers_behind = [PeerView(NodeId(4), Member("e"), True)]
    with pytest.raises(IdentityLost, match="member remove"):
        await joined(server, ME)


async def test_no_second_cluster_is_formed_while_one_of_the_servers_is_in_a_cluster() -> None:
    """It knows us, as one that joined later, though it was not founded with us."""
    a, b = Newborn(1, "a"), Newborn(2, "b")
    async with listening(a, b) as addresses:
        a.formed(genesis_of([a.me]), genesis_of([a.me, b.me]))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await form(b.me, addresses, tls=lambda: None, advice=ADVICE)


def test_a_node_id_that_was_told_is_on_the_disk() -> None:
    """Others may have formed a cluster with it by the time the power fails."""
    for seed in range(8):
        files = SimulatedDisk(random.Random(seed))
        drawn = draw_node_id(files, random.Random(99))
        files.power_loss()
        assert draw_node_id(files, random.Random(100)) == drawn
