"""The kill matrix fails when, and only when, a bar is missed."""

import copy

import pytest

from llmr_ref.grading import matrix
from llmr_ref.grading.matrix import Result, Row, bars_missed
from llmr_ref.grading.mutants import Mutant
from llmr_ref.grading.survivors import Hunt


def row(kind, problem="", score=0.0):
    return Row("exercise", kind, "an answer", score, 2.0, "", problem)


def good():
    """100 wrong answers and 100 mutants of two exercises, with nothing to complain about."""
    rows = [row("wrong") for _ in range(50)] + [row("right", score=2.0), row("nothing")]
    return [Result(copy.deepcopy(rows), Hunt(made=60, tried=50, caught=50), []) for _ in range(2)]


def survivors(n):
    return [Mutant(f"a -> b ({i})", "b", "- a\n+ b") for i in range(n)]


def test_all_bars_reached_is_no_bar_missed():
    assert bars_missed(good()) == []


def test_a_few_unnamed_answers_and_survivors_are_allowed():
    results = good()
    for r in results[0].rows[:5]:
        r.problem = "not named"
    results[1].mutants = Hunt(made=60, tried=50, caught=48, survivors=survivors(2))
    assert bars_missed(results) == []


@pytest.mark.parametrize(
    "kind, problem, bar",
    [
        ("wrong", "keeps full marks", "every wrong answer loses marks"),
        ("wrong", "diagnosed as another", "no wrong answer is taken for another"),
        ("right", "loses points: something", "every right answer keeps full marks"),
        ("nothing", "scores 1, must be 0", "what is no answer scores nothing"),
    ],
)
def test_one_answer_misses_a_bar(kind, problem, bar):
    results = good()
    next(r for r in results[1].rows if r.kind == kind).problem = problem
    assert bars_missed(results) == [bar]


def test_too_many_unnamed_answers_miss_the_bar():
    results = good()
    for r in results[0].rows[:6]:
        r.problem = "not named"
    assert bars_missed(results) == ["95% of the wrong answers are named"]


def test_too_many_surviving_mutants_miss_the_bar_and_equivalent_ones_do_not_count():
    results = good()
    results[0].mutants = Hunt(made=60, tried=50, caught=47, survivors=survivors(3))
    assert bars_missed(results) == ["98% of the mutants are caught"]
    results[0].mutants = Hunt(made=60, tried=50, caught=20, equivalent=30)
    assert bars_missed(results) == []


def test_the_matrix_shows_survivors_with_their_difference_and_says_how_many_were_run(
    monkeypatch, capsys
):
    hunt = Hunt(made=90, tried=60, caught=55, equivalent=4, survivors=survivors(1))
    found = {"softmax": Result([row("wrong"), row("right", score=2.0)], hunt, [])}
    monkeypatch.setitem(matrix.ASSIGNMENTS, "attention", ("softmax", "causal_mask"))
    monkeypatch.setattr(matrix, "processes", lambda: InThisProcess(found))
    assert matrix.main(["attention"], at_most=60) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "60 of 90 mutants run (at most 60 an exercise" in shown
    assert "4 are listed as equivalent; 98.2% of the others are caught" in shown
    assert "softmax lets a mutant pass: a -> b (0) - a + b" in shown
    assert "causal_mask cannot be examined: KeyError" in shown
    monkeypatch.setitem(matrix.ASSIGNMENTS, "attention", ("softmax",))
    assert matrix.main(["attention"]) == 0


class InThisProcess:
    """In place of a pool: gives what is known, and raises for what is not."""

    def __init__(self, found):
        self.found = found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, function, name, at_most):
        from concurrent.futures import Future

        future = Future()
        if name in self.found:
            future.set_result(self.found[name])
        else:
            future.set_exception(KeyError(name))
        return future
