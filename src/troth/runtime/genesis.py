"""How a cluster begins (how a server joins one that runs: joining.py).

A server's node id is random and drawn when its data directory is made (newborn.py), so a directory that was wiped
comes back as a stranger. What must be settled once, before the first election, is which ids the cluster starts with.

Forming. Each server of ``initial_cluster`` listens on its peer address, answers probes with an `Introduction`, and
probes all the others. When one round of probes has heard *all* of them and all are new, their ids make the genesis
membership. Each server writes it to its identity file, once, before it says that it belongs to a cluster. The
cluster's id is a hash of the genesis: servers that should have heard different ids (one was wiped while the cluster
formed) have different cluster ids and refuse each other instead of splitting the vote.

A server that hears from one that is formed already adopts that one's genesis, if it is in it. If the cluster knows
our *name* under another id, our directory was wiped or replaced: that server must be removed and join anew, since
as itself it might vote twice in one term (`IdentityLost`).
"""

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TypeAlias

import msgspec

from troth.core.interface import Member, Membership
from troth.core.membership import shared_address
from troth.errors import (
    DecodeError,
    IdentityLost,
    TrothError,
    UsageError,
    WrongCluster,
)
from troth.ids import ClusterId, NodeId
from troth.runtime.addresses import parse_address
from troth.runtime.streams import Call, open_connection
from troth.wire.handshake import Hello, Rejected

PROBE_SECONDS_MAX = 2.0
PROBE_PAUSE_SECONDS_MIN = 0.02
PROBE_PAUSE_SECONDS_MAX = 0.5
TELL_EVERY_SECONDS = 5.0

Dialing: TypeAlias = Callable[[], ssl.SSLContext | None]
"""What the next connection is made with; None: no TLS. Others may be waited for until somebody has put that right."""

_log = logging.getLogger("troth.genesis")

_encode = msgspec.msgpack.Encoder().encode


class Introduction(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Who a server is: the frame that answers a probe. `cluster_id` 0: it does not belong to a cluster yet.

    `genesis` is what the cluster began with (a server that joined later does not know it), `current` the membership
    in force as far as this server knows, `awaits_add` that it asks nobody to be added, but waits until that was done.
    """

    node_id: NodeId
    name: str
    peer_address: str
    client_address: str
    cluster_id: ClusterId = ClusterId(0)
    genesis: Membership | None = None
    current: Membership | None = None
    consensus: str = "raft"
    awaits_add: bool = False


_decode_introduction = msgspec.msgpack.Decoder(Introduction).decode


def encode_introduction(introduction: Introduction) -> bytes:
    """The body of the frame that answers a probe."""
    return _encode(introduction)


class Patience:
    """What comes between two rounds of questions: a pause that grows, and now and then a word on what is waited for."""

    def __init__(self) -> None:
        self._pause_s = PROBE_PAUSE_SECONDS_MIN
        self._tell_at = asyncio.get_running_loop().time() + TELL_EVERY_SECONDS

    async def wait(self, text: str, reasons: str) -> None:
        """Pause; *text*, with *reasons* in it, goes into the log if enough time has passed since the last one."""
        now = asyncio.get_running_loop().time()
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY_SECONDS
            _log.info(text, reasons)
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 1.5, PROBE_PAUSE_SECONDS_MAX)


def genesis_of(introductions: Sequence[Introduction]) -> Membership:
    """The membership that a cluster of exactly these servers begins with."""
    ordered = sorted(introductions, key=lambda each: each.node_id)
    return Membership(
        voters=tuple(each.node_id for each in ordered),
        members={
            each.node_id: Member(
                name=each.name, peer_address=each.peer_address, client_address=each.client_address
            )
            for each in ordered
        },
    )


def cluster_id_of(genesis: Membership, consensus: str = "raft") -> ClusterId:
    """The id of the cluster that begins with *genesis*; 1 .. 2**63 - 1, the same on every server.

    Another *consensus* makes another cluster: its servers do not even begin to talk to each other.
    """
    ordered = [(node, genesis.members[node]) for node in sorted(genesis.members)]
    engine = () if consensus == "raft" else (consensus,)
    digest = hashlib.sha256(_encode((genesis.voters, ordered, *engine))).digest()
    return ClusterId(int.from_bytes(digest[:8], "big") >> 1 or 1)


def check_known(me: Introduction, other: Introduction, advice: str) -> None:
    """What a formed cluster's server says about us must fit.

    Raises:
        IdentityLost: the cluster has our name under another id; says what to do, which *advice* completes.
        WrongCluster: the cluster does not know us at all.
    """
    known: dict[NodeId, Member] = {}
    for membership in (other.genesis, other.current):
        if membership is not None:
            known.update(membership.members)
    advice = with_addresses(advice, [member for member in known.values() if member.name != me.name])
    current = other.current or other.genesis
    if current is not None and me.node_id in current.members:
        return
    for node, member in known.items():
        if member.name == me.name and node != me.node_id:
            raise IdentityLost(
                f"cluster {other.cluster_id:x} knows {me.name} as server {node:x}, but this data directory is new "
                f"({me.node_id:x}): the old one was wiped or replaced, and with it went the votes and entries that "
                f"the cluster counts on. {advice}"
            )
    if me.node_id in known:
        raise WrongCluster(f"{me.name} ({me.node_id:x}) was removed from cluster {other.cluster_id:x}. {advice}")
    raise WrongCluster(
        f"the servers of initial_cluster have formed cluster {other.cluster_id:x} already, without {me.name}. {advice}"
    )


def with_addresses(advice: str, members: Sequence[Member]) -> str:
    """*advice* with its ``HOST:PORT`` replaced by where *members* serve clients."""
    addresses = [member.client_address for member in members if member.client_address]
    return advice.replace("HOST:PORT", ",".join(addresses)) if addresses else advice


async def probe(address: str, tls: ssl.SSLContext | None = None) -> Introduction:
    """Ask the server at *address* (its peer address or its client address) who it is.

    Raises:
        OSError: it can not be reached.
        DecodeError: something else listens there.
        TrothError: it refuses us.
    """
    call = Call(Hello("probe"))
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            await open_connection(call, parse_address(address), tls=tls)
            greeting = await call.greeting
            if isinstance(greeting, Rejected):
                raise WrongCluster(greeting.text)
            body = await call.next_body()
    finally:
        call.hang_up()
    try:
        return _decode_introduction(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"{address} does not introduce itself as a troth server ({error})") from None


async def form(me: Introduction, initial_cluster: Mapping[str, str], *, tls: Dialing, advice: str) -> Membership:
    """Find or make the genesis of the cluster of *initial_cluster* (names to peer addresses, ours included).

    Waits as long as it takes for all of them to be heard.

    Raises:
        UsageError: an address answers under another name than the one it has in *initial_cluster*, a server runs
            another consensus engine, or two have one address.
        IdentityLost: see `check_known`.
        WrongCluster: see `check_known`.
    """
    others = {name: address for name, address in initial_cluster.items() if name != me.name}
    patience = Patience()
    while True:
        heard, silent = await _round(others, tls())
        for name, other in heard.items():
            if other.name != name:
                raise UsageError(
                    f"initial_cluster says that {name} is at {others[name]}, but {other.name} answers there: "
                    "make initial_cluster the same on all servers"
                )
            if other.consensus != me.consensus:
                raise other_consensus(me, name, other.consensus)
            if other.cluster_id:
                check_known(me, other, advice)
                if other.genesis is not None and me.node_id in other.genesis.members:
                    return other.genesis
        _refuse_shared(genesis_of([me, *heard.values()]))
        if len(heard) == len(others) and not any(other.cluster_id for other in heard.values()):
            return genesis_of([me, *heard.values()])
        waits = "; ".join(f"{name} at {others[name]}: {error}" for name, error in silent.items())
        await patience.wait(
            "waiting for all servers of a new cluster (%s)", waits or "some are formed, not all agree"
        )


def _refuse_shared(genesis: Membership) -> None:
    """Raises UsageError: two servers have one address, which a member that is added later could not have either."""
    for one, other in combinations(genesis.members.values(), 2):
        if shared := shared_address(one, other):
            raise UsageError(f"{shared}; give each server addresses of its own")


def other_consensus(me: Introduction, name: str, consensus: str) -> UsageError:
    return UsageError(
        f"{name} runs consensus {consensus}, {me.name} shall run {me.consensus}: start all servers of a cluster with"
        " the same --consensus"
    )


async def _round(
    others: Mapping[str, str], tls: ssl.SSLContext | None
) -> tuple[dict[str, Introduction], dict[str, BaseException]]:
    """Probe everybody once: who answered, and why the rest did not."""
    answers = await asyncio.gather(*(probe(address, tls) for address in others.values()), return_exceptions=True)
    heard: dict[str, Introduction] = {}
    silent: dict[str, BaseException] = {}
    for name, answer in zip(others, answers, strict=True):
        if isinstance(answer, Introduction):
            heard[name] = answer
        elif isinstance(answer, OSError | TrothError):
            silent[name] = answer
        else:
            raise answer
    return heard, silent


class Founding(msgspec.Struct, frozen=True, kw_only=True):
    """What a parent process that starts all first servers itself tells each of them, instead of `form`."""

    node_id: NodeId
    genesis: Membership
