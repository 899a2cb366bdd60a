"""Exercises with their banks, and the grader. Students need one name: `check`."""

from llmr_ref.grading.check import check

__all__ = ["check"]
