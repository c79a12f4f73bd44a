"""Servers of one cluster that talk over socket pairs: no port is opened, and each two need a pair of their own.

The process that started them makes the pairs. A new server inherits its ends; a running one is handed its end
(`RaftServer.adopt`), which it cannot take while it is paused: then the two stay apart until it goes on.
"""

import socket
from collections.abc import Mapping
from itertools import combinations

from troth.errors import TrothError
from troth.ids import NodeId
from troth.server.process import RaftServer


class Pairs:
    """The socket pairs between *servers*, by name; those who die take theirs with them."""

    def __init__(self, servers: Mapping[str, RaftServer]) -> None:
        self._servers = servers
        self._apart: set[tuple[str, str]] = set()
        """Those two that have no pair, since one of them could not take its end."""

    def between(self, node_ids: Mapping[str, NodeId]) -> dict[str, dict[NodeId, socket.socket]]:
        """A pair for each two servers that are to be started: each one's ends by peer."""
        ends: dict[str, dict[NodeId, socket.socket]] = {name: {} for name in node_ids}
        for one, other in combinations(node_ids, 2):
            left, right = socket.socketpair()
            ends[one][node_ids[other]] = left
            ends[other][node_ids[one]] = right
        return ends

    def with_all(self, name: str, node_id: NodeId) -> dict[NodeId, socket.socket]:
        """New pairs between the server called *name*, which is to be started again, and all that live; these are given
        their ends."""
        ends: dict[NodeId, socket.socket] = {}
        self._apart = {pair for pair in self._apart if name not in pair}
        for other, server in self._servers.items():
            if other != name and server.is_alive:
                mine, theirs = socket.socketpair()
                try:
                    server.adopt(node_id, theirs)
                except TrothError:  # it has ended, or is paused
                    mine.close()
                    self._apart.add((name, other))
                else:
                    ends[server.node_id] = mine
        return ends

    def resumed(self, name: str) -> None:
        """The server called *name* goes on: it gets what it has missed."""
        for one, other in sorted(pair for pair in self._apart if name in pair):
            self._make_anew(one, other)

    def _make_anew(self, one: str, other: str) -> None:
        """A new pair between two servers that run; when one is dead, its restart makes it."""
        self._apart.discard((one, other))
        servers = [self._servers[name] for name in (one, other) if name in self._servers]
        if len(servers) < 2 or not all(server.is_alive for server in servers):
            return
        first, second = servers
        left, right = socket.socketpair()
        with left, right:
            try:
                first.adopt(second.node_id, left)
                second.adopt(first.node_id, right)
            except TrothError:  # the other one is paused too
                self._apart.add((one, other))
