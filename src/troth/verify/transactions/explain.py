"""Cycles in words, after Elle: "T1 < T2, because ...; However, T2 < T1, because ...: a contradiction!"."""

from typing import Protocol

from msgspec import Struct

from troth.verify.transactions.cycles import Cycle
from troth.verify.transactions.graph import KIND_NAMES, PROCESS, REALTIME
from troth.verify.transactions.micro import Finding, Transactions, name
from troth.verify.transactions.weak import WeakViolation


class Explainer(Protocol):
    """Knows why a data edge is there."""

    def explain(self, kind: int, source: int, target: int) -> tuple[str, str]:
        """(the key, a sentence with {0} for the source and {1} for the target)."""
        ...


class Step(Struct, frozen=True, kw_only=True):
    """One edge of a cycle: `because` is a sentence about T1, T2, ..."""

    kind: str
    key: str
    because: str


class CycleView(Struct, frozen=True, kw_only=True):
    """A contradiction for people and pictures.

    anomaly: its name.
    transactions: operation indexes; the i-th is called T(i+1).
    lines: those transactions in words.
    steps: for a cycle, steps[i] leads from transactions[i] to the next, the last one back to the first; empty when a
        transaction (or two) contradict plainly.
    summary: one sentence.
    """

    anomaly: str
    transactions: tuple[int, ...]
    lines: tuple[str, ...]
    steps: tuple[Step, ...]
    summary: str

    def sentences(self) -> tuple[str, ...]:
        """The argument, a line an edge."""
        if not self.steps:
            return (self.summary,)
        count = len(self.steps)
        found = []
        for at, step in enumerate(self.steps):
            a, b = f"T{at + 1}", f"T{(at + 1) % count + 1}"
            if at + 1 < count:
                found.append(f"{a} < {b}, because {step.because}.")
            else:
                found.append(f"However, {a} < {b}, because {step.because}: a contradiction!")
        return tuple(found)

    def text(self) -> str:
        """Let, then, however."""
        rows = [f"{self.anomaly}", "Let:"]
        rows.extend(f"  T{at + 1} = {line}" for at, line in enumerate(self.lines))
        rows.append("Then:")
        rows.extend(f"  - {sentence}" for sentence in self.sentences())
        return "\n".join(rows) + "\n"


def view_of_cycle(cycle: Cycle, transactions: Transactions, explainer: Explainer) -> CycleView:
    """A cycle of the dependency graph, told."""
    steps = []
    count = len(cycle.nodes)
    for at, (kind, source) in enumerate(zip(cycle.kinds, cycle.nodes, strict=True)):
        target = cycle.nodes[(at + 1) % count]
        key, because = _because(kind, source, target, transactions, explainer)
        names = [f"T{at + 1}", f"T{(at + 1) % count + 1}"]
        steps.append(Step(kind=KIND_NAMES[kind], key=key, because=_filled(because, names)))
    return CycleView(
        anomaly=cycle.anomaly,
        transactions=cycle.nodes,
        lines=tuple(transactions.describe(node) for node in cycle.nodes),
        steps=tuple(steps),
        summary=f"{count} transactions each come before the next, and the last before the first",
    )


def view_of_finding(finding: Finding, transactions: Transactions) -> CycleView:
    """A plain contradiction, told."""
    names = [f"T{at + 1}" for at in range(len(finding.transactions))]
    return CycleView(
        anomaly=finding.anomaly,
        transactions=finding.transactions,
        lines=tuple(transactions.describe(node) for node in finding.transactions),
        steps=(),
        summary=_filled(finding.reason, names),
    )


def view_of_weak(
    violation: WeakViolation, anomaly: str, rule: str, transactions: Transactions, explainer: Explainer
) -> CycleView:
    """A cycle in every possible commit order, told. *rule* says what the reader knew."""
    nodes = list(violation.nodes)
    called = {node: f"T{at + 1}" for at, node in enumerate(nodes)}
    for forced in violation.forced:
        if forced is not None and forced.reader not in called:
            called[forced.reader] = f"T{len(called) + 1}"
            nodes.append(forced.reader)
    steps = []
    count = len(violation.nodes)
    for at, (source, forced) in enumerate(zip(violation.nodes, violation.forced, strict=True)):
        target = violation.nodes[(at + 1) % count]
        a, b = called[source], called[target]
        if forced is None:
            kind, because = _plain(source, target, transactions, explainer)
            steps.append(Step(kind=kind, key="", because=_filled(because, [a, b])))
        elif forced.after < 0:
            reader = called[forced.reader]
            writer = called[forced.before]
            because = f"{reader} read the initial state of {name(forced.key)}, which {writer} had overwritten"
            steps.append(Step(kind="rw", key=name(forced.key), because=because))
        else:
            reader = called[forced.reader]
            knew = _filled(rule, [reader, a])
            because = f"{reader} read {name(forced.key)} from {b}, though {knew} and {a} wrote it too"
            steps.append(Step(kind="co", key=name(forced.key), because=because))
    return CycleView(
        anomaly=anomaly,
        transactions=tuple(nodes),
        lines=tuple(transactions.describe(node) for node in nodes),
        steps=tuple(steps),
        summary="no order of commits explains what was read",
    )


def _plain(source: int, target: int, transactions: Transactions, explainer: Explainer) -> tuple[str, str]:
    for kind in (2, 1):
        key, because = explainer.explain(kind, source, target)
        if key:
            return KIND_NAMES[kind], because
    if transactions.sessions[source] == transactions.sessions[target]:
        return KIND_NAMES[PROCESS], _because(PROCESS, source, target, transactions, explainer)[1]
    return "before", "{1} knows of {0}"


def _because(
    kind: int, source: int, target: int, transactions: Transactions, explainer: Explainer
) -> tuple[str, str]:
    operations = transactions.history.operations
    if kind == PROCESS:
        return "", f"process {operations[source].process} executed {{0}} before {{1}}"
    if kind == REALTIME:
        gap = ""
        end, start = operations[source].end_ns, operations[target].start_ns
        if end is not None and start is not None and start >= end:
            gap = f" {(start - end) / 1e9:.3f} s"
        return "", f"{{0}} completed{gap} before {{1}} was invoked"
    return explainer.explain(kind, source, target)


def _filled(reason: str, names: list[str]) -> str:
    for at, called in enumerate(names):
        reason = reason.replace(f"{{{at}}}", called)
    return reason
