"""Where a student's code uses a built-in that the exercise asks to build. A rule of the exercise, no wall.

Two readings that complete each other: the code, with its aliases resolved, and the calls that torch saw
while the answer ran (`runner.record_calls`). Code that is written to hide a call can hide it from both.
"""

import ast
import functools
import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel

# How much is read: code that is longer was not written to be read, and reading must not take long.
MAX_CELL, MAX_NOTEBOOK, MAX_DEFINITIONS = 100_000, 500_000, 200  # characters, characters, number
MAX_ATTRIBUTES = 12  # in a row
NO_PYTHON = re.compile(r"^([ \t]*)[%!?].*$", re.M)  # magics and shell commands of a notebook
METHODS_OF = "torch.Tensor."


class Use(BaseModel):
    """A forbidden built-in in the answer; line as the student counts it in the cell, if it is known."""

    name: str
    line: int | None = None


@dataclass
class _Module:
    """What the notebook's cells bind at their top level."""

    definitions: dict[str, ast.AST] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    starred: set[str] = field(default_factory=set)


def forbidden_uses(
    cells: Iterable[str | None], name: str, forbids: Sequence[str], called: Iterable[str] = ()
) -> list[Use]:
    """Uses of `forbids` in what `name` is, and in the functions of the notebook that it refers to.

    called: the names that torch saw called. A method of an unknown object counts only when it is among
    them: `helper.softmax` may be the student's own.
    """
    called = [n for n in dict.fromkeys(called) if n in forbids]
    if not forbids:
        return []
    module = _read(cells)
    uses: dict[str, Use] = {}
    for node in _reachable(module, name):
        for use, certain in _uses_in(node, module, forbids):
            if certain or use.name in called:
                uses.setdefault(use.name, use)
    if uses:  # the code says which line; what torch calls inside of it adds nothing
        return list(uses.values())
    return [Use(name=n) for n in called]


def _read(cells: Iterable[str | None]) -> _Module:
    module = _Module()
    budget = MAX_NOTEBOOK
    for cell in cells:
        budget -= len(cell or "")
        tree = _parse(cell or "") if budget >= 0 else None
        if tree is None:
            continue
        for statement in _top_level(tree):
            match statement:
                case (
                    ast.FunctionDef(name=name)
                    | ast.AsyncFunctionDef(name=name)
                    | ast.ClassDef(name=name)
                ):
                    module.definitions[name] = statement
                    module.aliases.pop(name, None)
                case ast.Import() | ast.ImportFrom():
                    for bound, target in _imported(statement):
                        if bound == "*":
                            module.starred.add(target)
                            continue
                        module.aliases[bound] = target
                        module.definitions[bound] = statement
                case ast.Assign(targets=targets, value=value):
                    for left in targets:
                        if isinstance(left, ast.Name):
                            _bind(module, left.id, value, statement)
                case ast.AnnAssign(target=ast.Name(id=bound), value=ast.expr() as value):
                    _bind(module, bound, value, statement)
    return module


def _bind(module: _Module, name: str, value: ast.expr, statement: ast.stmt) -> None:
    path = _path(value, module.aliases)
    module.definitions[name] = statement
    if path:
        module.aliases[name] = path
    else:
        module.aliases.pop(name, None)


@functools.lru_cache(maxsize=64)  # the cells of a notebook are read for each of its exercises
def _parse(cell: str) -> ast.Module | None:
    if len(cell) > MAX_CELL:
        return None
    for text in (cell, NO_PYTHON.sub(r"\1pass", cell)):
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def _top_level(tree: ast.Module) -> Iterable[ast.stmt]:
    """Statements that bind names of the notebook, those below if, try, with and for included."""
    waiting: deque[ast.stmt] = deque(tree.body)
    while waiting:
        statement = waiting.popleft()
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = [n for n in ast.iter_child_nodes(statement)]
            for node in inner:
                if isinstance(node, ast.stmt):
                    waiting.append(node)
                elif isinstance(node, ast.ExceptHandler | ast.match_case):
                    waiting += node.body


def _imported(statement: ast.Import | ast.ImportFrom) -> Iterable[tuple[str, str]]:
    """Bound name and full path of each import: `import torch.nn as m` binds m to torch.nn."""
    for alias in statement.names:
        if isinstance(statement, ast.ImportFrom):
            base = statement.module or ""
            if alias.name == "*":
                yield "*", base
            else:
                yield alias.asname or alias.name, f"{base}.{alias.name}"
        elif alias.asname:
            yield alias.asname, alias.name
        else:
            root = alias.name.split(".")[0]
            yield root, root


def _reachable(module: _Module, name: str) -> list[ast.AST]:
    """The definition of `name` and those of the notebook that it refers to, each once."""
    found: dict[str, ast.AST] = {}
    waiting = [name]
    while waiting and len(found) < MAX_DEFINITIONS:
        wanted = waiting.pop()
        if wanted in found or wanted not in module.definitions:
            continue
        found[wanted] = module.definitions[wanted]
        for node in ast.walk(found[wanted]):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                waiting.append(node.id)
    # An import is where a name comes from, not a use of it, unless the answer itself is imported.
    return [
        node
        for key, node in found.items()
        if key == name or not isinstance(node, ast.Import | ast.ImportFrom)
    ]


def _uses_in(node: ast.AST, module: _Module, forbids: Sequence[str]) -> Iterable[tuple[Use, bool]]:
    """Uses below `node`, and whether each is certain from the code alone."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        for _, target in _imported(node):
            if target in forbids:
                yield Use(name=target, line=node.lineno), True
        return
    aliases, starred, own = _names_below(node, module)
    methods = {n.removeprefix(METHODS_OF): n for n in forbids if n.startswith(METHODS_OF)}
    for inner in ast.walk(node):
        if not isinstance(inner, ast.expr):
            continue
        path = _path(inner, aliases)
        if isinstance(inner, ast.Name) and inner.id not in own:
            path = path or next((p for s in starred if (p := f"{s}.{inner.id}") in forbids), None)
        if path is not None:
            if path in forbids:
                yield Use(name=path, line=inner.lineno), True
        elif (attribute := _attribute(inner)) in methods:
            yield Use(name=methods[attribute], line=inner.lineno), False


def _names_below(node: ast.AST, module: _Module) -> tuple[dict[str, str], set[str], set[str]]:
    """Aliases that hold below `node`, modules imported whole, and names that are the student's own."""
    aliases, starred, own = dict(module.aliases), set(module.starred), set(module.definitions)
    local: set[str] = set()
    for inner in ast.walk(node):
        match inner:
            case ast.Import() | ast.ImportFrom():
                for bound, source in _imported(inner):
                    if bound == "*":
                        starred.add(source)
                    else:
                        aliases[bound] = source
            case ast.arg(arg=name):
                local.add(name)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                path = _path(value, aliases)
                if path:
                    aliases[name] = path
                else:
                    local.add(name)
    return {k: v for k, v in aliases.items() if k not in local}, starred, own | local


def _attribute(node: ast.expr) -> str:
    """The attribute that an expression reads, by a dot or by getattr with a constant; "" for none."""
    match node:
        case ast.Attribute(attr=attr):
            return attr
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(attr)), *_]):
            return attr
    return ""


def _path(node: ast.expr, aliases: dict[str, str]) -> str | None:
    """The full path that an expression names, like torch.nn.functional.softmax; None for no such path."""
    attributes: list[str] = []
    while len(attributes) < MAX_ATTRIBUTES:
        match node:
            case ast.Name(id=name) if name in aliases:
                return ".".join([aliases[name], *reversed(attributes)])
            case ast.Attribute(value=base, attr=attr):
                attributes.append(attr)
                node = base
            case ast.Call(
                func=ast.Name(id="getattr"), args=[base, ast.Constant(value=str(attr)), *_]
            ):
                attributes += reversed(attr.split("."))
                node = base
            case ast.Call(
                func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                return ".".join([name, *reversed(attributes)])
            case _:
                return None
    return None
