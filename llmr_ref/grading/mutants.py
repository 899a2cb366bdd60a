"""Mutants: the first right answer of a bank with one thing changed in its syntax tree.

A check that lets a mutant pass has a gap, unless no input can tell the two apart.
"""

import ast
import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmr_ref.grading.exercise import Exercise

OPERATORS: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitOr,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
}
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
# To swap the first two arguments of these changes nothing.
SYMMETRIC = frozenset(
    ("transpose", "swapaxes", "maximum", "minimum", "max", "min", "add", "mul", "multiply", "dot",
     "logical_and", "logical_or", "logical_xor", "gcd", "equal", "eq", "ne")
)  # fmt: skip
# Both names exist wherever the first does, and a student who takes the other means something else.
NAMES = {
    **dict(zip(("max", "amax", "maximum", "argmax"), ("min", "amin", "minimum", "argmin"),
               strict=True)),
    "sin": "cos", "tril": "triu", "any": "all", "sum": "mean", "floor": "ceil", "log": "exp",
    "cumsum": "cumprod", "append": "extend",
}  # fmt: skip
NAMES |= {other: name for name, other in NAMES.items() if other not in ("mean", "exp", "extend")}


@dataclass(frozen=True)
class Mutant:
    """A changed answer: its whole source, the change in one line, and the lines that differ."""

    change: str
    source: str
    difference: str


def mutants(exercise: Exercise) -> list[Mutant]:
    """All mutants of the exercise's first right answer, in the order of its source, each once."""
    tree = ast.parse(exercise.right_answers[0].source(exercise.name)).body[0]
    _drop_what_nobody_runs(tree)
    once = {name for name, n in Counter(_bound_names(tree)).items() if n == 1}
    before = ast.unparse(tree)
    seen = {ast.dump(tree)}
    found: list[Mutant] = []
    for path, change in _places(tree, once):
        changed = copy.deepcopy(tree)
        place = _at(changed, path[:-1])
        kind, number = path[-1]
        old = _get(place, kind, number)
        _set(place, kind, number, change(old))
        ast.fix_missing_locations(changed)
        if ast.dump(changed) in seen:
            continue
        seen.add(ast.dump(changed))
        source = ast.unparse(changed)
        found.append(Mutant(_describe(tree, changed, path), source, _difference(before, source)))
    return _numbered(found)


def sample(found: list[Mutant], at_most: int, keep: set[str], seed: str) -> list[Mutant]:
    """`at_most` of the mutants, the same ones for one seed, and those whose change is in `keep`."""
    listed = [m for m in found if m.change in keep]
    others = [m for m in found if m.change not in keep]
    if len(others) <= at_most:
        return found
    chosen = random.Random(seed).sample(range(len(others)), at_most)
    return listed + [others[i] for i in sorted(chosen)]


# --- where and how to change ---------------------------------------------------------------------

Step = tuple[str, int | None]  # a field, and the place in it when it is a list
Path = tuple[Step, ...]
Change = Callable[[ast.AST], ast.AST]


def _places(node: ast.AST, once: set[str], path: Path = ()) -> Iterator[tuple[Path, Change]]:
    """Every change below `node`, with the path to what it replaces. once: names that are bound once."""
    for field, value in ast.iter_fields(node):
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for number, child in children:
            if not isinstance(child, ast.AST):
                continue
            here = (*path, (field, number))
            for change in _changes(child, node, once):
                yield here, change
            yield from _places(child, once, here)


def _changes(node: ast.AST, parent: ast.AST, once: set[str]) -> Iterator[Change]:
    if isinstance(node, ast.stmt):
        yield from _statement_changes(node, once)
    elif isinstance(node, ast.expr) and not isinstance(getattr(node, "ctx", None), ast.Store):
        yield from _expression_changes(node, parent)
    elif isinstance(node, ast.Slice):
        for bound in ("lower", "upper", "step"):
            if getattr(node, bound) is not None:
                yield _with(bound, None)
    elif isinstance(node, ast.comprehension):
        yield from (_without("ifs", i) for i in range(len(node.ifs)))


def _statement_changes(node: ast.stmt, once: set[str]) -> Iterator[Change]:
    match node:
        case ast.Assign() if once.intersection(_bound_names(node)):
            pass  # without its only value a name raises, whatever is tested
        case ast.Expr() | ast.Assign() | ast.AugAssign() | ast.If() | ast.For() | ast.While():
            yield lambda _: ast.Pass()
        case ast.Break():
            yield lambda _: ast.Continue()
        case ast.Continue():
            yield lambda _: ast.Break()
    match node:
        case ast.If() | ast.While():
            yield from _negations(node.test)
        case ast.AugAssign():
            for operator in OPERATORS.get(type(node.op), ()):
                yield _with("op", operator())


def _expression_changes(node: ast.expr, parent: ast.AST) -> Iterator[Change]:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            yield from (_constant(n) for n in _neighbours(-number))
        case ast.UnaryOp():
            yield lambda _: copy.deepcopy(node.operand)
        case ast.Constant(value=value):
            is_minus = isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.USub)
            if isinstance(value, bool | int | float) and not is_minus:
                yield from (_constant(n) for n in _neighbours(value))
        case ast.BinOp(left=left, right=right):
            yield from _arithmetic_changes(node.op, left, right)
        case ast.Compare(ops=[op, *more]):
            for comparison in COMPARISONS[type(op)]:
                yield _with("ops", [comparison(), *more])
        case ast.BoolOp(op=op, values=values):
            yield _with("op", ast.Or() if isinstance(op, ast.And) else ast.And())
            yield from (_without("values", i, least=2) for i in range(len(values)))
        case ast.IfExp(test=test):
            yield from _negations(test)
        case ast.Call():
            yield from _call_changes(node)
        case ast.Subscript(value=inner, slice=index):
            yield lambda _: copy.deepcopy(inner)
            if isinstance(index, ast.Tuple) and len(index.elts) == 2:
                yield _with("slice", ast.Tuple([index.elts[1], index.elts[0]], ast.Load()))


def _arithmetic_changes(op: ast.operator, left: ast.expr, right: ast.expr) -> Iterator[Change]:
    for operator in OPERATORS.get(type(op), ()):
        yield _with("op", operator())
    yield lambda _: copy.deepcopy(left)
    yield lambda _: copy.deepcopy(right)
    if isinstance(op, ast.Sub | ast.Div | ast.MatMult | ast.Pow | ast.FloorDiv):
        yield lambda _: ast.BinOp(copy.deepcopy(right), op, copy.deepcopy(left))


def _call_changes(node: ast.Call) -> Iterator[Change]:
    match node.func:
        case ast.Attribute(attr=called) | ast.Name(id=called):
            pass
        case _:
            called = ""
    starred = any(isinstance(a, ast.Starred) for a in node.args[:2])
    if len(node.args) >= 2 and not starred and called not in SYMMETRIC:
        first, second, *others = node.args
        yield _with("args", [second, first, *others])
    for i, keyword in enumerate(node.keywords):
        if not (isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool)):
            yield _without("keywords", i)  # True and False are turned round as constants
    if isinstance(node.func, ast.Attribute) and not _is_module(node.func.value):
        receiver = node.func.value
        yield lambda _: copy.deepcopy(receiver)
    elif node.args and not isinstance(node.args[0], ast.Starred):
        argument = node.args[0]
        yield lambda _: copy.deepcopy(argument)
    match node.func:
        case ast.Attribute(attr=name) if name in NAMES:
            yield _with("func", ast.Attribute(node.func.value, NAMES[name], ast.Load()))
        case ast.Name(id="max" | "min" | "any" | "all" as name):
            yield _with("func", ast.Name(NAMES[name], ast.Load()))


def _is_module(node: ast.expr) -> bool:
    """torch, math, F, torch.nn: dropping the call to a module's function leaves its argument."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in ("torch", "math", "F", "nn", "super")


def _neighbours(value: bool | int | float) -> list[bool | int | float]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    return [value * 2 if value else 1.0, -value] if abs(value) != float("inf") else [-value]


def _constant(value: bool | int | float) -> Change:
    node: ast.expr = ast.Constant(abs(value) if type(value) is not bool else value)
    if type(value) is not bool and value < 0:
        node = ast.UnaryOp(ast.USub(), node)
    return lambda _: copy.deepcopy(node)


def _negations(test: ast.expr) -> Iterator[Change]:
    """The condition turned round, unless a change of its own operator does that."""
    is_not = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    if not is_not and not (isinstance(test, ast.Compare) and len(test.ops) == 1):
        yield _with("test", ast.UnaryOp(ast.Not(), test))


def _with(field: str, value: object) -> Change:
    def change(node: ast.AST) -> ast.AST:
        changed = copy.deepcopy(node)
        setattr(changed, field, copy.deepcopy(value))
        return changed

    return change


def _without(field: str, number: int, least: int = 0) -> Change:
    def change(node: ast.AST) -> ast.AST:
        changed = copy.deepcopy(node)
        items = getattr(changed, field)
        del items[number]
        return items[0] if len(items) < least else changed

    return change


def _bound_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _drop_what_nobody_runs(tree: ast.AST) -> None:
    """Without docstrings, annotations and error messages: to change them changes nothing."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                node.decorator_list = [d for d in node.decorator_list if _is_static(d)]
                if ast.get_docstring(node) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
        match node:
            case ast.FunctionDef():
                node.returns = None
            case ast.arg():
                node.annotation = None
            case ast.Raise(exc=ast.Call() as call):
                call.args, call.keywords = [], []


def _is_static(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Name) and decorator.id in ("staticmethod", "property")


# --- paths and words -----------------------------------------------------------------------------


def _get(node: ast.AST, field: str, number: int | None) -> ast.AST:
    value = getattr(node, field)
    return value if number is None else value[number]


def _set(node: ast.AST, field: str, number: int | None, value: ast.AST) -> None:
    if number is None:
        setattr(node, field, value)
    else:
        getattr(node, field)[number] = value


def _at(node: ast.AST, path: Path) -> ast.AST:
    for field, number in path:
        node = _get(node, field, number)
    return node


def _describe(tree: ast.AST, changed: ast.AST, path: Path) -> str:
    """ "before -> after", for the smallest part around the change that occurs once in the answer."""
    texts = Counter(
        ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.expr | ast.stmt)
    )
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for length in range(len(path), 0, -1):
        node = _at(tree, path[:length])
        text = ast.unparse(node)
        if isinstance(node, ast.stmt) or (
            isinstance(node, ast.expr)
            and any(isinstance(n, ast.Name) for n in ast.walk(node))
            and not isinstance(node, ast.Name | ast.Tuple | ast.Slice)
            and id(node) not in called
            and texts[text] == 1
        ):
            return f"{_head(text)} -> {_head(ast.unparse(_at(changed, path[:length])))}"
    return f"{_head(ast.unparse(tree))} -> {_head(ast.unparse(changed))}"  # a default argument


def _head(text: str) -> str:
    first, *rest = text.splitlines()
    return f"{first} ..." if rest else first


def _difference(before: str, after: str) -> str:
    """The lines that went and the lines that came."""
    old, new = before.splitlines(), after.splitlines()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return "\n".join(
        [*(f"- {line.strip()}" for line in old), *(f"+ {line.strip()}" for line in new)]
    )


def _numbered(found: list[Mutant]) -> list[Mutant]:
    """The second and later changes in the same words get a number."""
    seen: Counter[str] = Counter()
    numbered = []
    for m in found:
        seen[m.change] += 1
        n = seen[m.change]
        change = m.change if n == 1 else f"{m.change} ({n})"
        numbered.append(Mutant(change, m.source, m.difference))
    return numbered
