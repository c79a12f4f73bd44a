"""What people copy must do the same under ``python -O``, which leaves assertions out."""

import ast
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))

EFFECTS = {
    "acquire",
    "append",
    "apply",
    "change",
    "commit",
    "compact",
    "delete",
    "execute",
    "grant",
    "kill",
    "next",
}
EFFECTS |= {
    "pop",
    "put",
    "release",
    "remove",
    "revoke",
    "run",
    "start",
    "stop",
    "submit",
    "transfer",
    "txn",
    "write",
}


def effects_in_assertions(source: str) -> list[str]:
    """Calls in an ``assert`` that do something, by the name of what they call."""
    calls = [
        call
        for statement in ast.walk(ast.parse(source))
        if isinstance(statement, ast.Assert)
        for call in ast.walk(statement.test)
        if isinstance(call, ast.Call)
    ]
    names = [call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func) for call in calls]
    return [name for name in names if name in EFFECTS]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_does_nothing_inside_an_assertion(path: Path) -> None:
    assert effects_in_assertions(path.read_text()) == []


def test_what_is_looked_for_is_found() -> None:
    assert effects_in_assertions("assert a and lock.write(1)\nassert acquire(2) is None") == ["write", "acquire"]
