"""The servers of one cluster as one client sees them: a link to each, who leads, who was named and who was learned of.

The user names some servers; the others are learned from statuses and from announcements of leaders, and left again when
the membership names them no more. A server under two addresses is kept under the one that the user wrote down.
"""

import asyncio
import logging
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from troth.client.link import Connection, Link, frame_of
from troth.errors import MixedClusters, Unavailable, UsageError, WrongCluster
from troth.ids import ClusterId, NodeId
from troth.replica.protocol import GetStatus, ServerMessage, ServerStatus
from troth.wire.handshake import Welcome

_log = logging.getLogger("troth.client")

CLOSE_WITHIN_S = 0.5
LINKS_MAX = 64
UNTRACKED = 0
"""Call number of questions whose answer is taken note of but awaited by nobody."""

ASK_STATUS = frame_of(GetStatus(UNTRACKED))


def trouble(link: Link) -> str:
    """Why *link* has no connection."""
    if link.is_greeting:
        return "connected, and no word from it yet; is that a port for troth's clients?"
    if link.error is None:
        return "not connected yet"
    return str(link.error) or type(link.error).__name__


class Servers(ABC):
    """All servers of one cluster. What is sent to them, and what becomes of it, the `Router` knows."""

    def __init__(self, addresses: Iterable[str], *, tls: ssl.SSLContext | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.tls = tls
        self.cluster_id = ClusterId(0)
        self.term = 0
        self.leader_id = NodeId(0)
        self.leader: Link | None = None
        self.on_change: list[Callable[[], None]] = []
        """Called after a link came up or went down, and after another leader was announced."""
        self.foreign: dict[str, str] = {}
        """Addresses that the user named, that have never been this cluster's and are another's now, each with what is
        wrong. While there is one nobody can say which cluster was meant (it was chance whose server has answered
        first), so nothing new is sent to any, unless we are settled."""
        self.is_settled = False
        """Whether this cluster has applied or granted something that we asked for. What we have there (a lock, say) is
        not to be lost because another cluster's server appears where we look for one of ours."""
        self.is_closed = False
        self._changed = asyncio.Event()
        self._named = tuple(addresses)
        self.links: dict[str, Link] = {address: Link(address, self) for address in self._named}

    # ---- what the router does about it -----------------------------------------------------------------

    @abstractmethod
    def on_message(self, connection: Connection, message: ServerMessage) -> None:
        """A server has said *message*."""

    @abstractmethod
    def on_down(self, link: Link, connection: Connection) -> None:
        """A connection is lost."""

    @abstractmethod
    def _serve_waiting(self) -> None:
        """A server has come up: what waited for one may go."""

    @abstractmethod
    def _redirect(self) -> None:
        """The leadership has moved."""

    # ---- names -----------------------------------------------------------------------------------------

    def find(self, server: str) -> Link | None:
        """The link to the server with this name, address or node id (hexadecimal)."""
        link = self.links.get(server)
        if link is not None:
            return link
        for link in self.links.values():
            if link.node_id and (link.name == server or f"{link.node_id:x}" == server):
                return link
        return None

    def require(self, server: str) -> Link:
        """Like `find`.

        Raises:
            UsageError: no server is called that.
        """
        link = self.find(server)
        if link is None:
            known = ", ".join(link.name or link.address for link in self.links.values())
            raise UsageError(f"no server is called {server!r}; there are: {known}")
        return link

    # ---- who leads -------------------------------------------------------------------------------------

    def _learn_leader(self, link: Link, term: int, node_id: NodeId, address: str) -> None:
        """*link*'s server says that in *term* the leader is *node_id* (0: it knows of none)."""
        link.leader = (term, node_id)
        newer = term > self.term or (term == self.term and node_id != 0 and self.leader_id == 0)
        abdicated = term == self.term and node_id == 0 and link.node_id == self.leader_id
        if not newer and not abdicated:
            return
        self.term, self.leader_id = term, node_id
        if node_id and self._link_of(node_id) is None and address:
            self._add_link(address)
        self._find_leader()
        self._redirect()

    def _adopt_hint(self, refuser: Connection, address: str) -> Link | None:
        """*refuser* does not lead and thinks that *address* does (empty: it does not know). Returns our leader."""
        if self.leader is refuser.link:
            # It may be announced again, also for the term that we know.
            self.leader, self.leader_id = None, NodeId(0)
        if self.leader is None and address:
            self.leader = self.links.get(address) or self._add_link(address)
        return self.leader

    def _find_leader(self) -> None:
        self.leader = self._link_of(self.leader_id) if self.leader_id else None
        if self.leader is not None and self.leader.connection is None:
            self.leader.hurry()

    def _link_of(self, node_id: NodeId) -> Link | None:
        for link in self.links.values():
            if link.node_id == node_id:
                return link
        return None

    def _add_link(self, address: str) -> Link | None:
        if self.is_closed or len(self.links) >= LINKS_MAX:
            return None
        link = self.links.get(address)
        if link is None:
            link = self.links[address] = Link(address, self)
        return link

    # ---- links -----------------------------------------------------------------------------------------

    def on_up(self, link: Link, welcome: Welcome) -> None:
        """A link is connected and greeted."""
        self.cluster_id = self.cluster_id or welcome.cluster_id
        self.foreign.pop(link.address, None)
        for other in list(self.links.values()):
            if other is not link and other.node_id == link.node_id:
                # The same server under two addresses: the one that the user wrote down stays.
                spare = link if other.address in self._named and other.connection is not None else other
                if spare.address not in self._named:
                    self.links.pop(spare.address, None)
                    spare.close()
        self._find_leader()
        if all(other.attempted for other in self.links.values()) and link.connection is not None:
            link.connection.send(ASK_STATUS)
        self._serve_waiting()
        self._notify()

    def on_attempt_failed(self, link: Link) -> None:
        """An attempt to connect has failed; the link goes on trying."""
        # An address that was ours and is another cluster's now (it was given away) is a server that is gone.
        if isinstance(link.error, WrongCluster) and link.address in self._named and not link.node_id:
            text = f"the addresses belong to different clusters; correct the list ({link.address}: {link.error})"
            if link.address not in self.foreign:
                _log.warning("%s", text)
            self.foreign[link.address] = text
        else:
            self.foreign.pop(link.address, None)
        self._notify()

    def _learn_members(self, status: ServerStatus) -> None:
        """Keep links to servers that the user did not name, as the membership says."""
        for peer in status.peers:
            address = peer.member.client_address
            if address and self._link_of(peer.node_id) is None and address not in self.links:
                self._add_link(address)
        current = {peer.node_id for peer in status.peers}
        if status.node_id == status.leader:
            for link in list(self.links.values()):
                if link.address not in self._named and link.node_id and link.node_id not in current:
                    del self.links[link.address]
                    link.close()

    def _notify(self) -> None:
        self._changed.set()
        for callback in self.on_change:
            callback()

    def mixed(self) -> MixedClusters | None:
        """Why nothing new may be sent, if it may not. (Anew each time: whoever raises it adds to its traceback.)"""
        if self.is_settled or not self.foreign:
            return None
        return MixedClusters(next(iter(self.foreign.values())))

    def require_one_cluster(self) -> None:
        """Raise `MixedClusters` while nobody can say which of different clusters was meant."""
        if (error := self.mixed()) is not None:
            raise error

    async def wait_ready(self, timeout_s: float) -> None:
        """Until a leader is known and connected, or every server was tried and at least one has answered.

        Raises:
            MixedClusters: the addresses belong to different clusters, and more than one has answered by now.
            Unavailable: nobody answered in time.
        """
        deadline_s = self.loop.time() + timeout_s
        enough_s = None
        while True:
            links = list(self.links.values())
            self.require_one_cluster()
            now_s = self.loop.time()
            if any(link.connection is not None for link in links):
                if self.leader is not None and self.leader.connection is not None:
                    return
                enough_s = enough_s or now_s + 0.5
                if all(link.attempted and link.leader[0] > 0 for link in links if link.connection) and all(
                    link.attempted for link in links
                ):
                    return
                if now_s >= enough_s:
                    return
            if now_s >= deadline_s:
                raise Unavailable(f"no server answered within {timeout_s:g} s; {self.describe()}")
            self._changed.clear()
            try:
                async with asyncio.timeout_at(min(deadline_s, enough_s or deadline_s)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def wait_attempted(self, deadline_s: float) -> None:
        """Until every server known is connected or was tried once, at most until *deadline_s* (loop time)."""
        while not all(link.attempted for link in self.links.values()):
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._changed.wait()
            except TimeoutError:
                return

    def describe(self) -> str:
        """One line for error messages: who leads, who can be reached."""
        if self.leader is not None and self.leader.connection is not None:
            parts = [f"{self.leader.name} leads in term {self.term}"]
        else:
            parts = ["no leader is known"]
        for link in self.links.values():
            if link.connection is None:
                parts.append(f"{link.address}: {trouble(link)}")
            elif link.is_suspect:
                parts.append(f"{link.name} ({link.address}) does not answer")
        return "; ".join(parts)

    async def wait_closed(self) -> None:
        """After `close`: until the sockets are closed, for a bounded time."""
        await asyncio.gather(*(link.wait_closed(CLOSE_WITHIN_S) for link in self.links.values()))
        await asyncio.sleep(0)
