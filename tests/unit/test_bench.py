"""`llmr bench check`: what a student waits for."""

import re

from llmr_ref.grading import bench
from llmr_ref.grading.exercises import assignment_exercises


def test_every_exercise_gets_a_row_of_positive_times(monkeypatch, capsys):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "FIRST_CALLS", 1)
    first = assignment_exercises("attention")[:1]
    monkeypatch.setattr(bench, "assignment_exercises", lambda assignment: first)
    assert bench.main("attention") == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if first[0].name in line]
    times = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", row)]
    assert len(times) == 4 and all(time > 0 for time in times)
    assert times[2] <= times[3]
