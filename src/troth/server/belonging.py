"""Who a server is, and to which cluster it belongs: as its directory says, or as it settles with the others."""

import ssl

import msgspec

from troth.core.interface import Membership
from troth.errors import UsageError
from troth.ids import ClusterId, NodeId
from troth.ports import Rng
from troth.runtime.disk_machine import Directory
from troth.runtime.genesis import (
    Founding,
    Introduction,
    check_known,
    cluster_id_of,
    draw_node_id,
    form,
    genesis_of,
    join,
)
from troth.server.config import ServerConfig
from troth.storage import identity as identities
from troth.storage.identity import Identity


def node_id_of(
    config: ServerConfig, files: Directory, known: Identity | None, *, founding: Founding | None, chance: Rng
) -> NodeId:
    """The id in the directory; for a new server that of its *founding*, or one that is drawn.

    Raises:
        UsageError: the directory belongs to another server, or to another engine.
    """
    if known is None:
        return draw_node_id(files, chance) if founding is None else founding.node_id
    if known.name != config.name:
        raise UsageError(
            f"the data directory {config.data_dir} belongs to server {known.name}, not {config.name}: give that "
            "name, or another directory"
        )
    identities.check_consensus(known, config.engine)
    return known.node_id


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
        consensus=config.engine,
    )


async def settled(
    config: ServerConfig, me: Introduction, *, founding: Founding | None, tls: ssl.SSLContext | None
) -> Identity:
    """Who this new server is: what its cluster began with, or which one it joins."""
    if founding is not None:
        genesis = founding.genesis
        cluster_id = cluster_id_of(genesis, config.engine)
        known = msgspec.structs.replace(me, node_id=NodeId(0), cluster_id=cluster_id, genesis=genesis)
        check_known(me, known, advice(config))
    elif config.join:
        cluster_id = await join(me, config.join, tls=tls, advice=advice(config))
        return Identity(cluster_id, me.node_id, config.name, Membership(voters=()), config.engine)
    elif config.initial_cluster:
        genesis = await form(me, config.initial_cluster, tls=tls, advice=advice(config))
    else:
        genesis = genesis_of([me])
    cluster_id = cluster_id_of(genesis, config.engine)
    return Identity(cluster_id, me.node_id, config.name, genesis, config.engine)


def advice(config: ServerConfig) -> str:
    """How to replace this server by a new one."""
    return (
        "Run, with the URL of a server that is up:\n"
        f"  troth member remove {config.name} --url troth://HOST:PORT\n"
        f"  troth serve --name {config.name} --data-dir {config.data_dir} "
        f"--client-address {config.client_address} --peer-address {config.peer_address} --join HOST:PORT"
    )


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
