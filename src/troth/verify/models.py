"""Objects: what one operation does to one object, said as a step of a deterministic state machine.

An object of your own takes ten lines::

    class Toggle(Model):
        name = "toggle"

        def init(self) -> Value:
            return False

        def step(self, state: Value, call: Call) -> Value:
            if call.f == "flip":
                return not state
            return state if not call.known or call.result == state else ILLEGAL

`check(history, object=Toggle())` then works for every consistency model that needs a sequential object. States
must be hashable and are never changed in place. `Several` says that more than one state may follow.

Two optional hints make checking fast without changing any verdict: `total` (legal in every state, whatever it
returns) and `overwrites` (total, and the next state does not depend on the present one).

Objects whose keys are independent are checked key by key (Herlihy & Wing 1990, theorem 1: linearizability is local).
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from msgspec import Struct, structs
from typing_extensions import override

from troth.errors import UsageError
from troth.verify.formats.edn import Record
from troth.verify.history import EventType, History, Operation, Reading, Value
from troth.verify.primitives import APPEND, CAS, NOT, READ, WRITE, Primitive, joined


class _Illegal:
    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return "ILLEGAL"


ILLEGAL: Final = _Illegal()
"""What `Model.step` returns when the call cannot have had this result in this state."""


class Several(Struct, frozen=True):
    """More than one state may follow; the checker tries them all."""

    states: tuple[Value, ...]


class Call(Struct, frozen=True, kw_only=True):
    """One operation as an object sees it. `result` means something only when `known`; a crashed call is not."""

    f: str
    argument: Value = None
    result: Value = None
    known: bool = True
    process: int | str = 0
    key: Value = None


class Model:
    """An object. Subclasses set `name` and define `init` and `step`."""

    name: ClassVar[str] = "object"
    keyed: ClassVar[bool] = True
    """Whether operations on different keys are independent."""
    personal: ClassVar[bool] = True
    """Whether it matters which process calls; if not, crashed calls of different processes are tried as one."""
    pure: ClassVar[frozenset[str]] = frozenset({"read", "get", "contains"})
    """Operations that never change the state: a crashed one says nothing and is left out."""

    def init(self) -> Value:
        """The state before everything."""
        raise NotImplementedError

    def step(self, state: Value, call: Call) -> Value:
        """The next state, `Several` of them, or `ILLEGAL`."""
        raise NotImplementedError

    def total(self, call: Call) -> bool:
        """Whether *call* is legal in every state."""
        return False

    def overwrites(self, call: Call) -> bool:
        """Whether the state after *call* is the same from every state (implies `total`)."""
        return False

    def reading(self, reading: Reading) -> "Model":
        """This model, adjusted to how the history is read (for example its initial value)."""
        return self

    def calls(self, history: History) -> list[Call | None]:
        """`call` of every operation. A model may leave out crashed calls here that could only do harm."""
        reading = history.reading
        return [self.call(op, reading) for op in history.operations]

    def shown(self, state: Value) -> Value:
        """A state as people should see it."""
        return state

    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Groups of *calls* of which any may be left out without making a legal order of them illegal.

        Serves to shrink counter-examples; by default those that never change the state.
        """
        return [(index,) for index, call in calls.items() if call.f in self.pure]

    def call(self, op: Operation, reading: Reading) -> Call | None:
        """What *op* says about the object; None when it says nothing."""
        outcome = op.outcome
        if outcome is EventType.OK:
            result: Value = True if op.f == "cas" and op.result is not False else op.result
            if result is None and reading.nil_read == "unknown" and op.f in self.pure:
                return None
            return Call(f=op.f, argument=op.argument, result=result, process=op.process, key=op.key)
        if outcome is EventType.INFO:
            if op.f in self.pure:
                return None
            return Call(f=op.f, argument=op.argument, known=False, process=op.process, key=op.key)
        if reading.failed == "observed" and op.f == "cas" and op.error is None:
            return Call(f=op.f, argument=op.argument, result=False, process=op.process, key=op.key)
        return None


def _unknown(model: Model, call: Call) -> UsageError:
    return UsageError(f"a {model.name} has no operation {call.f!r}; is this history of another object?")


def _pair(value: Value, what: str) -> tuple[Value, Value]:
    if isinstance(value, tuple) and len(value) == 2:
        return value[0], value[1]
    raise UsageError(f"{what} takes [from, to], found {value!r}")


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
            expected, wanted = _pair(call.argument, "cas")
            matches = state == expected
            if call.known and call.result is not matches:
                return ILLEGAL
            return wanted if matches else state
        raise _unknown(self, call)

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
                expected, wanted = _pair(op.argument, "cas")
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
                expected, wanted = _pair(op.argument, "cas")
                return None if expected == wanted else (CAS, expected, wanted, True)
            if f == "delete":
                return (WRITE, self.initial, None, True)
        elif f == "cas":
            if reading.failed == "observed" and op.error is None:
                expected, _ = _pair(op.argument, "cas")
                return (NOT, expected, None, False)
            return None
        elif f in ("read", "get", "write", "put", "set", "append", "delete"):
            return None
        raise _unknown(self, Call(f=f))


class CasRegister(Register):
    """The same object; the name says that cas is used."""

    name: ClassVar[str] = "cas-register"


class Kv(Register):
    """A key-value store: get, put, append, delete, cas, each key a register of its own."""

    name: ClassVar[str] = "kv"


class MultiRegister(Model):
    """Registers that one transaction reads and writes together: txn [[r k v], [w k v], ...].

    Operations on one key (get, put, delete, cas, read, write) may stand beside them, as in what a client of a store
    records.
    """

    name: ClassVar[str] = "multi-register"
    personal: ClassVar[bool] = False
    keyed: ClassVar[bool] = False

    def __init__(self, *, nil_unknown: bool = False) -> None:
        self.nil_unknown = nil_unknown

    @override
    def reading(self, reading: Reading) -> "MultiRegister":
        """The reading says whether a read of nil saw anything."""
        return MultiRegister(nil_unknown=reading.nil_read == "unknown")

    @override
    def init(self) -> Value:
        """No register has a value."""
        return Record()

    @override
    def call(self, op: Operation, reading: Reading) -> Call | None:
        """Everything as a transaction."""
        call = super().call(op, reading)
        if call is None or call.f == "txn":
            return call
        if call.f in ("get", "read"):
            micros: Value = (("r", op.key, call.result),)
        elif call.f in ("put", "write", "set", "delete"):
            micros = (("w", op.key, None if call.f == "delete" else call.argument),)
        elif call.f == "cas":
            micros = (("unless" if call.result is False else "cas", op.key, _pair(call.argument, "cas")),)
        else:
            raise _unknown(self, call)
        return structs.replace(call, f="txn", argument=micros, result=micros if call.known else None)

    @override
    def step(self, state: Value, call: Call) -> Value:
        """Reads see the writes before them in the same transaction."""
        if call.f != "txn":
            raise _unknown(self, call)
        value = self._micros(call)
        if not isinstance(value, tuple) or not isinstance(state, Record):
            raise UsageError(f"a txn of a multi-register takes [[f, key, value], ...], found {value!r}")
        registers = dict(state)
        changed = False
        for item in value:
            if not isinstance(item, tuple) or len(item) != 3:
                raise UsageError(f"a txn of a multi-register takes [[f, key, value], ...], found {value!r}")
            f, key, wanted = item
            if f in ("w", "write"):
                changed = changed or registers.get(key) != wanted
                registers[key] = wanted
            elif f in ("cas", "unless"):
                expected, after = _pair(wanted, f)
                if call.known and (registers.get(key) == expected) is (f == "unless"):
                    return ILLEGAL
                if f == "cas" and registers.get(key) == expected:
                    changed, registers[key] = True, after
            elif f not in ("r", "read"):
                raise UsageError(f"a multi-register reads (r) and writes (w), found {f!r}")
            elif call.known and not (wanted is None and self.nil_unknown) and registers.get(key) != wanted:
                return ILLEGAL
        # A register without a value is one that was never written.
        registers = {key: value for key, value in registers.items() if value is not None} if changed else registers
        return Record(registers.items()) if changed else state

    def _micros(self, call: Call) -> Value:
        return call.result if call.known and isinstance(call.result, tuple) else call.argument

    @override
    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Transactions of whose writes nobody reads any."""
        micros = {index: self._micros(call) for index, call in calls.items()}
        items = {
            index: [item for item in value if isinstance(item, tuple)] if isinstance(value, tuple) else []
            for index, value in micros.items()
        }
        read = {(key, value) for mine in items.values() for f, key, value in mine if f in ("r", "read")}
        read |= {(key, _pair(value, f)[0]) for mine in items.values() for f, key, value in mine if f == "cas"}
        looks_away = {key for mine in items.values() for f, key, _ in mine if f == "unless"}
        made = {
            index: [(key, value) for f, key, value in mine if f in ("w", "write")]
            + [(key, _pair(value, f)[1]) for f, key, value in mine if f == "cas"]
            for index, mine in items.items()
        }
        return [
            (index,)
            for index, mine in made.items()
            if not any((key, value) in read or key in looks_away for key, value in mine)
        ]


class SetObject(Model):
    """A set: add x, remove x, contains x -> bool, read -> all elements. Results of add and remove are not checked
    unless they are booleans (whether the set changed)."""

    name: ClassVar[str] = "set"
    personal: ClassVar[bool] = False

    @override
    def init(self) -> Value:
        """Empty."""
        return frozenset()

    @override
    def total(self, call: Call) -> bool:
        """Adds and removes that report nothing."""
        return call.f in ("add", "remove") and not (call.known and isinstance(call.result, bool))

    @override
    def step(self, state: Value, call: Call) -> Value:
        """See the class."""
        if not isinstance(state, frozenset):
            raise UsageError(f"the state of a set is a frozenset, found {state!r}")
        f, item = call.f, call.argument
        if f == "add" or f == "remove":
            changes = (item not in state) is (f == "add")
            if (
                call.known
                and isinstance(call.result, bool)
                and isinstance(item, bool) is False
                and call.result is not changes
            ):
                return ILLEGAL
            if not changes:
                return state
            return state | {item} if f == "add" else state - {item}
        if f == "contains":
            return state if not call.known or call.result is (item in state) else ILLEGAL
        if f == "read":
            return state if not call.known or _as_set(call.result) == state else ILLEGAL
        raise _unknown(self, call)

    @override
    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Looks; and all that concerns an element which no read shows."""
        shown: set[Value] = set()
        groups: dict[Value, list[int]] = {}
        for index, call in calls.items():
            if call.f == "read":
                seen = _as_set(call.result) if call.known else None
                shown |= seen if isinstance(seen, frozenset) else set()
            else:
                groups.setdefault(call.argument, []).append(index)
        together = [tuple(group) for element, group in groups.items() if element not in shown]
        return super().removable(calls) + together


def _as_set(value: Value) -> Value:
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, tuple | frozenset) else value


class Counter(Model):
    """A counter: add n (also increment, decrement; by 1 when no amount is given), read -> n."""

    name: ClassVar[str] = "counter"
    personal: ClassVar[bool] = False

    def __init__(self, initial: int = 0) -> None:
        self.initial = initial

    @override
    def reading(self, reading: Reading) -> "Counter":
        """Starts at the reading's initial value, if that is a number."""
        initial = reading.initial
        return Counter(initial) if not self.initial and initial.__class__ is int else self

    @override
    def init(self) -> Value:
        """Zero unless said otherwise."""
        return self.initial

    @override
    def total(self, call: Call) -> bool:
        """Adds that report nothing."""
        return call.f in ("add", "increment", "inc", "decrement", "dec")

    @override
    def step(self, state: Value, call: Call) -> Value:
        """See the class."""
        if call.f == "read":
            return state if not call.known or call.result == state else ILLEGAL
        if not self.total(call):
            raise _unknown(self, call)
        amount = 1 if call.argument is None else call.argument
        if not isinstance(amount, int) or not isinstance(state, int):
            raise UsageError(f"a counter adds integers, found {amount!r}")
        return state - amount if call.f.startswith("dec") else state + amount


class Queue(Model):
    """First in, first out: enqueue x, dequeue -> x, or nil when it was empty."""

    name: ClassVar[str] = "queue"
    personal: ClassVar[bool] = False

    @override
    def init(self) -> Value:
        """Empty."""
        return ()

    @override
    def total(self, call: Call) -> bool:
        """Enqueues."""
        return call.f in ("enqueue", "push")

    @override
    def step(self, state: Value, call: Call) -> Value:
        """See the class."""
        if not isinstance(state, tuple):
            raise UsageError(f"the state of a {self.name} is a tuple, found {state!r}")
        if self.total(call):
            return (*state, call.argument)
        if call.f not in ("dequeue", "pop"):
            raise _unknown(self, call)
        return self._take(state, call)

    @override
    def calls(self, history: History) -> list[Call | None]:
        """Without crashed enqueues of what nobody dequeued: had they happened, they would only be in the way."""
        calls = super().calls(history)
        taken = {call.result for call in calls if call is not None and call.known and not self.total(call)}
        return [
            None
            if call is not None and not call.known and self.total(call) and call.argument not in taken
            else call
            for call in calls
        ]

    @override
    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Everything about one element, and dequeues that found nothing."""
        groups: dict[Value, list[int]] = {}
        found: list[tuple[int, ...]] = []
        # Where nil was enqueued, a dequeue of nil may have taken that.
        nothing = any(call.argument is None for call in calls.values() if self.total(call))
        for index, call in calls.items():
            if self.total(call):
                groups.setdefault(call.argument, []).append(index)
            elif call.known and (nothing or call.result is not None):
                groups.setdefault(call.result, []).append(index)
            elif call.known:
                found.append((index,))
        return found + [tuple(group) for group in groups.values()]

    def _take(self, state: tuple[Value, ...], call: Call) -> Value:
        if not state:
            return state if not call.known or call.result is None else ILLEGAL
        return state[1:] if not call.known or call.result == state[0] else ILLEGAL


class Stack(Queue):
    """Last in, first out: push x, pop -> x, or nil when it was empty."""

    name: ClassVar[str] = "stack"

    @override
    def _take(self, state: tuple[Value, ...], call: Call) -> Value:
        if not state:
            return state if not call.known or call.result is None else ILLEGAL
        return state[:-1] if not call.known or call.result == state[-1] else ILLEGAL


class UnorderedQueue(Queue):
    """A bag: enqueue x, dequeue -> any x that is in it, or nil when it was empty."""

    name: ClassVar[str] = "unordered-queue"

    @override
    def _take(self, state: tuple[Value, ...], call: Call) -> Value:
        ordered = tuple(sorted(state, key=repr))
        if not state:
            return state if not call.known or call.result is None else ILLEGAL
        if call.known:
            if call.result not in ordered:
                return ILLEGAL
            at = ordered.index(call.result)
            return ordered[:at] + ordered[at + 1 :]
        return Several(tuple(dict.fromkeys(ordered[:at] + ordered[at + 1 :] for at in range(len(ordered)))))

    @override
    def step(self, state: Value, call: Call) -> Value:
        """The state is kept sorted, so that bags with the same elements are the same state."""
        after = super().step(state, call)
        return tuple(sorted(after, key=repr)) if isinstance(after, tuple) else after


class Lock(Model):
    """A lock: acquire (optionally -> fencing token), release. State: (holder, last token).

    The holder is the process. Tokens, when they are integers, must grow with every acquisition. A lease that
    expires is a release that nobody recorded; for those use the check "lock-safety", which knows time.
    """

    name: ClassVar[str] = "lock"

    @override
    def init(self) -> Value:
        """Free, no token handed out."""
        return (None, None)

    @override
    def step(self, state: Value, call: Call) -> Value:
        """See the class."""
        if not isinstance(state, tuple):
            raise UsageError(f"the state of a lock is a pair, found {state!r}")
        holder, last = state
        if call.f == "acquire":
            if holder is not None:
                # A crashed acquire that never got the lock changes nothing.
                return ILLEGAL if call.known else state
            token = call.result if call.known else None
            if isinstance(token, int) and not isinstance(token, bool):
                if isinstance(last, int) and token <= last:
                    return ILLEGAL
                last = token
            return (call.process, last)
        if call.f == "release":
            if holder is None or holder != call.process:
                return ILLEGAL if call.known else state
            return (None, last)
        raise _unknown(self, call)

    @override
    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Everything that one holder did."""
        groups: dict[int | str, list[int]] = {}
        for index, call in calls.items():
            groups.setdefault(call.process, []).append(index)
        return [tuple(group) for group in groups.values()]


class Mutex(Lock):
    """Knossos's mutex: whoever releases need not be who acquired."""

    name: ClassVar[str] = "mutex"
    personal: ClassVar[bool] = False

    @override
    def removable(self, calls: Mapping[int, Call]) -> list[tuple[int, ...]]:
        """Nothing: any of them may have been what another one waited for."""
        return []

    @override
    def step(self, state: Value, call: Call) -> Value:
        """Held or not, that is all."""
        if call.f not in ("acquire", "release"):
            raise _unknown(self, call)
        free = state == (None, None)
        if free is (call.f == "acquire"):
            return ("held", None) if free else (None, None)
        return ILLEGAL if call.known else state


class Bank(Model):
    """Accounts: transfer {from, to, amount} (or [from, to, amount]), read -> {account: balance}.

    Args:
        balances: what every account starts with. Needed, since a history does not say it. Accounts are told apart by
            their text, since JSON makes the names of maps texts.
    """

    name: ClassVar[str] = "bank"
    personal: ClassVar[bool] = False
    keyed: ClassVar[bool] = False

    def __init__(self, balances: Mapping[Value, int] | None = None, *, negative: bool = False) -> None:
        self.balances = balances
        self.negative = negative

    @override
    def init(self) -> Value:
        """The balances given.

        Raises:
            UsageError: none were given.
        """
        if self.balances is None:
            raise UsageError("a bank needs its initial balances: object=Bank({0: 10, 1: 10})")
        return Record((str(account), balance) for account, balance in self.balances.items())

    @override
    def reading(self, reading: Reading) -> "Bank":
        """The reading's initial value, if it is a map, gives the balances."""
        if self.balances is None and isinstance(reading.initial, Record):
            return Bank(
                {key: value for key, value in reading.initial if isinstance(value, int)}, negative=self.negative
            )
        return self

    @override
    def step(self, state: Value, call: Call) -> Value:
        """A transfer that would overdraw is illegal (it ought to have failed) unless *negative* is allowed."""
        if not isinstance(state, Record):
            raise UsageError(f"the state of a bank is a record, found {state!r}")
        if call.f == "read":
            if not call.known:
                return state
            seen = call.result
            found = (
                {str(key): value for key, value in dict(seen).items() if value is not None}
                if isinstance(seen, Record)
                else seen
            )
            return state if found == dict(state) else ILLEGAL
        if call.f != "transfer":
            raise _unknown(self, call)
        source, target, amount = _transfer(call.argument)
        balances = dict(state)
        left = balances.get(source)
        if not isinstance(left, int) or target not in balances:
            return ILLEGAL if call.known else state
        if left < amount and not self.negative:
            return ILLEGAL if call.known else state
        balances[source] = left - amount
        gained = balances[target]
        if isinstance(gained, int):
            balances[target] = gained + amount
        return Record(balances.items())


def _transfer(value: Value) -> tuple[str, str, int]:
    if isinstance(value, Record):
        fields = {str(key): item for key, item in value}
        value = (fields.get("from"), fields.get("to"), fields.get("amount"))
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[2], int):
        return str(value[0]), str(value[1]), value[2]
    raise UsageError(f"a transfer takes {{from, to, amount}}, found {value!r}")


OBJECTS: Final[dict[str, Callable[[], Model]]] = {
    "register": Register,
    "cas-register": CasRegister,
    "multi-register": MultiRegister,
    "kv": Kv,
    "set": SetObject,
    "counter": Counter,
    "queue": Queue,
    "unordered-queue": UnorderedQueue,
    "stack": Stack,
    "lock": Lock,
    "mutex": Mutex,
    "bank": Bank,
}
"""Objects by name, as the command line takes them."""


def model_of(object: str | Model) -> Model:
    """The model of that name, or the model itself.

    Raises:
        UsageError: no such name.
    """
    if isinstance(object, Model):
        return object
    factory = OBJECTS.get(object)
    if factory is None:
        raise UsageError(f"no object is called {object!r}; there are {', '.join(OBJECTS)}")
    return factory()
