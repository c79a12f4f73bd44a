"""What a decision log says: write-once cells, one for each transaction, and the epochs that may still write them.

`Cells` is the meaning of the records of one coordinator, in the order of the log. The file log keeps one in memory,
the simulation's log is one, and the replicated log says the same with compare-and-set transactions; one conformance
suite runs on all of them.
"""

from collections.abc import Iterable
from enum import Enum
from itertools import islice
from typing import TypeVar

from troth.core.twophase.forgotten import Forgotten
from troth.core.twophase.gid import FORMAT, Epoch, Gid, parse_gid
from troth.core.twophase.records import Abort, Applied, Commit, Forget, Heuristic, Member, Record
from troth.errors import invariant, required

T = TypeVar("T")

APPLIED_KEPT = 10_000
"""So many applied transactions are remembered by name, to be asked about."""
KEYS_KEPT = 100_000
"""So many keys of applied transactions are remembered; a retry that comes later than that is a new transaction."""


class Verdict(Enum):
    """What the log says about one transaction."""

    COMMIT = "commit"
    ABORT = "abort"
    DELEGATED = "the last resource named in the record decides"
    OPEN = "not decided, and its owner may still decide"
    FORGOTTEN = "applied so long ago that its name is not kept"
    FOREIGN = "a transaction of another log"


class Cells:
    """The state of one coordinator's log."""

    def __init__(
        self, log: str, coordinator: str, *, applied_kept: int = APPLIED_KEPT, keys_kept: int = KEYS_KEPT
    ) -> None:
        self.log = log
        self.coordinator = coordinator
        self.prefix = f"{FORMAT}.{log}.{coordinator}."
        """What the names of all its transactions begin with."""
        self._applied_kept = applied_kept
        self._keys_kept = keys_kept
        self.epoch = 0
        """The open epoch; 0 while none was ever opened. Smaller ones are closed."""
        self.is_owned = False
        """Whether a coordinator opened the epoch, or a recoverer just to close the others."""
        self.members: dict[str, Member] = {}
        self.unapplied: dict[str, Commit] = {}
        self.heuristics: dict[str, dict[str, str]] = {}
        """gid -> participant -> what was seen there."""
        self.dealt_with: dict[str, Forget] = {}
        """What an operator has forgotten, here or, with several coordinators, in any of their logs."""
        self._applied: dict[str, Commit] = {}
        self._aborted: dict[str, Abort] = {}
        self._keys: dict[str, str] = {}
        """Of what is applied."""
        self._keys_unapplied: dict[str, str] = {}
        self.forgotten = Forgotten()
        self._named = (0, "")
        """An epoch, and what the names of its transactions begin with."""

    def begin(self, epoch: int, *, is_owned: bool = True) -> None:
        """Close all epochs before *epoch* and open that one; without an owner, just to close the others."""
        invariant(epoch > self.epoch, "an epoch is opened again", opened=epoch, epoch=self.epoch)
        self.epoch, self.is_owned = epoch, is_owned
        if len(self._aborted) > self._applied_kept:
            self._drop_aborted()

    def _drop_aborted(self) -> None:
        """The oldest of closed epochs, where silence says the same. In the open one an empty cell could be won."""
        closed = [name for name in self._aborted if not self._may_be_decided(name)]
        for name in closed[: max(0, len(closed) - self._applied_kept)]:
            del self._aborted[name]

    def is_open(self, gid: Gid) -> bool:
        """Whether the owner of *gid* may still decide it."""
        return gid.epoch == self.epoch

    def _may_be_decided(self, name: str) -> bool:
        """`is_open`, without taking apart a name that begins as those of the open epoch do."""
        if self._named[0] != self.epoch:
            self._named = (self.epoch, Epoch(self.log, self.coordinator, self.epoch).prefix)
        if self.epoch and name.startswith(self._named[1]):
            return True
        found = required(parse_gid(name), "a decision about what is no transaction", gid=name)
        return self.is_open(found[0])

    def judge(self, record: Commit) -> tuple[Verdict, str]:
        """Whether *record* wins its cell: (verdict, gid that the verdict is about).

        A key that another transaction has committed under gives that transaction's verdict and name.
        """
        known = self.record_of(record.gid)
        if known is not None:
            return self._stands(known), record.gid
        if record.gid in self._aborted or not self._may_be_decided(record.gid):
            return Verdict.ABORT, record.gid
        holder = self.holder_of(record.key) if record.key else None
        if holder is not None:
            return Verdict.COMMIT, holder
        return _verdict_of(record), record.gid

    def _stands(self, record: Commit) -> Verdict:
        """What the cell says in which *record* stands. Of an applied one, the last resource has said commit."""
        return Verdict.COMMIT if record.gid in self._applied else _verdict_of(record)

    def may_be_refused(self, gid: str) -> bool:
        """Whether *gid* is delegated, and not known to be committed."""
        known = self.unapplied.get(gid)
        return known is not None and bool(known.delegate)

    def apply(self, record: Record) -> None:
        """Take *record* as it stands in the log. A Commit or Abort must have won its cell (`judge`)."""
        match record:
            case Commit():
                invariant(record.gid not in self._aborted, "a cell is written twice", gid=record.gid)
                self.unapplied[record.gid] = record
                if record.key:
                    self._keys_unapplied[record.key] = record.gid
            case Abort():
                self._abort(record)
            case Applied():
                self._note_applied(record)
            case Heuristic():
                self.heuristics.setdefault(record.gid, {})[record.participant] = record.seen
            case Forget():
                self._deal_with(record)
            case Member():
                self.members[record.name] = record

    def _abort(self, record: Abort) -> None:
        known = self.unapplied.pop(record.gid, None)
        may_be_refused = bool(known.delegate) if known is not None else self.record_of(record.gid) is None
        invariant(may_be_refused, "a cell is written twice", gid=record.gid)
        if known is not None and known.key:
            self._keys_unapplied.pop(known.key, None)
        self._aborted[record.gid] = record

    def _deal_with(self, record: Forget) -> None:
        gid, done = record.gid, record.participants
        before = self.dealt_with.get(gid)
        if before is not None:
            done = (*before.participants, *done) if before.participants and done else ()
        self.dealt_with[gid] = Forget(gid, record.by, done)
        found = self.heuristics.pop(gid, {})
        if left := {name: seen for name, seen in found.items() if not self.is_dealt_with(gid, name)}:
            self.heuristics[gid] = left
        _shorten(self.dealt_with, self._applied_kept)

    def is_dealt_with(self, gid: str, participant: str) -> bool:
        """Whether an operator has forgotten what *participant* did with *gid*."""
        known = self.dealt_with.get(gid)
        return known is not None and (not known.participants or participant in known.participants)

    def knows(self, found: Heuristic) -> bool:
        """Whether *found* was noted, be it dealt with or not."""
        gid, participant = found.gid, found.participant
        return participant in self.heuristics.get(gid, ()) or self.is_dealt_with(gid, participant)

    def _note_applied(self, record: Applied) -> None:
        for gid in record.gids:
            done = self.unapplied.pop(gid, None)
            if done is not None:
                self._applied[gid] = done
                if done.key:
                    self._keys_unapplied.pop(done.key, None)
                    self._keys[done.key] = gid
        for gid in _shorten(self._applied, self._applied_kept):
            found = parse_gid(gid)
            if found is not None:
                self.forgotten.add(found[0].epoch, found[0].sequence)
        _shorten(self._keys, self._keys_kept)

    def record_of(self, gid: str) -> Commit | None:
        """The Commit in the cell of *gid*, if it is one."""
        return self.unapplied.get(gid) or self._applied.get(gid)

    def holder_of(self, key: str) -> str | None:
        """The transaction that committed (or was delegated) under *key*."""
        return self._keys_unapplied.get(key) or self._keys.get(key)

    def verdict(self, gid: Gid) -> Verdict:
        """What the log says about *gid* now."""
        if (gid.log, gid.coordinator) != (self.log, self.coordinator):
            return Verdict.FOREIGN
        name = str(gid)
        known = self.record_of(name)
        if known is not None:
            return self._stands(known)
        if name in self._aborted:
            return Verdict.ABORT
        if self.forgotten.may_hold(gid.epoch, gid.sequence):
            return Verdict.FORGOTTEN
        if self.is_open(gid):
            return Verdict.OPEN
        return Verdict.ABORT if gid.epoch < self.epoch else Verdict.FOREIGN

    def carried(self) -> tuple[Record, ...]:
        """The shortest list of records that makes an equal state (the epoch apart)."""
        keyed = [Commit(gid, (), key=key) for key, gid in self._keys.items() if gid not in self._applied]
        records: list[Record] = [*self.members.values(), *keyed, *self._applied.values()]
        done = (*(commit.gid for commit in keyed), *self._applied)
        if done:
            records.append(Applied(done))
        records += self._aborted.values()
        records += self.unapplied.values()
        records += self.dealt_with.values()
        records += [
            Heuristic(gid, participant, seen)
            for gid, found in self.heuristics.items()
            for participant, seen in found.items()
        ]
        return tuple(records)


def _verdict_of(record: Commit) -> Verdict:
    return Verdict.DELEGATED if record.delegate else Verdict.COMMIT


def _shorten(kept: dict[str, T], count_max: int) -> list[str]:
    """Drop the oldest names, and say which."""
    dropped = list(islice(kept, max(0, len(kept) - count_max)))
    for name in dropped:
        del kept[name]
    return dropped


def replay(cells: Cells, records: Iterable[Record]) -> None:
    """Apply *records* in order."""
    for record in records:
        cells.apply(record)
