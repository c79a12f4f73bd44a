"""The cluster itself: statuses, members, leadership, hashes, snapshots; what `AsyncClient` builds on."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, BinaryIO

from typing_extensions import override

from troth.client.backup import save
from troth.client.link import Connection, Link, checked_frame_of
from troth.client.newcomer import addable, introduced, known
from troth.client.replies import Acknowledged
from troth.client.request import LEADER, CallRequest
from troth.client.router import Router
from troth.client.servers import trouble
from troth.client.writes import WritePipeline
from troth.core.interface import MembershipChange
from troth.errors import TrothError, Unavailable, UsageError
from troth.ids import ClusterId, NodeId
from troth.kv.requests import Alarm, AlarmMember, Command, Compact
from troth.replica.protocol import (
    ChangeMembers,
    ClientMessage,
    GetStatus,
    HashState,
    PeerView,
    ServerStatus,
    StateHash,
    TransferLeadership,
    Writes,
)

STATUS_WITHIN_S = 1.0
CHANGE_WITHIN_S = 60.0


def is_called(peer: PeerView, name: str) -> bool:
    """Whether *name* is the name, an address or the node id of the server *peer*."""
    known = (peer.member.name, peer.member.peer_address, peer.member.client_address, f"{peer.node_id:x}")
    return bool(name) and name in known


class Call(CallRequest):
    """One question with one answer, awaited through `future`. `server` is who answered."""

    __slots__ = ("_frame", "future", "server")

    def __init__(self, message: ClientMessage, call: int, target: str, deadline_s: float) -> None:
        super().__init__(call, target, deadline_s)
        self._frame = checked_frame_of(message)
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.server = ""

    @override
    def frame(self) -> bytes:
        return self._frame

    @override
    def fail(self, error: TrothError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    @override
    def answer(self, connection: Connection, message: Any) -> None:
        self.server = connection.server
        if not self.future.done():
            self.future.set_result(message)


class ClusterCalls:
    """What can be asked of a cluster besides its data."""

    def __init__(self, router: Router, writes: WritePipeline) -> None:
        self.router = router
        self._writes = writes
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_closed = False

    def call(
        self,
        make: Callable[..., ClientMessage],
        *args: Any,
        target: str = LEADER,
        within_s: float | None = None,
        once: bool = False,
    ) -> Call:
        """Ask ``make(call_number, *args)`` of *target*; await ``.future`` of what is returned.

        *once*: it changes something and carries no request id, so it is not sent again while its fate is unknown.
        """
        self.require_open()
        self.router.require_loop()
        number = self.router.next_call()
        limit_s = self.router.timeout_s if within_s is None else within_s
        request = Call(make(number, *args), number, target, self.router.loop.time() + limit_s)
        request.within_s = limit_s
        request.is_idempotent, request.changes_state = not once, once
        self.router.submit(request)
        return request

    def require_open(self) -> None:
        """Raise UsageError when the client is closed."""
        if self.is_closed:
            raise UsageError("this client is closed")

    def write(self, command: Command, timeout: float | None = None) -> "asyncio.Future[Any]":
        """Send any command of troth.kv.requests through the log; its reply is a class of client/replies.py.

        Raises:
            UsageError: something in it is of a wrong type.
        """
        self.require_open()
        return self._writes.submit(command, len(checked_frame_of(Writes(0, 0, 0, (command,)))), timeout)

    @property
    def seen_revision(self) -> int:
        """The newest revision that an answer to this client has named."""
        return self._writes.seen_revision

    def keep_task(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run *coroutine* beside the client; it ends with the client."""
        task = self.router.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel_tasks(self) -> None:
        """End what `keep_task` began."""
        for task in self._tasks:
            task.cancel()

    @property
    def cluster_id(self) -> ClusterId:
        """Which cluster this is; 0 before the first server has answered."""
        return self.router.cluster_id

    # ---- looking ---------------------------------------------------------------------------------------

    @property
    def leader(self) -> NodeId:
        """Node id of the leader as far as this client knows; 0: none known."""
        return self.router.leader_id

    @property
    def leading_server(self) -> str:
        """Name of the leader, while one is known and connected; else empty."""
        leader = self.router.leader
        return leader.name if leader is not None and leader.connection is not None else ""

    def servers(self) -> dict[str, str]:
        """Every server address known, with what is wrong with it; an empty text means connected."""
        return {
            link.address: "" if link.connection is not None else trouble(link)
            for link in list(self.router.links.values())  # threads ask, too, while the loop learns of more
        }

    async def status(self, server: str | None = None, *, within_s: float | None = None) -> list[ServerStatus]:
        """What each server that answers knows (or just *server*), also while there is no leader.

        Raises:
            UsageError: no server is called *server*.
            Unavailable: *server* does not answer.
        """
        limit_s = min(STATUS_WITHIN_S, self.router.timeout_s) if within_s is None else within_s
        if server is not None:
            link = self.router.require(server)
            return [await self.call(GetStatus, target=link.address, within_s=limit_s).future]
        return await self._status_of_all(limit_s)

    async def _status_of_all(self, limit_s: float) -> list[ServerStatus]:
        """Ask every server, those too that an answer names first; a link that is still being made is waited for."""
        deadline_s = self.router.loop.time() + limit_s
        asked: set[Link] = set()
        answers: list[ServerStatus | BaseException] = []
        while True:
            await self.router.wait_attempted(deadline_s)
            links = [link for link in self._connected() if link not in asked]
            left_s = deadline_s - self.router.loop.time()
            if not links or left_s <= 0 < len(asked):
                return [answer for answer in answers if isinstance(answer, ServerStatus)]
            asked.update(links)
            calls = [self.call(GetStatus, target=link.address, within_s=max(left_s, 0)).future for link in links]
            answers += await asyncio.gather(*calls, return_exceptions=True)

    async def members(self) -> list[PeerView]:
        """The members as the leader sees them; while there is none, as the most informed server does."""
        return (await self._best_informed()).peers

    async def _best_informed(self) -> ServerStatus:
        statuses = await self._statuses()
        return max(statuses, key=lambda status: (status.node_id == status.leader, status.term))

    async def _statuses(self) -> list[ServerStatus]:
        statuses = await self.status()
        if not statuses:
            raise Unavailable(f"no server answers; {self.router.describe()}")
        return statuses

    async def hash(self, server: str | None = None, *, revision: int = 0) -> dict[str, StateHash]:
        """The hash of the state on each connected server (or on *server*), by server name.

        Raises:
            UsageError: no server is called *server*.
            Unavailable: no server is connected, or one does not answer.
        """
        chosen = self._some_connected() if server is None else [self.router.require(server)]
        calls = [self.call(HashState, revision, target=link.address) for link in chosen]
        await asyncio.gather(*(call.future for call in calls))
        return {call.server: call.future.result() for call in calls}

    def _connected(self) -> list[Link]:
        return [link for link in self.router.links.values() if link.connection is not None]

    def _some_connected(self) -> list[Link]:
        ready = self._connected()
        if not ready:
            raise Unavailable(f"no server is connected; {self.router.describe()}")
        return ready

    # ---- changing --------------------------------------------------------------------------------------

    async def change_members(self, change: MembershipChange, *, within_s: float = CHANGE_WITHIN_S) -> None:
        """Make a membership change and wait until it is complete.

        Raises:
            NotApplied: refused (another change is under way, say).
            OutcomeUnknown: the connection was lost, or the time is up; look at `members`.
        """
        await self.call(ChangeMembers, change, within_s=within_s, once=True).future

    async def add_member(
        self,
        *,
        client_address: str,
        promote: bool = True,
        within_s: float = CHANGE_WITHIN_S,
    ) -> NodeId:
        """Add a server that waits for it (`troth serve --await-add`), as a learner that is promoted by itself once it
        has caught up, unless *promote* is False. One that is a member already is left as it is.

        The server at *client_address* is asked who it is, and becomes a member under the name and the addresses that it
        says. `change_members` adds a server that can not be asked.

        Raises:
            UsageError: it has a cluster of its own, or another consensus engine, asks for itself, or its name is taken;
                or it is a member, but at other addresses.
            Unavailable: nobody answers there.
            TrothError: as `change_members`.
        """
        newcomer = await introduced(client_address, self.router.tls)
        cluster = await self._best_informed()
        if known(newcomer, cluster) is None:
            member = addable(newcomer, cluster, promote=promote)
            change = MembershipChange(add_learners={newcomer.node_id: member})
            await self.change_members(change, within_s=within_s)
        return newcomer.node_id

    async def remove_member(
        self, member: str | int, *, within_s: float = CHANGE_WITHIN_S, despite_registers: bool = False
    ) -> None:
        """Remove a server, named by its name, an address, or its node id.

        Raises:
            UsageError: no such member; or it is one of the acceptors of registers (`PaxosClient`), whose set does not
                follow the members, and *despite_registers* is not set.
            InvalidRequest: those that stay would have no quorum alive.
        """
        node_id = await self._node_id(member)
        if not despite_registers:
            await self._require_no_seat(node_id, member)
        change = MembershipChange(remove=(node_id,))
        await self.change_members(change, within_s=within_s)

    async def _require_no_seat(self, node_id: NodeId, named: str | int) -> None:
        """Of a server that does not answer it is not known; it may have a seat if others have. One that has not heard
        of the newest configuration says nothing about seats."""
        statuses = await self.status()
        newest = max((status.acceptor.get("epoch", 0) for status in statuses), default=0)
        own = [status for status in statuses if status.node_id == node_id]
        seated = [each.acceptor for each in own or statuses if each.acceptor.get("seats")]
        if any(acceptor.get("epoch") == newest for acceptor in seated):
            raise UsageError(
                f"{named} {'is' if own else 'does not answer, and may be'} one of the acceptors that hold registers:"
                " they would have one copy less with each server that goes, and in the end none. First give its seat"
                " to another one, or do without it: troth paxos acceptors set ADDRESS... (the servers that stay). Or"
                " remove it all the same: despite_registers=True (troth member remove --despite-registers)"
            )

    async def promote_member(self, member: str | int, *, within_s: float = CHANGE_WITHIN_S) -> None:
        """Make a learner a voter now.

        Raises:
            UsageError: no such member.
            InvalidRequest: the leader does not hear it.
            Unavailable: it lags too far behind yet.
        """
        change = MembershipChange(promote=(await self._node_id(member),))
        await self.change_members(change, within_s=within_s)

    async def transfer(self, target: str | int = 0) -> None:
        """Hand leadership to *target* (name, address or node id; 0: the server that is most up to date)."""
        node_id = NodeId(0) if target == 0 else await self._node_id(target)
        await self.call(TransferLeadership, node_id, once=True).future

    async def _node_id(self, member: str | int) -> NodeId:
        if isinstance(member, int):
            return NodeId(member)
        status = await self._best_informed()
        for peer in status.peers:
            if is_called(peer, member):
                return peer.node_id
        names = ", ".join(peer.member.name or f"{peer.node_id:x}" for peer in status.peers)
        if status.node_id != status.leader:
            # A removal that is not decided yet may need the server that it removes: nobody may take it for done.
            raise Unavailable(
                f"no leader says whether a member is called {member!r} ({status.name} knows {names}); try again"
            )
        raise UsageError(f"no member is called {member!r}; there are: {names}")

    # ---- the store as a whole --------------------------------------------------------------------------

    async def compact(self, revision: int) -> Acknowledged:
        """Give up history before *revision*; reads at older revisions fail with `Compacted` from then on."""
        reply: Acknowledged = await self.write(Compact(revision))
        return reply

    async def alarms(self) -> list[AlarmMember]:
        """The alarms that are raised, as the servers tell.

        Raises:
            Unavailable: no server answers.
        """
        return max(await self._statuses(), key=lambda status: status.applied_index).alarms

    async def disarm(self) -> list[AlarmMember]:
        """Clear all alarms (after the space has been made, say); returns those cleared."""
        cleared: list[AlarmMember] = []
        for alarm in await self.alarms():
            reply = await self.write(Alarm(False, alarm.member, alarm.alarm))
            cleared.extend(reply.alarms)
        return cleared

    # ---- snapshots -------------------------------------------------------------------------------------

    async def snapshot(self, sink: "str | os.PathLike[str] | BinaryIO", *, server: str | None = None) -> int:
        """Save the whole state at its present revision to *sink*: a path, or a file open for writing in binary. `troth
        snapshot restore` makes a new cluster of it.

        A path gets its content all at once, when everything has arrived and is on the disk; nobody else may read it.
        Registers (`PaxosClient`) are not in it. Returns the bytes.

        Raises:
            UsageError: *sink* is neither; or no server is called *server*.
            Unavailable: no server is connected, or the stream broke off; a path is then left as it was.
            OSError: *sink* cannot be written.
        """
        self.require_open()
        self.router.require_loop()
        if server is None:
            ready = self._some_connected()
            followers = [link for link in ready if link is not self.router.leader] or ready
            address = followers[0].address
        else:
            address = self.router.require(server).address
        return await save(address, self.router, sink)
