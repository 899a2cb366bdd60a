"""`kill -9` in the middle of grading, at several moments, and a rerun: as if nothing had happened.

LLMR_KILLS: how many random kills of each command; 50 takes about half an hour.
"""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from course_folder import ASSIGNMENT, Course, files, gradebook_entries

from llmr_ref.grading.guard import LOCK
from llmr_ref.grading.intake import is_finished
from llmr_ref.grading.sample_class import sample_class, write_sample_class

pytestmark = pytest.mark.course

KINDS = ("all right", "one misconception", "mixture", "os._exit")
SECONDS = 240  # until a moment must have come, on a busy machine
KILLS = int(os.environ.get("LLMR_KILLS", "3"))


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
    """A folder for temporary files, with a path short enough for sockets."""
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


def autograde_command(course: Course) -> list[str]:
    return course.command("autograde", ASSIGNMENT)


def grade_command(course: Course) -> list[str]:
    return [sys.executable, "-m", "llmr_ref.cli", "grade", ASSIGNMENT, "--course", str(course.root)]


COMMANDS = {"nbgrader autograde": autograde_command, "llmr grade": grade_command}


def run(course: Course, command: str, temporary: Path) -> None:
    """Run it to its end, without a fault."""
    done = subprocess.run(
        COMMANDS[command](course), cwd=course.root, env=course.environment(TMPDIR=str(temporary)),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def kill_when(
    course: Course, come: Callable[[], bool], temporary: Path, command: str = "nbgrader autograde"
) -> bool:
    """Start it, kill its process group as soon as the moment has come, wait until all has ended.

    False when it came to its end before that.
    """
    process = subprocess.Popen(
        COMMANDS[command](course), cwd=course.root, env=course.environment(TMPDIR=str(temporary)),
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    started: dict[int, psutil.Process] = {}
    try:
        deadline = time.monotonic() + SECONDS
        while not come():
            if process.poll() is not None:
                assert process.returncode == 0
                return False
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.005)
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                started[child.pid] = child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(started.values(), timeout=30)
    assert not alive, [p.cmdline() for p in alive]
    return True


def written(course: Course, command: str) -> dict[str, bytes]:
    """Every file that the command makes, but the report, which says when it was made."""
    if command == "nbgrader autograde":
        return files(course.root, "autograded")
    made = files(course.root, "autograded", "feedback", "exports", ".llmr/cache")
    assert made.keys() >= {f"exports/{ASSIGNMENT}.csv"}
    return made


@pytest.fixture(scope="module")
def calm(small_class, tmp_path_factory) -> tuple[Course, float]:
    """The class graded by `llmr grade` undisturbed, and the seconds from its begin to its end."""
    course = copy_of(small_class, tmp_path_factory.mktemp("calm"))
    begun: list[float] = []

    def at_its_end() -> bool:
        if not begun and (course.root / LOCK).exists():
            begun.append(time.monotonic())
        return False

    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as folder:
        assert not kill_when(course, at_its_end, Path(folder), "llmr grade")
        assert list(Path(folder).iterdir()) == []  # no scratch folder stays behind
    return course, time.monotonic() - begun[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_random_moments_and_run_again_all_is_as_if_undisturbed(
    small_class, calm, tmp_path, temporary, command
):
    expected, seconds = calm
    chance = random.Random(f"{command} {KILLS}")
    disturbed = copy_of(small_class, tmp_path)
    kills = 0
    while kills < KILLS:
        lock = disturbed.root / LOCK
        lock.unlink(missing_ok=True)
        graded = len(list(disturbed.root.glob("autograded/*/*/*.ipynb")))
        wait = chance.uniform(0, seconds * (1 - graded / 8))
        begun: list[float] = []

        def come(lock=lock, wait=wait, begun=begun) -> bool:
            if not begun and lock.exists():
                begun.append(time.monotonic())
            return bool(begun) and time.monotonic() - begun[0] >= wait

        killed = kill_when(disturbed, come, temporary, command)
        assert integrity(disturbed) == [("ok",)]
        if killed:
            kills += 1
            continue
        assert gradebook_entries(disturbed) == gradebook_entries(expected)
        assert written(disturbed, command).items() <= written(expected, "llmr grade").items()
        shutil.rmtree(disturbed.root)
        disturbed = copy_of(small_class, tmp_path)
    run(disturbed, command, temporary)
    assert integrity(disturbed) == [("ok",)]
    assert gradebook_entries(disturbed) == gradebook_entries(expected)
    made, wanted = written(disturbed, command), written(expected, "llmr grade")
    assert made == {path: wanted[path] for path in wanted if command == "llmr grade"
                    or path.startswith("autograded/")}  # fmt: skip
    assert list(temporary.iterdir()) == []  # not even what was killed left anything


def test_killed_again_and_again_the_class_is_graded_as_if_undisturbed(
    small_class, calm, tmp_path, temporary
):
    expected, _ = calm
    disturbed = copy_of(small_class, tmp_path)
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
        assert kill_when(disturbed, come, temporary), name
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
    assert everything(disturbed, students) == everything(expected, students)
    assert all(everything(expected, students)[s][1] for s in students)
