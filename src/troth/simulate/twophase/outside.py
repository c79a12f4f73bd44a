"""What people and applications do to a transaction from outside: an operator rolls a prepared branch back by hand, or
writes an abort for a transaction whose owner lives; an application asks twice under one key, or guards what it writes
in some databases by a lock in another one.

The rules then: a branch that was finished against the decision is written down (a heuristic outcome: X/Open XA,
section 2.3.3; Mohan et al. 1986, section 2), a cell is written once whoever writes it, and one key commits once.
Each draws from a stream of its own, in some seeds only, so that all else in a run stays what it is without it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from troth.core.twophase.records import Abort, Heuristic
from troth.simulate.rng import stream

if TYPE_CHECKING:
    from troth.simulate.twophase.world import World

MEDDLES, KEYED, GUARDED = 0.4, 0.4, 0.4
"""In so many seeds there is such an operator; owners use keys; they lock."""
ONE_IN = 20
"""So many prepared branches are rolled back by hand, and as many transactions are aborted by hand."""
SOON = 60
KEYS = 3
"""Few, so that transactions meet under them."""


class Outside:
    """What happens from outside in one run."""

    def __init__(self, world: "World", seed: int, *, faults: bool) -> None:
        self._world = world
        self._rng = stream(seed, "twophase", "operator")
        self._meddles = self._rng.random() < MEDDLES and faults
        self._draw_key = stream(seed, "twophase", "keys")
        self._keyed = self._draw_key.random() < KEYED and faults
        self._draw_guard = stream(seed, "twophase", "guards")
        self._guarded = self._draw_guard.random() < GUARDED
        self.by_hand: set[tuple[str, str]] = set()
        """(transaction, database): rolled back by the operator."""
        self.keys: dict[str, str] = {}
        """Transaction -> the key that it is asked for under."""

    def key_of(self, gid: str, coordinator: str) -> str:
        """The key under which *gid* is asked for; "" for none."""
        if self._keyed and self._draw_key.random() < 0.5:
            self.keys[gid] = f"{coordinator}-{self._draw_key.randrange(0, KEYS)}"
        return self.keys.get(gid, "")

    def guard_of(self, writes: Sequence[str], databases: Sequence[str]) -> str:
        """The database in which a transaction that *writes* in others takes a lock, and only reads; "" for none."""
        others = [name for name in databases if name not in writes]
        return self._draw_guard.choice(others) if others and self._guarded else ""

    def on_let_go(self, gid: str, database: str) -> None:
        """The lock is free, and whoever takes it next may read what it guards."""
        for name in self._world.asked[gid]:
            state = self._world.databases[name].states.get(gid, "aborted")
            if state == "active" or (state == "prepared" and not self._world.is_decided(gid)):
                self._world.violated(f"{database} lets go of {gid}, which is {state} in {name} and not decided")

    def on_prepared(self, gid: str, database: str) -> None:
        """A branch waits for its decision: the moment in which somebody loses patience."""
        if not self._meddles:
            return
        if self._rng.randrange(0, ONE_IN) == 0:
            self._world.at(self._rng.randrange(1, SOON), lambda: self._roll_back(gid, database))
        if self._rng.randrange(0, ONE_IN) == 0:
            self._world.at(self._rng.randrange(1, SOON), lambda: self._world.log.abort(Abort(gid, "an operator")))

    def is_faster(self, gid: str, database: str) -> bool:
        """Whether the operator rolls the branch back between its being listed and its being told to commit."""
        if not self._meddles or self._rng.randrange(0, ONE_IN) != 0:
            return False
        self._roll_back(gid, database)
        return True

    def on_said_committed(self, gid: str, database: str) -> None:
        """A recoverer reports that this branch is committed."""
        if (gid, database) in self.by_hand:
            self._world.violated(f"{gid} was rolled back by hand in {database}, and is said to be committed")

    def _roll_back(self, gid: str, database: str) -> None:
        branches = self._world.databases[database]
        if branches.states.get(gid) == "prepared":
            branches.roll_back(gid)
            self.by_hand.add((gid, database))

    def check(self, ends: Mapping[str, str], heuristics: Mapping[str, Mapping[str, str]]) -> None:
        """When all is over: *ends* says how each transaction ended where nobody meddled ("" if nowhere)."""
        for gid, database in sorted(self.by_hand):
            if ends.get(gid) == "committed" and database not in heuristics.get(gid, {}):
                self._world.violated(
                    f"{gid} was rolled back by hand in {database}, and nobody has written it down"
                )
        holders: dict[str, str] = {}
        for gid, key in self.keys.items():
            if ends.get(gid) == "committed":
                first = holders.setdefault(key, gid)
                if first != gid:
                    self._world.violated(f"a key commits twice: {first} and {gid}")

    def may_have_met(self, found: Heuristic) -> bool:
        """Whether a recoverer may have seen that: nobody but the operator decides for himself."""
        return (found.gid, found.participant) in self.by_hand


__all__ = ["Outside"]
