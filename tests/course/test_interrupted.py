"""`kill -9` in the middle of grading, at several moments, and a rerun: as if nothing had happened."""

import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from course_folder import ASSIGNMENT, Course

from llmr_ref.grading.intake import is_finished
from llmr_ref.grading.sample_class import sample_class, write_sample_class

pytestmark = pytest.mark.course

KINDS = ("all right", "one misconception", "mixture", "os._exit")
SECONDS = 240  # until a moment must have come, on a busy machine


@pytest.fixture(scope="module")
def small_class(released, tmp_path_factory) -> Course:
    """One student of each of a few kinds, handed in and not graded. Do not change it."""
    root = tmp_path_factory.mktemp("small") / "course"
    shutil.copytree(released.root, root)
    write_sample_class(root, ASSIGNMENT, 16)
    kept = {s.kind: s.name for s in reversed(sample_class(ASSIGNMENT, 16)) if s.kind in KINDS}
    assert set(kept) == set(KINDS)
    for folder in (root / "submitted").iterdir():
        if folder.name not in kept.values():
            shutil.rmtree(folder)
    return Course(root)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files, with a path short enough for the sockets of kernels."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as folder:
        yield Path(folder)


def copy_of(small_class: Course, folder: Path) -> Course:
    shutil.copytree(small_class.root, folder / "course")
    return Course(folder / "course")


def everything(course: Course, students: list[str]) -> dict[str, tuple]:
    """All that grading says about each student."""
    return {
        s: (course.scores(s), course.verdicts(s), course.waiting(s), course.notes(s))
        for s in students
    }


def integrity(course: Course) -> list:
    with sqlite3.connect(course.root / "gradebook.db") as db:
        return db.execute("PRAGMA integrity_check").fetchall()


def kill_when(course: Course, come: Callable[[], bool], temporary: Path) -> None:
    """Autograde, kill the whole process group as soon as the moment has come, wait for silence."""
    process = subprocess.Popen(
        course.command("autograde", ASSIGNMENT), cwd=course.root,
        env=course.environment(TMPDIR=str(temporary)), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    started: dict[int, psutil.Process] = {}
    try:
        deadline = time.monotonic() + SECONDS
        while not come():
            assert process.poll() is None, "grading ended before the moment came"
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.005)
        for child in psutil.Process(process.pid).children(recursive=True):
            started[child.pid] = child
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(started.values(), timeout=10)
    assert not alive, [p.cmdline() for p in alive]


def test_killed_again_and_again_the_class_is_graded_as_if_undisturbed(
    small_class, tmp_path, temporary
):
    calm, disturbed = (copy_of(small_class, tmp_path / name) for name in ("calm", "disturbed"))
    calm.nbgrader("autograde", ASSIGNMENT, TMPDIR=str(temporary))
    assert list(temporary.iterdir()) == []  # no kernel, no scratch folder stays behind

    students = sorted(p.name for p in (disturbed.root / "submitted").iterdir())
    first, second, third, last = students

    def notebook(student: str) -> Path:
        return disturbed.root / "autograded" / student / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"

    def has_scores(student: str) -> bool:
        with sqlite3.connect(disturbed.root / "gradebook.db") as db:
            found = db.execute(
                "select count(*) from grade"
                " join submitted_notebook on grade.notebook_id = submitted_notebook.id"
                " join submitted_assignment"
                " on submitted_notebook.assignment_id = submitted_assignment.id"
                " where submitted_assignment.student_id = ? and grade.auto_score is not null",
                [student],
            )
            return found.fetchone()[0] > 0

    moments = {
        "the first has a folder and no notebook": lambda: notebook(first).parent.is_dir(),
        "the second is repaired and runs": lambda: (
            notebook(second).exists() and not is_finished(notebook(second))
        ),
        "the first scores of the third are in the gradebook": lambda: has_scores(third),
    }
    for name, come in moments.items():
        kill_when(disturbed, come, temporary)
        assert integrity(disturbed) == [("ok",)], name
        assert not notebook(last).exists(), name
        if name.startswith("the second"):
            assert is_finished(notebook(first)) and not is_finished(notebook(second))

    done = notebook(first).stat().st_mtime_ns
    disturbed.nbgrader("autograde", ASSIGNMENT, TMPDIR=str(temporary))
    assert notebook(first).stat().st_mtime_ns == done  # what was finished is not graded again
    assert integrity(disturbed) == [("ok",)]
    with disturbed.gradebook() as gradebook:
        assert sorted(s.id for s in gradebook.students) == students
        assert len(gradebook.assignment_submissions(ASSIGNMENT)) == len(students)
    assert everything(disturbed, students) == everything(calm, students)
    assert all(everything(calm, students)[s][1] for s in students)
