"""A plan: what moves from whom to whom, in waves, and how it is carried out, paused, resumed and undone.

Each move of a range (or of listed keys) takes the steps named in it, in this order::

    copy     the target receives every key of the range from the source; may be repeated without harm
    switch   from now on reads and writes of the range go to the target instead of the leaving node
    drop     the leaving node deletes its copy

Within a wave all copies come first, then the switches and drops. A key therefore never has fewer copies than
before, however many moves of a wave touch it, and a plan that stops anywhere leaves every key with its full
count.

A plan is a value with a record of how far it got. `Plan.to_json`, saved before the copies of a wave and before each
switch (`on_switch`), and after each finished move (`on_progress`), is all that is needed to go on after a crash, or to
undo: a copy that was under way is made again, but never once the switch may have happened, since the target may hold
newer values by then.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from troth.errors import DecodeError, invariant
from troth.hashing.throttle import Throttle

Step: TypeAlias = Literal["copy", "switch", "drop"]
FORMAT = 1


class Move(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One range (or list of keys) that changes one of its holders.

    Attributes:
        id: index in `Plan.moves`.
        first: lowest hash of the range. Both ends are included, since the end of the last range, 2**64, would
            not fit the 64 bits that JSON readers elsewhere have.
        last: highest hash of the range. Both are None in a plan over listed keys.
        source: the node to copy from; None if there is nothing to copy, or nobody left who has it.
        target: the node that gains the range.
        leaving: the node that gives it up.
        steps: which steps this move takes.
        key_count: how many keys move; None where the plan was made without keys.
        value_bytes: their size; None where unknown.
        keys: the keys of a plan over listed keys, as hex of their bytes.
    """

    id: int
    first: int | None = None
    last: int | None = None
    source: str | None
    target: str
    leaving: str
    steps: tuple[Step, ...] = ("copy", "switch", "drop")
    key_count: int | None = None
    value_bytes: int | None = None
    keys: tuple[str, ...] = ()

    def covers(self, hashed: int) -> bool:
        """Whether a key with this hash is in the range; False in a plan over listed keys."""
        return self.first is not None and self.last is not None and self.first <= hashed <= self.last

    def key_bytes(self) -> Iterator[bytes]:
        """The listed keys."""
        return (bytes.fromhex(key) for key in self.keys)

    def touches(self) -> set[str]:
        """The nodes whose load this move raises."""
        return {self.target, self.leaving} | ({self.source} if self.source else set())


class Mover(Protocol):
    """What carries a move out: your code. Each method may be called again for the same move after a crash."""

    def copy(self, move: Move) -> int:
        """Copy the range to the target and make sure it arrived; return the bytes copied (0 if unknown)."""

    def switch(self, move: Move) -> None:
        """Send reads and writes of the range to the target from now on."""

    def drop(self, move: Move) -> None:
        """Delete the range at the leaving node, or what there is of it: of a copy that failed, `Plan.undo` drops the
        part that arrived."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a plan is. `bytes_copied` counts what the mover reported in this call of `apply`."""

    moves_done: int
    moves_total: int
    wave: int
    waves_total: int
    bytes_copied: int
    move: Move


Runner: TypeAlias = Callable[[Callable[[Move], int], Iterable[Move]], Iterable[int]]
"""``map`` or the ``map`` of an executor: how the copies of one wave are run."""


class Plan(msgspec.Struct, kw_only=True):
    """All moves from one ring to another, and how many are done.

    Attributes:
        format: version of this record.
        algorithm: of the rings.
        key_hash, bits: the hash that the ranges are in; `keys.digester` makes it.
        before, after: their digests, as text; `apply` trusts the caller that the ring is still `before`.
        replicas: copies of each key.
        moves_per_node: the bound that `waves` keeps.
        moves: by id.
        waves: ids of the moves of each wave; every move is in exactly one.
        moved_fraction: share of all hashes (or listed keys) times replicas that changes its holder.
        ideal_fraction: the least share that any placement in proportion to the weights must move.
        copied, done: ids of moves that are copied, or finished.
        copying: ids of moves whose copy may have begun and is not known to be finished.
        switching: id of the move whose switch or drop was begun and is not known to be finished.
        paused: `apply` stops before the next move while this is set.
        undoing: whether this plan takes another one back.
        untouched: of an undo, the ranges that the plan taken back had not moved: its moves, turned round. Nothing is to
            be done about them, but `holders` has to know.
    """

    format: int = FORMAT
    algorithm: str
    key_hash: str
    bits: int
    before: str
    after: str
    replicas: int
    moves_per_node: int
    moves: tuple[Move, ...]
    waves: tuple[tuple[int, ...], ...]
    moved_fraction: float
    ideal_fraction: float
    copied: list[int] = msgspec.field(default_factory=list)
    done: list[int] = msgspec.field(default_factory=list)
    copying: list[int] = msgspec.field(default_factory=list)
    switching: int | None = None
    paused: bool = False
    undoing: bool = False
    untouched: tuple[Move, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every move is done."""
        return len(self.done) == len(self.moves)

    @property
    def unrecoverable(self) -> tuple[Move, ...]:
        """Moves of ranges of which no readable node has a copy: restore them from a backup."""
        return tuple(move for move in self.moves if move.source is None and "switch" in move.steps)

    def pause(self) -> None:
        """Make `apply` stop before its next move. May be called from another thread or from `on_progress`."""
        self.paused = True

    def resume(self, *, copy_again: bool = False) -> None:
        """Let `apply` go on where it stopped.

        Args:
            copy_again: copy anew what is copied and not switched, at most a wave. Otherwise all that was written to it
                during the pause is the mover's to carry over, in its `switch`. Only for a record that was saved in
                `on_switch`: by another, what has switched might look as if it had not.
        """
        self.paused = False
        if copy_again:
            settled = {*self.done, self.switching}
            self.copying = sorted({*self.copying, *self.copied} - settled)
            self.copied = [index for index in self.copied if index in settled]

    def apply(
        self,
        mover: Mover,
        *,
        throttle: Throttle | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_switch: Callable[[], None] | None = None,
        run: Runner = map,
    ) -> bool:
        """Carry out what is not done yet, wave by wave.

        Args:
            mover: does the work.
            throttle: bounds the rate of copying. With a concurrent *run* give it a lock.
            on_progress: called after each finished move; the place to save the plan and to draw a bar.
            on_switch: called before the copies of a wave and before each switch; save the plan here as well, or a
                crash in the middle of a move leaves a record that does not know of it.
            run: how the copies of a wave run: ``map`` (one after the other) or ``executor.map``.

        Returns:
            True if the plan is finished, False if it was paused.

        Raises:
            Whatever *mover* raises: the move that failed is not done, and a new `apply` tries it again.
        """
        done, copied = set(self.done), set(self.copied)
        bytes_copied = 0

        def copy_one(move: Move) -> int:
            if self.paused:
                return -1
            if throttle is not None:
                throttle.admit()
            size = mover.copy(move)
            if throttle is not None:
                throttle.spend(size)
            return size

        for wave_number, wave in enumerate(self.waves):
            todo = [self.moves[index] for index in wave if index not in done]
            to_copy = [move for move in todo if "copy" in move.steps and move.id not in copied]
            if to_copy and not self.paused:
                self.copying = [move.id for move in to_copy]
                if on_switch is not None:
                    on_switch()
            for move, size in zip(to_copy, run(copy_one, to_copy), strict=True):
                if size >= 0:
                    bytes_copied += size
                    copied.add(move.id)
                    self.copied.append(move.id)
            self.copying = [index for index in self.copying if index not in copied]
            for move in todo:
                # Whoever paused may have resumed by now, but the copies that this skipped are missing all the same.
                if self.paused or ("copy" in move.steps and move.id not in copied):
                    return False
                self.switching = move.id
                if on_switch is not None:
                    on_switch()
                if "switch" in move.steps:
                    mover.switch(move)
                if "drop" in move.steps:
                    mover.drop(move)
                done.add(move.id)
                self.done.append(move.id)
                self.switching = None
                if on_progress is not None:
                    on_progress(
                        Progress(
                            moves_done=len(done),
                            moves_total=len(self.moves),
                            wave=wave_number,
                            waves_total=len(self.waves),
                            bytes_copied=bytes_copied,
                            move=move,
                        )
                    )
        return True

    def undo(self) -> "Plan":
        """The plan that takes back what this one has done, last wave first; run it with `apply`.

        Finished moves go the other way. A range that was copied, or was being copied, and is not switched has seen no
        writes at the target, so that copy is only dropped: copying it back would overwrite newer values. A move that
        stopped in its switch or drop is finished first, since nobody knows which side has the newest values, and then
        goes back. A node that was lost when this plan was made gets its ranges back, so it must be there again.
        """
        done, begun = set(self.done), {*self.copied, *self.copying}
        moves: list[Move] = []
        waves: list[tuple[int, ...]] = []
        untouched = list(self.untouched)
        if self.switching is not None and "switch" in self.moves[self.switching].steps:
            halfway = self.moves[self.switching]
            if "copy" in halfway.steps:
                rest = tuple(step for step in halfway.steps if step != "copy")
                moves.append(msgspec.structs.replace(halfway, id=0, steps=rest))
                waves.append((0,))
            if halfway.source is None or "copy" in halfway.steps:
                done.add(self.switching)
        for wave in reversed(self.waves):
            first = len(moves)
            for index in wave:
                move = self.moves[index]
                turned = msgspec.structs.replace(
                    move, id=len(moves), source=None, target=move.leaving, leaving=move.target, steps=("drop",)
                )
                if "copy" not in move.steps and (move.source is not None or "switch" not in move.steps):
                    # Of an undo: a copy dropped, or the end of a move. There is no holder to bring back, but nothing
                    # must stay halfway.
                    if index not in done:
                        moves.append(msgspec.structs.replace(move, id=len(moves)))
                    elif "switch" not in move.steps:
                        untouched.append(move)
                elif index in done:
                    whole: tuple[Step, ...] = ("copy", "switch", "drop")
                    moves.append(msgspec.structs.replace(turned, source=move.target, steps=whole))
                elif index in begun:
                    moves.append(turned)
                else:
                    untouched.append(turned)
            if len(moves) > first:
                waves.append(tuple(range(first, len(moves))))
        return Plan(
            algorithm=self.algorithm,
            key_hash=self.key_hash,
            bits=self.bits,
            before=self.after,
            after=self.before,
            replicas=self.replicas,
            moves_per_node=self.moves_per_node,
            moves=tuple(moves),
            waves=tuple(waves),
            moved_fraction=self.moved_fraction * len(moves) / max(1, len(self.moves)),
            ideal_fraction=self.ideal_fraction,
            undoing=not self.undoing,
            untouched=tuple(untouched),
        )

    def holders(self, key: bytes, hashed: int, before: Sequence[str]) -> list[str]:
        """Who holds a key right now, while the plan is under way.

        Args:
            key: its bytes; used in a plan over listed keys.
            hashed: its hash; used in a plan over ranges.
            before: its preference list in the ring whose digest is `before`. For an `undo` that is the ring which the
                plan taken back was leading to, however far it got.
        """
        now = list(before)
        spelled = key.hex()
        # What never switched is where it was before the plan that is being taken back.
        never = (move for move in self.moves if "switch" not in move.steps)
        for move in (*self.untouched, *never, *(self.moves[index] for index in self.done)):
            if (move.covers(hashed) or spelled in move.keys) and move.leaving in now:
                now[now.index(move.leaving)] = move.target
        return now

    def check(self) -> None:
        """Verify what can be verified without the rings.

        Raises:
            InvariantViolation: a move in no wave or in two, a wave above its bound, an id out of place.
        """
        listed = sorted(index for wave in self.waves for index in wave)
        invariant(listed == list(range(len(self.moves))), "a move is not in one wave", listed=len(listed))
        for index, move in enumerate(self.moves):
            invariant(move.id == index, "a move's id is not its place", id=move.id, place=index)
            invariant(move.target != move.leaving, "a move goes nowhere", move=move)
            invariant((move.first is None) == (move.last is None), "a range has one end", move=move)
            invariant((move.first or 0) <= (move.last or 0), "a range ends before it begins", move=move)
        for wave in self.waves:
            load: dict[str, int] = {}
            for index in wave:
                for node in self.moves[index].touches():
                    load[node] = load.get(node, 0) + 1
            busiest = max(load.values(), default=0)
            invariant(busiest <= self.moves_per_node, "a wave exceeds its bound", busiest=busiest)
        known = set(listed)
        for name, ids in (("done", self.done), ("copied", self.copied), ("copying", self.copying)):
            invariant(
                set(ids) <= known and len(set(ids)) == len(ids), f"{name} has a move twice, or an unknown one"
            )
        invariant(self.switching is None or self.switching in known, "an unknown move is switching")

    def to_json(self) -> bytes:
        """The plan with its progress, as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> "Plan":
        """Read what `to_json` wrote.

        Raises:
            DecodeError: not a plan, a plan of another version, or one that contradicts itself.
        """
        try:
            plan = msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DecodeError(f"not a plan: {error}") from None
        if plan.format != FORMAT:
            raise DecodeError(f"plan format {plan.format}; this version reads {FORMAT}")
        try:
            plan.check()
            for move in plan.moves:
                for _ in move.key_bytes():  # not hex: better now than in the middle of moving
                    pass
        except (AssertionError, ValueError) as error:
            raise DecodeError(f"the plan contradicts itself: {error}") from None
        return plan
