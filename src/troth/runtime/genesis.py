"""How a cluster begins, and how a server joins one.

A server's node id is random and drawn when its data directory is made, so a directory that was wiped comes back
as a stranger. What must be settled once, before the first election, is which ids the cluster starts with.

Forming. Each server of ``initial_cluster`` listens on its peer address, answers probes with an `Introduction`, and
probes all the others. When one round of probes has heard *all* of them and all are new, their ids make the genesis
membership. Each server writes it to its identity file, once, before it says that it belongs to a cluster. The
cluster's id is a hash of the genesis: servers that should have heard different ids (one was wiped while the cluster
formed) have different cluster ids and refuse each other instead of splitting the vote.

A server that hears from one that is formed already adopts that one's genesis, if it is in it. If the cluster knows
our *name* under another id, our directory was wiped or replaced: that server must be removed and join anew, since
as itself it might vote twice in one term (`IdentityLost`).

Joining. A new server asks a running cluster, through the clients' protocol, to be added as a learner that becomes a
voter once it has caught up. It starts with an empty log and no voters, and learns everything from the leader. That its
name is taken it believes only of a server that a quorum has just confirmed to be up to date: a follower may lag, a
leader may have been replaced, or not know yet what was committed before it led.
"""

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Mapping, Sequence

import msgspec

from troth.core.interface import Member, Membership, MembershipChange
from troth.errors import (
    Corrupt,
    DecodeError,
    IdentityLost,
    InvalidRequest,
    NotLeader,
    StorageError,
    TrothError,
    UsageError,
    WrongCluster,
)
from troth.ids import ClusterId, NodeId
from troth.models import ReadLevel
from troth.ports import FileSystem, Rng
from troth.replica.protocol import (
    CallRefused,
    ChangeMembers,
    ClientMessage,
    Done,
    GetStatus,
    PeerView,
    ReadResults,
    Reads,
    ServerMessage,
    ServerStatus,
)
from troth.runtime.addresses import parse_address
from troth.runtime.streams import Call, open_connection
from troth.wire.handshake import Greeting, Hello, Rejected, Welcome

PROBE_SECONDS_MAX = 2.0
PROBE_PAUSE_SECONDS_MIN = 0.02
PROBE_PAUSE_SECONDS_MAX = 0.5
JOIN_SECONDS_MAX = 10.0
TELL_EVERY_SECONDS = 5.0

_log = logging.getLogger("troth.genesis")

_encode = msgspec.msgpack.Encoder().encode


class Introduction(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Who a server is: the frame that answers a probe. `cluster_id` 0: it does not belong to a cluster yet.

    `genesis` is what the cluster began with (a server that joined later does not know it), `current` the membership
    in force as far as this server knows.
    """

    node_id: NodeId
    name: str
    peer_address: str
    client_address: str
    cluster_id: ClusterId = ClusterId(0)
    genesis: Membership | None = None
    current: Membership | None = None
    consensus: str = "raft"


_decode_introduction = msgspec.msgpack.Decoder(Introduction).decode
_decode_reply = msgspec.msgpack.Decoder(ServerMessage).decode


NEWBORN = "newborn"
"""File with the node id of a server that has no identity yet (hexadecimal, one line)."""


def draw_node_id(files: FileSystem, chance: Rng) -> NodeId:
    """The node id of a server without an identity: drawn once, and durable before anybody hears it.

    The others may have settled on it when we crash before our identity is written.

    Raises:
        Corrupt: the file is damaged.
        StorageError: the disk can not be written.
    """
    try:
        node_id = NodeId(chance.getrandbits(63) | 1)
        if NEWBORN in files.names():
            file = files.open(NEWBORN)
            text = file.read_at(0, 64).decode("ascii", "replace")
            file.close()
            # A file without its line's end was torn before it was synced, so its id was never told.
            if text.endswith("\n") and len(text) == _NEWBORN_CHARACTERS:
                node_id = _node_id_in(text)
        # Written anew even so: if the sync of the last start failed, what was read is in the page cache alone.
        file = files.create(NEWBORN)
        file.write_at(0, f"{node_id:016x}\n".encode("ascii"))
        file.sync()
        file.close()
        files.sync_directory()
    except OSError as error:
        raise StorageError(f"{NEWBORN}: {error}. Make room in the data directory, or repair the disk") from error
    return node_id


def _node_id_in(text: str) -> NodeId:
    try:
        return NodeId(int(text, 16))
    except ValueError:
        raise Corrupt(
            f"{NEWBORN} is damaged: it holds {text!r}, which is no node id. The others may know this server by the id "
            "that stood there: remove it from the cluster and add it again with an empty data directory",
            path=NEWBORN,
        ) from None


def remove_newborn(files: FileSystem) -> None:
    """The identity is written: it is what counts from now on."""
    if NEWBORN in files.names():
        files.remove(NEWBORN)


_NEWBORN_CHARACTERS = 17


def encode_introduction(introduction: Introduction) -> bytes:
    """The body of the frame that answers a probe."""
    return _encode(introduction)


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
    advice = _with_addresses(advice, [member for member in known.values() if member.name != me.name])
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


def _with_addresses(advice: str, members: Sequence[Member]) -> str:
    """*advice* with its ``HOST:PORT`` replaced by where *members* serve clients."""
    addresses = [member.client_address for member in members if member.client_address]
    return advice.replace("HOST:PORT", ",".join(addresses)) if addresses else advice


async def probe(address: str, tls: ssl.SSLContext | None = None) -> Introduction:
    """Ask the server at the peer address *address* who it is.

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
        if hasattr(call, "transport"):
            call.transport.abort()
    try:
        return _decode_introduction(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"{address} does not introduce itself as a troth server ({error})") from None


async def form(
    me: Introduction, initial_cluster: Mapping[str, str], *, tls: ssl.SSLContext | None, advice: str
) -> Membership:
    """Find or make the genesis of the cluster of *initial_cluster* (names to peer addresses, ours included).

    Waits as long as it takes for all of them to be heard.

    Raises:
        UsageError: an address answers under another name than the one it has in *initial_cluster*, or a server runs
            another consensus engine.
        IdentityLost: see `check_known`.
        WrongCluster: see `check_known`.
    """
    others = {name: address for name, address in initial_cluster.items() if name != me.name}
    pause_s = PROBE_PAUSE_SECONDS_MIN
    loop = asyncio.get_running_loop()
    tell_at = loop.time() + TELL_EVERY_SECONDS
    while True:
        heard, silent = await _round(others, tls)
        for name, other in heard.items():
            if other.name != name:
                raise UsageError(
                    f"initial_cluster says that {name} is at {others[name]}, but {other.name} answers there: "
                    "make initial_cluster the same on all servers"
                )
            if other.consensus != me.consensus:
                raise _other_consensus(me, name, other.consensus)
            if other.cluster_id:
                check_known(me, other, advice)
                if other.genesis is not None and me.node_id in other.genesis.members:
                    return other.genesis
        if len(heard) == len(others) and not any(other.cluster_id for other in heard.values()):
            return genesis_of([me, *heard.values()])
        if loop.time() >= tell_at:
            tell_at = loop.time() + TELL_EVERY_SECONDS
            waits = "; ".join(f"{name} at {others[name]}: {error}" for name, error in silent.items())
            _log.info("waiting for all servers of a new cluster (%s)", waits or "some are formed, not all agree")
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, PROBE_PAUSE_SECONDS_MAX)


def _other_consensus(me: Introduction, name: str, consensus: str) -> UsageError:
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


class _Later(TrothError):
    """This server can not answer now; another one, or a later question, may do."""


class _Refused(TrothError):
    """The leader does not add us, and would not if it were asked again."""


async def join(
    me: Introduction,
    addresses: Sequence[str],
    *,
    tls: ssl.SSLContext | None,
    advice: str,
) -> ClusterId:
    """Have the cluster behind the client *addresses* add us; its id, once we are a member.

    Asking again after a crash is harmless, as long as it is with the same node id (see `draw_node_id`).

    Raises:
        IdentityLost: the cluster has our name under another id; *advice* says what to do.
        UsageError: the cluster refuses the change for good.
    """
    loop = asyncio.get_running_loop()
    pause_s = PROBE_PAUSE_SECONDS_MIN
    tell_at = loop.time() + TELL_EVERY_SECONDS
    hint = ""
    was_refused = False
    while True:
        reasons: list[str] = []
        for address in dict.fromkeys(each for each in (hint, *addresses) if each):
            try:
                async with asyncio.timeout(JOIN_SECONDS_MAX):
                    cluster_id, hint = await _ask(me, address, tls, advice)
                    if not hint:
                        return cluster_id
                    reasons.append(f"{address}: not the leader")
                    break
            except _Refused as error:
                # An attempt before may have been carried out behind the leader's first answer: look once more.
                if was_refused:
                    raise UsageError(f"the cluster does not add {me.name}: {error}") from None
                was_refused, hint = True, address
                break
            except (OSError, DecodeError, _Later) as error:
                reasons.append(f"{address}: {str(error) or type(error).__name__}")
                hint = ""
        if loop.time() >= tell_at:
            tell_at = loop.time() + TELL_EVERY_SECONDS
            _log.info("waiting to be added to the cluster (%s)", "; ".join(reasons))
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, PROBE_PAUSE_SECONDS_MAX)


async def cluster_at(address: str, tls: ssl.SSLContext | None) -> ClusterId:
    """Which cluster the client address *address* serves.

    Raises:
        OSError: it can not be reached.
        TrothError: it says no cluster, or something else listens there.
    """
    call = Call(Hello("client"))
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            await open_connection(call, parse_address(address), tls=tls)
            return _welcomed(await call.greeting).cluster_id
    finally:
        if hasattr(call, "transport"):
            call.transport.abort()


def _welcomed(greeting: Greeting) -> Welcome:
    if isinstance(greeting, Rejected):
        raise _Later(greeting.text)
    if not isinstance(greeting, Welcome):
        raise DecodeError("the server did not welcome us")
    return greeting


async def _ask(me: Introduction, address: str, tls: ssl.SSLContext | None, advice: str) -> tuple[ClusterId, str]:
    """One attempt at one server: its cluster, and the address of the leader to ask, empty when we are a member now."""
    call = Call(Hello("client", name=me.name))
    try:
        await open_connection(call, parse_address(address), tls=tls)
        _welcomed(await call.greeting)
        status = await _status(call, me)
        if _namesake(status, me) is not None:
            # It may not have heard yet that the old server of this name was removed. Who answers a linearizable read
            # has heard of all that was done before.
            if not isinstance(await _answer(call, Reads(2, ReadLevel(), ())), ReadResults):
                raise _Later(
                    f"it knows another server called {me.name}, and can not tell whether that is still so"
                )
            status = await _status(call, me)
        cluster_id = ClusterId(status.cluster_id)
        if any(peer.node_id == me.node_id for peer in status.peers):
            return cluster_id, ""
        other = _namesake(status, me)
        if other is not None:
            others = [each.member for each in status.peers if each is not other]
            raise IdentityLost(
                f"cluster {status.cluster_id:x} has a server called {me.name} already ({other.node_id:x}), and this "
                f"data directory ({me.node_id:x}) is not its. {_with_addresses(advice, others)}"
            )
        member = Member(name=me.name, peer_address=me.peer_address, client_address=me.client_address)
        answer = await _answer(call, ChangeMembers(3, MembershipChange(add_learners={me.node_id: member})))
    finally:
        if hasattr(call, "transport"):
            call.transport.abort()
    match answer:
        case Done():
            return cluster_id, ""
        case CallRefused(code=NotLeader.code) if answer.leader and answer.leader != address:
            return cluster_id, answer.leader
        case CallRefused(code=InvalidRequest.code | UsageError.code):
            raise _Refused(answer.text)
        case CallRefused():
            raise _Later(answer.text)
        case _:
            raise _Later("an unexpected answer")


async def _status(call: Call, me: Introduction) -> ServerStatus:
    """What the server that *call* has reached tells of itself and its cluster."""
    status = await _answer(call, GetStatus(1))
    if not isinstance(status, ServerStatus):
        raise _Later("no status")
    if status.consensus != me.consensus:
        raise _other_consensus(me, status.name, status.consensus)
    return status


def _namesake(status: ServerStatus, me: Introduction) -> PeerView | None:
    """A member called as we are that is not we."""
    return next(
        (peer for peer in status.peers if peer.member.name == me.name and peer.node_id != me.node_id), None
    )


async def _answer(call: Call, message: ClientMessage) -> ServerMessage:
    """The answer to *message*, which carries a `call` number; pushed messages are skipped.

    Raises:
        DecodeError: the connection ended, or what came is no message of a server.
    """
    call.send(msgspec.msgpack.encode(message))
    while True:
        body = await call.next_body()
        try:
            reply = _decode_reply(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"the server answers what this version does not understand ({error})") from None
        if isinstance(reply, Done | CallRefused | ReadResults | ServerStatus):
            return reply


class Founding(msgspec.Struct, frozen=True, kw_only=True):
    """What a parent process that starts all first servers itself tells each of them, instead of `form`."""

    node_id: NodeId
    genesis: Membership
