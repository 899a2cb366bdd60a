"""The class report: its numbers are those of the gradebook and the verdicts, and nothing in it runs."""

import csv
import io
import json
import os
import re
import shutil
import statistics
from collections import Counter
from html import escape
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup, Tag
from graded_class import (
    ASSIGNMENT,
    GRADED_AT,
    MANUAL,
    MANUAL_POINTS,
    POINTS,
    Pupil,
    answers,
    large_class,
    rope_verdict,
    small_class,
    verdict_on,
    write_course,
)
from nbgrader.api import Gradebook
from scipy.stats import pearsonr

from llmr_ref.grading.exercises import get_exercise
from llmr_ref.grading.links import section_url
from llmr_ref.grading.report import PAIRS_SHOWN, NothingToReport, write_report
from llmr_ref.grading.report_file import ReportFile

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def pupils() -> list[Pupil]:
    return small_class()


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory, pupils: list[Pupil]) -> Path:
    return write_course(tmp_path_factory.mktemp("class") / "course", pupils)


@pytest.fixture(scope="module")
def page(course: Path) -> BeautifulSoup:
    return report_on(course)


def report_on(course: Path, **options: Path) -> BeautifulSoup:
    out = write_report(course, ASSIGNMENT, course / "reports" / f"{ASSIGNMENT}.html", **options)
    return BeautifulSoup(out.read_text("utf-8"), "html.parser")


def words(element: Tag) -> str:
    return " ".join(element.get_text().split())


def table(page: BeautifulSoup, caption: str) -> dict[str, list[str]]:
    """Rows of the table with this caption: first column -> the others, as text."""
    found = next(t for t in page.find_all("table") if caption in t.caption.get_text())
    return {
        row.th.get_text().strip(): [td.get_text().strip() for td in row.find_all("td")]
        for row in found.tbody.find_all("tr")
    }


def fact(page: BeautifulSoup, what: str) -> str:
    block = next(b for b in page.select(".facts > div") if what in b.dt.get_text())
    return words(block.dd)


def graded(pupils: list[Pupil]) -> list[Pupil]:
    return [p for p in pupils if not (p.registered_only or p.ungraded)]


def total(pupil: Pupil) -> float:
    by_hand = pupil.manual if isinstance(pupil.manual, float) else 0.0
    return max(0.0, sum(pupil.score(e) for e in POINTS) + by_hand - pupil.penalty)


def short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


def column(share: float) -> str:
    if share in (0, 1):
        return "all" if share else "none"
    tenth = int(share * 10)
    return f"{10 * tenth} to {10 * tenth + 10} %"


def could_not_judge(pupil: Pupil) -> list[str]:
    """Exercises on which the grader itself failed and that nobody has scored by hand."""
    return [
        e for e, v in pupil.verdicts.items()
        if v.message == "This exercise could not be graded." and e not in pupil.overridden
    ]  # fmt: skip


def test_heading_states_submissions_tier_and_when_they_were_graded(page, pupils):
    handed_in = [p for p in pupils if not p.registered_only]
    head = words(page.header)
    assert f"{len(handed_in)} submissions, {len(graded(pupils))} of them graded" in head
    assert "24 November 2025, 16:00 UTC" in head
    assert page.time["datetime"] == "2025-11-24T16:00:00Z"
    assert GRADED_AT == 1_764_000_000
    notices = [words(n) for n in page.select(".notice")]
    assert len(notices) == 1 and "tier 2" in notices[0] and "sandbox" in notices[0]


def test_facts_count_hand_ins_waiting_answers_and_looks(page, pupils):
    assert (
        fact(page, "handed in") == f"{sum(not p.registered_only for p in pupils)} of {len(pupils)}"
    )
    autograded = [sum(p.score(e) for e in POINTS) for p in graded(pupils)]
    assert fact(page, "median") == f"{short(statistics.median(autograded))} of 9"
    waiting = [p for p in graded(pupils) if p.manual is None]
    unjudged = sum(len(could_not_judge(p)) for p in graded(pupils))
    assert unjudged == 1
    assert fact(page, "manual grade") == str(len(waiting) + unjudged)
    # hana was stopped, jan handed in a duplicated cell, leo is not graded, nia met a grader's fault
    assert fact(page, "need a look") == "4"


def test_distribution_of_the_autograded_part(page, pupils):
    scores = [sum(p.score(e) for e in POINTS) for p in graded(pupils)]
    expected = Counter(column(s / sum(POINTS.values())) for s in scores)
    rows = table(page, "Autograded questions")
    assert {label: int(cells[0]) for label, cells in rows.items() if cells[0] != "0"} == expected
    assert len(rows) == 12
    caption = page.select_one(".panels figcaption").get_text()
    mean, median = short(statistics.fmean(scores)), short(statistics.median(scores))
    assert f"Mean {mean}, median {median}." in caption


def test_distribution_of_the_whole_marks_who_can_still_gain(page, pupils):
    out_of = sum(POINTS.values()) + MANUAL_POINTS
    expected = Counter(column(total(p) / out_of) for p in graded(pupils))
    waiting = Counter(
        column(total(p) / out_of) for p in graded(pupils) if p.manual is None or could_not_judge(p)
    )
    rows = table(page, "All questions, late penalties taken off")
    assert {label: int(cells[0]) for label, cells in rows.items()} == {
        label: expected[label] for label in rows
    }
    assert {label: int(cells[1]) for label, cells in rows.items()} == {
        label: waiting[label] for label in rows
    }
    assert waiting.total() == 8


def test_columns_are_as_tall_as_their_counts(page):
    for figure in page.select(".panels figure"):
        counts = [int(t.get_text()) for t in figure.svg.find_all("text") if "class" not in t.attrs]
        rows = figure.table.tbody.find_all("tr")
        assert counts == [n for r in rows if (n := int(r.td.get_text()))]
        heights = Counter[str]()
        for bar in figure.svg.find_all("rect"):
            heights[bar["x"]] += float(bar["height"])
        tallest = max(heights.values())
        assert [h / tallest * max(counts) for h in heights.values()] == pytest.approx(
            counts, abs=0.01
        )


def test_every_question_counts_its_answers_and_its_share(page, pupils):
    rows = table(page, "Answers to each question")
    assert list(rows) == [*POINTS, MANUAL], "the order of the release notebook"
    for exercise, out_of in POINTS.items():
        judged = [p for p in graded(pupils) if exercise not in could_not_judge(p)]
        kinds = Counter()
        for p in judged:
            score = p.score(exercise)
            untouched = not p.verdicts[exercise].attempted
            kinds["untouched" if untouched else "full" if score == out_of else bool(score)] += 1
        share = sum(p.score(exercise) for p in judged) / (out_of * len(judged))
        assert rows[exercise] == [
            short(out_of), f"{round(100 * share)} %",
            *(str(kinds[k]) for k in ("full", True, False, "untouched")),
            str(len(graded(pupils)) - len(judged)),
        ]  # fmt: skip
    by_hand = [0.0 if p.manual == "blank" else p.manual for p in graded(pupils)]
    given = [m for m in by_hand if m is not None]
    share = sum(given) / (MANUAL_POINTS * len(given))
    assert rows[MANUAL][:2] == [short(MANUAL_POINTS), f"{round(100 * share)} %"]
    assert rows[MANUAL][-2:] == ["1", str(by_hand.count(None))]


def test_bars_are_as_long_as_their_counts(page):
    rows = table(page, "Answers to each question")
    lines = page.select(".questions > li")
    assert len(lines) == len(rows)
    for line, cells in zip(lines, rows.values(), strict=True):
        counts = [n for n in map(int, cells[2:]) if n]
        widths = [float(part["width"].rstrip("%")) for part in line.svg.find_all("svg")]
        assert widths == pytest.approx([100 * n / sum(counts) for n in counts], abs=0.001)


def test_every_misconception_is_there_with_hint_link_and_holders(page, pupils):
    held: dict[tuple[str, str], list[str]] = {}
    told = {}
    for p in graded(pupils):
        for exercise, verdict in p.verdicts.items():
            if m := verdict.misconception:
                held.setdefault((f"This answer {m.title}.", exercise), []).append(p.id)
                told[f"This answer {m.title}."] = m
    assert len(held) >= 4 and max(map(len, held.values())) >= 3
    shown = {}
    for item in page.select(".ideas > li"):
        title, exercise = words(item.h3), item.select_one(".where code").get_text()
        shown[title, exercise] = [li.get_text().strip() for li in item.select(".who li")]
        assert item.select_one(".count").get_text() == str(len(held[title, exercise]))
        assert told[title].hint in item.get_text()
        assert item.select_one(".where a")["href"] == section_url(told[title].see)
    assert shown == held
    counts = [int(c.get_text()) for c in page.select(".ideas .count")]
    assert counts == sorted(counts, reverse=True)
    first = max(held, key=lambda k: len(held[k]))
    assert first[0].rstrip(".") in words(page.select_one(".finding"))


def test_wrong_answers_without_a_name_are_counted_and_stopped_ones_are_not(page, pupils):
    unnamed = [p.id for p in graded(pupils) if p.verdicts["apply_rope"].attempted
               and not p.verdicts["apply_rope"].full]  # fmt: skip
    blocks = page.select("section[aria-labelledby=misconceptions] > details")
    assert [re.match(r"apply_rope: (\d+) students", words(b.summary))[1] for b in blocks] == [
        str(len(unnamed))
    ]
    assert [li.get_text().strip() for li in blocks[0].select("li")] == unnamed


def test_everybody_who_needs_a_look_is_there_with_the_reason(page):
    said = {
        words(li.h3): words(li.ul) for li in page.select("section[aria-labelledby=look] .look > li")
    }
    assert list(said) == ["hana", "jan", "leo", "nia", "ivo"], "settled ones come last"
    assert "it ran longer than 20 s" in said["hana"] and "'while True:'" in said["hana"]
    assert "'check-softmax' occurs more than once" in said["jan"]
    assert said["leo"] == "The submission was handed in but has not been graded."
    assert "no space left" in said["nia"]
    assert said["ivo"].endswith("Scored by hand since.") and "Scored by" not in said["hana"]


def test_table_of_all_students(page, pupils):
    rows = table(page, "Scores of all students")
    assert len(rows) == len(pupils)
    by_id = {re.match(r"\w+", key)[0]: cells for key, cells in rows.items()}
    for p in pupils:
        state, *cells = by_id[p.id]
        if p.registered_only or p.ungraded:
            assert [state, *cells] == (
                ["not submitted", ""]
                if p.registered_only
                else ["needs a look", "handed in, not graded"]
            )
            continue
        assert state == ("needs a look" if p.id in {"hana", "jan", "nia"} else "graded")
        may_rise = p.manual is None or bool(could_not_judge(p))
        assert cells[-1] == ("≥ at least " if may_rise else "") + short(total(p))
        assert cells[-2] == (f"−{short(p.penalty)}" if p.penalty else "none")
        for exercise, cell in zip(POINTS, cells, strict=False):
            if exercise in could_not_judge(p):
                assert cell == "…not graded yet"
            elif not p.verdicts[exercise].attempted:
                assert cell == "–not attempted"
            elif exercise in p.overridden:
                assert cell == f"{short(p.overridden[exercise])}†, set by hand"
            else:
                assert cell == short(p.score(exercise))


def test_totals_are_those_that_nbgrader_exports(course, page):
    rows = table(page, "Scores of all students")
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "llmr") as gradebook:
        submissions = gradebook.assignment_submissions(ASSIGNMENT)
        assert len(submissions) == 12
        for s in submissions:
            exported = max(0.0, s.score - s.late_submission_penalty)
            shown = next(c for key, c in rows.items() if re.match(rf"{s.student.id}\b", key))
            assert float(re.sub(r"[^\d.]", "", shown[-1])) == pytest.approx(exported, abs=0.005)


def test_every_chart_has_a_table(page):
    figures = page.find_all("figure")
    assert len(figures) == 4
    for figure in figures:
        assert figure.find("svg", attrs={"role": "img"})["aria-label"]
        assert figure.select("details table")
    outside = [
        s for s in page.find_all("svg", attrs={"role": "img"}) if not s.find_parent("figure")
    ]
    assert outside == []


def test_feedback_links_are_relative_to_the_page_and_lead_to_files(course, page, tmp_path):
    def links(page: BeautifulSoup) -> list[str]:
        return [a["href"] for a in page.find_all("a") if "feedback" in a["href"]]

    assert len(links(page)) > 20
    assert all((course / "reports" / unquote(link)).resolve().is_file() for link in links(page))
    assert not any("jan" in link for link in links(page)), "jan has no feedback page"
    site = tmp_path / "site"
    shutil.copytree(course / "feedback", site / "feedback")
    out = write_report(
        course, ASSIGNMENT, site / "report" / "a.html", feedback_root=site / "feedback"
    )
    moved = links(BeautifulSoup(out.read_text("utf-8"), "html.parser"))
    assert f"../feedback/ada/{ASSIGNMENT}/{ASSIGNMENT}.html" in moved
    assert all((site / "report" / unquote(link)).is_file() for link in moved)


def test_nothing_of_a_student_becomes_markup(tmp_path):
    hostile = answers("overflows", "triangle", 4)
    hostile["causal_mask"] = hostile["causal_mask"].model_copy(
        update={"score": 0.0, "needs_look": HOSTILE, "message": HOSTILE}
    )
    student = 'x"><img src=q onerror=alert(1)>&#? %2e'
    pupil = Pupil(student, hostile, intake=[HOSTILE], name=(HOSTILE, "</style><b>"))
    course = write_course(tmp_path / "course", [pupil, Pupil("javascript:alert(1)", hostile)])
    out = write_report(
        course, ASSIGNMENT, tmp_path / "course" / "feedback" / "r.html"
    )  # links begin with the student's id here
    text = out.read_text("utf-8")
    page = BeautifulSoup(text, "html.parser")
    assert page.find_all(["script", "img", "iframe", "object"]) == []
    assert escape(HOSTILE, quote=False) in text.replace("&#39;", "'")
    assert student in page.get_text()
    for anchor in page.find_all("a"):
        assert re.match(r"#|http://127\.0\.0\.1:8000/book/|[^:]*$", anchor["href"]), anchor
    first = next(a for a in page.find_all("a") if a.get_text().strip() == student)
    assert (out.parent / unquote(first["href"])).is_file()


def test_the_same_data_gives_the_same_page(course, tmp_path):
    copy = shutil.copytree(course, tmp_path / "copy" / "course")
    first, second = (
        write_report(c, ASSIGNMENT, c / "reports" / "again.html").read_bytes()
        for c in (course, copy)
    )
    assert first == second
    assert str(course).encode() not in first


def test_a_report_leaves_the_gradebook_alone(course):
    database = course / "gradebook.db"
    before = database.read_bytes()
    os.chmod(database, 0o444)
    try:
        write_report(course, ASSIGNMENT, course / "reports" / "again.html")
    finally:
        os.chmod(database, 0o644)
    assert database.read_bytes() == before


def test_the_page_is_self_contained(page):
    assert page.find_all("link", rel="stylesheet") == []
    assert [link["href"] for link in page.find_all("link")] == ["data:,"]
    assert not re.search(r"@import|url\((?!#)", page.style.get_text())
    assert "default-src 'none'" in page.find("meta", attrs={"http-equiv": True})["content"]


def test_headings_and_headers_are_semantic(page):
    assert len(page.find_all("h1")) == 1
    levels = [int(h.name[1]) for h in page.find_all(re.compile("^h[1-6]$"))]
    assert all(b - a <= 1 for a, b in pairwise(levels))
    for th in page.find_all("th"):
        assert th["scope"] in ("col", "row")
    assert all(t.caption.get_text().strip() for t in page.find_all("table"))
    ids = [e["id"] for e in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    assert page.body.find("a")["href"] == "#main"
    targets = [a["href"][1:] for a in page.find_all("a") if a["href"].startswith("#")]
    assert set(targets) <= set(ids)


def test_all_manual_answers_waiting(tmp_path):
    pupils = [Pupil(f"s{k}", answers("overflows", "triangle", 4)) for k in range(2)]
    page = report_on(write_course(tmp_path / "course", pupils))
    assert table(page, "Answers to each question")[MANUAL] == ["3", "–", "0", "0", "0", "0", "2"]
    assert "0 of 2 graded, 2 to go" in words(page.main)
    assert "Nobody: every submission" in words(page.main)


def test_without_penalty_there_is_no_penalty_column(tmp_path):
    pupils = [Pupil("s", answers("overflows", "triangle", 4), manual=3.0)]
    page = report_on(write_course(tmp_path / "course", pupils))
    assert "Late penalty" not in page.get_text() and "may still rise" not in page.main.get_text()


@pytest.mark.parametrize("tier", [0, 1])
def test_a_weaker_tier_is_said_loudly(tmp_path, tier):
    pupils = [
        Pupil("s", answers("overflows", "triangle", 4)),
        Pupil("t", answers("overflows", "triangle", 4), tier=tier),
    ]
    page = report_on(write_course(tmp_path / "course", pupils))
    weak = [words(n) for n in page.select(".notice.weak")]
    assert len(weak) == 1 and f"Graded at tier {tier} (1 notebook):" in weak[0]
    assert len(page.select(".notice")) == 2


def edit(course: Path, student: str, change) -> None:
    path = course / "autograded" / student / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    notebook = json.loads(path.read_text("utf-8"))
    change(notebook)
    path.write_text(json.dumps(notebook), "utf-8")


def forge(notebook: dict) -> None:
    notebook["cells"][0]["metadata"]["llmr"]["score"] = 3.0


def spoil(notebook: dict) -> None:
    notebook["cells"][0]["metadata"]["llmr"]["properties"] = "none"


def interrupt(notebook: dict) -> None:
    del notebook["metadata"]["llmr"]["graded"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (forge, "points but the verdict says 3; autograde it again"),
        (spoil, "The verdict cannot be read"),
        (interrupt, "Grading did not come to its end"),
        (None, "The autograded notebook is missing"),
    ],
)
def test_what_does_not_fit_together_needs_a_look(tmp_path, change, reason):
    pupils = [
        Pupil("s", answers("overflows", "triangle", 4)),
        Pupil("t", answers("overflows", "loops", 4)),
    ]
    course = write_course(tmp_path / "course", pupils)
    if change is None:
        shutil.rmtree(course / "autograded" / "s")
    else:
        edit(course, "s", change)
    page = report_on(course)
    said = {
        words(li.h3): words(li.ul) for li in page.select("section[aria-labelledby=look] .look > li")
    }
    assert list(said) == ["s"] and reason in said["s"]


def test_a_folder_that_the_gradebook_does_not_know_is_not_lost(tmp_path):
    course = write_course(tmp_path / "course", [Pupil("s", answers("overflows", "triangle", 4))])
    (course / "submitted" / "late comer" / ASSIGNMENT).mkdir(parents=True)
    page = report_on(course)
    assert fact(page, "handed in") == "2 of 2"
    assert "handed in, not graded" in words(page.main)


def test_scores_close_to_the_ends_keep_their_distance(tmp_path):
    almost = rope_verdict(4).model_copy(update={"score": 3.99})
    pupils = [Pupil("s", {**answers("overflows", "triangle", 4), "apply_rope": almost})]
    page = report_on(write_course(tmp_path / "course", pupils))
    assert table(page, "Answers to each question")["apply_rope"][1] == "99 %"


# --- states, files for programs -------------------------------------------------------------------


def data(course: Path) -> ReportFile:
    text = (course / "reports" / f"{ASSIGNMENT}.json").read_text("utf-8")
    return ReportFile.model_validate_json(text)


def csv_rows(course: Path) -> dict[str, dict[str, str]]:
    text = (course / "reports" / f"{ASSIGNMENT}.csv").read_bytes().decode()
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}


def test_everybody_is_in_exactly_one_state_and_says_why(course, page, pupils):
    expected = {p.id: "graded" for p in pupils} | {"kim": "not submitted"}
    expected |= dict.fromkeys(("hana", "jan", "leo", "nia"), "needs a look")
    found = data(course)
    assert {s.student: s.state for s in found.students} == expected
    assert {k: row["state"] for k, row in csv_rows(course).items()} == expected
    assert found.states == {"graded": 9, "needs a look": 4, "not submitted": 1}
    assert "Of 14 students: 9 graded, 4 need a look, 1 not submitted." in words(page.main)
    for s in found.students:
        assert bool(s.reasons) == (s.state == "needs a look")
        assert (s.score is None) == (s.student in {"kim", "leo"})
    assert csv_rows(course)["leo"]["reasons"] == data(course).students[11].reasons[0]


def test_the_files_hold_the_numbers_of_the_page(course, page, pupils):
    found, rows = data(course), csv_rows(course)
    for entry in found.items:
        shown = table(page, "Answers to each question")[entry.question]
        assert [str(n) for n in entry.counts.values()] == shown[2:]
    for p in graded(pupils):
        entry = next(s for s in found.students if s.student == p.id)
        assert entry.score == pytest.approx(total(p)) and entry.tiers == [p.tier]
        assert float(rows[p.id]["score"]) == pytest.approx(total(p))
        assert [a.score for a in entry.answers[:3]] == pytest.approx([p.score(e) for e in POINTS])
        assert [float(rows[p.id][e]) for e in POINTS] == pytest.approx([p.score(e) for e in POINTS])
        keys = {v.exercise: v.misconception.key for v in p.verdicts.values() if v.misconception}
        assert {a.question: a.misconception for a in entry.answers if a.misconception} == keys
    held = {(m.exercise, m.key): m.students for m in found.misconceptions}
    assert held["causal_mask", "sees_next"] == ["ben", "cleo", "dov"]
    assert found.tiers == {2: 12} and found.due is None


def test_every_field_of_the_file_is_described_or_speaks_for_itself():
    schema = ReportFile.model_json_schema()
    named = {
        name: part["properties"] for name, part in schema["$defs"].items() if "properties" in part
    }
    bare = {
        f for fields in named.values() for f, about in fields.items() if "description" not in about
    }
    assert bare == {
        "kind", "first_name", "last_name", "state", "answers", "late_penalty", "question", "notebook",
        "grade_id", "points", "manual", "exercise", "key", "title", "students", "shared_tokens",
        "exercises",
    }  # fmt: skip


def test_hostile_names_are_neutral_in_the_csv(tmp_path):
    pupils = [Pupil("s", answers("overflows", "triangle", 4), name=("=1+1", "@x"), intake=["=2+2"])]
    course = write_course(tmp_path / "course", pupils)
    report_on(course)
    row = csv_rows(course)["s"]
    assert (row["first_name"], row["last_name"], row["reasons"]) == ("'=1+1", "'@x", "'=2+2.")


# --- how well questions work ----------------------------------------------------------------------


def test_difficulty_and_discrimination_of_each_question(course, page, pupils):
    rows = table(page, "Difficulty and discrimination of each question")
    assert list(rows) == [*POINTS, MANUAL]
    judged = [p for p in graded(pupils) if not could_not_judge(p)]
    for exercise in POINTS:
        own = [p.score(exercise) for p in judged]
        rest = [sum(p.score(e) for e in POINTS if e != exercise) for p in judged]
        expected = pearsonr(own, rest)
        low, high = expected.confidence_interval()
        share, r, interval, n = rows[exercise]
        assert share == table(page, "Answers to each question")[exercise][1]
        assert n == str(len(judged)) == "11"
        assert float(r.replace("−", "-")) == pytest.approx(expected.statistic, abs=0.006)
        ends = [float(x.replace("−", "-")) for x in interval.split(" to ")]
        assert ends == pytest.approx([low, high], abs=0.006)
    assert rows[MANUAL][1] == "too few: n = 4, needs 10", "answers that wait do not count"
    assert "Pearson" in words(page.select_one(".aside"))


def test_questions_that_look_broken_are_named(tmp_path):
    right = get_exercise("softmax").right_answers[0].key
    pupils = [Pupil(f"s{k}", answers(right, "aligned_first", 0), manual=3.0) for k in range(5)]
    page = report_on(write_course(tmp_path / "course", pupils))
    said = [words(li) for li in page.select("#concerns li")]
    failed = [
        p.sentence for p in verdict_on("causal_mask", "aligned_first").properties if not p.passed
    ]
    assert said == [
        f"causal_mask: Nobody passes “{failed[0]}”, out of 5 who tried.",
        "apply_rope: Nobody who tried earned a point, out of 5.",
    ], "full marks for everybody are no concern"


def test_nothing_broken_says_nothing(page):
    assert page.select("#concerns") == []


def test_the_map_leads_to_every_idea_and_its_students(page, pupils):
    rows = page.select(".map tbody tr")
    assert [words(r.th) for r in rows] == list(POINTS)
    ideas = page.select(".ideas > li")
    reached = []
    for chip in page.select(".chips li a"):
        target = page.find(id=chip["href"][1:])
        if chip["href"] == "#unnamed":
            assert words(chip) == "4 no name"
            continue
        reached.append(target)
        assert words(chip.b) == str(len(target.select(".who li")))
        assert words(chip).removeprefix(words(chip.b)).strip() in words(target.h3)
    assert len(reached) == len(ideas)


# --- similar answers, time ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Pupil], BeautifulSoup]:
    """A class with code and timestamps, one pair of whom wrote the same under other names."""
    pupils = large_class(30)
    pupils[3].code = {
        e: re.sub(r"\b(x|n_queries|n_keys|dim)\b", r"my_\1", code) + "  # mine"
        for e, code in pupils[20].code.items()
    }
    pupils[5].code["softmax"] += f"\nprint('{HOSTILE}')"
    course = write_course(tmp_path_factory.mktemp("large") / "course", pupils)
    return course, pupils, report_on(course)


def test_similar_answers_are_shown_side_by_side_as_something_to_look_at(large):
    course, pupils, page = large
    section = page.select_one("section[aria-labelledby=similar]")
    pairs = {tuple(p.students): p for p in data(course).similar}
    assert pairs["s0003", "s0020"].share == 1.0
    item = next(
        li for li in section.select(".pairs > li")
        if [words(n) for n in li.select("summary .name")] == ["s0003", "s0020"]
    )  # fmt: skip
    for number, side in enumerate(("s0003", "s0020")):
        code = {p.id: p.code for p in pupils}[side]
        for sides in item.select(".sides"):
            box = sides.select("div")[number]
            exercise = words(box.p).removeprefix(f"{side}, ")
            assert box.pre.get_text().rstrip("\n") == code[exercise].rstrip("\n")
            assert box.pre.find("mark")
    text = words(section).lower()
    assert "a reason to read, not a finding" in text
    assert not re.search(r"cheat|plagiar|copied|guilt|suspect|dishonest", text)


def test_what_students_write_into_code_stays_text(large):
    _, _, page = large
    assert not page.find_all("script")


def test_only_so_many_pairs_are_on_the_page_and_the_others_in_the_file(large):
    course, _, page = large
    pairs = data(course).similar
    shown = page.select(".pairs > li")
    assert len(shown) == min(len(pairs), PAIRS_SHOWN)
    shares = [p.share for p in pairs]
    assert shares == sorted(shares, reverse=True)


def test_time_is_what_the_timestamps_say(large):
    course, pupils, page = large
    rows = table(page, "When submissions came in")
    before = [p.hours_before for p in pupils]
    assert rows["the last hour"][0] == str(before.count(0.5))
    assert rows["up to a day late"][0] == str(before.count(-5))
    assert sum(int(cells[0]) for cells in rows.values()) == len(pupils)
    middle = statistics.median(before)
    section = words(page.select_one("section[aria-labelledby=time]"))
    assert f"The middle one came {short(middle)} hours before the date due" in section
    assert "recorded nowhere and not guessed" in section
    stamped = {s.student: s.hours_before_due for s in data(course).students}
    assert stamped == {p.id: pytest.approx(p.hours_before) for p in pupils}


def test_without_timestamps_the_page_says_so(page):
    assert "No submission carries a timestamp" in words(page.select_one("#time").parent)


# --- the page over all assignments ----------------------------------------------------------------


@pytest.fixture(scope="module")
def course_page(tmp_path_factory: pytest.TempPathFactory, pupils: list[Pupil]) -> BeautifulSoup:
    course = write_course(tmp_path_factory.mktemp("whole") / "course", pupils)
    scores = {"ada": (8.0, 3.0), "ben": (None, 10.0), "kim": (5.0, None)}
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "llmr") as gradebook:
        for number, (name, due) in enumerate(
            (("tokenizer", "2025-10-01"), ("zeros", "2025-12-24"))
        ):
            gradebook.add_assignment(name, duedate=due)
            gradebook.add_notebook("n", name)
            gradebook.add_grade_cell("c", "n", name, max_score=10, cell_type="code")
            for student, given in scores.items():
                if given[number] is not None:
                    gradebook.add_submission(name, student)
                    grade = gradebook.find_grade("c", "n", name, student)
                    grade.auto_score, grade.needs_manual_grade = given[number], False
        gradebook.add_assignment("later", duedate="2026-01-01")
        gradebook.db.commit()
    report_on(course)
    return BeautifulSoup((course / "reports" / "index.html").read_text("utf-8"), "html.parser")


def test_assignments_stand_in_the_order_in_which_they_are_due(course_page):
    rows = table(course_page, "Assignments in the order")
    # attention has no date due: nbgrader puts it first
    assert list(rows) == ["attention", "tokenizer", "zeros"], "nothing is graded of the fourth"
    assert rows["tokenizer"][1:] == ["2", "10", "65 %"]
    assert course_page.find("a", string="attention")["href"] == "attention.html"


def test_everybodys_scores_over_the_course_are_in_the_table_and_in_the_line(course_page, pupils):
    rows = {
        re.match(r"\w+", k)[0]: v for k, v in table(course_page, "over the assignments").items()
    }
    assert set(rows) == {p.id for p in pupils}
    assert [" ".join(c.split()) for c in rows["ada"]] == [
        "",
        "12 100 %",
        "8 80 %",
        "3 30 %",
        "70 %",
    ]
    assert [" ".join(c.split()) for c in rows["ben"]][2:4] == ["–nothing graded", "10 100 %"]
    assert " ".join(rows["cleo"][1].split()).startswith("≥ at least 2.36")
    lines = {words(r.th).split()[0]: r.svg for r in course_page.select(".course tbody tr")}
    assert lines["ada"]["aria-label"] == "attention 100 %, tokenizer 80 %, zeros 30 %"
    heights = [float(c["cy"]) for c in lines["ada"].find_all("circle")]
    top, bottom = 4, 24
    assert heights == pytest.approx([bottom - share * (bottom - top) for share in (1, 0.8, 0.3)])
    assert len(lines["ada"].find_all("polyline")) == 1 and len(lines["ben"].find_all("circle")) == 2
    assert not lines["ben"].find_all("polyline"), "the line breaks where nothing is graded"


def test_who_falls_well_below_their_own_earlier_scores_is_named(course_page):
    fallen = [words(li) for li in course_page.select(".moved li")]
    assert fallen == ["ada Ada L.: −60 percentage points"]


def test_the_reports_lead_to_each_other(course, page):
    assert page.find("a", string="all assignments")["href"] == "index.html"
    assert (course / "reports" / "index.html").is_file()
    elsewhere = write_report(course, ASSIGNMENT, course / "elsewhere" / "a.html")
    assert "all assignments" not in elsewhere.read_text("utf-8")
    assert not (course / "elsewhere" / "index.html").exists()


def test_the_course_page_runs_nothing_and_asks_nobody(course_page):
    assert course_page.find_all(["script", "img", "iframe", "object"]) == []
    assert "default-src 'none'" in course_page.find("meta", attrs={"http-equiv": True})["content"]
    assert len({e["id"] for e in course_page.find_all(id=True)}) == len(
        course_page.find_all(id=True)
    )


# --- where there is nothing to say ----------------------------------------------------------------


def test_no_gradebook_is_one_sentence(tmp_path):
    with pytest.raises(
        NothingToReport, match=r"no gradebook\.db. Grade first: llmr grade attention"
    ):
        write_report(tmp_path, ASSIGNMENT, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_gradebook_is_one_sentence(tmp_path):
    (tmp_path / "gradebook.db").write_bytes(b"not a database" * 100)
    with pytest.raises(NothingToReport, match="cannot be read as a gradebook"):
        write_report(tmp_path, ASSIGNMENT, tmp_path / "r.html")


def test_an_unknown_assignment_names_those_that_exist(course, tmp_path):
    with pytest.raises(NothingToReport, match="no assignment 'attenton'; there are: attention"):
        write_report(course, "attenton", tmp_path / "r.html")


def test_nothing_graded_yet_is_one_sentence(tmp_path):
    course = write_course(
        tmp_path / "course", [Pupil("a", ungraded=True), Pupil("b", registered_only=True)]
    )
    with pytest.raises(NothingToReport, match="Nothing of 'attention' is graded yet"):
        write_report(course, ASSIGNMENT, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
