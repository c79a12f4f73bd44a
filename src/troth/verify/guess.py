"""What a history was recorded of, from the names of its operations and the shapes of their values.

A guess, and said as one: `troth verify` prints it, and ``--object`` overrides it. Where two objects share their names
the weaker promise is taken, so that a guess does not blame a store for what it never promised; but a queue of which
nothing else is said is first in, first out, as the word has it, and a store is not praised for an order that it lost.
"""

from typing import Final

from msgspec import Struct

from troth.errors import UsageError
from troth.verify.branches import flat
from troth.verify.formats.edn import Record
from troth.verify.formats.shaping import DRAINED
from troth.verify.history import EventType, History, Operation, Value
from troth.verify.transactions.micro import READS, WRITES


class Guess(Struct, frozen=True):
    """The object, the model it is usually checked against, and why."""

    object: str
    model: str
    because: str


_IN_ORDER: Final = "enqueue and dequeue: first in, first out; if any order will do, --object unordered-queue"

_NAMES: Final[tuple[tuple[set[str], set[str], str, str, str], ...]] = (
    # (names that must occur, names that may occur, object, model, because)
    ({"vote"}, {"commit", "abort"}, "transaction", "atomic-commit", "participants vote, commit and abort"),
    ({"transfer"}, {"read"}, "bank", "scan", "transfers and reads of all balances"),
    ({"generate"}, set(), "unique-ids", "scan", "ids are generated"),
    ({"drain"}, {"enqueue", "dequeue"}, "unordered-queue", "linearizable", "a queue that is drained in any order"),
    ({"enqueue"}, {"dequeue"}, "queue", "linearizable", _IN_ORDER),
    ({"dequeue"}, set(), "queue", "linearizable", _IN_ORDER),
    ({"push"}, {"pop"}, "stack", "linearizable", "push and pop"),
    ({"pop"}, set(), "stack", "linearizable", "push and pop"),
    ({"cas"}, {"read", "write"}, "cas-register", "linearizable", "read, write and cas"),
    ({"put"}, {"get", "append", "delete", "cas"}, "kv", "linearizable", "get, put, append, delete"),
    ({"get"}, {"append", "delete", "cas"}, "kv", "linearizable", "get, put, append, delete"),
    ({"append"}, {"delete", "cas", "read", "write"}, "kv", "linearizable", "get, put, append, delete"),
    ({"delete"}, {"cas"}, "kv", "linearizable", "get, put, append, delete"),
    ({"write"}, {"read"}, "register", "linearizable", "read and write"),
    ({"inc"}, {"dec", "read"}, "counter", "linearizable", "a number goes up and down"),
    ({"increment"}, {"decrement", "read"}, "counter", "linearizable", "a number goes up and down"),
)


def guess(history: History) -> Guess:
    """What *history* was most likely recorded of.

    Raises:
        UsageError: its operations are those of no object known here.
    """
    names = {op.f for op in history.operations} | ({"drain"} if DRAINED in history.remarks else set())
    if not names:
        return Guess("register", "linearizable", "it is empty")
    if names == {"txn"}:
        return _transactions(history)
    if names <= {"read", "write"} and any(
        item[0] in READS | WRITES for op in history.operations for item in _items(op)
    ):
        return Guess("long-fork", "scan", "single writes, and reads of several keys at once")
    if "txn" in names and names <= {"txn", "get", "put", "delete", "cas", "read", "write"}:
        return Guess("multi-register", "linearizable", "transactions beside operations on one key")
    if names & {"acquire", "release"} and names <= {"acquire", "release", "write"}:
        return _lock(history, names)
    if names & {"add", "remove", "contains"} and names <= {
        "add",
        "remove",
        "contains",
        "read",
        "dec",
        "decrement",
    }:
        return _set_or_counter(history)
    for must, may, object, model, because in _NAMES:
        if must <= names <= must | may:
            return Guess(object, model, because)
    if names == {"read"} and any(isinstance(op.result, Record) for op in history.operations):
        return Guess("bank", "scan", "balances are read")
    if names == {"read"}:
        return Guess("register", "linearizable", "it is only read")
    raise UsageError(
        f"operations called {', '.join(sorted(names))}: no object here has all of them; say which one it is "
        f"with --object (or give `check` a model of your own, which takes ten lines: docs/verify.md)"
    )


def _transactions(history: History) -> Guess:
    # Without invocations, or in AWDIT's files, nothing is known of real time.
    instants = all(op.invoked == op.completed for op in history.operations)
    timed = not instants and history.format != "awdit"
    model = "strict-serializable" if timed else "strong-session-serializable"
    micros = [item for op in history.operations for item in _items(op)]
    kinds = {item[0] for item in micros}
    if "append" in kinds:
        return Guess("list-append", model, "transactions append to lists")
    if not kinds & WRITES and any(isinstance(item[2], tuple) for item in (*micros, *_read(history))):
        return Guess("list-append", model, "transactions read lists")
    if isinstance(history.reading.initial, Record):
        because = "transactions on registers, each of which starts with a value of its own"
        return Guess("multi-register", "linearizable" if timed else "sequential", because)
    written: dict[tuple[Value, Value], int] = {}
    for op in history.operations:
        for f, key, value in _items(op):
            if f in WRITES and written.setdefault((key, value), op.index) != op.index:
                because = "transactions on registers, in which values are written more than once"
                return Guess("multi-register", "linearizable" if timed else "sequential", because)
    return Guess("rw-register", model, "transactions on registers, every value written once")


def _read(history: History) -> list[tuple[Value, Value, Value]]:
    """What transactions that succeeded say they read."""
    return [item for op in history.operations if op.outcome is EventType.OK for item in _micros(op.result)]


def _items(op: Operation) -> list[tuple[Value, Value, Value]]:
    return _micros(op.argument if op.argument is not None else op.result)


def _micros(value: Value) -> list[tuple[Value, Value, Value]]:
    return list(flat(value))


def _lock(history: History, names: set[str]) -> Guess:
    tokens = any(
        op.f == "acquire"
        and op.outcome is EventType.OK
        and isinstance(op.result, int | tuple)
        and not isinstance(op.result, bool)
        for op in history.operations
    )
    if tokens or "write" in names:
        return Guess("lock", "lock-safety", "acquire hands out fencing tokens")
    return Guess("mutex", "linearizable", "acquire and release without fencing tokens")


def _set_or_counter(history: History) -> Guess:
    for op in history.operations:
        if op.f == "read" and op.outcome is EventType.OK and op.result is not None:
            if isinstance(op.result, int):
                return Guess("counter", "linearizable", "what is added up is read as a number")
            return Guess("set", "linearizable", "what is added is read as a collection")
    numbers = all(isinstance(op.argument, int) for op in history.operations if op.f == "add")
    decreases = any(op.f.startswith("dec") for op in history.operations)
    if decreases and numbers:
        return Guess("counter", "linearizable", "a number goes up and down")
    return Guess("set", "linearizable", "elements are added")
