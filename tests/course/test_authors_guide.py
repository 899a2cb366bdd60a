"""The authors' chapter: its example is added to a copy of the repository, exactly as the page says."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from course_folder import ROOT, Course
from test_guide import Block, Shell, blocks

EXERCISE, ASSIGNMENT = "token_entropy", "uncertainty"
COPIED = ("llmr_ref", "book", "tests", "assignments/source")

# What the class hands in, told by the copy: its exercises are not in this process.
CLASS = f"""
import json
from llmr_ref.grading.sample_class import sample_class
print(json.dumps([
    (s.name, s.kind, s.entries["{EXERCISE}"].answer.key if s.kind == "one misconception" else "")
    for s in sample_class("{ASSIGNMENT}", 10)
]))
"""


class Author(Shell):
    """Follows the page in a copy of the repository, whose package comes before the installed one."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.copy = home / "llmr"
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(ROOT / name, self.copy / name, ignore=ignored)
        for name in ("pyproject.toml", "assignments/nbgrader_config.py"):
            shutil.copy(ROOT / name, self.copy / name)
        self.environment |= {"LLMR": str(self.copy), "PYTHONPATH": str(self.copy)}

    def run(self, block: Block) -> None:
        if block.caption.endswith(", in ASSIGNMENTS"):
            path = self.copy / block.caption.removesuffix(", in ASSIGNMENTS")
            head, opening, rest = path.read_text().partition(
                "ASSIGNMENTS: dict[str, tuple[str, ...]] = {\n"
            )
            assert opening
            path.write_text(head + opening + block.body + rest)
        else:
            super().run(block)

    def python(self, code: str) -> str:
        done = subprocess.run(
            ["python", "-c", code], cwd=self.here, env=self.environment, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        return done.stdout


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> Author:
    """Somebody who has run every block of the page. The matrix and the banks' own tests passed."""
    shell = Author(tmp_path_factory.mktemp("author"))
    for block in blocks("authors"):
        shell.run(block)
    return shell


@pytest.mark.course
def test_the_matrix_and_the_tests_are_among_the_commands() -> None:
    commands = "\n".join(b.commands for b in blocks("authors") if b.language == "console")
    for command in ("llmr matrix uncertainty --full", "pytest", "llmr grade uncertainty"):
        assert command in commands


@pytest.mark.course
def test_the_commands_meet_the_copy_and_not_this_repository(author: Author) -> None:
    code = f"from llmr_ref.grading.exercises import get_exercise as g; print(g('{EXERCISE}').name)"
    assert author.python(code).strip() == EXERCISE
    assert not (ROOT / "assignments" / "source" / ASSIGNMENT).exists()


@pytest.mark.course
def test_the_example_shows_what_the_page_asks_of_a_bank(author: Author) -> None:
    code = (
        f"from llmr_ref.grading.exercises import get_exercise as g; e = g('{EXERCISE}'); "
        "print([len(x) for x in (e.wrong_answers, e.right_answers, e.shortcuts, e.equivalents)])"
    )
    wrong, right, shortcuts, equivalents = json.loads(author.python(code))
    assert wrong >= 8 and right >= 3 and shortcuts and equivalents


@pytest.mark.course
def test_the_release_notebook_has_the_exercise_and_not_its_solution(author: Author) -> None:
    path = author.here / "release" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    released = path.read_text()
    assert f"def {EXERCISE}(" in released and "raise NotImplementedError" in released
    assert "SOLUTION" not in released and "log_softmax" not in released


@pytest.mark.course
def test_every_wrong_answer_of_the_class_is_diagnosed_as_itself(author: Author) -> None:
    course = Course(author.here)
    handed_in = json.loads(author.python(CLASS))
    mistaken = {name: key for name, kind, key in handed_in if kind == "one misconception"}
    assert len(mistaken) == len(set(mistaken.values())) == 4
    for name, kind, _ in handed_in:
        (path,) = (course.root / "autograded" / name).rglob("*.ipynb")
        cells = json.loads(path.read_text())["cells"]
        (verdict,) = (c["metadata"]["llmr"] for c in cells if "llmr" in c["metadata"])
        assert verdict["tier"] > 0
        if kind == "all right":
            assert verdict["score"] == verdict["points"] == 2
        elif kind == "one misconception":
            assert verdict["score"] < verdict["points"]
            assert verdict["misconception"]["key"] == mistaken[name]
        elif kind in ("untouched", "syntax error"):
            assert verdict["score"] == 0
        assert (course.root / "feedback" / name / ASSIGNMENT / f"{ASSIGNMENT}.html").is_file()
