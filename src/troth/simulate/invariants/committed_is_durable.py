"""What is committed is on the disks of a quorum when it commits, and stays so even when all crash at once.

Source: Raft §5.3 ("committed once replicated on a majority"), with durable in place of received.
"""

from collections.abc import Callable, Collection

from troth.core.interface import EntryId, Membership
from troth.core.quorum import QuorumSizes
from troth.errors import invariant
from troth.ids import NodeId
from troth.simulate.core_node import CoreNode
from troth.simulate.monitor import Invariant, Seen


class CommittedIsDurable(Invariant):
    """Looks at the disks, not at what anybody says."""

    def on_input(self, node: CoreNode, seen: Seen) -> None:
        index = node.view.commit_index
        if not node.view.leads or not seen.leads or index <= seen.commit_index:
            return
        term = node.view.term_at(index)
        invariant(term is not None, "commits what it does not hold", node=node.node_id, index=index)
        if term is not None:
            # A leader may count what a server has lost since, as long as that does not vote.
            missing = self._lacking(
                seen.membership, EntryId(term, index), self._sizes(node).phase2, self._silent()
            )
            invariant(
                not missing, "committed without a durable quorum", node=node.node_id, index=index, voters=missing
            )

    def on_crashed(self, node: CoreNode) -> None:
        membership, highest = self.ledger.committed_membership, self.ledger.highest_id
        if membership is None or not highest.index:
            return
        # As long as so many have it, no election can be won without a voter who has it.
        lacking = self._lacking(membership, highest, self._sizes(node).blocking, self._silent())
        sets = 2 if membership.is_joint else 1
        invariant(len(lacking) < sets, "a crash took what was committed", node=node.node_id, highest=highest)

    def _lacking(
        self, membership: Membership, entry: EntryId, needed: Callable[[int], int], silent: Collection[NodeId]
    ) -> list[tuple[NodeId, ...]]:
        """The sets of voters of which too few hold *entry* durably, or are *silent*."""
        lacking = []
        for voters in (membership.voters, membership.outgoing):
            if voters:
                holders = sum(voter in silent or self._holds(self.nodes[voter], entry) for voter in voters)
                if holders < needed(len(voters)):
                    lacking.append(voters)
        return lacking

    def _silent(self) -> set[NodeId]:
        """Servers that have lost a part of their log and do not vote."""
        return {node.node_id for node in self.nodes.values() if getattr(node, "lost", False)}

    @staticmethod
    def _sizes(node: CoreNode) -> QuorumSizes:
        return QuorumSizes(node.plan.config.phase1_size, node.plan.config.phase2_size)

    @staticmethod
    def _holds(node: CoreNode, entry: EntryId) -> bool:
        disk = node.journal.durable
        newest_snapshot = max(disk.base.last.index, node.journal.file.last.index)
        return newest_snapshot >= entry.index or disk.term_at(entry.index) == entry.term
