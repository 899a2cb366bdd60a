"""A real nbgrader course in a temporary folder, driven by nbgrader's own commands."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook

from llmr_ref.grading.sample_class import Student

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
