"""One exercise judged again for everybody: shown before it is written, whole or not at all."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from graded_class import ASSIGNMENT, Pupil, answers, grade_id, write_course
from nbgrader.api import Gradebook
from rich.console import Console

from llmr_ref.grading import regrade as module
from llmr_ref.grading.class_record import read_class
from llmr_ref.grading.exercises import get_exercise
from llmr_ref.grading.gradebook import NothingToReport
from llmr_ref.grading.guard import Refused, one_run_at_a_time
from llmr_ref.grading.regrade import RegradeError, regrade

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
EXERCISE = "causal_mask"
COMMENT = "Nice idea, see me."


def code(answer: str) -> dict[str, str]:
    bank = {a.key: a.source(EXERCISE) for a in get_exercise(EXERCISE).bank()}
    return {EXERCISE: f"import torch\nfrom torch import Tensor\n\n{bank[answer]}"}


def graded_as(verdict: str, written: str, name: str, **more: Any) -> Pupil:
    """Somebody who wrote one answer of the bank while the gradebook has the score of another."""
    return Pupil(name, answers("overflows", verdict, 4), code=code(written), **more)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pupils = [
        graded_as("sees_next", "triangle", "gains"),
        graded_as("triangle", "sees_next", "loses"),
        graded_as("triangle", "broadcast", "same"),
        graded_as("sees_next", "loops", "settled", overridden={EXERCISE: 1.5}),
        graded_as("triangle", "triangle", "gone"),
        Pupil("waiting", ungraded=True),
    ]
    course = write_course(tmp_path_factory.mktemp("class") / "course", pupils)
    shutil.rmtree(course / "autograded" / "gone")
    with open_gradebook(course) as gradebook:
        comment = gradebook.find_comment("cheating-model", ASSIGNMENT, ASSIGNMENT, "settled")
        comment.manual_comment = COMMENT
        gradebook.db.commit()
    regrade(course, ASSIGNMENT, EXERCISE, lambda: False, Console(file=io.StringIO()))
    return course  # with every verdict in its cache: no test waits for the sandbox again


@pytest.fixture
def course(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "course")


def open_gradebook(course: Path) -> Gradebook:
    return Gradebook(f"sqlite:///{course / 'gradebook.db'}", "llmr")


def grades(course: Path) -> dict[tuple[str, str], tuple[Any, ...]]:
    with open_gradebook(course) as gradebook:
        return {
            (s.student.id, g.name): (g.auto_score, g.manual_score, g.needs_manual_grade)
            for s in gradebook.assignment_submissions(ASSIGNMENT)
            for n in s.notebooks
            for g in n.grades
        }


def everything(course: Path) -> dict[str, bytes]:
    """All that an instructor or a student sees, the gradebook included."""
    inside = [p for p in course.rglob("*") if p.is_file() and ".llmr" not in p.parts]
    return {str(p.relative_to(course)): p.read_bytes() for p in inside}


def run(course: Path, answer: bool = True, exercise: str = EXERCISE) -> str:
    said = io.StringIO()
    regrade(course, ASSIGNMENT, exercise, lambda: answer, Console(file=said, width=120))
    return said.getvalue()


def line(said: str, student: str) -> list[str]:
    row = next(r for r in said.splitlines() if f" {student} " in r)
    return [cell.strip() for cell in row.strip("│┃ ").split("│")]


def test_the_difference_is_shown_before_anything_is_written(course):
    before = everything(course)
    shown = []

    def confirm() -> bool:
        shown.append(everything(course) == before)
        return False

    said = io.StringIO()
    assert not regrade(course, ASSIGNMENT, EXERCISE, confirm, Console(file=said, width=120))
    assert shown == [True] and everything(course) == before
    text = said.getvalue()
    assert line(text, "loses") == ["loses", "2", "0", "−2.00", "newly failing"]
    assert line(text, "gains") == ["gains", "0", "2", "+2.00"]
    assert line(text, "settled") == ["settled", "0", "2", "+2.00", "stays at 1.5, set by hand"]
    assert " same " not in text.split("judged again")[0]
    assert "4 judged again: 2 up, 1 down, 1 as before; 0.00 points in all." in text
    assert "1 had full marks and would not any more." in text
    assert "gone is left as it is: not autograded" in text
    assert text.endswith("Nothing was written.\n")
    assert not (course / module.ASIDE / ASSIGNMENT).exists()


def test_only_this_exercise_changes_and_what_was_given_by_hand_stays(course):
    before = grades(course)
    said = run(course)
    after = grades(course)
    key = grade_id(EXERCISE)
    assert {k for k in after if after[k] != before[k]} == {
        ("gains", key), ("loses", key), ("settled", key)
    }  # fmt: skip
    assert after["gains", key] == (2.0, None, False)
    assert after["loses", key] == (0.0, None, False)
    assert after["settled", key] == (2.0, 1.5, True), "whoever set it is asked to look again"
    with open_gradebook(course) as gradebook:
        comment = gradebook.find_comment("cheating-model", ASSIGNMENT, ASSIGNMENT, "settled")
        assert comment.manual_comment == COMMENT
    assert "3 scores" in said and "nbgrader generate_feedback attention --force" in said


def test_the_cards_in_the_autograded_notebooks_are_those_of_today(course):
    run(course)
    path = course / "autograded" / "loses" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    cells = json.loads(path.read_text("utf-8"))["cells"]
    cell = next(c for c in cells if c["metadata"]["nbgrader"]["grade_id"] == grade_id(EXERCISE))
    assert cell["metadata"]["llmr"]["misconception"]["key"] == "sees_next"
    assert "lets every position see the next token" in "".join(
        cell["outputs"][0]["data"]["text/html"]
    )
    assert cell["outputs"][1]["data"]["text/plain"] in ("0.0", ["0.0"])
    record = read_class(course, ASSIGNMENT)
    reasons = {s.id: s.reasons for s in record.students}
    assert not reasons["gains"] and not reasons["loses"], "gradebook and verdicts agree"


def test_a_second_time_changes_nothing(course):
    run(course)
    before = everything(course)
    said = run(course)
    assert "0 up, 0 down, 4 as before" in said and "what changes" not in said
    del before["gradebook.db"]
    after = everything(course)
    assert {k: after[k] for k in before} == before


def test_a_stuck_cell_of_an_earlier_exercise_stays_left_out(course, monkeypatch):
    path = course / "autograded" / "gains" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    notebook = json.loads(path.read_text("utf-8"))
    notebook["cells"].insert(0, {**notebook["cells"][-1], "cell_type": "code", "outputs": [],
                                 "metadata": {}, "id": "stuck", "source": "while True: pass",
                                 "execution_count": None})  # fmt: skip
    softmax = next(c for c in notebook["cells"] if "softmax" in str(c["metadata"]))
    softmax["metadata"]["llmr"]["stuck_cell"] = 0
    path.write_text(json.dumps(notebook), "utf-8")
    seen = []
    judge = module.Grade.verdict

    def watch(self, cell, notebook, secret, info):
        seen.append((info["student"], list(notebook.cells)))
        return judge(self, cell, notebook, secret, info)

    monkeypatch.setattr(module.Grade, "verdict", watch)
    run(course, answer=False)
    assert dict(seen)["gains"][0] is None


def test_stopped_after_the_gradebook_is_written_the_next_run_finishes(course, monkeypatch):
    whole = shutil.copytree(course, course.parent / "whole")
    run(whole)

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_move_into_place", die)
        with pytest.raises(KeyboardInterrupt):
            run(course)
    assert grades(course) == grades(whole)
    assert "0 up, 0 down, 4 as before" in run(course, answer=False)
    expected, found = everything(whole), everything(course)
    del expected["gradebook.db"], found["gradebook.db"]
    assert found == expected


def test_stopped_before_the_gradebook_is_written_nothing_has_changed(course, monkeypatch):
    before = everything(course)

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_enter", die)
        with pytest.raises(KeyboardInterrupt):
            run(course)
    assert everything(course) == before
    assert "2 up, 1 down" in run(course, answer=False)
    assert everything(course) == before


def test_a_score_that_somebody_changed_meanwhile_is_not_overwritten(course):
    def meddle() -> bool:
        with open_gradebook(course) as gradebook:
            grade = gradebook.find_grade(grade_id(EXERCISE), ASSIGNMENT, ASSIGNMENT, "loses")
            grade.manual_score = 2.0
            gradebook.db.commit()
        return True

    with pytest.raises(RegradeError, match="score of loses was changed while this was open"):
        regrade(course, ASSIGNMENT, EXERCISE, meddle, Console(file=io.StringIO()))
    after = grades(course)
    assert after["gains", grade_id(EXERCISE)][0] == 0.0, "all or nothing"
    assert after["loses", grade_id(EXERCISE)][1] == 2.0


def test_a_fault_of_the_grader_shows_as_needs_a_look_before_it_is_written(course, monkeypatch):
    def fail(self, name, seed):
        raise ValueError("the bank is broken")

    monkeypatch.setattr("llmr_ref.grading.engine.Notebook.verdict", fail)
    before = everything(course)
    said = run(course, answer=False)
    assert "needs a look" in " ".join(line(said, "loses")) and everything(course) == before


def test_what_cannot_be_done_is_one_sentence(course, tmp_path):
    with pytest.raises(RegradeError, match="checks 'softplus'; they check apply_rope, causal_mask"):
        run(course, exercise="softplus")
    with pytest.raises(NothingToReport, match=r"no gradebook\.db"):
        run(tmp_path)
    with pytest.raises(NothingToReport, match="no assignment 'atention'"):
        regrade(course, "atention", EXERCISE, lambda: True, Console(file=io.StringIO()))
    empty = write_course(tmp_path / "ungraded", [Pupil("a", ungraded=True)])
    with pytest.raises(RegradeError, match="Nothing of 'attention' is graded yet"):
        run(empty)
    with one_run_at_a_time(course), pytest.raises(Refused, match="is being graded"):
        run(course)
