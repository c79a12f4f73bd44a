"""A circle of sorted points, and how to find the owner of a hash on it quickly.

Rule of the circle: a point owns the hashes after its predecessor up to and including itself, ``(previous,
point]``. A hash that equals a point therefore stays on that point (libketama's rule; `bisect_right` would
send it one on). Points that coincide all stay in the arrays, ordered by their owner's rank: the first one
owns, and when its node leaves the next one inherits, so that a collision leaves no trace of who came first.

Layout, for P points::

    points   u64[P + 1]   ascending; points[P] is a sentinel no hash exceeds
    owners   i32[P + 1]   rank of the owner in `names`; owners[P] == owners[0], which closes the circle
    starts   u32[2**k + 1]  starts[b] = how many points lie below b << shift; 2**k is about 2 P

A hash's top k bits name a bucket, and its owner's point lies in ``starts[b] .. starts[b + 1]``: about half a
point to look at, instead of log2 P. A single look-up bisects inside the bucket; a batch takes one vector step
for everything and then one to three more for the few hashes that share a bucket with several points.

Each block of memory is an `array.array` that numpy sees as well: batches go through numpy, single look-ups
through the array, whose indexing makes a Python int several times as fast as indexing numpy does.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from troth.hashing.keys import MASK, Hashes

_CHUNK = 1 << 15
"""Hashes handled at once: five 8-byte temporaries of this length stay within a core's second-level cache."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Continuum:
    """Sorted points with owners. Immutable: a change of membership makes a new one."""

    names: tuple[str, ...]
    bits: int
    points: Hashes
    owners: NDArray[np.int32]
    shift: int
    starts: NDArray[np.uint32]
    point_list: "array[int]" = field(repr=False)
    owner_list: "array[int]" = field(repr=False)
    start_list: "array[int]" = field(repr=False)
    look_up: tuple[int, "array[int]", "array[int]", "array[int]", tuple[str, ...]] = field(repr=False)
    """shift, start_list, point_list, owner_list, names: what one look-up needs, in one attribute access."""

    @classmethod
    def build(
        cls, *, names: tuple[str, ...], points: Hashes, owners: NDArray[np.int32], bits: int = 64
    ) -> "Continuum":
        """A circle from points in any order.

        Args:
            names: the nodes, by rank.
            points: u64[P], each below 2**bits, in any order, coinciding ones allowed.
            owners: i32[P], the rank of each point's node.
            bits: width of the hashes; 32 for ketama.
        """
        order = np.lexsort((owners, points))
        return cls.of_sorted(names=names, points=points[order], owners=owners[order], bits=bits)

    @classmethod
    def of_sorted(
        cls,
        *,
        names: tuple[str, ...],
        points: Hashes,
        owners: NDArray[np.int32],
        bits: int = 64,
        like: "Continuum | None" = None,
        joined: Hashes | None = None,
    ) -> "Continuum":
        """Like `build`, for points that are already ascending (and by rank where they coincide).

        Args:
            like, joined: the circle before and the ascending points that it lacked. Its start table is then
                corrected rather than counted anew, which is most of the work of a join to a large ring.
        """
        count = len(points)
        # Past 2**17 points the table outgrows the cache that makes it worth while: it stays smaller.
        table_bits = min(bits, max(1, (count - 1).bit_length() + (1 if count < 1 << 17 else 0)))
        shift = bits - table_bits
        start_list = array("I", (0,)) * ((1 << table_bits) + 1)
        starts = np.frombuffer(start_list, np.uint32)
        if like is not None and joined is not None and like.shift == shift:
            edges = (joined >> np.uint64(shift)).astype(np.int64) + 1
            runs = np.diff(edges, prepend=0, append=len(starts))
            np.add(like.starts, np.repeat(np.arange(len(runs), dtype=np.uint32), runs), out=starts)
        else:
            buckets = (points >> np.uint64(shift)).view(np.int64)
            starts[1:] = np.cumsum(np.bincount(buckets, minlength=1 << table_bits))
        point_list = array("Q", (MASK,)) * (count + 1)
        closed_points = np.frombuffer(point_list, np.uint64)
        closed_points[:-1] = points
        owner_list = array("i", owners[:1].tolist()) * (count + 1)
        closed_owners = np.frombuffer(owner_list, np.int32) if count else np.empty(0, np.int32)
        closed_owners[:-1] = owners
        return cls(
            names=names,
            bits=bits,
            points=closed_points,
            owners=closed_owners,
            shift=shift,
            starts=starts,
            point_list=point_list,
            owner_list=owner_list,
            start_list=start_list,
            look_up=(shift, start_list, point_list, owner_list, names),
        )

    def __len__(self) -> int:
        """How many points there are."""
        return len(self.points) - 1

    def position(self, hashed: int) -> int:
        """Index of the point that owns *hashed*, 0 .. P; P is point 0 again."""
        bucket = hashed >> self.shift
        starts = self.start_list
        return bisect_left(self.point_list, hashed, starts[bucket], starts[bucket + 1])

    def positions(self, hashes: Hashes) -> NDArray[np.uint32]:
        """`position` for each of *hashes*; shape (len(hashes),)."""
        found = np.empty(len(hashes), np.uint32)
        for begin in range(0, len(hashes), _CHUNK):
            found[begin : begin + _CHUNK] = self._positions_of_part(hashes[begin : begin + _CHUNK])
        return found

    def owner_ranks(self, hashes: Hashes) -> NDArray[np.int32]:
        """Rank of the owner of each of *hashes*; shape (len(hashes),)."""
        ranks = np.empty(len(hashes), np.int32)
        for begin in range(0, len(hashes), _CHUNK):
            at = self._positions_of_part(hashes[begin : begin + _CHUNK])
            self.owners.take(at, out=ranks[begin : begin + _CHUNK], mode="clip")
        return ranks

    def _positions_of_part(self, part: Hashes) -> NDArray[np.uint32]:
        """`positions` for at most `_CHUNK` hashes."""
        at = self.starts.take((part >> np.uint64(self.shift)).view(np.int64), mode="clip")
        behind = self.points.take(at, mode="clip") < part
        at += behind
        late = np.flatnonzero(behind)
        while len(late):
            late_hashes, late_at = part[late], at[late]
            behind = self.points.take(late_at, mode="clip") < late_hashes
            late_at += behind
            at[late] = late_at
            late = late[behind]
        return at

    def preference(self, hashed: int, count: int) -> list[str]:
        """The first *count* distinct nodes from *hashed* on, the owner first; who has no point comes last, by name."""
        owners, names = self.owner_list, self.names
        end = len(owners) - 1
        at = self.position(hashed)
        ranks = [owners[at]]
        for _ in range(end):
            if len(ranks) >= count:
                return [names[rank] for rank in ranks]
            at = at + 1 if at < end else 1
            rank = owners[at]
            if rank not in ranks:
                ranks.append(rank)
        ranks += [rank for rank in range(len(names)) if rank not in ranks]
        return [names[rank] for rank in ranks[:count]]

    def walk(self, hashed: int) -> Iterator[str]:
        """Every node once, in the order in which their points follow *hashed*; who has no point comes last, by name."""
        owners, names = self.owner_list, self.names
        end = len(owners) - 1
        at = self.position(hashed)
        seen: set[int] = set()
        for _ in range(end):
            rank = owners[at]
            if rank not in seen:
                seen.add(rank)
                yield names[rank]
            at = at + 1 if at < end else 1
        yield from (name for rank, name in enumerate(names) if rank not in seen)

    def preference_ranks(self, count: int, positions: NDArray[np.uint32] | None = None) -> NDArray[np.int32]:
        """The first *count* distinct owners from each position on.

        Args:
            count: at most the number of nodes on the circle.
            positions: indices 0 .. P, or None for every point in turn.

        Returns:
            i32[len(positions), count]; column 0 is the owner.
        """
        size = len(self)
        start = np.arange(size) if positions is None else positions.astype(np.int64) % size
        chosen = np.full((len(start), count), -1, np.int32)
        chosen[:, 0] = self.owners[start]
        cursor = start.copy()
        filled = np.ones(len(start), np.int64)
        pointless = np.flatnonzero(np.bincount(self.owners[:-1], minlength=len(self.names)) == 0)
        on_circle_count = min(count, len(self.names) - len(pointless))
        rows = np.flatnonzero(filled < on_circle_count)
        while len(rows):
            cursor[rows] = (cursor[rows] + 1) % size
            candidates = self.owners[cursor[rows]]
            fresh = (chosen[rows] != candidates[:, None]).all(axis=1)
            won = rows[fresh]
            chosen[won, filled[won]] = candidates[fresh]
            filled[won] += 1
            rows = rows[filled[rows] < on_circle_count]
        if on_circle_count < count:
            chosen[:, on_circle_count:] = pointless[: count - on_circle_count]
        return chosen

    def arc_sizes(self) -> NDArray[np.float64]:
        """Share of the circle that each node owns, by rank; sums to 1."""
        ends = self.points[:-1]
        widths = np.diff(ends, prepend=ends[-1:])  # wraps: the first arc spans zero
        if self.bits < 64:
            widths &= np.uint64((1 << self.bits) - 1)
        if len(ends) == 1:
            return np.ones(len(self.names))
        sums = np.bincount(self.owners[:-1], widths.astype(np.float64), minlength=len(self.names))
        shares: NDArray[np.float64] = sums / sums.sum()
        return shares


def with_node(before: Continuum, *, names: tuple[str, ...], rank: int, points: Hashes) -> Continuum:
    """*before* with the points of one more node.

    Args:
        before: the circle as it is.
        names: the nodes afterwards; `names[rank]` is the new one.
        rank: of the new node; the ranks of *before* from here on move up by one.
        points: u64[m], in any order.
    """
    points = np.sort(points)
    owners = before.owners[:-1]
    owners = owners + (owners >= rank)
    # Among coinciding points the lower rank comes first, so the place is after the lower ranks only.
    at = np.searchsorted(before.points[:-1], points)
    for index in np.flatnonzero(before.points.take(at) == points):
        point = points[index]
        while at[index] < len(owners) and before.points[at[index]] == point and owners[at[index]] < rank:
            at[index] += 1
    return Continuum.of_sorted(
        names=names,
        points=np.insert(before.points[:-1], at, points),
        owners=np.insert(owners, at, np.int32(rank)),
        bits=before.bits,
        like=before,
        joined=points,
    )


def without_node(before: Continuum, *, names: tuple[str, ...], rank: int) -> Continuum:
    """*before* without the points of the node at *rank*; *names* are the nodes that stay."""
    owners = before.owners[:-1]
    kept = owners != rank
    owners = owners[kept]
    return Continuum.of_sorted(
        names=names,
        points=before.points[:-1][kept],
        owners=(owners - (owners > rank)).astype(np.int32, copy=False),
        bits=before.bits,
    )
