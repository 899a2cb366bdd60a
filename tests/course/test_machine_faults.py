"""Faults of the machine end a run in one sentence; mended, a rerun gives what it always gives."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from course_folder import (
    ASSIGNMENT,
    Course,
    exit_code_and_words,
    files,
    gradebook_entries,
    right,
)
from nbgrader.preprocessors import SaveAutoGrades

from llmr_ref.grading import autograde
from llmr_ref.grading.exercises import assignment_exercises
from llmr_ref.grading.guard import LOCK, Refused, one_run_at_a_time
from llmr_ref.grading.launch import Line
from llmr_ref.grading.sample_class import answer_cell
from llmr_ref.grading.sandbox import shared_worker

pytestmark = pytest.mark.course

HERE = Path(__file__).parent
NAMES = [e.name for e in assignment_exercises(ASSIGNMENT)]
STUDENTS = ("s1", "s2", "s3")


@pytest.fixture(scope="module")
def handed_in(released, tmp_path_factory) -> Course:
    """Three students: all right, one answer wrong, nothing answered. Do not change it."""
    root = tmp_path_factory.mktemp("three") / "course"
    shutil.copytree(released.root, root)
    course = Course(root)
    for student in STUDENTS:
        notebook = course.release() if student == "s3" else right(course.release())
        if student == "s2":
            answer_cell(notebook, "softmax").source = "def softmax(x, dim=-1):\n    return x"
        path = course.submitted(student)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(notebook))
    return course


@pytest.fixture(scope="module")
def calm(handed_in, tmp_path_factory) -> Course:
    """The same class graded without any fault. Do not change it."""
    root = tmp_path_factory.mktemp("calm") / "course"
    shutil.copytree(handed_in.root, root)
    grade(Course(root))
    return Course(root)


@pytest.fixture
def three(handed_in, tmp_path) -> Course:
    shutil.copytree(handed_in.root, tmp_path / "course")
    return Course(tmp_path / "course")


def grade(course: Course) -> None:
    assert exit_code_and_words(course) == (0, [])


def assert_same(course: Course, calm: Course) -> None:
    assert gradebook_entries(course) == gradebook_entries(calm)
    assert files(course.root, "autograded") == files(calm.root, "autograded")


def one_sentence(words: list[str]) -> str:
    """What was said, without nbgrader's own report of its steps."""
    (sentence,) = words
    assert sentence.endswith(".") and "Traceback" not in sentence and "\n" not in sentence
    return sentence


@pytest.fixture(scope="module")
def real_faults(handed_in, tmp_path_factory):
    """What grading says on a full disk and on read-only file systems, made with bubblewrap."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "disk").mkdir()
    for name in ("read-only gradebook", "read-only course"):
        shutil.copytree(handed_in.root, folder / name)
    gradebook = folder / "read-only gradebook" / "gradebook.db"
    command = ["bwrap", "--dev-bind", "/", "/", "--size", str(8 << 20),
               "--tmpfs", str(folder / "disk"), "--ro-bind", str(gradebook), str(gradebook),
               "--ro-bind", str(folder / "read-only course"), str(folder / "read-only course"),
               sys.executable, str(HERE / "machine_faults.py"), str(handed_in.root),
               str(folder / "disk"), str(folder / "back"), str(folder / "read-only gradebook"),
               str(folder / "read-only course")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=handed_in.environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.strip().rpartition("\n")[2])


def test_on_a_full_disk_grading_stops_with_one_sentence_and_loses_nothing(real_faults, calm):
    folder, said = real_faults
    full = {name: state for name, state in said.items() if name.endswith("free")}
    stopped = [state for state in full.values() if state["code"] == 1]
    assert len(stopped) >= 2, full
    for state in stopped:
        sentence = one_sentence(state["words"])
        assert "disk is full" in sentence and "run the same command again" in sentence
        assert state["integrity"] == "ok"
    numbers = [len(state["graded"]) for state in full.values()]
    assert numbers == sorted(numbers) and numbers[0] == 0  # what is graded stays graded
    course = Course(folder / "back")
    grade(course)
    assert_same(course, calm)


@pytest.mark.parametrize("name, words", [
    ("read-only gradebook", "attempt to write a readonly database"),
    ("read-only course", "read-only"),
])  # fmt: skip
def test_on_a_read_only_file_system_grading_stops_with_one_sentence(real_faults, calm, name, words):
    folder, said = real_faults
    assert said[name]["code"] == 1 and said[name]["graded"] == []
    assert words in one_sentence(said[name]["words"])
    course = Course(folder / name)
    assert gradebook_entries(course)["students"] == {}
    grade(course)
    assert_same(course, calm)


def test_a_locked_gradebook_is_said_before_anything_is_written(three, calm):
    before = files(three.root, "autograded") | {"db": (three.root / "gradebook.db").read_bytes()}
    db = sqlite3.connect(three.root / "gradebook.db")
    db.execute("BEGIN EXCLUSIVE")
    code, words = exit_code_and_words(three)
    db.close()
    assert code == 1 and "database is locked" in one_sentence(words)
    assert (
        files(three.root, "autograded") | {"db": (three.root / "gradebook.db").read_bytes()}
        == before
    )
    grade(three)
    assert_same(three, calm)


def test_a_gradebook_that_is_locked_in_the_middle_stops_the_class_there(three, calm, monkeypatch):
    save, held = SaveAutoGrades.preprocess, []

    def locked_at_the_second(self, nb, resources):
        if resources["nbgrader"]["student"] == "s2":
            held.append(sqlite3.connect(three.root / "gradebook.db"))
            held[0].execute("BEGIN EXCLUSIVE")
        return save(self, nb, resources)

    with monkeypatch.context() as patched:
        patched.setattr(SaveAutoGrades, "preprocess", locked_at_the_second)
        code, words = exit_code_and_words(three)
    held[0].close()
    assert code == 1 and "database is locked" in one_sentence(words)
    graded = {p.parts[-3] for p in three.root.glob("autograded/*/*/*.ipynb")}
    assert graded == {"s1"}
    grade(three)
    assert_same(three, calm)


def test_a_gradebook_that_is_none_is_said(three):
    (three.root / "gradebook.db").write_bytes(b"not a database " * 100)
    code, words = exit_code_and_words(three)
    assert code == 1 and "is not a database (restore it from a copy)" in one_sentence(words)
    assert not (three.root / "autograded").exists()


def test_a_course_without_its_release_version_says_how_to_make_it(three):
    shutil.rmtree(three.root / "release")
    code, words = exit_code_and_words(three)
    assert code == 1
    assert f"nbgrader generate_assignment {ASSIGNMENT} --force" in one_sentence(words)


# --- the worker ----------------------------------------------------------------------------------


@pytest.fixture
def killed_worker(monkeypatch):
    """Kills the worker as it is sent the block of this number."""

    def at(number: int) -> None:
        send, sent = Line.send, []

        def killing(self, block):
            sent.append(self)
            if len(sent) == number:
                worker = shared_worker(2)._process._process
                worker.kill()
                worker.wait()
            send(self, block)

        monkeypatch.setattr(Line, "send", killing)

    return at


@pytest.mark.parametrize("block", [3, 4])
def test_a_worker_that_is_killed_costs_time(three, calm, killed_worker, block):
    killed_worker(block)
    grade(three)
    assert_same(three, calm)


def test_an_exercise_whose_own_run_fails_is_graded_by_the_next_one(
    three, calm, killed_worker, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr(autograde, "run_once", lambda *_: None)
        killed_worker(4)
        code, words = exit_code_and_words(three)
    assert code == 0 and len(words) == 1 and "SandboxError" in words[0]
    spoilt = [(s, name) for s in STUDENTS for name in NAMES
              if three.verdicts(s)[name]["needs_look"]]  # fmt: skip
    ((student, name),) = spoilt
    verdict = three.verdicts(student)[name]
    assert (
        verdict["score"] == 0.0 and "the grader failed with SandboxError" in verdict["needs_look"]
    )
    grade(three)
    assert_same(three, calm)


# --- two at once ---------------------------------------------------------------------------------


def test_a_second_run_stops_with_a_sentence_that_names_the_first(three, calm):
    with one_run_at_a_time(three.root):
        code, words = exit_code_and_words(three)
    sentence = one_sentence(words)
    assert code == 1 and sentence.endswith("nothing was changed.")
    assert f"is being graded by process {os.getpid()} on {socket.gethostname()} since" in sentence
    assert not (three.root / "autograded").exists()
    grade(three)
    assert_same(three, calm)


def test_a_lock_of_a_dead_process_holds_nothing(three):
    path = three.root / LOCK
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"process": 1, "host": "elsewhere", "since": "2020-01-01 00:00:00+00:00"}')
    with one_run_at_a_time(three.root), pytest.raises(Refused), one_run_at_a_time(three.root):
        pass
    # --no-fork: flock becomes the sleeper, so one process holds the lock
    holder = subprocess.Popen(["flock", "--no-fork", str(path), "sleep", "60"])
    try:
        while _free(three.root):
            assert holder.poll() is None
    finally:
        holder.kill()
        holder.wait()
    assert _free(three.root)


def _free(root: Path) -> bool:
    try:
        with one_run_at_a_time(root):
            return True
    except Refused:
        return False


def test_two_instructors_who_grade_at_once_lose_nobody(three, calm):
    with tempfile.TemporaryDirectory(prefix="two") as folder:
        running = [
            subprocess.Popen(
                three.command("autograde", ASSIGNMENT), cwd=three.root, text=True,
                env=three.environment(TMPDIR=folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            for _ in range(2)
        ]  # fmt: skip
        said = [process.communicate()[0] for process in running]
    codes = [process.returncode for process in running]
    assert 0 in codes, said
    for code, words in zip(codes, said, strict=True):
        assert code == 0 or "is being graded by process" in words, words
        assert "Traceback" not in words
    grade(three)
    assert_same(three, calm)
