"""Who a server is, and to which cluster it belongs: as its directory says, or as it settles with the others."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence

import msgspec
from typing_extensions import override

from troth.core.interface import Membership
from troth.errors import DecodeError, IdentityLost, TrothError, Unavailable
from troth.ids import ClusterId, NodeId
from troth.ports import Rng
from troth.runtime.disk_machine import Directory
from troth.runtime.genesis import Dialing, Founding, Introduction, check_known, cluster_id_of, form, genesis_of
from troth.runtime.joining import Invitation, cluster_at, join
from troth.runtime.newborn import draw_node_id
from troth.runtime.streams import FrameConnection
from troth.server.config import ServerConfig
from troth.storage import identity as identities
from troth.storage.identity import Identity
from troth.wire.handshake import Greeting, Hello

VISITORS_MAX = 64

_log = logging.getLogger("troth.server")


def check_known_here(config: ServerConfig, known: Identity | None) -> None:
    """Refuse a data directory that is not this server's.

    Raises:
        IdentityLost: it belongs to another server.
        WrongEngine: it was made with another engine.
    """
    if known is None:
        return
    if known.name != config.name:
        raise IdentityLost(
            f"the data directory {config.data_dir} belongs to server {known.name}, not {config.name}: give that "
            "name, or another directory"
        )
    identities.check_consensus(known, config.consensus_identity)


def node_id_of(files: Directory, known: Identity | None, *, founding: Founding | None, chance: Rng) -> NodeId:
    """The id in the directory; for a new server that of its *founding*, or one that is drawn."""
    if known is None:
        return draw_node_id(files, chance) if founding is None else founding.node_id
    return known.node_id


async def check_asked_for(
    config: ServerConfig, who: Identity, present: Membership, *, tls: ssl.SSLContext | None
) -> None:
    """Hold what the settings ask for against the cluster that the data directory belongs to.

    They count only for a new server, so one that was told something else would serve its old cluster all the same. If
    that is a cluster of its own, whoever started it believes that it is a member of another one and that its data is
    replicated: it is refused. Any other goes on with a warning, since its cluster needs it more than right settings.
    *present* are the members as far as this server's log knows, none if it has never heard.

    Raises:
        IdentityLost: a cluster of this server alone is not what the settings ask for.
    """
    here = f"the data directory {config.data_dir} belongs to cluster {who.cluster_id:x}"
    is_alone = present.everyone() == (who.node_id,)
    clusters = await _clusters_at(config.join, tls)
    contradiction = _other_founders(config, who, present) or _other_hosts(who, clusters) or _founded(config, who)
    if contradiction and is_alone:
        raise IdentityLost(
            f"{here}, which has no other member than {config.name}, but {contradiction}. To serve that cluster as it "
            "is, leave the setting out; to be a member of the other one, give an empty data directory"
        )
    if contradiction:
        _log.warning("%s, but %s. The setting has no effect: make it right, or leave it out", here, contradiction)
    elif config.join and is_alone and who.cluster_id not in clusters.values():
        _log.warning("%s, which has no other member; join has no effect, and nobody answers there", here)


def _other_founders(config: ServerConfig, who: Identity, present: Membership) -> str:
    """How initial_cluster differs from what the cluster began with and from what it is now; empty if it does not."""
    asked = set(config.initial_cluster)
    memberships = [each for each in (who.genesis, present) if each.members]
    names = [{member.name for member in each.members.values()} for each in memberships]
    if not asked or not names or asked in names:
        return ""
    return (
        f"initial_cluster names {', '.join(sorted(asked))}, while its members are {', '.join(sorted(names[-1]))}"
    )


def _founded(config: ServerConfig, who: Identity) -> str:
    """Whether await_add is asked of a server that was never added (which could be all that is left of a cluster)."""
    return "await_add asks to be added to another one" if config.await_add and who.genesis.voters else ""


async def _clusters_at(addresses: Sequence[str], tls: ssl.SSLContext | None) -> dict[str, ClusterId]:
    """Which cluster each of the client *addresses* serves that answers at once."""
    answers = await asyncio.gather(*(cluster_at(each, tls) for each in addresses), return_exceptions=True)
    clusters: dict[str, ClusterId] = {}
    for address, answer in zip(addresses, answers, strict=True):
        if not isinstance(answer, BaseException):
            clusters[address] = answer
        elif not isinstance(answer, OSError | TrothError):
            raise answer
    return clusters


def _other_hosts(who: Identity, clusters: Mapping[str, ClusterId]) -> str:
    """Which address of join serves another cluster; empty if one serves ours, or none has answered."""
    if who.cluster_id in clusters.values():
        return ""
    return ", ".join(f"{address} of join serves cluster {cluster:x}" for address, cluster in clusters.items())


def introduction(
    config: ServerConfig, node_id: NodeId, known: Identity | None, current: Membership | None = None
) -> Introduction:
    """What this server says of itself to whoever asks; *current*: the membership in force, once it has one."""
    return Introduction(
        node_id=node_id,
        name=config.name,
        peer_address=config.peer_address,
        client_address=config.client_address,
        cluster_id=known.cluster_id if known else ClusterId(0),
        genesis=known.genesis if known and known.genesis.voters else None,
        current=current,
        consensus=config.consensus_identity,
        awaits_add=config.await_add and known is None,
    )


async def settled(
    config: ServerConfig,
    me: Introduction,
    *,
    founding: Founding | None,
    tls: Dialing,
    invitation: Invitation,
) -> Identity:
    """Who this new server is: what its cluster began with, or which one it joins."""
    if founding is not None:
        genesis = founding.genesis
        cluster_id = cluster_id_of(genesis, config.consensus_identity)
        known = msgspec.structs.replace(me, node_id=NodeId(0), cluster_id=cluster_id, genesis=genesis)
        check_known(me, known, advice(config))
    elif config.join or config.await_add:
        if config.await_add:
            cluster_id = await invitation.accepted(me)
        else:
            cluster_id = await join(me, config.join, tls=tls, advice=advice(config))
        return Identity(cluster_id, me.node_id, config.name, Membership(voters=()), config.consensus_identity)
    elif config.initial_cluster:
        genesis = await form(me, config.initial_cluster, tls=tls, advice=advice(config))
    else:
        genesis = genesis_of([me])
    cluster_id = cluster_id_of(genesis, config.consensus_identity)
    return Identity(cluster_id, me.node_id, config.name, genesis, config.consensus_identity)


def advice(config: ServerConfig) -> str:
    """How to replace this server by a new one."""
    return (
        "Run, with the URL of a server that is up:\n"
        f"  troth member remove {config.name} --url troth://HOST:PORT\n"
        f"  troth serve --name {config.name} --data-dir {config.data_dir} "
        f"--client-address {config.client_address} --peer-address {config.peer_address} --join HOST:PORT"
    )


class Reception:
    """The clients' port until the cluster is known: it tells who this server is, and lets nobody in."""

    def __init__(self, name: str, introduce: Callable[[FrameConnection], None]) -> None:
        self.name = name
        self.introduce = introduce
        self.visitors: set[Visitor] = set()

    def accept(self) -> "Visitor":
        """Protocol factory of the port."""
        return Visitor(self)


class Visitor(FrameConnection):
    """Who dials the clients' port too early."""

    def __init__(self, reception: Reception) -> None:
        super().__init__()
        self._reception = reception

    @override
    def on_opened(self) -> None:
        if len(self._reception.visitors) >= VISITORS_MAX:
            self.transport.abort()
            return
        self._reception.visitors.add(self)

    @override
    def on_greeting(self, greeting: Greeting) -> None:
        if isinstance(greeting, Hello) and greeting.kind == "probe":
            self._reception.introduce(self)
            return
        self.refuse(Unavailable.code, f"server {self._reception.name} is starting, or waits for its cluster")

    @override
    def on_bodies(self, bodies: list[bytes]) -> None:
        raise DecodeError("a probe only listens")

    @override
    def on_closed(self, error: Exception | None) -> None:
        self._reception.visitors.discard(self)


class Early:
    """Stands in for the node until the cluster is known; peers are not accepted before."""

    def on_peer_frame(self, sender: NodeId, body: bytes) -> None:
        del sender, body

    def on_heard(self) -> None: ...

    def on_suspect(self, peer: NodeId) -> None:
        del peer

    def on_unreachable(self, peer: NodeId) -> None:
        del peer

    def on_removed(self, peer: NodeId, term: int, text: str) -> None:
        del peer, term, text
