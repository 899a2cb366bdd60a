"""Exercises with their banks, and the grader. Students need one name: `check`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmr_ref.grading.practice import check, practice_case

__all__ = ["check", "practice_case"]


def __getattr__(name: str) -> Any:
    # On first use: a class run starts its workers before it loads torch itself.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmr_ref.grading import practice

    return getattr(practice, name)
