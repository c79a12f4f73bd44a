"""Registers in which values are written more than once: which write each read saw, worked out from when they were.

Once every read is tied to one write the values are as good as unique, and `chains` decides in O(n log n). A read can
only have seen a write of its value that was invoked before the read returned and was not gone for certain: another
write invoked after it had returned, and done with before the read was invoked. Where values are many and clients few,
that leaves one write for most reads. For the others, with the *zone* of a write as in `chains` (from the first return
to the last invocation among it and its reads):

1.  A tie that leaves the write's zone as it is costs nothing, so it is made.
2.  A tie that makes the zone overlap a forward zone, or a forward zone hold another whole, is impossible, since zones
    only grow. If one tie remains, it is made.
3.  Otherwise guess: the tie that leaves the zone shortest. A read for which nothing is left goes first in the next try,
    and if that does not help takes another tie.

Ties that all fit prove a legal history. That none are left proves an illegal one as long as nothing was guessed; what
neither proves the search has to decide. A crashed write may be first seen at any time after its invocation; once a
read of it returned, it can be gone like any other.
"""

from bisect import bisect_left, insort
from collections import Counter
from copy import copy
from functools import partial
from itertools import accumulate
from typing import Final, TypeAlias

from troth.verify.history import FOREVER, EventType, Operation, Value, show
from troth.verify.linearizability import concatenations
from troth.verify.linearizability.chains import Found, examine
from troth.verify.linearizability.keys import Key

_TRIES: Final = 16

Loose: TypeAlias = list[tuple[Operation, list[int]]]
"""Reads that are not tied yet, and the writes, crashed ones aside, that they may have seen."""


def decided(key: Key) -> tuple[Key, Found | None]:
    """What can be found out about a key without search, None if nothing; and the key in whose terms it is said.

    That is the same key with labels in place of values where writes repeat.
    """
    if not key.again and not key.hopeless:
        return key, examine(key)
    if key.hopeless or key.changed:
        return key, None
    if key.appended:
        told_apart = concatenations.told_apart(key)
        found = None if told_apart is None else examine(told_apart)
        return (key, None) if told_apart is None or found is None or found.conflict else (told_apart, found)
    ties = _Ties(key)
    loose: Loose = []
    for read in key.reads:
        seen = ties.candidates(read)
        if len(seen) == 1 and read.result not in ties.crashed:
            ties.widen(seen[0], read)
        elif seen or read.result in ties.crashed:
            loose.append((read, seen))
        else:
            return key, Found(f"{show(read.result)} was read, but nothing that wrote it can have been last")
    ties.sort_zones()
    size = len(loose) + 1
    while len(loose) < size:
        size = len(loose)
        again: Loose = []
        for read, seen in loose:
            fitting = ties.fitting(read, seen)
            if not fitting:
                return key, Found(f"{show(read.result)} was read while another value must have been held")
            if len(fitting) == 1:
                ties.tie(fitting[0], read)
            else:
                again.append((read, seen))
        loose = again
    certain = ties.copy()
    failures: Counter[int] = Counter()
    for _ in range(_TRIES):
        failed = ties.guess(loose, failures)
        if not failed:
            told_apart = ties.labelled(key)
            found = examine(told_apart)
            if found is not None and not found.conflict:
                return told_apart, found
            break
        unplaced = {read.index for read, _ in failed}
        failures.update(unplaced)
        loose = failed + [entry for entry in loose if entry[0].index not in unplaced]
        ties = certain.copy()
    told_apart = certain.labelled(key)
    found = examine(told_apart)
    return told_apart, found if found is not None and (found.conflict or not loose) else None


class _Ties:
    """Which write every read has seen, as far as it is known. Writes go by number; 0 is the initial value's."""

    def __init__(self, key: Key) -> None:
        ok = EventType.OK
        written = [(value, op) for value, op in key.written.items()] + key.again
        written.sort(key=_invoked)
        self.labels = [None, *(op.index for _, op in written)]
        self.starts = [-1, *(op.invoked for _, op in written)]
        self.ends = [-1, *(op.completed if op.outcome is ok else FOREVER for _, op in written)]
        self.first, self.last = list(self.ends), list(self.starts)
        """The zone of every write: the first return and the last invocation among it and the reads tied to it."""
        self.seen_in: dict[int, int] = {}
        """index of a read -> number of its write"""
        self.forward: list[tuple[int, int, int]] = []
        self.backward: list[tuple[int, int, int]] = []
        self.crashed: dict[Value, list[int]] = {}
        live: dict[Value, list[int]] = {key.initial: [0]}
        for number, (value, op) in enumerate(written, 1):
            (live if op.outcome is ok else self.crashed).setdefault(value, []).append(number)
        # By value, in order of invocation: writes, their invocations, and the latest return so far.
        self._live = {
            value: (
                numbers,
                [self.starts[number] for number in numbers],
                list(accumulate((self.ends[number] for number in numbers), max)),
            )
            for value, numbers in live.items()
        }
        done = sorted((op.completed, op.invoked) for _, op in written if op.outcome is ok)
        self._returns = [end for end, _ in done]
        self._latest = list(accumulate((start for _, start in done), max))

    def candidates(self, read: Operation) -> list[int]:
        """Writes, crashed ones aside, that may have been the last before *read*."""
        entry = self._live.get(read.result)
        if entry is None:
            return []
        numbers, starts, returns = entry
        gone = self._gone(read)
        at = bisect_left(starts, read.completed) - 1
        found: list[int] = []
        while at >= 0 and returns[at] >= gone:
            if self.ends[numbers[at]] >= gone:
                found.append(numbers[at])
            at -= 1
        return found

    def widen(self, write: int, read: Operation) -> None:
        """Tie a read to its write, as long as zones are not sorted yet."""
        self.seen_in[read.index] = write
        if read.completed < self.first[write]:
            self.first[write] = read.completed
        if read.invoked > self.last[write]:
            self.last[write] = read.invoked

    def sort_zones(self) -> None:
        """Lay out the zones. A crashed write that nobody saw has none."""
        for write, (first, last) in enumerate(zip(self.first, self.last, strict=True)):
            if first < last:
                self.forward.append((first, last, write))
            elif first < FOREVER:
                self.backward.append((last, first, write))
        self.forward.sort()
        self.backward.sort()

    def copy(self) -> "_Ties":
        """With ties of its own."""
        other = copy(self)
        other.first, other.last, other.seen_in = list(self.first), list(self.last), dict(self.seen_in)
        other.forward, other.backward = list(self.forward), list(self.backward)
        return other

    def fitting(self, read: Operation, seen: list[int]) -> list[int]:
        """What *read* can be tied to beside the ties made so far, of what it may have *seen* and of crashed writes."""
        found: list[int] = []
        for write in self._with_crashed(read, seen):
            first, last = self.first[write], self.last[write]
            if read.invoked <= last and read.completed >= first:
                return [write]
            if self._fits(write, min(first, read.completed), max(last, read.invoked)):
                found.append(write)
        return found

    def _with_crashed(self, read: Operation, seen: list[int]) -> list[int]:
        crashed = self.crashed.get(read.result)
        if crashed is None:
            return seen
        found = list(seen)
        gone, idle = self._gone(read), 0
        for write in reversed(crashed):
            first = self.first[write]
            if first < gone or self.starts[write] >= read.completed:
                continue
            if first == FOREVER:
                # Two are enough to see that there is a choice; the one invoked last leaves most to earlier reads.
                idle += 1
                if idle > 2:
                    continue
            found.append(write)
        return found

    def _gone(self, read: Operation) -> int:
        """What returned before this place was overwritten for certain when *read* was invoked."""
        before = bisect_left(self._returns, read.invoked)
        return self._latest[before - 1] if before else -1

    def _fits(self, write: int, first: int, last: int) -> bool:
        """Whether a zone of *write* contradicts no other."""
        forward, backward = self.forward, self.backward
        if first >= last:
            at = bisect_left(forward, (last, FOREVER)) - 1
            return at < 0 or forward[at][2] == write or forward[at][1] <= first
        at = bisect_left(forward, (last,)) - 1
        if at >= 0 and forward[at][2] == write:
            at -= 1
        if at >= 0 and forward[at][1] > first:
            return False
        at = bisect_left(backward, (first,))
        while at < len(backward) and backward[at][0] < last:
            if backward[at][1] < last and backward[at][2] != write:
                return False
            at += 1
        return True

    def tie(self, write: int, read: Operation) -> None:
        """Tie a read to its write."""
        before = (self.first[write], self.last[write])
        self.widen(write, read)
        first, last = self.first[write], self.last[write]
        if (first, last) == before:
            return
        if before[0] < before[1]:
            del self.forward[bisect_left(self.forward, (*before, write))]
        elif before[0] < FOREVER:
            del self.backward[bisect_left(self.backward, (before[1], before[0], write))]
        if first < last:
            insort(self.forward, (first, last, write))
        else:
            insort(self.backward, (last, first, write))

    def guess(self, loose: Loose, failures: Counter[int]) -> Loose:
        """Tie one read after the other as seems best. Returns those for which nothing was left.

        What had *failures* (by index of the read) even when it came first is tied as seems second best, and so on.
        """
        failed: Loose = []
        for read, seen in loose:
            fitting = self.fitting(read, seen)
            if not fitting:
                failed.append((read, seen))
                continue
            again = failures[read.index] - 1 if failures else 0
            if again > 0:
                fitting.sort(key=partial(self._badness, read))
                self.tie(fitting[again % len(fitting)], read)
            else:
                self.tie(min(fitting, key=partial(self._badness, read)), read)
        return failed

    def _badness(self, read: Operation, write: int) -> tuple[bool, int]:
        length = max(self.last[write], read.invoked) - min(self.first[write], read.completed)
        return self.ends[write] == FOREVER, length

    def labelled(self, key: Key) -> Key:
        """*key* as far as its reads are tied, every write with a value of its own."""
        labels = self.labels
        other = Key(None)
        other.written.update((op.index, op) for op in key.written.values())
        other.written.update((op.index, op) for _, op in key.again)
        for read in key.reads:
            write = self.seen_in.get(read.index)
            if write is not None:
                label = other.seen[read.index] = labels[write]
                other.reads.append(read)
                other.last_invoke[label] = read.invoked
                if read.completed < other.first_return.get(label, FOREVER):
                    other.first_return[label] = read.completed
        return other


def _invoked(write: tuple[Value, Operation]) -> int:
    return write[1].invoked
