"""The tables as diagrams (Mermaid), for docs/transactions.md; a test keeps the page equal to this."""

from troth.core.twophase.table import MOVES, TABLE, Case, Move, State, Transition


def owner_diagram() -> str:
    """The owner's states and what leads from one to the other."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.ACTIVE.name}"]
    for (state, event), row in TABLE.items():
        if isinstance(row, Transition):
            lines.append(f"    {state.name} --> {row.state.name}: {event.name} / {row.action.name}")
    lines += [f"    {state.name} --> [*]" for state in (State.COMMITTED, State.ABORTED, State.IN_DOUBT)]
    return "\n".join(lines)


def recovery_diagram() -> str:
    """A recoverer's way with one branch."""
    lines = ["stateDiagram-v2", f"    [*] --> {Case.FOUND.name}", f"    [*] --> {Case.EXPECTED.name}"]
    for (case, finding), row in MOVES.items():
        if isinstance(row, Move):
            lines.append(f"    {case.name} --> {row.case.name}: {finding.name} / {row.step.name}")
    return "\n".join(lines)
