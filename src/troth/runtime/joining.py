"""How a server joins a cluster that runs.

It asks the cluster, through the clients' protocol, to be added as a learner that becomes a voter once it has caught up;
or it waits (`Invitation`) until somebody else has asked. It starts with an empty log and no voters, and learns
everything from the leader. That its name is taken it believes only of a server that a quorum has just confirmed to be
up to date: a follower may lag, a leader may have been replaced, or not know yet what was committed before it led.
"""

import asyncio
import logging
import ssl
from collections.abc import Sequence

import msgspec

from troth.core.interface import Member, MembershipChange
from troth.errors import DecodeError, IdentityLost, InvalidRequest, NotLeader, TrothError, UsageError
from troth.ids import ClusterId
from troth.models import ReadLevel
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
from troth.runtime.genesis import (
    PROBE_SECONDS_MAX,
    Dialing,
    Introduction,
    Patience,
    other_consensus,
    with_addresses,
)
from troth.runtime.streams import Call, open_connection
from troth.wire.handshake import Greeting, Hello, Rejected, Welcome

JOIN_SECONDS_MAX = 10.0

_log = logging.getLogger("troth.genesis")

_decode_reply = msgspec.msgpack.Decoder(ServerMessage).decode


class _Later(TrothError):
    """This server can not answer now; another one, or a later question, may do."""


class _Refused(TrothError):
    """The leader does not add us, and would not if it were asked again."""


async def join(
    me: Introduction,
    addresses: Sequence[str],
    *,
    tls: Dialing,
    advice: str,
) -> ClusterId:
    """Have the cluster behind the client *addresses* add us; its id, once we are a member.

    Asking again after a crash is harmless, as long as it is with the same node id (see `draw_node_id`).

    Raises:
        IdentityLost: the cluster has our name under another id; *advice* says what to do.
        UsageError: the cluster refuses the change for good.
    """
    patience = Patience()
    hint = ""
    was_refused = False
    while True:
        reasons: list[str] = []
        for address in dict.fromkeys(each for each in (hint, *addresses) if each):
            try:
                async with asyncio.timeout(JOIN_SECONDS_MAX):
                    cluster_id, hint = await _ask(me, address, tls(), advice)
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
        await patience.wait("waiting to be added to the cluster (%s)", "; ".join(reasons))


class Invitation:
    """Waits until a cluster has added us, at somebody else's wish: its servers dial us then.

    They name the node id that they mean. It was drawn at random and is said only to who asks, so nobody else is meant.
    """

    def __init__(self) -> None:
        self._cluster: asyncio.Future[ClusterId] = asyncio.get_running_loop().create_future()

    def on_called(self, hello: Hello) -> None:
        """A peer has called us by our node id."""
        if hello.cluster_id and not self._cluster.done():
            self._cluster.set_result(hello.cluster_id)

    async def accepted(self, me: Introduction) -> ClusterId:
        """The id of the cluster, once there is one."""
        _log.info("waiting to be added: troth member add %s", me.client_address)
        return await self._cluster


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
        call.hang_up()


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
                f"data directory ({me.node_id:x}) is not its. {with_addresses(advice, others)}"
            )
        member = Member(name=me.name, peer_address=me.peer_address, client_address=me.client_address)
        answer = await _answer(call, ChangeMembers(3, MembershipChange(add_learners={me.node_id: member})))
    finally:
        call.hang_up()
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
        raise other_consensus(me, status.name, status.consensus)
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
