"""A server that is to be added: who it says it is, and whether it can be."""

import ssl

from troth.client.retry import in_words
from troth.core.interface import Member
from troth.errors import TrothError, Unavailable, UsageError
from troth.replica.protocol import PeerView, ServerStatus
from troth.runtime.genesis import Introduction, probe


async def introduced(address: str, tls: ssl.SSLContext | None) -> Introduction:
    """Ask the server at *address* who it is; it need not be a member of any cluster.

    Raises:
        Unavailable: nobody answers there, or who does is no troth server, or does not say.
    """
    try:
        with in_words(tls):
            return await probe(address, tls)
    except OSError as error:
        raise Unavailable(
            f"{address}: {str(error) or 'no answer; is that the client address of a troth server?'}"
        ) from error
    except TrothError as error:
        kind = "without TLS" if tls is None else "with TLS"
        raise Unavailable(
            f"{address}: {error}; is that the client address of a troth server {kind}, as the cluster's are?"
        ) from error


def known(newcomer: Introduction, cluster: ServerStatus) -> PeerView | None:
    """*newcomer* as *cluster* knows it; None if it is no member.

    Raises:
        UsageError: it is one, but elsewhere.
    """
    peer = next((peer for peer in cluster.peers if peer.node_id == newcomer.node_id), None)
    if peer is None:
        return None
    own, noted = (f"{each.client_address} (peer address {each.peer_address})" for each in (newcomer, peer.member))
    if own != noted:
        raise UsageError(
            f"{newcomer.name} is a member already, but for the cluster it is at {noted}, and it says {own}: start it "
            f"with those addresses, or first remove it (troth member remove {peer.member.name})"
        )
    return peer


def addable(newcomer: Introduction, cluster: ServerStatus, *, promote: bool) -> Member:
    """*newcomer* as a member: it knows best where it is found, whatever address it has answered at.

    Raises:
        UsageError: says why it can not be added to *cluster*: it would count as a member and never be one.
    """
    if newcomer.cluster_id not in (0, cluster.cluster_id):
        raise UsageError(
            f"{newcomer.name} belongs to another cluster ({newcomer.cluster_id:x}); to add it here, start it on an "
            "empty data directory with --await-add, or with --join and it asks by itself"
        )
    if newcomer.cluster_id == 0 and not newcomer.awaits_add:
        raise UsageError(
            f"{newcomer.name} is not a member of any cluster yet, but was not started with --await-add: it asks those "
            "whom its --join or --initial-cluster names. Its log says whom it waits for"
        )
    if newcomer.consensus != cluster.consensus:
        raise UsageError(
            f"{newcomer.name} runs consensus {newcomer.consensus}, the cluster {cluster.consensus}: start it with the "
            "same --consensus"
        )
    if any(peer.member.name == newcomer.name for peer in cluster.peers):
        raise UsageError(
            f"the cluster has a server called {newcomer.name} already: start this one with another --name, or first "
            f"remove the other (troth member remove {newcomer.name})"
        )
    return Member(newcomer.name, newcomer.peer_address, newcomer.client_address, promote)
