"""The sample class under plain `nbgrader autograde`: everybody gets what the banks say they deserve."""

import csv
import functools
import html
import re
import sqlite3

import pytest
from course_folder import ASSIGNMENT, SECRET, STUDENTS, autograde, files, grade_id
from nbgrader.api import MissingEntry

from llmr_ref.grading import matrix
from llmr_ref.grading.as_code import literal
from llmr_ref.grading.autograde import checked_exercise
from llmr_ref.grading.exercise import submission_seed
from llmr_ref.grading.exercises import assignment_exercises, get_exercise
from llmr_ref.grading.sample_class import (
    CHEATS,
    FAULTS,
    KINDS,
    MARKER,
    SCRIPT,
    answer_cell,
    designed_score,
    sample_class,
    write_sample_class,
)
from llmr_ref.grading.sample_class import designed_scores as scores_by_design
from llmr_ref.grading.verdict import prepare

pytestmark = pytest.mark.course

EXERCISES = assignment_exercises(ASSIGNMENT)
designed_scores = functools.cache(scores_by_design)
MANUAL = "cheating-model"
TOTAL = sum(e.points for e in EXERCISES)


def of_kind(graded, *kinds):
    """The students of these kinds; there is at least one of each."""
    found = [s for s in graded.students if s.kind in kinds]
    assert {s.kind for s in found} == set(kinds)
    return found


# --- the class itself ----------------------------------------------------------------------------


def test_the_class_of_24_holds_every_kind():
    kinds = [s.kind for s in sample_class(ASSIGNMENT, STUDENTS)]
    assert len(kinds) == STUDENTS and set(kinds) == set(KINDS)
    affected = [s.affected for s in sample_class(ASSIGNMENT, STUDENTS) if s.kind == KINDS[1]]
    assert sorted(affected) == sorted(e.name for e in EXERCISES)


def test_a_seed_decides_the_class_and_a_smaller_class_is_its_start():
    assert sample_class(ASSIGNMENT, 30, seed=1) == sample_class(ASSIGNMENT, 30, seed=1)
    assert sample_class(ASSIGNMENT, 30, seed=1) != sample_class(ASSIGNMENT, 30, seed=2)
    assert sample_class(ASSIGNMENT, 5) == sample_class(ASSIGNMENT, STUDENTS)[:5]


def test_a_larger_class_goes_on_with_other_entries_of_the_banks():
    larger = sample_class(ASSIGNMENT, 90)
    keys = [s.entries[s.affected].answer.key for s in larger if s.kind == "one misconception"]
    assert len(keys) == 28 and len(set(keys)) > 20
    assert {s.kind for s in larger[STUDENTS:]} == {"all right", "one misconception", "mixture"}


def test_without_a_release_version_the_error_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="nbgrader generate_assignment attention"):
        write_sample_class(tmp_path, ASSIGNMENT, 2)


def test_a_student_of_somebody_else_is_never_overwritten(course):
    own = course.root / "submitted" / "s02" / ASSIGNMENT
    own.mkdir(parents=True)
    (own / "attention.ipynb").write_text("their work")
    with pytest.raises(FileExistsError, match="s02"):
        write_sample_class(course.root, ASSIGNMENT, 3)
    assert files(course.root, "submitted") == {
        "submitted/s02/attention/attention.ipynb": b"their work"
    }


def test_a_new_sample_class_replaces_the_old_one(course):
    write_sample_class(course.root, ASSIGNMENT, 4)
    written = write_sample_class(course.root, ASSIGNMENT, 3, seed=5)
    assert [p.parent.name for p in written] == ["s01", "s02", "s03"]
    left = {p.parent.parent.name for p in course.root.glob("submitted/*/*/*.ipynb")}
    assert left == {"s01", "s02", "s03"}
    assert all((p.parent / MARKER).exists() for p in written)


def test_submissions_stay_small(released, graded_class):
    sizes = [len(b) for name, b in graded_class.before.items() if name.startswith("submitted/")]
    assert max(sizes) < 200_000


# --- scores --------------------------------------------------------------------------------------


def test_every_single_score_is_as_designed(graded_class):
    designed = designed_scores(ASSIGNMENT, STUDENTS)
    assert len(designed) == STUDENTS
    found = {
        s: {e.name: graded_class.course.scores(s)[grade_id(e.name)] for e in EXERCISES}
        for s in designed
    }
    assert found == designed


def test_the_design_holds_every_kind_of_score():
    scores = [x for own in designed_scores(ASSIGNMENT, STUDENTS).values() for x in own.values()]
    assert 0.0 in scores and any(0 < x < 1 or x % 1 for x in scores)
    assert sum(sum(own.values()) == TOTAL for own in designed_scores(ASSIGNMENT, 24).values()) >= 7


def test_nobody_is_lost(graded_class):
    with graded_class.course.gradebook() as gradebook:
        assert sorted(s.id for s in gradebook.students) == sorted(
            s.name for s in graded_class.students
        )
        assert len(gradebook.assignment_submissions(ASSIGNMENT)) == STUDENTS
    for student in graded_class.students:
        scores = graded_class.course.scores(student.name)
        assert set(scores) == {*(grade_id(e.name) for e in EXERCISES), MANUAL}
        automatic = {name: s for name, s in scores.items() if name != MANUAL}
        assert all(isinstance(s, float) for s in automatic.values()), student


def test_export_holds_everybody_with_the_sum_of_the_scores(graded_class):
    rows = list(csv.DictReader((graded_class.course.root / "grades.csv").open()))
    expected = {s: sum(own.values()) for s, own in designed_scores(ASSIGNMENT, STUDENTS).items()}
    assert {r["student_id"]: float(r["score"]) for r in rows} == pytest.approx(expected)
    assert {float(r["max_score"]) for r in rows} == {TOTAL + 3}


def test_the_question_in_words_waits_for_a_person(graded_class):
    for student in graded_class.students:
        waits = MANUAL in graded_class.course.waiting(student.name)
        score = graded_class.course.scores(student.name)[MANUAL]
        # Who wrote nothing has nothing to grade: nbgrader itself gives 0.
        assert (waits, score) == ((True, None) if student.words else (False, 0.0)), student


def test_grading_again_gives_identical_verdicts(graded_class, course):
    chosen = [of_kind(graded_class, "mixture")[0].name, of_kind(graded_class, *FAULTS)[0].name]
    for name in chosen:
        path = course.submitted(name)
        path.parent.mkdir(parents=True)
        path.write_bytes(graded_class.course.submitted(name).read_bytes())
    autograde(course, pictures=True)
    for name in chosen:
        first = graded_class.course.verdicts(name)
        assert course.verdicts(name) == first and first
        assert course.scores(name) == graded_class.course.scores(name)
    course.nbgrader("autograde", ASSIGNMENT, "--student", chosen[0], "--force")
    assert course.verdicts(chosen[0]) == graded_class.course.verdicts(chosen[0])


# --- verdicts ------------------------------------------------------------------------------------


def test_a_single_misconception_is_named_in_the_stored_verdict(graded_class):
    for student in of_kind(graded_class, "one misconception"):
        answer = student.entries[student.affected].answer
        stored = graded_class.course.verdicts(student.name)
        assert stored[student.affected]["misconception"]["key"] == answer.key
        assert stored[student.affected]["misconception"]["title"] == answer.title
        assert stored[student.affected]["counterexample"] is not None
        others = [v for name, v in stored.items() if name != student.affected]
        assert all(v["misconception"] is None and v["score"] == v["points"] for v in others)


def test_mixtures_are_named_as_in_the_judge(graded_class):
    for student in of_kind(graded_class, "mixture"):
        stored = graded_class.course.verdicts(student.name)
        for exercise in EXERCISES:
            entry = student.entries.get(exercise.name)
            named = stored[exercise.name]["misconception"]
            if entry is None:
                assert not stored[exercise.name]["attempted"]
            elif entry.answer in exercise.wrong_answers:
                (expected,) = {
                    v.misconception and v.misconception.key
                    for v in matrix.verdicts(exercise, entry.answer)
                }
                assert named and named["key"] == expected
            else:
                assert named is None


@pytest.mark.parametrize("kind, reason", [
    ("infinite loop", "is there a loop that never ends?"),
    ("memory hog", "more memory was asked for than is allowed"),
    ("os._exit", "ended the process or its results were not readable"),
    ("syntax error", "A cell raised SyntaxError"),
])  # fmt: skip
def test_a_broken_answer_is_explained_on_its_card(graded_class, kind, reason):
    (student,) = of_kind(graded_class, kind)
    cells = graded_class.course.autograded(student.name).cells
    cards = {
        c.metadata["llmr"]["exercise"]: c.outputs[0]["data"]["text/plain"]
        for c in cells if "llmr" in c.metadata
    }  # fmt: skip
    assert reason in cards[student.affected]
    assert not any(reason in card for name, card in cards.items() if name != student.affected)


@pytest.mark.parametrize("kind, reason", [
    ("infinite loop", r"the code was stopped: (cpu|wall) time"),
    ("os._exit", "the code was stopped: early exit"),
])  # fmt: skip
def test_stopped_code_waits_for_a_look(graded_class, kind, reason):
    (student,) = of_kind(graded_class, kind)
    stored = graded_class.course.verdicts(student.name)
    assert re.fullmatch(reason, stored[student.affected]["needs_look"])
    assert grade_id(student.affected) in graded_class.course.waiting(student.name)
    assert [v["exercise"] for v in stored.values() if v["needs_look"]] == [student.affected]


@pytest.mark.parametrize("kind, note", [
    ("empty file", "the submitted file is empty"),
    ("renamed notebook", "handed in as 'my attention, final version.ipynb'"),
    ("duplicated test cell", "cell 'CHECK' occurs more than once; the first one counts"),
    ("deleted test cell", "cell 'CHECK' was missing"),
    ("cheats: forging results", "the grading marks of cell 'check-softmax' were changed"),
    ("infinite loop", "the notebook did not run to its end"),
    ("os._exit", "the notebook did not run to its end"),
])  # fmt: skip
def test_what_was_mended_is_noted(graded_class, kind, note):
    (student,) = of_kind(graded_class, kind)
    note = note.replace("CHECK", grade_id(student.affected or "softmax"))
    assert [n for n in graded_class.course.notes(student.name) if n.startswith(note)]


def test_clean_submissions_carry_no_note_and_need_no_look(graded_class):
    clean = of_kind(graded_class, "all right", "one misconception", "mixture", "untouched",
                    "warnings on stderr", "prints 10 MB", "syntax error")  # fmt: skip
    for student in clean:
        assert graded_class.course.notes(student.name) == [], student
        stored = graded_class.course.verdicts(student.name)
        assert not any(v["needs_look"] for v in stored.values()), student


def test_untouched_exercises_are_told_apart_from_wrong_ones(graded_class):
    for student in of_kind(graded_class, "untouched", "empty file"):
        stored = graded_class.course.verdicts(student.name)
        assert not any(v["attempted"] for v in stored.values()) and len(stored) == len(EXERCISES)


def test_all_was_graded_in_the_sandbox(graded_class):
    for student in graded_class.students:
        assert graded_class.course.autograded(student.name).metadata["llmr"]["tier"] == 2
        assert {v["tier"] for v in graded_class.course.verdicts(student.name).values()} == {2}


def test_each_check_cell_holds_one_card_and_one_number(graded_class):
    for student in graded_class.students:
        checked = [
            c for c in graded_class.course.autograded(student.name).cells
            if c.cell_type == "code" and c.metadata.get("nbgrader", {}).get("grade")
        ]  # fmt: skip
        assert [checked_exercise(c.source) for c in checked] == [e.name for e in EXERCISES]
        for cell, exercise in zip(checked, EXERCISES, strict=True):
            card, number = cell.outputs
            assert card.output_type == "display_data"
            assert card["data"]["text/html"].count('class="llmr-card"') == 1
            assert number.output_type == "execute_result" and set(number.data) == {"text/plain"}
            assert 0 <= float(number.data["text/plain"]) <= exercise.points
            assert cell.metadata.nbgrader.points == exercise.points


# --- honesty -------------------------------------------------------------------------------------


def test_cheating_is_tried_and_worth_nothing(graded_class):
    tried = 0
    for student in of_kind(graded_class, *CHEATS):
        stored = graded_class.course.verdicts(student.name)
        for exercise in EXERCISES:
            entry = student.entries[exercise.name]
            source = answer_cell(graded_class.course.autograded(student.name), exercise.name).source
            assert source == entry.source.rstrip("\n")  # it is the code that was graded
            if entry.answer is None:
                tried += 1
                assert stored[exercise.name]["score"] == 0.0
            else:  # an honest answer beside a cheat counts
                assert stored[exercise.name]["score"] == exercise.points
    assert tried == sum(len(own) for own in CHEATS.values()) >= 13


def test_the_gradebook_is_whole_and_holds_nothing_foreign(graded_class):
    with sqlite3.connect(graded_class.course.root / "gradebook.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tables = {name for (name,) in db.execute("select name from sqlite_master")}
        assert "grade" in tables and "a_student_was_here" not in tables
        assert db.execute("select count(*) from grade where manual_score is not null"
                          " or extra_credit is not null").fetchall() == [(0,)]  # fmt: skip


def test_no_file_outside_the_results_was_touched(graded_class):
    root = graded_class.course.root
    after = files(root, "source", "release", "submitted") | files(root.parent, ".")
    results = (
        "course/autograded",
        "course/feedback",
        "course/gradebook.db",
        "course/grades.csv",
        "nobody",
    )
    ours = re.compile(r"course/\.llmr/(grading\.lock|cache/([0-9a-f]{2})/\2[0-9a-f]{62}\.json)")
    new = {
        n
        for n in after.keys() - graded_class.before.keys()
        if not n.startswith(results) and not ours.fullmatch(n)
    }
    assert new == set()
    changed = {n for n, content in graded_class.before.items() if after.get(n) != content}
    assert changed == {"course/gradebook.db"}


def test_forged_marks_are_replaced_by_real_ones(graded_class):
    (student,) = of_kind(graded_class, "cheats: forging results")
    assert "1000" in graded_class.course.submitted(student.name).read_text()
    notebook = graded_class.course.autograded(student.name)
    assert "1000.0" not in str([c.metadata for c in notebook.cells])
    assert not any("1000.0" in str(c.get("outputs", "")) for c in notebook.cells)


def test_ten_megabytes_of_print_are_cut(graded_class):
    (student,) = of_kind(graded_class, "prints 10 MB")
    path = graded_class.course.root / "autograded" / student.name / ASSIGNMENT / "attention.ipynb"
    assert path.stat().st_size < 1_000_000
    streams = [o.text for c in graded_class.course.autograded(student.name).cells
               for o in c.get("outputs", []) if o.output_type == "stream"]  # fmt: skip
    assert any("step 0 ..." in text for text in streams)


def test_release_version_holds_no_solution_and_no_answer_of_a_bank(released):
    released_code = "\n".join(c.source for c in released.release().cells if c.cell_type == "code")
    assert "SOLUTION" not in released_code and "Mark scheme" not in str(released.release())
    assert released_code.count("NotImplementedError") >= len(EXERCISES)
    lines = {line.strip() for line in released_code.splitlines()}
    for exercise in EXERCISES:
        for answer in exercise.bank():
            body = answer.source(exercise.name).splitlines()[1:]
            telling = {line.strip() for line in body if len(line.strip()) > 30}
            assert not telling & lines, (exercise.name, answer.key)
            if answer in exercise.wrong_answers:
                assert answer.hint not in str(released.release())


# --- feedback ------------------------------------------------------------------------------------


def feedback(graded, student):
    path = graded.course.root / "feedback" / student / ASSIGNMENT / "attention.html"
    return path.read_text()


def test_everybody_has_feedback_with_the_cards(graded_class):
    designed = designed_scores(ASSIGNMENT, STUDENTS)
    for student in graded_class.students:
        page = feedback(graded_class, student.name)
        for exercise in EXERCISES:
            assert f'aria-label="Result of {exercise.name}"' in page, student
            shown = f"{designed[student.name][exercise.name]:.2f}".rstrip("0").rstrip(".")
            assert f"{shown} of {exercise.points:g} points" in page, (student, exercise.name)


def test_feedback_shows_no_graded_input(graded_class):
    shown = 0
    for student in graded_class.students:
        page = html.unescape(feedback(graded_class, student.name))
        for exercise in EXERCISES:
            seed = submission_seed(SECRET.encode(), student.name, exercise.name)
            practice = {literal(v) for _, c in exercise.cases(20_170_612) for v in inputs(c)}
            for trial in prepare(exercise, seed, practice=False):
                for value in inputs(trial.case):
                    text = literal(value)
                    if text not in practice and text.startswith("torch.tensor([[") and "." in text:
                        assert text.removeprefix("torch.tensor(")[:-1] not in page
                        shown += 1
    assert shown > 1000  # so many inputs were looked for


def inputs(case):
    return [*case.args, *case.kwargs.values()]


def test_feedback_tells_nothing_about_the_machine(graded_class):
    for student in graded_class.students:
        page = feedback(graded_class, student.name)
        for secret in (SECRET, SECRET[:20], str(graded_class.course.root), "gradebook.db-"):
            assert secret not in page, student


def test_scripts_of_students_do_not_reach_the_page(graded_class):
    (student,) = of_kind(graded_class, "cheats: looking around")
    assert "document.title" in graded_class.course.submitted(student.name).read_text()
    page = feedback(graded_class, student.name)
    assert SCRIPT not in page
    assert not re.search(r"<script[^>]*>[^<]*document\.title", page)
    assert not re.search(r"<[^>]*\sonerror\s*=", page)


# --- what the design itself rests on -------------------------------------------------------------


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
def test_a_missing_entry_is_worth_nothing(exercise):
    assert designed_score(exercise, None) == 0.0


def test_students_without_submission_are_not_invented(graded_class):
    with graded_class.course.gradebook() as gradebook, pytest.raises(MissingEntry):
        gradebook.find_submission(ASSIGNMENT, "s25")


def test_exercises_of_the_assignment_are_those_of_the_release(released):
    names = [checked_exercise(c.source) for c in released.release().cells if c.cell_type == "code"]
    assert [n for n in names if n] == [e.name for e in EXERCISES]
    assert all(get_exercise(e.name) is e for e in EXERCISES)
