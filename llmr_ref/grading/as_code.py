"""Calls and values in words: as Python that a student can paste, and as results to read."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from llmr_ref.grading.exercise import Case, Exercise

MAX_LITERAL = 80  # numbers, or about as much text: what is larger is fetched


def call_as_code(exercise: Exercise, case: Case, number: int | None = None) -> str:
    """The case as Python that a student can paste; a large one is fetched as practice case `number`."""
    sizes = [_literal_size(v) for v in (*case.args, case.kwargs, case.init, case.state)]
    if number is not None and max(sizes) > MAX_LITERAL:
        return _call_that_fetches(exercise, case, number)

    def signature(args: Iterable[Any], kwargs: dict[str, Any]) -> str:
        parts = [*map(literal, args), *(f"{k}={literal(v)}" for k, v in kwargs.items())]
        if sum(map(len, parts)) > 60:
            return "\n    " + "\n    ".join(f"{part}," for part in parts) + "\n"
        return ", ".join(parts)

    if exercise.driver_source is not None:
        with_answer = signature((_Name(exercise.name), *case.args), case.kwargs)
        return f"{exercise.driver_source}\n{_driver_name(exercise)}({with_answer})"
    if case.init is None:
        return f"{exercise.name}({signature(case.args, case.kwargs)})"
    lines = [f"layer = {exercise.name}({signature((), case.init)})"]
    if case.state is not None:
        weights = ",\n    ".join(f"{k!r}: {literal(v)}" for k, v in case.state.items())
        lines.append(f"layer.load_state_dict({{\n    {weights},\n}})")
    lines.append(f"layer({signature(case.args, case.kwargs)})")
    return "\n".join(lines)


def _call_that_fetches(exercise: Exercise, case: Case, number: int) -> str:
    lines = [
        "from llmr_ref.grading import practice_case\n",
        f"case = practice_case({exercise.name!r}, {number})",
    ]
    named = {f"case.args[{i}]": v for i, v in enumerate(case.args)}
    named |= {f"case.kwargs[{k!r}]": v for k, v in case.kwargs.items()}
    lines += [f"# {name}: {_described(value)}" for name, value in named.items()]
    if exercise.driver_source is not None:
        lines.append(exercise.driver_source)
        lines.append(f"{_driver_name(exercise)}({exercise.name}, *case.args, **case.kwargs)")
    elif case.init is None:
        lines.append(f"{exercise.name}(*case.args, **case.kwargs)")
    else:
        lines.append(f"layer = {exercise.name}(**case.init)")
        if case.state is not None:
            lines.append("layer.load_state_dict(case.state)")
        lines.append("layer(*case.args, **case.kwargs)")
    return "\n".join(lines)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {dtype_of(value)} tensor of shape {tuple(value.shape)}"
    return kind_of(value)


def _driver_name(exercise: Exercise) -> str:
    return (exercise.driver_source or "").split("(")[0].removeprefix("def ")


class _Name(str):
    """Shown as it is, not as a string."""

    __repr__ = str.__str__


def _literal_size(value: Any) -> int:
    """How much there is to read in a value: numbers of a tensor, or what they would take as text."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple) and any(isinstance(v, Tensor | list | tuple) for v in value):
        return sum(map(_literal_size, value))
    return len(repr(value)) * MAX_LITERAL // 1500


def literal(value: Any) -> str:
    """Python source for a value of a case."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {literal(v)}" for k, v in value.items()) + "}"
    if type(value) is list:
        return f"[{', '.join(map(literal, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if not isinstance(value, Tensor):
        return repr(value)
    if not value.numel():  # a list says nothing of what else is in an empty shape, or its dtype
        return f"torch.zeros({tuple(value.shape)}, dtype=torch.{dtype_of(value)})"
    if value.dtype in (torch.float32, torch.int64, torch.bool):
        return f"torch.tensor({_numbers(value)})"
    return f"torch.tensor({_numbers(value)}, dtype=torch.{dtype_of(value)})"


def _numbers(value: Tensor) -> str:
    def text(x: Any) -> str:
        if isinstance(x, list):
            return "[" + ", ".join(map(text, x)) + "]"
        if not isinstance(x, float):
            return repr(x)
        if not math.isfinite(x):
            return f"float('{x}')"
        for digits in (6, 9):  # the fewest that give the number back
            number = f"{x:.{digits}g}"
            if torch.tensor(float(number), dtype=value.dtype).item() == x:
                break
        else:
            number = repr(x)
        return number if set(number) & set(".e") else f"{number}.0"

    return text(value.tolist())


def show(value: Any) -> str:
    """A result for reading: torch's own printing, kept short."""
    if isinstance(value, Tensor) and value.numel() > 80:
        head = value.flatten()[:6]
        return f"shape {tuple(value.shape)}, begins {_text(head)}"
    return _text(value)


def _text(value: Any) -> str:
    return (str(value) if isinstance(value, Tensor) else repr(value))[:1500]


def kind_of(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def dtype_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
