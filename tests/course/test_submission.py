"""What becomes of odd submissions, and of faults of our own: repaired or 0 points, noted, never lost."""

import json
import os
import shutil
import stat
import warnings
from pathlib import Path

import nbformat
import pytest
from course_folder import ASSIGNMENT, Course, autograde, grade_id, right
from nbgrader.converters.base import NbGraderException

from llmr_ref.grading import autograde as steps
from llmr_ref.grading import engine, sandbox
from llmr_ref.grading.autograde import Grade, checked_exercise, course_secret
from llmr_ref.grading.cache import Cache
from llmr_ref.grading.exercises import assignment_exercises
from llmr_ref.grading.intake import Repair, is_finished
from llmr_ref.grading.reading import read_notebook
from llmr_ref.grading.sample_class import answer_cell, check_cell
from llmr_ref.grading.sandbox import SandboxError, Worker, grading_tier

pytestmark = pytest.mark.course

EXERCISES = assignment_exercises(ASSIGNMENT)
ALL = {e.name: float(e.points) for e in EXERCISES}
NONE = dict.fromkeys(ALL, 0.0)


def marks(notebook, exercise="softmax"):
    return check_cell(notebook, exercise).metadata.nbgrader


# --- odd submissions -----------------------------------------------------------------------------
# Each changes a notebook of right answers, or returns bytes to hand in instead of it.

ODD = {}


def odd(*notes, scores=None):
    """Register an odd submission: what the notes must begin with, in order, and scores if not full."""

    def register(function):
        ODD[function.__name__.replace("_", "-")] = (function, notes, {**ALL, **(scores or {})})
        return function

    return register


@odd()
def nothing_odd(notebook):
    pass


@odd("the submitted file is empty", scores=NONE)
def empty_file(notebook):
    return b""


@odd("the submitted file is not a notebook", scores=NONE)
def not_json(notebook):
    return b"def softmax(x): return x"


@odd("the submitted file is not a notebook", scores=NONE)
def json_of_something_else(notebook):
    return b'{"cells": 5, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'


@odd("the submitted file is not a notebook", scores=NONE)
def json_nested_deeply(notebook):
    return b"[" * 200_000


@odd("the submitted file has 257 MB; 256 MB is the limit", scores=NONE)
def too_large(notebook):
    return lambda path: path.touch() or os.truncate(path, 257 * 2**20)


@odd("the submitted file is a folder", scores=NONE)
def folder_of_that_name(notebook):
    return Path.mkdir


@odd("the submitted file is a link to another file", scores=NONE)
def link_to_another_file(notebook):
    return lambda path: path.symlink_to(path.parents[3] / "source/attention/attention.ipynb")


@odd()
def format_3(notebook):
    for cell in notebook.cells:
        cell.pop("id", None)
    return nbformat.writes(notebook, version=3).encode()


@odd("cell 'check-softmax' was missing")
def format_4_without_ids_and_a_cell_missing(notebook):
    notebook.cells.remove(check_cell(notebook, "softmax"))
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        del cell["id"]


@odd("cell 'check-apply-rope' occurs more than once; the first one counts")
def duplicated_check_cell(notebook):
    check = check_cell(notebook, "apply_rope")
    notebook.cells.append(nbformat.from_dict({**check, "id": "again"}))


@odd("cell 'softmax' occurs more than once; the first one counts")
def duplicated_answer_cell(notebook):
    answer = answer_cell(notebook, "softmax")
    notebook.cells.insert(notebook.cells.index(answer), nbformat.from_dict({**answer, "id": "old"}))


@odd()
def duplicated_cell_ids(notebook):
    for cell in notebook.cells:
        cell["id"] = "same"


@odd("cell 'check-softmax' was missing", "cell 'check-causal-mask' was missing")
def deleted_check_cells(notebook):
    for name in ("softmax", "causal_mask"):
        notebook.cells.remove(check_cell(notebook, name))


@odd("cell 'softmax' was missing")
def deleted_answer_cell_and_answer_elsewhere(notebook):
    answer = answer_cell(notebook, "softmax")
    del answer.metadata["nbgrader"]


@odd("cell 'softmax' was missing", scores={"softmax": 0.0})
def deleted_answer_cell(notebook):
    notebook.cells.remove(answer_cell(notebook, "softmax"))


@odd(*["cell "] * 5, scores=NONE)
def all_cells_deleted(notebook):
    notebook.cells = []


@odd("the grading marks of cell 'check-softmax' were changed")
def a_thousand_points(notebook):
    marks(notebook)["points"] = 1000


@odd("the grading marks of cell 'check-softmax' were changed")
def no_longer_graded(notebook):
    marks(notebook)["grade"] = False


@odd("the grading marks of cell 'check-softmax' were changed")
def check_cell_made_an_answer_cell(notebook):
    marks(notebook).update(solution=True, locked=False)


@odd("the grading marks of cell 'check-softmax' were changed")
def marks_of_an_old_schema(notebook):
    marks(notebook)["schema_version"] = 1


@odd("the grading marks of cell 'check-softmax' were changed")
def marks_of_a_schema_to_come(notebook):
    marks(notebook)["schema_version"] = 99


@odd("cell 'check-softmax' had lost its marks; it was known by its text")
def marks_that_are_no_object(notebook):
    check_cell(notebook, "softmax").metadata["nbgrader"] = "full marks"


@odd(
    "cell \"['check-softmax']\" is not part of the assignment",
    "cell 'check-softmax' had lost its marks; it was known by its text",
)
def grade_id_that_is_no_text(notebook):
    marks(notebook)["grade_id"] = ["check-softmax"]


@odd("cell 'bonus' is not part of the assignment")
def a_graded_cell_of_their_own(notebook):
    own = nbformat.from_dict({**check_cell(notebook, "softmax"), "id": "bonus"})
    own.metadata = nbformat.from_dict(
        {"nbgrader": {**marks(notebook), "grade_id": "bonus", "points": 50}}
    )
    notebook.cells.append(own)


@odd()
def check_cell_made_markdown_with_an_attachment(notebook):
    check = check_cell(notebook, "softmax")
    at = notebook.cells.index(check)
    notebook.cells[at] = nbformat.v4.new_markdown_cell("no check", metadata=check.metadata)
    notebook.cells[at]["attachments"] = {"a.png": {"image/png": "AAAA"}}


@odd()
def answer_cell_made_raw(notebook):
    answer = answer_cell(notebook, "softmax")
    at = notebook.cells.index(answer)
    notebook.cells[at] = nbformat.v4.new_raw_cell(answer.source, metadata=answer.metadata)


@odd()
def check_cell_that_says_full_marks(notebook):
    check = check_cell(notebook, "softmax")
    check.source = "3.0"
    check.outputs = [nbformat.v4.new_output("execute_result", data={"text/plain": "1000.0"})]


@odd(scores={"softmax": 0.0})
def a_verdict_of_their_own(notebook):
    answer_cell(notebook, "softmax").source = "def softmax(x, dim=-1):\n    return x"
    notebook.metadata["llmr"] = {"graded": True, "intake": ["checked by the instructor"], "tier": 2}
    for cell in notebook.cells:
        cell.metadata["llmr"] = {"exercise": "softmax", "score": 3.0, "points": 3.0}


@odd(scores={"softmax": 0.0})
def notes_that_are_no_object(notebook):
    answer_cell(notebook, "softmax").source = "def softmax(x, dim=-1):\n    return x"
    notebook.metadata["llmr"] = "graded"


@odd()
def text_that_is_not_unicode(notebook):
    notebook.cells.append(nbformat.v4.new_code_cell("word = 'half'"))
    return nbformat.writes(notebook).replace("half", r"\ud83d").encode()


@odd()
def a_null_character(notebook):
    notebook.cells.insert(0, nbformat.v4.new_code_cell("word = '\0'"))


@odd()
def no_kernel_named(notebook):
    del notebook.metadata["kernelspec"]


@odd()
def a_kernel_of_their_own(notebook):
    notebook.metadata["kernelspec"] = {"name": "../evil", "display_name": "x", "language": "R"}
    notebook.metadata["language_info"] = {"name": "R"}


@odd("handed in as 'Untitled (1).ipynb'")
def renamed(notebook):
    return lambda path: nbformat.write(notebook, path.with_name("Untitled (1).ipynb"))


@odd()
def a_second_notebook_beside_it(notebook):
    def write(path):
        nbformat.write(notebook, path)
        path.with_name("attempts.ipynb").write_text("not a notebook")

    return write


@odd("the date in timestamp.txt cannot be read; it counts as handed in on time")
def a_date_that_cannot_be_read(notebook):
    def write(path):
        nbformat.write(notebook, path)
        path.with_name("timestamp.txt").write_text("yesterday evening\n")

    return write


def hand_in(course, student, change):
    """Write one odd submission."""
    notebook = right(course.release())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbformat about cells without ids, which is the point
        content = change(notebook)
    path = course.submitted(student)
    path.parent.mkdir(parents=True)
    if callable(content):
        content(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(notebook))


@pytest.fixture(scope="module")
def odd_class(released, tmp_path_factory):
    """All odd submissions, graded in one run: none of them may stop it."""
    root = tmp_path_factory.mktemp("odd") / "course"
    shutil.copytree(released.root, root)
    course = Course(root)
    for student, (change, _, _) in ODD.items():
        hand_in(course, student, change)
    autograde(course)
    return course


@pytest.mark.parametrize("student", ODD)
def test_an_odd_submission_gets_what_its_answers_deserve(odd_class, student):
    _, _, expected = ODD[student]
    scores = odd_class.scores(student)
    assert {name: scores[grade_id(name)] for name in expected} == expected
    assert {n: v["score"] for n, v in odd_class.verdicts(student).items()} == expected


@pytest.mark.parametrize("student", ODD)
def test_an_odd_submission_says_what_was_odd(odd_class, student):
    _, expected, _ = ODD[student]
    notes = odd_class.notes(student)
    assert all(n.startswith(e) for n, e in zip(notes, expected, strict=False)), notes
    assert bool(notes) == bool(expected) and len(notes) >= len(expected), notes


def test_no_odd_submission_changes_what_is_graded(odd_class):
    for student in ODD:
        graded = [c for c in odd_class.autograded(student).cells
                  if c.cell_type == "code" and c.metadata.get("nbgrader", {}).get("grade")]  # fmt: skip
        assert [checked_exercise(c.source) for c in graded] == list(ALL), student
        assert [c.metadata.nbgrader.points for c in graded] == list(ALL.values()), student


# --- faults of our own ---------------------------------------------------------------------------


def raising(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.fixture
def one_right(course):
    hand_in(course, "s01", nothing_odd)
    return course


@pytest.mark.parametrize("place, name", [
    (engine, "get_exercise"), (steps, "submission_seed"), (engine, "prepare"),
    (engine, "practice_trials"), (engine, "judge"), (Worker, "run"), (Worker, "_start"),
    (engine, "grade_exercise"), (engine, "exercise_fingerprint"), (Cache, "get"), (Cache, "put"),
], ids=lambda x: getattr(x, "__name__", x))  # fmt: skip
def test_a_fault_of_the_grader_is_0_points_and_needs_a_look(one_right, monkeypatch, place, name):
    monkeypatch.setattr(place, name, raising(ZeroDivisionError("a fault of ours")))
    autograde(one_right)
    scores = one_right.scores("s01")
    for exercise in ALL:
        verdict = one_right.verdicts("s01")[exercise]
        assert scores[grade_id(exercise)] == verdict["score"] == 0.0
        assert "a fault of ours" in verdict["needs_look"]
        assert verdict["message"] == "This exercise could not be graded."
        assert grade_id(exercise) in one_right.waiting("s01")


def test_a_fault_in_one_exercise_costs_only_that_one(one_right, monkeypatch):
    judge = engine.judge

    def sometimes(exercise, *args, **kwargs):
        if exercise.name == "causal_mask":
            raise SandboxError("the worker failed")
        return judge(exercise, *args, **kwargs)

    monkeypatch.setattr(engine, "judge", sometimes)
    autograde(one_right)
    assert {n: v["score"] for n, v in one_right.verdicts("s01").items()} == {
        **ALL, "causal_mask": 0.0
    }  # fmt: skip
    assert one_right.waiting("s01") - {"cheating-model"} == {grade_id("causal_mask")}


def test_a_verdict_above_the_points_is_cut(one_right, monkeypatch):
    judge = engine.judge

    def generous(*args, **kwargs):
        return judge(*args, **kwargs).model_copy(update={"score": 1000.0})

    monkeypatch.setattr(engine, "judge", generous)
    autograde(one_right)
    assert {n: one_right.scores("s01")[grade_id(n)] for n in ALL} == ALL


@pytest.mark.parametrize("place, name", [
    (Repair, "preprocess"), (Grade, "preprocess"), (steps, "write_verdict"),
    (steps, "course_secret"), (steps.FlagNeedsLook, "preprocess"),
], ids=lambda x: getattr(x, "__name__", x))  # fmt: skip
def test_a_stage_that_fails_altogether_is_loud_gives_nothing_and_is_tried_again(
    one_right, monkeypatch, place, name
):
    hand_in(one_right, "s02", nothing_odd)
    with monkeypatch.context() as broken:
        broken.setattr(place, name, raising(ZeroDivisionError("a fault of ours")))
        with pytest.raises(NbGraderException):
            autograde(one_right)
    assert not list((one_right.root / "autograded").glob("*/*/*.ipynb"))
    if place is not steps.FlagNeedsLook:
        assert not any(one_right.scores("s01").values())
    autograde(one_right)
    for student in ("s01", "s02"):
        assert {n: one_right.scores(student)[grade_id(n)] for n in ALL} == ALL


@pytest.mark.parametrize("place, name", [
    (Worker, "job"), (engine, "take_pictures"), (engine, "grader_fingerprint"), (Cache, "get"),
], ids=lambda x: getattr(x, "__name__", x))  # fmt: skip
def test_a_fault_of_ours_in_the_notebooks_own_run_costs_its_pictures_and_nothing_else(
    one_right, monkeypatch, place, name
):
    show = engine.show_notebook

    def broken(*args):
        with monkeypatch.context() as during:
            during.setattr(place, name, raising(ZeroDivisionError("a fault of ours")))
            return show(*args)

    monkeypatch.setattr(steps, "run_once", lambda *_: None)
    monkeypatch.setattr(steps, "show_notebook", broken)
    autograde(one_right, pictures=True)
    assert {n: one_right.scores("s01")[grade_id(n)] for n in ALL} == ALL
    assert one_right.notes("s01") == ["the notebook did not run to its end (ZeroDivisionError)"]
    assert not any(v["needs_look"] for v in one_right.verdicts("s01").values())


REACHES_OUT = """
import os
import socket
import threading

for attempt in (os.fork, lambda: socket.create_connection(("192.0.2.1", 80), timeout=1)):
    try:
        attempt()
        print("went through")
    except OSError as error:
        print("refused", type(error).__name__)
thread = threading.Thread(target=print, args=("a thread runs",))
thread.start()
thread.join()
print("reference found" if os.path.exists(MASKS) else "no reference")
"""


def test_the_notebooks_own_run_starts_no_process_and_reaches_nothing(one_right):
    def reaches_out(notebook):
        source = REACHES_OUT.replace(
            "MASKS", repr(str(Path(steps.__file__).parents[1] / "masks.py"))
        )
        notebook.cells.insert(2, nbformat.v4.new_code_cell(source))

    hand_in(one_right, "s02", reaches_out)
    autograde(one_right, pictures=True)
    said = [
        output.text
        for cell in one_right.autograded("s02").cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    ]
    assert said[0].split("\n")[:4] == [
        "refused PermissionError",
        "refused OSError",  # unreachable: there is no network; elsewhere it would time out
        "a thread runs",
        "no reference",
    ]
    assert one_right.notes("s02") == []


def test_an_interrupted_run_leaves_nothing_that_counts_as_graded(one_right):
    autograde(one_right)
    folder = one_right.root / "autograded" / "s01" / ASSIGNMENT
    whole = (folder / "attention.ipynb").read_text()
    for half in (whole[:5000], "", whole.replace('"graded": true', '"graded": false')):
        (folder / "attention.ipynb").chmod(0o644)
        (folder / "attention.ipynb").write_text(half)
        assert not is_finished(folder / "attention.ipynb")
        autograde(one_right)
        assert (folder / "attention.ipynb").read_text() == whole
    (folder / "attention.ipynb").unlink()
    autograde(one_right)
    assert (folder / "attention.ipynb").read_text() == whole


# --- tiers, secret, check cells ------------------------------------------------------------------


def test_grading_refuses_to_fall_below_the_lowest_tier(one_right, monkeypatch):
    monkeypatch.setattr(sandbox, "available_tier", lambda: (1, "bubblewrap is not installed"))
    monkeypatch.delenv("LLMR_LOWEST_TIER", raising=False)
    with pytest.raises(RuntimeError) as refusal:
        autograde(one_right)
    assert str(refusal.value) == (
        "grading tier 2 is required but only tier 1 is available: bubblewrap is not installed. "
        "Install what is missing, or set LLMR_LOWEST_TIER=1 to grade without the sandbox."
    )
    assert not (one_right.root / "autograded").exists()


def test_tier_1_is_used_when_it_is_allowed_and_written_down(one_right, monkeypatch):
    monkeypatch.setattr(sandbox, "available_tier", lambda: (1, "bubblewrap is not installed"))
    monkeypatch.setenv("LLMR_LOWEST_TIER", "1")
    autograde(one_right)
    assert one_right.autograded("s01").metadata["llmr"]["tier"] == 1
    verdicts = one_right.verdicts("s01")
    assert {v["tier"] for v in verdicts.values()} == {1}
    assert {n: v["score"] for n, v in verdicts.items()} == ALL


@pytest.mark.parametrize("value", ["two", "3", "0", ""])
def test_a_lowest_tier_that_does_not_exist_is_refused(monkeypatch, value):
    monkeypatch.setenv("LLMR_LOWEST_TIER", value)
    with pytest.raises(RuntimeError, match="LLMR_LOWEST_TIER"):
        grading_tier()


def test_the_secret_is_made_once_and_for_the_instructor_alone(tmp_path):
    secret = course_secret(tmp_path)
    assert len(secret) == 64 and course_secret(tmp_path) == secret
    assert stat.S_IMODE(os.stat(tmp_path / ".course_secret").st_mode) == 0o600
    other = tmp_path / "other"
    other.mkdir()
    assert course_secret(other) != secret


def test_an_empty_secret_is_refused(tmp_path):
    (tmp_path / ".course_secret").touch()
    with pytest.raises(RuntimeError, match=r"\.course_secret is empty"):
        course_secret(tmp_path)


@pytest.mark.parametrize("source, name", [
    ('check("softmax")', "softmax"),
    ("# try it\nx = 1\ncheck('softmax')\n", "softmax"),
    ("", None),
    ("check(softmax)", None),
    ('check("softmax", mine)', None),
    ('check("softmax", answer=mine)', None),
    ('check("softmax") + 1', None),
    ('x = check("softmax")', None),
    ('check("softmax")\n5.0', None),
    ('grading.check("softmax")', None),
    ("check(5)", None),
    ('check("softmax"', None),
    ("\0", None),
])  # fmt: skip
def test_the_exercise_of_a_check_cell(source, name):
    assert checked_exercise(source) == name


@pytest.mark.parametrize("content, said", [
    (b"", "is empty"), (b"\xff", "is not a notebook"), (b"{}", "is not a notebook"),
    (b'{"nbformat": 99, "cells": [], "metadata": {}}',
     r"is not a notebook \(format version 99; 4 is the newest known\)"),
])  # fmt: skip
def test_a_file_that_is_no_notebook_is_told_in_words(tmp_path, content, said):
    path = tmp_path / "attention.ipynb"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_notebook(path)
