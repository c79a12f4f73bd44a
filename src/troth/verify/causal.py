"""PRAM, causal memory, weak causal consistency and causal+ (convergent), in polynomial time.

All four ask for orders that explain what was read; they differ in what the orders must respect:

==============  ====================================================================================================
pram            every process has an order of all writes and its own reads, respecting each session's own order
                (Lipton & Sandberg 1988)
causal          the same, respecting the causal order co = (session order and reads-from), closed transitively
                (causal memory, Ahamad et al. 1995; CM in Bouajjani et al.)
causal-weak     reads alone are explained by their causal past (CC)
causal+         one order of writes for everybody, compatible with co (CCv; Lloyd et al. 2011 call it causal+)
==============  ====================================================================================================

With every value written once, each comes down to bad patterns (Bouajjani, Enea, Guerraoui, Hamza, "On verifying
causal consistency", POPL 2017, section 5): for CC and CCv cycles in co, a read of the initial value after a write,
a read of an overwritten value, and for CCv a cycle of co and the conflict order; for CM and PRAM a saturation per
process: when w1 comes before a read that returned w2 of the same key, w1 comes before w2.

The set of writes before anything is closed under session order, so it is a *clock*: how many writes of every
session. One pass costs O(n k) for n operations and k sessions; the saturation repeats passes until nothing changes.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Final, TypeAlias

from troth.errors import UsageError
from troth.verify.accesses import Access, Accesses, Violation, accesses_of, verdict_of
from troth.verify.history import History, Value, show
from troth.verify.verdict import Verdict

CAUSAL_MODELS: Final = ("pram", "causal", "causal-weak", "causal+")

Clock: TypeAlias = list[int]
"""Per session: how many of its writes are included."""


class _GaveUp(Exception):
    """Out of time."""


def check_causal(history: History, model: str = "causal", *, expired: Callable[[], bool] | None = None) -> Verdict:
    """Check one of `CAUSAL_MODELS`.

    Raises:
        UsageError: no such model, or other operations than reads, writes and cas.
    """
    if model not in CAUSAL_MODELS:
        raise UsageError(f"no causal model is called {model!r}; there are {', '.join(CAUSAL_MODELS)}")
    accesses = accesses_of(history, model)
    checker = _Checker(accesses, expired)
    try:
        violation = checker.views(through_reads=False) if model == "pram" else checker.causal(model)
    except _GaveUp:
        return verdict_of(history, model, accesses, (), gave_up="out of time")
    return verdict_of(history, model, accesses, () if violation is None else (violation,))


class _Checker:
    """The writes of all sessions, numbered, and the clocks that grow over them."""

    def __init__(self, accesses: Accesses, expired: Callable[[], bool] | None) -> None:
        self.accesses, self.expired = accesses, expired
        self.width = len(accesses.sessions)
        # Write number -> (session, how many writes of it up to and including this one).
        self.place: list[tuple[int, int]] = [(0, 0)] * len(accesses.writes)
        self.by_session: list[list[int]] = []
        self.on_key: list[dict[Value, list[int]]] = []
        """session -> key -> ordinals of its writes to that key, ascending"""
        for number, session in enumerate(accesses.sessions):
            mine: list[int] = []
            keys: dict[Value, list[int]] = {}
            for access in session:
                if access.is_write:
                    mine.append(access.write)
                    self.place[access.write] = (number, len(mine))
                    keys.setdefault(access.key, []).append(len(mine))
            self.by_session.append(mine)
            self.on_key.append(keys)

    def causal(self, model: str) -> Violation | None:
        """Bad patterns over the causal order; for "causal" the views of every process besides."""
        clocks = self._grow({})
        if isinstance(clocks, Violation):
            return clocks
        violation = self._overwritten(clocks)
        if violation is not None or model == "causal-weak":
            return violation
        return self._conflicts(clocks) if model == "causal+" else self.views(through_reads=True)

    def views(self, *, through_reads: bool) -> Violation | None:
        """Whether every process has an order of its own: saturate what must come before what."""
        for number, session in enumerate(self.accesses.sessions):
            extra: dict[int, set[int]] = {}
            while True:
                clocks = self._grow(extra, through_reads=through_reads, reader=number)
                if isinstance(clocks, Violation):
                    return clocks
                added = False
                for access, before in self._reads(session, clocks):
                    for earlier in self._latest(access.key, before):
                        if earlier == access.write:
                            continue
                        if access.write < 0:
                            return self._stale(access, earlier, "write-before-initial-read")
                        known = extra.setdefault(access.write, set())
                        owner, ordinal = self.place[earlier]
                        if earlier not in known and clocks[access.write][owner] < ordinal:
                            known.add(earlier)
                            added = True
                if not added:
                    break
        return None

    def _grow(
        self, extra: dict[int, set[int]], *, through_reads: bool = True, reader: int = -1
    ) -> list[Clock] | Violation:
        """The clock of every write: what comes before it. A write before itself is a cycle.

        Args:
            extra: write -> writes that must come before it besides.
            through_reads: whether the reads of all sessions carry order, or only those of *reader*.
            reader: the session whose reads always do.
        """
        width = self.width
        clocks: list[Clock] = [[0] * width for _ in self.accesses.writes]
        changed = True
        rounds = 0
        while changed:
            changed = False
            rounds += 1
            if self.expired is not None and self.expired():
                raise _GaveUp
            for number, session in enumerate(self.accesses.sessions):
                listens = through_reads or number == reader
                current = [0] * width
                for access in session:
                    if not access.is_write:
                        if listens and access.write >= 0:
                            self._include(current, access.write, clocks)
                        continue
                    for earlier in extra.get(access.write, ()):
                        self._include(current, earlier, clocks)
                    mine = clocks[access.write]
                    grown = [old if old > new else new for old, new in zip(mine, current, strict=True)]
                    if grown != mine:
                        clocks[access.write] = grown
                        changed = True
                    owner, ordinal = self.place[access.write]
                    if grown[owner] >= ordinal:
                        return self._cycle(access)
                    current = list(grown)
                    current[owner] = ordinal
        return clocks

    def _include(self, clock: Clock, write: int, clocks: list[Clock]) -> None:
        for at, count in enumerate(clocks[write]):
            if count > clock[at]:
                clock[at] = count
        owner, ordinal = self.place[write]
        if ordinal > clock[owner]:
            clock[owner] = ordinal

    def _reads(self, session: tuple[Access, ...], clocks: list[Clock]) -> list[tuple[Access, Clock]]:
        """Every read of a session with all writes that come before it."""
        found = []
        current = [0] * self.width
        for access in session:
            if access.write >= 0:
                self._include(current, access.write, clocks)
            if not access.is_write:
                found.append((access, list(current)))
        return found

    def _latest(self, key: Value, clock: Clock) -> list[int]:
        """The last write to *key* of every session, among those in the clock."""
        found = []
        for number, count in enumerate(clock):
            ordinals = self.on_key[number].get(key)
            if count and ordinals:
                at = bisect_left(ordinals, count + 1)
                if at:
                    found.append(self.by_session[number][ordinals[at - 1] - 1])
        return found

    def _overwritten(self, clocks: list[Clock]) -> Violation | None:
        for session in self.accesses.sessions:
            for access, before in self._reads(session, clocks):
                for other in self._latest(access.key, before):
                    if other == access.write:
                        continue
                    if access.write < 0:
                        return self._stale(access, other, "write-before-initial-read")
                    owner, ordinal = self.place[access.write]
                    if clocks[other][owner] >= ordinal:
                        return self._stale(access, other, "read-of-overwritten-value")
        return None

    def _conflicts(self, clocks: list[Clock]) -> Violation | None:
        """Whether one order of writes serves everybody: no cycle of co and the conflict order."""
        extra: dict[int, set[int]] = {}
        for session in self.accesses.sessions:
            for access, before in self._reads(session, clocks):
                for earlier in self._latest(access.key, before):
                    if access.write >= 0 and earlier != access.write:
                        extra.setdefault(access.write, set()).add(earlier)
        grown = self._grow(extra)
        return grown if isinstance(grown, Violation) else None

    def _stale(self, access: Access, other: int, anomaly: str) -> Violation:
        writes = self.accesses.writes
        seen = "the initial value" if access.write < 0 else show(writes[access.write][3])
        involved = {access.op, writes[other][1]} | ({writes[access.write][1]} if access.write >= 0 else set())
        return Violation(
            anomaly=anomaly,
            operation=access.op,
            reason=f"it returned {seen}, but {show(writes[other][3])} comes in between",
            involved=tuple(sorted(involved)),
        )

    def _cycle(self, access: Access) -> Violation:
        value = show(self.accesses.writes[access.write][3])
        return Violation(
            anomaly="cyclic-order",
            operation=access.op,
            reason=f"what was read puts the write of {value} before itself",
            involved=(access.op,),
        )
