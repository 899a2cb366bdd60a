"""Submissions that would stop or mislead nbgrader: each one is graded or needs a look, alone."""

import json
import os
import re
import shutil
from datetime import datetime

import nbformat
import pytest
from course_folder import ASSIGNMENT, Course, autograde, files, grade_id, right
from nbgrader.utils import parse_utc

from llmr_ref.grading.exercises import assignment_exercises
from llmr_ref.grading.reading import ON_TIME, handed_in_at
from llmr_ref.grading.sample_class import answer_cell, check_cell

pytestmark = pytest.mark.course

ALL = {e.name: float(e.points) for e in assignment_exercises(ASSIGNMENT)}
NONE = dict.fromkeys(ALL, 0.0)
CHECKS = {grade_id(name) for name in ALL}
UNMARKED = [f"cell '{grade_id(name)}' had lost its marks" for name in ALL]

HANDED_IN = {}  # student -> (function, notes, scores, what needs a look)


def handed_in(*notes, scores=None, look=frozenset()):
    """Register a submission: what its notes begin with, the scores if not full, what needs a look.

    The function changes a notebook of right answers, or returns bytes to hand in instead of it, or
    writes to the path it is given.
    """

    def register(function):
        student = function.__name__.replace("_", "-")
        HANDED_IN[student] = (function, notes, {**ALL, **(scores or {})}, set(look))
        return function

    return register


unreadable = {"scores": NONE, "look": CHECKS}


@handed_in()
def nothing_odd(notebook, path):
    pass


# --- encodings -----------------------------------------------------------------------------------


def with_a_word(notebook):
    """Outside ASCII, as a comment in an answer."""
    answer_cell(notebook, "softmax").source += "\n# größer als β"
    return json.dumps(notebook, ensure_ascii=False)


@handed_in()
def a_byte_order_mark(notebook, path):
    return with_a_word(notebook).encode("utf-8-sig")


@handed_in("the submitted file is not UTF-8 text; it was read as utf-16")
def utf_16(notebook, path):
    return with_a_word(notebook).encode("utf-16")


@handed_in("the submitted file is not UTF-8 text; it was read as utf-16-be")
def utf_16_without_a_mark(notebook, path):
    return with_a_word(notebook).encode("utf-16-be")


@handed_in("the submitted file is not UTF-8 text; it was read as cp1252")
def latin_1(notebook, path):
    return with_a_word(notebook).replace("β", "b").encode("latin-1")


# --- formats -------------------------------------------------------------------------------------


@handed_in("cell 'softmax' was missing", *UNMARKED)
def format_2(notebook, path):
    """No metadata of cells: nothing says which cell is which."""
    cells = [
        {"cell_type": "code", "input": c.source, "prompt_number": 1, "outputs": [],
         "language": "python", "collapsed": False}
        if c.cell_type == "code" else {"cell_type": "markdown", "source": c.source}
        for c in notebook.cells
    ]  # fmt: skip
    old = {"nbformat": 2, "metadata": {"name": ""}, "worksheets": [{"cells": cells}]}
    return json.dumps(old).encode()


def older(notebook, minor):
    for cell in notebook.cells:
        cell.pop("id", None)
    notebook.nbformat_minor = minor


@handed_in()
def format_4_0(notebook, path):
    older(notebook, 0)


@handed_in()
def format_4_2(notebook, path):
    older(notebook, 2)


@handed_in()
def format_4_6_to_come(notebook, path):
    notebook.nbformat_minor = 6
    for cell in notebook.cells:
        cell["lineage"] = {"parent": None}


@handed_in("the submitted file is not a notebook (format version 5", **unreadable)
def format_5_to_come(notebook, path):
    return json.dumps({"nbformat": 5, "nbformat_minor": 0, "blocks": []}).encode()


@handed_in("the submitted file is not a notebook (NotJSONError)", **unreadable)
def half_a_file(notebook, path):
    whole = nbformat.writes(notebook).encode()
    return whole[: len(whole) // 2]


@handed_in("the submitted file is not a notebook", **unreadable)
def a_file_of_zeros(notebook, path):
    return bytes(10_000)


# --- cells ---------------------------------------------------------------------------------------


@handed_in("the cells stood in another order than in the assignment")
def answers_after_their_checks(notebook, path):
    for name in ALL:
        answer, check = answer_cell(notebook, name), check_cell(notebook, name)
        here, there = notebook.cells.index(answer), notebook.cells.index(check)
        notebook.cells[here], notebook.cells[there] = check, answer


@handed_in("the cells stood in another order than in the assignment")
def cells_from_last_to_first(notebook, path):
    notebook.cells.reverse()


@handed_in("cell 'softmax' was missing", *UNMARKED)
def marks_lost_everywhere(notebook, path):
    for cell in notebook.cells:
        cell.metadata.clear()


@handed_in(
    "cell 'part-1' is not part of the assignment",
    "cell 'part-1-check' is not part of the assignment",
    "cell 'check-softmax' had lost its marks; it was known by its text",
    "cell 'softmax' was missing",
)
def fetched_before_a_cell_was_renamed(notebook, path):
    answer_cell(notebook, "softmax").metadata.nbgrader["grade_id"] = "part-1"
    check_cell(notebook, "softmax").metadata.nbgrader["grade_id"] = "part-1-check"


@handed_in(
    "cell 'statement-apply-rope' was missing", "cell 'apply-rope' was missing",
    "cell 'check-apply-rope' was missing", scores={"apply_rope": 0.0},
    look={"check-apply-rope"},
)  # fmt: skip
def fetched_before_an_exercise_was_added(notebook, path):
    kept = [c for c in notebook.cells
            if "apply-rope" not in c.metadata.get("nbgrader", {}).get("grade_id", "")]  # fmt: skip
    notebook.cells = kept


@handed_in(
    "cell 'square' is not part of the assignment",
    "cell 'check-square' is not part of the assignment",
)
def fetched_before_an_exercise_was_removed(notebook, path):
    marks = {"schema_version": 3, "solution": True, "grade": False, "locked": False, "task": False}
    check = {**marks, "solution": False, "grade": True, "locked": True, "points": 9}
    notebook.cells += [
        nbformat.v4.new_code_cell(
            "def square(x):\n    return x * x",
            metadata={"nbgrader": {**marks, "grade_id": "square", "cell_type": "code"}},
        ),
        nbformat.v4.new_code_cell(
            'check("square")',
            metadata={"nbgrader": {**check, "grade_id": "check-square", "cell_type": "code"}},
        ),
    ]


@handed_in("the grading marks of cell 'check-softmax' were changed")
def fetched_before_the_points_changed(notebook, path):
    check_cell(notebook, "softmax").metadata.nbgrader["points"] = 30


# --- size ----------------------------------------------------------------------------------------


@handed_in()
def outputs_of_60_MB(notebook, path):
    text = nbformat.v4.new_output("stream", text="." * 30_000_000)
    picture = nbformat.v4.new_output("display_data", data={"image/png": "A" * 30_000_000})
    answer_cell(notebook, "softmax").outputs = [text, picture]


@handed_in(
    "the submitted file has more than 8 MB without its outputs; that is the limit", **unreadable
)
def code_of_9_MB(notebook, path):
    answer_cell(notebook, "softmax").source += "\n# " + "." * (9 << 20)


@handed_in("the submitted file is not a notebook (MemoryError)", **unreadable)
def a_list_of_100_million_lists(notebook, path):
    return b"[" + b"[]," * 30_000_000 + b"[]]"


@handed_in("the submitted file is not a notebook (JSONDecodeError)", **unreadable)
def half_of_a_large_file(notebook, path):
    return b'{"cells": [' + b" " * (9 << 20)


# --- kernels -------------------------------------------------------------------------------------


@handed_in()
def a_notebook_for_r(notebook, path):
    notebook.metadata["kernelspec"] = {"name": "ir", "display_name": "R", "language": "R"}
    notebook.metadata["language_info"] = {"name": "R", "file_extension": ".r"}


@handed_in()
def a_kernel_that_does_not_exist(notebook, path):
    notebook.metadata["kernelspec"] = {"name": "conda-env-llm-py", "display_name": "Python (llm)"}


# --- files ---------------------------------------------------------------------------------------


@handed_in("no notebook was handed in", **unreadable)
def an_empty_folder(notebook, path):
    return path.parent.is_dir


@handed_in("no notebook was handed in", **unreadable)
def only_other_files(notebook, path):
    return lambda: path.with_suffix(".py").write_text("def softmax(x): ...")


@handed_in(
    "no notebook named 'attention.ipynb' was handed in; there are 'a.ipynb', 'b.ipynb'",
    **unreadable,
)
def two_notebooks_under_other_names(notebook, path):
    def write():
        for name in ("a.ipynb", "b.ipynb"):
            nbformat.write(notebook, path.with_name(name))

    return write


@handed_in("the submitted file is neither a file nor a folder", **unreadable)
def a_pipe_of_that_name(notebook, path):
    return lambda: os.mkfifo(path)


@handed_in("'data.csv' was left out: a link to another file",
           "'gone.csv' was left out: a link to another file",
           "'pipe' was left out: neither a file nor a folder",
           "'x[y]' was left out: a folder whose name holds")  # fmt: skip
def links_and_pipes_beside_it(notebook, path):
    def write():
        nbformat.write(notebook, path)
        path.with_name("data.csv").symlink_to(path.parents[3] / ".course_secret")
        path.with_name("gone.csv").symlink_to("nowhere")
        os.mkfifo(path.with_name("pipe"))
        hidden = path.with_name("x[y]")
        hidden.mkdir()
        (hidden / "deep.csv").symlink_to(path.parents[3] / ".course_secret")

    return write


@handed_in("the date in timestamp.txt cannot be read")
def a_date_that_is_a_pipe(notebook, path):
    def write():
        nbformat.write(notebook, path)
        os.mkfifo(path.with_name("timestamp.txt"))

    return write


@pytest.fixture(scope="module")
def graded(released, tmp_path_factory):
    """Everybody above, graded in one run; and what the course folder held before it."""
    root = tmp_path_factory.mktemp("odd") / "course"
    shutil.copytree(released.root, root)
    course = Course(root)
    for student, (change, *_) in HANDED_IN.items():
        path = course.submitted(student)
        path.parent.mkdir(parents=True)
        notebook = right(course.release())
        content = change(notebook, path)
        if callable(content):
            content()
        else:
            path.write_bytes(content or json.dumps(notebook).encode())
    before = files(root, "source", "release", "submitted")
    autograde(course)
    return course, before


@pytest.mark.parametrize("student", HANDED_IN)
def test_each_submission_is_graded_or_needs_a_look_with_the_reason(graded, student):
    course, _ = graded
    _, notes, expected, look = HANDED_IN[student]
    scores = course.scores(student)
    assert {name: scores[grade_id(name)] for name in expected} == expected
    verdicts = course.verdicts(student)
    assert {n: v["score"] for n, v in verdicts.items()} == expected
    said = course.notes(student)
    assert bool(said) == bool(notes), said
    for note in notes:
        assert any(n.startswith(note) for n in said), (note, said)
    assert course.waiting(student) & CHECKS == look
    for name, verdict in verdicts.items():
        assert bool(verdict["needs_look"]) == (grade_id(name) in look), verdict
    if look == CHECKS:
        assert {v["needs_look"] for v in verdicts.values()} == {said[0]}


def test_grading_changes_nothing_that_was_handed_in_and_copies_nothing_from_elsewhere(graded):
    course, before = graded
    assert files(course.root, "source", "release", "submitted") == before
    secret = (course.root / ".course_secret").read_bytes()
    copied = files(course.root, "autograded")
    assert not [path for path, content in copied.items() if secret in content]
    assert {p.name for p in course.root.glob("autograded/*/*/*") if p.suffix != ".ipynb"} == {
        "attention.py"
    }


def test_everybody_is_in_the_gradebook(graded):
    course, _ = graded
    with course.gradebook() as gradebook:
        submissions = gradebook.assignment_submissions(ASSIGNMENT)
        assert {s.student.id for s in submissions} == set(HANDED_IN)


# --- dates ---------------------------------------------------------------------------------------

NOON = datetime(2026, 1, 15, 12)


@pytest.mark.parametrize("written, expected", [
    ("2026-01-15 12:00:00 UTC", NOON),
    ("2026-01-15 12:00:00.000000 UTC\n", NOON),
    ("2026-01-15 12:00:00", NOON),
    ("2026-01-15T12:00:00Z", NOON),
    ("2026-01-15T13:00:00+01:00", NOON),
    ("2026-01-15 13:00:00 +0100", NOON),  # nbgrader's own reader takes it for 100 seconds
    ("2026-01-15 08:30:00 -0330", NOON),
    ("2026-01-15 13:00:00 CET", NOON),
    ("2026-01-15 13:00:00 Europe/Berlin", NOON),
    ("2026-07-15 14:00:00 Europe/Berlin", datetime(2026, 7, 15, 12)),
    ("2026-10-25 02:30:00 Europe/Berlin", datetime(2026, 10, 25, 0, 30)),  # occurs twice
    ("2026-03-29 02:30:00 Europe/Berlin", datetime(2026, 3, 29, 1, 30)),  # does not exist
    ("2026-01-15 12:00 PM", NOON),
    ("15 January 2026 12:00", NOON),
])  # fmt: skip
def test_a_date_counts_in_utc_whatever_zone_it_was_written_in(tmp_path, written, expected):
    (tmp_path / "timestamp.txt").write_text(written)
    assert handed_in_at(tmp_path) == (expected, [])


def test_a_byte_order_mark_or_utf_16_does_not_hide_a_date(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "timestamp.txt").write_text("2026-01-15 12:00:00 UTC\r\n", encoding)
        assert handed_in_at(tmp_path) == (NOON, [])


@pytest.mark.parametrize("written", [
    "yesterday evening", "noon", "12:00", "2026", "15 January", "2026-02-30 12:00:00",
    "2026-13-01 12:00:00", "9999-12-31 23:59:59 -1200", "0001-01-01 00:00:00 +1200",
    "2026-01-15 12:00:00 99999999999", "2026-01-15 12:00:00 ../../../etc/passwd", "\0\0\0\0", "\ud83d",
    "x" * 100_000, "1" * 300,
])  # fmt: skip
def test_a_date_that_is_none_counts_as_on_time_and_is_noted(tmp_path, written):
    (tmp_path / "timestamp.txt").write_bytes(written.encode("utf-8", "surrogatepass"))
    moment, notes = handed_in_at(tmp_path)
    assert moment is None and len(notes) == 1 and notes[0].endswith(ON_TIME)


def test_a_zone_that_nobody_knows_is_read_as_utc_and_noted(tmp_path):
    (tmp_path / "timestamp.txt").write_text("2026-01-15 12:00:00 XYZT")
    moment, notes = handed_in_at(tmp_path)
    assert moment == NOON
    assert notes == ["the time zone 'XYZT' in timestamp.txt is not known; read as UTC"]


def test_no_date_is_no_note(tmp_path):
    assert handed_in_at(tmp_path) == (None, [])


def test_dates_that_nbgrader_itself_writes_are_read_as_it_reads_them(tmp_path):
    for written in ("2026-01-15 12:34:56.789012 UTC", "2026-01-15 12:34:56 America/New_York"):
        (tmp_path / "timestamp.txt").write_text(written)
        assert handed_in_at(tmp_path)[0] == parse_utc(written)
        assert re.match("2026-01-15", str(parse_utc(written)))
