"""Chapters in JupyterLab: their cells run from top to bottom, and their widgets answer there."""

import shutil

import pytest
from graded_course import jupyterlab
from playwright.sync_api import expect

from llmr_ref import lab
from llmr_ref.book import ROOT
from llmr_ref.grading.exercises import ASSIGNMENTS

# One of each part of the book.
CHAPTERS = [
    "language-models/tokenization",
    "attention/masking",
    "transformer/rope",
    "training/backprop",
    "using/sampling",
]
# JupyterLab's own: favicons of its extensions, and services that this server does not run.
NOISE = [r"favicon", r"/lsp/", r"404 \(Not Found\)"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The folder that `llmr lab` shows, on a copy of the book: Lab saves what it opens."""
    root = tmp_path_factory.mktemp("lab-chapters")
    shutil.copytree(ROOT / "book", root / "book")
    for assignment in ASSIGNMENTS:
        (root / "assignments" / "release" / assignment).mkdir(parents=True)
    folder = lab.student_folder(root, root / "assignments")
    with jupyterlab(folder, lab.settings_folder(root)) as running:
        yield running


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_and_its_widget_answers(server, open_page, chapter):
    name = chapter.split("/")[1]
    address = server.address(f"lab/workspaces/{name}/tree/chapters/{chapter}.ipynb")
    with open_page(address, allow=NOISE) as page:
        page.locator(".jp-Notebook").wait_for(timeout=60_000)
        expect(page.locator(".jp-KernelName")).to_contain_text("Python 3", timeout=60_000)
        indicator = page.locator(".jp-Notebook-ExecutionIndicator")
        expect(indicator).to_have_attribute("data-status", "idle", timeout=60_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        widget = page.locator(".jp-Notebook .llmr-root").first
        widget.wait_for(timeout=180_000)
        expect(indicator).to_have_attribute("data-status", "idle", timeout=180_000)
        widget.scroll_into_view_if_needed()
        assert not widget.get_by_role("alert").is_visible()
        story = widget.locator(".llmr-story")
        before = story.text_content() or ""
        assert len(before) > 40
        cases = widget.get_by_label("Start from a case", exact=True)
        stories = set()
        for case in cases.locator("option").evaluate_all("all => all.map((o) => o.value)"):
            if case:
                cases.select_option(case)
                stories.add(story.text_content())
        assert len(stories | {before}) >= 3
        slider = widget.locator("input[type=range]:visible").first
        if slider.count():
            was = slider.input_value()
            slider.press("ArrowLeft" if was == slider.get_attribute("max") else "ArrowRight")
            expect(slider).not_to_have_value(was)
        widget.get_by_role("button", name="Reset", exact=True).click()
        expect(story).to_have_text(before)
        assert not widget.get_by_role("alert").is_visible()
