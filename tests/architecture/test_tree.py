"""What imports cannot show: calls that reach the world, orders that differ from one process to the next, file names."""

import ast
import importlib
import subprocess
from abc import ABCMeta
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "troth"
PURE = ("core", "kv", "hashing", "replica", "storage", "verify", "wire")
PURE_FILES = sorted(
    [path for package in PURE for path in (SOURCE / package).rglob("*.py")]
    + [SOURCE / f"{name}.py" for name in ("models", "ports", "errors", "ids")]
)

BANNED_CALLS = {"open", "print", "input", "hash", "id", "eval", "exec", "breakpoint", "__import__"}
"""`hash` and `id` differ from one process to the next; the others reach the world."""
FINGERPRINTS = {"verify/specification/explore.py hash"}
"""Looked up in the process that made them, and never ordered by."""


def _name(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def _is_set(node: ast.expr) -> bool:
    """A set as it is written: braces, a comprehension, ``set(...)``, or one of these joined with another."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.BinOp(left=left, right=right, op=ast.BitOr() | ast.BitAnd() | ast.Sub()):
            return _is_set(left) or _is_set(right)
        case _:
            return False


ORDER_FREE = {"sorted", "set", "frozenset", "all", "any", "sum", "min", "max", "len", "dict", "Counter"}
"""What a generator over a set may be given to: the order of its elements does not show in the outcome."""


def set_orders(tree: ast.AST) -> list[int]:
    """Lines that take elements out of a set in the set's own order."""
    free = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ORDER_FREE
        for argument in node.args
    }
    lines = []
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=source) if _is_set(source):
                lines.append(source.lineno)
            case ast.ListComp(generators=generators) | ast.GeneratorExp(generators=generators):
                if id(node) not in free:
                    lines += [each.iter.lineno for each in generators if _is_set(each.iter)]
            case ast.Call(func=ast.Name(id="tuple" | "list" | "enumerate" | "next" | "iter"), args=[source, *_]):
                if _is_set(source):
                    lines.append(source.lineno)
            case _:
                pass
    return lines


@pytest.mark.parametrize("path", PURE_FILES, ids=_name)
def test_pure_code_reaches_no_world_and_is_the_same_in_every_process(path: Path) -> None:
    """No call that reaches the world or differs between processes, and no order out of a set."""
    tree = ast.parse(path.read_text())
    calls = [
        f"{_name(path)}:{node.lineno} {node.func.id}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in BANNED_CALLS
        and f"{_name(path)} {node.func.id}" not in FINGERPRINTS
    ]
    assert not calls
    lines = set_orders(tree)
    assert not lines, f"{path.name}: sort first, in lines {lines}"


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("for a in {1, 2}: f(a)", 1),
        ("x = [a for a in set(b) - c]", 1),
        ("x = tuple({*a, *b})", 1),
        ("x = sorted(a for a in {*b})", 0),
        ("for a in sorted({*b}): f(a)", 0),
        ("x = {a for a in {*b}}", 0),
    ],
)
def test_the_rule_about_sets_bites(code: str, count: int) -> None:
    assert len(set_orders(ast.parse(code))) == count


def test_whoever_leaves_methods_to_subclasses_is_an_abc() -> None:
    """`abstractmethod` alone refuses nothing: an object without the method is made, and calling it gives None."""
    paths = [path for path in SOURCE.rglob("*.py") if "@abstractmethod" in path.read_text()]
    assert paths
    for path in paths:
        module = importlib.import_module(".".join(path.relative_to(SOURCE.parent).with_suffix("").parts))
        classes = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
        lax = [
            each
            for each in classes
            if not isinstance(each, ABCMeta)
            and any(
                getattr(part, "__isabstractmethod__", False) for part in getattr(each, "__dict__", {}).values()
            )
        ]
        assert not lax


def test_what_a_subclass_must_do_is_abstract() -> None:
    """`NotImplementedError` is met at the first call; an abstract method is missed by mypy, and when one is made."""
    assert [path for path in SOURCE.rglob("*.py") if "raise NotImplementedError" in path.read_text()] == []


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them as top-level modules: of two with one name, one would never run."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_nothing_stands_in_the_repository_that_a_command_has_left_there() -> None:
    """Certificates, data directories, logs: what is written where one happens to stand is committed by accident."""
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a clone")
    tops = {line.partition("/")[0] for line in listed.splitlines() if "/" in line}
    assert tops <= {".ci", "benchmarks", "docs", "examples", "scripts", "src", "tests"}
    assert [line for line in listed.splitlines() if Path(line).suffix in (".key", ".pem")] == []
