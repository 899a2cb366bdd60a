"""The backprop stepper: any small expression as a graph, one step forward or backward at a time.

>>> BackpropStepper()  # L2's neuron: gradients 16, -12 and 4
>>> BackpropStepper("L = log(exp(a) + exp(b)) - a", {"a": 2, "b": 1})
>>> BackpropStepper(value_class=Value)  # a student's class, its gradients beside the reference's
"""

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import traitlets

from llmr_ref import backprop
from llmr_ref.backprop import Value
from llmr_ref.widgets.embed import (
    Golden,
    StateError,
    StudentsWidget,
    code_lines,
    module_source,
    within,
)
from llmr_ref.widgets.still import KEY, QUERY, _svg, _text

LECTURE = "h1 = w1*x1; h2 = w2*x2; y = h1 + h2 + b; d = y_true - y; L = d**2"
LECTURE_VALUES = {"w1": 2.0, "x1": 4.0, "w2": -1.0, "x2": -3.0, "b": 1.0, "y_true": 10.0}
LECTURE_DATA = ("x1", "x2", "y_true")
LONGEST, MOST_NODES = 240, 40
FUNCTIONS = ("exp", "log", "tanh", "relu", "max")


# --- from text to a graph --------------------------------------------------------------------------

_REFERENCE: dict[str, Callable[..., Any]] = {
    "+": backprop.add,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
    "neg": lambda a: -a,
    "exp": Value.exp,
    "log": Value.log,
    "tanh": Value.tanh,
    "relu": Value.relu,
    "max": lambda a, b: (a if isinstance(a, Value) else Value(a)).maximum(b),
}
# What a class with +, *, ** and exp can do, in this order of operands: all that the exercise asks for.
_ANY_CLASS: dict[str, Callable[..., Any]] = {
    "+": lambda first, *more: _added(first, more),
    "-": lambda a, b: b * -1.0 + a if isinstance(a, float) else a + b * -1.0,
    "*": lambda a, b: b * a if isinstance(a, float) else a * b,
    "/": lambda a, b: b**-1.0 * a if isinstance(a, float) else a * b**-1.0,
    "**": lambda a, b: a**b,
    "neg": lambda a: a * -1.0,
    "exp": lambda a: a.exp(),
    "log": lambda a: a.log(),
    "tanh": lambda a: a.tanh(),
    "relu": lambda a: a.relu(),
    "max": lambda a, b: a.maximum(b),
}
_NUMBERS: dict[str, Callable[..., float]] = {
    "+": lambda *terms: sum(terms),
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
    "neg": lambda a: -a,
    "exp": math.exp,
    "log": math.log,
    "tanh": math.tanh,
    "relu": lambda a: max(0.0, a),
    "max": max,
}
_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}


def _added(first: Any, more: tuple[Any, ...]) -> Any:
    for term in more:
        first = term + first if isinstance(first, float) else first + term
    return first


def build(
    expression: str, values: Mapping[str, float], make: Callable[[float], Any] = Value
) -> tuple[Any, dict[str, Any]]:
    """(the value of the last statement, the leaves by name) of "h = w * x; L = h**2".

    A name that was not assigned is a leaf, 1 unless `values` says otherwise; calculations with numbers
    alone are done at once. `make` wraps a leaf's value. Nothing is evaluated as Python.
    Raises: StateError for what is not an expression of this kind; what Value raises.
    """
    if len(expression) > LONGEST:
        raise StateError(f"expression may have {LONGEST} characters, got {len(expression)}")
    try:
        statements = ast.parse(expression.replace("^", "**").strip(" ;")).body
    except (SyntaxError, ValueError) as error:
        raise StateError(f"expression {expression!r} cannot be read: {error}") from None
    operations = _REFERENCE if make is Value else _ANY_CLASS
    leaves: dict[str, Any] = {}
    assigned: dict[str, Any] = {}

    def apply(operation: str, *operands: Any) -> Any:
        numbers = all(isinstance(operand, float) for operand in operands)
        return (_NUMBERS if numbers else operations)[operation](*operands)

    def terms(node: ast.expr) -> list[ast.expr]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return [*terms(node.left), node.right]
        return [node]

    def walk(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            assert isinstance(node.value, int | float)
            return float(node.value)
        if isinstance(node, ast.Name):
            if node.id in assigned:
                return assigned[node.id]
            if node.id not in leaves:
                leaves[node.id] = make(float(values.get(node.id, 1.0)))
                if make is Value:
                    leaves[node.id].label = node.id
            return leaves[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return apply("neg", walk(node.operand))
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            operation = _BINARY[type(node.op)]
            if operation == "+":
                return apply("+", *(walk(term) for term in terms(node)))
            return apply(operation, walk(node.left), walk(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            name, n = node.func.id, len(node.args)
            if name in FUNCTIONS and n == (2 if name == "max" else 1):
                return apply(name, *(walk(argument) for argument in node.args))
        raise StateError(
            f"expression {expression!r} has more than numbers, names, + - * / ** and "
            f"{', '.join(FUNCTIONS)}: {ast.unparse(node)!r}"
        )

    result: Any = None
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            result = walk(statement.value)
            if name in assigned or name in leaves or name in FUNCTIONS:
                raise StateError(f"{name} has a meaning already in {expression!r}")
            assigned[name] = result
            if isinstance(result, Value) and not result.label:
                result.label = name
        elif isinstance(statement, ast.Expr):
            result = walk(statement.value)
        else:
            raise StateError(f"{ast.unparse(statement)!r} is neither an expression nor name = ...")
    if result is None or isinstance(result, float) or any(result is x for x in leaves.values()):
        raise StateError(f"expression {expression!r} computes nothing from a name")
    if isinstance(result, Value) and len(backprop.topological_order(result)) > MOST_NODES:
        raise StateError(f"a graph may have {MOST_NODES} nodes at most")
    return result, leaves


def walk_steps(output: Value, leaves: Mapping[str, Value], data: list[str]) -> int:
    """Steps to walk: every operation, the 1 at the output, every edge that leads to a leaf that learns."""
    learns = {id(leaf) for name, leaf in leaves.items() if name not in data}
    order = backprop.topological_order(output)
    for value in order:  # inputs first
        if any(id(child) in learns for child, _ in value.inputs):
            learns.add(id(value))
    operations = sum(bool(value.inputs) for value in order)
    return operations + 1 + sum(id(child) in learns for value in order for child, _ in value.inputs)


# --- the widget ------------------------------------------------------------------------------------


class BackpropStepper(StudentsWidget):
    """A computation graph, walked forwards and backwards, and a step of gradient descent.

    expression: statements with numbers, names, + - * / **, exp, log, tanh, relu, max; the last is the
    loss. values: of the leaves (1 if not named). data: leaves that do not learn. step: how far the walk
    has come; None for all of it. before: the values before a step of descent.
    value_class: a student's class in place of `Value`, with +, *, **, exp, `backward()`, `.value` and
    `.gradient`; asked for every state, its gradients shown beside the reference's.

    Raises: ValueError (traitlets.TraitError for a wrong type) naming the bad value.
    """

    _esm = module_source("backprop_stepper")

    expression = traitlets.Unicode(LECTURE).tag(sync=True)
    values = traitlets.Dict(default_value=LECTURE_VALUES).tag(sync=True)
    data = traitlets.List(traitlets.Unicode(), default_value=list(LECTURE_DATA)).tag(sync=True)
    eta = traitlets.Float(0.01).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    before = traitlets.Dict().tag(sync=True)
    code = traitlets.List(
        code_lines(
            backprop.trace,
            begin="for parent in reversed",
            local="for value, local in",
            upstream="upstream = gradients[parent]",
            gradient="gradients[child] +=",
        )[:6]
    ).tag(sync=True)

    def __init__(
        self,
        expression: str = LECTURE,
        values: Mapping[str, float] | None = None,
        *,
        step: int | None = None,
        value_class: Callable[[float], Any] | None = None,
        **more: Any,
    ) -> None:
        if value_class is not None and not callable(value_class):
            raise TypeError(f"value_class must be callable, got {type(value_class).__name__}")
        self._value_class: Callable[[float], Any] | None = None  # not asked before all is set
        if values is None:
            values = LECTURE_VALUES
        values = {str(name): float(value) for name, value in values.items()}
        output, leaves = build(expression, values)
        used = {name: values.get(name, 1.0) for name in leaves}
        last = walk_steps(output, leaves, list(more.get("data", LECTURE_DATA)))
        super().__init__(
            expression=expression, values=used, step=last if step is None else step, **more
        )
        within("step", self.step, 0, last)
        self._value_class = value_class
        self._call_class()

    @traitlets.validate("expression")
    def _check_expression(self, proposal: Any) -> str:
        try:
            build(proposal["value"], self.values)
        except StateError:
            raise
        except (ValueError, ArithmeticError):
            pass  # well formed; it is the values that do not fit, and they may change
        return proposal["value"]

    @traitlets.validate("values", "before")
    def _check_values(self, proposal: Any) -> dict[str, float]:
        for name, value in proposal["value"].items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise StateError(f"the value of {name} must be a number, got {value!r}")
            within(f"the value of {name}", value, -1e6, 1e6)
        return proposal["value"]

    @traitlets.validate("eta")
    def _check_eta(self, proposal: Any) -> float:
        return within("eta", proposal["value"], 1e-4, 10)

    @traitlets.validate("step")
    def _check_step(self, proposal: Any) -> int:
        return within("step", proposal["value"], 0, 3 * MOST_NODES)

    def output(self) -> tuple[Value, dict[str, Value]]:
        """The reference's loss after `backward`, and its leaves."""
        output, leaves = build(self.expression, self.values)
        output.backward()
        return output, leaves

    @traitlets.observe("expression", "values")
    def _call_class(self, change: Any = None) -> None:
        """Send the gradients of the student's class for the present state, or its error."""
        if self._value_class is not None:
            self._ask_about(("expression", "values"), self._checked)

    def _checked(self) -> dict[str, Any]:
        assert self._value_class is not None
        output, leaves = build(self.expression, self.values, self._value_class)
        output.backward()
        gradients = {name: float(leaf.gradient) for name, leaf in leaves.items()}
        if not all(map(math.isfinite, [float(output.value), *gradients.values()])):
            raise ValueError("it gave a value or a gradient that is not finite")
        return {"output": float(output.value), "gradients": gradients}

    def description(self) -> str:
        output, leaves = self.output()
        gradients = ", ".join(
            f"{leaf.gradient:g} for {name}"
            for name, leaf in leaves.items()
            if name not in self.data
        )
        return (
            f"Computation graph of {self.expression}. Its value is {output.value:g}; "
            f"the gradients are {gradients}."
        )

    def picture(self) -> str:
        output, _ = self.output()
        drawing = backprop.graph(output)
        nodes, edges = drawing["nodes"], drawing["edges"]
        inputs: dict[int, list[int]] = {node["id"]: [] for node in nodes}
        parents: dict[int, list[int]] = {node["id"]: [] for node in nodes}
        for edge in edges:
            inputs[edge["parent"]].append(edge["child"])
            parents[edge["child"]].append(edge["parent"])
        layer: dict[int, int] = {}
        row: dict[int, float] = {}
        for i, children in inputs.items():
            layer[i] = 1 + max((layer[c] for c in children), default=-1)
            leaves_so_far = sum(not inputs[j] for j in row)
            row[i] = (
                sum(row[c] for c in children) / len(children) if children else float(leaves_so_far)
            )
        for i in inputs:
            if not inputs[i] and parents[i]:
                layer[i] = min(layer[p] for p in parents[i]) - 1
        place = {i: (128.0 * layer[i] + 8, 54.0 * row[i] + 8) for i in inputs}
        parts = []
        for edge in edges:
            (x0, y0), (x1, y1) = place[edge["child"]], place[edge["parent"]]
            parts.append(
                f'<path d="M{x0 + 92} {y0 + 22:g}L{x1} {y1 + 22:g}" stroke="currentColor"/>'
                f'<text x="{(x0 + 92 + x1) / 2:g}" y="{(y0 + y1) / 2 + 19:g}" text-anchor="middle" '
                f'font-size="11">{edge["local_derivative"]:.4g}</text>'
            )
        for node in nodes:
            x, y = place[node["id"]]
            name = node["label"] or node["operation"]
            parts.append(
                f'<rect x="{x}" y="{y:g}" width="92" height="44" rx="6" fill="none" '
                f'stroke="currentColor"/><text x="{x + 8}" y="{y + 18:g}" font-size="12">{_text(name)}'
                f' <tspan font-weight="bold" fill="{QUERY}">{node["value"]:.4g}</tspan></text>'
                f'<text x="{x + 8}" y="{y + 36:g}" font-size="11" fill="{KEY}">gradient '
                f"{node['gradient']:.4g}</text>"
            )
        width = max(x for x, _ in place.values()) + 104
        height = max(y for _, y in place.values()) + 56
        return _svg(
            width, height, "Computation graph with values, derivatives and gradients", parts
        )

    @classmethod
    def golden(cls) -> Iterator[Golden]:
        cases: list[tuple[str, dict[str, float]]] = [
            (LECTURE, LECTURE_VALUES),
            (LECTURE, {**LECTURE_VALUES, "w1": 1.84, "w2": -0.88, "b": 0.96}),
            ("L = w*w + w", {"w": 3}),
            ("a = log(exp(z1) + exp(z2) + exp(z3)); L = a - z2", {"z1": 2, "z2": 1, "z3": 0}),
            ("h = relu(w*x + b); L = (y_true - h)^2", {"w": -1, "x": 2, "b": 0.5, "y_true": 1}),
            ("tanh(w3*tanh(w2*tanh(w1*x)))", {"w1": 2, "w2": 1.5, "w3": -1, "x": 3}),
            ("-a**2 / (b + 3) - 2*-a", {"a": 1.5, "b": -2}),
            ("a**b + 2**a + a**-1.5 + a**0", {"a": 1.7, "b": -0.4}),
            ("max(a, b) + max(a, a) + max(2, a) * (1 + b + 2) + a", {"a": 2, "b": 2}),
            ("c = a - 2 - b; d = 3 - (a - b); c*d/ (a/b) + (a + (b + c)) + 1e-2*.5", {"a": 3, "b": 2}),
            ("s = 1/(1 + exp(-(w*x + b))); L = -log(s)", {"w": 0.3, "x": -2, "b": 0.1}),
        ]  # fmt: skip
        for expression, values in cases:
            output, leaves = build(expression, values)
            output.backward()
            expected = {**backprop.graph(output), "steps": backprop.trace(output)}
            yield Golden("walk", [expression, values], expected)
            for data, eta in (([], 0.01), (["b", "x", "y_true"], 0.5)):
                moved = {
                    name: leaf.value - (0 if name in data else eta * leaf.gradient)
                    for name, leaf in leaves.items()
                }
                yield Golden("descend", [expression, values, data, eta], moved)
