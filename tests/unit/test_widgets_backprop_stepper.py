"""The backprop stepper in Python: expressions, bad arguments, a student's class."""

import math
from typing import Any

import pytest
import torch
import traitlets

from llmr_ref.backprop import topological_order
from llmr_ref.widgets import BackpropStepper
from llmr_ref.widgets.backprop_stepper import LECTURE, LECTURE_DATA, LECTURE_VALUES, build


def gradients(widget: BackpropStepper) -> dict[str, float]:
    _, leaves = widget.output()
    return {name: leaf.gradient for name, leaf in leaves.items()}


def test_the_numbers_of_the_lecture() -> None:
    widget = BackpropStepper()
    output, leaves = widget.output()
    values = {value.label: value.value for value in topological_order(output)}
    assert (values["y"], values["L"]) == (12, 4)
    expected = {"w1": 16, "w2": -12, "b": 4}
    assert {name: gradients(widget)[name] for name in expected} == expected
    moved = {name: leaf.value - widget.eta * leaf.gradient for name, leaf in leaves.items()}
    widget.values = {**widget.values, **{name: moved[name] for name in expected}}
    assert widget.values["w1"] == pytest.approx(1.84)
    after = {value.label: value.value for value in topological_order(widget.output()[0])}
    assert after["y"] == pytest.approx(10.96)


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("-a**2 / (b + 3) - 2*-a", {"a": 1.5, "b": -2.0}),
        ("a**b + 2**a + a^-1.5 + a**0", {"a": 1.7, "b": -0.4}),
        ("s = exp(a) + exp(b); log(s) - tanh(a*b) + relu(b)", {"a": 0.3, "b": 1.0}),
        ("c = a - 2 - b; d = 3 - (a - b); c*d/(a/b) + max(a, b)", {"a": 3.0, "b": 2.5}),
    ],
)
def test_expressions_mean_what_torch_means(expression: str, values: dict[str, float]) -> None:
    output, leaves = build(expression, values)
    output.backward()
    tensors = {
        k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in values.items()
    }
    names: dict[str, Any] = dict(exp=torch.exp, log=torch.log, tanh=torch.tanh, relu=torch.relu)
    names |= {"max": torch.maximum, **tensors}
    *statements, last = expression.replace("^", "**").split(";")
    for statement in statements:
        exec(statement.strip(), names)
    result = eval(last.strip(), names)
    result.backward()
    assert output.value == pytest.approx(result.item())
    for name, tensor in tensors.items():
        assert tensor.grad is not None
        assert leaves[name].gradient == pytest.approx(tensor.grad.item())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expression": "w +"}, "cannot be read"),
        ({"expression": ""}, "computes nothing"),
        ({"expression": "2 + 3"}, "computes nothing"),
        ({"expression": "w"}, "computes nothing"),
        ({"expression": "sin(w)"}, r"sin\(w\)"),
        ({"expression": "w.real"}, "more than numbers"),
        ({"expression": "__import__('os')"}, "more than numbers"),
        ({"expression": "[w][0]"}, "more than numbers"),
        ({"expression": "True * w"}, "more than numbers"),
        ({"expression": "w % 2"}, "more than numbers"),
        ({"expression": "a = w; a = w * 2"}, "has a meaning already"),
        ({"expression": "w = w * 2"}, "has a meaning already"),
        ({"expression": "import os"}, "neither an expression"),
        ({"expression": "w*" * 200 + "w"}, "240 characters"),
        ({"expression": "+".join(f"w*{i}" for i in range(30))}, "40 nodes"),
        ({"expression": "log(w)", "values": {"w": -1}}, "log needs a positive"),
        ({"expression": "1/w", "values": {"w": 0}}, "divide"),
        ({"values": {"w1": math.inf}}, "value of w1"),
        ({"eta": 0.0}, "eta must lie"),
        ({"step": 14}, "step must lie in 0..13"),
        ({"value_class": 3}, "value_class must be callable, got int"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    errors = (ValueError, TypeError, ZeroDivisionError, traitlets.TraitError)
    with pytest.raises(errors, match=message):
        BackpropStepper(**arguments)


def test_an_expression_is_data_and_never_run() -> None:
    with pytest.raises(ValueError, match="more than numbers"):
        build("(lambda: 1)()", {})
    assert build("3*w + 1", {"w": 2})[0].value == 7


def test_a_bad_state_is_refused_and_forgotten() -> None:
    widget = BackpropStepper()
    with pytest.raises(traitlets.TraitError):
        widget.expression = "w +"
    assert widget.expression == LECTURE
    widget.expression = "log(w1)"  # fits, though not every value will
    assert gradients(widget) == {"w1": 0.5}


class Number:
    """What the exercise asks of a student: +, *, ** and exp, with numbers too."""

    factor = 1.0

    def __init__(self, value: float, inputs: tuple[tuple["Number", float], ...] = ()) -> None:
        self.value, self.inputs, self.gradient = value, inputs, 0.0

    def __add__(self, other: Any) -> "Number":
        other = other if isinstance(other, Number) else Number(other)
        return type(self)(self.value + other.value, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other: Any) -> "Number":
        other = other if isinstance(other, Number) else Number(other)
        locals_ = ((self, self.factor * other.value), (other, self.value))
        return type(self)(self.value * other.value, locals_)

    def __pow__(self, n: float) -> "Number":
        return type(self)(self.value**n, ((self, n * self.value ** (n - 1)),))

    def exp(self) -> "Number":
        return type(self)(math.exp(self.value), ((self, math.exp(self.value)),))

    def backward(self, upstream: float = 1.0) -> None:
        print("going back")
        self.gradient += upstream
        for value, local in self.inputs:
            value.backward(upstream * local)


class Wrong(Number):
    factor = 0.5


def test_a_students_class_is_asked_for_every_state(capsys: pytest.CaptureFixture[str]) -> None:
    widget = BackpropStepper(value_class=Number)
    trained = {"w1": 16, "w2": -12, "b": 4}
    assert {k: widget.student["gradients"][k] for k in trained} == trained
    widget.values = {**widget.values, "b": 3.0}
    assert widget.student["state"]["values"]["b"] == 3
    assert widget.student["gradients"]["b"] == 8
    widget.expression = "log(b)"
    assert "AttributeError" in widget.student["error"]
    assert "gradients" not in widget.student
    widget.expression = "1 / (1 + exp(-b)) - 3 / b"
    assert widget.student["gradients"]["b"] == pytest.approx(gradients(widget)["b"])
    assert capsys.readouterr().out == ""


def test_a_wrong_or_failing_class_is_contained() -> None:
    assert BackpropStepper(value_class=Wrong).student["gradients"]["w1"] == 4
    error = BackpropStepper(value_class=lambda x: 1 / 0).student["error"]
    assert error == "ZeroDivisionError: division by zero"


def test_words_and_picture() -> None:
    widget = BackpropStepper()
    assert "16 for w1, -12 for w2, 4 for b" in widget.description()
    assert "gradient -12" in widget.picture()
    assert widget.step == 13
    assert list(widget.values) != list(LECTURE_DATA)
    assert widget.values == LECTURE_VALUES
