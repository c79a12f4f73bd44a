"""Makes many small changes to a source file, each of which some test should notice.

One mutant is one change: a comparison flipped or moved by one, ``and`` for ``or``, an operand left out, a number one
higher, ``min`` for ``max``, a condition always true or false, two arguments in the other's place, a statement left out.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
SILENT = {"_trace", "invariant", "Trace"}
"""What only tells or only checks: leaving it out changes no behaviour."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: where, what, and the whole changed source."""

    name: str
    source: str


def mutants_of(path: str, source: str) -> Iterator[Mutant]:
    """All mutants of one file."""
    tree = ast.parse(source)
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            child.parent = parent  # type: ignore[attr-defined]
    for number, node in enumerate(ast.walk(tree)):
        if _is_silent(node):
            continue
        for text, change in _changes(node):
            changed = copy.deepcopy(tree)
            target = next(each for at, each in enumerate(ast.walk(changed)) if at == number)
            change(target)
            mutated = ast.unparse(ast.fix_missing_locations(changed))
            yield Mutant(f"{path}:{getattr(node, 'lineno', 0)} {text}", mutated)


def _is_silent(node: ast.AST) -> bool:
    """Inside a call that only tells, an annotation, a default setting or a docstring."""
    at: ast.AST | None = node
    while at is not None:
        parent = getattr(at, "parent", None)
        if isinstance(at, ast.Call) and _called(at) in SILENT:
            return True
        if isinstance(parent, (ast.AnnAssign, ast.arg)) and at is parent.annotation:
            return True
        if isinstance(parent, ast.FunctionDef) and at is parent.returns:
            return True
        if isinstance(at, ast.Raise | ast.JoinedStr | ast.ImportFrom | ast.Import) or _is_abstract(at):
            return True
        at = parent
    return False


def _is_abstract(node: ast.AST) -> bool:
    """A class that only says what others must have."""
    return isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases)


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    line = ast.unparse(node)[:60].replace("\n", " ") if not isinstance(node, ast.Module) else ""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in COMPARISONS.get(type(operator), ()):
                yield f"[{line}] {other.__name__}", _set_operator(place, other)
    elif isinstance(node, ast.BoolOp):
        other_bool = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"[{line}] {other_bool.__name__}", lambda target: setattr(target, "op", other_bool())
        for place in range(len(node.values)):
            yield f"[{line}] without operand {place + 1}", lambda target, at=place: _drop_operand(target, at)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        other_op = ast.Sub if isinstance(node.op, ast.Add) else ast.Add
        yield f"[{line}] {other_op.__name__}", lambda target: setattr(target, "op", other_op())
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        other_binary = OPERATORS[type(node.op)]
        yield f"[{line}] {other_binary.__name__}", lambda target: setattr(target, "op", other_binary())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"[{line}] without not", _without_not
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} negated", lambda target: setattr(target, "value", not target.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield f"{node.value} + 1", lambda target: setattr(target, "value", target.value + 1)
    elif isinstance(node, ast.Call) and _called(node) in {"min", "max"}:
        other_name = "max" if _called(node) == "min" else "min"
        yield f"[{line}] {other_name}", lambda target: setattr(target, "func", ast.Name(other_name, ast.Load()))
    elif isinstance(node, ast.Call):
        for place in range(len(node.args) - 1):
            if ast.unparse(node.args[place]) != ast.unparse(node.args[place + 1]):
                yield f"[{line}] arguments {place + 1} and {place + 2} swapped", _swap_arguments(place)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        test = ast.unparse(node.test)[:60]
        if not isinstance(node, ast.While):
            yield f"if [{test}] always", lambda target: setattr(target, "test", ast.Constant(True))
        yield f"if [{test}] never", lambda target: setattr(target, "test", ast.Constant(False))
    if _is_droppable(node):
        yield f"without [{line}]", _drop


def _set_operator(place: int, other: type[ast.cmpop]) -> object:
    def change(target: ast.Compare) -> None:
        target.ops[place] = other()

    return change


def _swap_arguments(place: int) -> object:
    def change(target: ast.Call) -> None:
        target.args[place : place + 2] = reversed(target.args[place : place + 2])

    return change


def _drop_operand(target: ast.BoolOp, at: int) -> None:
    del target.values[at]
    if len(target.values) == 1:
        target.values.append(copy.deepcopy(target.values[0]))


def _without_not(target: ast.UnaryOp) -> None:
    inner = target.operand
    parent = target.parent  # type: ignore[attr-defined]
    for name, value in ast.iter_fields(parent):
        if value is target:
            setattr(parent, name, inner)
        elif isinstance(value, list) and target in value:
            value[value.index(target)] = inner


def _is_droppable(node: ast.AST) -> bool:
    parent = getattr(node, "parent", None)
    if not isinstance(node, ast.stmt) or isinstance(parent, ast.ClassDef | ast.Module):
        return False
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call | ast.Await | ast.Yield | ast.YieldFrom)
    if isinstance(node, ast.Return):
        return not isinstance(parent, ast.FunctionDef)
    if isinstance(node, ast.AugAssign):
        return True
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        return isinstance(target, ast.Attribute | ast.Subscript | ast.Tuple) and "__init__" not in _function(node)
    return isinstance(node, ast.Continue | ast.Break | ast.Delete)


def _function(node: ast.AST) -> str:
    at: ast.AST | None = node
    while at is not None and not isinstance(at, ast.FunctionDef):
        at = getattr(at, "parent", None)
    return at.name if isinstance(at, ast.FunctionDef) else ""


def _drop(target: ast.stmt) -> None:
    parent = target.parent  # type: ignore[attr-defined]
    for _, value in ast.iter_fields(parent):
        if isinstance(value, list) and target in value:
            value[value.index(target)] = ast.Pass()
