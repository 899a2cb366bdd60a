"""The banks test the checks: every wrong answer is caught and named, every right one spared."""

import ast
import functools
import math
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import docutils.nodes
import nbformat
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nbgrader.nbgraderformat import MetadataValidator
from torch import Tensor, nn

from llmr_ref.grading import links, matrix, runner
from llmr_ref.grading.exercise import PRACTICE_SEED
from llmr_ref.grading.exercises import ASSIGNMENTS, exercise_names, get_exercise
from llmr_ref.grading.matrix import NAMED_AT_LEAST, Row, bank_faults, named_share, rows
from llmr_ref.grading.no_answers import NO_ANSWERS
from llmr_ref.grading.verdict import Trial, _agrees, difference, judge, practice_trials, prepare

ROOT = Path(__file__).parents[2]
SAMPLED_MUTANTS = 8  # of an exercise; `make matrix` runs more
NOTEBOOK_IMPORTS = {"math": math, "torch": torch, "F": F, "Tensor": Tensor, "nn": nn}
# The tests of one assignment share a process: what its banks do on the practice inputs is run once.
GROUPS = {n: pytest.mark.xdist_group(a) for a, names in ASSIGNMENTS.items() for n in names}
every_exercise = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=GROUPS[n]) for n in exercise_names()]
)
every_assignment = pytest.mark.parametrize(
    "assignment", [pytest.param(a, marks=pytest.mark.xdist_group(a)) for a in ASSIGNMENTS]
)


@functools.cache
def judged(name: str) -> list[Row]:
    """The bank and the stub on the practice inputs and on two seeds of graded inputs."""
    return rows(get_exercise(name))


def outcomes(target: object, trials: list[Trial]) -> list[dict]:
    return [runner.run_call(target, t.call) for t in trials]


# --- the matrix ----------------------------------------------------------------------------------


@every_exercise
def test_no_wrong_answer_keeps_full_marks(name: str) -> None:
    kept = [r.title for r in judged(name) if r.kind == "wrong" and r.score == r.points]
    assert not kept


@every_exercise
def test_no_wrong_answer_is_taken_for_another(name: str) -> None:
    assert [r.problem for r in judged(name) if r.problem.startswith("diagnosed as")] == []


@every_exercise
def test_wrong_answers_are_named_as_themselves(name: str) -> None:
    assert named_share(judged(name)) >= NAMED_AT_LEAST


@every_exercise
def test_right_answers_get_full_marks(name: str) -> None:
    assert [(r.title, r.problem) for r in judged(name) if r.kind == "right" and r.problem] == []


@every_exercise
@given(seed=st.integers(0, 2**64 - 1))
@settings(max_examples=5)
def test_the_bank_holds_for_any_student(name: str, seed: int) -> None:
    exercise = get_exercise(name)
    trials = prepare(exercise, seed, practice=False)
    for answer in exercise.right_answers:
        verdict = judge(exercise, trials, outcomes(answer.target, trials))
        assert verdict.full, (answer.key, [p.message for p in verdict.properties])
    for answer in exercise.wrong_answers:
        assert any(
            difference(t.expected, runner.run_call(answer.target, t.call), t.case) for t in trials
        ), answer.key


@every_exercise
def test_what_is_no_answer_scores_nothing(name: str) -> None:
    nothing = [r for r in judged(name) if r.kind == "nothing"]
    assert len(nothing) == len(NO_ANSWERS) + 1
    assert [(r.title, r.problem) for r in nothing if r.problem] == []


@pytest.fixture(scope="module")
def one_process() -> Iterator[ProcessPoolExecutor]:
    """Mutants are run in forks of it: here, other threads and a GPU may be in the way."""
    with matrix.processes(1) as pool:
        yield pool


@every_exercise
def test_mutants_of_the_right_answer_lose_marks(
    name: str, one_process: ProcessPoolExecutor
) -> None:
    found = one_process.submit(matrix.hunt_mutants, name, SAMPLED_MUTANTS).result()
    assert found.faults == []
    assert [m.difference for m in found.survivors] == []
    assert found.caught


@every_exercise
def test_an_import_of_the_reference_scores_nothing(
    name: str, one_process: ProcessPoolExecutor
) -> None:
    assert one_process.submit(matrix.import_row, name).result().score == 0


@every_exercise
def test_the_untouched_stub_scores_nothing_and_is_not_blamed(name: str) -> None:
    def stub(*args: object, **kwargs: object) -> None:
        raise NotImplementedError

    exercise = get_exercise(name)
    trials = practice_trials(exercise)
    verdict = judge(exercise, trials, outcomes(stub, trials))
    assert verdict.score == 0
    assert not verdict.attempted
    assert verdict.misconception is None


# --- the bank as text ----------------------------------------------------------------------------


@every_exercise
def test_a_bank_is_large_and_its_hints_are_short(name: str) -> None:
    assert bank_faults(get_exercise(name)) == []


@every_exercise
def test_every_property_has_cases_and_every_weight_counts(name: str) -> None:
    exercise = get_exercise(name)
    numbers = {number for number, _ in exercise.cases(PRACTICE_SEED)}
    assert numbers == set(range(len(exercise.properties)))
    assert all(p.weight > 0 for p in exercise.properties)
    assert 3 <= len(exercise.properties) <= 6


def sections(chapter: str) -> set[str]:
    """The ids that Sphinx makes of a chapter's headings."""
    notebook = nbformat.read(ROOT / "book" / f"{links.CHAPTERS[chapter]}.ipynb", as_version=4)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    headings = [line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")]
    return {docutils.nodes.make_id(heading) for heading in headings}


@every_exercise
def test_every_link_leads_to_a_section_that_exists(name: str) -> None:
    exercise = get_exercise(name)
    for see in [exercise.chapter, *(a.see for a in exercise.wrong_answers)]:
        chapter, _, section = see.partition("#")
        assert chapter in links.CHAPTERS, see
        assert section, see
        assert section in sections(chapter), see


@every_exercise
def test_a_title_completes_this_answer(name: str) -> None:
    for answer in get_exercise(name).wrong_answers:
        first = answer.title.split()[0]
        assert first.islower() and first.endswith("s"), answer.title
        assert answer.title[-1] not in ".!"
        assert answer.hint[-1] in ".?"


@every_exercise
def test_an_answer_stands_alone_in_the_notebook(name: str) -> None:
    exercise = get_exercise(name)
    for answer in exercise.bank():
        namespace = dict(NOTEBOOK_IMPORTS)
        exec(compile(answer.source(name), "<cell>", "exec"), namespace)
        for trial in practice_trials(exercise):
            pasted = runner.run_call(namespace[name], trial.call)
            # For a right answer as for a wrong one: what it does here is remembered.
            assert _agrees(trial.outcome_of(answer), pasted, trial.case), (answer.key, trial.case)


# --- the assignment's notebook -------------------------------------------------------------------


def source_notebook(assignment: str) -> nbformat.NotebookNode:
    path = ROOT / "assignments" / "source" / assignment / f"{assignment}.ipynb"
    return nbformat.read(path, as_version=4)


def grade_cells(notebook: nbformat.NotebookNode) -> dict[str, nbformat.NotebookNode]:
    """The check cells by the name of their exercise."""
    return {
        ast.literal_eval(cell.source.removeprefix("check(").removesuffix(")")): cell
        for cell in notebook.cells
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("grade")
    }


def run(notebook: nbformat.NotebookNode, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Run all code cells in order; the number that each check cell gives, by exercise."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    namespace: dict[str, object] = {"__name__": "__main__"}
    checks = {cell.id: name for name, cell in grade_cells(notebook).items()}
    scores = {}
    for cell in notebook.cells:
        if cell.id in checks:
            scores[checks[cell.id]] = eval(cell.source, namespace)
        elif cell.cell_type == "code":
            exec(compile(cell.source, f"<cell {cell.id}>", "exec"), namespace)
    return scores


@every_assignment
def test_the_notebook_is_valid_and_clean(assignment: str) -> None:
    notebook = source_notebook(assignment)
    nbformat.validate(notebook)
    MetadataValidator().validate_nb(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.get("attachments", {}) == {}
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@every_assignment
def test_every_exercise_has_a_statement_an_answer_cell_and_a_check_cell(assignment: str) -> None:
    notebook = source_notebook(assignment)
    checks = grade_cells(notebook)
    assert tuple(checks) == ASSIGNMENTS[assignment]
    for name, cell in checks.items():
        exercise = get_exercise(name)
        assert cell.source == f'check("{name}")'
        assert cell.metadata.nbgrader.points == exercise.points
        assert cell.metadata.nbgrader.locked
        place = notebook.cells.index(cell)
        statement, answer = notebook.cells[place - 2], notebook.cells[place - 1]
        assert answer.metadata.nbgrader.solution and not answer.metadata.nbgrader.grade
        assert f" {name}(" in answer.source
        plural = "point" if exercise.points == 1 else "points"
        assert (
            f"*{exercise.points:g} {plural}, difficulty {exercise.difficulty}, "
            f"about {exercise.minutes} minutes*" in statement.source
        )
        overview = (
            f"| `{name}` | {exercise.points:g} | {exercise.difficulty} | {exercise.minutes} |"
        )
        assert overview in notebook.cells[0].source


@every_assignment
def test_the_notebook_states_its_total(assignment: str) -> None:
    notebook = source_notebook(assignment)
    total = sum(c.metadata.get("nbgrader", {}).get("points", 0) for c in notebook.cells)
    assert f"Together {total:g} points" in notebook.cells[0].source


@every_assignment
def test_the_model_answers_get_full_marks_from_top_to_bottom(
    assignment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = run(source_notebook(assignment), monkeypatch)
    assert scores == {n: get_exercise(n).points for n in ASSIGNMENTS[assignment]}
    assert "This cell runs once" not in capsys.readouterr().out


@every_exercise
def test_cases_come_from_the_seed_alone(name: str) -> None:
    exercise = get_exercise(name)

    def drawn() -> list[bytes]:
        found = exercise.cases(7)
        return [runner.encode([n, c.args, c.kwargs, c.init, c.state]) for n, c in found]

    first = drawn()
    torch.manual_seed(random.randrange(10**6))
    assert drawn() == first
