"""Configuration safety (Raft §6): the quorums of any two decisions that follow each other have a server in common.

A decision is an election won or an advance of a commit index; decisions are ordered by term, then by the place of
the membership in the log, since a leader may hear late of a commit that its quorum made long ago.
"""

from bisect import bisect_left
from functools import lru_cache

from troth.core.interface import Membership
from troth.core.quorum import majority
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Monitor, Seen


class ConfigurationSafety(Invariant):
    """Every membership that decides meets the one before it and the one after it."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(monitor)
        self._order: list[tuple[Term, LogIndex]] = []
        self._decisions: list[Membership] = []
        self._index: dict[NodeId, LogIndex] = {}

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        view = node.view
        if seen.leads and view.leads and view.commit_index > seen.commit_index:
            self._decided(view.term, self._index.get(node.node_id, LogIndex(0)), seen.membership)
        self._index[node.node_id] = view.membership_index

    def on_booted(self, node: CoreNode) -> None:
        self._index[node.node_id] = node.view.membership_index

    def on_lead(self, node: CoreNode) -> None:
        self._decided(node.view.term, node.view.membership_index, node.view.membership)

    def _decided(self, term: Term, index: LogIndex, membership: Membership) -> None:
        key = (term, index)
        at = bisect_left(self._order, key)
        if at < len(self._order) and self._order[at] == key:
            return
        for neighbour in (at - 1, at):
            if 0 <= neighbour < len(self._order):
                other = self._decisions[neighbour]
                invariant(
                    always_meet(membership.voters, membership.outgoing, other.voters, other.outgoing),
                    "two decisions without a common server",
                    one=(key, membership.voters, membership.outgoing),
                    other=(self._order[neighbour], other.voters, other.outgoing),
                )
        self._order.insert(at, key)
        self._decisions.insert(at, membership)


@lru_cache(maxsize=4096)
def always_meet(
    voters: tuple[NodeId, ...],
    outgoing: tuple[NodeId, ...],
    others: tuple[NodeId, ...],
    leaving: tuple[NodeId, ...],
) -> bool:
    """Whether every quorum of one (joint) membership shares a server with every quorum of the other."""
    return any(
        _majorities_meet(set(one), set(other))
        for one in (voters, outgoing)
        for other in (others, leaving)
        if one and other
    )


def _majorities_meet(one: set[NodeId], other: set[NodeId]) -> bool:
    """Two majorities can avoid each other by taking first what the other set lacks."""
    shared = len(one & other)
    need_one = max(0, majority(len(one)) - len(one - other))
    need_other = max(0, majority(len(other)) - len(other - one))
    return need_one + need_other > shared
