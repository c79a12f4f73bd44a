"""A server that is to be added: who it says it is, and whether it can be."""

import ssl

from troth.client.retry import in_words
from troth.errors import Unavailable, UsageError
from troth.replica.protocol import ServerStatus
from troth.runtime.genesis import Introduction, probe


async def introduced(address: str, tls: ssl.SSLContext | None) -> Introduction:
    """Ask the server at the client address *address* who it is; it need not be a member of any cluster.

    Raises:
        Unavailable: nobody answers there.
        TrothError: who answers is no troth server, or does not say.
    """
    try:
        with in_words(tls):
            return await probe(address, tls)
    except OSError as error:
        raise Unavailable(f"{address}: {str(error) or 'no answer'}") from error


def addable(newcomer: Introduction, name: str, cluster: ServerStatus) -> None:
    """Refuse what would count as a member and never be one.

    Raises:
        UsageError: says why *newcomer*, called *name*, can not be added to *cluster*.
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
    if any(peer.member.name == name for peer in cluster.peers):
        raise UsageError(
            f"the cluster has a server called {name} already: give this one another name, or first remove the other "
            f"(troth member remove {name})"
        )
