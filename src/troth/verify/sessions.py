"""The four session guarantees, by what each session itself observed.

Source: Terry et al., "Session Guarantees for Weakly Consistent Replicated Data", PDIS 1994, section 3. A session is a
process.

===================  ====================================================================================
read-your-writes     after writing w, the session does not read anything older than w
monotonic-reads      after reading a, the session does not read anything older than a
monotonic-writes     who has read w reads nothing older than what w's session wrote before w
writes-follow-reads  who has read w reads nothing older than what w's session had read before w
===================  ====================================================================================

*Older* needs a yardstick, since stores may order unrelated writes as they like. Three facts are taken for granted,
and nothing else: the initial value is older than any write; writes of one session to one key are as old as they were
issued; and what a session saw of a key before it wrote to it, or before it saw something else, is older *for that
session* (for whoever reads the write, too, under writes-follow-reads). Two sessions that see unrelated writes in
opposite orders therefore violate nothing here; causal+ forbids that.

Every guarantee named here follows from PRAM, apart from writes-follow-reads, which follows from causal memory.
Cost: O(n) for the first two, O(n k) for the others, for n operations and k sessions.
"""

from collections.abc import Callable
from typing import Final

from troth.errors import UsageError
from troth.verify.accesses import Access, Accesses, Violation, accesses_of, verdict_of
from troth.verify.history import History, Value
from troth.verify.verdict import Verdict

GUARANTEES: Final = ("read-your-writes", "monotonic-reads", "monotonic-writes", "writes-follow-reads")


def check_session_guarantees(
    history: History,
    guarantees: tuple[str, ...] = GUARANTEES,
    *,
    name: str = "",
    expired: Callable[[], bool] | None = None,
) -> Verdict:
    """Check the guarantees named; every one that is violated is in `Verdict.anomalies`.

    Once *expired*, asked for every session, says True, what was not looked at is unknown.

    Raises:
        UsageError: no such guarantee, or the history has other operations than reads, writes and cas.
    """
    for guarantee in guarantees:
        if guarantee not in GUARANTEES:
            raise UsageError(f"no session guarantee is called {guarantee!r}; there are {', '.join(GUARANTEES)}")
    model = name or "+".join(guarantees)
    accesses = accesses_of(history, model)
    observer = _Observer(accesses)
    violations: list[Violation] = []
    for guarantee in guarantees:
        for number in range(len(accesses.sessions)):
            if expired is not None and expired():
                return verdict_of(history, model, accesses, violations, gave_up="out of time")
            violation = observer.follow(number, guarantee)
            if violation is not None:
                violations.append(violation)
                break
    return verdict_of(history, model, accesses, violations)


class _Observer:
    """Follows sessions with the yardstick of the module's text."""

    def __init__(self, accesses: Accesses) -> None:
        self.accesses = accesses
        self.at: list[int] = [0] * len(accesses.writes)
        """write -> its place in its session"""
        self.next: dict[int, int] = {}
        """write -> the next write of the same session to the same key"""
        self.first: dict[Value, dict[int, int]] = {}
        """key -> session -> its first write to that key"""
        self.reads: list[dict[Value, list[tuple[int, int]]]] = []
        """session -> key -> (place, write seen) of its reads of that key that saw a write"""
        for number, session in enumerate(accesses.sessions):
            last: dict[Value, int] = {}
            reads: dict[Value, list[tuple[int, int]]] = {}
            self.reads.append(reads)
            for place, access in enumerate(session):
                if not access.is_write and access.write >= 0:
                    reads.setdefault(access.key, []).append((place, access.write))
                if access.is_write:
                    self.at[access.write] = place
                    if access.key in last:
                        self.next[last[access.key]] = access.write
                    else:
                        self.first.setdefault(access.key, {})[number] = access.write
                    last[access.key] = access.write

    def follow(self, number: int, guarantee: str) -> Violation | None:
        """The first violation of one guarantee in one session, or None."""
        session = self.accesses.sessions[number]
        match guarantee:
            case "read-your-writes":
                return self._own_writes(session)
            case "monotonic-reads":
                return self._own_reads(session)
            case "monotonic-writes":
                return self._writes_of_others(session)
            case _:
                return self._reads_of_others(session)

    def _own_writes(self, session: tuple[Access, ...]) -> Violation | None:
        written: dict[Value, Access] = {}
        seen: dict[Value, set[int]] = {}
        # (key, session of the write) -> up to where in that session writes are older than the session's own last write.
        outdated: dict[tuple[Value, int], int] = {}
        for access in session:
            known = seen.setdefault(access.key, set())
            if access.is_write:
                # What the session had seen of this key, or written to it, is older than what it writes now.
                for write in known:
                    if write >= 0:
                        slot = (access.key, self.accesses.writes[write][0])
                        outdated[slot] = max(outdated.get(slot, -1), self.at[write])
                known.clear()
                known.add(access.write)
                written[access.key] = access
                continue
            known.add(access.write)
            mine = written.get(access.key)
            if mine is None:
                continue
            owner = -1 if access.write < 0 else self.accesses.writes[access.write][0]
            if access.write < 0 or self.at[access.write] <= outdated.get((access.key, owner), -1):
                return self._violation("read-your-writes", access, mine.op, "the session's own write")
        return None

    def _own_reads(self, session: tuple[Access, ...]) -> Violation | None:
        last: dict[Value, Access] = {}
        left: dict[Value, set[int]] = {}
        # (key, session of the write) -> the latest of its writes that was read.
        newest: dict[tuple[Value, int], Access] = {}
        for access in session:
            if access.is_write:
                continue
            before = last.get(access.key)
            if before is not None and before.write != access.write:
                gone = left.setdefault(access.key, set())
                gone.add(before.write)
                newer: Access | None = before if access.write < 0 or access.write in gone else None
                if newer is None:
                    known = newest.get((access.key, self.accesses.writes[access.write][0]))
                    if known is not None and self.at[access.write] < self.at[known.write]:
                        newer = known
                if newer is not None:
                    return self._violation("monotonic-reads", access, newer.op, "what the session had read before")
            last[access.key] = access
            if access.write >= 0:
                slot = (access.key, self.accesses.writes[access.write][0])
                if slot not in newest or self.at[newest[slot].write] < self.at[access.write]:
                    newest[slot] = access
        return None

    def _writes_of_others(self, session: tuple[Access, ...]) -> Violation | None:
        # Session -> how far into it the reads so far have shown, and which read showed it.
        shown: dict[int, tuple[int, int]] = {}
        for access in session:
            if access.is_write:
                continue
            missed = -1
            if access.write < 0:
                for other, write in self.first.get(access.key, {}).items():
                    if other in shown and self.at[write] <= shown[other][0]:
                        missed = shown[other][1]
            else:
                owner = self.accesses.writes[access.write][0]
                following = self.next.get(access.write)
                if following is not None and owner in shown and self.at[following] <= shown[owner][0]:
                    missed = shown[owner][1]
                place = self.at[access.write]
                if owner not in shown or place > shown[owner][0]:
                    shown[owner] = (place, access.op)
            if missed >= 0:
                what = "what came before a write that the session had read"
                return self._violation("monotonic-writes", access, missed, what)
        return None

    def _reads_of_others(self, session: tuple[Access, ...]) -> Violation | None:
        # (key, session of the write) -> (its latest write that must be visible, the read through which it must).
        required: dict[Value, dict[int, tuple[int, int]]] = {}
        outdated: dict[Value, dict[int, int]] = {}
        reached: dict[int, int] = {}
        listed: dict[tuple[int, Value], int] = {}
        taken: set[int] = set()
        for access in session:
            if access.is_write:
                continue
            key, write = access.key, access.write
            waiting = [write] if write >= 0 else []
            while waiting:
                current = waiting.pop()
                if current in taken:
                    continue
                taken.add(current)
                owner, _, changed, _ = self.accesses.writes[current]
                for earlier in self.accesses.sessions[owner][reached.get(owner, 0) : self.at[current]]:
                    if earlier.is_write or earlier.write < 0:
                        continue
                    waiting.append(earlier.write)
                    home = self.accesses.writes[earlier.write][0]
                    slots = required.setdefault(earlier.key, {})
                    if home not in slots or self.at[slots[home][0]] < self.at[earlier.write]:
                        slots[home] = (earlier.write, access.op)
                reached[owner] = max(reached.get(owner, 0), self.at[current])
                replaced = self.reads[owner].get(changed, ())
                at = listed.get((owner, changed), 0)
                while at < len(replaced) and replaced[at][0] < self.at[current]:
                    outdated.setdefault(changed, {}).setdefault(replaced[at][1], access.op)
                    at += 1
                listed[owner, changed] = at
            missed = -1
            if write < 0:
                missed = next((op for _, op in required.get(key, {}).values()), -1)
            else:
                slot = required.get(key, {}).get(self.accesses.writes[write][0])
                if slot is not None and self.at[write] < self.at[slot[0]]:
                    missed = slot[1]
                elif write in outdated.get(key, {}):
                    missed = outdated[key][write]
            if missed >= 0 and missed != access.op:
                what = "what the writer of something that the session had read had seen"
                return self._violation("writes-follow-reads", access, missed, what)
        return None

    def _violation(self, guarantee: str, access: Access, other: int, what: str) -> Violation:
        return Violation(
            anomaly=guarantee,
            operation=access.op,
            reason=f"it returned something older than {what}, as [{other}] shows",
            involved=tuple(sorted((access.op, other))),
        )
