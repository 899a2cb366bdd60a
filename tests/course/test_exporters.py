"""Grades for other systems, each read back by the rules that the other system documents."""

import csv
import io
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from graded_class import (
    ASSIGNMENT,
    DUE,
    MANUAL,
    MANUAL_POINTS,
    POINTS,
    Pupil,
    answers,
    small_class,
    write_course,
)
from hypothesis import given
from hypothesis import strategies as st
from nbgrader.api import Gradebook
from nbgrader.apps import ExportApp
from nbgrader.plugins.export import CsvExportPlugin
from pydantic import BaseModel, ConfigDict

from llmr_ref.grading.class_record import read_class
from llmr_ref.grading.exporters import ExportError, export_assignment
from llmr_ref.grading.gradebook import NothingToReport
from llmr_ref.grading.safe_csv import csv_text, safe_cell

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
ROOT = Path(__file__).resolve().parents[2]
OUT_OF = sum(POINTS.values()) + MANUAL_POINTS
HOSTILE = ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1", " =1+1", '=HYPERLINK("x","y")']


@pytest.fixture(scope="module")
def pupils() -> list[Pupil]:
    right = answers("overflows", "triangle", 4)
    return [
        *small_class(),
        Pupil("o'neil", right, manual=2.5, name=('Zoë "Zo"', "O'Neil, Jr."), hours_before=5),
        Pupil("李", right, manual=0.0, name=("娜", "李")),
        *(Pupil(f"h{n}", right, name=(text, text)) for n, text in enumerate(HOSTILE)),
    ]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory, pupils: list[Pupil]) -> Path:
    return write_course(tmp_path_factory.mktemp("class") / "course", pupils)


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def exported(course: Path, target: str, out: Path, **options: Any) -> list[list[str]]:
    export_assignment(course, ASSIGNMENT, target, out, **options)
    return read(out.read_bytes().decode())


def totals(course: Path) -> dict[str, float | None]:
    """Straight from the gradebook, as nbgrader counts it; None where nothing is graded."""
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "llmr") as gradebook:
        return {
            s.student.id: max(0.0, s.score - s.late_submission_penalty)
            if any(g.auto_score is not None for n in s.notebooks for g in n.grades) else None
            for s in gradebook.assignment_submissions(ASSIGNMENT)
        }  # fmt: skip


# --- spreadsheets --------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
def test_no_text_in_a_cell_is_a_formula(text):
    header, row = read(csv_text(["id", "name"], [["s", text]]))
    assert header == ["id", "name"] and row[0] == "s"
    cell = row[1]
    assert cell in (text, f"'{text}")
    is_number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell)
    assert is_number or not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_numbers_are_left_alone_as_numbers_and_as_text(number):
    assert safe_cell(number) == number
    assert safe_cell(str(number)) == str(number)


def test_names_with_commas_quotes_and_unicode_survive_every_csv(course, tmp_path):
    for target in ("nbgrader", "canvas"):
        cells = {c for row in exported(course, target, tmp_path / "x.csv") for c in row}
        assert {"o'neil", "李"} <= cells
        assert any("O'Neil, Jr." in c for c in cells) and any('Zoë "Zo"' in c for c in cells)


def test_hostile_names_are_neutral_in_every_csv(course, tmp_path):
    for target in ("nbgrader", "canvas"):
        cells = [c for row in exported(course, target, tmp_path / "x.csv") for c in row]
        suspicious = [c for c in cells if c.lstrip().startswith(("=", "+", "@", "-"))]
        assert suspicious == []
        assert any(c.startswith("'=HYPERLINK") for c in cells)


# --- nbgrader ------------------------------------------------------------------------------------


def test_rows_and_columns_are_those_of_nbgraders_own_exporter(tmp_path):
    """Stock nbgrader quotes nothing, so the comparison needs a class without commas."""
    pupils = [p for p in small_class() if "," not in "".join(p.name or ())]
    course = write_course(tmp_path / "course", pupils)
    stock = CsvExportPlugin(to=str(tmp_path / "stock.csv"))
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "llmr") as gradebook:
        stock.export(gradebook)
    ours = exported(course, "nbgrader", tmp_path / "ours.csv")
    assert ours == read((tmp_path / "stock.csv").read_bytes().decode())
    assert len(ours) == 1 + len(pupils)


def test_the_plugins_work_under_nbgraders_own_command(tmp_path, monkeypatch):
    course = write_course(tmp_path / "course", small_class())
    shutil.copy(ROOT / "assignments" / "nbgrader_config.py", course)
    monkeypatch.chdir(course)

    def nbgrader_export(*arguments: str) -> None:
        app = ExportApp()
        app.initialize([*arguments, "--assignment", f"['{ASSIGNMENT}']", "--log-level", "ERROR"])
        app.start()

    plugins = "--exporter=llmr_ref.grading.exporters."
    nbgrader_export("--to", "safe.csv")  # the course's settings choose the safe one
    nbgrader_export(f"{plugins}CanvasExport", "--to", "c.csv", "--CanvasExport.canvas_id=42")
    nbgrader_export(
        f"{plugins}GradescopeExport", "--to", "g", "--GradescopeExport.visibility=hidden"
    )
    ours = exported(course, "nbgrader", tmp_path / "ours.csv")
    assert read((course / "safe.csv").read_bytes().decode()) == ours
    ours = exported(course, "canvas", tmp_path / "ours.csv", canvas_id="42")
    assert read((course / "c.csv").read_bytes().decode()) == ours
    ada = GradescopeResults.model_validate_json(
        (course / "g" / ASSIGNMENT / "ada" / "results.json").read_text("utf-8")
    )
    assert ada.score == OUT_OF and ada.visibility == "hidden"


# --- Canvas --------------------------------------------------------------------------------------


class CanvasImport:
    """What Canvas's gradebook import reads: the rules of its documentation and of its own importer.

    The header begins with Student and ID, then SIS User ID, SIS Login ID and Section; an assignment is
    "title (id)" or a title. The row whose first cell says Points Possible has the points in the columns
    of the assignments and nothing else. A student is found by ID, SIS User ID, SIS Login ID or name. A
    grade is empty or a number.
    """

    def __init__(self, rows: list[list[str]]) -> None:
        header, *rest = rows
        assert header[:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
        assert {len(row) for row in rows} == {len(header)}
        self.assignments = [
            (m[1], int(m[2])) if (m := re.fullmatch(r"(.*)\s\((\d+)\)", title)) else (title, None)
            for title in header[5:]
        ]
        points = [row for row in rest if "Points Possible" in row[0]]
        assert points == rest[:1], "one row of points, directly below the header"
        assert points[0][1:5] == [""] * 4
        self.possible = [float(cell) for cell in points[0][5:]]
        self.grades = {}
        for row in rest[1:]:
            assert row[1] == "" or row[1].isdigit(), "ID is Canvas's own number"
            assert row[0] and (row[1] or row[2] or row[3])
            self.grades[row[3]] = [None if cell == "" else float(cell) for cell in row[5:]]
        assert len(self.grades) == len(rest) - 1


def test_canvas_reads_everybodys_total(course, pupils, tmp_path):
    canvas = CanvasImport(exported(course, "canvas", tmp_path / "c.csv"))
    assert canvas.assignments == [(ASSIGNMENT, None)] and canvas.possible == [OUT_OF]
    assert set(canvas.grades) == {p.id for p in pupils}
    expected = totals(course)
    for student, (grade,) in canvas.grades.items():
        assert grade == pytest.approx(expected.get(student)), student
    assert canvas.grades["kim"] == canvas.grades["leo"] == [None], (
        "not handed in, not graded: empty"
    )


def test_canvas_finds_the_assignment_by_its_number(course, tmp_path):
    canvas = CanvasImport(exported(course, "canvas", tmp_path / "c.csv", canvas_id="7148451"))
    assert canvas.assignments == [(ASSIGNMENT, 7148451)]
    with pytest.raises(ExportError, match="the Canvas id is 'seven'"):
        export_assignment(course, ASSIGNMENT, "canvas", tmp_path / "d.csv", canvas_id="seven")
    assert not (tmp_path / "d.csv").exists()


ROSTER = """\ufeffStudent,ID,SIS User ID,SIS Login ID,Section,tokenizer (11),attention (12),Final Score
    Points Possible,,,,,10,12,(read only)
"L., Ada",901,u-1,ada,Section 1,8,,66.6
Ben,902,ben,ben@school.edu,"Section 1 and Section 2",9,,70
"Somebody, Else",903,u-3,else,Section 1,,,
"""


def test_a_roster_names_students_and_assignment_as_canvas_does(course, tmp_path):
    roster = tmp_path / "roster.csv"
    roster.write_text(ROSTER, "utf-8")
    rows = exported(course, "canvas", tmp_path / "c.csv", roster=roster)
    canvas = CanvasImport(rows)
    assert canvas.assignments == [(ASSIGNMENT, 12)]
    assert rows[2][:5] == ["L., Ada", "901", "u-1", "ada", "Section 1"]
    assert rows[3][:5] == ["Ben", "902", "ben", "ben@school.edu", "Section 1 and Section 2"]
    expected = totals(course)
    assert canvas.grades == {"ada": [expected["ada"]], "ben@school.edu": [expected["ben"]]}
    said = export_assignment(course, ASSIGNMENT, "canvas", tmp_path / "c.csv", roster=roster)
    assert (
        "Not in the Canvas course" in said and "cleo" in said and "ada" not in said.split("out:")[1]
    )


def test_a_file_that_is_no_roster_is_refused(course, tmp_path):
    (tmp_path / "r.csv").write_text("name,grade\nx,1\n")
    with pytest.raises(ExportError, match="not a gradebook that Canvas exported"):
        export_assignment(
            course, ASSIGNMENT, "canvas", tmp_path / "c.csv", roster=tmp_path / "r.csv"
        )


# --- Gradescope ----------------------------------------------------------------------------------

# The fields of results.json as Gradescope's autograder specification lists them, and no others.
Visibility = Literal["hidden", "after_due_date", "after_published", "visible"]
Format = Literal["text", "html", "simple_format", "md", "ansi"]


class Documented(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class GradescopeTest(Documented):
    score: float | None = None
    max_score: float | None = None
    status: Literal["passed", "failed"] | None = None
    name: str | None = None
    name_format: Format = "text"
    number: str | None = None
    output: str | None = None
    output_format: Format = "text"
    tags: list[str] = []
    visibility: Visibility = "visible"
    extra_data: dict[str, Any] = {}


class Leader(Documented):
    name: str
    value: float | int | str
    order: Literal["asc", "desc"] = "desc"


class GradescopeResults(Documented):
    score: float | None = None
    execution_time: float | None = None
    output: str | None = None
    output_format: Format = "text"
    test_output_format: Format = "text"
    test_name_format: Format = "text"
    visibility: Visibility = "visible"
    stdout_visibility: Visibility = "hidden"
    extra_data: dict[str, Any] = {}
    tests: list[GradescopeTest] = []
    leaderboard: list[Leader] = []


@pytest.fixture(scope="module")
def gradescope(
    course: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, GradescopeResults]:
    folder = tmp_path_factory.mktemp("gradescope")
    export_assignment(course, ASSIGNMENT, "gradescope", folder)
    found = {
        path.parent.name: GradescopeResults.model_validate_json(path.read_text("utf-8"))
        for path in folder.glob("*/results.json")
    }
    assert len(found) == len(list(folder.rglob("*.*"))), "nothing else is written"
    return found


def test_gradescope_gets_one_documented_file_for_each_graded_submission(course, gradescope):
    expected = {s: t for s, t in totals(course).items() if t is not None}
    assert len(gradescope) == len(expected) == 22
    for student, total in expected.items():
        name = {"o'neil": "o%27neil", "李": "%E6%9D%8E"}.get(student, student)
        assert gradescope[name].score == pytest.approx(total)


def test_gradescope_gets_every_question_with_score_and_card(gradescope, pupils):
    ben = next(p for p in pupils if p.id == "ben")
    tests = gradescope["ben"].tests
    assert [t.name for t in tests] == [*POINTS, MANUAL]
    assert [t.number for t in tests] == ["1", "2", "3", "4"]
    assert [t.max_score for t in tests] == [*POINTS.values(), MANUAL_POINTS]
    assert [t.score for t in tests] == pytest.approx([ben.score(e) for e in POINTS] + [1.5])
    assert "This answer lets every position see the next token." in (tests[1].output or "")
    assert tests[3].tags == ["manual", "scored by hand"] and tests[0].tags == ["autograded"]


def test_gradescope_says_penalties_and_what_still_waits(gradescope):
    assert "Late penalty: 1 points." in (gradescope["eva"].output or "")
    assert "1 of the answers wait" in (gradescope["eva"].output or "")
    assert gradescope["eva"].tests[3].output == "Not graded yet."


@pytest.mark.parametrize("student", ["../../outside", "..", ".hidden", "a/b"])
def test_no_id_leads_out_of_the_folder(tmp_path, student):
    from llmr_ref.grading.exporters import write_gradescope

    course = write_course(tmp_path / "course", [Pupil("s", answers("overflows", "triangle", 4))])
    record = read_class(course, ASSIGNMENT)
    record.students[0].id = student
    (written,) = write_gradescope(record, tmp_path / "out")
    assert written.resolve().parent.parent == (tmp_path / "out").resolve()
    assert not written.parent.name.startswith(".")


# --- all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["nbgrader", "canvas", "gradescope"])
def test_nothing_graded_is_one_sentence(tmp_path, target):
    course = write_course(tmp_path / "course", [Pupil("a", ungraded=True)])
    with pytest.raises(NothingToReport, match="Nothing of 'attention' is graded yet"):
        export_assignment(course, ASSIGNMENT, target)
    assert not (course / "exports").exists()


def test_what_is_not_settled_is_said(course, tmp_path):
    said = export_assignment(course, ASSIGNMENT, "canvas", tmp_path / "c.csv")
    assert "need a look: 4." in said and "counts 0: 16." in said


def test_dates_are_those_of_the_gradebook(course, tmp_path):
    rows = exported(course, "nbgrader", tmp_path / "x.csv")
    of = {row[3]: row for row in rows[1:]}
    assert of["o'neil"][1:3] == [str(DUE), "2025-11-20 07:00:00"]
    assert of["ada"][2] == ""
