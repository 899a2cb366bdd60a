"""How long a student waits for `check`: the first call of a session and every later one."""

import contextlib
import io
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

from llmr_ref.grading.exercises import assignment_exercises

ROUNDS = 7
FIRST_CALLS = 3

FIRST_CALL = """
import time, torch  # a notebook has imported torch before its first check
start = time.perf_counter()
from llmr_ref.grading import check
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    check({name!r}, lambda *args, **kwargs: None)
print(time.perf_counter() - start)
"""


def main(assignment: str) -> int:
    """Print a table of waiting times in milliseconds; 0. Raises: KeyError for an unknown assignment."""
    from llmr_ref.grading.practice import check

    table = Table(title=f"check() in milliseconds, {assignment}: medians of {ROUNDS} rounds")
    for column in ("exercise", "first", "right", "wrong", "slowest"):
        table.add_column(column, justify="left" if column == "exercise" else "right")
    for exercise in assignment_exercises(assignment):
        firsts = [_first_call(exercise.name) for _ in range(FIRST_CALLS)]
        right = [
            _timed(check, exercise.name, exercise.right_answers[0].target) for _ in range(ROUNDS)
        ]
        wrong = [
            _timed(check, exercise.name, answer.target)
            for answer in exercise.wrong_answers
            for _ in range(ROUNDS)
        ]
        table.add_row(
            exercise.name,
            f"{statistics.median(firsts) * 1e3:.0f}",
            f"{statistics.median(right) * 1e3:.1f}",
            f"{statistics.median(wrong) * 1e3:.1f}",
            f"{max(wrong) * 1e3:.1f}",
        )
    Console().print(table)
    return 0


def _timed(check: object, name: str, target: object) -> float:
    assert callable(check)
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        check(name, target)
        return time.perf_counter() - start


def _first_call(name: str) -> float:
    command = [sys.executable, "-c", FIRST_CALL.format(name=name)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
