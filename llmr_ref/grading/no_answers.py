"""What is no answer: nothing, zeros, a constant, the question itself, the reference. All score 0."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmr_ref.grading import runner
from llmr_ref.grading.exercise import Exercise
from llmr_ref.grading.sandbox import available_tier, shared_worker
from llmr_ref.grading.verdict import Outcome, Trial, judge, practice_trials

# What each makes of (the first argument, the right result).
NO_ANSWERS: dict[str, Callable[[Any, Any], Any]] = {
    "None": lambda first, value: None,
    "a number": lambda first, value: 1.0,
    "the first argument": lambda first, value: first,
    "zeros": lambda first, value: filled(value, 0),
    "a constant": lambda first, value: filled(value, 0.5),
    "noise": lambda first, value: noise(value),
    "an empty result": lambda first, value: empty(value),
}


def filled(value: Any, number: float) -> Any:
    """Of the kind and shape of `value`, with nothing in it but `number`; for whole numbers rounded up."""
    if isinstance(value, Tensor):
        whole = not (value.is_floating_point() or value.is_complex())
        return torch.full_like(value, bool(number) if whole else number)
    if isinstance(value, dict):
        return {k: filled(v, number) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(filled(v, number) for v in value)
    if isinstance(value, bool | int):
        return type(value)(bool(number))
    if isinstance(value, float):
        return float(number)
    if isinstance(value, str | bytes):
        return type(value)()
    return value


def noise(value: Any) -> Any:
    """Of the kind and shape of `value`, with zeros and ones in tensors; the same on every call."""
    if isinstance(value, Tensor):
        generator = torch.Generator().manual_seed(0)
        return torch.rand(value.shape, generator=generator).round().to(value.dtype)
    if isinstance(value, dict):
        return {k: noise(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(noise(v) for v in value)
    return filled(value, 1)


def empty(value: Any) -> Any:
    """Of the kind of `value`, without anything in it."""
    if isinstance(value, Tensor):
        return value[:0] if value.dim() else value.new_empty(0)
    return type(value)() if isinstance(value, dict | list | tuple | str | bytes) else None


def score_of(exercise: Exercise, kind: str, trials: list[Trial]) -> float:
    """What a result of this kind scores where everything beside the value is right."""

    def outcome(trial: Trial) -> Outcome:
        args = (*trial.case.args, *trial.case.kwargs.values(), None)
        value = NO_ANSWERS[kind](args[0], trial.expected["value"])
        return trial.expected | {"value": value, "gradients": {}}

    return judge(exercise, trials, [outcome(t) for t in trials]).score


def score_of_import(exercise: Exercise) -> float:
    """What the reference scores when a submission imports it: run where submissions run."""
    reference = exercise.reference
    cell = f"from {reference.__module__} import {reference.__qualname__} as {exercise.name}"
    trials = practice_trials(exercise)
    ran = shared_worker(available_tier()[0]).run([cell], exercise.name, [t.call for t in trials])
    return judge(exercise, trials, ran.outcomes).score


def stub(*args: object, **kwargs: object) -> None:
    """The untouched answer cell of the release notebook."""
    raise NotImplementedError


def score_of_stub(exercise: Exercise) -> float:
    """What the untouched release notebook scores."""
    trials = practice_trials(exercise)
    return judge(exercise, trials, [runner.run_call(stub, t.call) for t in trials]).score
