"""A student in JupyterLab and an instructor in formgrader, with mouse and keyboard."""

import re
import shutil

import pytest
from graded_course import RIGHT, WRONG, jupyterlab
from nbgrader.api import Gradebook
from playwright.sync_api import Locator, Page, expect

from llmr_ref import lab
from llmr_ref.grading import course as grading
from llmr_ref.grading import matrix
from llmr_ref.grading.exercises import assignment_exercises, get_exercise

# JupyterLab's own: services that a course server does not run, and favicons of its extensions.
LAB_NOISE = [r"favicon", r"/lsp/", r"404 \(Not Found\)"]


# One exercise of each: answered wrongly, then rightly, in Lab, and graded.
PATHS = {
    "attention": "causal_mask", "tokenizer": "merge_pair", "posttraining": "group_advantages",
}  # fmt: skip


@pytest.fixture(scope="module")
def course(graded_course, tmp_path_factory):
    """A copy: the manual question is graded in it, and a third student hands in."""
    copy = shutil.copytree(graded_course, tmp_path_factory.mktemp("lab") / "course")
    for assignment in PATHS:
        if not (copy / "release" / assignment).is_dir():
            grading.generate(copy, assignment)
        shutil.copytree(copy / "release" / assignment, copy / "mine" / assignment)
    return copy


@pytest.fixture(scope="module")
def server(course, tmp_path_factory):
    root = tmp_path_factory.mktemp("settings")
    with jupyterlab(course, lab.settings_folder(root)) as running:
        yield running


def cell_with(page: Page, text: str) -> Locator:
    return page.locator(".jp-Notebook .jp-CodeCell").filter(has=page.get_by_text(text)).first


def notebook_is_ready(page: Page) -> None:
    """Wait for its kernel: a cell that runs before makes Lab ask which kernel to take."""
    page.locator(".jp-Notebook").wait_for(timeout=60_000)
    expect(page.locator(".jp-KernelName")).to_contain_text("Python 3", timeout=60_000)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=60_000)


def run_cell(page: Page, cell: Locator) -> None:
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")


def write_answer(page: Page, cell: Locator, source: str) -> None:
    cell.wait_for(timeout=60_000)  # Lab draws a long notebook bit by bit
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(source)
    page.keyboard.press("Control+Enter")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_student_answers_wrongly_then_rightly_and_validates(server, open_page, theme):
    exercise = get_exercise("causal_mask")
    wrong = exercise.wrong_answers[0]
    # A workspace of its own: Lab opens again whatever was open in its default one.
    address = server.address(f"lab/workspaces/{theme}/tree/release/attention/attention.ipynb")
    with open_page(address, theme=theme, allow=LAB_NOISE) as page:
        notebook_is_ready(page)
        run_cell(page, cell_with(page, "from llmr_ref.grading import"))
        answer = cell_with(page, "def causal_mask")
        check = cell_with(page, '"causal_mask"')
        write_answer(page, answer, wrong.source("causal_mask"))
        run_cell(page, check)
        card = check.locator(".llmr-card")
        expect(card).to_contain_text("0 of 2 points", timeout=90_000)  # the kernel imports torch
        expect(card).to_contain_text(f"This answer {wrong.title}.")
        expect(card).to_contain_text("causal_mask(3)")
        expect(check.locator(".jp-OutputArea-executeResult")).to_contain_text("0.0")
        write_answer(page, answer, exercise.right_answers[1].source("causal_mask"))
        run_cell(page, check)
        expect(card).to_contain_text("2 of 2 points", timeout=15_000)
        expect(check.locator(".jp-OutputArea-executeResult")).to_contain_text("2.0")
        page.get_by_role("button", name="Validate").click()
        dialog = page.locator(".jp-Dialog")
        expect(dialog).to_contain_text(re.compile("validat", re.I), timeout=120_000)


@pytest.mark.parametrize("assignment, name", PATHS.items())
def test_a_student_goes_from_the_release_to_the_feedback(server, open_page, assignment, name):
    exercise, student = get_exercise(name), "learner"
    # One that fails the first property and so earns nothing.
    wrong = next(
        a for a in exercise.wrong_answers if matrix.verdicts(exercise, a)[0].score == 0.0
    )  # fmt: skip
    full = f"{exercise.points:g} of {exercise.points:g} points"
    mine = f"mine/{assignment}/{assignment}.ipynb"
    with open_page(
        server.address(f"lab/workspaces/{assignment}/tree/{mine}"), allow=LAB_NOISE
    ) as page:
        notebook_is_ready(page)
        run_cell(page, cell_with(page, "from llmr_ref.grading import"))
        answer, check = cell_with(page, f"def {name}"), cell_with(page, f'check("{name}")')
        write_answer(page, answer, wrong.source(name))
        run_cell(page, check)
        card = check.locator(".llmr-card")
        expect(card).to_contain_text(f"0 of {exercise.points:g} points", timeout=120_000)
        expect(card).to_contain_text(f"This answer {wrong.title}.")
        write_answer(page, answer, exercise.right_answers[0].source(name))
        run_cell(page, check)
        expect(card).to_contain_text(full, timeout=30_000)
        in_lab = card.locator("li").all_inner_texts()  # the properties; the foot says where it ran
        with page.expect_response(lambda r: mine in r.url and r.request.method == "PUT" and r.ok):
            page.keyboard.press("Control+s")
    handed_in = server.course / "submitted" / student / assignment
    shutil.copytree(server.course / "mine" / assignment, handed_in)
    shutil.rmtree(handed_in / ".ipynb_checkpoints", ignore_errors=True)
    for command in ("autograde", "generate_feedback"):
        grading.run_nbgrader(server.course, command, assignment, "--student", student)
    feedback = server.course / "feedback" / student / assignment / f"{assignment}.html"
    with open_page(feedback.as_uri()) as page:
        card = page.get_by_label(f"Result of {name}", exact=True)
        expect(card).to_contain_text(full)
        assert card.locator("li").all_inner_texts() == in_lab != []
        expect(page.locator(".llmr-card")).to_have_count(len(assignment_exercises(assignment)))
        expect(page.locator(".llmr-card").filter(has_text="Not attempted")).to_have_count(
            len(assignment_exercises(assignment)) - 1
        )
    # The next test counts who has handed in.
    shutil.rmtree(server.course / "submitted" / student)
    with Gradebook(f"sqlite:///{server.course}/gradebook.db") as gradebook:
        gradebook.remove_student(student)


def test_a_students_own_rotation_is_drawn_over_the_reference(server, open_page):
    exercise = get_exercise("apply_rope")
    backwards = next(a for a in exercise.wrong_answers if "opposite direction" in a.title)
    address = server.address("lab/workspaces/rotation/tree/release/attention/attention.ipynb")
    with open_page(address, allow=LAB_NOISE) as page:
        notebook_is_ready(page)
        run_cell(page, cell_with(page, "from llmr_ref.grading import"))
        write_answer(page, cell_with(page, "def apply_rope"), backwards.source("apply_rope"))
        run_cell(page, cell_with(page, "from llmr_ref.widgets import"))
        figure = cell_with(page, "RopeAngles(rotary=")
        run_cell(page, figure)
        note = figure.locator(".llmr-student")
        expect(note).to_contain_text("differ", timeout=60_000)
        for which in ("position m", "position n"):  # at position 0 nothing turns, either way
            figure.get_by_role("slider", name=re.compile(which, re.I)).fill("0")
        expect(note).to_contain_text("agrees", timeout=60_000)


def test_formgrader_shows_the_scores_and_grades_the_written_question(server, open_page):
    total = sum(e.points for e in assignment_exercises("attention"))
    gradebook_url = server.address("formgrader/gradebook/attention/attention")
    with open_page(server.address("tree"), allow=LAB_NOISE) as page:  # logs in
        page.goto(gradebook_url)
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(2, timeout=30_000)
        expect(page.locator("tbody")).to_contain_text(f"{total:g}")
        with Gradebook(f"sqlite:///{server.course}/gradebook.db") as gradebook:
            submission = gradebook.find_submission_notebook("attention", "attention", RIGHT)
            assert submission.score == total
            submission_id = submission.id
            wrong = gradebook.find_submission_notebook("attention", "attention", WRONG)
            assert wrong.score < total / 2
        page.goto(server.address(f"formgrader/submissions/{submission_id}"))
        expect(page.locator("math").first).to_be_visible(timeout=30_000)
        assert page.locator("mjx-container, script[src*=mathjax i], script[src*=tex-]").count() == 0
        # The page is ready when the scores have come from the database.
        expect(page.locator("input#check-softmax")).to_have_attribute("placeholder", "3")
        field = page.locator("input#cheating-model")
        field.scroll_into_view_if_needed()
        field.fill("2")
        with page.expect_response(lambda r: "/api/grade/" in r.url and r.ok):
            field.press("Tab")
    with Gradebook(f"sqlite:///{server.course}/gradebook.db") as gradebook:
        notebook = gradebook.find_submission_notebook("attention", "attention", RIGHT)
        assert [g.manual_score for g in notebook.grades if g.manual_score is not None] == [2.0]
        assert not notebook.needs_manual_grade
        assert notebook.score == total + 2


def test_the_feedback_page_asks_nobody_and_tells_the_score(course, open_page, axe):
    for student, phrase in ((RIGHT, "2 of 2 points"), (WRONG, "This answer")):
        page_file = course / "feedback" / student / "attention" / "attention.html"
        for theme, width in (("light", 1280), ("dark", 360)):
            with open_page(page_file.as_uri(), theme=theme, width=width) as page:
                cards = page.locator(".llmr-card")
                expect(cards).to_have_count(6)
                expect(page.locator("body")).to_contain_text(phrase)
                assert page.locator("script").count() == 0
                assert page.locator("math").count() > 5
                drawn = page.locator(".llmr-card svg[role=img][aria-label]")
                assert (drawn.count() > 3) == (student == WRONG)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                widest = cards.evaluate_all(
                    "c => Math.max(...c.map(x => x.scrollWidth - x.clientWidth))"
                )
                assert widest <= 1
                assert [line for line in axe(page) if "llmr-card" in line] == []
