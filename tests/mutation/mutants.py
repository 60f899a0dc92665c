"""The small faults that a module's source may have.

Operators swapped, numbers off by one, conditions negated, `not`, `~` and minus removed, min for max, any for
all, ends of slices off by one, None returned, statements removed. Texts, annotations, decorators, assertions,
raised exceptions, reports of progress and `strict=` stay, and so do assignments whose removal would only
cause a NameError.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

_PAIRS = (
    ("Lt", "LtE"), ("Gt", "GtE"), ("Eq", "NotEq"), ("Is", "IsNot"), ("In", "NotIn"), ("And", "Or"),
    ("Add", "Sub"), ("Mult", "Div"), ("LShift", "RShift"), ("BitAnd", "BitOr"),
)  # fmt: skip
_SWAPS = {"FloorDiv": "Div", "Mod": "FloorDiv", "Pow": "Mult", "BitXor": "BitAnd"}
_SWAPS |= dict(_PAIRS) | {other: one for one, other in _PAIRS}
_NEGATED = ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn
_NAMES = {"min": "max", "minimum": "maximum", "argmin": "argmax", "any": "all"}
_NAMES |= {other: one for one, other in _NAMES.items()}
_QUIET = {"progress", "report", "print", "warn", "info", "debug"}
_UNTOUCHED = {"annotation", "returns", "decorator_list"}


class Mutant(NamedTuple):
    """A fault: `after` in place of the bytes start to end of a source, in a statement on some lines."""

    line: int
    start: int
    end: int
    lines: range
    before: str
    after: str

    def apply(self, source: str) -> str:
        """Return the source with this fault."""
        whole = source.encode()
        return (whole[: self.start] + self.after.encode() + whole[self.end :]).decode()

    def __str__(self) -> str:
        return " ".join(f"{self.before} -> {self.after}".split())


def mutants(source: str) -> list[Mutant]:
    """Return every mutant of a module, in order."""
    tree, whole, starts = ast.parse(source), source.encode(), [0]
    for line in whole.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines: dict[int, range] = {}
    for statement in ast.walk(tree):  # inner ones come later
        if isinstance(statement, ast.stmt):
            inside = getattr(statement, "body", None)
            stop = inside[0].lineno if inside else (statement.end_lineno or 0) + 1
            own = range(statement.lineno, max(stop, statement.lineno + 1))
            lines.update(dict.fromkeys(own, own))
    found = {}
    for old, new in _faults(tree, Counter()):
        start, end = starts[old.lineno - 1] + old.col_offset, starts[old.end_lineno - 1] + old.end_col_offset
        atom = isinstance(new, ast.stmt | ast.Name | ast.Constant | ast.Attribute)
        after = ast.unparse(new) if atom else f"({ast.unparse(new)})"
        before = whole[start:end].decode()
        found[start, end, after] = Mutant(old.lineno, start, end, lines[old.lineno], before, after)
    return [found[key] for key in sorted(found)]


def _faults(node: ast.AST, bound: Counter[str]) -> Iterator[tuple[Any, ast.AST]]:
    """Yield what to replace by what in a tree, given how often its function binds each name."""
    match node:
        case ast.JoinedStr() | ast.Raise() | ast.Assert() | ast.keyword(arg="strict"):
            return
        case ast.FunctionDef(name="__repr__" | "__str__") | ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
            return
        case ast.BinOp(left=ast.Constant(value=str())) | ast.BinOp(right=ast.Constant(value=str())):
            return
        case ast.Expr() | ast.If(orelse=[]) if all(map(_quiet, getattr(node, "body", [node]))):
            return
        case ast.FunctionDef():
            bound = _bindings(node)
    yield from _own_faults(node, bound)
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in _UNTOUCHED:
                yield from _faults(child, bound)


def _quiet(statement: ast.AST) -> bool:
    """Whether a statement only says where the work stands."""
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))):
            return name in _QUIET
    return False


def _bindings(node: ast.AST) -> Counter[str]:
    """Count how often names are bound; one that an inner function binds with nonlocal counts as none."""
    counts: Counter[str] = Counter()
    for part in ast.walk(node):
        match part:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                counts[name] += 1
            case ast.Nonlocal(names=names):
                counts.subtract(dict.fromkeys(names, 10**6))
    return counts


def _own_faults(node: ast.AST, bound: Counter[str]) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield the faults of a node by itself."""
    match node:
        case ast.Compare(ops=ops):
            for n, op in enumerate(ops):
                yield node, _changed(node, ops=[*ops[:n], _swapped(op), *ops[n + 1 :]])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op).__name__ in _SWAPS:
            yield node, _changed(node, op=_swapped(op))
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub(), operand=operand):
            yield node, operand
        case ast.Constant(value=bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield node, ast.Constant(0 if value == 1 else value + 1)
        case ast.Name(id=name, ctx=ast.Load()) if name in _NAMES:
            yield node, ast.Name(_NAMES[name])
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in _NAMES:
            yield node, _changed(node, attr=_NAMES[name])
        case ast.Slice(lower=lower, upper=upper):
            for end in (lower, upper):
                if end is not None and not isinstance(end, ast.Constant):
                    yield end, ast.BinOp(end, ast.Add(), ast.Constant(1))
        case ast.Return(value=ast.expr() as result) if ast.unparse(result) != "None":
            yield result, ast.Constant(None)
    match node:
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield from _negations([test])
        case ast.comprehension(ifs=tests):
            yield from _negations(tests)
        case ast.AugAssign() | ast.Expr(value=ast.Call()):
            yield node, ast.Pass()
        case ast.Assign() if bound and all(bound[name] > 1 for name in _bindings(node)):
            yield node, ast.Pass()


def _negations(tests: list[ast.expr]) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield conditions and their opposites, but for those that another operator negates."""
    for test in tests:
        match test:
            case ast.UnaryOp(op=ast.Not()):
                pass
            case ast.Compare(ops=[op]) if isinstance(op, _NEGATED):
                pass
            case _:
                yield test, ast.UnaryOp(ast.Not(), test)


def _swapped(operator: ast.AST) -> ast.AST:
    swapped: ast.AST = getattr(ast, _SWAPS[type(operator).__name__])()
    return swapped


def _changed(node: ast.AST, **fields: Any) -> ast.AST:
    """Return a node with other fields."""
    other = copy.copy(node)
    vars(other).update(fields)
    return other
