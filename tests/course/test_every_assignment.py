"""Every assignment's release: it holds no solution, runs untouched, and has a sample class."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from course_folder import ROOT, SECRET, STUDENTS, Course
from nbgrader.apps import GenerateAssignmentApp

from llmr_ref.grading.autograde import checked_exercise
from llmr_ref.grading.exercises import ASSIGNMENTS, assignment_exercises, get_exercise
from llmr_ref.grading.in_process import nbgrader_app
from llmr_ref.grading.sample_class import (
    CHEATS,
    FAULTS,
    KINDS,
    NOISE,
    Student,
    answer_cell,
    sample_class,
    write_sample_class,
)

pytestmark = pytest.mark.course

every_assignment = pytest.mark.parametrize("assignment", ASSIGNMENTS)


@pytest.fixture(scope="module")
def every_release(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A course with the release versions of all assignments, made by nbgrader."""
    root = tmp_path_factory.mktemp("every") / "course"
    root.mkdir()
    (root / "nbgrader_config.py").write_bytes(
        (ROOT / "assignments" / "nbgrader_config.py").read_bytes()
    )
    (root / "source").symlink_to(ROOT / "assignments" / "source")
    (root / ".course_secret").write_text(SECRET)
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", tools)  # nbgrader starts alembic by its bare name
        for assignment in ASSIGNMENTS:
            app, _ = nbgrader_app(root, GenerateAssignmentApp)
            app.coursedir.assignment_id = assignment
            app.start()
    return Course(root)


def release_path(course: Course, assignment: str) -> Path:
    return course.root / "release" / assignment / f"{assignment}.ipynb"


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


# --- no solution ---------------------------------------------------------------------------------

# What nbgrader and Jupyter write. Anything else could carry an answer.
NOTEBOOK_METADATA = {"kernelspec", "language_info"}
CELL_METADATA = {"nbgrader", "tags", "deletable", "editable"}
MARKS = {
    "cell_type", "checksum", "grade", "grade_id", "locked", "points", "schema_version", "solution",
    "task",
}  # fmt: skip


def inside(text: str, line: str) -> bool:
    """Whether the file holds the line, as JSON writes it."""
    return json.dumps(line, ensure_ascii=False)[1:-1] in text


@every_assignment
def test_the_release_holds_no_line_of_a_solution(every_release: Course, assignment: str) -> None:
    released = release_path(every_release, assignment).read_text("utf-8")
    for marker in ("SOLUTION", "Mark scheme", "MARK SCHEME"):
        assert marker not in released
    hidden_lines = []
    for cell in read(ROOT / "assignments" / "source" / assignment / f"{assignment}.ipynb").cells:
        hidden = False
        for line in cell.source.splitlines():
            if any(f"{word} {what}" in line for word in ("BEGIN", "END")
                   for what in ("SOLUTION", "MARK SCHEME")):  # fmt: skip
                hidden = "BEGIN" in line
            elif hidden and len(line.strip()) > 12:
                hidden_lines.append(line.strip())
    assert len(hidden_lines) > 2 * len(ASSIGNMENTS[assignment])
    assert [line for line in hidden_lines if inside(released, line)] == []


@every_assignment
def test_the_release_holds_no_answer_and_no_hint_of_a_bank(
    every_release: Course, assignment: str
) -> None:
    path = release_path(every_release, assignment)
    text, notebook = path.read_text("utf-8"), read(path)
    given = {
        line.strip() for name in ASSIGNMENTS[assignment]
        for line in answer_cell(notebook, name).source.splitlines()
    }  # fmt: skip
    for exercise in assignment_exercises(assignment):
        for answer in exercise.bank():
            body = answer.source(exercise.name).splitlines()[1:]
            telling = {line.strip() for line in body if len(line.strip()) > 30}
            assert not telling & given, (exercise.name, answer.key)
            assert not answer.hint or not inside(text, answer.hint)


@every_assignment
def test_the_release_carries_nothing_beside_its_cells(
    every_release: Course, assignment: str
) -> None:
    path = release_path(every_release, assignment)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    notebook = read(path)
    assert set(notebook.metadata) <= NOTEBOOK_METADATA
    for cell in notebook.cells:
        assert set(cell) <= {"cell_type", "id", "metadata", "source", "outputs", "execution_count"}
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert set(cell.metadata) <= CELL_METADATA
        assert set(cell.metadata.get("nbgrader", {})) <= MARKS


@every_assignment
def test_every_answer_waits_to_be_written(every_release: Course, assignment: str) -> None:
    notebook = read(release_path(every_release, assignment))
    for name in ASSIGNMENTS[assignment]:
        source = answer_cell(notebook, name).source
        assert "raise NotImplementedError" in source, name
        assert defines(source, name)


# --- untouched cells -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def laptop() -> Iterator[subprocess.Popen[str]]:
    """See untouched.py."""
    command = [sys.executable, str(Path(__file__).with_name("untouched.py"))]
    environment = {**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield process
        assert process.stdin
        process.stdin.close()


@every_assignment
def test_untouched_cells_run_on_a_small_laptop(
    every_release: Course, laptop: subprocess.Popen[str], assignment: str
) -> None:
    """The limits end the run: the test reads no clock."""
    assert laptop.stdin and laptop.stdout
    laptop.stdin.write(f"{release_path(every_release, assignment)}\n")
    ran = json.loads(laptop.stdout.readline())
    assert ran["errors"] == []
    checks = [f'check("{name}")' for name in ASSIGNMENTS[assignment]]
    assert ran["scores"] == dict.fromkeys(checks, 0.0)
    assert "This cell runs once" in ran["said"]


# --- the sample class ----------------------------------------------------------------------------


def defines(source: str, name: str) -> bool:
    """Whether the code, which must compile, defines a function or class of that name."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return any(isinstance(n, kinds) and n.name == name for n in ast.parse(source).body)


def answers_what_its_kind_says(
    student: Student, notebook: nbformat.NotebookNode, release: nbformat.NotebookNode, names: list
) -> None:
    checks = [checked_exercise(c.source) for c in notebook.cells if c.cell_type == "code"]
    present = {name: checks.count(name) for name in names}
    right, wrong, untouched, other = [], [], [], []
    for name in names:
        if not present[name]:
            continue  # its answer is found by its check
        exercise, entry = get_exercise(name), student.entries.get(name)
        source = answer_cell(notebook, name).source
        if entry is None:
            assert source == answer_cell(release, name).source
            untouched.append(name)
            continue
        assert source == entry.source.rstrip("\n")
        kinds = right if entry.answer in exercise.right_answers else (
            wrong if entry.answer in exercise.wrong_answers else other
        )  # fmt: skip
        kinds.append(name)
        if student.kind != "syntax error" or name != student.affected:
            assert defines(source, name)
    everything = dict.fromkeys(names, 1)
    if student.kind == "one misconception":
        assert (wrong, len(right)) == ([student.affected], len(names) - 1)
    elif student.kind == "mixture":
        assert right and wrong and untouched and not other
    elif student.kind == "untouched":
        assert untouched == names and student.words == ""
    elif student.kind in FAULTS:
        assert other == [student.affected] and len(right) == len(names) - 1
        if student.kind == "syntax error":
            with pytest.raises(SyntaxError):
                ast.parse(student.entries[student.affected].source)
    elif student.kind in CHEATS:
        assert len(other) == min(len(CHEATS[student.kind]), len(functions(names)))
        assert not wrong and not untouched
    elif student.kind == "deleted test cell":
        assert present == everything | {student.affected: 0} and len(right) == len(names) - 1
    else:
        assert right == names
    if student.kind == "duplicated test cell":
        assert present == everything | {student.affected: 2}
    elif student.kind == "cheats: forging results":
        assert not any(present.values()) or "1000.0" in str(notebook.cells)
    elif student.kind != "deleted test cell":
        assert present == everything
    if student.kind in NOISE:
        for name in functions(names):
            assert defines(student.entries[name].source, f"my_{name}")


def functions(names: list) -> list[str]:
    return [n for n in names if not isinstance(get_exercise(n).reference, type)]


@every_assignment
def test_a_sample_class_answers_what_its_kinds_say(every_release: Course, assignment: str) -> None:
    names = list(ASSIGNMENTS[assignment])
    release = read(release_path(every_release, assignment))
    planned = sample_class(assignment, STUDENTS)
    assert {s.kind for s in planned} == set(KINDS)
    written = write_sample_class(every_release.root, assignment, STUDENTS)
    assert [p.parent.name for p in written] == [s.name for s in planned]
    for student, folder in zip(planned, written, strict=True):
        (path,) = folder.iterdir()
        assert path.suffix == ".ipynb"
        assert (path.stem == assignment) == (student.kind != "renamed notebook")
        if student.kind == "empty file":
            assert path.stat().st_size == 0
            continue
        notebook = read(path)
        nbformat.validate(notebook)
        if student.kind == "cheats: forging results":
            continue  # its checks are replaced, and its answers with them cannot be found
        answers_what_its_kind_says(student, notebook, release, names)
