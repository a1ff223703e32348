"""Finds the places of a source file where one small change makes another program."""

import ast
from collections.abc import Iterator
from typing import NamedTuple

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}  # fmt: skip
SKIPPED_CALLS = ("logger.", "_logger.", "logging.", "print")  # messages
SKIPPED_FUNCTIONS = ("__repr__", "__str__", "extra_repr")


class Mutant(NamedTuple):
    """One change of one file."""

    file: str  # relative to the repository
    start: int  # bytes [start, end) of the file are replaced
    end: int
    new: str
    old: str
    kind: str
    lines: tuple[int, int]  # first and last line, from 1, of the statement; of the body for a function's defaults
    at_import: bool  # outside of functions: executed once, when the file is imported

    @property
    def key(self) -> str:
        """Identifies the mutant within one version of the package."""
        return f"{self.file}:{self.start}:{self.end}:{self.new}"

    def apply(self, source: bytes) -> bytes:
        """Returns the changed file."""
        return source[: self.start] + self.new.encode() + source[self.end :]


def find_mutants(source: bytes, file: str) -> list[Mutant]:
    """Returns the mutants of a Python file, in the order of the file.

    Messages (strings, f-strings, what is raised, logging), annotations, decorators, imports and `__repr__` are
    not changed. Strings are not changed at all.
    """
    text = source.decode()
    starts = [0]
    for line in source.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    found = []
    for node, new, kind, lines, at_import in _changes(ast.parse(text), (1, len(starts)), True):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        found.append(Mutant(file, start, end, new, source[start:end].decode(), kind, lines, at_import))
    return sorted(set(found), key=lambda mutant: (mutant.start, mutant.end, mutant.new))


def _changes(node: ast.AST, lines: tuple[int, int], at_import: bool) -> Iterator[tuple[ast.AST, str, str, tuple, bool]]:
    """Yields (node to replace, its new text, kind of change, lines to execute, at_import) for a tree."""
    if _is_skipped(node):
        return
    if isinstance(node, ast.FunctionDef):
        lines, at_import = (node.body[0].lineno, node.end_lineno), False
    elif isinstance(node, ast.stmt):
        # The expressions of a compound statement are in its first lines; its blocks are statements of their own.
        last = node.body[0].lineno - 1 if hasattr(node, "body") else node.end_lineno
        lines = (node.lineno, max(node.lineno, last))
    for new, kind in _replacements(node):
        yield node, new, kind, lines, at_import
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "exc", "msg", "ctx"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                if name == "test" and isinstance(child, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
                    yield child, f"(not {ast.unparse(child)})", "condition", lines, at_import
                yield from _changes(child, lines, at_import)


def _is_skipped(node: ast.AST) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr):
        return True
    if isinstance(node, ast.FunctionDef):
        return node.name in SKIPPED_FUNCTIONS
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).startswith(SKIPPED_CALLS)
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _replacements(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yields (new text, kind of change) for a node itself, not for its children."""
    if isinstance(node, ast.Constant):
        yield from ((text, "constant") for text in _other_constants(node.value))
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield _with(node, ops=[COMPARISONS[type(node.ops[0])]()]), "comparison"
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _has_text(node):
        yield _with(node, op=OPERATORS[type(node.op)]()), "arithmetic"
    elif isinstance(node, ast.AugAssign):
        if type(node.op) in OPERATORS:
            yield _with(node, op=OPERATORS[type(node.op)]())[1:-1], "arithmetic"
        yield "pass", "statement"
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And()), "boolean"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"({ast.unparse(node.operand)})", "boolean"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield f"({ast.unparse(node.operand)})", "arithmetic"
    elif isinstance(node, ast.Slice):
        bounds = (node.lower, node.upper)
        for i, bound in enumerate(bounds):
            if bound is not None and not isinstance(bound, ast.Constant):
                left = [None if i == j else other for j, other in enumerate(bounds)]
                yield ast.unparse(ast.Slice(*left, node.step)), "slice"
    elif isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield "return None", "return"
    elif _is_droppable(node):
        yield "pass", "statement"


def _other_constants(value: object) -> list[str]:
    if isinstance(value, bool):
        return [str(not value)]
    if isinstance(value, int):
        return ["0"] if value == 1 else [str(value + 1)]
    if isinstance(value, float):
        return [repr(2 * value) if value else "1.0"]
    return []


def _is_droppable(node: ast.AST) -> bool:
    """True for statements that can be left out without making a name undefined."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and not _is_skipped(node.value)
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Subscript | ast.Attribute) for target in node.targets)
    return isinstance(node, ast.Raise | ast.Break | ast.Continue | ast.Delete)


def _has_text(node: ast.BinOp) -> bool:
    """True if an operand is a string: text or a path is built, nothing is computed."""
    operands = (node.left, node.right)
    return any(
        isinstance(part, ast.JoinedStr) or (isinstance(part, ast.Constant) and isinstance(part.value, str))
        for part in operands
    )


def _with(node: ast.AST, **fields: object) -> str:
    """Returns the source of a copy of `node` with other fields, in parentheses."""
    values = dict(ast.iter_fields(node))
    return f"({ast.unparse(type(node)(**{**values, **fields}))})"
