"""Mutants change one thing, say which, and are caught whatever they do: hang, grow or die."""

import ast

import pytest
import torch

from llmr_ref.grading import survivors
from llmr_ref.grading.exercise import Case, Exercise
from llmr_ref.grading.mutants import mutants, sample
from llmr_ref.grading.survivors import fates_of, hunt
from llmr_ref.grading.verdict import prepare


def mean_of_positive(x):
    """The mean of the entries above 0; 0 where there is none."""
    total, count = 0.0, 0
    for value in x.tolist():
        if value > 0:
            total += value
            count += 1
    return total / max(count, 1)


def exercise_of(answer, cases=([3.0, -1.0, 5.0], [-2.0], [0.5, 0.0])):
    exercise = Exercise(
        answer.__name__, points=2, difficulty=1, minutes=5, reference=answer, chapter="page#section"
    )
    exercise.right("the reference")(answer)

    @exercise.property("is what it should be")
    def every_case(draw):
        for values in cases:
            yield Case((torch.tensor(values),))

    return exercise


def hunted(exercise, at_most=None):
    return hunt(exercise, prepare(exercise, 1, practice=True), at_most)


def test_each_mutant_is_another_program_and_is_named_once():
    found = mutants(exercise_of(mean_of_positive))
    right = ast.unparse(ast.parse(exercise_of(mean_of_positive).right_answers[0].source("f")))
    assert len({m.source for m in found}) == len({m.change for m in found}) == len(found)
    for m in found:
        compile(m.source, "<mutant>", "exec")
        assert m.source != right
        assert m.change.count(" -> ") == 1
        assert m.difference.startswith("- ") and "\n+ " in m.difference


@pytest.mark.parametrize(
    "change",
    [
        "value > 0 -> value >= 0",
        "value > 0 -> value <= 0",
        "value > 0 -> value > 1",
        "count += 1 -> count -= 1",
        "count += 1 -> pass",
        "total / max(count, 1) -> total * max(count, 1)",
        "total / max(count, 1) -> total",
        "max(count, 1) -> min(count, 1)",
        "max(count, 1) -> max(count, 2)",
        "if value > 0: ... -> pass",
    ],
)
def test_operators_comparisons_constants_calls_and_statements_change(change):
    assert change in {m.change for m in mutants(exercise_of(mean_of_positive))}


def along(x, dim=-1):
    return -(x + 1).transpose(0, dim).sum(dim=-1, keepdim=True) if not x.dim() > 2 else x


@pytest.mark.parametrize(
    "change",
    [
        "-(x + 1).transpose(0, dim).sum(dim=-1, keepdim=True) -> "
        "(x + 1).transpose(0, dim).sum(dim=-1, keepdim=True)",
        "(x + 1).transpose(0, dim).sum(dim=-1, keepdim=True) -> "
        "(x + 1).transpose(0, dim).sum(dim=0, keepdim=True)",
        "(x + 1).transpose(0, dim).sum(dim=-1, keepdim=True) -> "
        "(x + 1).transpose(0, dim).sum(dim=-1, keepdim=False)",
        "(x + 1).transpose(0, dim) -> (x + 1).transpose(1, dim)",
        "(x + 1).transpose(0, dim) -> x + 1",
        "not x.dim() > 2 -> x.dim() > 2",
        "def along(x, dim=-1): ... -> def along(x, dim=0): ...",
    ],
)
def test_signs_axes_defaults_and_conditions_change(change):
    assert change in {m.change for m in mutants(exercise_of(along))}


def test_names_that_are_bound_once_and_symmetric_calls_stay():
    changes = {m.change for m in mutants(exercise_of(along))}
    assert "(x + 1).transpose(0, dim) -> (x + 1).transpose(dim, 0)" not in changes
    assert not any(c.startswith("total, count = (0.0, 0) -> pass") for c in changes)


def test_what_the_cases_do_not_see_survives_and_is_shown():
    result = hunted(exercise_of(mean_of_positive, cases=([3.0, 5.0], [4.0])))
    assert "max(count, 1) -> min(count, 1)" not in {m.change for m in result.survivors}
    survivor = next(m for m in result.survivors if m.change == "value > 0 -> value >= 0")
    assert survivor.difference == "- if value > 0:\n+ if value >= 0:"
    assert result.faults == [] and result.made == result.tried
    assert result.caught + len(result.survivors) == result.tried


def test_a_listed_mutant_counts_as_equivalent_and_the_list_cannot_rot():
    exercise = exercise_of(mean_of_positive)
    exercise.equivalent("value > 0 -> value >= 0", because="zeros add nothing to the total")
    # 0.0 in the last case is counted, so the list is wrong about this one.
    (fault,) = hunted(exercise).faults
    assert fault.startswith("listed as equivalent but caught") and fault.endswith("value >= 0")
    exercise = exercise_of(mean_of_positive, cases=([3.0, 5.0], [-4.0]))
    exercise.equivalent("value > 0 -> value >= 0", because="no case holds a zero")
    exercise.equivalent("value > 7 -> value >= 7", because="it was once")
    result = hunted(exercise, at_most=1)
    assert result.faults == ["no such mutant: value > 7 -> value >= 7"]
    assert result.equivalent == 1 and result.tried == 2


def test_a_sample_is_the_same_every_time_and_holds_what_is_listed():
    found = mutants(exercise_of(mean_of_positive))
    keep = {"count += 1 -> pass"}
    first = sample(found, 5, keep, "name")
    assert [m.change for m in first] == [m.change for m in sample(found, 5, keep, "name")]
    assert len(first) == 6 and keep <= {m.change for m in first}
    assert sample(found, 5, set(), "name") != sample(found, 5, set(), "another name")
    assert sample(found, 1000, keep, "name") == found


ENDLESS = "def mean_of_positive(x):\n    while True: pass\n"
GROWS = "def mean_of_positive(x):\n    return [0] * 2**31\n"
GROWS_AS_A_TENSOR = "def mean_of_positive(x):\n    return torch.zeros(2**31)\n"
DIES = "import os\ndef mean_of_positive(x):\n    os._exit(0)\n"
LEAVES = "def mean_of_positive(x):\n    raise SystemExit\n"
UNDEFINED = "def another(x):\n    return 0.0\n"
RAISES = "raise ValueError\n"


def test_mutants_that_hang_grow_or_die_are_caught_and_the_next_is_run(monkeypatch):
    monkeypatch.setattr(survivors, "SPARE_SECONDS", 0.2)
    exercise = exercise_of(mean_of_positive)
    right = exercise.right_answers[0].source(exercise.name)
    bad = [ENDLESS, GROWS, GROWS_AS_A_TENSOR, DIES, LEAVES, UNDEFINED, RAISES]
    trials = prepare(exercise, 1, practice=True)
    fates = fates_of(exercise, [right, *bad, right], trials)
    assert fates[0] == fates[-1] == ""
    assert all(fates[1:-1])


def test_a_right_answer_that_is_wrong_is_a_fault_and_not_a_success():
    exercise = exercise_of(mean_of_positive)
    exercise.right_answers.clear()
    exercise.right("wrong after all")(lambda_free)
    result = hunted(exercise)
    assert result.caught == 0 and "the first right answer is not right" in result.faults[0]


def lambda_free(x):
    return 0.0
