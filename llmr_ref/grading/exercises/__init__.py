"""The exercises, one module each, and the assignments that they belong to."""

import importlib

from llmr_ref.grading.exercise import Exercise

ASSIGNMENTS: dict[str, tuple[str, ...]] = {
    "attention": (
        "softmax",
        "scaled_dot_product_attention",
        "causal_mask",
        "rope_angles",
        "apply_rope",
        "MultiHeadSelfAttention",
    ),
}

_MODULES = {"MultiHeadSelfAttention": "multi_head_self_attention"}


def exercise_names() -> list[str]:
    """Every exercise of every assignment, in order."""
    return [name for names in ASSIGNMENTS.values() for name in names]


def get_exercise(name: str) -> Exercise:
    """The exercise called `name`. Raises: KeyError, naming those that exist."""
    if name not in exercise_names():
        raise KeyError(f"there is no exercise {name!r}; there are: {', '.join(exercise_names())}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
    exercise: Exercise = module.exercise
    return exercise


def assignment_exercises(assignment: str) -> list[Exercise]:
    """The exercises of an assignment, in order. Raises: KeyError, naming those that exist."""
    if assignment not in ASSIGNMENTS:
        known = ", ".join(ASSIGNMENTS)
        raise KeyError(f"there is no assignment {assignment!r}; there are: {known}")
    return [get_exercise(name) for name in ASSIGNMENTS[assignment]]
