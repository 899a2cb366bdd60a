"""Every stage broken on purpose: no points that were not earned, and never silence."""

import json
import shutil
from collections.abc import Callable

import nbgrader.preprocessors as stock
import pytest
from course_folder import ASSIGNMENT, ROOT, Course, autograde, files, grade_id, right
from nbconvert.exporters import NotebookExporter
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbgrader.converters import GenerateFeedback
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from llmr_ref.grading import autograde as steps
from llmr_ref.grading import intake
from llmr_ref.grading.exercises import assignment_exercises
from llmr_ref.grading.feedback import FeedbackExporter
from llmr_ref.grading.guard import Refused
from llmr_ref.grading.verdict import Verdict

pytestmark = pytest.mark.course

POINTS = {grade_id(e.name): float(e.points) for e in assignment_exercises(ASSIGNMENT)}
MANUAL = "cheating-model"
DESERVED = {"right": POINTS, "untouched": dict.fromkeys(POINTS, 0.0)}
LISTS = ("sanitize_preprocessors", "autograde_preprocessors")
CONFIG = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT / "assignments")).load_config()


def name_of(step) -> str:
    return step.rpartition(".")[2] if isinstance(step, str) else step.__name__


# The notebook's own run is for its pictures alone; every test here leaves it out.
STEPS = [
    (setting, name_of(step))
    for setting in LISTS
    for step in CONFIG.Autograde[setting]
    if name_of(step) != "RunForPictures"
]
NEEDED = {"Repair", "OverwriteCells", "Grade", "SaveAutoGrades", "FlagNeedsLook"}


@pytest.fixture(scope="module")
def warm(released, tmp_path_factory) -> Course:
    """Two students, one all right and one who did nothing, ungraded; what they come to is in the cache."""
    root = tmp_path_factory.mktemp("warm") / "course"
    shutil.copytree(released.root, root)
    course = Course(root)
    for student in DESERVED:
        notebook = course.release()
        path = course.submitted(student)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(right(notebook) if student == "right" else notebook))
    gradebook = (root / "gradebook.db").read_bytes()
    autograde(course)
    assert_earned(course)
    shutil.rmtree(root / "autograded")
    (root / "gradebook.db").write_bytes(gradebook)
    return course


@pytest.fixture
def two(warm, tmp_path) -> Course:
    shutil.copytree(warm.root, tmp_path / "course")
    return Course(tmp_path / "course")


def scores(course: Course) -> dict[str, dict[str, float | None]]:
    """Automatic scores of the checks of whoever is in the gradebook."""
    with course.gradebook() as gradebook:
        known = [s.student.id for s in gradebook.assignment_submissions(ASSIGNMENT)]
    found = {student: course.scores(student) for student in known}
    return {s: {g: v for g, v in own.items() if g in POINTS} for s, own in found.items()}


def assert_earned(course: Course) -> None:
    assert scores(course) == DESERVED


def assert_nothing_unearned(course: Course) -> None:
    for student, own in scores(course).items():
        for cell, score in own.items():
            assert score in (None, 0.0, DESERVED[student][cell]), (student, cell)


def written(course: Course) -> dict[str, bytes]:
    return files(course.root, "autograded", "feedback", "submitted", "release") | {
        "gradebook": (course.root / "gradebook.db").read_bytes()
    }


# --- steps left out of the configuration ---------------------------------------------------------


@pytest.mark.parametrize("how", ["removed", "switched off"])
@pytest.mark.parametrize("setting, name", STEPS, ids=lambda x: x.removesuffix("_preprocessors"))
def test_a_step_that_is_left_out_makes_no_points(two, setting, name, how):
    def configure(config):
        if how == "switched off":
            config[name].enabled = False
        else:
            chain = config.Autograde[setting]
            chain.remove(next(step for step in chain if name_of(step) == name))

    before = written(two)
    if name in NEEDED:
        with pytest.raises(Refused, match=rf"must hold .*\b{name}\b.* in this order and enabled"):
            autograde(two, configure=configure)
        assert written(two) == before
    else:
        autograde(two, configure=configure)
        assert_earned(two)


@pytest.mark.parametrize("order", [
    ("SaveAutoGrades", "Grade", "FlagNeedsLook"), ("FlagNeedsLook", "Grade", "SaveAutoGrades"),
    ("Grade", "LimitOutput", "SaveAutoGrades", "FlagNeedsLook"),
])  # fmt: skip
def test_steps_in_another_order_are_refused(two, order):
    def configure(config):
        by_name = {name_of(s): s for s in config.Autograde.autograde_preprocessors}
        config.Autograde.autograde_preprocessors = [by_name[name] for name in order]

    before = written(two)
    with pytest.raises(Refused, match="Without them nbgrader gives points that nobody earned"):
        autograde(two, configure=configure)
    assert written(two) == before


def test_another_exporter_is_refused(two):
    def configure(config):
        config.Autograde.exporter_class = NotebookExporter

    with pytest.raises(NbGraderException):
        autograde(two, configure=configure)
    assert not list(two.root.glob("autograded/*/*/*.ipynb"))
    assert_nothing_unearned(two)


def test_without_execution_the_scores_are_the_same(two):
    """Stock nbgrader: 32 of 32 submissions, wrong ones among them, had full points."""

    def no_execute(config):  # what `nbgrader autograde --no-execute` sets
        config.Execute.enabled = False
        config.ClearOutput.enabled = False

    autograde(two, configure=no_execute)
    assert_earned(two)


# --- steps that fail, or do nothing ---------------------------------------------------------------


def raising(*args, **kwargs):
    raise ZeroDivisionError("broken on purpose")


CLASSES = {
    name: getattr(stock, name, None) or getattr(steps, name, None) or getattr(intake, name, None)
    for _, name in STEPS
} | {"ClearMetadataPreprocessor": ClearMetadataPreprocessor}


@pytest.mark.parametrize("name", CLASSES)
def test_a_step_that_fails_is_loud_and_makes_no_points(two, monkeypatch, name):
    def configure(config):
        config[name].enabled = True

    with monkeypatch.context() as broken:
        broken.setattr(CLASSES[name], "preprocess", raising)
        with pytest.raises(NbGraderException):
            autograde(two, configure=configure)
    assert not list(two.root.glob("autograded/*/*/*.ipynb"))
    assert_nothing_unearned(two)


@pytest.mark.parametrize("name", ["Repair", "Grade", "SaveAutoGrades", "FlagNeedsLook"])
def test_a_step_that_does_nothing_makes_no_points(two, monkeypatch, name):
    def nothing(self, nb, resources):
        return nb, resources

    with monkeypatch.context() as broken:
        broken.setattr(CLASSES[name], "preprocess", nothing)
        autograde(two)
    assert_nothing_unearned(two)
    if name in ("Grade", "SaveAutoGrades"):
        for student in DESERVED:
            assert not any(scores(two)[student].values())
            assert two.waiting(student) >= set(POINTS)


@pytest.mark.parametrize("place, name", [
    (intake.SubmissionExporter, "_handed_in"), (intake, "read_notebook"),
    (intake, "release_version"), (intake, "_discard"), (intake, "_unfit"), (intake, "grading_tier"),
    (steps, "grading_tier"), (steps, "course_secret"), (steps, "exercise_of"),
], ids=lambda x: getattr(x, "__name__", x))  # fmt: skip
def test_a_fault_of_intake_is_loud_and_makes_no_points(two, monkeypatch, place, name):
    with monkeypatch.context() as broken:
        broken.setattr(place, name, raising)
        with pytest.raises((NbGraderException, ZeroDivisionError)):
            autograde(two)
    assert not list(two.root.glob("autograded/*/*/*.ipynb"))
    assert_nothing_unearned(two)


def test_a_file_that_breaks_a_step_is_0_points_and_needs_a_look_and_the_class_goes_on(
    two, monkeypatch
):
    overwrite = stock.OverwriteCells.preprocess

    def breaks_on_right_answers(self, nb, resources):
        (answer,) = [c for c in nb.cells
                     if c.metadata.get("nbgrader", {}).get("grade_id") == "softmax"]  # fmt: skip
        if "NotImplementedError" not in answer.source:
            raise KeyError("something odd in this file")
        return overwrite(self, nb, resources)

    monkeypatch.setattr(stock.OverwriteCells, "preprocess", breaks_on_right_answers)
    autograde(two)
    for student in DESERVED:
        assert scores(two)[student] == dict.fromkeys(POINTS, 0.0)
    assert two.notes("right") == ["the submitted file cannot be graded (KeyError)"]
    assert two.waiting("right") >= set(POINTS) and not two.waiting("untouched") & set(POINTS)


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["card_html", "card_text"])
def test_a_card_that_cannot_be_drawn_is_0_points_and_needs_a_look(two, monkeypatch, name):
    monkeypatch.setattr(steps, name, raising)
    autograde(two)
    for student in DESERVED:
        assert scores(two)[student] == dict.fromkeys(POINTS, 0.0)
        assert two.waiting(student) >= set(POINTS)
        for verdict in two.verdicts(student).values():
            assert "broken on purpose" in verdict["needs_look"]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_0_points_and_needs_a_look(two, monkeypatch, score):
    """nbgrader takes what is not between 0 and the points for full points."""
    real = steps.write_verdict

    def odd(cell, verdict):
        return real(cell, verdict.model_copy(update={"score": score}))

    monkeypatch.setattr(steps, "write_verdict", odd)
    autograde(two)
    for student in DESERVED:
        assert scores(two)[student] == dict.fromkeys(POINTS, 0.0)
        assert two.waiting(student) >= set(POINTS)


def test_a_verdict_that_is_not_written_is_0_points_and_needs_a_look(two, monkeypatch):
    monkeypatch.setattr(steps, "write_verdict", lambda cell, verdict: verdict)
    autograde(two)
    for student in DESERVED:
        assert scores(two)[student] == dict.fromkeys(POINTS, 0.0)
        assert two.waiting(student) >= set(POINTS)


@pytest.mark.parametrize("points", [1.0, 7.5, 30.0])
def test_a_verdict_is_worth_what_the_notebook_says(points):
    import nbformat

    cell = nbformat.v4.new_code_cell('check("softmax")')
    cell.metadata["nbgrader"] = nbformat.from_dict({"points": points, "grade_id": "check-softmax"})
    for score, expected in (
        (3.0, points),
        (0.0, 0.0),
        (1.5, points / 2),
        (-1.0, 0.0),
        (99, points),
    ):
        verdict = Verdict(exercise="softmax", score=score, points=3.0)
        assert steps.write_verdict(cell, verdict).score == pytest.approx(expected)
        assert float(cell.outputs[1].data["text/plain"]) == pytest.approx(expected)
    nearly = steps.write_verdict(cell, Verdict(exercise="softmax", score=2.99, points=3.0))
    assert nearly.score < points and not nearly.full


# --- feedback -------------------------------------------------------------------------------------


def write_feedback(course: Course) -> None:
    config = PyFileConfigLoader("nbgrader_config.py", path=str(course.root)).load_config()
    coursedir = CourseDirectory(config=config)
    coursedir.assignment_id = ASSIGNMENT
    GenerateFeedback(coursedir=coursedir, config=config).start()


def page(course: Course, student: str):
    return course.root / "feedback" / student / ASSIGNMENT / f"{ASSIGNMENT}.html"


@pytest.fixture
def graded(two) -> Course:
    autograde(two)
    return two


def test_feedback_that_fails_is_loud_and_leaves_no_half_page(graded, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(FeedbackExporter, "from_notebook_node", raising)
        with pytest.raises(NbGraderException):
            write_feedback(graded)
    assert not list(graded.root.glob("feedback/*/*/*"))


def spoil(change: Callable[[str], str]) -> Callable[[Course], None]:
    def spoiled(course: Course) -> None:
        path = course.root / "autograded" / "right" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
        path.chmod(0o644)
        path.write_text(change(path.read_text()))

    return spoiled


def test_there_is_no_feedback_on_a_grading_that_did_not_end(graded):
    spoil(lambda text: text.replace('"graded": true', '"graded": false'))(graded)
    write_feedback(graded)
    assert page(graded, "untouched").is_file() and not page(graded, "right").exists()


def test_a_page_that_was_cut_off_or_is_older_than_the_grading_is_written_again(graded):
    write_feedback(graded)
    whole = page(graded, "right").read_text()
    kept = page(graded, "untouched").stat().st_mtime_ns
    page(graded, "right").write_text(whole[: len(whole) // 2])
    write_feedback(graded)
    assert page(graded, "right").read_text() == whole
    assert page(graded, "untouched").stat().st_mtime_ns == kept
    spoil(lambda text: text.replace("softmax: 3 of 3 points", "softmax: 1 of 3 points"))(graded)
    write_feedback(graded)
    assert page(graded, "right").stat().st_mtime_ns > kept
