"""Registers, one a key: read, write, cas; also a store's get, put, append, delete."""

from typing import ClassVar

from typing_extensions import override

from troth.verify.history import EventType, Operation, Reading, Value
from troth.verify.models.model import ILLEGAL, Call, Model, pair_of, unknown
from troth.verify.primitives import APPEND, CAS, NOT, READ, WRITE, Primitive, joined


class Register(Model):
    """A register, one a key: read, write, cas [from, to]. Also under the names of a store: get, put, delete, append.

    `append` joins strings (or tuples); an absent value counts as empty. A cas that reports ``false`` failed.
    """

    name: ClassVar[str] = "register"
    personal: ClassVar[bool] = False
    primitives: ClassVar[bool] = True

    def __init__(self, initial: Value = None) -> None:
        self.initial = initial

    @override
    def reading(self, reading: Reading) -> "Register":
        """Takes the initial value from the reading unless it was set."""
        return type(self)(reading.initial) if self.initial is None and reading.initial is not None else self

    @override
    def init(self) -> Value:
        """The initial value."""
        return self.initial

    @override
    def total(self, call: Call) -> bool:
        """Everything that returns nothing."""
        return call.f in ("write", "put", "delete", "append", "set")

    @override
    def overwrites(self, call: Call) -> bool:
        """Writes do."""
        return call.f in ("write", "put", "delete", "set")

    @override
    def step(self, state: Value, call: Call) -> Value:
        """See the class."""
        f = call.f
        if f == "read" or f == "get":
            return state if not call.known or call.result == state else ILLEGAL
        if f == "write" or f == "put" or f == "set":
            return call.argument
        if f == "append":
            return joined(state, call.argument)
        if f == "delete":
            return self.initial
        if f == "cas":
            expected, wanted = pair_of(call.argument, "cas")
            matches = state == expected
            if call.known and call.result is not matches:
                return ILLEGAL
            return wanted if matches else state
        raise unknown(self, call)

    def primitive(self, op: Operation, reading: Reading) -> Primitive | None:
        """*op* in the terms of `linearizability.register`; None when it says nothing."""
        f, outcome = op.f, op.outcome
        if outcome is EventType.OK:
            if f == "read" or f == "get":
                result = op.result
                if result is None and reading.nil_read == "unknown":
                    return None
                return (READ, result, None, False)
            if f == "write" or f == "put" or f == "set":
                return (WRITE, op.argument, None, False)
            if f == "append":
                return (APPEND, op.argument, None, False) if op.argument else None
            if f == "cas":
                expected, wanted = pair_of(op.argument, "cas")
                if op.result is False:
                    return (NOT, expected, None, False)
                return (READ, expected, None, False) if expected == wanted else (CAS, expected, wanted, False)
            if f == "delete":
                return (WRITE, self.initial, None, False)
        elif outcome is EventType.INFO:
            if f == "read" or f == "get":
                return None
            if f == "write" or f == "put" or f == "set":
                return (WRITE, op.argument, None, True)
            if f == "append":
                return (APPEND, op.argument, None, True) if op.argument else None
            if f == "cas":
                expected, wanted = pair_of(op.argument, "cas")
                return None if expected == wanted else (CAS, expected, wanted, True)
            if f == "delete":
                return (WRITE, self.initial, None, True)
        elif f == "cas":
            if reading.failed == "observed" and op.error is None:
                expected, _ = pair_of(op.argument, "cas")
                return (NOT, expected, None, False)
            return None
        elif f in ("read", "get", "write", "put", "set", "append", "delete"):
            return None
        raise unknown(self, Call(f=f))


class CasRegister(Register):
    """The same object; the name says that cas is used."""

    name: ClassVar[str] = "cas-register"


class Kv(Register):
    """A key-value store: get, put, append, delete, cas, each key a register of its own."""

    name: ClassVar[str] = "kv"
