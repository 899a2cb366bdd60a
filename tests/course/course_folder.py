"""A real nbgrader course in a temporary folder, driven by nbgrader's own commands."""

import dataclasses
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook
from nbgrader.apps import AutogradeApp
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config, PyFileConfigLoader

from llmr_ref.grading.exercises import assignment_exercises
from llmr_ref.grading.in_process import without_repetition
from llmr_ref.grading.sample_class import Student, answer_cell

ROOT = Path(__file__).parents[2]
ASSIGNMENT = "attention"
STUDENTS = 24
SECRET = "0123456789abcdef" * 4  # drawn once for a course; the same here in every run


@dataclasses.dataclass
class Course:
    """A course folder and what the tests ask of it."""

    root: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "nbgrader", *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        """This process's environment, without anybody's own Jupyter settings."""
        private = str(self.root.parent / "nobody")
        own = {"JUPYTER_CONFIG_DIR": private, "IPYTHONDIR": private, "PYTHONWARNINGS": "ignore"}
        return {**os.environ, **own, **more}

    def nbgrader(self, *arguments: str, **environment: str) -> str:
        """Run a command to its end; returns what it said. Fails the test when the command fails."""
        done = subprocess.run(
            self.command(*arguments), cwd=self.root, env=self.environment(**environment),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, f"nbgrader {' '.join(arguments)}:\n{done.stdout[-4000:]}"
        return done.stdout

    def gradebook(self) -> Gradebook:
        return Gradebook(f"sqlite:///{self.root / 'gradebook.db'}", "llmr")

    def submitted(self, student: str) -> Path:
        return self.root / "submitted" / student / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"

    def autograded(self, student: str) -> nbformat.NotebookNode:
        path = self.root / "autograded" / student / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
        return nbformat.read(path, as_version=4)

    def release(self) -> nbformat.NotebookNode:
        path = self.root / "release" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
        return nbformat.read(path, as_version=4)

    def verdicts(self, student: str) -> dict[str, dict]:
        """The verdicts that are stored in the autograded notebook, by exercise."""
        found = [c.metadata["llmr"] for c in self.autograded(student).cells if "llmr" in c.metadata]
        return {v["exercise"]: v for v in found}

    def notes(self, student: str) -> list[str]:
        return self.autograded(student).metadata["llmr"]["intake"]

    def scores(self, student: str) -> dict[str, float | None]:
        """The automatic scores in the gradebook, by grade_id."""
        with self.gradebook() as gradebook:
            submission = gradebook.find_submission(ASSIGNMENT, student)
            return {g.name: g.auto_score for n in submission.notebooks for g in n.grades}

    def waiting(self, student: str) -> set[str]:
        """The cells that formgrader shows as still to be graded by hand."""
        with self.gradebook() as gradebook:
            submission = gradebook.find_submission(ASSIGNMENT, student)
            grades = [g for n in submission.notebooks for g in n.grades]
            return {g.name for g in grades if g.needs_manual_grade}


def autograde(
    course: Course, *, pictures: bool = False, configure: Callable[[Config], None] = lambda _: None
) -> None:
    """`nbgrader autograde` with the course's own configuration, in this process.

    Tests that ask what plain nbgrader does use its command, or `exit_code_and_words`.
    """
    config = PyFileConfigLoader("nbgrader_config.py", path=str(course.root)).load_config()
    if not pictures:
        steps = config.Autograde.autograde_preprocessors
        steps.remove(next(s for s in steps if str(s).endswith(".RunForPictures")))
    configure(config)
    coursedir = CourseDirectory(config=config)
    coursedir.assignment_id = ASSIGNMENT
    with without_repetition():
        Autograde(coursedir=coursedir, config=config).start()


def exit_code_and_words(course: Course) -> tuple[int, list[str]]:
    """What the command `nbgrader autograde` ends with, in this process, and what it says of errors."""
    app = AutogradeApp(log=logging.getLogger(f"nbgrader of {course.root}"))
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    app.log.propagate = False
    app.log.handlers[:] = [Listener(level=logging.ERROR)]
    root = os.getcwd()
    os.chdir(course.root)
    try:
        app.initialize([ASSIGNMENT])
        app.start()
    except SystemExit as end:
        return int(end.code or 0), said
    finally:
        os.chdir(root)
    return 0, said


def gradebook_entries(course: Course) -> dict[str, dict]:
    """Everything in the gradebook about people, without ids that are drawn at random."""
    entries: dict[str, dict] = {"students": {}, "submissions": {}, "grades": {}, "comments": {}}
    with course.gradebook() as gradebook:
        for student in gradebook.students:
            entries["students"][student.id] = (student.first_name, student.last_name)
        for submission in gradebook.assignment_submissions(ASSIGNMENT):
            who = submission.student.id
            entries["submissions"][who] = (submission.timestamp, submission.extension)
            for notebook in submission.notebooks:
                key = (who, notebook.name)
                entries["submissions"][key] = (notebook.flagged, notebook.late_submission_penalty)
                for grade in notebook.grades:
                    entries["grades"][*key, grade.name] = (
                        grade.auto_score, grade.manual_score, grade.extra_credit,
                        grade.needs_manual_grade, grade.score,
                    )  # fmt: skip
                for comment in notebook.comments:
                    said = (comment.auto_comment, comment.manual_comment)
                    entries["comments"][*key, comment.name] = said
    return entries


def right(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The release notebook with a right answer in every answer cell."""
    for exercise in assignment_exercises(ASSIGNMENT):
        answer = exercise.right_answers[0]
        answer_cell(notebook, exercise.name).source = answer.source(exercise.name)
    return notebook


def grade_id(exercise: str) -> str:
    """The grade_id of an exercise's check cell, as the assignment names them."""
    words = "".join(f"-{c.lower()}" if c.isupper() else c for c in exercise.replace("_", "-"))
    return f"check-{words.strip('-')}"


@dataclasses.dataclass
class GradedClass:
    """The sample class after the instructor's three commands."""

    course: Course
    students: list[Student]
    before: dict[str, bytes]
    log: str
    seconds: float


def files(root: Path, *folders: str) -> dict[str, bytes]:
    """The content of every file below these folders, by its path in the course."""
    found = [p for folder in folders for p in (root / folder).rglob("*") if p.is_file()]
    return {str(p.relative_to(root)): p.read_bytes() for p in found}
