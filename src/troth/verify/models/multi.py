"""Registers that one transaction reads and writes together."""

from collections.abc import Mapping
from typing import ClassVar

from msgspec import structs
from typing_extensions import override

from troth.errors import UsageError
from troth.verify.branches import branches, flat, is_unsaid, ways
from troth.verify.formats.edn import Record
from troth.verify.history import Operation, Reading, Value
from troth.verify.models.model import ILLEGAL, Call, Model, Several, pair_of, unknown


class MultiRegister(Model):
    """Registers that one transaction reads and writes together: txn [[r k v], [w k v], ...].

    Operations on one key (get, put, delete, cas, read, write) may stand beside them, as in what a client of a store
    records; and transactions whose answer was lost, of which nobody knows which branch ran (`verify.branches`).
    """

    name: ClassVar[str] = "multi-register"
    personal: ClassVar[bool] = False
    keyed: ClassVar[bool] = False

    def __init__(self, initial: Value = None, *, nil_unknown: bool = False) -> None:
        self.initial: Value = Record(initial.items()) if isinstance(initial, Mapping) else initial
        """What registers start as: one value for all, or a map (then the others have none)."""
        self.nil_unknown = nil_unknown
        self._absent = None if isinstance(self.initial, Record) else self.initial

    @override
    def reading(self, reading: Reading) -> "MultiRegister":
        """The reading says whether a read of nil saw anything, and the initial values unless they were set."""
        initial = reading.initial if self.initial is None else self.initial
        return MultiRegister(initial, nil_unknown=reading.nil_read == "unknown")

    @override
    def init(self) -> Value:
        """Every register as it starts; one that is not in the state has the value of all."""
        return self.initial if isinstance(self.initial, Record) else Record()

    @override
    def call(self, op: Operation, reading: Reading) -> Call | None:
        """Everything as a transaction."""
        call = None if is_unsaid(op) else super().call(op, reading)
        if call is None or call.f == "txn":
            return call
        if call.f in ("get", "read"):
            micros: Value = (("r", op.key, call.result),)
        elif call.f in ("put", "write", "set", "delete"):
            micros = (("w", op.key, None if call.f == "delete" else call.argument),)
        elif call.f == "cas":
            micros = (("unless" if call.result is False else "cas", op.key, pair_of(call.argument, "cas")),)
        else:
            raise unknown(self, call)
        return structs.replace(call, f="txn", argument=micros, result=micros if call.known else None)

    @override
    def unsaid(self, op: Operation) -> bool:
        """A transaction that crashed and that the history shows nothing of."""
        return is_unsaid(op)

    @override
    def step(self, state: Value, call: Call) -> Value:
        """Reads see the writes before them in the same transaction."""
        if call.f != "txn":
            raise unknown(self, call)
        value = self._micros(call)
        if not branches(value):
            return self._run(state, call, value)
        reached = dict.fromkeys(self._run(state, call, way) for way in ways(value) or ())
        reached.pop(ILLEGAL, None)
        return Several(tuple(reached)) if reached else ILLEGAL

    def _run(self, state: Value, call: Call, value: Value) -> Value:
        if not isinstance(value, tuple) or not isinstance(state, Record):
            raise UsageError(f"a txn of a multi-register takes [[f, key, value], ...], found {value!r}")
        registers, absent = dict(state), self._absent
        # Of a transaction that is ok without a value nobody knows what it read: the request's nil is no answer.
        answered = call.known and isinstance(call.result, tuple)
        changed = False
        for item in value:
            if not isinstance(item, tuple) or len(item) != 3:
                raise UsageError(f"a txn of a multi-register takes [[f, key, value], ...], found {value!r}")
            f, key, wanted = item
            if f in ("w", "write"):
                changed = changed or registers.get(key, absent) != wanted
                registers[key] = wanted
            elif f in ("cas", "unless"):
                expected, after = pair_of(wanted, f)
                if call.known and (registers.get(key, absent) == expected) is (f == "unless"):
                    return ILLEGAL
                if f == "cas" and registers.get(key, absent) == expected:
                    changed, registers[key] = True, after
            elif f not in ("r", "read"):
                raise UsageError(f"a multi-register reads (r) and writes (w), found {f!r}")
            elif answered and not (wanted is None and self.nil_unknown) and registers.get(key, absent) != wanted:
                return ILLEGAL
        return Record(item for item in registers.items() if item[1] != absent) if changed else state

    def _micros(self, call: Call) -> Value:
        return call.result if call.known and isinstance(call.result, tuple) else call.argument

    @override
    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Transactions of whose writes nobody reads any."""
        micros = {index: self._micros(call) for index, call in calls.items()}
        items = {index: list(flat(value)) for index, value in micros.items()}
        read = {(key, value) for mine in items.values() for f, key, value in mine if f in ("r", "read")}
        read |= {(key, pair_of(value, f)[0]) for mine in items.values() for f, key, value in mine if f == "cas"}
        looks_away = {key for mine in items.values() for f, key, _ in mine if f == "unless"}
        made = {
            index: [(key, value) for f, key, value in mine if f in ("w", "write")]
            + [(key, pair_of(value, f)[1]) for f, key, value in mine if f == "cas"]
            for index, mine in items.items()
        }
        return [
            (index,)
            for index, mine in made.items()
            if not any((key, value) in read or key in looks_away for key, value in mine)
        ]
