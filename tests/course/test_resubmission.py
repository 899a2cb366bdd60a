"""What changes after the first grading: a new hand-in, points by hand, late dates, the assignment."""

import json
import shutil
from datetime import datetime

import pytest
from course_folder import ASSIGNMENT, Course, autograde, grade_id, right
from nbgrader.converters.base import NbGraderException
from nbgrader.plugins import BasePlugin

from llmr_ref.grading.exercises import assignment_exercises
from llmr_ref.grading.guard import Refused
from llmr_ref.grading.sample_class import answer_cell

pytestmark = pytest.mark.course

ALL = {e.name: float(e.points) for e in assignment_exercises(ASSIGNMENT)}
TOTAL = sum(ALL.values())
MANUAL = "cheating-model"
SOFTMAX = grade_id("softmax")
WRONG = "def softmax(x, dim=-1):\n    return x"
DUE = "2026-03-01 12:00:00"


def hand_in(course: Course, student: str, *, softmax: str = "", words: str = "", date: str = ""):
    """A notebook of right answers, but for softmax and the question in words where they are given."""
    notebook = right(course.release())
    if softmax:
        answer_cell(notebook, "softmax").source = softmax
    for cell in notebook.cells:
        if words and cell.metadata.get("nbgrader", {}).get("grade_id") == MANUAL:
            cell.source = words
    path = course.submitted(student)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook))
    if date:
        path.with_name("timestamp.txt").write_text(date)


@pytest.fixture(scope="module")
def warm(released, tmp_path_factory) -> Course:
    """A course whose cache holds what s1 comes to; nobody has handed in yet."""
    root = tmp_path_factory.mktemp("warm") / "course"
    shutil.copytree(released.root, root)
    course = Course(root)
    gradebook = (root / "gradebook.db").read_bytes()
    for softmax in (WRONG, ""):
        hand_in(course, "s1", softmax=softmax)
        autograde(course)
    for folder in ("submitted", "autograded"):
        shutil.rmtree(root / folder)
    (root / "gradebook.db").write_bytes(gradebook)
    return course


@pytest.fixture
def course(warm, tmp_path) -> Course:
    shutil.copytree(warm.root, tmp_path / "course")
    return Course(tmp_path / "course")


def set_by_hand(course: Course, cell: str, **fields) -> None:
    """What an instructor does in formgrader."""
    with course.gradebook() as gradebook:
        grade = gradebook.find_grade(cell, ASSIGNMENT, ASSIGNMENT, "s1")
        for name, value in fields.items():
            setattr(grade, name, value)
        grade.needs_manual_grade = False
        gradebook.db.commit()


def grade(course: Course, cell: str) -> tuple:
    with course.gradebook() as gradebook:
        found = gradebook.find_grade(cell, ASSIGNMENT, ASSIGNMENT, "s1")
        return found.auto_score, found.manual_score, found.extra_credit, found.score


def comment(course: Course, cell: str, text: str | None = None) -> str:
    with course.gradebook() as gradebook:
        found = gradebook.find_comment(cell, ASSIGNMENT, ASSIGNMENT, "s1")
        if text is not None:
            found.manual_comment = text
            gradebook.db.commit()
        return found.comment


# --- handed in again -----------------------------------------------------------------------------


@pytest.mark.parametrize("first, second", [
    ("", ""),  # copied into the folder by hand: nbgrader itself would skip it without a word
    ("2026-02-01 10:00:00 UTC", "2026-02-01 10:00:00 UTC"),
    ("2026-02-01 10:00:00 UTC", "2026-02-02 10:00:00 UTC"),
    ("2026-02-02 10:00:00 UTC", "2026-02-01 10:00:00 UTC"),  # an earlier version, restored
], ids=["no date", "same date", "later date", "earlier date"])  # fmt: skip
def test_what_is_handed_in_again_is_graded_and_what_was_given_by_hand_is_kept(
    course, first, second
):
    hand_in(course, "s1", softmax=WRONG, words="It copies.", date=first)
    autograde(course)
    assert grade(course, SOFTMAX)[0] == 0.0 and MANUAL in course.waiting("s1")
    set_by_hand(course, MANUAL, manual_score=2.5, extra_credit=0.5)
    comment(course, MANUAL, "The generation part is missing.")
    comment(course, "softmax", "See me.")
    assert course.waiting("s1") == set()

    hand_in(course, "s1", words="It copies, and generation cannot.", date=second)
    autograde(course)
    assert grade(course, SOFTMAX) == (3.0, None, None, 3.0)
    assert grade(course, MANUAL) == (None, 2.5, 0.5, 3.0)
    assert comment(course, MANUAL) == "The generation part is missing."
    assert comment(course, "softmax") == "See me."
    assert course.waiting("s1") == {MANUAL}  # somebody should read the new words


def test_points_set_by_hand_on_a_check_stay_and_wait_for_a_look_after_a_new_hand_in(course):
    hand_in(course, "s1", softmax=WRONG)
    autograde(course)
    set_by_hand(course, SOFTMAX, manual_score=1.0)
    hand_in(course, "s1")
    autograde(course)
    assert grade(course, SOFTMAX) == (3.0, 1.0, None, 1.0)
    assert SOFTMAX in course.waiting("s1")


def test_nothing_is_graded_again_when_nothing_was_handed_in_again(course):
    hand_in(course, "s1")
    autograde(course)
    set_by_hand(course, SOFTMAX, manual_score=1.0)
    path = course.root / "autograded" / "s1" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    before = path.stat().st_mtime_ns
    course.submitted("s1").touch()
    autograde(course)
    assert path.stat().st_mtime_ns == before and course.waiting("s1") == set()


def test_a_notebook_after_an_empty_folder_is_graded(course):
    hand_in(course, "s2")
    course.submitted("s1").parent.mkdir(parents=True)
    autograde(course)
    assert SOFTMAX in course.waiting("s1")
    assert course.notes("s1") == ["no notebook was handed in"]
    hand_in(course, "s1")
    autograde(course)
    assert grade(course, SOFTMAX)[3] == 3.0 and course.waiting("s1") == set()
    assert course.notes("s1") == []


# --- late ----------------------------------------------------------------------------------------


class OneAnHour(BasePlugin):
    """A penalty of one point for every hour that has begun."""

    def late_submission_penalty(self, student_id, score, total_seconds_late):
        return -(-total_seconds_late // 3600)


class Broken(BasePlugin):
    def late_submission_penalty(self, student_id, score, total_seconds_late):
        raise ZeroDivisionError("broken on purpose")


@pytest.fixture
def due(course) -> Course:
    with course.gradebook() as gradebook:
        gradebook.update_or_create_assignment(ASSIGNMENT, duedate=DUE)
    return course


def final(course: Course) -> tuple:
    with course.gradebook() as gradebook:
        submission = gradebook.find_submission(ASSIGNMENT, "s1")
        return submission.score, submission.late_submission_penalty


def plugin(kind):
    def configure(config):
        config.AssignLatePenalties.plugin_class = kind

    return configure


@pytest.mark.parametrize("date, penalty", [
    ("2026-03-01 12:00:00 UTC", 0.0),
    ("2026-03-01 12:00:01 UTC", 1.0),
    ("2026-03-01 13:59:00 +0100", 1.0),  # 12:59 UTC; read as 100 seconds it would be 13:57
    ("2026-03-01 13:00:00 Europe/Berlin", 0.0),
    ("2026-03-01 16:30:00 UTC", 5.0),
    ("2026-04-01 12:00:00 UTC", TOTAL),  # never more than the points
    ("next week", 0.0),
    ("", 0.0),
])  # fmt: skip
def test_a_late_penalty_is_what_the_plugin_says_in_utc(due, date, penalty):
    hand_in(due, "s1", date=date)
    autograde(due, configure=plugin(OneAnHour))
    assert final(due) == (TOTAL, penalty)


def test_a_late_penalty_follows_the_new_hand_in_and_an_extension(due):
    hand_in(due, "s1", date="2026-03-01 16:30:00 UTC")
    autograde(due, configure=plugin(OneAnHour))
    assert final(due) == (TOTAL, 5.0)
    with due.gradebook() as gradebook:
        gradebook.grant_extension(ASSIGNMENT, "s1", hours=3)
    hand_in(due, "s1", softmax=WRONG, date="2026-03-01 16:30:00 UTC")
    autograde(due, configure=plugin(OneAnHour))
    assert final(due) == (TOTAL - 3.0, 2.0)


def test_stock_penalty_zero_takes_everything(due):
    def configure(config):
        config.LateSubmissionPlugin.penalty_method = "zero"

    hand_in(due, "s1", date="2026-03-02 12:00:00 UTC")
    autograde(due, configure=configure)
    assert final(due) == (TOTAL, TOTAL)


def test_a_penalty_that_fails_is_loud_and_tried_again(due):
    hand_in(due, "s1", date="2026-03-01 16:30:00 UTC")
    with pytest.raises(NbGraderException):
        autograde(due, configure=plugin(Broken))
    assert not list(due.root.glob("autograded/*/*/*.ipynb"))
    autograde(due, configure=plugin(OneAnHour))
    assert final(due) == (TOTAL, 5.0)


def test_the_date_in_the_gradebook_is_utc(due):
    hand_in(due, "s1", date="2026-03-01 13:59:00 +0100")
    autograde(due)
    with due.gradebook() as gradebook:
        assert gradebook.find_submission(ASSIGNMENT, "s1").timestamp == datetime(2026, 3, 1, 12, 59)


# --- another version of the assignment -----------------------------------------------------------


def test_points_that_changed_after_students_fetched_count_as_they_are_now(course):
    hand_in(course, "s1")
    source = course.root / "source" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    text = source.read_text()
    notebook = json.loads(text)
    (cell,) = [c for c in notebook["cells"]
               if c["metadata"].get("nbgrader", {}).get("grade_id") == SOFTMAX]  # fmt: skip
    cell["metadata"]["nbgrader"]["points"] = 6
    source.write_text(json.dumps(notebook))
    course.nbgrader("generate_assignment", ASSIGNMENT, "--force")
    autograde(course)
    assert grade(course, SOFTMAX)[0] == 6.0
    card = course.verdicts("s1")["softmax"]
    assert (card["score"], card["points"]) == (6.0, 6.0)
    assert course.notes("s1") == [f"the grading marks of cell {SOFTMAX!r} were changed"]
    assert final(course)[0] == TOTAL + 3.0


def test_cells_cannot_be_added_to_the_assignment_under_what_was_handed_in(course):
    """nbgrader refuses, and removes the release version; nothing is graded until it is made again."""
    hand_in(course, "s1")
    autograde(course)
    source = course.root / "source" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    before = source.read_text()
    source.write_text(before.replace("check-softmax", "check-softmax-now"))
    with pytest.raises(AssertionError, match="Cannot add or remove cells"):
        course.nbgrader("generate_assignment", ASSIGNMENT, "--force")
    with pytest.raises(Refused, match=f"nbgrader generate_assignment {ASSIGNMENT} --force"):
        autograde(course)
    assert grade(course, SOFTMAX)[3] == 3.0
    source.write_text(before)
    course.nbgrader("generate_assignment", ASSIGNMENT, "--force")
    autograde(course)
    assert grade(course, SOFTMAX)[3] == 3.0
