"""A history as transactions: micro-operations [f, key, value], with their outcomes, sessions and places in time.

What an outcome means here is what it means in Elle: a transaction that failed did not happen; one whose outcome is
unknown (info) happened if somebody saw one of its writes and is taken not to have happened otherwise; its own reads
say nothing, since nobody was told their results. Nor do those of a transaction that is ok without a value.
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from msgspec import Struct

from troth.errors import UsageError
from troth.verify.history import FOREVER, EventType, History, Operation, Process, Value, show
from troth.verify.transactions.graph import Clock

OK: Final = 0
INFO: Final = 1
FAIL: Final = 2

APPENDS: Final = frozenset({"append"})
WRITES: Final = frozenset({"w", "write"})
READS: Final = frozenset({"r", "read"})

Micro: TypeAlias = tuple[str, Value, Value]

_OUTCOMES: Final = {EventType.OK: OK, EventType.INFO: INFO, EventType.FAIL: FAIL}


class Transactions:
    """The transactions of a history, by number (which is the index of their operation).

    Attributes:
        micros: every transaction's micro-operations.
        outcomes: OK, INFO or FAIL.
        sessions: number of the process, dealt in order of appearance.
        invoked, completed: positions; FOREVER where the outcome is unknown.
        timed: whether positions say anything about real time. A list of completed transactions without invocations,
            or sessions that were written down one after the other (AWDIT), only has the order within each process.
    """

    __slots__ = ("completed", "history", "invoked", "micros", "outcomes", "processes", "sessions", "timed")

    def __init__(self, history: History) -> None:
        self.history = history
        self.micros: list[tuple[Micro, ...]] = []
        self.outcomes: list[int] = []
        self.sessions: list[int] = []
        self.invoked: list[int] = []
        self.completed: list[int] = []
        numbers: dict[Process, int] = {}
        instants = True
        for op in history.operations:
            outcome = _OUTCOMES[op.outcome]
            self.micros.append(_micros(op, outcome))
            self.outcomes.append(outcome)
            self.sessions.append(numbers.setdefault(op.process, len(numbers)))
            self.invoked.append(op.invoked)
            self.completed.append(op.completed if outcome == OK else FOREVER)
            if op.invoked != op.completed:
                instants = False
        self.processes = tuple(numbers)
        # One process does one thing at a time: then its own order is real time.
        self.timed = len(numbers) < 2 or not (instants or history.format == "awdit")

    def __len__(self) -> int:
        return len(self.micros)

    def clock(self) -> Clock:
        """Real time by transaction number."""
        return Clock(invoked=self.invoked, completed=self.completed, forever=FOREVER)

    def process_edges(self, alive: Sequence[int]) -> tuple[list[int], list[int]]:
        """Consecutive transactions of each process. A crashed one comes after those before it, and before nothing:
        it may take effect whenever it likes."""
        last: dict[int, int] = {}
        sources: list[int] = []
        targets: list[int] = []
        outcomes, sessions = self.outcomes, self.sessions
        for node in alive:
            before = last.get(sessions[node])
            if before is not None:
                sources.append(before)
                targets.append(node)
            if outcomes[node] == OK:
                last[sessions[node]] = node
        return sources, targets

    def describe(self, node: int) -> str:
        """A transaction in a line: ``process 3: [append x 1] [r y [1, 2]]``."""
        state = ("", " (outcome unknown)", " (failed)")[self.outcomes[node]]
        body = " ".join(_micro_text(micro) for micro in self.micros[node][:8])
        more = len(self.micros[node]) - 8
        tail = f" and {more} more" if more > 0 else ""
        return f"process {self.history.operations[node].process}{state}: {body}{tail}"


def _micro_text(micro: Micro) -> str:
    f, key, value = micro
    return f"[{f} {name(key)} {show_list(value)}]"


def name(key: Value) -> str:
    """A key as people write it: strings without quotes."""
    return key if isinstance(key, str) else show(key)


def show_list(value: Value) -> str:
    """A value; of a long list only its end, which is what tells it from others."""
    if isinstance(value, tuple | list) and len(value) > 8:
        return "[... " + ", ".join(show(item) for item in value[-6:]) + "]"
    return show(tuple(value) if isinstance(value, list) else value)


def _micros(op: Operation, outcome: int) -> tuple[Micro, ...]:
    value = op.result if outcome == OK and op.result is not None else op.argument
    if value is None:
        # A completion without an invocation carries everything itself; a transaction may also be empty.
        value = op.result
    if value is None:
        return ()
    if isinstance(value, tuple | list):
        for item in value:
            if not isinstance(item, tuple | list) or len(item) != 3:
                break
        else:
            if outcome == OK and op.result is None:
                # It happened, but what it read was not recorded: the request's nil is no answer.
                return tuple(item for item in value if item[0] not in READS)
            return tuple(value)
    raise UsageError(
        f"operation {op.index} ({op.f}) is no transaction: found {show(value)[:80]}, expected [[f, key, value], ...]"
    )


def workload_of(transactions: Transactions) -> str:
    """ "list-append" if anything is appended, else "rw-register" if anything is written.

    Raises:
        UsageError: a micro-operation that is none of append, w and r.
    """
    seen: set[str] = set()
    for micros in transactions.micros:
        for f, _, _ in micros:
            seen.add(f)
    strange = seen - APPENDS - WRITES - READS
    if strange:
        raise UsageError(f"transactions append, write (w) and read (r); this history has {sorted(strange)}")
    if seen & APPENDS:
        if seen & WRITES:
            raise UsageError("this history both appends and writes; a workload does one of them")
        return "list-append"
    if seen & WRITES:
        return "rw-register"
    # Reads of lists can only come from appends that this history does not have.
    lists = any(isinstance(value, tuple | list) for micros in transactions.micros for _, _, value in micros)
    return "list-append" if lists else "rw-register"


class Finding(Struct, frozen=True, kw_only=True):
    """An anomaly that is seen in reads and writes themselves, without a cycle."""

    anomaly: str
    transactions: tuple[int, ...]
    reason: str


class Findings:
    """Findings by anomaly, at most some of each."""

    def __init__(self, *, each_max: int = 16) -> None:
        self.by_anomaly: dict[str, list[Finding]] = {}
        self._each_max = each_max

    def add(self, anomaly: str, transactions: Iterable[int], reason: str) -> None:
        """Keep one more, unless there are enough of its kind."""
        kept = self.by_anomaly.setdefault(anomaly, [])
        if len(kept) < self._each_max:
            kept.append(Finding(anomaly=anomaly, transactions=tuple(transactions), reason=reason))
