"""Bounded staleness: how far behind the newest write a read may be, in time or in versions.

time
    A read may return any state that was current at some instant between its invocation *minus the bound* and its
    return. That is linearizability of the history in which every read is invoked that much earlier (Golab, Li, Shah,
    "Analyzing consistency properties for fun and profit", PODC 2011, section 3: delta-atomicity). Needs times.
versions
    A read may return any of the newest k + 1 values: linearizability of a register that remembers k old values
    (Aiyer, Alvisi, Bazzi, "On the availability of non-strict quorum systems", DISC 2005: k-atomicity). 0 is
    linearizability itself.
"""

from msgspec import structs
from typing_extensions import override

from troth.errors import UsageError
from troth.verify.history import FOREVER, EventType, History, Operation, Reading, Value
from troth.verify.linearizability import Budget, check_linearizable
from troth.verify.models import ILLEGAL, Call, Model, Register
from troth.verify.verdict import Status, Verdict


def check_bounded(
    history: History,
    object: Register,
    *,
    staleness_ns_max: int | None = None,
    versions_behind_max: int | None = None,
    budget: Budget,
) -> Verdict:
    """Check one of the two bounds.

    Raises:
        UsageError: not exactly one bound, a negative one, or a bound in time on a history without times.
    """
    if (staleness_ns_max is None) == (versions_behind_max is None):
        raise UsageError("bounded staleness takes either staleness_ns_max or versions_behind_max")
    if versions_behind_max is not None:
        if versions_behind_max < 0:
            raise UsageError(f"versions_behind_max={versions_behind_max} must not be negative")
        remembering = RememberingRegister(object.reading(history.reading).init(), behind=versions_behind_max)
        return check_linearizable(history, remembering, budget=budget, name=f"bounded:{versions_behind_max}")
    if staleness_ns_max is None or staleness_ns_max < 0:
        raise UsageError(f"staleness_ns_max={staleness_ns_max} must not be negative")
    name = f"bounded:{staleness_ns_max / 1e9:g}s"
    found = check_linearizable(_earlier_reads(history, staleness_ns_max), object, budget=budget, name=name)
    # Indexes of the shifted history follow its own order of invocation; the verdict must speak of the original.
    return _translated(found, history, staleness_ns_max)


def _key_of(op: Operation, length: int, by_ns: int) -> tuple[int, int]:
    if op.start_ns is None or (op.end_ns is None and op.outcome is not EventType.INFO):
        raise UsageError(f"bounded staleness in time needs a time on every event; operation {op.index} lacks one")
    reads = op.f in ("read", "get")
    invoked = (op.start_ns - (by_ns if reads else 0)) * length + op.invoked
    if op.returned == FOREVER or op.end_ns is None:
        return invoked, FOREVER
    return invoked, op.end_ns * length + op.completed


def _earlier_reads(history: History, by_ns: int) -> History:
    """Every read invoked *by_ns* earlier; each operation a process of its own, since they may now overlap."""
    length = history.length + 1
    moved = []
    for op in history.operations:
        invoked, completed = _key_of(op, length, by_ns)
        moved.append(structs.replace(op, process=f"{op.process}/{op.index}", invoked=invoked, completed=completed))
    least = min((op.invoked for op in moved), default=0)
    moved = [
        structs.replace(
            op, invoked=op.invoked - least, completed=FOREVER if op.completed == FOREVER else op.completed - least
        )
        for op in moved
    ]
    return History.of(moved, reading=history.reading, format=history.format)


def _translated(found: Verdict, history: History, by_ns: int) -> Verdict:
    length = history.length + 1
    back = sorted(range(len(history)), key=lambda index: _key_of(history.operations[index], length, by_ns)[0])
    example = found.counterexample if found.status is Status.ILLEGAL else None
    if example is not None:
        example = structs.replace(
            example,
            operation=None if example.operation is None else back[example.operation],
            configurations=tuple(
                structs.replace(
                    view,
                    placed=tuple(back[index] for index in view.placed),
                    waiting=tuple(back[index] for index in view.waiting),
                )
                for view in example.configurations
            ),
            prefix=tuple(back[index] for index in example.prefix),
            involved=tuple(sorted(back[index] for index in example.involved)),
            minimal=tuple(sorted(back[index] for index in example.minimal)),
        )
    reason = found.reason
    if example is not None and example.operation is not None:
        reason = f"no place for [{example.operation}] {history.operations[example.operation].describe()}"
    return Verdict(
        found.status,
        history=history,
        model=found.model,
        object=found.object,
        reason=reason,
        parts=found.parts,
        counterexample=example,
        witness=None
        if found.status is not Status.OK
        else (lambda: [back[index] for index in found.witness or ()]),
    )


class RememberingRegister(Model):
    """A register whose reads may return one of its newest values. State: values, newest first."""

    name = "register"
    personal = False

    def __init__(self, initial: Value, *, behind: int) -> None:
        self.initial, self.behind = initial, behind
        self._plain = Register(initial)

    @override
    def reading(self, reading: Reading) -> "RememberingRegister":
        """It was adjusted when it was made."""
        return self

    @override
    def init(self) -> Value:
        """Nothing but the initial value."""
        return (self.initial,)

    @override
    def total(self, call: Call) -> bool:
        """As of the register."""
        return self._plain.total(call)

    @override
    def step(self, state: Value, call: Call) -> Value:
        """Reads look back; everything else acts on the newest value."""
        if not isinstance(state, tuple):
            raise UsageError(f"the state of a remembering register is a tuple, found {state!r}")
        if call.f in ("read", "get"):
            return state if not call.known or call.result in state else ILLEGAL
        after = self._plain.step(state[0], call)
        if after is ILLEGAL:
            return ILLEGAL
        if call.f == "cas" and after == state[0]:
            return state
        return (after, *state)[: self.behind + 1]
